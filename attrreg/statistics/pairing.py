"""From a tidy table to one difference per cluster."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

__all__ = ["KEYS", "Pairing", "metric_table", "pair", "run_names", "stored_as"]

KEYS = ["dataset", "model", "method", "train_size", "seed"]
_CLUSTER = ["dataset", "seed"]
_CELL = ["dataset", "model", "train_size"]
# Differences below this share of the values are what is left of equal values after averaging.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Pairing:
    """The paired differences of a method and its reference.

    Parameters
    ----------
    differences
        (S,) float64, method − reference, one for each complete cluster (dataset, seed).
    n_pairs
        The number of cells that the differences average.
    missing
        The runs without a finite value, as ``dataset/model/method/n<train_size>/s<seed>``.
    failed
        Those of them that are known to have failed.
    dropped
        The clusters that are incomplete for it, as ``dataset/s<seed>``.
    """

    differences: np.ndarray
    n_pairs: int
    missing: tuple[str, ...]
    failed: tuple[str, ...]
    dropped: tuple[str, ...]


def metric_table(metrics: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return the rows of one metric, after checking that they can be compared.

    ``error`` is 1 − ``accuracy`` where the table has no rows of its own for it.

    Raises
    ------
    ValueError
        If a column is missing, a key is empty, values are not numbers, or a run has two values.
    """
    wanted = [*KEYS, "metric", "value"]
    absent = [column for column in wanted if column not in metrics.columns]
    if absent:
        raise ValueError(
            f"the metrics table lacks the columns {absent}: found {list(metrics.columns)}; "
            f"one row per run and metric with the columns {wanted} is needed"
        )
    stored = stored_as(metrics, metric)
    table = metrics.loc[metrics["metric"] == stored, [*KEYS, "value"]]
    empty = table[KEYS].isna().any()
    if empty.any():
        raise ValueError(
            f"metric {metric!r} has rows with an empty {empty.idxmax()}: "
            f"every row needs {', '.join(KEYS)}"
        )
    if len(table) and not pd.api.types.is_numeric_dtype(table["value"]):
        raise ValueError(
            f"the values of metric {metric!r} have dtype {table['value'].dtype}: "
            "only numbers are allowed"
        )
    twice = table[table.duplicated(KEYS)]
    if len(twice):
        raise ValueError(
            f"metric {metric!r} has more than one value for {run_names(twice)[0]}"
            f"{f' and {len(twice) - 1} more' if len(twice) > 1 else ''}: one value per run and "
            "metric is allowed; drop the duplicate rows"
        )
    return table if stored == metric else table.assign(value=1 - table["value"])


def stored_as(metrics: pd.DataFrame, metric: str) -> str:
    """Return the metric whose rows are read for this one: accuracy for an error rate."""
    derived = metric == "error" and not (metrics["metric"] == metric).any()
    return "accuracy" if derived else metric


def pair(
    table: pd.DataFrame,
    method: str,
    reference: str,
    failed: Collection[str] = (),
    assumed: Mapping[str, float] | None = None,
) -> Pairing:
    """Pair a method with its reference, run by run, and average within each cluster.

    The cells expected in each cluster of the table are those that either of the two has in this
    dataset with any seed. A cluster counts only if both have all of them, so that the clusters of a
    dataset average the same cells. A value that is NaN or infinite is missing.

    Parameters
    ----------
    table
        What `metric_table` returns.
    method, reference
        The names of the two.
    failed
        Names of runs that failed. Those of other methods do not matter.
    assumed
        A value for all failed runs of a method, by its name; they are then not missing.
    """
    rows = table[table["method"].isin([method, reference])]
    clusters = table[_CLUSTER].drop_duplicates()
    runs = clusters.merge(rows[_CELL].drop_duplicates(), on="dataset")
    runs = runs.sort_values([*_CLUSTER, "model", "train_size"], ignore_index=True)
    value, missing = {}, []
    names = table["method"].unique() if failed else []
    for name in (reference, method):
        value[name] = _values(rows, runs, name)
        if assumed and name in assumed:
            gaps = np.isnan(value[name]) & np.isin(_names_of(runs, name), list(failed))
            value[name] = np.where(gaps, assumed[name], value[name])
        missing += _names_of(runs[np.isnan(value[name])], name)
        # Where neither of the two has the cell with any seed, only the failures know of it.
        unknown = {run for run in failed if _method_of(run, [*names, method, reference]) == name}
        missing += sorted(unknown.difference(_names_of(runs, name))) if unknown else []
    runs["difference"] = value[method] - value[reference]

    by_cluster = runs.groupby(_CLUSTER)["difference"].agg(["mean", "size", "count"])
    complete = by_cluster["size"] == by_cluster["count"]
    differences = by_cluster.loc[complete, "mean"].to_numpy(dtype=np.float64)
    scale = np.nanmax(np.abs(np.concatenate([*value.values(), [0.0]])))
    return Pairing(
        differences=np.where(np.abs(differences) <= _ROUNDING * scale, 0.0, differences),
        n_pairs=int(by_cluster.loc[complete, "size"].sum()),
        missing=tuple(missing),
        failed=tuple(run for run in missing if run in failed),
        dropped=tuple(f"{dataset}/s{seed}" for dataset, seed in by_cluster.index[~complete]),
    )


def run_names(runs: pd.DataFrame) -> list[str]:
    """Return the names of runs, such as ``digits/resnet18/sgt/n50/s0``, from their five keys."""
    keys: Iterable[tuple] = runs[KEYS].itertuples(index=False, name=None)
    return [f"{data}/{model}/{method}/n{size}/s{seed}" for data, model, method, size, seed in keys]


def _values(rows: pd.DataFrame, runs: pd.DataFrame, method: str) -> np.ndarray:
    """Return the method's value for each of the runs, NaN where it has no finite one."""
    own = rows.loc[rows["method"] == method, [*_CELL, "seed", "value"]]
    values = runs.merge(own, how="left", on=[*_CELL, "seed"])["value"].to_numpy(dtype=np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def _names_of(runs: pd.DataFrame, method: str) -> list[str]:
    return run_names(runs.assign(method=method))


def _method_of(run: str, methods: Iterable[str]) -> str | None:
    """Return the method in a run's name: the longest that fits, as names may hold slashes."""
    before = run.rpartition("/n")[0]
    fitting = [method for method in methods if before.endswith(f"/{method}")]
    return max(fitting, key=len, default=None)
