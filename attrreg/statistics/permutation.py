"""The sign-flip permutation test of paired differences, and the interval that it gives."""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from attrreg.statistics.choices import check_choice
from attrreg.statistics.design import ALTERNATIVES

__all__ = ["ROUNDING", "check_finite", "permutation_interval", "sign_flip_p"]

# Sums that should tie differ by rounding; relative to the sum of magnitudes, this much is a tie.
ROUNDING = 1e-10
_EXACT_CLUSTERS = 16
_DRAWS = 2**16 - 1
_BLOCK = 4096
_SEED = 20250


def sign_flip_p(differences: np.ndarray, alternative: str = "two-sided") -> float:
    """Test whether paired differences are symmetric about zero.

    Up to 16 differences, all 2^S sign patterns are enumerated and p is exact: the share of patterns
    whose mean is at least as extreme as the observed one, ties included. Above, 65,535 patterns are
    drawn from a fixed seed and the observed one is added to them, so that p is valid and at least
    2^−16 (Phipson & Smyth 2010).

    Parameters
    ----------
    differences
        (S,) float, one finite difference per cluster. Without any, p is 1.
    alternative
        ``"two-sided"``; ``"greater"``: the mean lies above zero; ``"less"``: below.

    Returns
    -------
    float
        p, above 0 and at most 1.

    Raises
    ------
    ValueError
        If a difference is not finite, or the alternative is unknown.

    References
    ----------
    Fisher, The Design of Experiments, 1935, section 21.
    Phipson & Smyth, Permutation p-values should never be zero, 2010.
    """
    check_choice("alternative", alternative, ALTERNATIVES)
    differences = check_finite(differences)
    tolerance = ROUNDING * np.abs(differences).sum()
    observed = _extremeness(differences.sum(), alternative) - tolerance
    if differences.size <= _EXACT_CLUSTERS:
        return float(np.mean(_extremeness(_all_totals(differences), alternative) >= observed))
    as_extreme = sum(
        int(np.count_nonzero(_extremeness(signs @ differences, alternative) >= observed))
        for signs in _sign_blocks(differences.size)
    )
    return (as_extreme + 1) / (_DRAWS + 1)


def permutation_interval(differences: np.ndarray, level: float) -> tuple[float, float]:
    """Return the mean differences that the two-sided sign-flip test does not reject.

    The test of the mean μ flips the signs of d − μ. A sign pattern is at least as extreme as the
    observed one exactly where μ lies between the mean of the clusters that it flips and the mean of
    the others. So p is a number of intervals that all hold the observed mean, it falls away from
    there on both sides, and each end is one of theirs: nothing has to be searched. The patterns are
    those of `sign_flip_p`, so that the interval leaves out 0 exactly if its p is at most 1 − level.

    Parameters
    ----------
    differences
        (S,) float, one finite difference per cluster.
    level
        The coverage, such as 0.95: at least this, if the differences are symmetric.

    Returns
    -------
    tuple of float
        Low and high; NaN without clusters; infinite if no p can be as small as 1 − level, which at
        95 % needs 6 clusters.

    Raises
    ------
    ValueError
        If a difference is not finite.

    References
    ----------
    Tritchler, On inverting permutation tests, 1984.
    Lehmann & Romano, Testing statistical hypotheses, 2005, section 5.14.
    """
    differences = check_finite(differences)
    if not differences.size:
        return np.nan, np.nan
    lows, highs = _pattern_ends(differences)
    # So many of the most distant ends may be left out before p rises above 1 − level. The product
    # is a whole number for levels such as 1 − 1/32, which rounding must not move.
    last = int((1 - level) * lows.size + 1e-6)
    ends = np.partition(lows, last)[last], np.partition(highs, -1 - last)[-1 - last]
    tolerance = ROUNDING * np.abs(differences).sum()
    low, high = (0.0 if abs(end) <= tolerance else float(end) for end in ends)
    return low, high


def check_finite(differences: np.ndarray) -> np.ndarray:
    """Return the differences as float64 after checking that all are finite numbers."""
    differences = np.asarray(differences, dtype=np.float64)
    if not np.isfinite(differences).all():
        raise ValueError(f"differences are {differences}: only finite numbers are allowed")
    return differences


def _extremeness(totals: np.ndarray, alternative: str) -> np.ndarray:
    """Return what is large where the null hypothesis is doubtful."""
    if alternative == "two-sided":
        return np.abs(totals)
    return totals if alternative == "greater" else -totals


def _all_totals(differences: np.ndarray) -> np.ndarray:
    """Return the (2^S,) sums of the differences under all sign patterns."""
    totals = np.zeros(1)
    for difference in differences:
        totals = np.concatenate((totals + difference, totals - difference))
    return totals


def _sign_blocks(n_clusters: int) -> Iterator[np.ndarray]:
    """Yield (block, S) random sign patterns in blocks, so that memory stays small."""
    signs = _drawn_signs(n_clusters)
    for start in range(0, _DRAWS, _BLOCK):
        yield signs[start : start + _BLOCK].astype(np.float64)


@lru_cache(maxsize=2)
def _drawn_signs(n_clusters: int) -> np.ndarray:
    """Return (65,535, S) int8: the same random sign patterns for all that have S clusters."""
    generator = np.random.default_rng(_SEED)
    signs = np.empty((_DRAWS, n_clusters), dtype=np.int8)
    for start in range(0, _DRAWS, _BLOCK):
        block = signs[start : start + _BLOCK]
        block[:] = np.where(generator.random(block.shape) < 0.5, 1, -1)
    return signs


def _pattern_ends(differences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the lower and upper ends of the means at which each sign pattern counts.

    The observed pattern, which the drawn ones lack, counts everywhere, as its mirror image does.
    """
    ones = np.ones_like(differences)
    if differences.size <= _EXACT_CLUSTERS:
        totals, counts = _all_totals(differences), _all_totals(ones)
    else:
        parts = [(signs @ differences, signs @ ones) for signs in _sign_blocks(differences.size)]
        totals = np.concatenate([part[0] for part in parts] + [[differences.sum()]])
        counts = np.concatenate([part[1] for part in parts] + [[differences.size]])
    with np.errstate(divide="ignore", invalid="ignore"):
        kept = (differences.sum() + totals) / (differences.size + counts)
        flipped = (differences.sum() - totals) / (differences.size - counts)
    everywhere = np.abs(counts) == differences.size
    return (
        np.where(everywhere, -np.inf, np.minimum(kept, flipped)),
        np.where(everywhere, np.inf, np.maximum(kept, flipped)),
    )
