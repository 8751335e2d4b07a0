"""Reliability diagrams: accuracy against confidence, one small panel per method and train size."""

from collections.abc import Sequence

import numpy
import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from attrreg.figures.gaps import Gap, failure_notes, find_gaps, has_number, places
from attrreg.figures.page import WIDTH, Page, open_page, text_height, wrap
from attrreg.figures.style import Mark, MethodLabel, marks_of, styled

__all__ = ["calibration_errors", "pooled_bins", "reliability"]

ABOUT = (
    "Each point is a bin of confidence, pooled over the seeds, larger with more samples; upright "
    "lines are its distance from perfect calibration (diagonal): below it the model is too sure. "
    "Bars: share of the test samples per bin. ECE: expected calibration error, mean over the seeds."
)
SCALED = (
    "After scaling: the same models with their logits divided by one temperature per run, which "
    "changes no prediction, fitted on {}."
)
# What the temperature was fitted on, by the column ``regime``.
REGIMES = {
    "held back": "samples held back from the label budget of the run",
    "cross-fitting": "what models that did not see them say of the run's own training samples "
    "(cross-fitting)",
    "validation split": "the validation split, labels beyond those of train_size",
}
PER_BAND = 6
LEFT, RIGHT, BETWEEN = 0.7, 0.1, 0.12
BARS, ROW_HEAD, ERROR, ROW_FOOT = 0.3, 0.2, 0.15, 0.42
STAGE_FOOT = 0.12  # below all rows of panels but the last, which has the numbers
LABEL_SIZE = 8.0


@styled
def reliability(
    bins: pandas.DataFrame,
    failures: pandas.DataFrame,
    methods: Sequence[MethodLabel],
    title: str = "Reliability",
) -> Figure:
    """Draw a reliability diagram per method (columns) and train size (rows).

    Where the table has bins after temperature scaling, a second row below each shows them. Datasets
    and models are stacked; more than six methods go on in a further band of rows.

    Parameters
    ----------
    bins
        Rows of ``reliability.csv``: per run and bin of confidence its count, its mean confidence
        and its accuracy (NaN in an empty bin). A table without the column ``scaled`` is taken as
        before scaling.
    failures
        Rows of ``failures.csv``.
    methods
        The methods to draw, in the order of the columns.
    title
        The heading.

    Raises
    ------
    ValueError
        If no method is given, or one name twice.

    References
    ----------
    Guo et al., On Calibration of Modern Neural Networks, ICML 2017, figure 1.
    """
    marks = marks_of(methods)
    bins = bins if "scaled" in bins else bins.assign(scaled=False)
    filled = has_number(bins["confidence"]) & has_number(bins["accuracy"])
    rows = bins[filled & (bins["count"] > 0) & bins["method"].isin(marks)]
    failures = failures[failures["method"].isin(marks)]
    gaps = {
        (g.dataset, g.model, g.train_size, g.method): g for g in find_gaps(rows, failures, methods)
    }
    notes = failure_notes(failures, methods, rows)
    bands = [methods[start : start + PER_BAND] for start in range(0, len(methods), PER_BAND)]
    columns = min(len(methods), PER_BAND)
    width = min((WIDTH - LEFT - RIGHT - BETWEEN * (columns - 1)) / columns, 2.4)
    heads = [[wrap(m.text, width + BETWEEN - 0.04, LABEL_SIZE) for m in band] for band in bands]
    tops = [text_height(max(map(len, head)), LABEL_SIZE) + 0.04 for head in heads]
    cells = list(places(rows, failures).itertuples(index=False, name=None))
    if not cells:
        notes.append("no finished run: the table has no bin with samples for these methods")
    pairs = list(dict.fromkeys(cell[:2] for cell in cells))
    stages = {False: "before scaling\n", True: "after scaling\n"}
    stages = stages if rows["scaled"].any() else {False: ""}
    stage = ERROR + width + BARS + STAGE_FOOT
    pitch = ROW_HEAD + len(stages) * stage - STAGE_FOOT + ROW_FOOT
    body = len(cells) * len(bands) * pitch + len(pairs) * sum(tops)
    about = f"{ABOUT} {_scaled(rows)}" if len(stages) > 1 else ABOUT
    page = open_page(title, about, body, notes=notes)
    top = 0.0
    for pair in pairs:
        for band, head, head_height in zip(bands, heads, tops, strict=True):
            mine = [cell for cell in cells if cell[:2] == pair]
            for number, cell in enumerate(mine):
                heading = f"{cell[0]} · {cell[1]} · {cell[2]} training samples"
                page.text(LEFT, top, heading, size=LABEL_SIZE, weight="bold")
                top += ROW_HEAD
                if number == 0:
                    _write_heads(page, top, head_height, head, width)
                    top += head_height
                panels = [(marks[m.name], gaps.get((*cell, m.name))) for m in band]
                for place, (scaled, word) in enumerate(stages.items()):
                    below = top + place * stage + ERROR
                    here = rows[rows["scaled"] == scaled]
                    drawn = _draw_row(page, below, width, cell, panels, here)
                    _label_row(drawn, word, last=place == len(stages) - 1)
                top += pitch - ROW_HEAD
    return page.figure


def _scaled(rows: pandas.DataFrame) -> str:
    """Say what the temperatures were fitted on; runs of one table may differ in it."""
    names = rows["regime"].unique() if "regime" in rows else []
    found = [REGIMES.get(name, str(name)) for name in names]
    return SCALED.format(" or on ".join(found) or "samples that are not tested")


def calibration_errors(bins: pandas.DataFrame) -> numpy.ndarray:
    """Return the expected calibration error of every seed, from rows of its filled bins.

    Returns
    -------
    numpy.ndarray
        (S,) float64, fractions, seeds ascending.
    """
    weighted = (bins["accuracy"] - bins["confidence"]).abs() * bins["count"]
    sums = pandas.DataFrame({"seed": bins["seed"], "gap": weighted, "count": bins["count"]})
    by_seed = sums.groupby("seed", sort=True).sum()
    return (by_seed["gap"] / by_seed["count"]).to_numpy(dtype="float64")


def pooled_bins(bins: pandas.DataFrame) -> pandas.DataFrame:
    """Return the bins pooled over seeds, by counts.

    Returns
    -------
    pandas.DataFrame
        One row per filled bin, ascending: ``low``, ``high``, ``share`` of all samples,
        ``confidence``, ``accuracy``.
    """
    counts = bins["count"]
    sums = pandas.DataFrame(
        {
            "bin": bins["bin"],
            "count": counts,
            "confidence": bins["confidence"] * counts,
            "accuracy": bins["accuracy"] * counts,
        }
    )
    pooled = sums.groupby("bin", sort=True).sum()
    edges = bins.groupby("bin", sort=True)[["low", "high"]].first()
    return edges.assign(
        share=pooled["count"] / pooled["count"].sum(),
        confidence=pooled["confidence"] / pooled["count"],
        accuracy=pooled["accuracy"] / pooled["count"],
    )


def _write_heads(
    page: Page, top: float, height: float, heads: list[list[str]], width: float
) -> None:
    for number, lines in enumerate(heads):
        left = LEFT + number * (width + BETWEEN)
        style = {"size": LABEL_SIZE, "va": "bottom", "linespacing": 1.3}
        page.text(left, top + height, "\n".join(lines), **style)


def _draw_row(
    page: Page,
    top: float,
    width: float,
    cell: tuple[str, str, int],
    panels: list[tuple[Mark, Gap | None]],
    rows: pandas.DataFrame,
) -> list[tuple[Axes, Axes]]:
    """Draw the panels of one row side by side and return the axes of each: diagram and bars."""
    dataset, model, size = cell
    here = (rows["dataset"] == dataset) & (rows["model"] == model) & (rows["train_size"] == size)
    drawn, shares = [], []
    for number, (mark, gap) in enumerate(panels):
        left = LEFT + number * (width + BETWEEN)
        axes = page.axes(left, top, width, width)
        bars = page.axes(left, top + width + 0.04, width, BARS - 0.04)
        _frame(axes, bars)
        drawn.append((axes, bars))
        if gap:
            axes.plot([50], [60], "x", color=mark.colour, markersize=14, markeredgewidth=3)
            lines = "\n".join(wrap(gap.text, width * 0.9, LABEL_SIZE))
            axes.text(50, 42, lines, ha="center", va="top", size=LABEL_SIZE)
            continue
        mine = rows[here & (rows["method"] == mark.method.name)]
        shares.append(bars)
        _draw_panel(axes, bars, mine, mark)
    tallest = max((bars.dataLim.y1 for bars in shares), default=1.0)
    for bars in shares:
        bars.set_ylim(0, 1.05 * tallest)
    return drawn


def _frame(axes: Axes, bars: Axes) -> None:
    """Set limits and ticks, without numbers."""
    for each in (axes, bars):
        each.set_xlim(-5, 105)
        each.set_xticks([0, 50, 100], ["", "", ""])
    axes.set_ylim(-5, 105)
    axes.set_yticks([0, 50, 100], ["", "", ""])
    bars.set_yticks([])
    bars.spines["left"].set_visible(False)
    bars.grid(visible=False)


def _label_row(drawn: list[tuple[Axes, Axes]], stage: str, last: bool) -> None:
    """Write the numbers: upright ones at the first panel, those of confidence in the last row."""
    first, _ = drawn[0]
    first.set_yticklabels(["0", "50", "100"])
    first.set_ylabel(f"{stage}accuracy (%)", size=LABEL_SIZE)
    for _, bars in drawn if last else []:
        bars.set_xticklabels(["0", "50", "100"])
        for label, side in zip(bars.get_xticklabels(), ("left", "center", "right"), strict=True):
            label.set(horizontalalignment=side)
        bars.set_xlabel("confidence (%)", size=LABEL_SIZE, labelpad=1)


def _draw_panel(axes: Axes, bars: Axes, rows: pandas.DataFrame, mark: Mark) -> None:
    pooled = pooled_bins(rows)
    confidence, accuracy = 100 * pooled["confidence"], 100 * pooled["accuracy"]
    axes.vlines(confidence, confidence, accuracy, color=mark.colour, linewidth=0.8, alpha=0.6)
    axes.plot([0, 100], [0, 100], color="#888888", linewidth=0.9)
    axes.plot(confidence, accuracy, "-", color=mark.colour, linewidth=0.8, alpha=0.5)
    axes.scatter(
        confidence,
        accuracy,
        s=5 + 24 * pooled["share"] / pooled["share"].max(),
        marker=mark.marker,
        facecolor="white" if mark.hollow else mark.colour,
        edgecolor=mark.colour,
        linewidth=0.9,
        zorder=3,
    )
    bars.bar(
        100 * pooled["low"],
        100 * pooled["share"],
        width=100 * (pooled["high"] - pooled["low"]) * 0.92,
        align="edge",
        color="white" if mark.hollow else mark.colour,
        edgecolor=mark.colour,
        linewidth=0.7,
    )
    error = 100 * float(calibration_errors(rows).mean())
    axes.set_title(f"ECE {error:.1f} %", size=LABEL_SIZE, pad=2)
