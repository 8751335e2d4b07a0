"""Tables hold what runs left, in the order of the plan; what is missing is named."""

import json

import numpy as np
import pandas as pd
import pytest
from experiments import planned
from safetensors.numpy import load_file, save_file

from attrreg.columns import TABLES
from attrreg.tables import collect, read_table, write_table

KEYS = ["dataset", "model", "method", "train_size", "seed"]
PLAN = planned(
    {
        "grid.methods": ["baseline", "reldrop-block/swapped", "sgt"],
        "grid.train_sizes": [20, 50],
        "grid.seeds": [3, 1],
    }
)


def number(run):
    """Return a number by which a run is recognised."""
    return PLAN.runs.index(run)


def write_run(folder, run, **changes):
    """Write what a finished training leaves."""
    place = folder / "runs" / run.path
    place.mkdir(parents=True, exist_ok=True)
    cost = {"seconds": 9.0, "seconds_per_step": 1.0 + number(run)}
    record = {"digest": f"run {number(run)}", "status": "finished", "steps": 4, "parameters": 70}
    (place / "run.json").write_text(json.dumps({**record, "cost": cost, **changes}))
    history = {"epoch": [1, 2], "step": [2, 4], "learning_rate": 0.1, "loss": 0.5, "accuracy": 1.0}
    if run.method == "sgt":
        history["divergence"] = 0.25
    pd.DataFrame(history).to_csv(place / "history.csv", index=False)


def write_scores(folder, run, **changes):
    """Write what a finished evaluation leaves."""
    place = folder / "scores" / run.path
    place.mkdir(parents=True, exist_ok=True)
    own = {"digest": f"scores {number(run)}", "run": f"run {number(run)}", "status": "finished"}
    (place / "run.json").write_text(json.dumps({**own, "cost": {}, **changes}))
    metrics = pd.DataFrame({"metric": ["accuracy", "nll"], "value": [number(run), 0.5]})
    metrics.to_csv(place / "metrics.csv", index=False)
    curve = {"order": "random-block", "fill": "mean", "fraction": [0.0, 0.5], "accuracy": 0.1}
    pd.DataFrame({**curve, "nll": 2.0}).to_csv(place / "curves.csv", index=False)
    bins = {"bin": 0, "low": 0.0, "high": 0.5, "count": 1, "confidence": 0.2, "accuracy": 0.3}
    rows = [{"regime": "held back", "scaled": scaled, **bins} for scaled in (False, True)]
    pd.DataFrame(rows).to_csv(place / "reliability.csv", index=False)
    classes = {"class": ["0", "1"], "count": [3, 4], "accuracy": [1.0, 0.5]}
    pd.DataFrame(classes).to_csv(place / "classes.csv", index=False)
    if run.method == "sgt":  # as of a protocol that measured more
        shift = {"corruption": "blur", "severity": [1, 2], "accuracy": 0.4}
        pd.DataFrame(shift).to_csv(place / "shift.csv", index=False)
    maps = {
        "inputs": np.zeros((2, 1, 2, 2), np.float32),
        "labels": np.arange(2),
        "relevance": np.full((2, 2, 2), number(run), np.float32),
    }
    save_file(maps, place / "maps.safetensors")


def failure(error="ValueError", message="no"):
    return {"status": "failed", "error": error, "message": message, "traceback": "…"}


@pytest.fixture
def folder(tmp_path):
    """An experiment of which every run is there."""
    for run in PLAN.runs:
        write_run(tmp_path, run)
        write_scores(tmp_path, run)
    return tmp_path


def table(folder, name):
    return pd.read_csv(folder / "tables" / f"{name}.csv")


def places(rows):
    """Return the runs of some rows, each once, as they stand there."""
    return list(dict.fromkeys(rows[KEYS].itertuples(index=False, name=None)))


ALL = [tuple(run.key.values()) for run in PLAN.runs]


class TestWhole:
    """Nothing is missing."""

    def test_rows_stand_in_the_order_of_the_plan_under_their_keys(self, folder):
        collect(PLAN.runs, folder)
        for name in ("metrics", "curves", "reliability", "classes", "history"):
            rows = table(folder, name)
            assert list(rows.columns[: len(TABLES[name])]) == TABLES[name]
            assert places(rows) == ALL

    def test_what_only_some_evaluations_wrote_has_only_their_rows(self, folder):
        counts = collect(PLAN.runs, folder)
        rows = table(folder, "shift")
        assert list(rows.columns) == TABLES["shift"]
        assert places(rows) == [key for key in ALL if key[2] == "sgt"]
        for name in ("localization", "faithfulness"):
            assert counts[name] == 0
            assert list(table(folder, name).columns) == TABLES[name]

    def test_reliability_is_there_before_and_after_scaling(self, folder):
        collect(PLAN.runs, folder)
        scaled = table(folder, "reliability").scaled
        assert scaled.tolist() == [False, True] * len(PLAN.runs)

    def test_every_row_is_that_of_its_run(self, folder):
        collect(PLAN.runs, folder)
        rows = table(folder, "metrics")
        accuracy = rows[rows.metric == "accuracy"]
        assert accuracy.value.tolist() == list(range(len(PLAN.runs)))
        assert len(rows) == 2 * len(PLAN.runs)

    def test_the_rows_are_counted(self, folder):
        counts = collect(PLAN.runs, folder)
        assert counts == {name: len(table(folder, name)) for name in TABLES}
        assert counts["failures"] == 0

    def test_columns_of_one_method_are_empty_for_the_others(self, folder):
        collect(PLAN.runs, folder)
        history = table(folder, "history")
        assert (history.divergence.notna() == (history.method == "sgt")).all()

    def test_costs_are_relative_to_the_baseline_at_the_same_place(self, folder):
        collect(PLAN.runs, folder)
        cost = table(folder, "cost").set_index([*KEYS, "metric"]).value
        for run in PLAN.runs:
            key = tuple(run.key.values())
            at = (run.dataset, run.model, "baseline", run.train_size, run.seed)
            expected = cost[(*key, "seconds_per_step")] / cost[(*at, "seconds_per_step")]
            assert cost[(*key, "ratio_to_baseline")] == pytest.approx(expected)
            assert cost[(*key, "parameters")] == 70
        assert cost.index.is_unique

    def test_the_gallery_is_of_the_largest_set_and_the_first_seed(self, folder):
        collect(PLAN.runs, folder)
        gallery = load_file(folder / "tables" / "gallery.safetensors")
        shown = [run for run in PLAN.runs if run.train_size == 50 and run.seed == 3]
        place = "digits|resnet10-narrow"
        assert gallery.keys() == {f"{place}/inputs", f"{place}/labels"} | {
            f"{place}/{run.method}/relevance" for run in shown
        }
        for run in shown:
            assert (gallery[f"{place}/{run.method}/relevance"] == number(run)).all()

    def test_again_changes_no_byte(self, folder):
        collect(PLAN.runs, folder)
        before = {path: path.read_bytes() for path in (folder / "tables").iterdir()}
        collect(PLAN.runs, folder)
        assert before == {path: path.read_bytes() for path in (folder / "tables").iterdir()}

    def test_runs_outside_the_plan_are_left_out(self, folder):
        some = [run for run in PLAN.runs if run.seed == 1]
        collect(some, folder)
        assert set(table(folder, "metrics").seed) == {1}


class TestMissing:
    """What did not end well is named once, with its stage and reason; the rest is collected."""

    def test_each_kind_of_failure(self, folder):
        diverged, absent, unscored, unread, *others = PLAN.runs
        write_run(folder, diverged, **failure("Diverged", "the loss is NaN"))
        (folder / "runs" / absent.path / "run.json").unlink()
        write_scores(folder, unscored, **failure("ValueError", "logits are NaN"))
        (folder / "scores" / unread.path / "run.json").write_text("{")
        collect(PLAN.runs, folder)
        rows = table(folder, "failures")
        assert list(rows.columns) == TABLES["failures"]
        assert places(rows) == ALL[:4]
        assert len(rows) == 4
        assert rows.stage.tolist() == ["training", "training", "evaluation", "evaluation"]
        assert rows.error.tolist() == ["Diverged", "missing", "ValueError", "missing"]
        assert rows.message[0] == "the loss is NaN"
        assert str(absent.path) in rows.message[1]
        assert str(unread.path) in rows.message[3]
        assert places(table(folder, "metrics")) == ALL[4:]
        assert places(table(folder, "history")) == ALL[2:]
        assert others

    def test_a_message_over_several_lines_stays_one_row(self, folder):
        write_run(folder, PLAN.runs[0], **failure("RuntimeError", 'a,\n"b"\nc'))
        collect(PLAN.runs, folder)
        rows = table(folder, "failures")
        assert rows.message.tolist() == ['a,\n"b"\nc']

    def test_without_a_baseline_there_is_no_ratio_at_that_place(self, folder):
        [baseline, *_] = PLAN.runs
        write_run(folder, baseline, **failure())
        collect(PLAN.runs, folder)
        cost = table(folder, "cost")
        ratios = places(cost[cost.metric == "ratio_to_baseline"])
        bare = [key for key in ALL if (key[3], key[4]) == (baseline.train_size, baseline.seed)]
        assert ratios == [key for key in ALL if key not in bare]
        others = [key for key in bare if key[2] != "baseline"]
        assert set(others) <= set(places(cost))

    def test_where_nothing_is_there_every_table_has_its_columns(self, tmp_path):
        counts = collect(PLAN.runs, tmp_path)
        assert counts == dict.fromkeys(TABLES, 0) | {"failures": len(PLAN.runs)}
        for name, columns in TABLES.items():
            assert list(table(tmp_path, name).columns) == columns
        assert load_file(tmp_path / "tables" / "gallery.safetensors") == {}

    def test_scores_of_older_weights_are_not_taken_for_those_of_the_new_ones(self, folder):
        trained_again = PLAN.runs[0]
        write_run(folder, trained_again, digest="another run")
        collect(PLAN.runs, folder)
        assert places(table(folder, "metrics")) == ALL[1:]
        assert places(table(folder, "failures")) == ALL[:1]


class TestCrossed:
    """What a model and a map are worth beside others follows from the rows of all runs."""

    METHODS = ("baseline", "reldrop-block/swapped", "sgt")
    METRICS = ("occlusion-crossed", "srg-crossed")

    @staticmethod
    def heights(run, other):
        """Return the heights of two flat curves of a model by a map, most and least first."""
        return np.random.default_rng([number(run), len(other)]).random(2)

    @pytest.fixture
    def crossed(self, folder):
        for run in PLAN.runs:
            rows = [
                (other, first, fraction, height)
                for other in reversed(self.METHODS)
                for first, height in zip(("most", "least"), self.heights(run, other), strict=True)
                for fraction in (0.0, 0.5)
            ]
            table = pd.DataFrame(rows, columns=TABLES["cross"][len(KEYS) :])
            table.to_csv(folder / "scores" / run.path / "cross.csv", index=False)
        return folder

    def by_hand(self, train_size, seed):
        """Return by method both metrics, from sums over three methods."""
        runs = {
            run.method: run for run in PLAN.runs if (run.train_size, run.seed) == (train_size, seed)
        }
        most, least = (
            {(one, two): self.heights(runs[one], two)[at] for one in runs for two in runs}
            for at in (0, 1)
        )
        gain = {pair: least[pair] - most[pair] for pair in most}
        found = {}
        for own in runs:
            others = [name for name in runs if name != own]
            robust = self.effect([most[own, each] for each in others], most, own, others, 0)
            faithful = self.effect([gain[each, own] for each in others], gain, own, others, 1)
            found[own] = [robust, faithful]
        return found

    @staticmethod
    def effect(mine, pairs, own, others, side):
        """Return (2 R + C) / 3 − T / 6 of three methods, or with R and C exchanged."""
        beside = [pairs[(each, own) if side == 0 else (own, each)] for each in others]
        total = sum(value for (one, two), value in pairs.items() if one != two)
        return (2 * sum(mine) + sum(beside)) / 3 - total / 6

    def found(self, folder):
        rows = table(folder, "metrics")
        rows = rows[rows.metric.isin(self.METRICS)]
        return {key: own.value.tolist() for key, own in rows.groupby(KEYS)}

    def test_every_run_has_both_metrics_behind_its_own(self, crossed):
        counts = collect(PLAN.runs, crossed)
        rows = table(crossed, "metrics")
        assert counts["metrics"] == len(rows) == 4 * len(PLAN.runs)
        assert list(rows.columns) == TABLES["metrics"]
        assert rows.metric.tolist() == ["accuracy", "nll", *self.METRICS] * len(PLAN.runs)
        keys = [*rows[KEYS].itertuples(index=False, name=None)]
        assert keys == [key for key in ALL for _ in range(4)]
        accuracy = rows[rows.metric == "accuracy"].value
        assert accuracy.tolist() == list(range(len(PLAN.runs)))

    def test_they_are_those_of_its_place_and_seed(self, crossed):
        collect(PLAN.runs, crossed)
        found = self.found(crossed)
        assert found.keys() == set(ALL)
        for key, values in found.items():
            assert values == pytest.approx(self.by_hand(*key[3:])[key[2]])

    @pytest.mark.parametrize("why", ["a map", "a run", "a value"])
    def test_where_a_pair_is_missing_no_run_of_that_place_and_seed_has_them(self, crossed, why):
        lost = next(run for run in PLAN.runs if run.method == "sgt")
        path = crossed / "scores" / lost.path / "cross.csv"
        rows = pd.read_csv(path)
        if why == "a map":
            rows[rows.map_of != "baseline"].to_csv(path, index=False)
        elif why == "a run":
            write_run(crossed, lost, **failure())
        else:
            gone = rows.accuracy.mask(rows.map_of == "baseline")
            rows.assign(accuracy=gone).to_csv(path, index=False)
        collect(PLAN.runs, crossed)
        at = (lost.train_size, lost.seed)
        assert self.found(crossed).keys() == {key for key in ALL if key[3:] != at}
        kept = places(table(crossed, "metrics"))
        assert kept == [key for key in ALL if why != "a run" or key != tuple(lost.key.values())]

    def test_of_two_methods_there_are_none_and_of_the_table_all_rows(self, crossed):
        some = [run for run in PLAN.runs if run.method != "sgt"]
        for run in some:
            path = crossed / "scores" / run.path / "cross.csv"
            rows = pd.read_csv(path)
            rows[rows.map_of != "sgt"].to_csv(path, index=False)
        counts = collect(some, crossed)
        assert self.found(crossed) == {}
        assert counts["metrics"] == 2 * len(some)
        assert counts["cross"] == 2 * 4 * len(some)


def test_a_table_that_is_not_there_names_the_command_that_writes_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"metrics\.csv: run `attrreg collect`"):
        read_table(tmp_path / "metrics.csv", "attrreg collect")


def test_a_table_comes_back_as_it_was_written(tmp_path):
    written = pd.DataFrame({"name": ["a,b", 'c"d'], "value": [0.1 + 0.2, np.nan], "n": [1, 2]})
    write_table(written, tmp_path / "below" / "table.csv")
    pd.testing.assert_frame_equal(read_table(tmp_path / "below" / "table.csv", "x"), written)
