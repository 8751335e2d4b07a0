"""What is found about a claim: intervals, p and the verdict that they allow.

Notes
-----
*Unit.* One effect per cluster (dataset, seed), cells weighted equally within it.

*p.* Of a comparison: the exact two-sided sign-flip test of the clusters' effects against 0; of a
non-inferior claim, against minus its margin. Of a claim: the largest of its comparisons', since it
must hold against all (intersection–union); Holm's correction over the claims that were run, each
method and each group of its own counted as one.

*Intervals.* With m claims run, each may err with a chance of α/m, half of it on either side.

* The low ends decide "supported" and "works". A claim must hold in all comparisons, so that no
  correction among them is needed; but "works" may rest on the baseline or on random erasing, and a
  claim that must hold for u of n endpoints on any of the n − u + 1 that may fail. So a low end errs
  with α/2m divided by the number of plain comparators and by n − u + 1.
* The high ends decide "contradicted" and "negligible", for which one comparison out of k suffices.
  So a high end errs with α/2mk.

Then, with a chance of 1 − α, no verdict about any claim says what is not so. They are t intervals:
at such levels a bootstrap would rest on its few outermost resamples.

*Few clusters.* No claim is decided with fewer clusters than the sign-flip test needs to reach α
after the correction, however narrow an interval comes out by luck.
"""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from attrreg.claims.gathering import Comparison, Gathered
from attrreg.claims.specification import Claim
from attrreg.claims.verdicts import Bounds, Verdict, decide, is_settled, nth_largest, smallest
from attrreg.statistics.design import clusters_needed
from attrreg.statistics.intervals import interval, spread
from attrreg.statistics.permutation import sign_flip_p

__all__ = ["Errors", "Found", "find", "interval_of", "needed"]

POWER = 0.8
LIMIT = 10_000  # clusters; more are no answer to how many would decide


@dataclass(frozen=True)
class Errors:
    """The chance of an error of each end of the intervals of a claim."""

    low: float
    high: float

    @classmethod
    def of(cls, gathered: Gathered, share: float) -> "Errors":
        """Share out the chance of an error of a claim."""
        claim = gathered.question.claim
        alone = max(1, len(claim.plain)) * (claim.failures_allowed + 1)
        return cls(share / 2 / alone, share / 2 / len(gathered.comparisons))


@dataclass(frozen=True)
class Found:
    """What was found about a claim.

    Parameters
    ----------
    bounds, p
        Of each comparison, in their order.
    claim
        The interval of the claim's effect; ``estimate`` and ``claim_p`` are its estimate and p.
    guidance
        The interval over the comparators with maps that tell nothing; None without such.
    clusters, floor
        The clusters of the comparison that has fewest, and those that any verdict needs.
    verdict
        From the intervals alone.
    settled
        Whether more clusters could not say more.
    """

    bounds: list[Bounds]
    p: list[float]
    claim: Bounds
    estimate: float
    claim_p: float
    guidance: Bounds | None
    clusters: int
    floor: int
    verdict: Verdict
    settled: bool


def find(gathered: Gathered, family: int, alpha: float) -> Found:
    """Return the intervals, p and verdict of a claim, before the correction of p."""
    errors = Errors.of(gathered, alpha / family)
    bounds = [interval_of(each, errors) for each in gathered.comparisons]
    p = [_p(each, gathered.question.claim) for each in gathered.comparisons]
    estimates = [Bounds(each.estimate, each.estimate) for each in gathered.comparisons]
    against = gathered.question.claim.against
    clusters = min(each.clusters.size for each in gathered.comparisons)
    floor = clusters_needed(alpha, family)
    verdict, is_final = _decide(gathered, bounds)
    return Found(
        bounds=bounds,
        p=p,
        claim=_combined(gathered, bounds, against),
        estimate=_combined(gathered, estimates, against).low,
        claim_p=_claim_p(gathered, p),
        guidance=_guidance(gathered, bounds),
        clusters=clusters,
        floor=floor,
        verdict=verdict,
        settled=is_final and clusters >= floor,
    )


def interval_of(comparison: Comparison, errors: Errors) -> Bounds:
    """Return the interval of a comparison, each end with an error of its own."""
    effects = comparison.clusters
    low, high = -np.inf, np.inf
    if effects.size > 1:
        low, _ = interval(effects, 1 - 2 * errors.low, "t")
        _, high = interval(effects, 1 - 2 * errors.high, "t")
    return Bounds(comparison.yardstick.shown(low), comparison.yardstick.shown(high))


def _p(comparison: Comparison, claim: Claim) -> float:
    """Return p of a comparison: against 0, or against minus the margin."""
    border = -claim.least.value if claim.kind == "non-inferior" else 0.0
    return sign_flip_p(comparison.clusters - comparison.yardstick.effect(border))


def _claim_p(gathered: Gathered, p: Sequence[float]) -> float:
    """Return p of a claim: of all its comparisons, or of enough of its endpoints.

    References
    ----------
    Berger, Multiparameter hypothesis testing and acceptance sampling, 1982.
    Benjamini & Heller, Screening for partial conjunction hypotheses, 2008, equation 2.
    """
    claim = gathered.question.claim
    of_endpoint = [1.0] * len(claim.endpoints)
    for place in {each.endpoint for each in gathered.comparisons if each.endpoint is not None}:
        own = [p[i] for i, each in enumerate(gathered.comparisons) if each.endpoint == place]
        of_endpoint[place] = max(own)
    enough = len(claim.endpoints) - claim.failures_allowed
    return min(1.0, (claim.failures_allowed + 1) * sorted(of_endpoint)[enough - 1])


def _combined(gathered: Gathered, bounds: Sequence[Bounds], comparators: Sequence[str]) -> Bounds:
    """Return the interval of the effect against some comparators, over endpoints and groups.

    Of an endpoint that is missing nothing is known.
    """
    claim = gathered.question.claim
    of_endpoint = []
    for place in range(len(claim.endpoints)):
        own = [
            each
            for comparison, each in zip(gathered.comparisons, bounds, strict=True)
            if comparison.endpoint == place and comparison.reference.comparator in comparators
        ]
        of_endpoint.append(smallest(own) if own else Bounds(-np.inf, np.inf))
    return nth_largest(of_endpoint, len(of_endpoint) - claim.failures_allowed)


def _guidance(gathered: Gathered, bounds: Sequence[Bounds]) -> Bounds | None:
    claim = gathered.question.claim
    guides = [each for each in claim.against if each not in claim.plain]
    return _combined(gathered, bounds, guides) if guides else None


def _decide(gathered: Gathered, bounds: Sequence[Bounds]) -> tuple[Verdict, bool]:
    """Return the verdict that intervals allow, and whether narrower ones could not say more."""
    claim = gathered.question.claim
    plain = [_combined(gathered, bounds, [each]) for each in claim.plain]
    guidance = _guidance(gathered, bounds)
    whole = _combined(gathered, bounds, claim.against)
    verdict = decide(whole, plain, guidance, claim.least.value, claim.kind)
    return verdict, is_settled(verdict, guidance, claim.least.value)


def needed(gathered: Gathered, family: int, alpha: float) -> int | None:
    """Return the fewest clusters that would decide, or None.

    Effects and spreads are taken as observed. The ends of each interval are then put further out
    than they lie on average, by the normal quantile of 80 %: that is the chance of a verdict where
    it hangs on one comparison. None where spreads are not known, and where 10,000 clusters would
    not suffice.
    """
    errors = Errors.of(gathered, alpha / family)
    clusters = min(each.clusters.size for each in gathered.comparisons)
    at_least = max(clusters_needed(alpha, family), clusters + 1)
    if any(each.clusters.size < 2 for each in gathered.comparisons):
        return None
    moments = [(each.clusters.mean(), spread(each.clusters)) for each in gathered.comparisons]
    margin = special.ndtri(POWER)

    def decides(number: int) -> bool:
        low, high = (
            special.stdtrit(number - 1, 1 - error) + margin for error in (errors.low, errors.high)
        )
        bounds = []
        for comparison, (mean, deviation) in zip(gathered.comparisons, moments, strict=True):
            error, shown = deviation / np.sqrt(number), comparison.yardstick.shown
            bounds.append(Bounds(shown(mean - low * error), shown(mean + high * error)))
        return _decide(gathered, bounds)[1]

    sizes = range(at_least, LIMIT + 1)
    place = bisect.bisect_left(sizes, True, key=decides)
    return sizes[place] if place < len(sizes) else None
