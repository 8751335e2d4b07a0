"""The smallest true difference that a design can see; standard library only.

A plan asks this before anything runs, and starting scipy would take longer than the plan. The tail
of the noncentral t distribution is the normal tail averaged over the estimated spread s of a
standard normal sample,

    P(T > t) = E[Φ(δ − t·s)],  s² ~ χ²(ν) / ν,

a smooth integral over log s that the trapezoidal rule gives to about seven digits.

References
----------
Johnson, Kotz & Balakrishnan, Continuous univariate distributions, volume 2, 1995, chapter 31.
"""

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from statistics import NormalDist

from attrreg.statistics.choices import check_choice
from attrreg.statistics.design import ALTERNATIVES, clusters_needed

__all__ = ["clusters_to_see", "plan_power", "smallest_visible"]

_NODES = 1000
_HALVINGS = 45


def smallest_visible(
    n_clusters: int,
    deviation: float,
    alpha: float = 0.05,
    family: int = 1,
    power: float = 0.8,
    alternative: str = "two-sided",
) -> float:
    """Return the smallest true difference that a paired t test finds with this power.

    Parameters
    ----------
    n_clusters
        The number of clusters (dataset, seed), at least 0.
    deviation
        The standard deviation of the paired differences between clusters, in the metric's unit.
    alpha
        The level of the test, above 0 and below 1.
    family
        The number of comparisons that are corrected together; the smallest p of a family has to
        stay below alpha / family, by Holm as by Benjamini-Hochberg.
    power
        The wanted chance of finding the difference, above alpha and below 1.
    alternative
        ``"two-sided"``, ``"greater"`` or ``"less"``.

    Returns
    -------
    float
        In the unit of ``deviation``; infinity below two clusters.

    Raises
    ------
    ValueError
        If an argument lies outside what is allowed.

    References
    ----------
    Cohen, Statistical power analysis for the behavioral sciences, 1988, section 2.3.
    """
    check_choice("alternative", alternative, ALTERNATIVES)
    _check(n_clusters, deviation, alpha, family, power)
    if n_clusters < 2:
        return math.inf
    sides = 2 if alternative == "two-sided" else 1
    return deviation * _visible_effect(n_clusters, alpha / family / sides, power)


def clusters_to_see(
    difference: float,
    deviation: float,
    alpha: float = 0.05,
    family: int = 1,
    power: float = 0.8,
) -> int:
    """Return about how many clusters a two-sided paired t test needs to find a difference.

    An approximation by the normal distribution, one cluster off at most for what plans ask (a
    power of .8, families up to 20); never below `clusters_needed`.

    Parameters
    ----------
    difference, deviation
        The true difference, above 0, and the standard deviation of the paired differences between
        clusters, in the same unit.
    alpha, family, power
        As in `smallest_visible`.

    Raises
    ------
    ValueError
        If an argument lies outside what is allowed.

    References
    ----------
    Guenther, Sample size formulas for normal theory t tests, The American Statistician 35(4), 1981.
    """
    _check(1, deviation, alpha, family, power)
    if not 0 < difference < math.inf:
        raise ValueError(f"difference is {difference}: a finite number above 0 is allowed")
    normal = NormalDist()
    tail = normal.inv_cdf(1 - alpha / family / 2)
    sizes = ((tail + normal.inv_cdf(power)) * deviation / difference) ** 2 + tail**2 / 2
    return max(math.ceil(sizes), clusters_needed(alpha, family))


def plan_power(
    n_clusters: int,
    deviations: Mapping[str, float],
    alpha: float = 0.05,
    family: int = 1,
    power: float = 0.8,
    alternative: str = "two-sided",
) -> dict[str, float]:
    """Return the smallest visible difference for each of several assumed spreads.

    Parameters
    ----------
    n_clusters
        The number of clusters that the plan has.
    deviations
        What to call each spread, such as ``"n = 50"``, and the assumed standard deviation of the
        paired differences between clusters.
    alpha, family, power, alternative
        As in `smallest_visible`.

    Returns
    -------
    dict
        The smallest visible difference by name, in the order and unit of ``deviations``.
    """
    return {
        name: smallest_visible(n_clusters, deviation, alpha, family, power, alternative)
        for name, deviation in deviations.items()
    }


def _check(n_clusters: int, deviation: float, alpha: float, family: int, power: float) -> None:
    if n_clusters < 0:
        raise ValueError(f"n_clusters is {n_clusters}: a count of at least 0 is allowed")
    if not 0 <= deviation < math.inf:
        raise ValueError(f"deviation is {deviation}: a finite number of at least 0 is allowed")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha}: a level above 0 and below 1 is allowed")
    if family < 1:
        raise ValueError(f"family is {family}: at least 1 comparison is allowed")
    if not alpha < power < 1:
        raise ValueError(f"power is {power}: a chance above alpha ({alpha}) and below 1 is allowed")


@lru_cache(maxsize=1024)
def _visible_effect(n_clusters: int, tail: float, power: float) -> float:
    """Return the smallest visible difference in standard deviations."""
    freedom = n_clusters - 1
    threshold = _rising_root(lambda t: tail - _exceeds(t, 0.0, freedom))
    shift = _rising_root(lambda delta: _exceeds(threshold, delta, freedom) - power)
    return shift / math.sqrt(n_clusters)


def _exceeds(threshold: float, shift: float, freedom: int) -> float:
    """Return the chance that noncentral t lies above the threshold."""
    return 0.5 * sum(
        weight * math.erfc((threshold * spread - shift) / math.sqrt(2))
        for spread, weight in _spreads(freedom)
    )


@lru_cache(maxsize=16)
def _spreads(freedom: int) -> list[tuple[float, float]]:
    """Return values of the estimated spread and their probabilities, which add up to 1.

    The range of log s leaves out less than 1e-10 of the probability on each side: above by the
    bound of Laurent & Massart (2000), below because the density falls as s^ν.
    """
    low = -(25 / freedom + 9 / math.sqrt(2 * freedom))
    high = 0.5 * math.log(1 + 2 * math.sqrt(40 / freedom) + 80 / freedom)
    step = (high - low) / _NODES
    constant = math.log(2 * step) + freedom / 2 * math.log(freedom / 2) - math.lgamma(freedom / 2)
    logs = [low + step * i for i in range(_NODES + 1)]
    return [(math.exp(u), math.exp(constant + freedom * (u - math.exp(2 * u) / 2))) for u in logs]


def _rising_root(function: Callable[[float], float]) -> float:
    """Return where a rising function of positive numbers crosses zero."""
    low, high = 0.0, 4.0
    while function(high) < 0:
        low, high = high, 2 * high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) < 0 else (low, middle)
    return high
