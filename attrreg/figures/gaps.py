"""Marked gaps: a run that is not there is shown as missing, and a note says why."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy
import pandas
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator

from attrreg.figures.page import text_width
from attrreg.figures.style import Mark, MethodLabel

__all__ = [
    "Gap",
    "add_strip",
    "failure_notes",
    "find_gaps",
    "has_number",
    "places",
    "seed_list",
    "strip_height",
]

CELL = ["dataset", "model", "method", "train_size"]
PLACE = ["dataset", "model", "train_size"]
LINE_PITCH = 0.17
LABEL_SIZE = 8.0
LONGEST_MESSAGE = 200
SHORTEST_NAME = 12


@dataclass(frozen=True)
class Gap:
    """A method without any finished run at one (dataset, model, train size).

    Attributes
    ----------
    dataset, model, method, train_size
        The place.
    failed
        How many runs are recorded as failed there.
    expected
        How many seeds any method has there, finished or failed.
    """

    dataset: str
    model: str
    method: str
    train_size: int
    failed: int
    expected: int

    @property
    def text(self) -> str:
        """What is written beside the mark."""
        if not self.failed:
            return "no finished run"
        return f"failed: {self.failed} of {self.expected} run{'s' if self.expected > 1 else ''}"


def has_number(column: pandas.Series) -> pandas.Series:
    """Return which rows hold a finite number, whatever the column's type."""
    return pandas.Series(numpy.isfinite(pandas.to_numeric(column).astype("float64")), column.index)


def places(finished: pandas.DataFrame, failures: pandas.DataFrame) -> pandas.DataFrame:
    """Return the sorted distinct (dataset, model, train_size) of finished and failed runs."""
    both = pandas.concat([finished[PLACE], failures[PLACE]])
    return both.drop_duplicates().sort_values(PLACE, ignore_index=True)


def find_gaps(
    finished: pandas.DataFrame, failures: pandas.DataFrame, methods: Sequence[MethodLabel]
) -> list[Gap]:
    """Return where a method has no finished run though others, or failures, are there.

    Parameters
    ----------
    finished
        Rows with the columns of a run, dataset to seed; only those that have a value to draw.
    failures
        Rows of ``failures.csv``.
    methods
        The methods to look for.
    """
    gaps = []
    for dataset, model, size in places(finished, failures).itertuples(index=False):
        done, lost = _at(finished, dataset, model, size), _at(failures, dataset, model, size)
        expected = len({*done["seed"], *lost["seed"]})
        for method in methods:
            if (done["method"] == method.name).any():
                continue
            failed = lost.loc[lost["method"] == method.name, "seed"].nunique()
            gaps.append(Gap(dataset, model, method.name, int(size), failed, expected))
    return gaps


def _at(table: pandas.DataFrame, dataset: str, model: str, train_size: int) -> pandas.DataFrame:
    here = (table["dataset"] == dataset) & (table["model"] == model)
    return table[here & (table["train_size"] == train_size)]


def seed_list(seeds: Iterable[int]) -> str:
    """Return ``"seed 3"`` or ``"seeds 0, 1, 2"``."""
    numbers = sorted({int(seed) for seed in seeds})
    return f"seed{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def failure_notes(
    failures: pandas.DataFrame,
    methods: Sequence[MethodLabel],
    finished: pandas.DataFrame | None = None,
) -> list[str]:
    """Return a line per method and error, and per cell that lacks runs for no known reason.

    Parameters
    ----------
    failures
        Rows of ``failures.csv``.
    methods
        The methods that are drawn.
    finished
        Rows with the columns of a run that have a value to draw; without it only recorded failures
        are listed.
    """
    notes = []
    for method in methods:
        mine = failures[failures["method"] == method.name]
        kinds = mine.groupby(["dataset", "model", "stage", "error", "message"], sort=True)
        for (dataset, model, stage, error, message), rows in kinds:
            runs = "; ".join(
                f"train size {size}, {seed_list(seeds)}"
                for size, seeds in rows.groupby("train_size", sort=True)["seed"]
            )
            reason = _first_line(f"{error}: {message}" if message else error)
            notes.append(
                f"× {method.text} failed (stage {stage}) on {dataset} · {model}, {runs}: {reason}"
            )
        if finished is not None:
            notes += _unexplained(failures, method, finished)
    return notes


def _unexplained(
    failures: pandas.DataFrame, method: MethodLabel, finished: pandas.DataFrame
) -> list[str]:
    notes = []
    for dataset, model, size in places(finished, failures).itertuples(index=False):
        done, lost = _at(finished, dataset, model, size), _at(failures, dataset, model, size)
        expected = {*done["seed"], *lost["seed"]}
        known = {
            *done.loc[done["method"] == method.name, "seed"],
            *lost.loc[lost["method"] == method.name, "seed"],
        }
        if expected - known:
            notes.append(
                f"× {method.text} is missing on {dataset} · {model} (train size {size}, "
                f"{seed_list(expected - known)}): no finite value and no recorded failure"
            )
    return notes


def _first_line(text: str) -> str:
    line = (text.strip().splitlines() or [""])[0]
    return line if len(line) <= LONGEST_MESSAGE else line[: LONGEST_MESSAGE - 1] + "…"


def strip_height(n_lines: int) -> float:
    """Return the inches that a strip of that many marked gaps takes."""
    return n_lines * LINE_PITCH + 0.08 if n_lines else 0.0


def add_strip(
    axes: Axes,
    lines: Sequence[tuple[float, Mark, str]],
    width: float,
    height: float,
    n_lines: int = 0,
) -> None:
    """Mark gaps in a strip of their own along the bottom edge, below all data.

    Parameters
    ----------
    axes
        Axes whose limits are final, a logarithmic horizontal axis included.
    lines
        Horizontal place in data units, mark and text of every gap: one line each.
    width, height
        The size of the axes in inches, the strip included.
    n_lines
        How many lines there is room for, at least: so that panels side by side keep one scale.
    """
    n_lines = max(n_lines, len(lines))
    if not n_lines:
        return
    low, high = axes.get_ylim()
    strip = strip_height(n_lines)
    inch = (high - low) / (height - strip)
    ticks = [tick for tick in axes.get_yticks() if low <= tick <= high]
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.set_ylim(low - strip * inch, high)
    axes.axhspan(axes.get_ylim()[0], low, color="white", linewidth=0, zorder=0.9)
    axes.axhline(low, color="#999999", linewidth=0.7)
    for number, (x, mark, text) in enumerate(lines):
        y = low - (0.04 + (number + 0.5) * LINE_PITCH) * inch
        axes.plot(
            [x],
            [y],
            color=mark.colour,
            marker="x",
            linestyle="none",
            markersize=6,
            markeredgewidth=2,
        )
        place = float(axes.transAxes.inverted().transform(axes.transData.transform((x, y)))[0])
        to_right = place < 0.5
        room = (1 - place if to_right else place) * width - 0.12
        name = mark.method.text
        words = [f"{name} {text}", f"{name} {text.split(':')[0]}", name]
        words += [f"{name[:n].rstrip()}…" for n in range(len(name) - 1, SHORTEST_NAME, -1)]
        axes.annotate(
            next((word for word in words if text_width(word, LABEL_SIZE) <= room), text),
            (x, y),
            xytext=(6 if to_right else -6, 0),
            textcoords="offset points",
            ha="left" if to_right else "right",
            va="center_baseline",
            size=LABEL_SIZE,
            color="#222222",
        )
