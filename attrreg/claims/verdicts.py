"""The six verdicts: what the intervals of a claim's comparisons allow to say, and nothing more."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

__all__ = [
    "VERDICTS",
    "Bounds",
    "Verdict",
    "decide",
    "is_settled",
    "nth_largest",
    "position",
    "smallest",
]

Verdict = Literal[
    "supported",
    "works, guidance not shown",
    "negligible",
    "contradicted",
    "undecided",
    "not run",
]
VERDICTS: tuple[Verdict, ...] = (
    "supported",
    "works, guidance not shown",
    "negligible",
    "contradicted",
    "undecided",
    "not run",
)


class Bounds(NamedTuple):
    """An interval of an effect, positive as the claim says, in the unit of the least effect."""

    low: float
    high: float


def smallest(bounds: Sequence[Bounds]) -> Bounds:
    """Return the interval of the smallest of several effects: what must hold against all."""
    return nth_largest(bounds, len(bounds))


def nth_largest(bounds: Sequence[Bounds], n: int) -> Bounds:
    """Return the interval of the n-th largest of several effects: what must hold for n of them.

    Where all intervals hold their effects, this one holds the n-th largest effect, since that
    grows with each of them.
    """
    lows, highs = zip(*bounds, strict=True)
    return Bounds(sorted(lows, reverse=True)[n - 1], sorted(highs, reverse=True)[n - 1])


def decide(
    claim: Bounds, plain: Sequence[Bounds], guidance: Bounds | None, least: float, kind: str
) -> Verdict:
    """Return the verdict of a claim whose comparisons have been made.

    Parameters
    ----------
    claim
        The effect of the claim: the smallest over its comparators, endpoints and groups.
    plain
        The same over each of its comparators without maps, the baseline and random erasing.
    guidance
        The same over those of its comparators that have maps which tell nothing of the sample;
        None where the claim names none.
    least
        The least effect, above 0; for a non-inferior claim its margin.
    kind
        ``superior`` or ``non-inferior``.

    Notes
    -----
    A superior claim, the first line that fits. [low, high] is the claim's interval, δ the least
    effect; *worse* means high < 0 and low ≤ −δ.

    ========================================================= =========================
    low > δ                                                   supported
    low > δ against the baseline, or against random erasing,  works, guidance not shown
    worse than neither; low ≤ δ against maps that tell nothing
    worse than the baseline or random erasing, or worse as a  contradicted
    whole
    −δ < low and high < δ                                     negligible
    anything else                                             undecided
    ========================================================= =========================

    A non-inferior claim:

    ======================= ============
    low > −δ                supported
    high < −δ               contradicted
    anything else           undecided
    ======================= ============

    An end that is not known is infinite.
    """
    if kind == "non-inferior":
        lines: dict[Verdict, bool] = {
            "supported": claim.low > -least,
            "contradicted": claim.high < -least,
        }
        return next((verdict for verdict, fits in lines.items() if fits), "undecided")
    worse_than_plain = any(_is_worse(each, least) for each in plain)
    better_than_plain = any(each.low > least for each in plain)
    lines = {
        "supported": claim.low > least,
        "works, guidance not shown": better_than_plain
        and not worse_than_plain
        and guidance is not None
        and guidance.low <= least,
        "contradicted": worse_than_plain or _is_worse(claim, least),
        "negligible": _is_inside(claim, least),
    }
    return next((verdict for verdict, fits in lines.items() if fits), "undecided")


def is_settled(verdict: Verdict, guidance: Bounds | None, least: float) -> bool:
    """Whether more clusters, with intervals inside the present ones, could not say more."""
    if verdict == "works, guidance not shown":
        return guidance is not None and guidance.high < least
    return verdict != "undecided"


def position(bounds: Bounds, least: float, kind: str) -> str:
    """Say where one interval lies, in a word or two."""
    if kind == "non-inferior":
        if bounds.low > -least:
            return "not inferior"
        return "inferior" if bounds.high < -least else "open"
    if bounds.low > least:
        return "better"
    if _is_inside(bounds, least):
        return "negligible"
    if bounds.low > 0:
        return "better, size open"
    return "worse" if _is_worse(bounds, least) else "open"


def _is_worse(bounds: Bounds, least: float) -> bool:
    return bounds.high < 0 and bounds.low <= -least


def _is_inside(bounds: Bounds, least: float) -> bool:
    return -least < bounds.low and bounds.high < least
