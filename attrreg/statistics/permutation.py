"""The sign-flip permutation test of paired differences."""

from collections.abc import Iterator

import numpy as np

from attrreg.statistics.choices import check_choice
from attrreg.statistics.design import ALTERNATIVES

__all__ = ["ROUNDING", "sign_flip_p"]

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
    differences = np.asarray(differences, dtype=np.float64)
    if not np.isfinite(differences).all():
        raise ValueError(f"differences are {differences}: only finite numbers are allowed")
    tolerance = ROUNDING * np.abs(differences).sum()
    observed = _extremeness(differences.sum(), alternative) - tolerance
    if differences.size <= _EXACT_CLUSTERS:
        return float(np.mean(_extremeness(_all_totals(differences), alternative) >= observed))
    as_extreme = sum(
        int(np.count_nonzero(_extremeness(totals, alternative) >= observed))
        for totals in _drawn_totals(differences)
    )
    return (as_extreme + 1) / (_DRAWS + 1)


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


def _drawn_totals(differences: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the sums under random sign patterns in blocks, so that memory stays small."""
    generator = np.random.default_rng(_SEED)
    for start in range(0, _DRAWS, _BLOCK):
        shape = (min(_BLOCK, _DRAWS - start), differences.size)
        yield np.where(generator.random(shape) < 0.5, 1.0, -1.0) @ differences
