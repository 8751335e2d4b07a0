"""Crossed maps: every model under the map of every other, at the same place of the grid."""

import math
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from experiments import planned, prepare_data, written
from small_evaluation import CPU, linear, looking_at, subject_of

from attrreg.config import ConfigError, Experiment, read_experiment
from attrreg.evaluation.faithfulness import symmetric_relevance_gain
from attrreg.evaluation.map_measures import crossed
from attrreg.evaluation.scores import evaluate_shard
from attrreg.evaluation.subject import HeldOut
from attrreg.plan import crossed_runs, evaluated_after
from attrreg.protocol import Evaluation
from attrreg.records import read_record
from attrreg.tables import KEYS, TABLES, collect
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
    crossed=("baseline", "sgt"),
)

FRACTIONS = (0.0, 0.1, 0.3, 0.7)
SOME = {"fractions": FRACTIONS, "rule": "lrp-0", "fill": "zero", "samples": 60}
WIDE = {
    "grid.methods": [*METHODS, "reldrop-block"],
    "grid.models": ["resnet10-narrow", {"name": "wide", "base": "resnet18"}],
    "grid.train_sizes": [20, 50],
    "evaluation.crossed": ["sgt", "baseline"],
    "execution.shard_seconds": 1e-3,  # a shard for every cell
}
TWO = {"evaluation.crossed": ["baseline", "reldrop-block"]}
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
            others={other: each for other, each in models.items() if other != name},
        )
        for name, model in models.items()
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("trained")
    train_shard(PLAN.runs, folder, data, CPU)
    return folder


def numbers(metrics):
    return {name: float(value) for name, value in metrics.items()}


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
    """Models that read one half of an image: with it they are right, without it never."""

    @staticmethod
    def reading(half):
        """Return a model that reads the left or the right; it says 2 if nothing is there."""
        there = torch.zeros(8, 8)
        there[:, :4] = half == "left"
        there[:, 4:] = half == "right"
        weight = torch.zeros(10, 64)
        weight[0], weight[1] = -there.flatten(), there.flatten()
        return linear(weight, torch.tensor([0.0, 0.0, 0.1, *[-100.0] * 7]))

    @staticmethod
    def samples(wrong=0):
        """Return images of 1 or of −1 and their labels, some of which no model ever says."""
        y = torch.arange(20) % 2
        x = (2.0 * y - 1).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).clone()
        return x, torch.where(torch.arange(20) < wrong, 3, y)

    def found(self, data, halves, wrong=0):
        """Return by method the metrics and curves."""
        models = {name: self.reading(half) for name, half in halves.items()}
        subjects = evaluations(data, models, **HALVES)
        samples = self.samples(wrong)
        found = {name: crossed(looking_at(each, *samples)) for name, each in subjects.items()}
        return {name: (numbers(metrics), curves(rows)) for name, (metrics, rows) in found.items()}

    def test_under_the_map_of_a_model_that_reads_the_other_half_nothing_is_lost(self, data):
        found = self.found(data, {"baseline": "left", "sgt": "right"})
        for own, other in (("baseline", "sgt"), ("sgt", "baseline")):
            metrics, rows = found[own]
            assert rows == {
                (own, "most"): [1, 0],
                (own, "least"): [1, 1],
                (other, "most"): [1, 1],
                (other, "least"): [1, 0],
            }
            assert metrics == {"occlusion-crossed": 1, "srg-crossed": -0.5}

    def test_of_several_others_it_is_the_mean(self, data):
        halves = {"baseline": "left", "sgt": "right", "challenger": "left"}
        found = {name: metrics for name, (metrics, _) in self.found(data, halves).items()}
        mixed = {"occlusion-crossed": 0.75, "srg-crossed": 0}
        assert found["baseline"] == found["challenger"] == mixed
        assert found["sgt"] == {"occlusion-crossed": 1, "srg-crossed": -0.5}

    def test_robustness_is_a_share_of_the_clean_accuracy_and_faithfulness_is_not(self, data):
        found = self.found(data, {"baseline": "left", "sgt": "left"}, wrong=10)
        for metrics, rows in found.values():
            assert metrics == {"occlusion-crossed": 0.5, "srg-crossed": 0.25}
            assert rows["sgt", "most"] == [0.5, 0]

    def test_a_model_that_is_never_right_has_no_share(self, data):
        for metrics, _ in self.found(data, {"baseline": "left", "sgt": "left"}, 20).values():
            assert math.isnan(metrics["occlusion-crossed"])
            assert metrics["srg-crossed"] == 0


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
            areas, gains = [], []
            for other, model in fitted.items():
                under = {
                    side: by_loop(fitted[name], x, y, maps[other], FRACTIONS, sign)
                    for side, sign in (("most", 1), ("least", -1))
                }
                for side, accuracies in under.items():
                    assert rows[other, side] == pytest.approx(accuracies), (name, other, side)
                if other != name:
                    areas.append(mean_height(under["most"], FRACTIONS))
                    least, most = (
                        by_loop(model, x, y, maps[name], FRACTIONS, sign) for sign in (-1, 1)
                    )
                    gains.append(mean_height(least, FRACTIONS) - mean_height(most, FRACTIONS))
            clean = rows[name, "most"][0]
            assert 0.3 < clean < 1
            assert numbers(metrics) == pytest.approx(
                {"occlusion-crossed": sum(areas) / 2 / clean, "srg-crossed": sum(gains) / 2}
            )

    @pytest.mark.parametrize("fill", ["zero", "noise"])
    def test_what_a_model_loses_under_a_map_counts_for_the_model_of_the_map(self, found, fill):
        rows = {name: curves(tables) for name, (_, _, tables) in found[fill].items()}
        for name, (_, metrics, _) in found[fill].items():
            gains = [
                mean_height(under[name, "least"], FRACTIONS)
                - mean_height(under[name, "most"], FRACTIONS)
                for other, under in rows.items()
                if other != name
            ]
            assert float(metrics["srg-crossed"]) == pytest.approx(sum(gains) / len(gains))
        assert len({float(metrics["srg-crossed"]) for _, metrics, _ in found[fill].values()}) == 3

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

    def test_the_model_that_is_crossed_with_itself_gains_what_its_own_map_does(self, data, fitted):
        models = dict.fromkeys(("baseline", "sgt"), fitted["sgt"])
        for subject in evaluations(data, models, **SOME).values():
            metrics, tables = crossed(subject)
            rows = curves(tables)
            assert rows["baseline", "most"] == rows["sgt", "most"]
            most = mean_height(rows["sgt", "most"], FRACTIONS)
            least = mean_height(rows["sgt", "least"], FRACTIONS)
            clean = rows["sgt", "most"][0]
            expected = {"occlusion-crossed": most / clean, "srg-crossed": least - most}
            assert numbers(metrics) == pytest.approx(expected)

    def test_where_one_of_the_others_is_missing_there_are_rows_without_it_and_no_metrics(
        self, found, data, fitted
    ):
        subject = evaluations(data, fitted, **SOME)["baseline"]
        metrics, tables = crossed(replace(subject, others=subject.others | {"sgt": None}))
        assert metrics == {}
        _, _, whole = found["zero"]["baseline"]
        assert tables["cross"] == [row for row in whole["cross"] if row["map_of"] != "sgt"]

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

    def test_methods_that_take_part_have_metrics_and_rows_and_others_have_not(self, folder, data):
        methods = ("baseline", "sgt", "reldrop-block")
        assert self.evaluated(folder, data, *methods) == dict.fromkeys(methods, "made")
        for method in ("baseline", "sgt"):
            assert set(LITTLE.metrics()) == set(self.metrics(folder, method).index)
            rows = pd.read_csv(self.place(folder, method) / "cross.csv")
            assert set(rows.map_of) == {"baseline", "sgt"}
        assert set(LITTLE.metrics()) - METRICS == set(self.metrics(folder, "reldrop-block").index)
        assert not (self.place(folder, "reldrop-block") / "cross.csv").exists()
        collect(RUNS.values(), folder)
        table = pd.read_csv(folder / "tables" / "cross.csv")
        assert list(table.columns) == TABLES["cross"]
        assert set(zip(table.method, table.map_of, strict=True)) == {
            (one, two) for one in ("baseline", "sgt") for two in ("baseline", "sgt")
        }

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
    def test_without_the_other_nothing_fails_and_it_is_made_up_for(self, folder, data, why):
        other = self.place(folder, "sgt", "runs")
        kept = shutil.copytree(other, folder / "kept")
        if why == "failed":
            record = other / "run.json"
            record.write_text(record.read_text().replace('"finished"', '"failed"'))
        else:
            shutil.rmtree(other)
        assert self.evaluated(folder, data, "baseline") == {"baseline": "made"}
        assert set(self.metrics(folder, "baseline").index) == set(LITTLE.metrics()) - METRICS
        rows = pd.read_csv(self.place(folder, "baseline") / "cross.csv")
        assert set(rows.map_of) == {"baseline"}
        assert self.evaluated(folder, data, "baseline") == {"baseline": "kept"}
        shutil.rmtree(other, ignore_errors=True)
        kept.rename(other)
        assert self.evaluated(folder, data, "baseline") == {"baseline": "made"}
        assert set(self.metrics(folder, "baseline").index) == set(LITTLE.metrics())

    def test_a_model_that_is_trained_anew_changes_the_scores_of_the_others_alone(
        self, folder, data
    ):
        methods = ("baseline", "sgt", "reldrop-block")
        self.evaluated(folder, data, *methods)
        before = read_record(self.place(folder, "baseline"))["digest"]
        longer = next(
            run
            for run in planned(GRID | {"recipe.steps": 3}).runs
            if (run.method, run.seed) == ("sgt", 0)
        )
        assert train_shard([longer], folder, data, CPU) == {longer: "made"}
        outcomes = self.evaluated(folder, data, *methods)
        assert outcomes == {"baseline": "made", "sgt": "made", "reldrop-block": "kept"}
        assert read_record(self.place(folder, "baseline"))["digest"] != before
        run = RUNS["baseline"]
        assert train_shard([run], folder, data, CPU) == {run: "kept"}


class TestPlan:
    """Who is crossed with whom, and what an evaluation waits for."""

    def test_runs_are_crossed_with_the_others_at_their_place(self):
        plan = planned(WIDE)
        found = crossed_runs(plan, plan.runs)
        taking_part = [run for run in plan.runs if run.method in ("baseline", "sgt")]
        assert list(found) == taking_part
        for run, others in found.items():
            [(method, other)] = others.items()
            assert {run.method, method} == {"baseline", "sgt"}
            assert other.key == run.key | {"method": method}
            assert found[other] == {run.method: run}

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
            needed = {"baseline", "sgt"} if methods & {"baseline", "sgt"} else methods
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
        plain, crossing = planned(GRID), planned(GRID | {"evaluation.crossed": ["baseline", "sgt"]})
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
                ["evaluation.crossed", "only 'baseline'", "two or more"],
            ),
            (
                {"evaluation.crossed": ["baseline", "reldrop-blok"]},
                ["evaluation.crossed", "'reldrop-blok'", "did you mean 'reldrop-block'?"],
            ),
            (
                {"evaluation.crossed": ["baseline", "sgt"]},
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
        found = read_experiment(written(tmp_path, TWO))
        assert "cross-maps" in found.drawn_figures()
        asked = read_experiment(written(tmp_path, TWO | {"figures": ["cross-maps"]}))
        assert asked.drawn_figures() == ("cross-maps",)

    def test_both_metrics_are_compared_where_an_experiment_does_not_say(self, tmp_path):
        found: Experiment = read_experiment(written(tmp_path, TWO))
        assert set(found.tested_metrics()) >= METRICS
        assert not METRICS & set(read_experiment(written(tmp_path)).tested_metrics())
