"""Is one training method better than another? Reads tidy tables, returns tidy tables; torch-free.

`smallest_p`, `clusters_needed`, `smallest_visible` and `plan_power` need nothing but the standard
library: a plan asks them before anything runs. What compares brings pandas and scipy, and is
imported when used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from attrreg.statistics.design import clusters_needed, smallest_p
from attrreg.statistics.power import plan_power, smallest_visible

if TYPE_CHECKING:
    from attrreg.statistics.comparison import compare
    from attrreg.statistics.datasets import dataset_table, friedman_nemenyi, wilcoxon_pairs
    from attrreg.statistics.equivalence import equivalence_p, noninferiority_p
    from attrreg.statistics.families import compare_all
    from attrreg.statistics.intervals import interval
    from attrreg.statistics.items import items_by_clusters
    from attrreg.statistics.pairing import run_names

__all__ = [
    "clusters_needed",
    "compare",
    "compare_all",
    "dataset_table",
    "equivalence_p",
    "friedman_nemenyi",
    "interval",
    "items_by_clusters",
    "noninferiority_p",
    "plan_power",
    "run_names",
    "smallest_p",
    "smallest_visible",
    "wilcoxon_pairs",
]

# Where the functions are that bring pandas or scipy.
_ON_USE = {
    "compare": "comparison",
    "compare_all": "families",
    "dataset_table": "datasets",
    "equivalence_p": "equivalence",
    "friedman_nemenyi": "datasets",
    "interval": "intervals",
    "items_by_clusters": "items",
    "noninferiority_p": "equivalence",
    "run_names": "pairing",
    "wilcoxon_pairs": "datasets",
}


def __getattr__(name: str) -> Any:
    """Import what compares on first use."""
    if name in _ON_USE:
        return getattr(import_module(f"attrreg.statistics.{_ON_USE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
