"""Tables beside the comparisons: over test items, and over datasets."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from experiments import planned
from safetensors.numpy import save_file

from attrreg.files import write_json
from attrreg.more_tests import ITEMS, RANKS, items_table, ranks_table

ITEM_COUNT = 40


@pytest.fixture
def plan():
    return planned({"grid.methods": ["baseline", "sgt", "dropout"], "grid.seeds": [0, 1, 2, 3]})


def predicted(folder, run, right):
    """Leave the predictions of a run that has some test items right."""
    place = folder / "scores" / run.path
    place.mkdir(parents=True)
    logits = np.where(right[:, None], [0.0, 1.0], [1.0, 0.0]).astype(np.float32)
    labels = np.ones(len(right), dtype=np.int64)
    save_file({"test/logits": logits, "test/labels": labels}, place / "predictions.safetensors")
    write_json(place / "run.json", {"status": "finished", "digest": "x"})


def test_a_difference_that_every_seed_and_item_shows_is_found(plan, tmp_path):
    generator = np.random.default_rng(0)
    for run in plan.runs:
        share = {"baseline": 0.5, "sgt": 0.9, "dropout": 0.5}[run.method]
        predicted(tmp_path, run, generator.random(ITEM_COUNT) < share)
    table = items_table(plan.runs, tmp_path, ["baseline"], 0.05)
    assert list(table.columns) == ITEMS
    assert list(table.method) == ["sgt", "dropout"]
    sgt, dropout = table.iloc[0], table.iloc[1]
    assert sgt.low > 0
    assert dropout.low < 0 < dropout.high
    assert (sgt.n_clusters, sgt.n_items, sgt.missing) == (4, ITEM_COUNT, "")


def test_seeds_without_predictions_are_named_and_too_few_give_no_row(plan, tmp_path):
    right = np.arange(ITEM_COUNT) % 2 == 0
    for run in plan.runs:
        if not (run.method == "sgt" and run.seed == 2) and not (
            run.method == "dropout" and run.seed > 0
        ):
            predicted(tmp_path, run, right)
    table = items_table(plan.runs, tmp_path, ["baseline"], 0.05)
    assert list(table.method) == ["sgt"]
    assert (table.missing[0], table.n_clusters[0], table.difference[0]) == ("s2", 3, 0.0)


def test_an_experiment_without_scores_has_empty_tables(plan, tmp_path):
    assert items_table(plan.runs, tmp_path, ["baseline"], 0.05).empty
    metrics = pd.DataFrame(
        columns=["dataset", "model", "method", "train_size", "seed", "metric", "value"]
    )
    assert list(ranks_table(metrics, ["accuracy"], ["baseline"], 0.05).columns) == RANKS


@pytest.mark.parametrize(("datasets", "descriptive"), [(3, True), (10, False)])
def test_methods_are_ranked_over_datasets(plan, datasets, descriptive):
    rows = [
        {**replace(run, dataset=f"d{number}").key, "metric": "nll", "value": value + number}
        for number in range(datasets)
        for run in plan.runs
        for value in [{"baseline": 2.0, "sgt": 1.0, "dropout": 3.0}[run.method]]
    ]
    methods = ["baseline", "sgt", "dropout"]
    table = ranks_table(pd.DataFrame(rows), ["nll", "absent"], methods, 0.05)
    ranks = dict(zip(table.method, table["rank"], strict=True))
    assert ranks["sgt"] == 1
    assert ranks["baseline"] == 2
    assert set(table.descriptive) == {descriptive}
    assert len(table) == 3
