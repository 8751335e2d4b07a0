"""The sentence that says why a claim has its verdict."""

from collections.abc import Iterable

from attrreg.claims.finding import Found
from attrreg.claims.gathering import Comparison, Gathered
from attrreg.claims.verdicts import Verdict

__all__ = ["reason_of"]


def reason_of(
    gathered: Gathered,
    found: Found,
    verdict: Verdict,
    p_corrected: float,
    clusters_needed: int | None,
    family: int,
    alpha: float,
) -> str:
    """Say why.

    Parameters
    ----------
    gathered, found
        The comparisons and their numbers.
    verdict
        With the correction of p, and with too few clusters taken into account.
    p_corrected, clusters_needed
        The claim's p; the clusters that would decide, where that is known.
    family, alpha
        The number of claims run, and the level.
    """
    parts = {
        "supported": _supported,
        "works, guidance not shown": _works,
        "contradicted": _contradicted,
        "negligible": _negligible,
    }
    if verdict in parts:
        said = parts[verdict](gathered, found)
    else:
        said = _undecided(gathered, found, p_corrected, family, alpha)
    if verdict == "undecided" or not found.settled:
        said += _advice(found, clusters_needed)
    baselines = [each for each in gathered.noted if each.startswith("baseline (")]
    if verdict in ("supported", "works, guidance not shown") and baselines:
        said += f"; not compared with {_listed(baselines)}"
    return said


def _supported(gathered: Gathered, found: Found) -> str:
    claim = gathered.question.claim
    against = _listed(each.reference.title for each in gathered.comparisons)
    if claim.kind == "non-inferior":
        return f"not worse than {against} by {claim.least} or more"
    said = f"better than {against} by more than {claim.least}"
    return f"{said}, for {claim.holds_for} endpoints or more" if claim.failures_allowed else said


def _works(gathered: Gathered, found: Found) -> str:
    claim = gathered.question.claim
    beaten = [name for name in claim.plain if _all_better(gathered, found, name)]
    shown = _listed(
        each.reference.title for each in gathered.comparisons if each.reference.comparator in beaten
    )
    others = _listed(
        _name(each, gathered)
        for each, bounds in zip(gathered.comparisons, found.bounds, strict=True)
        if bounds.low <= claim.least.value and each.reference.comparator not in beaten
    )
    said = f"better than {shown} by more than {claim.least}, which is not shown for {others}"
    if found.guidance is not None and found.guidance.high < claim.least.value:
        return f"{said}; that guidance adds as much is ruled out"
    return said


def _contradicted(gathered: Gathered, found: Found) -> str:
    claim = gathered.question.claim
    limit = -claim.least.value if claim.kind == "non-inferior" else 0.0
    worse = _listed(
        _name(each, gathered)
        for each, bounds in zip(gathered.comparisons, found.bounds, strict=True)
        if bounds.high < limit
    )
    return f"worse than {worse}" + (f" by more than {claim.least}" if limit else "")


def _negligible(gathered: Gathered, found: Found) -> str:
    claim = gathered.question.claim
    held = _listed(
        _name(each, gathered)
        for each, bounds in zip(gathered.comparisons, found.bounds, strict=True)
        if bounds.high < claim.least.value
    )
    return f"within ±{claim.least} of {held}, and not worse than any by more"


def _undecided(
    gathered: Gathered, found: Found, p_corrected: float, family: int, alpha: float
) -> str:
    claim = gathered.question.claim
    claims = "1 claim" if family == 1 else f"{family} claims"
    clusters = "1 cluster" if found.clusters == 1 else f"{found.clusters} clusters"
    if found.clusters < found.floor:
        said = (
            f"{clusters}, and with {claims} run none can be decided with fewer than {found.floor}"
        )
    elif found.verdict == "supported":
        said = f"p = {p_corrected:.3g} after Holm's correction over {claims} is above {alpha:g}"
    else:
        said = f"with {clusters} the intervals allow more than one verdict"
        if claim.kind == "superior" and found.claim.high < claim.least.value:
            said += "; that it is supported is ruled out"
    return said


def _advice(found: Found, clusters_needed: int | None) -> str:
    if clusters_needed is not None:
        return f"; about {clusters_needed} would decide if effects and spreads are as observed"
    if found.clusters < 2:
        return ""
    return "; not even 10,000 would decide if effects and spreads are as observed"


def _all_better(gathered: Gathered, found: Found, comparator: str) -> bool:
    """Whether enough endpoints are better than a comparator by more than the least effect."""
    claim = gathered.question.claim
    failed = {
        each.endpoint
        for each, bounds in zip(gathered.comparisons, found.bounds, strict=True)
        if each.reference.comparator == comparator and not bounds.low > claim.least.value
    }
    made = {each.endpoint for each in gathered.comparisons}
    return len(made - failed) >= len(claim.endpoints) - claim.failures_allowed


def _name(comparison: Comparison, gathered: Gathered) -> str:
    """Name a comparator, and the endpoint and group where there are several."""
    parts = [comparison.reference.title]
    if len({each.metric for each in gathered.comparisons}) > 1:
        parts.append(f"in {comparison.metric}")
    if comparison.group:
        parts.append(f"for {comparison.group}")
    return " ".join(parts)


def _listed(names: Iterable[str]) -> str:
    *others, last = dict.fromkeys(names)
    return f"{', '.join(others)} and {last}" if others else last
