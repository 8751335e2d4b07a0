"""Small tidy tables of metrics."""

import itertools

import numpy as np
import pandas as pd

from attrreg.statistics import compare

__all__ = ["against_zero", "table"]

COLUMNS = ["dataset", "model", "method", "train_size", "seed", "metric", "value"]


def table(values, metric="accuracy", sizes=(50,), dataset="digits", model="resnet"):
    """Make a table from {method: one value per (seed, size), sizes varying fastest}."""
    rows = []
    for method, per_run in values.items():
        runs = itertools.product(range(len(per_run) // len(sizes)), sizes)
        for (seed, size), value in zip(runs, per_run, strict=True):
            rows.append((dataset, model, method, size, seed, metric, value))
    return pd.DataFrame(rows, columns=COLUMNS)


def against_zero(differences, **options):
    """Compare a method that has these values with a baseline that has zeros."""
    metrics = table({"baseline": np.zeros(len(differences)), "ours": differences})
    return compare(metrics, "accuracy", "baseline", **options).iloc[0]
