"""A metric against the number of training samples: accuracy, and expected calibration error."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from attrreg.figures.gaps import (
    Gap,
    add_strip,
    failure_notes,
    find_gaps,
    has_number,
    places,
    strip_height,
)
from attrreg.figures.page import WIDTH, open_page, text_height, text_width
from attrreg.figures.style import Mark, MethodLabel, marks_of, styled

__all__ = ["accuracy_by_train_size", "ece_by_train_size", "t_interval"]

ABOUT = (
    "Mean over the seeds with its 95 % t interval, cut at 0 and 100 % (no interval at one seed). "
    "Small dots: single seeds. Methods are set side by side at each size."
)
CHANCE = (
    "Grey dashes: what chance alone shows, the mean error of a perfectly calibrated model with the "
    "same confidences on as many test samples."
)
CHANCE_COLOUR = "#8a8a8a"
PANEL_HEIGHT, TICK_SIZE = 3.0, 8.0
CROWD = 6  # more methods than this need the whole width
LEFT, RIGHT, BELOW, ABOVE = 0.78, 0.12, 0.5, 0.26


@dataclass(frozen=True)
class Ruler:
    """The horizontal axis of one panel: train sizes on a logarithmic scale.

    Attributes
    ----------
    sizes
        The train sizes, ascending.
    step
        Natural logarithm of the factor between two neighbouring methods.
    low, high
        The limits, in samples.
    labels
        The text at every size; empty where there is no room.
    """

    sizes: list[int]
    step: float
    low: float
    high: float
    labels: list[str]

    def place(self, size: int, number: float, n_methods: int) -> float:
        """Return where the method of that number stands at a size."""
        return size * math.exp(self.step * (number - (n_methods - 1) / 2))


@styled
def accuracy_by_train_size(
    metrics: pandas.DataFrame,
    failures: pandas.DataFrame,
    methods: Sequence[MethodLabel],
    title: str = "Test accuracy by train size",
) -> Figure:
    """Draw the accuracy against the train size, one panel per dataset and model.

    Parameters
    ----------
    metrics
        Rows of ``metrics.csv``; values are fractions.
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
    return _draw(metrics, failures, methods, title, "accuracy", "test accuracy (%)")


@styled
def ece_by_train_size(
    metrics: pandas.DataFrame,
    failures: pandas.DataFrame,
    methods: Sequence[MethodLabel],
    title: str = "Expected calibration error by train size",
) -> Figure:
    """Draw the expected calibration error against the train size, one panel per dataset and model.

    Parameters
    ----------
    metrics
        Rows of ``metrics.csv``; values are fractions. Where there is ``ece-expected``, its mean is
        drawn beside: what chance alone shows.
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
    Guo et al., On Calibration of Modern Neural Networks, ICML 2017, equation 3.
    """
    label = "expected calibration error (%)\nequal-width bins; lower is better"
    return _draw(metrics, failures, methods, title, "ece", label, chance="ece-expected")


def t_interval(values: numpy.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Return the two-sided t interval of the mean of (S,) values; the mean twice if S is 1."""
    from scipy.special import stdtrit  # only these figures need scipy

    mean = float(numpy.mean(values))
    if len(values) < 2:
        return mean, mean
    error = float(numpy.std(values, ddof=1)) / math.sqrt(len(values))
    half = float(stdtrit(len(values) - 1, (1 + level) / 2)) * error
    return mean - half, mean + half


def _draw(
    metrics: pandas.DataFrame,
    failures: pandas.DataFrame,
    methods: Sequence[MethodLabel],
    title: str,
    metric: str,
    label: str,
    chance: str = "",
) -> Figure:
    marks = marks_of(methods)
    known = metrics[metrics["method"].isin(marks) & has_number(metrics["value"])]
    known = known.assign(percent=100 * known["value"])
    rows, by_chance = (known[known["metric"] == name] for name in (metric, chance))
    failures = failures[failures["method"].isin(marks)]
    gaps = find_gaps(rows, failures, methods)
    notes = failure_notes(failures, methods, rows)
    pairs = places(rows, failures)[["dataset", "model"]].drop_duplicates()
    if pairs.empty:
        notes.append(f"no finished run: the table has no value of {metric} for these methods")
    pairs_here = list(pairs.itertuples(index=False, name=None))
    columns = min(max(len(pairs_here), 1), 2 if len(methods) <= CROWD else 1)
    width = WIDTH / columns - LEFT - RIGHT
    deepest = max((sum(_same_pair(g, pair) for g in gaps) for pair in pairs_here), default=0)
    height = PANEL_HEIGHT + strip_height(deepest)
    rulers = [_ruler(_sizes_of(rows, gaps, pair), len(methods), width) for pair in pairs_here]
    second_line = any("\n" in label for ruler in rulers for label in ruler.labels)
    pitch = ABOVE + height + BELOW + second_line * text_height(1, TICK_SIZE)
    body = pitch * -(-len(pairs_here) // columns)
    about = ABOUT if by_chance.empty else f"{ABOUT} {CHANCE}"
    page = open_page(title, about, body, marks.values(), notes)
    for number, pair in enumerate(pairs_here):
        left = LEFT + (number % columns) * WIDTH / columns
        axes = page.axes(left, ABOVE + (number // columns) * pitch, width, height)
        here, alone = (_of_pair(table, pair) for table in (rows, by_chance))
        missing = [gap for gap in gaps if _same_pair(gap, pair)]
        _draw_chance(axes, alone, list(marks), rulers[number])
        _draw_panel(axes, here, missing, list(marks.values()), rulers[number], (width, height))
        axes.set_title(" · ".join(pair))
        axes.set_xlabel("training samples (log scale)")
        axes.set_ylabel(label)
    return page.figure


def _sizes_of(rows: pandas.DataFrame, gaps: list[Gap], pair: tuple[str, str]) -> list[int]:
    missing = {gap.train_size for gap in gaps if _same_pair(gap, pair)}
    return sorted({int(size) for size in _of_pair(rows, pair)["train_size"]} | missing)


def _of_pair(rows: pandas.DataFrame, pair: tuple[str, str]) -> pandas.DataFrame:
    return rows[(rows["dataset"] == pair[0]) & (rows["model"] == pair[1])]


def _same_pair(gap: Gap, pair: tuple[str, str]) -> bool:
    return (gap.dataset, gap.model) == pair


def _draw_panel(
    axes: Axes,
    rows: pandas.DataFrame,
    gaps: list[Gap],
    marks: list[Mark],
    ruler: Ruler,
    extent: tuple[float, float],
) -> None:
    _scale_across(axes, ruler)
    seen = [_draw_method(axes, rows, mark, ruler, n, len(marks)) for n, mark in enumerate(marks)]
    below = [line.get_ydata() for line in axes.lines if line.get_color() == CHANCE_COLOUR]
    values = numpy.concatenate([*seen, *below, rows["percent"].to_numpy()])
    low, high = (values.min(), values.max()) if len(values) else (0.0, 100.0)
    pad = max(0.06 * (high - low), 0.5)
    axes.set_ylim(max(low - pad, -0.5), min(high + pad, 100.5))
    number = {mark.method.name: n for n, mark in enumerate(marks)}
    lines = [
        (
            ruler.place(gap.train_size, number[gap.method], len(marks)),
            marks[number[gap.method]],
            gap.text,
        )
        for gap in gaps
    ]
    add_strip(axes, lines, *extent)


def _draw_chance(axes: Axes, rows: pandas.DataFrame, methods: list[str], ruler: Ruler) -> None:
    """Draw a dash per method and size where the mean over its seeds lies."""
    style: dict[str, Any] = {
        "color": CHANCE_COLOUR,
        "markersize": 9,
        "markeredgewidth": 1.3,
        "zorder": 1.5,
    }
    for (method, size), values in rows.groupby(["method", "train_size"], sort=True)["percent"]:
        if size in ruler.sizes:
            x = ruler.place(int(size), methods.index(method), len(methods))
            axes.plot([x], [values.mean()], "_", **style)


def _ruler(sizes: list[int], n_methods: int, width: float) -> Ruler:
    """Return the axis: neighbouring methods 0.15 inches apart, closer where sizes leave no room."""
    logs = numpy.log(sizes)
    nearest = float(numpy.diff(logs).min()) if len(sizes) > 1 else 1.0
    spread = float(logs[-1] - logs[0]) + 0.6 * nearest
    step = min(0.15 * spread / width, 0.7 * nearest / n_methods)
    margin = max(0.3 * nearest, step * (n_methods / 2 + 1.5), 0.15 * spread / width)
    low, high = logs[0] - margin, logs[-1] + margin
    labels = _tick_labels(sizes, (logs - low) * width / (high - low))
    return Ruler(sizes, step, math.exp(low), math.exp(high), labels)


def _tick_labels(sizes: list[int], inches: numpy.ndarray) -> list[str]:
    """Return the labels of the ticks: on a second line, or none, where neighbours leave no room."""
    free = [-math.inf, -math.inf]
    labels = []
    for size, place in zip(sizes, inches, strict=True):
        half = text_width(str(size), TICK_SIZE) / 2 + 0.03
        line = next((number for number in (0, 1) if free[number] <= place - half), None)
        labels.append("" if line is None else "\n" * line + str(size))
        if line is not None:
            free[line] = place + half
    return labels


def _scale_across(axes: Axes, ruler: Ruler) -> None:
    axes.set_xscale("log")
    axes.set_xlim(ruler.low, ruler.high)
    axes.xaxis.set_major_locator(FixedLocator(ruler.sizes))
    axes.xaxis.set_major_formatter(FixedFormatter(ruler.labels))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(visible=False, axis="x")


def _draw_method(
    axes: Axes, rows: pandas.DataFrame, mark: Mark, ruler: Ruler, number: int, n_methods: int
) -> numpy.ndarray:
    """Draw one method and return the ends of its intervals."""
    mine = rows[rows["method"] == mark.method.name]
    ends: list[float] = []
    stretch: list[tuple[float, float]] = []
    for size in ruler.sizes:
        values = mine.loc[mine["train_size"] == size, "percent"].to_numpy()
        if not len(values):
            _draw_stretch(axes, stretch, mark)
            stretch = []
            continue
        x = ruler.place(size, number, n_methods)
        if len(values) > 1:
            ends += _draw_spread(axes, x, ruler.place(size, number + 0.42, n_methods), values, mark)
        stretch.append((x, float(values.mean())))
    _draw_stretch(axes, stretch, mark)
    return numpy.array(ends)


def _draw_spread(
    axes: Axes, x: float, beside: float, values: numpy.ndarray, mark: Mark
) -> list[float]:
    """Draw the interval, and beside it the single seeds; return the interval's ends."""
    dots = numpy.full(len(values), beside)
    axes.plot(dots, values, ".", color=mark.colour, markersize=5, markeredgewidth=0, alpha=0.7)
    ends = [float(end) for end in numpy.clip(t_interval(values), 0, 100)]
    axes.plot([x, x], ends, "-", color=mark.colour, linewidth=1.1, alpha=0.8)
    return ends


def _draw_stretch(axes: Axes, stretch: list[tuple[float, float]], mark: Mark) -> None:
    """Draw the means at neighbouring sizes; a missing size breaks the line."""
    if stretch:
        axes.plot(*zip(*stretch, strict=True), zorder=3, **mark.line)
