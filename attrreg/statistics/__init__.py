"""Is one training method better than another? Reads tidy tables, returns tidy tables; torch-free.

`smallest_p` and `clusters_needed` need nothing but the standard library: a plan asks them before
anything runs. `compare` and `compare_all` bring pandas and scipy, and are imported when used.
"""

from typing import TYPE_CHECKING, Any

from attrreg.statistics.design import clusters_needed, smallest_p

if TYPE_CHECKING:
    from attrreg.statistics.comparison import compare, compare_all

__all__ = ["clusters_needed", "compare", "compare_all", "smallest_p"]


def __getattr__(name: str) -> Any:
    """Import the comparisons on first use."""
    if name in ("compare", "compare_all"):
        from attrreg.statistics import comparison

        return getattr(comparison, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
