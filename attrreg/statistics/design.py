"""What a number of clusters can show before any of them has run; standard library only.

A cluster is one (dataset, seed): its models and train sizes share a subset and initial weights, so
they are not independent of each other. A sign-flip test over S clusters knows 2^S sign patterns.
"""

from attrreg.statistics.choices import check_choice

__all__ = ["ALTERNATIVES", "clusters_needed", "smallest_p"]

ALTERNATIVES = ("two-sided", "greater", "less")


def smallest_p(n_clusters: int, alternative: str = "two-sided") -> float:
    """Return the smallest p that the exact sign-flip test can reach: 2^(1−S), or 2^−S one-sided.

    Parameters
    ----------
    n_clusters
        The number S of clusters, at least 0. Without any, p is 1.
    alternative
        ``"two-sided"``, ``"greater"`` or ``"less"``.

    Raises
    ------
    ValueError
        If ``n_clusters`` is negative or the alternative is unknown.
    """
    check_choice("alternative", alternative, ALTERNATIVES)
    if n_clusters < 0:
        raise ValueError(f"n_clusters is {n_clusters}: a count of at least 0 is allowed")
    sides = 2 if alternative == "two-sided" else 1
    return min(1.0, sides * 0.5**n_clusters)


def clusters_needed(alpha: float = 0.05, family: int = 1, alternative: str = "two-sided") -> int:
    """Return the fewest clusters with which one of ``family`` comparisons can reach ``alpha``.

    This is the fewest S whose `smallest_p` times ``family`` (Holm's factor for the smallest p of a
    family) is at most ``alpha``. With fewer, no result whatever can be significant.

    Parameters
    ----------
    alpha
        The level of significance, above 0 and below 1.
    family
        The number of comparisons that are corrected together, at least 1.
    alternative
        ``"two-sided"``, ``"greater"`` or ``"less"``.

    Raises
    ------
    ValueError
        If an argument lies outside what is allowed.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha}: a level above 0 and below 1 is allowed")
    if family < 1:
        raise ValueError(f"family is {family}: at least 1 comparison is allowed")
    n_clusters = 1
    while smallest_p(n_clusters, alternative) * family > alpha:
        n_clusters += 1
    return n_clusters
