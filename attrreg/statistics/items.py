"""Items by clusters: how much of the uncertainty on one dataset is its test set.

All seeds of a dataset are judged on the same test items. So a difference of two methods is
uncertain for two reasons, clusters (subset and initial weights) and items, and more seeds help
against the first alone.
"""

import math
from dataclasses import dataclass

import numpy as np

from attrreg.statistics.bootstrap import RESAMPLES, widened_level

__all__ = ["ItemsByClusters", "items_by_clusters"]

_BLOCK_VALUES = 2_000_000
_SEED = 20252


@dataclass(frozen=True)
class ItemsByClusters:
    """The mean difference on one dataset, and what its uncertainty comes from.

    Parameters
    ----------
    difference
        The mean of method − reference over clusters and items.
    low, high
        The percentile interval, of clusters and items drawn with replacement, as wide as the
        standard error asks for.
    standard_error
        Of the difference, for new clusters and new items.
    error_of_clusters, error_of_items, error_of_rest
        Its parts: their squares add up to its square. The rest is how clusters and items interact,
        and noise.
    share_of_items
        The share of the squared standard error that is test items, in [0, 1]; NaN where nothing
        varies. More seeds do not lower this part, a larger test set does.
    n_clusters, n_items
        How many of each there are.
    """

    difference: float
    low: float
    high: float
    standard_error: float
    error_of_clusters: float
    error_of_items: float
    error_of_rest: float
    share_of_items: float
    n_clusters: int
    n_items: int

    def __str__(self) -> str:
        """Say in one sentence what was found and where its uncertainty comes from."""
        found = f"difference {self.difference:.3g}, interval {self.low:.3g} to {self.high:.3g}"
        if math.isnan(self.share_of_items):
            return f"{found}; neither clusters nor items vary"
        return (
            f"{found}; standard error {self.standard_error:.3g}, of whose square "
            f"{100 * self.share_of_items:.0f} % is the {self.n_items} test items"
        )


def items_by_clusters(
    correct_method: np.ndarray,
    correct_reference: np.ndarray,
    level: float = 0.95,
    resamples: int = RESAMPLES,
) -> ItemsByClusters:
    """Compare two methods on one dataset, with clusters and test items as random factors.

    The standard errors are from the two-way analysis of variance of the differences, one per
    cluster and item (Searle et al. 1992). The interval resamples clusters and items independently,
    both with replacement. No resampling of two crossed factors has the right spread (McCullagh
    2000): this one counts the rest three times (Owen 2007), and few clusters too little. So the
    resampled means are scaled to the standard error, and only the shape is theirs. The level is
    widened for few clusters as in `interval`, with the degrees of freedom of Satterthwaite (1946).

    Parameters
    ----------
    correct_method, correct_reference
        (clusters, items) float or bool: whether each test item was right (0 or 1), or its loss, in
        the same order of clusters and items.
    level
        The coverage of the interval, above 0 and below 1.
    resamples
        The number of resamples, from a fixed seed.

    Raises
    ------
    ValueError
        If the arrays do not have one shape, with at least 2 clusters and 2 items, if a value is not
        finite, or an option lies outside what is allowed.

    References
    ----------
    McCullagh, Resampling and exchangeable arrays, 2000.
    Owen, The pigeonhole bootstrap, 2007.
    Satterthwaite, An approximate distribution of estimates of variance components, 1946.
    Searle, Casella & McCulloch, Variance components, 1992, section 4.3.
    """
    if not 0 < level < 1:
        raise ValueError(f"level is {level}: a coverage above 0 and below 1 is allowed")
    if resamples < 100:
        raise ValueError(f"resamples is {resamples}: at least 100 are allowed")
    method, reference = _checked(correct_method, "method"), _checked(correct_reference, "reference")
    if method.shape != reference.shape:
        raise ValueError(
            f"correct_method and correct_reference have shape {method.shape} and "
            f"{reference.shape}: one shape (clusters, items) is needed, in the same order"
        )
    differences = method - reference
    n_clusters, n_items = differences.shape
    clusters, items, rest = _mean_squares(differences)
    # Estimated parts can fall below zero by chance; then there is no sign of that factor.
    variances = np.array([max(clusters - rest, 0.0), max(items - rest, 0.0), rest])
    variances = variances / differences.size
    variance = float(variances.sum())
    mean = float(differences.mean())
    deviations = _two_way_means(differences, resamples) - mean
    if variance > 0:
        deviations *= math.sqrt(variance) / deviations.std()
    widened = widened_level(level, _freedom(differences.shape, clusters, items, rest))
    low, high = mean + np.quantile(deviations, [(1 - widened) / 2, (1 + widened) / 2])
    return ItemsByClusters(
        difference=mean,
        low=float(low),
        high=float(high),
        standard_error=math.sqrt(variance),
        error_of_clusters=math.sqrt(variances[0]),
        error_of_items=math.sqrt(variances[1]),
        error_of_rest=math.sqrt(variances[2]),
        share_of_items=float(variances[1]) / variance if variance > 0 else math.nan,
        n_clusters=n_clusters,
        n_items=n_items,
    )


def _checked(values: np.ndarray, name: str) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or min(values.shape) < 2:
        raise ValueError(
            f"correct_{name} has shape {values.shape}: (clusters, items) with at least 2 of each "
            "is needed"
        )
    if not np.isfinite(values).all():
        bad = np.argwhere(~np.isfinite(values))[0].tolist()
        raise ValueError(
            f"correct_{name} is {values[tuple(bad)]} at cluster {bad[0]}, item {bad[1]}: only "
            "finite numbers are allowed; leave out a cluster whose run is missing"
        )
    return values


def _mean_squares(differences: np.ndarray) -> tuple[float, float, float]:
    """Return the mean squares of clusters, of items and of the rest."""
    n_clusters, n_items = differences.shape
    mean = differences.mean()
    of_clusters = differences.mean(axis=1, keepdims=True) - mean
    of_items = differences.mean(axis=0, keepdims=True) - mean
    rest = differences - mean - of_clusters - of_items
    return (
        float(n_items * np.sum(of_clusters**2) / (n_clusters - 1)),
        float(n_clusters * np.sum(of_items**2) / (n_items - 1)),
        float(np.sum(rest**2) / ((n_clusters - 1) * (n_items - 1))),
    )


def _freedom(shape: tuple[int, ...], clusters: float, items: float, rest: float) -> float:
    """Return the degrees of freedom of the estimated variance of the mean."""
    n_clusters, n_items = shape
    total = max(clusters + items - rest, rest)
    parts = clusters**2 / (n_clusters - 1) + items**2 / (n_items - 1)
    parts += rest**2 / ((n_clusters - 1) * (n_items - 1))
    return total**2 / parts if parts > 0 else 1.0


def _two_way_means(differences: np.ndarray, resamples: int) -> np.ndarray:
    """Return the means over clusters and items that are both drawn with replacement."""
    generator = np.random.default_rng(_SEED)
    n_clusters, n_items = differences.shape
    block = max(1, _BLOCK_VALUES // max(n_clusters, n_items))
    means = []
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        clusters = _drawn_counts(generator, n_clusters, size)
        items = _drawn_counts(generator, n_items, size)
        means.append(np.einsum("ri,ri->r", clusters @ differences, items) / differences.size)
    return np.concatenate(means)


def _drawn_counts(generator: np.random.Generator, n: int, size: int) -> np.ndarray:
    """Return (size, n) float: how often each of n is drawn, in n draws with replacement."""
    places = generator.integers(n, size=(size, n)) + n * np.arange(size)[:, None]
    return np.bincount(places.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)
