"""The verdict of a comparison, and the sentence that gives its reason."""

import math
from dataclasses import dataclass

import numpy as np

from attrreg.statistics.design import clusters_needed
from attrreg.statistics.intervals import clusters_for_power, effect_size, spread, t_interval
from attrreg.statistics.pairing import Pairing

__all__ = ["Question", "Verdict", "decide"]

_LABELS = {"holm": "Holm", "benjamini-hochberg": "Benjamini-Hochberg"}


@dataclass(frozen=True)
class Question:
    """What is asked of every comparison in a family."""

    alternative: str
    correction: str
    alpha: float
    equivalence_margin: float | None
    higher_is_better: bool
    family: int


@dataclass(frozen=True)
class Verdict:
    """What was found, why, and how many clusters would decide what is undecided (None: unknown)."""

    verdict: str
    reason: str
    clusters_needed: int | None = None


def decide(
    question: Question, pairing: Pairing, p_corrected: float, smallest: float, reachable: float
) -> Verdict:
    """Return the verdict of one comparison.

    Parameters
    ----------
    question
        What is asked.
    pairing
        The differences.
    p_corrected
        Their p after the correction.
    smallest, reachable
        The smallest p that this many clusters allow, before and after the correction.
    """
    verdict = _decide(question, pairing, p_corrected, smallest, reachable)
    if not pairing.missing:
        return verdict
    missing = f"; left out {_first(pairing.dropped)} for missing {_first(pairing.missing)}"
    return Verdict(verdict.verdict, verdict.reason + missing, verdict.clusters_needed)


def _decide(
    question: Question, pairing: Pairing, p_corrected: float, smallest: float, reachable: float
) -> Verdict:
    differences = pairing.differences
    if differences.size == 0:
        return Verdict("undecided", "no cluster (dataset, seed) has all cells of both methods")
    found = f"p = {p_corrected:.3g}{_after(question)} in {_clusters(differences.size)}"
    if _inside_margin(question, differences):
        level = f"{100 * (1 - 2 * question.alpha):g} % interval"
        margin = f"±{question.equivalence_margin:g}"
        return Verdict("equivalent", f"the {level} lies inside {margin} ({found})")
    if p_corrected <= question.alpha:
        better = (differences.mean() > 0) == question.higher_is_better
        return Verdict("better" if better else "worse", found)
    if not differences.any():
        agree = f"the two agree exactly in {_clusters(differences.size)}"
        return Verdict("undecided", agree)
    needed, advice = _would_decide(question, differences)
    if reachable > question.alpha:
        sides = "two-sided" if question.alternative == "two-sided" else "one-sided"
        after = f" ({reachable:.3g}{_after(question)})" if reachable > smallest else ""
        limit = f"the smallest {sides} p possible is {smallest:.3g}{after}"
        found = f"{_clusters(differences.size)}: {limit}, so nothing can reach {question.alpha:g}"
        return Verdict("undecided", f"{found}; {advice}", needed)
    return Verdict("undecided", f"{found} is above {question.alpha:g}; {advice}", needed)


def _inside_margin(question: Question, differences: np.ndarray) -> bool:
    """Return whether the methods are equivalent: two one-sided tests as an interval."""
    margin = question.equivalence_margin
    if margin is None or differences.size < 2:
        return False
    low, high = t_interval(differences, 1 - 2 * question.alpha)
    # Without spread the interval has no width, whatever the number of clusters; then only as many
    # count as an exact one-sided test would need.
    enough = differences.size >= clusters_needed(question.alpha, alternative="greater")
    return -margin < low and high < margin and (spread(differences) > 0 or enough)


def _would_decide(question: Question, differences: np.ndarray) -> tuple[int | None, str]:
    """Return the number of clusters that would decide, where one can be given, and say so."""
    family = 1 if question.correction == "none" else question.family
    floor = clusters_needed(question.alpha, family, question.alternative)
    effect = effect_size(differences)
    if math.isnan(effect):
        needed = max(floor, differences.size + 1)
        return None, f"at least {needed} clusters are needed"
    by_power = clusters_for_power(effect, question.alpha / family, question.alternative)
    if math.isinf(by_power):
        toward = {"greater": effect >= 0, "less": effect <= 0}.get(question.alternative, True)
        if not toward:
            return None, f"the difference points away from the alternative {question.alternative!r}"
        return None, "more than 10,000 clusters would be needed at this effect size"
    needed = max(floor, int(by_power), differences.size + 1)
    return needed, f"about {needed} clusters would decide if the effect is as observed"


def _after(question: Question) -> str:
    if question.correction == "none" or question.family == 1:
        return ""
    return f" after {_LABELS[question.correction]} over {question.family} comparisons"


def _first(names: tuple[str, ...], limit: int = 3) -> str:
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")


def _clusters(count: int) -> str:
    return "1 cluster" if count == 1 else f"{count} clusters"
