"""Methods over many datasets: ranks, the Friedman and Nemenyi tests, and Wilcoxon by pairs.

Here a dataset counts once, by its mean over seeds, models and train sizes. It is the only unit that
says something of datasets not tried. scipy.stats takes long to import and is imported when used.
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from attrreg.statistics.choices import check_choice
from attrreg.statistics.correction import CORRECTIONS, corrected
from attrreg.statistics.pairing import metric_table

__all__ = ["FEWEST_DATASETS", "Ranking", "dataset_table", "friedman_nemenyi", "wilcoxon_pairs"]

# Below this, the χ² approximation of Friedman's test is poor (Demšar 2006: more than 10).
FEWEST_DATASETS = 10
# Values that should tie differ by rounding; relative to the largest, this much is a tie.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Ranking:
    """Methods ranked over datasets.

    Parameters
    ----------
    ranks
        The average rank by method, 1 for the best, in ascending order.
    statistic, p
        Friedman's χ², corrected for ties, and its p; p is 1 where all methods tie everywhere.
    critical_difference
        Average ranks that differ by at least this are different by Nemenyi's test.
    nemenyi
        p of Nemenyi's test by pairs of methods, in the order of ``ranks``.
    groups
        The largest groups of methods, each in the order of ``ranks``, whose ranks all lie closer
        than the critical difference.
    n_datasets
        The datasets ranked; ``left_out`` names those that lack a value.
    left_out
        The datasets without a finite value of every method.
    descriptive
        Whether there are fewer than 10 datasets: ranks are then a description and p no test.
    """

    ranks: pd.Series
    statistic: float
    p: float
    critical_difference: float
    nemenyi: pd.DataFrame
    groups: tuple[tuple[str, ...], ...]
    n_datasets: int
    left_out: tuple[str, ...]
    descriptive: bool


def dataset_table(metrics: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return the mean of a metric by dataset and method: (datasets, methods) float64.

    A method that lacks a run on a dataset that another method has there is NaN on it: means over
    different runs cannot be compared.

    Parameters
    ----------
    metrics
        Columns dataset, model, method, train_size, seed, metric, value; one row per run and metric.
    metric
        The metric; ``"error"`` is 1 − accuracy if the table has no such rows.

    Raises
    ------
    ValueError
        If the table is not as described, or has no rows of the metric.
    """
    table = metric_table(metrics, metric)
    if table.empty:
        check_choice("metric", metric, metrics["metric"].unique())
    value = table["value"].where(np.isfinite(table["value"].to_numpy(dtype=np.float64)))
    keys = ["dataset", "model", "train_size", "seed"]
    runs = table.assign(value=value).pivot(index=keys, columns="method", values="value")
    by_dataset = runs.groupby(level="dataset")
    return by_dataset.mean().where(by_dataset.count().eq(by_dataset.size(), axis=0))


def friedman_nemenyi(
    table: pd.DataFrame, higher_is_better: bool = True, alpha: float = 0.05
) -> Ranking:
    """Rank methods over datasets, and test which ranks differ.

    Parameters
    ----------
    table
        (datasets, methods) float, a value per dataset (rows) and method (columns), such as
        `dataset_table` makes; at least 2 complete datasets and 3 methods.
    higher_is_better
        The direction of the values.
    alpha
        The level of the critical difference, above 0 and below 1.

    Raises
    ------
    ValueError
        If there are too few methods or complete datasets, or alpha is not a level.

    References
    ----------
    Friedman, The use of ranks to avoid the assumption of normality, 1937.
    Nemenyi, Distribution-free multiple comparisons, 1963.
    Demšar, Statistical comparisons of classifiers over multiple data sets, 2006, section 3.2.2.
    """
    from scipy import stats

    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha}: a level above 0 and below 1 is allowed")
    values, left_out = _complete(table, fewest_methods=3)
    n, k = values.shape
    losses = _whole(-values if higher_is_better else values, values)
    by_dataset = stats.rankdata(losses, axis=1)
    order = np.argsort(by_dataset.mean(axis=0), kind="stable")
    names = [str(table.columns[i]) for i in order]
    ranks = by_dataset.mean(axis=0)[order]
    # With all methods tied on all datasets the correction for ties divides by zero.
    tied = bool((by_dataset == by_dataset[:, :1]).all())
    test = (0.0, 1.0) if tied else stats.friedmanchisquare(*by_dataset.T)
    # The studentized range is that of k means, whose differences have √2 times their deviation.
    deviation = math.sqrt(k * (k + 1) / (12 * n))
    apart = np.abs(ranks[:, None] - ranks) / deviation
    critical = float(stats.studentized_range.ppf(1 - alpha, k, np.inf)) * deviation
    nemenyi = stats.studentized_range.sf(apart, k, np.inf)
    np.fill_diagonal(nemenyi, 1.0)
    return Ranking(
        ranks=pd.Series(ranks, index=names, name="rank"),
        statistic=float(test[0]),
        p=float(test[1]),
        critical_difference=critical,
        nemenyi=pd.DataFrame(nemenyi, index=names, columns=names),
        groups=_groups(names, ranks, critical),
        n_datasets=n,
        left_out=left_out,
        descriptive=n < FEWEST_DATASETS,
    )


def wilcoxon_pairs(table: pd.DataFrame, correction: str = "holm") -> pd.DataFrame:
    """Compare all pairs of methods over datasets by Wilcoxon's signed-rank test.

    Datasets on which two methods tie are left out of their test. Up to 50 datasets without ties
    between the sizes of their differences, p is exact; see `scipy.stats.wilcoxon` for the others.

    Parameters
    ----------
    table
        (datasets, methods) float, as in `friedman_nemenyi`; at least 2 methods.
    correction
        ``"holm"``, ``"benjamini-hochberg"`` or ``"none"``; the family is all pairs.

    Returns
    -------
    pandas.DataFrame
        One row per pair, in the order of the columns: ``method``, ``other``, ``difference`` (the
        median of method − other), ``statistic``, ``p`` (1 where the two tie on all datasets),
        ``p_corrected``, ``n_datasets``, ``n_tied``, ``left_out`` (datasets without a finite value
        of every method, joined by ``;``), ``descriptive`` (fewer than 10 datasets).

    Raises
    ------
    ValueError
        If there are too few methods or complete datasets, or the correction is unknown.

    References
    ----------
    Wilcoxon, Individual comparisons by ranking methods, 1945.
    Demšar, Statistical comparisons of classifiers over multiple data sets, 2006, section 3.1.3.
    Benavoli, Corani & Mangili, Should we really use post-hoc tests based on mean-ranks?, 2016.
    """
    from scipy import stats

    check_choice("correction", correction, CORRECTIONS)
    values, left_out = _complete(table, fewest_methods=2)
    rows = []
    for i, j in itertools.combinations(range(values.shape[1]), 2):
        differences = values[:, i] - values[:, j]
        whole = _whole(differences, values)
        tied = whole == 0
        test = (0.0, 1.0) if tied.all() else stats.wilcoxon(whole)
        rows.append(
            {
                "method": str(table.columns[i]),
                "other": str(table.columns[j]),
                "difference": float(np.median(differences)),
                "statistic": float(test[0]),
                "p": float(test[1]),
                "n_datasets": len(values),
                "n_tied": int(tied.sum()),
                "left_out": ";".join(left_out),
                "descriptive": len(values) < FEWEST_DATASETS,
            }
        )
    pairs = pd.DataFrame(rows)
    pairs.insert(5, "p_corrected", corrected(pairs["p"].to_numpy(), correction))
    return pairs


def _complete(table: pd.DataFrame, fewest_methods: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the values of the datasets that have all methods, and the names of the others."""
    n_methods = len(table.columns)
    if n_methods < fewest_methods:
        raise ValueError(
            f"the table has {n_methods} methods ({', '.join(map(str, table.columns))}): at least "
            f"{fewest_methods} are needed, one per column"
        )
    values = table.to_numpy(dtype=np.float64)
    complete = np.isfinite(values).all(axis=1)
    left_out = tuple(str(name) for name in table.index[~complete])
    if complete.sum() < 2:
        raise ValueError(
            f"{int(complete.sum())} of {len(table)} datasets have a finite value of every method: "
            f"at least 2 are needed; incomplete are {', '.join(left_out) or 'none'}"
        )
    return values[complete], left_out


def _whole(values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return the values in whole units so small that only rounding is lost: it must not rank."""
    unit = _ROUNDING * np.abs(scale).max()
    return np.round(values / unit) if unit > 0 else values


def _groups(names: list[str], ranks: np.ndarray, critical: float) -> tuple[tuple[str, ...], ...]:
    """Return the largest runs of sorted ranks that lie closer than the critical difference."""
    ends = [int(np.searchsorted(ranks - rank, critical)) for rank in ranks]
    runs = [(start, end) for start, end in enumerate(ends) if end > max([0, *ends[:start]])]
    return tuple(tuple(names[start:end]) for start, end in runs)
