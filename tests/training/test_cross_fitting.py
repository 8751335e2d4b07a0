"""Cross-fitting: models that each miss one fold say what the temperature is fitted on."""

import multiprocessing
import os
import shutil
import signal
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from experiments import planned, prepare_data, written
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from scipy.optimize import minimize_scalar
from sklearn.metrics import log_loss
from small_evaluation import shrink
from small_training import CPU, Watched, assert_same_weights

from attrreg.config import ConfigError, read_experiment
from attrreg.data.prepare import prepare as prepare_dataset
from attrreg.data.sources import read_pool
from attrreg.data.subsets import Subset, draw_subsets, read_subset
from attrreg.evaluation.scores import evaluate_shard
from attrreg.execution import Execution
from attrreg.interruption import Interrupted
from attrreg.method import build
from attrreg.protocol import Evaluation
from attrreg.recipe import Recipe, Selection
from attrreg.records import read_record
from attrreg.tables import collect
from attrreg.training import runs as training_runs
from attrreg.training.runs import prepare, train_shard

SIZE, FOLDS, STEPS = 42, 4, 16  # folds of 11, 11, 10 and 10 samples
LITTLE = Evaluation(
    orders=("random-pixels", "most-relevant-first"),
    fractions=(0.0, 0.5),
    measures=("training", "diversity"),
    gallery=2,
)
NOISY = {"name": "noisy", "base": "digits", "subset": {"label_noise": 0.3}}


def run_of(folds=FOLDS, method="baseline", size=SIZE, steps=STEPS, **changes):
    """Return the first run of a method, with cross-fitting or without."""
    given = {
        "grid.methods": ["baseline", *(each for each in [method] if each != "baseline")],
        "grid.train_sizes": [size],
        "recipe.steps": steps,
        "recipe.batch_size": 8,
        "recipe.selection": {} if folds is None else {"folds": folds},
    }
    return next(run for run in planned(given | changes).runs if run.method == method)


NOISE = {"grid.datasets": [NOISY]}
RUNS = {
    "baseline": (run_of(), run_of(None)),
    "reldrop on wrong labels": (
        run_of(method="reldrop-block", **NOISE),
        run_of(None, "reldrop-block", **NOISE),
    ),
}
NOISY_RUN, _ = RUNS["reldrop on wrong labels"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = prepare_data(tmp_path_factory.mktemp("data"))
    source = NOISY_RUN.source
    draw_subsets(folder, source, 0, read_pool(folder, source).images.y)
    return folder


@pytest.fixture(scope="module", params=RUNS)
def made(request, tmp_path_factory, data):
    """A run with cross-fitting and the same without, trained and evaluated in two folders."""
    folder, pair = tmp_path_factory.mktemp("cross-fitting"), RUNS[request.param]
    places = (folder / "folds", folder / "plain")
    for run, place in zip(pair, places, strict=True):
        assert train_shard([run], place, data, CPU) == {run: "made"}
        assert evaluate_shard([run], place, data, LITTLE, CPU) == {run: "made"}
    return pair[0], places, by_hand(pair[1], data)


def numbered(labels, folds):
    """Return the fold of every sample, dealt out class by class; -1 for one alone in its class."""
    numbers, dealt = np.full(len(labels), -1), 0
    for label in sorted(set(labels.tolist())):
        own = np.flatnonzero(labels == label)
        if len(own) > 1:
            numbers[own] = (dealt + np.arange(len(own))) % folds
            dealt += len(own)
    return numbers


def by_hand(plain, data):
    """Train the plain run on what is left of its samples, fold by fold; weights, logits, labels."""
    pool = read_pool(data, plain.source)
    subset = read_subset(data, plain.source, plain.seed, SIZE, pool.images.y)
    number = numbered(subset.labels, FOLDS)
    weights, logits, labels = [], [], []
    for fold in range(FOLDS):
        rest = Subset(*(each[number != fold] for each in subset))
        training = prepare(plain, pool, rest, CPU, Execution())
        training.run()
        weights.append(training.model.state_dict())
        x = pool.images.x[subset.indices[number == fold]] / 255
        with torch.no_grad():
            x = torch.tensor((x - pool.mean[0]) / pool.deviation[0], dtype=torch.float32)
            logits.append(training.model.eval()(x))
        labels.append(subset.labels[number == fold])
    return weights, torch.cat(logits).double().numpy(), np.concatenate(labels)


def weights(folder, run):
    return load_file(folder / "runs" / run.path / "weights.safetensors")


def record(folder, run):
    return read_record(folder / "runs" / run.path)


def scores(folder, run, table="metrics"):
    return pd.read_csv(folder / "scores" / run.path / f"{table}.csv")


def trained_on(monkeypatch, run, folder, data):
    """Train, and return for each of the models what its method was given at every step."""
    seen = []

    def spied(composition):
        mine = []
        seen.append(mine)

        def look(model, x, y, generator, state):
            mine.append((state, x.clone(), y.clone()))

        return Watched(build(composition), look)

    monkeypatch.setattr(training_runs, "build", spied)
    train_shard([run], folder, data, CPU)
    return seen


class TestTheRunItself:
    """It is what it would be without."""

    def test_its_weights_history_and_digest_are_those_without_folds(self, made):
        run, (folds, plain), _ = made
        assert_same_weights(weights(folds, run), weights(plain, run))
        histories = [(each / "runs" / run.path / "history.csv").read_text() for each in made[1]]
        assert histories[0] == histories[1]
        assert record(folds, run)["digest"] == record(plain, run)["digest"]
        assert record(folds, run)["steps"] == record(plain, run)["steps"] == STEPS

    def test_no_score_is_another_but_those_after_temperature_scaling(self, made):
        run, (folds, plain), _ = made
        found, expected = (scores(each, run).set_index("metric").value for each in (folds, plain))
        assert found.index.tolist() == expected.index.tolist()
        scaled = [name for name in found.index if name.endswith("-scaled")]
        rest = found.index.difference([*scaled, "temperature"])
        assert found[rest].equals(expected[rest])
        assert found["temperature"] != expected["temperature"]
        for name in ("curves.csv", "classes.csv", "predictions.safetensors", "maps.safetensors"):
            one, two = (each / "scores" / run.path / name for each in (folds, plain))
            assert one.read_bytes() == two.read_bytes(), name

    def test_without_folds_there_are_no_other_models(self, made):
        run, (folds, plain), _ = made
        names = {path.name for path in (folds / "runs" / run.path).parent.glob("s*")}
        assert names == {run.path.name, *(each.path.name for each in run.folds)}
        assert len(names) == FOLDS + 1
        assert len(list((plain / "runs" / run.path).parent.glob("s*"))) == 1


class TestFolds:
    """Each model begins as the run does and sees what is outside its fold, and nothing else."""

    def test_they_are_the_models_that_the_run_would_be_on_the_rest_of_its_samples(self, made):
        run, (folder, _), (expected, _, _) = made
        found = [weights(folder, each) for each in run.folds]
        for one, two in zip(found, expected, strict=True):
            assert_same_weights(one, two)
        assert len({tuple(each["fc.bias"].tolist()) for each in found}) == FOLDS

    def test_they_begin_with_the_weights_of_the_run_and_have_records_of_their_own(self, made):
        run, (folder, _), _ = made
        records = [record(folder, each) for each in (*run.folds, run)]
        assert len({each["initial_weights"] for each in records}) == 1
        assert len({each["digest"] for each in records}) == FOLDS + 1
        assert [each.get("fold") for each in records] == [*range(FOLDS), None]
        assert {each["subset"] for each in records} == {records[0]["subset"]}

    def test_every_sample_is_left_out_once_and_the_rest_is_trained_on(
        self, data, tmp_path, monkeypatch
    ):
        run = run_of(steps=12)
        pool = read_pool(data, "digits")
        subset = read_subset(data, "digits", 0, SIZE, pool.images.y)
        mean, deviation = float(pool.mean[0]), float(pool.deviation[0])
        by_image = {
            np.round(pool.images.x[each]).tobytes(): place
            for place, each in enumerate(subset.indices)
        }
        assert len(by_image) == SIZE
        *folds, whole = trained_on(monkeypatch, run, tmp_path, data)
        number = numbered(subset.labels, FOLDS)
        expected = [set(np.flatnonzero(number == fold).tolist()) for fold in range(FOLDS)]
        missed = []
        for steps in (*folds, whole):
            places = set()
            for state, x, y in steps:
                pixels = np.round((x.numpy() * deviation + mean) * 255).astype(np.uint8)
                found = [by_image[each.tobytes()] for each in pixels]
                assert np.array_equal(y.numpy(), subset.labels[found])
                places.update(found)
                left_out = len(expected[len(missed)]) if steps is not whole else 0
                assert state.size == SIZE - left_out
            missed.append(set(range(SIZE)) - places)
        assert missed == [*expected, set()]
        assert set.union(*missed) == set(range(SIZE))

    def test_nothing_of_other_splits_is_there_to_be_seen(self, data, tmp_path):
        bare = shutil.copytree(data, tmp_path / "data")
        for path in (bare / "digits" / "arrays").iterdir():
            if not path.name.startswith("pool"):
                path.unlink()
        run = run_of(steps=2)
        train_shard([run], tmp_path / "bare", bare, CPU)
        train_shard([run], tmp_path / "whole", data, CPU)
        for each in (*run.folds, run):
            assert_same_weights(weights(tmp_path / "bare", each), weights(tmp_path / "whole", each))

    def test_regions_go_with_their_samples(self, tmp_path, monkeypatch):
        shrink(monkeypatch)
        prepare_dataset(tmp_path, "shapes")
        pool = read_pool(tmp_path, "shapes").images
        draw_subsets(tmp_path, "shapes", 0, pool.y)
        changes = {"grid.datasets": ["shapes"], "recipe.batch_size": 4}
        run = run_of(2, "reldrop-block/oracle", 17, 3, **changes)
        subset = read_subset(tmp_path, "shapes", 0, 17, pool.y)
        assert len(np.unique(pool.region[subset.indices], axis=0)) > 1
        *folds, _ = trained_on(monkeypatch, run, tmp_path, tmp_path)
        for fold, steps in enumerate(folds):
            rest = subset.indices[numbered(subset.labels, 2) != fold]
            for state, _, y in steps:
                chosen = rest[state.indices.numpy()]
                assert np.array_equal(state.region.bool().numpy(), pool.region[chosen])
                assert np.array_equal(y.numpy(), pool.y[chosen])

    @given(st.integers(2, 20), st.lists(st.integers(0, 9), min_size=40, max_size=120))
    def test_folds_share_the_samples_out_and_no_class_is_left_out_whole(self, folds, labels):
        shares = [Selection(folds=folds).fold(labels, number) for number in range(folds)]
        dealt = sorted(each for share in shares for each in share)
        assert dealt == [at for at, label in enumerate(labels) if labels.count(label) > 1]
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
        for share in shares:
            rest = {label for at, label in enumerate(labels) if at not in share}
            assert rest == set(labels)

    def test_places_are_those_dealt_out_by_hand(self):
        labels = np.random.default_rng(0).integers(0, 12, 40)
        labels[7] = 99
        number = numbered(labels, 3)
        for fold in range(3):
            found = Selection(folds=3).fold(labels.tolist(), fold)
            assert found == np.flatnonzero(number == fold).tolist()

    @given(st.integers(2, 20), st.data())
    def test_more_folds_than_samples_are_refused(self, folds, drawn):
        size = drawn.draw(st.integers(0, folds - 1).filter(lambda each: each != 1))
        with pytest.raises(ValueError, match=f"{folds} folds, found {size} training samples"):
            Selection(folds=folds).fold([0] * size, folds - 1)


MATCHED = {"name": "as-long", "preset": "baseline", "budget": {"matched": "sgt"}}
EQUAL = {"grid.methods": ["baseline", "sgt", MATCHED]}


class TestOtherFolds:
    """Another number of folds is nothing to the run, and everything to its folds and scores."""

    @pytest.mark.parametrize("method", ["baseline", "as-long"])
    def test_the_run_is_kept_and_only_its_folds_are_trained(self, data, tmp_path, method):
        before, after = (run_of(each, method, steps=2, **EQUAL) for each in (FOLDS, 3))
        assert train_shard([before], tmp_path, data, CPU) == {before: "made"}
        path = tmp_path / "runs" / before.path / "weights.safetensors"
        time = path.stat().st_mtime_ns
        digests = [record(tmp_path, each)["digest"] for each in before.folds]
        assert train_shard([after], tmp_path, data, CPU) == {after: "kept"}
        assert path.stat().st_mtime_ns == time
        found = [record(tmp_path, each) for each in after.folds]
        assert len(found) == 3
        assert {each["status"] for each in found} == {"finished"}
        assert not {each["digest"] for each in found} & set(digests)

    def test_the_run_is_evaluated_again(self, data, tmp_path):
        regimes = []
        for folds in (FOLDS, 3, None, FOLDS):
            run = run_of(folds, steps=2)
            train_shard([run], tmp_path, data, CPU)
            assert evaluate_shard([run], tmp_path, data, LITTLE, CPU) == {run: "made"}
            assert evaluate_shard([run], tmp_path, data, LITTLE, CPU) == {run: "kept"}
            regimes += scores(tmp_path, run, "reliability").regime.unique().tolist()
        assert regimes == [*["cross-fitting"] * 2, "validation split", "cross-fitting"]

    @pytest.mark.parametrize("changes", [{}, EQUAL])
    def test_the_plan_sees_other_shards_of_the_same_runs(self, changes):
        plans = [
            planned({"recipe.selection": selection} | changes)
            for selection in ({"folds": 4}, {"folds": 3}, {})
        ]
        assert len({tuple(run.intent for run in plan.runs) for plan in plans}) == 1
        for shards in zip(*(plan.shards for plan in plans), strict=True):
            assert len({shard.digest for shard in shards}) == 3
        four, three, _ = ([part for run in plan.runs for part in run.folds] for plan in plans)
        assert not {part.intent for part in four} & {part.intent for part in three}
        assert len({part.intent for part in four}) == len(four)

    @pytest.mark.parametrize("selection", [{"held_back": 0.2}, {"name": "best"}])
    def test_a_share_that_is_held_back_is_another_run(self, selection):
        held_back = run_of(None, **{"recipe.selection": selection})
        assert held_back.intent != run_of(None).intent


class TestTemperature:
    """It is that of the pooled logits of samples which a model has not seen."""

    def test_it_minimises_the_loss_on_all_folds_together(self, made):
        run, (folder, _), (_, logits, labels) = made

        def loss(logarithm):
            scaled = logits / np.exp(logarithm)
            probabilities = np.exp(scaled - scaled.max(1, keepdims=True))
            probabilities /= probabilities.sum(1, keepdims=True)
            return log_loss(labels, probabilities, labels=np.arange(10))

        best = minimize_scalar(loss, bounds=(-5, 5), method="bounded", options={"xatol": 1e-9})
        assert abs(best.x) < 4.9  # a minimum, no end of the search
        found = scores(folder, run).set_index("metric").value["temperature"]
        assert found == pytest.approx(np.exp(best.x), rel=1e-4)

    def test_labels_are_those_that_the_run_was_given(self, data):
        pool = read_pool(data, NOISY_RUN.source).images
        subset = read_subset(data, NOISY_RUN.source, 0, SIZE, pool.y)
        assert 0.1 < (subset.labels != pool.y[subset.indices]).mean() < 0.6

    @pytest.mark.parametrize("selection", [{"name": "best"}, {"held_back": 0.2}])
    def test_a_share_that_is_held_back_is_another_regime(self, selection, data, tmp_path):
        run = run_of(None, steps=2, **{"recipe.selection": selection})
        assert run.recipe.selection.regime == "held back"
        train_shard([run], tmp_path, data, CPU)
        evaluate_shard([run], tmp_path, data, LITTLE, CPU)
        assert set(scores(tmp_path, run, "reliability").regime) == {"held back"}

    def test_the_table_names_the_regime(self, made):
        run, (folds, plain), _ = made
        assert set(scores(folds, run, "reliability").regime) == {"cross-fitting"}
        assert run.recipe.selection.regime == "cross-fitting"
        assert set(scores(plain, run, "reliability").regime) == {"validation split"}
        assert Selection().regime == "validation split"

    def test_the_unscaled_diagram_is_the_same_under_every_regime(self, made):
        run, places, _ = made
        one, two = (scores(each, run, "reliability") for each in places)
        one, two = (each[~each.scaled].drop(columns="regime") for each in (one, two))
        assert len(one) == LITTLE.bins
        assert one.equals(two)


class TestGoingOn:
    """What is done is done: folds that have ended are kept, the one that was cut short goes on."""

    STEPS = 6
    STORING = Execution(checkpoint_seconds=0)

    @staticmethod
    def times(run, folder):
        places = [folder / "runs" / each.path / "weights.safetensors" for each in run.folds]
        return [each.stat().st_mtime_ns for each in places if each.exists()]

    def killed(self, run, folder, data, at):
        def report(run, step, steps):
            if step == at:
                os.kill(os.getpid(), signal.SIGKILL)

        def work():
            train_shard([run], folder, data, CPU, report=report, execution=self.STORING)

        process = multiprocessing.get_context("fork").Process(target=work)
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL

    def test_a_shard_that_is_killed_in_a_fold_goes_on_there(self, data, tmp_path):
        run = run_of(method="random-erasing", steps=self.STEPS)
        self.killed(run, tmp_path / "killed", data, 2 * self.STEPS + 4)
        before = self.times(run, tmp_path / "killed")
        assert len(before) == 2
        assert record(tmp_path / "killed", run) is None
        assert train_shard([run], tmp_path / "killed", data, CPU) == {run: "made"}
        assert self.times(run, tmp_path / "killed")[:2] == before
        resumed = [record(tmp_path / "killed", each)["resumed_at"] for each in (*run.folds, run)]
        assert resumed == [0, 0, 3, 0, 0]
        train_shard([run], tmp_path / "whole", data, CPU)
        for each in (*run.folds, run):
            found, expected = (weights(tmp_path / name, each) for name in ("killed", "whole"))
            assert_same_weights(found, expected)
        left = {path.name for path in (tmp_path / "killed" / "runs" / run.path).parent.iterdir()}
        assert not any("checkpoint" in name or "partial" in name for name in left)

    def test_a_shard_that_is_killed_in_the_run_itself_trains_no_fold_again(self, data, tmp_path):
        run = run_of(steps=self.STEPS)
        self.killed(run, tmp_path, data, 4 * self.STEPS + 3)
        before = self.times(run, tmp_path)
        assert len(before) == FOLDS
        train_shard([run], tmp_path, data, CPU)
        assert self.times(run, tmp_path) == before
        assert record(tmp_path, run)["resumed_at"] == 2

    def test_a_signal_at_the_end_of_a_fold_stops_before_the_next(self, data, tmp_path):
        run = run_of(steps=2)

        def report(run, step, steps):
            if step == 2:
                signal.raise_signal(signal.SIGTERM)

        with pytest.raises(Interrupted, match=r"SIGTERM: stopped before .* fold=1;"):
            train_shard([run], tmp_path, data, CPU, report=report)
        assert [record(tmp_path, each) is not None for each in run.folds] == [True, *[False] * 3]

    def test_what_has_ended_is_kept(self, made, data):
        run, (folder, _), _ = made
        before = self.times(run, folder)
        assert train_shard([run], folder, data, CPU) == {run: "kept"}
        assert evaluate_shard([run], folder, data, LITTLE, CPU) == {run: "kept"}
        assert self.times(run, folder) == before


class TestProgress:
    """The steps of all models are counted as one work, that of the run."""

    @staticmethod
    def reports(run, folder, data):
        found = []
        train_shard([run], folder, data, CPU, report=lambda *said: found.append(said))
        assert {each for each, _, _ in found} == {run}
        return [(done, total) for _, done, total in found]

    def test_every_step_is_counted_once(self, data, tmp_path):
        run = run_of(steps=2)
        total = run.recipe.all_steps(SIZE)
        assert total == 2 * (FOLDS + 1)
        found = self.reports(run, tmp_path, data)
        assert found == [(step, total) for step in range(1, total + 1)]

    def test_where_folds_are_shorter_than_the_run_the_count_and_its_share_rise(
        self, data, tmp_path
    ):
        run = run_of(**{"recipe": {"epochs": 2, "batch_size": 8, "selection": {"folds": FOLDS}}})
        found = self.reports(run, tmp_path, data)
        done = [step for step, _ in found]
        shares = [step / steps for step, steps in found]
        assert done == sorted(set(done))
        assert shares == sorted(set(shares))
        assert shares[-1] == 1
        steps = [record(tmp_path, each)["steps"] for each in (*run.folds, run)]
        assert steps == [8, 8, 8, 8, 11]  # 31 and 32 samples, and all 42
        assert len(found) == sum(steps) == run.recipe.all_steps(SIZE)

    def test_folds_that_were_done_before_are_counted_as_done(self, data, tmp_path):
        run = run_of(steps=2)
        train_shard([run], tmp_path, data, CPU)
        shutil.rmtree(tmp_path / "runs" / run.path)
        assert self.reports(run, tmp_path, data) == [(9, 10), (10, 10)]


class TestFailures:
    """A fold that fails is missed by the evaluation, and by nothing else."""

    FAILED = 2

    @pytest.fixture
    def broken(self, data, tmp_path, monkeypatch):
        """Train two runs; the third model of the first has an error."""
        built = []

        def break_one(composition):
            def fail(*given):
                raise ZeroDivisionError("oh")

            built.append(composition)
            is_broken = len(built) == self.FAILED + 1
            return Watched(build(composition), fail if is_broken else lambda *given: None)

        runs = [run_of(steps=2), run_of(method="sgt", steps=2)]
        monkeypatch.setattr(training_runs, "build", break_one)
        outcomes = train_shard(runs, tmp_path, data, CPU)
        monkeypatch.setattr(training_runs, "build", build)
        return runs, tmp_path, outcomes

    def test_the_run_and_its_siblings_are_trained(self, broken):
        runs, folder, outcomes = broken
        assert outcomes == dict.fromkeys(runs, "made")
        states = [record(folder, each)["status"] for each in (*runs[0].folds, runs[0])]
        assert states == ["finished"] * 2 + ["failed"] + ["finished"] * 2

    def test_the_evaluation_fails_and_its_message_names_the_fold(self, broken, data):
        (failed, other), folder, _ = broken
        outcomes = evaluate_shard([failed, other], folder, data, LITTLE, CPU)
        assert outcomes == {failed: "failed", other: "made"}
        message = read_record(folder / "scores" / failed.path)["message"]
        for said in ("cross-fitting", f"fold {self.FAILED}", "was not trained", "oh"):
            assert said in message
        assert not (folder / "scores" / failed.path / "metrics.csv").exists()
        collect([failed, other], folder)
        failures = pd.read_csv(folder / "tables" / "failures.csv")
        assert failures[["method", "stage"]].to_numpy().tolist() == [["baseline", "evaluation"]]
        assert f"fold {self.FAILED}" in failures.message[0]

    def test_once_the_fold_is_trained_the_run_is_evaluated_and_not_trained_again(
        self, broken, data
    ):
        (failed, _), folder, _ = broken
        evaluate_shard([failed], folder, data, LITTLE, CPU)
        assert train_shard([failed], folder, data, CPU) == {failed: "kept"}
        assert evaluate_shard([failed], folder, data, LITTLE, CPU) == {failed: "failed before"}
        assert train_shard([failed], folder, data, CPU, retry_failed=True) == {failed: "kept"}
        assert evaluate_shard([failed], folder, data, LITTLE, CPU) == {failed: "made"}

    def test_a_fold_that_is_not_there_is_named_as_well(self, made, data, tmp_path):
        run, (folder, _), _ = made
        copied = shutil.copytree(folder, tmp_path / "copied")
        shutil.rmtree(copied / "runs" / run.folds[1].path)
        assert evaluate_shard([run], copied, data, LITTLE, CPU) == {run: "failed"}
        message = read_record(copied / "scores" / run.path)["message"]
        assert "fold 1" in message
        assert "missing" in message


def test_what_cross_fitting_costs_stands_beside_what_the_run_costs(made):
    run, (folds, plain), _ = made
    seconds = [record(folds, each)["cost"]["training_seconds"] for each in run.folds]
    tables = []
    for folder, recipe in ((folds, run.recipe), (plain, Recipe(steps=STEPS))):
        collect([replace(run, recipe=recipe)], folder)
        tables.append(pd.read_csv(folder / "tables" / "cost.csv").set_index("metric").value)
    assert tables[0]["cross_fitting_seconds"] == pytest.approx(sum(seconds))
    own = record(folds, run)["cost"]["training_seconds"]
    assert tables[0]["training_seconds"] == pytest.approx(own)
    assert "cross_fitting_seconds" not in tables[1].index


@pytest.mark.parametrize("why", ["failed", "missing"])
def test_what_cross_fitting_costs_is_not_told_of_a_part_of_its_models(made, tmp_path, why):
    run, (folder, _), _ = made
    copied = shutil.copytree(folder, tmp_path / "copied")
    place = copied / "runs" / run.folds[1].path
    if why == "failed":
        text = (place / "run.json").read_text()
        (place / "run.json").write_text(text.replace('"finished"', '"failed"'))
    else:
        shutil.rmtree(place)
    collect([run], copied)
    found = pd.read_csv(copied / "tables" / "cost.csv").metric
    assert "cross_fitting_seconds" not in set(found)
    assert "training_seconds" in set(found)


WRONG = {
    "folds and a share": (
        {"recipe.selection": {"folds": 4, "held_back": 0.2}},
        ["recipe.selection", "folds: 4", "held_back: 0.2", "one of them"],
    ),
    "folds and the best weights": (
        {"recipe.selection": {"folds": 4, "name": "best"}},
        ["recipe.selection", "folds: 4", "name: best", "one of them"],
    ),
    "folds of a method beside a share of all": (
        {
            "recipe.selection": {"held_back": 0.2},
            "grid.methods": [
                "baseline",
                {"name": "own", "preset": "sgt", "recipe": {"selection": {"folds": 4}}},
            ],
        },
        ["'own'", "recipe.selection", "folds: 4", "held_back: 0.2"],
    ),
    "one fold": ({"recipe.selection": {"folds": 1}}, ["recipe.selection.folds", "1", "2"]),
    "half a fold": ({"recipe.selection": {"folds": 2.5}}, ["recipe.selection.folds", "2.5"]),
    "more folds than samples": (
        {"recipe.selection": {"folds": 20}, "grid.train_sizes": [10]},
        ["20 folds", "train_sizes 10", "at least 20"],
    ),
    "too few samples for the classes": (
        {"recipe.selection": {"folds": 4}, "grid.train_sizes": [13, 100]},
        ["recipe.selection", "4 folds", "'digits'", "10 classes", "train_sizes 13", "at least 20"],
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_cross_fitted_is_refused_in_a_line(name, tmp_path):
    changes, said = WRONG[name]
    with pytest.raises(ConfigError) as caught:
        read_experiment(written(tmp_path, changes))
    message = str(caught.value)
    assert "\n" not in message
    for words in said:
        assert words in message, message


@pytest.mark.parametrize("folds", [2, 5, 20])
def test_two_samples_per_class_are_enough(folds):
    assert len(run_of(folds, size=20).folds) == folds


def test_models_of_a_matched_length_train_for_what_a_fold_of_the_other_would_cost(data, tmp_path):
    recipe = {"epochs": 2, "batch_size": 8, "selection": {"folds": FOLDS}}
    changes = EQUAL | {"recipe": recipe}
    run = next(
        each
        for each in planned({"grid.train_sizes": [SIZE]} | changes).runs
        if each.method == "as-long"
    )
    train_shard([run], tmp_path, data, CPU)
    ratio = record(tmp_path, run)["budget"]["ratio"]
    steps = [record(tmp_path, each)["steps"] for each in (*run.folds, run)]
    assert steps == [round(ratio * each) for each in (8, 8, 8, 8, 11)]
