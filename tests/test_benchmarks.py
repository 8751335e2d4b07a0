"""The benchmarks run, and write what they measured with what it was measured on."""

import csv
import runpy
import sys
from pathlib import Path

import pytest

from attrreg.execution import Execution

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
SMALL = ("--model", "resnet10-narrow", "--image-size", "16", "--batch-size", "2", "--repeats", "2")


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """Return a function that runs a benchmark and returns the name of its table and the rows."""

    def run(script, *arguments):
        monkeypatch.syspath_prepend(BENCHMARKS)
        monkeypatch.setattr(sys, "argv", [script, "--results", str(tmp_path), *arguments])
        runpy.run_path(str(BENCHMARKS / script), run_name="__main__")
        [table] = tmp_path.glob("*.csv")
        return table.name, list(csv.DictReader(table.open()))

    return run


def test_a_step_of_a_method_is_measured_against_a_plain_step(measured):
    name, [row] = measured("step_cost.py", *SMALL, "--only", "step reldrop-block")
    assert name == "step_cost-resnet10-narrow-cpu.csv"
    assert 0 < float(row["low"]) <= float(row["ratio"]) <= float(row["high"])
    assert (row["repeats"], row["threads"], row["input"]) == ("2", "1", "2x3x16")
    assert row["budget"] == "2.15"
    assert row["met"] == str(float(row["low"]) <= 2.15)


def test_a_budget_that_depends_on_other_rows_brings_them_along(measured):
    wanted = ["step challenger", "step sgt, map every 4 epochs"]
    _, rows = measured("step_cost.py", *SMALL, "--only", *wanted)
    ratio = {row["what"]: float(row["ratio"]) for row in rows}
    budget = {row["what"]: float(row["budget"]) for row in rows if row["budget"]}
    random_map = ratio["step sgt, random map"]
    kept = 1.05 * (random_map + (ratio["step sgt"] - random_map) / 4)
    assert budget["step challenger"] == pytest.approx(ratio["step reldrop-block"] + 0.05)
    assert budget["step sgt, map every 4 epochs"] == pytest.approx(kept, abs=1e-3)
    assert ratio.keys() == {"step reldrop-block", "step sgt", "step sgt, random map", *wanted}


def test_kept_maps_serve_as_many_epochs_as_a_run_has_steps(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    row = runpy.run_path(str(BENCHMARKS / "step_cost.py"))["rows"]()[
        "step reldrop-block, map every 4 epochs"
    ]
    assert (row.made.attribution.name, row.made.attribution.every, row.steps) == ("cached", 4, 4)
    assert row.made.attribution.of.rule == "epsilon-plus-flat"


def test_the_training_loop_is_measured_against_a_bare_one(measured):
    wanted = ["bare loop", "baseline", "sgt"]
    name, rows = measured("throughput.py", *SMALL, "--train-size", "4", "--only", *wanted)
    assert name == "throughput-resnet10-narrow-cpu.csv"
    assert [row["what"] for row in rows] == wanted
    for row in rows:
        assert 0 < float(row["low"]) <= float(row["ratio"]) <= float(row["high"])
        seconds = 4 / float(row["images_per_second"])
        assert seconds == pytest.approx(float(row["milliseconds"]) / 1000, rel=0.01)
    assert [row["budget"] for row in rows] == ["", "1.05", ""]
    assert float(rows[2]["ratio"]) > 1  # two more passes than a plain step


def test_start_up_and_bookkeeping_are_measured_beside_a_minute_of_work(measured):
    name, rows = measured("overhead.py", "--repeats", "1")
    assert name == "overhead-resnet10-narrow-cpu.csv"
    row = {each["what"]: each for each in rows}
    cell, record = row["a cell of 60 s in 3 runs"], row["part: record of a run"]
    few, further = row["training of 2 runs of a step"], row["a further run"]
    empty, imports = row["empty process"], row["imports of a training"]
    assert 0 < float(empty["cpu_seconds"]) < float(imports["cpu_seconds"])
    processes = _seconds(few) - 2 * _seconds(further) + _seconds(row["evaluation of nothing"])
    of_runs = 3 * (_seconds(further) + _seconds(record))
    expected = processes * min(1, 60 / Execution().shard_seconds) + of_runs
    assert _seconds(cell) == pytest.approx(expected, abs=0.01)
    parts = [_seconds(each) for what, each in row.items() if what.startswith("part: ")]
    assert len(parts) == 5
    assert all(0 < each < _seconds(few) for each in parts)
    assert cell["budget"] == "3.0"
    assert cell["met"] == str(float(cell["low"]) <= 3)


@pytest.mark.parametrize(("dtype", "mark"), [("float32", ""), ("bfloat16", "-bfloat16")])
def test_maps_are_measured_with_their_memory_and_the_versions(measured, dtype, mark):
    wanted = ["forward pass", "lrp-0", "z-box", "zennit:EpsilonGammaBox"]
    name, rows = measured("relevance.py", *SMALL, "--dtype", dtype, "--only", *wanted)
    assert name == f"relevance-resnet10-narrow-cpu{mark}.csv"
    assert [row["what"] for row in rows] == wanted
    for row in rows:
        assert float(row["low"]) <= float(row["ratio"]) <= float(row["high"])
        assert float(row["milliseconds"]) > 0
        assert all(row[key] for key in ("device", "platform", "torch", "timm", "zennit", "date"))
    forward, *maps = (float(row["peak_mib"]) for row in rows)
    assert all(0 < forward < each for each in maps)


@pytest.mark.parametrize("script", ["relevance.py", "step_cost.py", "throughput.py"])
def test_names_of_no_row_are_refused_before_anything_is_measured(measured, script):
    with pytest.raises(SystemExit, match="--only names no row: lrp; rows are "):
        measured(script, *SMALL, "--only", "lrp")


def _seconds(row):
    return float(row["seconds"])


def test_measures_are_timed_against_a_plain_pass(measured):
    small = ("--image-size", "8", "--samples", "10", "--repeats", "1")
    name, rows = measured("evaluation.py", *small, "--only", "margin", "occlusion random-block")
    assert name == "evaluation-resnet10-narrow-cpu.csv"
    assert [row["measure"] for row in rows] == ["occlusion random-block", "margin"]
    for row in rows:
        assert float(row["ms_per_1000"]) > 0
        assert float(row["passes"]) > 0
