"""Is a difference too small to matter? One-sided t tests against a margin declared before."""

import math

import numpy as np
from scipy import special

from attrreg.statistics.intervals import spread
from attrreg.statistics.permutation import check_finite

__all__ = ["equivalence_p", "noninferiority_p"]


def equivalence_p(differences: np.ndarray, margin: float) -> float:
    """Test whether the true mean difference lies inside ±margin, by two one-sided t tests.

    p is at most α exactly if the 1 − 2·α t interval lies inside the margin.

    Parameters
    ----------
    differences
        (S,) float, one finite difference per cluster.
    margin
        The largest difference that does not matter, in the unit of the differences, above 0.

    Returns
    -------
    float
        The larger of the two p. NaN below two clusters. Where all clusters agree, t is undefined
        and p is 2^−S inside the margin, as of an exact one-sided sign-flip test, and 1 outside.

    Raises
    ------
    ValueError
        If the margin is not a finite number above 0, or a difference is not finite.

    References
    ----------
    Schuirmann, A comparison of the two one-sided tests procedure and the power approach, 1987.
    """
    differences, margin = check_finite(differences), _checked(margin)
    return max(_above(differences, -margin), _above(-differences, -margin))


def noninferiority_p(differences: np.ndarray, margin: float, higher_is_better: bool) -> float:
    """Test whether the method is worse than its reference by less than a margin, by a t test.

    p is at most α exactly if the lower end of the 1 − 2·α t interval lies above −margin; the upper
    end below margin where lower is better.

    Parameters
    ----------
    differences
        (S,) float, method − reference, one finite difference per cluster.
    margin
        The largest loss that is accepted, in the unit of the differences, above 0.
    higher_is_better
        The direction of the metric.

    Returns
    -------
    float
        p; NaN below two clusters, and as in `equivalence_p` where all clusters agree.

    Raises
    ------
    ValueError
        If the margin is not a finite number above 0, or a difference is not finite.

    References
    ----------
    Piaggio et al., Reporting of noninferiority and equivalence randomized trials, 2012.
    """
    differences, margin = check_finite(differences), _checked(margin)
    return _above(differences if higher_is_better else -differences, -margin)


def _above(differences: np.ndarray, bound: float) -> float:
    """Return p of the one-sided t test that the mean lies above a bound."""
    if differences.size < 2:
        return math.nan
    mean, deviation = float(differences.mean()), spread(differences)
    if deviation == 0:
        return 0.5**differences.size if mean > bound else 1.0
    t = (mean - bound) / (deviation / math.sqrt(differences.size))
    return float(special.stdtr(differences.size - 1, -t))


def _checked(margin: float) -> float:
    if not 0 < margin < math.inf:
        raise ValueError(
            f"margin is {margin}: a finite number above 0 is allowed, in the unit of the "
            "differences; declare it before looking"
        )
    return margin
