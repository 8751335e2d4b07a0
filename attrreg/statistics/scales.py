"""Values on the scale on which they are compared: as they are, or as logarithms."""

import math

import numpy as np
import pandas as pd

from attrreg.statistics.choices import check_choice

__all__ = ["SCALES", "on_scale", "percent_change"]

SCALES = ("difference", "log-ratio")


def on_scale(
    table: pd.DataFrame, metric: str, scale: str, floor: float | None = None
) -> pd.DataFrame:
    """Return the table with its values on the scale.

    The difference of two logarithms is the log ratio log(method / reference): it weighs a change
    from 2 to 1 % error as much as one from 40 to 20 %, so that no train size rules the mean.

    Parameters
    ----------
    table
        A table with the column value; NaN and infinite values stay.
    metric
        What the values are called in an error.
    scale
        ``"difference"`` or ``"log-ratio"``.
    floor
        For ``"log-ratio"``: values from 0 to here are raised to it. For an error rate over N test
        samples half a sample, 0.5 / N, so that no error at all has a logarithm.

    Raises
    ------
    ValueError
        If the scale is unknown, the floor is not above 0 or has no use, or a value has no
        logarithm.
    """
    check_choice("scale", scale, SCALES)
    if scale == "difference":
        if floor is not None:
            raise ValueError(
                f"floor is {floor} for metric {metric!r} on the scale 'difference': only the scale "
                "'log-ratio' takes one; leave it out or change the scale"
            )
        return table
    if floor is not None and not 0 < floor < math.inf:
        raise ValueError(
            f"floor is {floor} for metric {metric!r}: a finite number above 0 is allowed, such as "
            "half a sample, 0.5 / (number of test samples), for an error rate; or None"
        )
    values = table["value"].to_numpy(dtype=np.float64)
    without = values < 0 if floor is not None else values <= 0
    if without.any():
        row = table.loc[without].iloc[0]
        run = "/".join(str(row[key]) for key in ("dataset", "model", "method"))
        cure = (
            "with a floor, values of at least 0 are allowed; compare it on the scale 'difference'"
            if floor is not None
            else "only values above 0 have one; give a floor (half a test sample for an error "
            "rate), or compare it on the scale 'difference'"
        )
        raise ValueError(
            f"metric {metric!r} has {int(without.sum())} values without a logarithm, the first is "
            f"{row['value']} of {run}/n{row['train_size']}/s{row['seed']}: {cure}"
        )
    raised = values if floor is None else np.maximum(values, floor)
    return table.assign(value=np.log(raised))


def percent_change(difference: float, scale: str) -> float:
    """Return how many percent the method's value lies above the reference's; NaN without ratio."""
    return 100 * math.expm1(difference) if scale == "log-ratio" else math.nan
