"""How training subsets are drawn from a pool, and how their sizes are given. Torch-free.

The default law draws balanced subsets with the labels of the pool. Others are named by what they
change: ``natural``, ``noise0.2``, ``imbalance10-noise0.2``, ``natural-imbalance10``.
"""

import re
from typing import Literal

from pydantic import Field

from attrreg.recipe import Strict

__all__ = ["SubsetLaw", "law_named", "total"]

_NUMBER = r"[0-9]+(?:\.[0-9]+)?(?:e[-+]?[0-9]+)?"
_NAME = re.compile(rf"(natural|balanced)?(?:-?imbalance({_NUMBER}))?(?:-?noise({_NUMBER}))?")
_PER_CLASS = re.compile(r"([1-9][0-9]*)/class")


class SubsetLaw(Strict):
    """What the subsets of one seed have in common; they stay nested under every law.

    Parameters
    ----------
    order
        ``balanced``: all classes equally often; ``natural``: in the proportions of the pool.
    label_noise
        Share of the samples whose label becomes that of another class, drawn uniformly. Which
        samples is decided per sample of the pool: a larger subset, or a higher share, keeps every
        wrong label of a smaller one.
    imbalance
        A long tail: the proportions are multiplied by weights that fall geometrically from 1 to
        one over this number. Which classes are rare is drawn per seed, the same for every number.
    """

    order: Literal["balanced", "natural"] = "balanced"
    label_noise: float = Field(default=0.0, ge=0, lt=1, allow_inf_nan=False)
    imbalance: float = Field(default=1.0, ge=1, allow_inf_nan=False)

    @property
    def name(self) -> str:
        """What the law is called in paths and commands; no two laws share a name."""
        parts = ["natural"] if self.order == "natural" else []
        if self.imbalance > 1:
            parts.append(f"imbalance{_shortest(self.imbalance)}")
        if self.label_noise > 0:
            parts.append(f"noise{_shortest(self.label_noise)}")
        return "-".join(parts) or "balanced"


def law_named(name: str) -> SubsetLaw:
    """Return the law with a name.

    Raises
    ------
    ValueError
        No law has that name; the message says how names are made.
    """
    parts = _NAME.fullmatch(name)
    order, imbalance, noise = parts.groups() if parts else (None, None, None)
    given = {"order": order, "imbalance": imbalance, "label_noise": noise}
    try:
        law = SubsetLaw.model_validate({key: value for key, value in given.items() if value})
    except ValueError:
        law = SubsetLaw()
    if law.name == name:
        return law
    raise ValueError(
        f"unknown subset law {name!r}: known are 'balanced', and 'natural', 'imbalance<ratio above "
        "1>' and 'noise<share above 0 and below 1>' in this order, as many as wanted and joined by "
        "'-', e.g. 'natural-noise0.2' or 'imbalance10'"
    )


def total(size: int | str, classes: int) -> int:
    """Return a train size in samples: 50 is 50, and "5/class" 5 of each class.

    Raises
    ------
    ValueError
        The size is neither a whole number above 0 nor such a text.
    """
    if isinstance(size, int) and not isinstance(size, bool) and size >= 1:
        return size
    per_class = _PER_CLASS.fullmatch(size) if isinstance(size, str) else None
    if per_class is None:
        raise ValueError(
            f"train size {size!r} is no size: give a whole number of samples above 0, e.g. 50, or "
            "a number per class, e.g. '5/class'"
        )
    return int(per_class[1]) * classes


def _shortest(number: float) -> str:
    """Return the shortest text that is read as this very number."""
    return repr(number).removesuffix(".0")
