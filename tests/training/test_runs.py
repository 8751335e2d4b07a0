"""A shard: every run once, paired by seed, failures recorded, and nothing but the pool seen."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from experiments import planned, prepare_data
from safetensors.torch import load_file

from attrreg.data.sources import read_pool
from attrreg.data.subsets import read_subset, subset_path
from attrreg.machine import choose_device
from attrreg.method import build
from attrreg.objective import Loss
from attrreg.provenance import array_digest
from attrreg.records import read_record
from attrreg.training import runs as training
from attrreg.training.runs import build_model, train_shard

CPU = torch.device("cpu")
METHODS = ["baseline", "random-erasing", "reldrop-block", "reldrop-block/swapped", "sgt"]
SMALL = {"grid.methods": [*METHODS, "challenger"], "recipe.batch_size": 8}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data):
    """All methods at two seeds: the runs, and the folder in which they lie."""
    folder, runs = tmp_path_factory.mktemp("tiny"), planned(SMALL).runs
    outcomes = train_shard(runs, folder, data, CPU)
    assert set(outcomes.values()) == {"made"}
    return runs, folder


def record(folder, run):
    return read_record(folder / "runs" / run.path)


def weights(folder, run):
    return load_file(folder / "runs" / run.path / "weights.safetensors")


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


class FirstSteps:
    """Looks at what a method is given, and lets it work."""

    def __init__(self, method, seen):
        self.method, self.seen = method, seen

    def loss(self, model, x, y, *, generator, state):
        self.seen.append((state.indices.clone(), x.clone(), y.clone()))
        return self.method.loss(model, x, y, generator=generator, state=state)


class Broken:
    """A method whose loss is not a number, or whose code is wrong."""

    def __init__(self, error=None):
        self.error = error

    def loss(self, model, x, y, *, generator, state):
        if self.error is not None:
            raise self.error
        return Loss(model(x).sum() * torch.nan, {})


class TestPaired:
    """At one (dataset, train_size, seed) methods differ in nothing but the method."""

    def test_initial_weights_and_subsets_are_the_same_for_all_methods(self, trained):
        runs, folder = trained
        for seed in (0, 1):
            records = [record(folder, run) for run in runs if run.seed == seed]
            assert len(records) == len(METHODS) + 1
            for key in ("initial_weights", "subset"):
                assert len({each[key] for each in records}) == 1

    @pytest.mark.parametrize("key", ["initial_weights", "subset", "digest"])
    def test_and_differ_between_seeds(self, trained, key):
        runs, folder = trained
        of_baseline = [record(folder, run)[key] for run in runs if run.method == "baseline"]
        assert len(set(of_baseline)) == 2

    def test_batches_are_the_same_for_all_methods(self, data, tmp_path, monkeypatch):
        seen = {}

        def spied(composition):
            return FirstSteps(build(composition), seen.setdefault(composition, []))

        monkeypatch.setattr(training, "build", spied)
        plan = planned(SMALL | {"recipe.augmentation": {"crop_padding": 1, "flip": True}})
        train_shard([run for run in plan.runs if run.seed == 0], tmp_path, data, CPU)
        first, *others = seen.values()
        assert len(others) == len(METHODS)
        for other in others:
            for one, two in zip(first, other, strict=True):
                assert all(map(torch.equal, one, two))

    def test_methods_end_with_weights_of_their_own(self, trained):
        runs, folder = trained
        first, *others = [weights(folder, run) for run in runs if run.seed == 0]
        assert not any(same(first, other) for other in others)

    def test_building_a_model_leaves_the_random_state_alone(self):
        torch.manual_seed(5)
        expected = torch.rand(3)
        torch.manual_seed(5)
        build_model(planned().runs[0], CPU)
        assert torch.equal(torch.rand(3), expected)


class TestRun:
    """What a run leaves behind, and that it can be made again to the bit."""

    def test_it_leaves_weights_history_and_a_record(self, trained):
        runs, folder = trained
        for run in runs:
            place = folder / "runs" / run.path
            names = {path.name for path in place.iterdir()}
            assert names == {"run.json", "history.csv", "weights.safetensors"}
            said, history = record(folder, run), pd.read_csv(place / "history.csv")
            assert {key: said[key] for key in run.key} == run.key
            assert said["steps"] == history.step.iloc[-1] == 3
            assert said["parameters"] == sum(
                parameter.numel() for parameter in build_model(run, CPU).parameters()
            )
            assert said["cost"]["seconds_per_step"] > 0
            assert np.isfinite(history.to_numpy()).all()

    def test_guided_runs_say_how_much_they_changed(self, trained):
        runs, folder = trained
        for run in runs:
            cost = record(folder, run)["cost"]
            assert ("masked_area" in cost) == (run.composition.perturbation is not None)
            assert 0 <= cost.get("masked_area", 0) <= 1

    def test_again_gives_the_same_bits(self, trained, data, tmp_path):
        runs, folder = trained
        some = [run for run in runs if run.seed == 1 and run.method != "baseline"]
        train_shard(some, tmp_path, data, CPU)
        for run in some:
            assert same(weights(folder, run), weights(tmp_path, run))

    def test_it_is_not_trained_again(self, trained, data):
        runs, folder = trained
        times = {run: (folder / "runs" / run.path).stat().st_mtime_ns for run in runs}
        assert set(train_shard(runs, folder, data, CPU).values()) == {"kept"}
        assert times == {run: (folder / "runs" / run.path).stat().st_mtime_ns for run in runs}

    def test_another_subset_trains_again_what_it_concerns(self, trained, data, tmp_path):
        runs, folder = trained
        results, other = tmp_path / "results", tmp_path / "data"
        shutil.copytree(folder, results)
        shutil.copytree(data, other)
        path = subset_path(other, "digits", 0)
        drawn = json.loads(path.read_text())
        drawn["order"] = drawn["order"][::-1]
        drawn["digest"] = array_digest(np.array(drawn["order"]))
        path.write_text(json.dumps(drawn))
        some = [run for run in runs if run.method == "baseline"]
        outcomes = train_shard(some, results, other, CPU)
        assert {run.seed: outcome for run, outcome in outcomes.items()} == {0: "made", 1: "kept"}


class TestFailures:
    """A run that fails is a record; the others go on."""

    @pytest.fixture
    def broken(self, monkeypatch):
        def break_method(name, error=None):
            def built(composition):
                wanted = planned(SMALL).experiment.compositions()[name]
                return Broken(error) if composition == wanted else build(composition)

            monkeypatch.setattr(training, "build", built)

        return break_method

    @pytest.mark.parametrize(
        ("error", "said"), [(None, "Diverged"), (ZeroDivisionError("oh"), "ZeroDivisionError")]
    )
    def test_siblings_go_on(self, data, tmp_path, broken, error, said):
        broken("random-erasing", error)
        runs = [run for run in planned(SMALL).runs if run.seed == 0]
        outcomes = {run.method: how for run, how in train_shard(runs, tmp_path, data, CPU).items()}
        assert outcomes.pop("random-erasing") == "failed"
        assert set(outcomes.values()) == {"made"}
        [failed] = [run for run in runs if run.method == "random-erasing"]
        assert record(tmp_path, failed)["error"] == said
        assert record(tmp_path, failed)["traceback"].startswith("Traceback")

    def test_it_is_tried_again_when_asked(self, data, tmp_path, broken, monkeypatch):
        runs = planned(SMALL).runs[:1]
        broken("baseline")
        assert list(train_shard(runs, tmp_path, data, CPU).values()) == ["failed"]
        monkeypatch.setattr(training, "build", build)
        assert list(train_shard(runs, tmp_path, data, CPU).values()) == ["failed before"]
        assert list(train_shard(runs, tmp_path, data, CPU, True).values()) == ["made"]

    def test_an_interruption_leaves_the_finished_runs(self, data, tmp_path, broken):
        broken("reldrop-block", KeyboardInterrupt())
        runs = [run for run in planned(SMALL).runs if run.seed == 0]
        with pytest.raises(KeyboardInterrupt):
            train_shard(runs, tmp_path, data, CPU)
        left = {path.parent for path in tmp_path.rglob("run.json")}
        assert left == {tmp_path / "runs" / run.path for run in runs[:2]}
        assert not list(tmp_path.rglob("*.partial*"))


class TestDataSeen:
    """Training opens its pool and its subset, and could not reach the rest if it wanted."""

    def test_it_trains_where_nothing_else_lies(self, data, tmp_path, trained):
        runs, folder = trained
        bare = tmp_path / "data"
        shutil.copytree(data, bare)
        for path in (bare / "digits" / "arrays").iterdir():
            if not path.name.startswith("pool"):
                path.unlink()
        train_shard(runs[:1], tmp_path, bare, CPU)
        assert same(weights(tmp_path, runs[0]), weights(folder, runs[0]))

    def test_it_sees_its_subset_and_nothing_else(self, data, tmp_path, monkeypatch):
        seen = []
        monkeypatch.setattr(
            training, "build", lambda composition: FirstSteps(build(composition), seen)
        )
        run = planned({"recipe.steps": 10, "recipe.batch_size": 5}).runs[0]
        train_shard([run], tmp_path, data, CPU)
        pool = read_pool(data, "digits")
        subset = read_subset(data, "digits", run.seed, run.train_size, pool.images.y).indices
        mean, deviation = float(pool.mean[0]), float(pool.deviation[0])
        for indices, x, y in seen:
            chosen = subset[indices.numpy()]
            assert np.array_equal(y.numpy(), pool.images.y[chosen])
            expected = (pool.images.x[chosen] / 255 - mean) / deviation
            assert x.numpy() == pytest.approx(expected, abs=1e-5)
        assert {int(each) for indices, _, _ in seen for each in indices} == set(range(20))


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="no GPU: use 'auto' or 'cpu'"):
        choose_device("cuda")
    assert choose_device("auto") == choose_device("cpu") == CPU
