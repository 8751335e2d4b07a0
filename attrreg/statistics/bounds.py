"""What a comparison would be if failed runs had ended with the worst value seen.

Leaving out a cluster because a run of it failed favours the method that failed: it is judged by the
seeds that went well. So a verdict has to hold as well when the failed runs of the one that looks
better get the worst value of the metric in the table. Runs that are missing for another reason, or
failed runs of the one that looks worse, are left out: to fill those in would help the winner.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pandas as pd

from attrreg.statistics.pairing import Pairing, pair

__all__ = ["Bounds", "check_failed", "worst_case"]

_RUN = re.compile(r"(?s:.+)/n[0-9]+/s[0-9]+")


@dataclass(frozen=True)
class Bounds:
    """Paired differences with the worst value in place of failed runs.

    Parameters
    ----------
    method
        (S',) float64: the failed runs of the method have the worst value.
    reference
        (S'',) float64: those of the reference have it.
    """

    method: np.ndarray
    reference: np.ndarray

    def against(self, differences: np.ndarray, higher_is_better: bool) -> np.ndarray:
        """Return the bound that counts against the one that looks better.

        Where neither does, as without a complete cluster, it counts against the method.
        """
        if not differences.size:
            return self.method
        total = differences.sum() if higher_is_better else -differences.sum()
        return self.reference if total < 0 else self.method


def worst_case(
    table: pd.DataFrame,
    pairing: Pairing,
    method: str,
    reference: str,
    failed: Collection[str],
    higher_is_better: bool,
) -> Bounds:
    """Return the bounds of a comparison: its own differences where no run of it failed.

    Parameters
    ----------
    table
        What `metric_table` returns; the worst value is that of all its methods and datasets.
    pairing
        What `pair` found for the two.
    method, reference
        The names of the two.
    failed
        Names of runs that failed.
    higher_is_better
        The direction of the metric.
    """
    values = table["value"].to_numpy(dtype=np.float64)
    values = values[np.isfinite(values)]
    if not pairing.failed or not values.size:
        return Bounds(pairing.differences, pairing.differences)
    worst = float(values.min() if higher_is_better else values.max())
    of_method, of_reference = (
        pair(table, method, reference, failed, {name: worst}).differences
        for name in (method, reference)
    )
    return Bounds(of_method, of_reference)


def check_failed(failed: Collection[str]) -> frozenset[str]:
    """Return the names of failed runs after checking that they look like names of runs.

    Raises
    ------
    ValueError
        If one does not.
    """
    names = (failed,) if isinstance(failed, str) else tuple(failed)
    for name in names:
        parts = name.count("/") if isinstance(name, str) and _RUN.fullmatch(name) else 0
        if parts < 4:
            raise ValueError(
                f"failed holds {name!r}: names of runs are allowed, as "
                "dataset/model/method/n<train_size>/s<seed>; `run_names` makes them from a table"
            )
    return frozenset(names)
