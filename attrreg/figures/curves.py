"""Panels of accuracy against the share of features that are replaced, stacked in bands."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from attrreg.figures.gaps import Gap, add_strip, failure_notes, find_gaps, places, strip_height
from attrreg.figures.page import WIDTH, Page, open_page, text_height, wrap
from attrreg.figures.style import Mark, MethodLabel, marks_of

__all__ = ["LINES", "Heading", "draw_curves", "draw_line", "in_bands", "set_shares"]

LINES = "Lines: mean over the seeds. Bands: from the lowest to the highest seed."
MOST_COLUMNS = 4
LEFT, RIGHT, BETWEEN, ABOVE, BELOW, PANEL_HEIGHT = 0.56, 0.1, 0.16, 0.25, 0.52, 1.8
TITLE_SIZE = 8.5

Place = tuple[str, str, int]


@dataclass(frozen=True)
class Heading:
    """The words of a page of curves.

    Attributes
    ----------
    title, about
        The heading and the lines below it.
    beside
        What is added to the name of every cell; may be empty.
    accuracy
        The label of the vertical axes.
    """

    title: str
    about: str
    beside: str
    accuracy: str


def in_bands(groups: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return groups of panels as rows of at most four; a group is broken only if it is longer."""
    bands: list[list[str]] = []
    for group in groups:
        if bands and len(bands[-1]) + len(group) <= MOST_COLUMNS:
            bands[-1] = [*bands[-1], *group]
            continue
        n_bands = -(-len(group) // MOST_COLUMNS)
        length = -(-len(group) // n_bands)
        bands += [list(group[start : start + length]) for start in range(0, len(group), length)]
    return bands


def draw_curves(
    rows: pandas.DataFrame,
    failures: pandas.DataFrame,
    methods: Sequence[MethodLabel],
    bands: list[list[str]],
    heading: Heading,
    nothing: str,
) -> Figure:
    """Draw every cell (dataset, model, train size) as bands of panels.

    Parameters
    ----------
    rows
        Columns of a run, ``panel``, ``fraction`` and ``accuracy``, both finite, from 0 to 1.
    failures
        Rows of ``failures.csv``.
    methods
        The methods to draw, in the order of the legend.
    bands
        The panels' names, which are their titles, band by band.
    heading
        The words of the page.
    nothing
        The note where there are no rows; no cell is drawn then.

    Raises
    ------
    ValueError
        If no method is given, or one name twice.
    """
    marks = marks_of(methods)
    failures = failures[failures["method"].isin(marks)]
    gaps = find_gaps(rows, failures, methods)
    cells: list[Place] = list(places(rows, failures).itertuples(index=False, name=None))
    notes = failure_notes(failures, methods, rows)
    if rows.empty:
        # Whatever is missing then is not missing from single places.
        cells, notes = [], [nothing, *failure_notes(failures, methods)]
    columns = max(map(len, bands), default=1)
    width = (WIDTH - LEFT - RIGHT - BETWEEN * (columns - 1)) / columns
    titles = [[_lines(name, width) for name in band] for band in bands]
    heads = [text_height(max(map(len, lines)), TITLE_SIZE) for lines in titles]
    missing = {cell: [gap for gap in gaps if _place(gap) == cell] for cell in cells}
    heights = {cell: PANEL_HEIGHT + strip_height(len(missing[cell])) for cell in cells}
    body = sum(ABOVE + sum(head + height + BELOW for head in heads) for height in heights.values())
    page = open_page(heading.title, heading.about, body, marks.values(), notes)
    top = 0.0
    for cell in cells:
        dataset, model, size = cell
        words = [dataset, model, f"{size} training samples", heading.beside]
        page.text(LEFT, top + 0.02, " · ".join(filter(None, words)), weight="bold")
        top += ABOVE
        here = (rows["dataset"] == dataset) & (rows["model"] == model)
        mine = rows[here & (rows["train_size"] == size)]
        for band, lines, head in zip(bands, titles, heads, strict=True):
            axes = _draw_band(page, top + head, width, heights[cell], mine, band, marks)
            for number, each in enumerate(axes):
                strip = [(0.0, marks[gap.method], gap.text) for gap in missing[cell]]
                add_strip(each, strip, width, heights[cell])
                each.set_title("\n".join(lines[number]), size=TITLE_SIZE)
            axes[0].set_ylabel(heading.accuracy)
            top += head + heights[cell] + BELOW
    return page.figure


def _lines(name: str, width: float) -> list[str]:
    return [line for part in name.split("\n") for line in wrap(part, width, TITLE_SIZE)]


def _place(gap: Gap) -> Place:
    return gap.dataset, gap.model, gap.train_size


def _draw_band(
    page: Page,
    top: float,
    width: float,
    height: float,
    rows: pandas.DataFrame,
    band: list[str],
    marks: dict[str, Mark],
) -> list[Axes]:
    """Draw panels side by side; only the first has numbers on its vertical axis."""
    drawn = []
    for number, name in enumerate(band):
        axes = page.axes(LEFT + number * (width + BETWEEN), top, width, height)
        _draw_panel(axes, rows[rows["panel"] == name], list(marks.values()))
        axes.set_xlabel("replaced features (%)")
        axes.tick_params(labelleft=number == 0)
        drawn.append(axes)
    return drawn


def draw_line(axes: Axes, rows: pandas.DataFrame, column: str, mark: Mark) -> float:
    """Draw one method's mean and range over the seeds, in %; return the last share, in %."""
    by_fraction = rows.groupby("fraction", sort=True)[column]
    summary = 100 * by_fraction.agg(["mean", "min", "max"])
    x = 100 * summary.index.to_numpy()
    axes.fill_between(x, summary["min"], summary["max"], color=mark.colour, alpha=0.12, linewidth=0)
    axes.plot(x, summary["mean"], markersize=3.8, zorder=3, **(mark.line | {"linewidth": 1.2}))
    return float(x.max())


def set_shares(axes: Axes, widest: float) -> None:
    """Let the horizontal axis reach to a share of the features, in %."""
    axes.set_xlim(-3, widest + 3)
    axes.set_xticks(range(0, int(widest) + 1, 20))


def _draw_panel(axes: Axes, rows: pandas.DataFrame, marks: list[Mark]) -> None:
    widest = 90.0
    for mark in marks:
        mine = rows[rows["method"] == mark.method.name]
        if not mine.empty:
            widest = max(widest, draw_line(axes, mine, "accuracy", mark))
    set_shares(axes, widest)
    axes.set_ylim(0, 102)
    axes.set_yticks(range(0, 101, 20))
