"""Other test sets through the workflow: prepared before evaluation, and never for training."""

import csv

import numpy as np
import pytest
import yaml
from PIL import Image

EXPERIMENT = {
    "name": "tiny",
    "grid": {
        "datasets": ["folder:data/ours"],
        "models": ["resnet10-narrow"],
        "methods": ["baseline"],
        "train_sizes": ["3/class"],
        "seeds": [0, 1],
    },
    "recipe": {"steps": 2, "batch_size": 6},
    "evaluation": {
        **{"orders": ["random-pixels"], "fractions": [0.0, 0.8], "gallery": 1, "measures": []},
        **{"zero_shot": ["folder:data/second scanner"], "unknown": ["folder:data/strange"]},
    },
    "statistics": {"metrics": ["accuracy", "zero-shot-second-scanner", "auroc-strange"]},
    "figures": ["accuracy-by-train-size"],
    "execution": {"device": "cpu"},
}
TESTS = "results/tiny/tables/tests.csv"  # of the workflow, all but claims, figures and report
STAGES = {"prepare_dataset", "draw_subset", "train_shard", "evaluate_shard", "collect_tables"}
# By folder: its classes, and the side of its images.
FOLDERS = {
    "ours": (("ill", "well"), 8),
    "second scanner": (("ill", "other", "well"), 8),
    "strange": (("cats", "dogs"), 11),
}


def draw(folder, number, side):
    pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / f"{number}.png")


@pytest.fixture(scope="module")
def own(blank):
    """A project whose experiment on a folder has been evaluated on two others."""
    project = blank()
    for name, (classes, side) in FOLDERS.items():
        for split, many in (("train", 6), ("test", 4)):
            for number in range(many):
                for each in classes:
                    draw(project.root / "data" / name / split / each, number, side)
    project.config.write_text(yaml.safe_dump(EXPERIMENT))
    answer = project.snakemake("--", TESTS)
    assert answer.returncode == 0, answer.stdout
    return project


def rows(project, table):
    with (project.folder / "tables" / f"{table}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def samples(project):
    return {(row["set"], row["samples"], row["left_out"]) for row in rows(project, "zero_shot")}


def test_every_run_has_scores_on_both_sets_and_methods_are_compared_on_them(own):
    assert not rows(own, "failures")
    assert samples(own) == {("second-scanner", "8", "4"), ("strange", "8", "0")}
    named = {row["metric"] for row in rows(own, "metrics")}
    assert {"zero-shot-second-scanner", "zero-shot-nll-second-scanner"} < named
    assert {"auroc-strange", "aupr-strange"} < named
    tested = {row["metric"] for row in rows(own, "tests")}
    assert tested <= set(EXPERIMENT["statistics"]["metrics"])
    assert len(rows(own, "zero_shot")) == 2 * (4 + 2)


def test_a_new_image_of_a_set_is_evaluated_and_trains_nothing(own):
    assert not own.planned_jobs().keys() & STAGES
    trained = own.run_times()
    draw(own.root / "data/second scanner/test/well", 99, 8)
    jobs = own.planned_jobs()
    assert jobs["prepare_dataset"] == 1
    assert "evaluate_shard" in jobs
    assert not jobs.keys() & {"draw_subset", "train_shard"}
    answer = own.snakemake("--", TESTS)
    assert answer.returncode == 0, answer.stdout
    assert samples(own) == {("second-scanner", "9", "4"), ("strange", "8", "0")}
    assert own.run_times() == trained
    assert not own.planned_jobs().keys() & STAGES


def test_a_set_more_is_prepared_and_evaluated_and_trains_nothing(own):
    for number in range(8):
        for each in "ab":
            draw(own.root / "data/more" / each, number, 8)
    own.edit("configs/tiny.yaml", "- folder:data/strange", "- folder:data/more")
    own.edit("configs/tiny.yaml", "- auroc-strange", "- auroc-more")
    jobs = own.planned_jobs()
    assert jobs["prepare_dataset"] == 1
    assert "evaluate_shard" in jobs
    assert not jobs.keys() & {"draw_subset", "train_shard"}
