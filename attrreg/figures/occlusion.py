"""Occlusion curves: accuracy while more and more of the input is replaced."""

from collections.abc import Sequence

import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from attrreg.figures.gaps import (
    Gap,
    add_strip,
    failure_notes,
    find_gaps,
    has_number,
    places,
    strip_height,
)
from attrreg.figures.page import WIDTH, open_page, text_height, wrap
from attrreg.figures.style import Mark, MethodLabel, marks_of, styled

__all__ = ["occlusion"]

ABOUT = (
    "Lines: mean over the seeds. Bands: from the lowest to the highest seed. Features are replaced "
    "in the order above each column; most relevant first is by each model's own map."
)
ORDERS = ("random-pixels", "random-block", "most-relevant-first")
LEFT, RIGHT, BETWEEN, ABOVE, BELOW, PANEL_HEIGHT = 0.56, 0.1, 0.16, 0.25, 0.46, 1.8
TITLE_SIZE = 8.5

Key = tuple[str, str]


@styled
def occlusion(
    curves: pandas.DataFrame,
    failures: pandas.DataFrame,
    methods: Sequence[MethodLabel],
    title: str = "Accuracy under occlusion",
) -> Figure:
    """Draw accuracy against the replaced fraction; columns are orders, rows are cells.

    Parameters
    ----------
    curves
        Rows of ``curves.csv``; fractions and accuracies from 0 to 1. Orders with several fills get
        one column each.
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
    marks = marks_of(methods)
    rows = curves[has_number(curves["accuracy"]) & curves["method"].isin(marks)]
    failures = failures[failures["method"].isin(marks)]
    gaps = find_gaps(rows, failures, methods)
    notes = failure_notes(failures, methods, rows)
    cells = list(places(rows, failures).itertuples(index=False, name=None))
    if not cells:
        notes.append("no finished run: the table has no curve for these methods")
    keys = {cell[:2]: _columns(rows, cell[:2]) for cell in cells}
    columns = max(map(len, keys.values()), default=1)
    width = (WIDTH - LEFT - RIGHT - BETWEEN * (columns - 1)) / columns
    heights = [PANEL_HEIGHT + strip_height(len(_gaps_at(gaps, cell))) for cell in cells]
    heads = {
        pair: [wrap(_heading(key, known), width, TITLE_SIZE) for key in known]
        for pair, known in keys.items()
    }
    above = {
        pair: ABOVE + text_height(max(map(len, lines)), TITLE_SIZE) for pair, lines in heads.items()
    }
    body = sum(heights) + sum(above[cell[:2]] + BELOW for cell in cells)
    page = open_page(title, ABOUT, body, marks.values(), notes)
    top = 0.0
    for cell, height in zip(cells, heights, strict=True):
        dataset, model, size = cell
        pair = (dataset, model)
        heading = " · ".join([*pair, f"{size} training samples", *_only_fill(keys[pair])])
        page.text(LEFT, top + 0.02, heading, weight="bold")
        here = rows[(rows["dataset"] == dataset) & (rows["model"] == model)]
        here = here[here["train_size"] == size]
        for number, key in enumerate(keys[pair]):
            left = LEFT + number * (width + BETWEEN)
            axes = page.axes(left, top + above[pair], width, height)
            panel = here[(here["order"] == key[0]) & (here["fill"] == key[1])]
            _draw_panel(axes, panel, list(marks.values()))
            missing = [(0.0, marks[gap.method], gap.text) for gap in _gaps_at(gaps, cell)]
            add_strip(axes, missing, width, height)
            axes.set_title("\n".join(heads[pair][number]), size=TITLE_SIZE)
            axes.set_xlabel("replaced features (%)")
            if number:
                axes.set_yticklabels([])
            else:
                axes.set_ylabel("test accuracy (%)")
        top += above[pair] + height + BELOW
    return page.figure


def _columns(rows: pandas.DataFrame, pair: tuple[str, str]) -> list[Key]:
    """Return the pairs of order and fill of a dataset and model, known orders first."""
    here = rows[(rows["dataset"] == pair[0]) & (rows["model"] == pair[1])]
    found = set(here[["order", "fill"]].itertuples(index=False, name=None))
    rank = {order: number for number, order in enumerate(ORDERS)}
    keys = sorted(found, key=lambda key: (rank.get(key[0], len(ORDERS)), key))
    return keys or [(order, "") for order in ORDERS]


def _only_fill(keys: list[Key]) -> list[str]:
    """Return the fill for the heading of a row, where all its columns have the same."""
    fills = {fill for _, fill in keys}
    return [f"fill: {fill.replace('-', ' ')}" for fill in fills if fill and len(fills) == 1]


def _heading(key: Key, keys: list[Key]) -> str:
    order, fill = (word.replace("-", " ") for word in key)
    return order if _only_fill(keys) or not fill else f"{order}, fill: {fill}"


def _gaps_at(gaps: list[Gap], cell: tuple[str, str, int]) -> list[Gap]:
    return [gap for gap in gaps if (gap.dataset, gap.model, gap.train_size) == cell]


def _draw_panel(axes: Axes, rows: pandas.DataFrame, marks: list[Mark]) -> None:
    widest = 0.9
    for mark in marks:
        mine = rows[rows["method"] == mark.method.name]
        if mine.empty:
            continue
        by_fraction = mine.groupby("fraction", sort=True)["accuracy"]
        summary = 100 * by_fraction.agg(["mean", "min", "max"])
        x = 100 * summary.index.to_numpy()
        widest = max(widest, x.max() / 100)
        axes.fill_between(
            x, summary["min"], summary["max"], color=mark.colour, alpha=0.12, linewidth=0
        )
        axes.plot(x, summary["mean"], markersize=3.8, zorder=3, **(mark.line | {"linewidth": 1.2}))
    axes.set_xlim(-3, 100 * widest + 3)
    axes.set_xticks(range(0, int(100 * widest) + 1, 20))
    axes.set_ylim(0, 102)
    axes.set_yticks(range(0, 101, 20))
