"""Paired t: interval, p, effect size, and the number of clusters for a wanted power.

One difference per cluster. Clusters that all agree (no spread, up to rounding) leave t undefined:
p is NaN, the interval has no width, and the effect is 0 or undefined.
"""

import bisect
import math

import numpy as np
from scipy import special

from attrreg.statistics.permutation import ROUNDING

__all__ = ["clusters_for_power", "effect_size", "spread", "t_interval", "t_test_p"]


def spread(differences: np.ndarray) -> float:
    """Return the standard deviation (ddof 1): NaN below two clusters, 0 if all agree."""
    if differences.size < 2:
        return math.nan
    deviation = float(np.std(differences, ddof=1))
    return deviation if deviation > ROUNDING * np.abs(differences).max() else 0.0


def t_interval(differences: np.ndarray, level: float) -> tuple[float, float]:
    """Return the two-sided t interval of the mean difference.

    Parameters
    ----------
    differences
        (S,) float.
    level
        The coverage, such as 0.95.

    Returns
    -------
    tuple of float
        Low and high; NaN below two clusters, the mean twice where all clusters agree.
    """
    if differences.size < 2:
        return math.nan, math.nan
    quantile = special.stdtrit(differences.size - 1, (1 + level) / 2)
    half = float(quantile * spread(differences) / math.sqrt(differences.size))
    mean = float(differences.mean())
    return mean - half, mean + half


def t_test_p(differences: np.ndarray, alternative: str) -> float:
    """Return p of the paired t test; NaN where the clusters have no spread or are fewer than 2."""
    if not spread(differences) > 0:
        return math.nan
    t = differences.mean() / (spread(differences) / math.sqrt(differences.size))
    tail = {"two-sided": -abs(t), "greater": -t, "less": t}[alternative]
    p = float(special.stdtr(differences.size - 1, tail))
    return 2 * p if alternative == "two-sided" else p


def effect_size(differences: np.ndarray) -> float:
    """Return Cohen's d_z: the mean difference over its standard deviation.

    It is 0 where all differences are zero; NaN below two clusters, and where all clusters agree on
    another value (the limit is infinite). With few clusters it overestimates: with 5 by a quarter.

    References
    ----------
    Cohen, Statistical power analysis for the behavioral sciences, 1988, section 2.3.
    """
    deviation = spread(differences)
    if deviation > 0:
        return float(differences.mean()) / deviation
    return 0.0 if deviation == 0 and not differences.any() else math.nan


def clusters_for_power(
    effect: float,
    alpha: float,
    alternative: str = "two-sided",
    power: float = 0.8,
    limit: int = 10_000,
) -> float:
    """Return the fewest clusters with which a paired t test finds the effect with this power.

    Parameters
    ----------
    effect
        Cohen's d_z, assumed to be the true one.
    alpha
        The level of the test.
    alternative
        ``"two-sided"``, ``"greater"`` or ``"less"``.
    power
        The wanted chance of finding the effect.
    limit
        Where the search ends.

    Returns
    -------
    float
        A whole number from 2 to ``limit``; infinity where that does not suffice, as for an effect
        of 0 or one that points away from a one-sided alternative.
    """
    toward = {"two-sided": abs(effect), "greater": effect, "less": -effect}[alternative]
    if toward <= 0:
        return math.inf
    tail = alpha / 2 if alternative == "two-sided" else alpha

    def achieved(n_clusters: int) -> float:
        freedom = n_clusters - 1
        threshold = -special.stdtrit(freedom, tail)
        return 1 - float(special.nctdtr(freedom, toward * math.sqrt(n_clusters), threshold))

    upper = 2
    while upper < limit and achieved(upper) < power:
        upper = min(2 * upper, limit)
    if achieved(upper) < power:
        return math.inf
    sizes = range(2, upper + 1)
    return float(sizes[bisect.bisect_left(sizes, power, key=achieved, hi=len(sizes) - 1)])
