"""Crossed maps: every model under the map of every other, at the same place of the grid."""

import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from experiments import planned, prepare_data, written
from safetensors.torch import load_file, save_file
from small_evaluation import CPU, linear, looking_at, subject_of

from attrreg.columns import KEYS, TABLES
from attrreg.config import ConfigError, Experiment, read_experiment
from attrreg.crossing import crossed_metrics, effects
from attrreg.evaluation.faithfulness import symmetric_relevance_gain
from attrreg.evaluation.map_measures import crossed
from attrreg.evaluation.scores import evaluate_shard
from attrreg.evaluation.subject import HeldOut
from attrreg.plan import crossed_runs, evaluated_after
from attrreg.protocol import Evaluation
from attrreg.records import read_record
from attrreg.tables import collect
from attrreg.training.runs import build_model, train_shard

METHODS = ("baseline", "sgt", "challenger")
GRID = {"grid.methods": [*METHODS, "reldrop-block"], "recipe.steps": 2}
RUNS = {run.method: run for run in planned(GRID).runs if run.seed == 0}
METRICS = {"occlusion-crossed", "srg-crossed"}
HALVES = {"fractions": (0.0, 0.5), "fill": "zero", "rule": "lrp-0", "profile": "full"}
LITTLE = Evaluation(
    orders=("random-pixels",),
    fractions=(0.0, 0.5),
    measures=(),
    gallery=1,
    samples=20,
    crossed=METHODS,
)
FRACTIONS = (0.0, 0.1, 0.3, 0.7)
SOME = {"fractions": FRACTIONS, "rule": "lrp-0", "fill": "zero", "samples": 60}
WIDE = {
    "grid.methods": [*METHODS, "reldrop-block"],
    "grid.models": ["resnet10-narrow", {"name": "wide", "base": "resnet18"}],
    "grid.train_sizes": [20, 50],
    "evaluation.crossed": ["sgt", "baseline", "challenger"],
    "execution.shard_seconds": 1e-3,  # a shard for every cell
}
THREE = {
    "grid.methods": ["baseline", "reldrop-block", "sgt"],
    "evaluation.crossed": ["baseline", "reldrop-block", "sgt"],
}
PLAN = planned(GRID | {"evaluation": LITTLE.model_dump(mode="json")})


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def fitted(data):
    """By method a linear model of the digits, each fitted to other test samples."""
    x, y = HeldOut.on(CPU, data, RUNS["baseline"].source).splits["test"]
    models = {}
    for number, name in enumerate(METHODS):
        some = slice(100 * number, 100 * number + 100)
        wanted = torch.nn.functional.one_hot(y[some], 10).double()
        flat = x[some].flatten(1).double()
        weight = torch.linalg.lstsq(flat, wanted, driver="gelsd").solution
        noise = 0.01 * torch.randn(10, 64, generator=torch.Generator().manual_seed(number))
        models[name] = linear(weight.T.float() + noise)  # so that no two features are alike
    return models


def evaluations(data, models, **settings):
    """Return by method what an evaluation of its model looks at, the others beside it."""
    return {
        name: replace(
            subject_of(data, RUNS[name], model, crossed=tuple(models), **settings),
            others={other: partial(models.get, other) for other in models if other != name},
        )
        for name, model in models.items()
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("trained")
    train_shard(PLAN.runs, folder, data, CPU)
    return folder


def together(found):
    """Return by metric and method what the rows of all methods give together."""
    parts = [pd.DataFrame(rows).assign(**RUNS[name].key) for name, rows in found.items()]
    table = crossed_metrics(pd.concat(parts))
    return table.set_index(["metric", "method"])["value"].to_dict()


def curves(tables):
    """Return by map and side the accuracies of the table, in its order of fractions."""
    found = {}
    for row in tables["cross"]:
        found.setdefault((row["map_of"], row["first"]), []).append(row["accuracy"])
    return found


def mean_height(values, fractions):
    """Return the mean height of a curve, by trapezoids."""
    return np.trapezoid(values, fractions) / np.ptp(fractions)


def by_loop(model, x, y, maps, fractions, sign):
    """Return accuracies while features go in the order of a map, most first or least, fill 0."""
    accuracies = []
    for share in fractions:
        correct = 0
        for sample, label, values in zip(x, y, maps, strict=True):
            flat, order = sample.flatten().clone(), (sign * values).flatten().tolist()
            first = sorted(range(64), key=lambda place, order=order: -order[place])
            flat[first[: round(share * 64)]] = 0
            correct += int(model(flat.view(1, *sample.shape)).argmax()) == int(label)
        accuracies.append(correct / len(x))
    return accuracies


@pytest.fixture(scope="module")
def found(data, fitted):
    """What is found under values that are random, and under 0."""
    results = {}
    for fill in ("zero", "noise"):
        subjects = evaluations(data, fitted, **(SOME | {"fill": fill}))
        results[fill] = {name: (each, *crossed(each)) for name, each in subjects.items()}
    return results


class TestHalves:
    """Models that read a half of an image, or all of it: with any of it they are right."""

    @staticmethod
    def reading(part):
        """Return a model that reads the left, the right or all; it says 2 if nothing is there."""
        there = torch.zeros(8, 8)
        there[:, :4] = part in ("left", "all")
        there[:, 4:] = part in ("right", "all")
        weight = torch.zeros(10, 64)
        weight[0], weight[1] = -there.flatten(), there.flatten()
        return linear(weight, torch.tensor([0.0, 0.0, 0.1, *[-100.0] * 7]))

    @staticmethod
    def samples(wrong=0):
        """Return images of 1 or of −1 and their labels, some of which no model ever says."""
        y = torch.arange(20) % 2
        x = (2.0 * y - 1).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).clone()
        return x, torch.where(torch.arange(20) < wrong, 3, y)

    def found(self, data, parts, wrong=0):
        """Return by method the rows."""
        models = {name: self.reading(part) for name, part in parts.items()}
        subjects = evaluations(data, models, **HALVES)
        samples = self.samples(wrong)
        found = {name: crossed(looking_at(each, *samples)) for name, each in subjects.items()}
        assert [metrics for metrics, _ in found.values()] == [{}] * len(found)
        return {name: tables["cross"] for name, (_, tables) in found.items()}

    def test_under_the_map_of_a_model_that_reads_the_other_half_nothing_is_lost(self, data):
        halves = {"baseline": "left", "sgt": "right", "challenger": "left"}
        for own, rows in self.found(data, halves).items():
            assert curves({"cross": rows}) == {
                (other, side): [1, int((halves[own] == half) == (side == "least"))]
                for other, half in halves.items()
                for side in ("most", "least")
            }

    @pytest.mark.parametrize("wrong", [0, 10])
    def test_the_model_that_reads_all_is_robust_and_its_map_tells_nothing(self, data, wrong):
        """Areas are not divided by the clean accuracy."""
        parts = {"baseline": "left", "sgt": "left", "challenger": "all"}
        found = together(self.found(data, parts, wrong))
        # of the pairs half and half the area is ½ and the gain ½, of all others 1 and 0
        robust = {"baseline": 2 / 3, "sgt": 2 / 3, "challenger": 7 / 6}
        faithful = {"baseline": 1 / 3, "sgt": 1 / 3, "challenger": -1 / 6}
        clean = 1 - wrong / 20
        assert found == pytest.approx(
            {("occlusion-crossed", name): clean * value for name, value in robust.items()}
            | {("srg-crossed", name): clean * value for name, value in faithful.items()}
        )


class TestFitted:
    """Models of the digits, each with a map of its own."""

    def test_it_is_what_a_plain_loop_finds(self, found, fitted):
        for name, (subject, metrics, tables) in found["zero"].items():
            x, y = subject.sampled()
            maps = {
                other: x[:, 0] * model[1].weight.detach()[model(x).argmax(1)].view(-1, 8, 8)
                for other, model in fitted.items()
            }
            rows = curves(tables)
            assert rows.keys() == {(each, side) for each in METHODS for side in ("most", "least")}
            for other in METHODS:
                for side, sign in (("most", 1), ("least", -1)):
                    under = by_loop(fitted[name], x, y, maps[other], FRACTIONS, sign)
                    assert rows[other, side] == pytest.approx(under), (name, other, side)
            assert 0.3 < rows[name, "most"][0] < 1
            assert metrics == {}

    @pytest.mark.parametrize("fill", ["zero", "noise"])
    def test_each_model_and_each_map_gets_its_effect_on_what_was_found(self, found, fill):
        rows = {name: curves(tables) for name, (_, _, tables) in found[fill].items()}
        most, least = (
            np.array(
                [
                    [mean_height(rows[one][two, side], FRACTIONS) for two in METHODS]
                    for one in METHODS
                ]
            )
            for side in ("most", "least")
        )
        robust, faithful = effects(most)[0], effects(least - most)[1]
        joined = together({name: tables["cross"] for name, (_, _, tables) in found[fill].items()})
        for place, name in enumerate(METHODS):
            assert joined["occlusion-crossed", name] == pytest.approx(robust[place])
            assert joined["srg-crossed", name] == pytest.approx(faithful[place])
        assert len(set(joined.values())) == 2 * len(METHODS)

    @pytest.mark.parametrize("fill", ["zero", "noise"])
    def test_the_diagonal_is_the_gain_of_its_own_map(self, found, fill, fitted):
        for name, (subject, _, tables) in found[fill].items():
            x, y = subject.sampled()
            [gain] = symmetric_relevance_gain(
                fitted[name],
                x,
                y,
                subject.maps("lrp-0", x),
                [fill],
                FRACTIONS,
                generator=subject.generator("crossed"),
            ).values()
            rows = curves(tables)
            assert rows[name, "most"] == pytest.approx(gain.most_first.accuracy.tolist())
            assert rows[name, "least"] == pytest.approx(gain.least_first.accuracy.tolist())

    def test_rows_are_those_of_the_table(self, found):
        _, _, tables = found["zero"]["sgt"]
        assert set(tables) == {"cross"}
        for row in tables["cross"]:
            assert list(row) == [each for each in TABLES["cross"] if each not in KEYS]
        shares = [row["fraction"] for row in tables["cross"]]
        assert shares == list(FRACTIONS) * 6

    def test_a_model_beside_others_with_its_own_weights_lasts_as_by_its_own_map(self, data, fitted):
        models = dict.fromkeys(METHODS, fitted["sgt"])
        for subject in evaluations(data, models, **SOME).values():
            rows = curves(crossed(subject)[1])
            for side in ("most", "least"):
                assert rows["baseline", side] == rows["sgt", side] == rows["challenger", side]

    @pytest.mark.parametrize("why", ["it was not trained", "its logits are not finite"])
    def test_a_model_that_cannot_be_crossed_is_left_out_and_the_log_names_it(
        self, found, data, fitted, caplog, why
    ):
        subject = evaluations(data, fitted, **SOME)["baseline"]
        gone = linear(torch.full((10, 64), torch.nan)) if "logits" in why else None
        others = subject.others | {"sgt": lambda: gone}
        metrics, tables = crossed(replace(subject, others=others))
        assert metrics == {}
        _, _, whole = found["zero"]["baseline"]
        assert tables["cross"] == [row for row in whole["cross"] if row["map_of"] != "sgt"]
        assert [record.getMessage() for record in caplog.records] == [
            f"{subject.run.name} is not crossed with sgt: {why}"
        ]

    def test_where_all_can_be_crossed_the_log_is_silent(self, data, fitted, caplog):
        crossed(evaluations(data, fitted, **SOME)["baseline"])
        assert caplog.text == ""

    def test_models_are_loaded_when_they_are_needed_and_once(self, data, fitted):
        loaded = []

        def load(name):
            loaded.append(name)
            return fitted[name]

        subject = evaluations(data, fitted, **SOME)["baseline"]
        others = {name: partial(load, name) for name in METHODS if name != "baseline"}
        subject = replace(subject, others=others)
        assert loaded == []
        crossed(subject)
        assert sorted(loaded) == sorted(others)

    def test_who_takes_no_part_gets_nothing(self, data, fitted):
        subject = evaluations(data, fitted, **SOME)["baseline"]
        assert crossed(replace(subject, others=None)) == ({}, {})

    def test_no_model_is_changed(self, data):
        models = {name: build_model(RUNS[name], CPU).train() for name in METHODS}
        before = [each.clone() for each in models["sgt"].state_dict().values()]
        crossed(evaluations(data, models)["baseline"])
        assert all(map(torch.equal, before, models["sgt"].state_dict().values()))
        assert all(each.training for model in models.values() for each in model.modules())


class TestShard:
    """From trained runs to scores, which are made again when one of the others has changed."""

    @pytest.fixture
    def folder(self, trained, tmp_path):
        return shutil.copytree(trained, tmp_path / "tiny")

    def evaluated(self, folder, data, *methods):
        """Evaluate runs of the first seed, and return by method what became of them."""
        runs = [run for run in PLAN.runs if run.method in methods and run.seed == 0]
        others = crossed_runs(PLAN, runs)
        found = evaluate_shard(runs, folder, data, LITTLE, CPU, crossed=others)
        return {run.method: outcome for run, outcome in found.items()}

    @staticmethod
    def place(folder, method, kind="scores"):
        return folder / kind / RUNS[method].path

    def metrics(self, folder, method):
        table = pd.read_csv(self.place(folder, method) / "metrics.csv")
        return table.set_index("metric").value

    def test_methods_that_take_part_have_rows_and_the_table_their_metrics(self, folder, data):
        methods = (*METHODS, "reldrop-block")
        assert self.evaluated(folder, data, *methods) == dict.fromkeys(methods, "made")
        for method in methods:
            found = set(self.metrics(folder, method).index)
            assert found == set(LITTLE.metrics()) - METRICS
            rows = self.place(folder, method) / "cross.csv"
            assert rows.exists() == (method in METHODS)
            assert method not in METHODS or set(pd.read_csv(rows).map_of) == set(METHODS)
        collect(RUNS.values(), folder)
        cross = pd.read_csv(folder / "tables" / "cross.csv")
        assert list(cross.columns) == TABLES["cross"]
        assert set(zip(cross.method, cross.map_of, strict=True)) == {
            (one, two) for one in METHODS for two in METHODS
        }
        table = pd.read_csv(folder / "tables" / "metrics.csv")
        for method, rows in table.groupby("method"):
            wanted = set(LITTLE.metrics()) - (METRICS if method not in METHODS else set())
            assert set(rows.metric) == wanted

    def test_methods_are_crossed_at_one_seed(self, folder, data):
        self.evaluated(folder, data, "baseline")
        first = (self.place(folder, "baseline") / "cross.csv").read_text()
        shutil.rmtree(folder / "scores")
        for run in PLAN.runs:
            if (run.method, run.seed) == ("sgt", 1):
                shutil.rmtree(folder / "runs" / run.path)
        self.evaluated(folder, data, "baseline")
        assert (self.place(folder, "baseline") / "cross.csv").read_text() == first

    @pytest.mark.parametrize("why", ["not trained", "failed"])
    def test_without_another_nothing_fails_and_it_is_made_up_for(self, folder, data, why, caplog):
        other = self.place(folder, "sgt", "runs")
        kept = shutil.copytree(other, folder / "kept")
        if why == "failed":
            record = other / "run.json"
            record.write_text(record.read_text().replace('"finished"', '"failed"'))
        else:
            shutil.rmtree(other)
        assert self.evaluated(folder, data, "baseline") == {"baseline": "made"}
        assert set(self.metrics(folder, "baseline").index) == set(LITTLE.metrics()) - METRICS
        assert self.crossed_with(folder) == {"baseline", "challenger"}
        assert f"{RUNS['baseline'].name} is not crossed with sgt" in caplog.text
        assert self.evaluated(folder, data, "baseline") == {"baseline": "kept"}
        shutil.rmtree(other, ignore_errors=True)
        kept.rename(other)
        assert self.evaluated(folder, data, "baseline") == {"baseline": "made"}
        assert self.crossed_with(folder) == set(METHODS)

    def crossed_with(self, folder):
        return set(pd.read_csv(self.place(folder, "baseline") / "cross.csv").map_of)

    def test_beside_a_model_that_has_diverged_a_run_is_evaluated_without_it(
        self, folder, data, caplog
    ):
        path = self.place(folder, "sgt", "runs") / "weights.safetensors"
        weights = {name: each * float("nan") for name, each in load_file(path).items()}
        save_file(weights, path)
        outcomes = self.evaluated(folder, data, *METHODS)
        assert outcomes == {"baseline": "made", "sgt": "failed", "challenger": "made"}
        assert self.crossed_with(folder) == {"baseline", "challenger"}
        assert f"{RUNS['baseline'].name} is not crossed with sgt: its logits" in caplog.text
        collect(RUNS.values(), folder)
        table = pd.read_csv(folder / "tables" / "metrics.csv")
        assert not METRICS & set(table.metric)
        assert set(table.method) == {"baseline", "challenger"}

    def test_a_model_that_is_trained_anew_changes_the_scores_of_the_others_alone(
        self, folder, data
    ):
        methods = (*METHODS, "reldrop-block")
        self.evaluated(folder, data, *methods)
        before = read_record(self.place(folder, "baseline"))["digest"]
        longer = next(
            run
            for run in planned(GRID | {"recipe.steps": 3}).runs
            if (run.method, run.seed) == ("sgt", 0)
        )
        assert train_shard([longer], folder, data, CPU) == {longer: "made"}
        outcomes = self.evaluated(folder, data, *methods)
        assert outcomes == dict.fromkeys(METHODS, "made") | {"reldrop-block": "kept"}
        assert read_record(self.place(folder, "baseline"))["digest"] != before
        run = RUNS["baseline"]
        assert train_shard([run], folder, data, CPU) == {run: "kept"}


class TestPlan:
    """Who is crossed with whom, and what an evaluation waits for."""

    def test_runs_are_crossed_with_the_others_at_their_place(self):
        plan = planned(WIDE)
        found = crossed_runs(plan, plan.runs)
        assert list(found) == [run for run in plan.runs if run.method in METHODS]
        for run, others in found.items():
            assert {run.method, *others} == set(METHODS)
            assert len(others) == 2
            for method, other in others.items():
                assert other.key == run.key | {"method": method}
                assert found[other][run.method] is run

    def test_without_crossing_nothing_is_paired(self):
        plan = planned(WIDE | {"evaluation.crossed": []})
        assert crossed_runs(plan, plan.runs) == {}
        assert crossed_runs(planned(WIDE), []) == {}

    def test_an_evaluation_waits_for_the_shards_of_the_others_and_no_more(self):
        alone = {"evaluation.orders": ["random-pixels"], "evaluation.measures": []}
        plan = planned(WIDE | alone)
        assert len(plan.shards) == 16
        for shard in plan.shards:
            place = {(run.model, run.train_size) for run in shard.runs}
            methods = {run.method for run in shard.runs}
            needed = set(METHODS) if methods & set(METHODS) else methods
            expected = [
                each.name
                for each in plan.shards
                if {(run.model, run.train_size) for run in each.runs} == place
                and {run.method for run in each.runs} <= needed
            ]
            assert evaluated_after(plan, shard) == expected
        plan = planned(WIDE | alone | {"evaluation.crossed": []})
        assert all(evaluated_after(plan, each) == [each.name] for each in plan.shards)

    def test_it_changes_how_runs_are_evaluated_and_not_how_they_are_trained(self):
        plain, crossing = planned(GRID), planned(GRID | {"evaluation.crossed": [*METHODS]})
        assert [run.intent for run in plain.runs] == [run.intent for run in crossing.runs]
        intents = [
            [run.scores_intent(plan.experiment.evaluation.model_dump()) for run in plan.runs]
            for plan in (plain, crossing)
        ]
        assert not set(intents[0]) & set(intents[1])


class TestConfig:
    """What can be asked for."""

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            (
                {"evaluation.crossed": ["baseline"]},
                ["evaluation.crossed", "only baseline:", "three or more"],
            ),
            (
                {"evaluation.crossed": ["baseline", "reldrop-block"]},
                ["evaluation.crossed", "only baseline, reldrop-block:", "three or more"],
            ),
            (
                THREE | {"evaluation.crossed": ["baseline", "sgt", "reldrop-blok"]},
                ["evaluation.crossed", "'reldrop-blok'", "did you mean 'reldrop-block'?"],
            ),
            (
                {"evaluation.crossed": ["baseline", "reldrop-block", "sgt"]},
                [
                    "evaluation.crossed",
                    "'sgt'",
                    "known are baseline, reldrop-block",
                    "grid.methods",
                ],
            ),
            (
                {"evaluation.crossed": ["baseline", "reldrop-block", "baseline"]},
                ["evaluation.crossed", "baseline more than once"],
            ),
            ({"figures": ["cross-maps"]}, ["'cross-maps'", "evaluation.crossed"]),
            ({"statistics.metrics": ["srg-crossed"]}, ["statistics.metrics", "'srg-crossed'"]),
        ],
    )
    def test_what_makes_no_sense_is_refused_in_a_line(self, changes, said, tmp_path):
        with pytest.raises(ConfigError) as caught:
            read_experiment(written(tmp_path, changes))
        message = str(caught.value)
        assert "\n" not in message
        for words in said:
            assert words in message, message

    def test_the_figure_is_drawn_where_methods_are_crossed(self, tmp_path):
        assert "cross-maps" not in read_experiment(written(tmp_path)).drawn_figures()
        found = read_experiment(written(tmp_path, THREE))
        assert "cross-maps" in found.drawn_figures()
        asked = read_experiment(written(tmp_path, THREE | {"figures": ["cross-maps"]}))
        assert asked.drawn_figures() == ("cross-maps",)

    def test_both_metrics_are_compared_where_an_experiment_does_not_say(self, tmp_path):
        found: Experiment = read_experiment(written(tmp_path, THREE))
        assert set(found.tested_metrics()) >= METRICS
        assert not METRICS & set(read_experiment(written(tmp_path)).tested_metrics())
