"""Faithfulness of maps: accuracy while the most, or the least, relevant features go first."""

from collections.abc import Sequence

import pandas
from matplotlib.figure import Figure

from attrreg.figures.curves import LINES, Heading, draw_curves, in_bands
from attrreg.figures.gaps import has_number
from attrreg.figures.style import MethodLabel, styled

__all__ = ["faithfulness"]

ABOUT = (
    f"{LINES} Features are replaced by the relevance that the map named above each panel gives "
    "them in each method's own model. The better the map, the faster accuracy falls with the most "
    "relevant first (MoRF) and the longer it stays with the least relevant first (LeRF); the area "
    "between the two curves is the symmetric relevance gain (SRG)."
)
FIRST = {"most": "most relevant first", "least": "least relevant first"}


@styled
def faithfulness(
    curves: pandas.DataFrame,
    failures: pandas.DataFrame,
    methods: Sequence[MethodLabel],
    title: str = "Faithfulness of the maps",
) -> Figure:
    """Draw accuracy against the replaced fraction; two panels per map, bands of panels per cell.

    Where nothing is measured, the page says where it is asked for.

    Parameters
    ----------
    curves
        Rows of ``faithfulness.csv``; fractions and accuracies from 0 to 1. Of several fills the
        first of the table is drawn.
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

    References
    ----------
    Samek et al., Evaluating the visualization of what a deep neural network has learned, 2017;
    Blücher et al., Decoupling pixel flipping and occlusion strategy, 2024.
    """
    known = curves["method"].isin([method.name for method in methods])
    rows = curves[has_number(curves["accuracy"]) & known]
    fill = next(iter(rows["fill"]), "")
    rows = rows[rows["fill"] == fill]
    pairs = zip(rows["map"], rows["first"], strict=True)
    rows = rows.assign(panel=[_panel(name, first) for name, first in pairs])
    groups = [[_panel(name, first) for first in FIRST] for name in dict.fromkeys(rows["map"])]
    return draw_curves(
        rows,
        failures,
        methods,
        in_bands(groups),
        Heading(title, ABOUT, f"fill: {fill.replace('-', ' ')}" if fill else "", "accuracy (%)"),
        "no curve: the table has none for these methods. It is filled where evaluation.measures "
        "names faithfulness.",
    )


def _panel(name: str, first: str) -> str:
    return f"{name}\n{FIRST.get(first, first)}"
