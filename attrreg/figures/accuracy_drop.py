"""Accuracy drop: accuracy while each map's largest features go, beside that of a random map."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from attrreg.figures.curves import LINES, draw_line, in_bands, set_shares
from attrreg.figures.gaps import (
    PLACE,
    add_strip,
    failure_notes,
    find_gaps,
    has_number,
    places,
    seed_list,
    strip_height,
)
from attrreg.figures.labels import saliency_label
from attrreg.figures.page import WIDTH, Page, open_page, text_height, wrap
from attrreg.figures.style import Mark, MethodLabel, marks_of, styled

__all__ = ["accuracy_drop", "below_random"]

RANDOM = "random"
ABOUT = (
    f"{LINES} The features of largest magnitude in the map above each panel, made by each method's "
    "own model, are replaced by the image's top-left pixel, without training again."
)
CONTROL = (
    "Upper panels: accuracy; the grey band holds the random-map curves of all methods. Lower "
    "panels: how far each method is then below its own random-map curve. High: the map finds what "
    "the model uses, faster than chance; 0: it is no better than a random map."
)
NO_CONTROL = "Without the map 'random' nothing says how fast chance alone lets accuracy fall."
NOTHING = (
    "no curve: nothing was measured for these methods. The table is filled where the experiment "
    "asks for it, evaluation.measures: [accuracy-drop]."
)
RUN = [*PLACE, "method", "seed"]
LEFT, RIGHT, BETWEEN = 0.62, 0.1, 0.16
ABOVE, UPPER, GAP, LOWER, BELOW = 0.25, 1.4, 0.1, 0.95, 0.5
TITLE_SIZE, NOTE_SIZE = 8.5, 8.0
LABELS = ("test accuracy (%)", "below random\n(points)")

Cell = tuple[str, str, int]
Strip = list[tuple[float, Mark, str]]


@dataclass(frozen=True)
class Layout:
    """The panels of a page: bands of maps, their titles, and the limits of the lower panels."""

    bands: list[list[str]]
    titles: list[list[list[str]]]
    heads: list[float]
    width: float
    lower: tuple[float, float] | None

    def panels(self, n_lines: int) -> float:
        """Return the inches of a band without its titles; n_lines: of its marked gaps."""
        lower = GAP + LOWER if self.lower else 0.0
        return UPPER + strip_height(n_lines) + lower + BELOW

    def cell(self, strips: dict[str, Strip]) -> float:
        """Return the inches of all bands of a cell, with its heading."""
        lines = (max(len(strips[name]) for name in band) for band in self.bands)
        pairs = zip(self.heads, lines, strict=True)
        return ABOVE + sum(head + self.panels(n_lines) for head, n_lines in pairs)


@styled
def accuracy_drop(
    curves: pandas.DataFrame,
    failures: pandas.DataFrame,
    methods: Sequence[MethodLabel],
    title: str = "Accuracy drop",
) -> Figure:
    """Draw accuracy, and what it is below that of a random map; a panel of each per map.

    Where nothing is measured, the page says how to ask for it. Without the map ``random`` there are
    no lower panels.

    Parameters
    ----------
    curves
        Rows of ``accuracy_drop.csv``; fractions and accuracies from 0 to 1.
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
    Ismail et al., Improving deep learning interpretability by saliency guided training, 2021, arXiv
    2111.14338.
    """
    marks = marks_of(methods)
    failures = failures[failures["method"].isin(marks)]
    mine = curves[curves["method"].isin(marks)]
    rows = below_random(mine[has_number(mine["accuracy"])])
    if rows.empty:
        notes = [NOTHING, *failure_notes(failures, methods)]
        return open_page(title, ABOUT, 0.0, marks.values(), notes).figure
    layout = _lay_out(rows, list(dict.fromkeys(mine["map"])))
    strips = _strips(rows, failures, marks, layout.bands)
    about = f"{ABOUT} {CONTROL if layout.lower else NO_CONTROL}"
    body = sum(map(layout.cell, strips.values()))
    notes = [*failure_notes(failures, methods, rows), *_lacking(mine, rows, methods)]
    page = open_page(title, about, body, marks.values(), notes)
    top = 0.0
    for cell, by_map in strips.items():
        dataset, model, size = cell
        words = f"{dataset} · {model} · {size} training samples"
        page.text(LEFT, top + 0.02, words, weight="bold")
        _draw_cell(page, top + ABOVE, _at(rows, cell), layout, by_map, marks)
        top += layout.cell(by_map)
    return page.figure


def below_random(rows: pandas.DataFrame) -> pandas.DataFrame:
    """Add the column ``below``: the same run's accuracy under the random map, less that of the row.

    NaN where that run has no random map at that fraction.
    """
    random = rows.loc[rows["map"] == RANDOM, [*RUN, "fraction", "accuracy"]]
    random = random.rename(columns={"accuracy": "by_chance"})
    both = rows.merge(random, on=[*RUN, "fraction"], how="left")
    return both.assign(below=both["by_chance"] - both["accuracy"]).drop(columns="by_chance")


def _at(rows: pandas.DataFrame, cell: Cell) -> pandas.DataFrame:
    dataset, model, size = cell
    here = (rows["dataset"] == dataset) & (rows["model"] == model)
    return rows[here & (rows["train_size"] == size)]


def _lay_out(rows: pandas.DataFrame, maps: list[str]) -> Layout:
    """Return the layout of a page: maps in the order given, the control last."""
    bands = in_bands([sorted(maps, key=lambda name: name == RANDOM)])
    columns = max(map(len, bands))
    width = (WIDTH - LEFT - RIGHT - BETWEEN * (columns - 1)) / columns
    titles = [[wrap(saliency_label(name), width, TITLE_SIZE) for name in band] for band in bands]
    heads = [text_height(max(map(len, lines)), TITLE_SIZE) for lines in titles]
    return Layout(bands, titles, heads, width, _limits(rows))


def _limits(rows: pandas.DataFrame) -> tuple[float, float] | None:
    """Return limits in points that hold 0 and every seed; None where no map has its control."""
    below = 100 * rows.loc[rows["map"] != RANDOM, "below"].dropna()
    if below.empty:
        return None
    low, high = min(0.0, below.min()), max(0.0, below.max())
    pad = 0.06 * (high - low) or 1.0
    return low - pad, high + pad


def _strips(
    rows: pandas.DataFrame,
    failures: pandas.DataFrame,
    marks: dict[str, Mark],
    bands: list[list[str]],
) -> dict[Cell, dict[str, Strip]]:
    """Return by cell and map the methods that have no curve there, and what to say of them."""
    methods = [mark.method for mark in marks.values()]
    gaps = {
        ((gap.dataset, gap.model, gap.train_size), gap.method): gap.text
        for gap in find_gaps(rows, failures, methods)
    }
    strips: dict[Cell, dict[str, Strip]] = {}
    for cell in places(rows, failures).itertuples(index=False, name=None):
        here = _at(rows, cell)
        strips[cell] = {}
        for name in chain.from_iterable(bands):
            found = set(here.loc[here["map"] == name, "method"])
            # A map that nobody has here is said to be missing once, in its panel.
            lost = [m for m in marks if m not in found and (found or (cell, m) in gaps)]
            strips[cell][name] = [(0.0, marks[m], gaps.get((cell, m), "no value")) for m in lost]
    return strips


def _lacking(
    asked: pandas.DataFrame, rows: pandas.DataFrame, methods: Sequence[MethodLabel]
) -> list[str]:
    """Return a line per cell, method and set of maps that seeds with other values have not whole.

    A curve is whole if it has a finite value at every fraction that the table has in its cell.
    """
    notes = []
    for cell in places(rows, rows.iloc[:0]).itertuples(index=False, name=None):
        here, fractions = _at(rows, cell), set(_at(asked, cell)["fraction"])
        maps = list(dict.fromkeys(_at(asked, cell)["map"]))
        for method in methods:
            by_seed = here[here["method"] == method.name].groupby("seed", sort=True)
            seeds: dict[tuple[str, ...], list[int]] = {}
            for seed, run in by_seed:
                count = run.groupby("map")["fraction"].nunique()
                lost = tuple(name for name in maps if count.get(name, 0) < len(fractions))
                seeds.setdefault(lost, []).append(seed)
            notes += [
                f"× {method.text} lacks values on {cell[0]} · {cell[1]} (train size {cell[2]}, "
                f"{seed_list(numbers)}) of {', '.join(map(saliency_label, lost))}"
                for lost, numbers in seeds.items()
                if lost
            ]
    return notes


def _draw_cell(
    page: Page,
    top: float,
    rows: pandas.DataFrame,
    layout: Layout,
    strips: dict[str, Strip],
    marks: dict[str, Mark],
) -> None:
    """Draw the bands of one dataset, model and train size."""
    width = layout.width
    random = rows[rows["map"] == RANDOM]
    widest = 100 * max([0.9, *rows["fraction"]])
    for band, titles, head in zip(layout.bands, layout.titles, layout.heads, strict=True):
        # Panels side by side share their numbers, so they leave the same room for gaps.
        n_lines = max(len(strips[name]) for name in band)
        upper = UPPER + strip_height(n_lines)
        for number, name in enumerate(band):
            left = LEFT + number * (width + BETWEEN)
            here = rows[rows["map"] == name]
            axes = [page.axes(left, top + head, width, upper)]
            _draw_upper(axes[0], here, random, marks.values(), widest)
            axes[0].set_title("\n".join(titles[number]), size=TITLE_SIZE)
            add_strip(axes[0], strips[name], width, upper, n_lines)
            if layout.lower and name != RANDOM:
                axes.append(page.axes(left, top + head + upper + GAP, width, LOWER))
                _draw_lower(axes[1], here, marks.values(), widest, layout.lower)
                axes[0].tick_params(labelbottom=False)
            axes[-1].set_xlabel("replaced features (%)")
            for panel, label in zip(axes, LABELS, strict=False):
                panel.tick_params(labelleft=number == 0)
                panel.set_ylabel(label if number == 0 else "")
        top += head + layout.panels(n_lines)


def _draw_upper(
    axes: Axes,
    rows: pandas.DataFrame,
    random: pandas.DataFrame,
    marks: Iterable[Mark],
    widest: float,
) -> None:
    """Draw accuracy per method, before what the random maps of all methods leave of it."""
    chance = 100 * random.groupby(["fraction", "method"])["accuracy"].mean().unstack()
    if len(chance):
        axes.fill_between(
            100 * chance.index.to_numpy(),
            chance.min(axis=1),
            chance.max(axis=1),
            facecolor="#d6d6d6",
            edgecolor="#a8a8a8",
            linewidth=0.8,
            zorder=0.95,
        )
    for mark in marks:
        mine = rows[rows["method"] == mark.method.name]
        if len(mine):
            draw_line(axes, mine, "accuracy", mark)
    if rows.empty:
        axes.text(0.5, 0.5, "no value", transform=axes.transAxes, ha="center", size=NOTE_SIZE)
    set_shares(axes, widest)
    axes.set_ylim(0, 102)
    axes.set_yticks(range(0, 101, 20))


def _draw_lower(
    axes: Axes,
    rows: pandas.DataFrame,
    marks: Iterable[Mark],
    widest: float,
    limits: tuple[float, float],
) -> None:
    """Draw how many points accuracy is below that under the random map of the same run."""
    axes.axhline(0, color="#555555", linewidth=0.9)
    for mark in marks:
        mine = rows[(rows["method"] == mark.method.name) & rows["below"].notna()]
        if len(mine):
            draw_line(axes, mine, "below", mark)
    set_shares(axes, widest)
    axes.set_ylim(*limits)
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
