"""Occlusion curves: accuracy while more and more of the input is replaced."""

from collections.abc import Iterable, Sequence

import pandas
from matplotlib.figure import Figure

from attrreg.figures.curves import LINES, Heading, draw_curves, in_bands
from attrreg.figures.gaps import has_number
from attrreg.figures.labels import order_label, sorted_orders
from attrreg.figures.style import MethodLabel, styled

__all__ = ["occlusion"]

ABOUT = f"{LINES} Features are replaced in the order above each panel."
OWN = "Own map: of the predicted class, by each model itself."
NEUTRAL = (
    "Neutral map: one map of each sample for all methods, by another run of the experiment's "
    "neutral method (the baseline unless it names another)."
)


@styled
def occlusion(
    curves: pandas.DataFrame,
    failures: pandas.DataFrame,
    methods: Sequence[MethodLabel],
    title: str = "Accuracy under occlusion",
) -> Figure:
    """Draw accuracy against the replaced fraction; a panel per order, bands of panels per cell.

    Parameters
    ----------
    curves
        Rows of ``curves.csv``; fractions and accuracies from 0 to 1. Every fill has panels of its
        own, the first of the table first.
    failures
        Rows of ``failures.csv``.
    methods
        The methods to draw, in the order of the legend.
    title
        The heading.

    Raises
    ------
    ValueError
        If no method is given, or one name twice.
    """
    known = curves["method"].isin([method.name for method in methods])
    rows = curves[has_number(curves["accuracy"]) & known]
    fills = list(dict.fromkeys(rows["fill"]))
    several = len(fills) > 1
    pairs = zip(rows["order"], rows["fill"], strict=True)
    rows = rows.assign(panel=[_panel(order, fill, several) for order, fill in pairs])
    orders = sorted_orders(rows["order"])
    groups = [[_panel(order, fill, several) for order in orders] for fill in fills]
    shown = set(rows["panel"])
    groups = [[name for name in group if name in shown] for group in groups]
    beside = f"fill: {fills[0].replace('-', ' ')}" if len(fills) == 1 and fills[0] else ""
    return draw_curves(
        rows,
        failures,
        methods,
        in_bands(groups),
        Heading(title, _about(orders), beside, "test accuracy (%)"),
        "no finished run: the table has no curve for these methods",
    )


def _panel(order: str, fill: str, several: bool) -> str:
    label = order_label(order)
    return f"{label}\nfill: {fill.replace('-', ' ')}" if several and fill else label


def _about(orders: Iterable[str]) -> str:
    """Return what is shown; own and neutral maps are explained where they are."""
    by_map = [order for order in orders if order.endswith("relevant-first")]
    neutral = [order for order in by_map if order.startswith("neutral")]
    words = [ABOUT, OWN if len(by_map) > len(neutral) else "", NEUTRAL if neutral else ""]
    return " ".join(filter(None, words))
