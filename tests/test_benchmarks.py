"""The benchmarks run, and write what they measured with what it was measured on."""

import csv
import runpy
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
SMALL = ("--model", "resnet10-narrow", "--image-size", "16", "--batch-size", "2", "--repeats", "2")


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """Return a function that runs a benchmark on a small model and returns its table."""

    def run(script, *arguments):
        monkeypatch.syspath_prepend(BENCHMARKS)
        monkeypatch.setattr(sys, "argv", [script, *SMALL, "--results", str(tmp_path), *arguments])
        runpy.run_path(str(BENCHMARKS / script), run_name="__main__")
        [table] = tmp_path.glob("*.csv")
        return table.name, list(csv.DictReader(table.open()))

    return run


def test_a_step_of_a_method_is_measured_against_a_plain_step(measured):
    name, [row] = measured("step_cost.py", "--only", "step reldrop-block")
    assert name == "step_cost-resnet10-narrow-cpu.csv"
    assert 0 < float(row["low"]) <= float(row["ratio"]) <= float(row["high"])
    assert (row["repeats"], row["threads"], row["input"]) == ("2", "1", "2x3x16")


@pytest.mark.parametrize(("dtype", "mark"), [("float32", ""), ("bfloat16", "-bfloat16")])
def test_maps_are_measured_with_their_memory_and_the_versions(measured, dtype, mark):
    wanted = ["forward pass", "lrp-0", "z-box", "zennit:EpsilonGammaBox"]
    name, rows = measured("relevance.py", "--dtype", dtype, "--only", *wanted)
    assert name == f"relevance-resnet10-narrow-cpu{mark}.csv"
    assert [row["what"] for row in rows] == wanted
    for row in rows:
        assert float(row["low"]) <= float(row["ratio"]) <= float(row["high"])
        assert float(row["milliseconds"]) > 0
        assert all(row[key] for key in ("device", "platform", "torch", "timm", "zennit", "date"))
    forward, *maps = (float(row["peak_mib"]) for row in rows)
    assert all(0 < forward < each for each in maps)


def test_names_of_no_row_are_refused(measured):
    with pytest.raises(SystemExit, match="--only names no row"):
        measured("relevance.py", "--only", "lrp")
