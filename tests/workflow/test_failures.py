"""A run that fails is a record; everything else is collected, and the end says so."""

import csv
import json

import pytest

WRONG = """\
    - name: exploding
      attribution: uniform
      perturbation: {name: replace-lowest, fill: noise}
      objective: {name: consistency, weight: 1.0e+38}
"""
FIGURES = ("accuracy-by-train-size", "reliability", "occlusion", "gallery")


@pytest.fixture(scope="module")
def failed(blank):
    """An experiment of which one method always diverges, and what its launch answered."""
    project = blank()
    project.edit(
        "configs/tiny.yaml",
        "[baseline, reldrop-block, reldrop-block/swapped]",
        f"\n    - baseline\n    - random-erasing\n{WRONG}".rstrip(),
    )
    project.edit("configs/tiny.yaml", "[accuracy-by-train-size]", f"[{', '.join(FIGURES)}]")
    return project, project.launch()


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_exit_code_and_the_summary_name_the_failure(failed):
    project, answer = failed
    assert answer.returncode == 3, answer.stdout
    assert "2 of 6 runs failed" in answer.stdout
    assert "exploding n=20 seed=0" in answer.stdout
    assert "loss" in answer.stdout
    assert (project.folder / "report.html").exists()


def test_siblings_are_collected_and_the_failure_has_a_row(failed):
    project, _ = failed
    tables = project.folder / "tables"
    failures = rows(tables / "failures.csv")
    assert {(row["method"], row["seed"], row["stage"]) for row in failures} == {
        ("exploding", "0", "training"),
        ("exploding", "1", "training"),
    }
    assert {row["error"] for row in failures} == {"Diverged"}
    metrics = rows(tables / "metrics.csv")
    assert {(row["method"], row["seed"]) for row in metrics} == {
        (method, seed) for method in ("baseline", "random-erasing") for seed in "01"
    }
    tests = rows(tables / "tests.csv")
    assert {row["verdict"] for row in tests if row["method"] == "exploding"} == {"undecided"}


def test_the_record_holds_the_traceback(failed):
    project, _ = failed
    record = json.loads(
        (project.folder / "runs/digits/resnet10-narrow/exploding/n20/s0/run.json").read_text()
    )
    assert record["status"] == "failed"
    assert "Traceback" in record["traceback"]


def test_figures_show_the_gap(failed):
    project, _ = failed
    for figure in FIGURES:
        text = (project.folder / "figures" / f"{figure}.svg").read_text()
        assert "exploding" in text
        assert "fail" in text


def test_every_figure_exists_in_three_formats_and_in_the_report(failed):
    project, _ = failed
    assert all(map(project.has_figure, FIGURES))
    report = (project.folder / "report.html").read_text()
    assert all(figure in report for figure in FIGURES)


def test_nothing_is_tried_again_unless_asked(failed, tmp_path):
    project = failed[0].copy(tmp_path / "project")
    project.edit("configs/tiny.yaml", f"[{', '.join(FIGURES)}]", "[accuracy-by-train-size]")
    before = project.run_times()
    again = project.launch()
    assert again.returncode == 3
    assert project.run_times() == before
    asked = project.launch("--retry-failed")
    assert asked.returncode == 3, asked.stdout
    after = project.run_times()
    assert {run for run in before if after[run] != before[run]} == {
        run for run in before if "exploding" in run
    }
