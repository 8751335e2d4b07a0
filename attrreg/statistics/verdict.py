"""The verdict of a comparison, and the sentence that gives its reason."""

import math
from dataclasses import dataclass

import numpy as np

from attrreg.statistics.design import clusters_needed
from attrreg.statistics.intervals import clusters_for_power, effect_size
from attrreg.statistics.pairing import Pairing

__all__ = ["Evidence", "Question", "Verdict", "decide"]

_LABELS = {"holm": "Holm", "benjamini-hochberg": "Benjamini-Hochberg"}


@dataclass(frozen=True)
class Question:
    """What is asked of every comparison in a family."""

    alternative: str
    correction: str
    alpha: float
    equivalence_margin: float | None
    noninferiority_margin: float | None
    higher_is_better: bool
    family: int

    @property
    def n_tests(self) -> int:
        """The number of comparisons that the smallest p has to be shared between."""
        return 1 if self.correction == "none" else self.family


@dataclass(frozen=True)
class Evidence:
    """What is known of one comparison.

    Parameters
    ----------
    pairing
        The differences.
    p_corrected
        Their p after the correction.
    smallest, reachable
        The smallest p that this many clusters allow, before and after the correction.
    p_equivalence, p_noninferiority
        p of the tests against the margins; NaN where none is declared.
    visible
        The smallest true difference that so many clusters find with 80 % power; NaN if unknown.
    worst
        The differences if the failed runs of the one that looks better had the worst value seen.
    p_worst
        Their p after the correction.
    """

    pairing: Pairing
    p_corrected: float
    smallest: float
    reachable: float
    p_equivalence: float
    p_noninferiority: float
    visible: float
    worst: np.ndarray
    p_worst: float


@dataclass(frozen=True)
class Verdict:
    """What was found, why, and how many clusters would decide what is undecided (None: unknown)."""

    verdict: str
    reason: str
    clusters_needed: int | None = None


def decide(question: Question, evidence: Evidence) -> Verdict:
    """Return the verdict of one comparison."""
    verdict = _decide(question, evidence)
    pairing, reason = evidence.pairing, verdict.reason
    margin = question.noninferiority_margin
    if margin is not None and not math.isnan(evidence.p_noninferiority):
        p = evidence.p_noninferiority
        shown = "non-inferior" if p <= question.alpha else "non-inferiority not shown"
        reason += f"; {shown} within {margin:g} (p = {p:.3g})"
    if pairing.missing:
        dropped = f"left out {_first(pairing.dropped)} for " if pairing.dropped else ""
        reason += f"; {dropped}missing {_first(pairing.missing)}"
    return Verdict(verdict.verdict, reason, verdict.clusters_needed)


def _decide(question: Question, evidence: Evidence) -> Verdict:
    differences = evidence.pairing.differences
    if differences.size == 0:
        return Verdict("undecided", "no cluster (dataset, seed) has all cells of both methods")
    p = f"p = {evidence.p_corrected:.3g}{_after(question)}"
    found = f"{p} in {_clusters(differences.size)}"
    if evidence.p_equivalence <= question.alpha:
        level = f"{100 * (1 - 2 * question.alpha):g} % interval"
        margin = f"±{question.equivalence_margin:g}"
        return Verdict("equivalent", f"the {level} lies inside {margin} ({found})")
    if evidence.p_corrected <= question.alpha:
        return _found(question, evidence, found)
    seen = _seen(question, evidence)
    if not differences.any():
        agree = f"the two agree exactly in {_clusters(differences.size)}"
        return Verdict("undecided", agree)
    needed, advice = _would_decide(question, differences)
    if evidence.reachable > question.alpha:
        sides = "two-sided" if question.alternative == "two-sided" else "one-sided"
        more = evidence.reachable > evidence.smallest
        after = f" ({evidence.reachable:.3g}{_after(question)})" if more else ""
        limit = f"the smallest {sides} p possible is {evidence.smallest:.3g}{after}"
        found = f"{_clusters(differences.size)}: {limit}, so nothing can reach {question.alpha:g}"
        return Verdict("undecided", f"{found}; {advice}{seen}", needed)
    return Verdict("undecided", f"{found} is above {question.alpha:g}; {advice}{seen}", needed)


def _found(question: Question, evidence: Evidence, found: str) -> Verdict:
    """Return the verdict of a significant difference, if failed runs leave it as it is."""
    differences, failed = evidence.pairing.differences, evidence.pairing.failed
    upward = differences.mean() > 0
    verdict = "better" if upward == question.higher_is_better else "worse"
    if not failed:
        return Verdict(verdict, found)
    bound = f"{evidence.worst.mean():.3g}, p = {evidence.p_worst:.3g}{_after(question)}"
    if evidence.p_worst <= question.alpha and (evidence.worst.mean() > 0) == upward:
        held = f"with the worst value seen in failed runs still {bound}"
        return Verdict(verdict, f"{found}; {held}")
    runs = "1 failed run" if len(failed) == 1 else f"{len(failed)} failed runs"
    reason = f"{verdict} only without {runs} ({found}); with the worst value seen there {bound}"
    return Verdict("undecided", reason + _seen(question, evidence))


def _would_decide(question: Question, differences: np.ndarray) -> tuple[int | None, str]:
    """Return the number of clusters that would decide, where one can be given, and say so."""
    floor = clusters_needed(question.alpha, question.n_tests, question.alternative)
    effect = effect_size(differences)
    if math.isnan(effect):
        needed = max(floor, differences.size + 1)
        return None, f"at least {needed} clusters are needed"
    by_power = clusters_for_power(effect, question.alpha / question.n_tests, question.alternative)
    if math.isinf(by_power):
        toward = {"greater": effect >= 0, "less": effect <= 0}.get(question.alternative, True)
        if not toward:
            return None, f"the difference points away from the alternative {question.alternative!r}"
        return None, "more than 10,000 clusters would be needed at this effect size"
    needed = max(floor, int(by_power), differences.size + 1)
    return needed, f"about {needed} clusters would decide if the effect is as observed"


def _seen(question: Question, evidence: Evidence) -> str:
    """Say which true difference would have been found."""
    if not math.isfinite(evidence.visible):
        return ""
    clusters = _clusters(evidence.pairing.differences.size)
    seen = f"; at this spread a t test of {clusters} sees {evidence.visible:.3g} or more"
    return f"{seen} with 80 % power"


def _after(question: Question) -> str:
    if question.n_tests == 1:
        return ""
    return f" after {_LABELS[question.correction]} over {question.family} comparisons"


def _first(names: tuple[str, ...], limit: int = 3) -> str:
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")


def _clusters(count: int) -> str:
    return "1 cluster" if count == 1 else f"{count} clusters"
