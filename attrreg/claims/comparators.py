"""What a claim is held against: by name, the methods that stand for it and what they leave out."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["BUDGETS", "COMPARATORS", "Comparator", "Reference", "references"]

# The baselines of equal cost; a claim against the baseline must hold against each that was run.
BUDGETS = ("equal steps", "equal FLOPs", "equal wall-clock")


@dataclass(frozen=True)
class Comparator:
    """One of the things that a claim is held against.

    Parameters
    ----------
    title
        How it is called in tables.
    role
        ``plain``: without attribution maps; ``guidance``: the same method with maps that tell
        nothing of the sample.
    methods
        Which of the table's methods it is, the first that is there; ``{base}`` is the method
        without its control. Empty: the baselines.
    of_slopes
        Whether slopes over the training size are compared, and not values.
    """

    title: str
    role: Literal["plain", "guidance"]
    methods: tuple[str, ...] = ()
    of_slopes: bool = False


COMPARATORS: dict[str, Comparator] = {
    "baseline": Comparator("baseline", "plain"),
    "random-erasing": Comparator("random erasing", "plain", ("random-erasing",)),
    "swapped": Comparator("swapped maps", "guidance", ("{base}/swapped",)),
    "random-consistency": Comparator(
        "consistency with a random map", "guidance", ("{base}/uniform",)
    ),
    "random-class": Comparator("maps of a random class", "guidance", ("{base}/random-class",)),
    # random erasing is a block around the maximum of a uniform map, too
    "uniform": Comparator("uniform maps", "guidance", ("{base}/uniform", "random-erasing")),
    # a slope of errors relative to the baseline's is compared with 0
    "zero": Comparator("slope 0", "plain", of_slopes=True),
    "swapped-slope": Comparator(
        "slope with swapped maps", "guidance", ("{base}/swapped",), of_slopes=True
    ),
}


@dataclass(frozen=True)
class Reference:
    """A method of the table that stands for a comparator."""

    comparator: str
    method: str
    budget: str = ""

    @property
    def title(self) -> str:
        """How it is called in tables."""
        title = COMPARATORS[self.comparator].title
        return f"{title} ({self.budget})" if self.budget else title


def references(
    comparator: str,
    method: str,
    present: Iterable[str],
    baselines: Mapping[str, tuple[tuple[str, str], ...]],
) -> tuple[list[Reference], list[str], list[str]]:
    """Return the methods that stand for a comparator, and what is missing.

    Parameters
    ----------
    comparator
        A name in `COMPARATORS`.
    method
        The method that the claim speaks of.
    present
        The methods that have results.
    baselines
        By method: (budget, name) of baselines whose cost is matched to it.

    Returns
    -------
    list of Reference
        Empty if the comparison cannot be made.
    list of str
        What is missing so that it cannot.
    list of str
        What is missing, though it can: baselines of equal cost.
    """
    found, known = set(present), COMPARATORS[comparator]
    if known.methods:
        candidates = [each.format(base=method.partition("/")[0]) for each in known.methods]
        named = [Reference(comparator, each) for each in candidates if each in found]
        missing = [] if named else [f"method {' or '.join(candidates)}"]
        return named[:1], missing, []
    of_method = (("equal steps", "baseline"), *baselines.get(method, ()))
    there = [Reference(comparator, name, budget) for budget, name in of_method if name in found]
    compared = {reference.budget for reference in there}
    absent = [f"baseline ({budget})" for budget in BUDGETS if budget not in compared]
    return there, [] if there else ["method baseline"], absent
