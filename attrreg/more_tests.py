"""Two more looks at an experiment: over test items on one dataset, and over datasets.

Both are beside the comparisons of `attrreg.statistics.compare_all` and decide nothing. Torch-free.
"""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import load_file

from attrreg.cells import Run
from attrreg.records import read_record
from attrreg.statistics.datasets import dataset_table, friedman_nemenyi, wilcoxon_pairs
from attrreg.statistics.directions import is_higher_better
from attrreg.statistics.items import items_by_clusters

__all__ = ["ITEMS", "RANKS", "items_table", "ranks_table"]

ITEMS = [
    *("dataset", "model", "train_size", "reference", "method", "difference", "low", "high"),
    *("standard_error", "error_of_clusters", "error_of_items", "error_of_rest", "share_of_items"),
    *("n_clusters", "n_items", "missing"),
]
RANKS = [
    *("metric", "method", "other", "rank", "other_rank", "critical_difference", "difference"),
    *("p", "p_corrected", "n_datasets", "descriptive"),
]


def items_table(
    runs: Sequence[Run], folder: Path, references: Sequence[str], alpha: float
) -> pd.DataFrame:
    """Compare accuracies on each dataset, model and train size, with test items as random, too.

    How much of an uncertainty is the finite test split stands in ``share_of_items``: more seeds do
    not lower that part. Only seeds of which both methods have predictions count; the others are
    named in ``missing``. Places with fewer than two such seeds have no row.

    Parameters
    ----------
    runs
        All runs of the plan.
    folder
        Of the experiment; predictions lie in ``scores`` below it.
    references
        The methods that the others are compared with.
    alpha
        Intervals cover 1 − alpha.
    """
    found: dict[tuple[str, str, int], dict[str, dict[int, np.ndarray | None]]] = {}
    for run in runs:
        place = found.setdefault((run.dataset, run.model, run.train_size), {})
        place.setdefault(run.method, {})[run.seed] = _correct(folder / "scores" / run.path)
    rows: list[dict[str, Any]] = []
    for (dataset, model, size), methods in found.items():
        for reference, method in product(references, methods):
            row = _compared(methods[method], methods[reference], alpha)
            if method != reference and row:
                names = {"dataset": dataset, "model": model, "train_size": size}
                rows.append(names | {"reference": reference, "method": method} | row)
    return pd.DataFrame(rows, columns=ITEMS)


def _compared(
    method: dict[int, np.ndarray | None], reference: dict[int, np.ndarray | None], alpha: float
) -> dict[str, Any]:
    """Compare what two methods have right, by seed; nothing with fewer than two whole seeds."""
    ours, theirs, missing = [], [], []
    for seed, right in method.items():
        other = reference[seed]
        if right is None or other is None:
            missing.append(f"s{seed}")
        else:
            ours.append(right)
            theirs.append(other)
    if len(ours) < 2:
        return {}
    found = items_by_clusters(np.stack(ours), np.stack(theirs), 1 - alpha)
    return vars(found) | {"missing": ";".join(missing)}


def ranks_table(
    metrics: pd.DataFrame, names: Sequence[str], methods: Sequence[str], alpha: float
) -> pd.DataFrame:
    """Rank methods over datasets and compare all pairs: Friedman, Nemenyi and Wilcoxon.

    With fewer than 10 datasets rows are ``descriptive``; with fewer than 2, or than 3 methods,
    there are none.

    Parameters
    ----------
    metrics
        The table of metrics.
    names
        The metrics to rank by.
    methods
        The methods of the experiment.
    alpha
        The level of the critical difference.
    """
    rows: list[pd.DataFrame] = []
    for name in names:
        if not (metrics.metric == name).any():
            continue
        table = dataset_table(metrics, name)
        table = table[[method for method in methods if method in table.columns]]
        if len(table.dropna()) < 2 or table.shape[1] < 3:
            continue
        ranking = friedman_nemenyi(table, is_higher_better(name), alpha)
        pairs = wilcoxon_pairs(table)
        pairs["metric"], pairs["critical_difference"] = name, ranking.critical_difference
        pairs["rank"] = pairs.method.map(ranking.ranks)
        pairs["other_rank"] = pairs.other.map(ranking.ranks)
        rows.append(pairs[RANKS])
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=RANKS)


def _correct(place: Path) -> np.ndarray | None:
    """Return which test items a run has right, None if it has no scores."""
    record = read_record(place)
    if record is None or record["status"] != "finished":
        return None
    stored = load_file(place / "predictions.safetensors")
    right: np.ndarray = stored["test/logits"].argmax(1) == stored["test/labels"]
    return right
