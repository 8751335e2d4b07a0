"""Models: one file per kind, and the entries of the families in `known`.

What is exported is imported when it is asked for: the entries are read where torch is not needed.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attrreg.models.counting import Counts, counts
    from attrreg.models.images import create
    from attrreg.models.weights import origin

__all__ = ["Counts", "counts", "create", "origin"]

_HOMES = {
    "Counts": "counting",
    "counts": "counting",
    "create": "images",
    "origin": "weights",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
