"""Differences between methods: a forest plot with interval, corrected p and verdict."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from string import ascii_lowercase
from typing import Any

import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from attrreg.figures.gaps import failure_notes
from attrreg.figures.labels import MetricLabel, metric_label
from attrreg.figures.page import MARGIN, WIDTH, Page, open_page, text_height, wrap
from attrreg.figures.style import Mark, MethodLabel, marks_of, styled

__all__ = ["differences"]

ABOUT = (
    "Difference (method − reference) with its interval over clusters (dataset, seed): t below 20 "
    "clusters, bootstrap from there; not corrected. {}Beside it: p of the exact sign-flip test, "
    "Holm-corrected within a metric, and the verdict."
)
POOLED = "The shaded rows pool all train sizes. "
ALONE = "All are at train size {}. "
PITCH, ABOVE, FOOT = 0.162, 0.11, 0.46
NAMES, SIZES, TEXTS, BETWEEN = 1.2, 0.56, 1.18, 0.08
TEXT_SIZE, TITLE_SIZE = 8.0, 8.5
GUIDED = "guided − control"
P_AT, VERDICT_AT = 0.06, 0.44
MOST_REASONS = 6
GROUP_GAP, HEADING_ROWS = 0.35, 1.35


@dataclass(frozen=True)
class Group:
    """The rows of one comparison: a method against a reference, at every train size."""

    mark: Mark
    reference: str
    lines: list[str]
    top: float


@dataclass(frozen=True)
class Layout:
    """Where the rows stand, in rows from the top."""

    headings: list[tuple[float, str]]
    groups: list[Group]
    sizes: list[str]
    n_rows: float


@styled
def differences(
    tests: pandas.DataFrame,
    failures: pandas.DataFrame,
    methods: Sequence[MethodLabel],
    title: str = "Differences between methods",
) -> Figure:
    """Draw the differences of all methods to their references, one panel per metric.

    A guided method against its control stands in a block of its own. A difference that is missing
    or not finite is marked by a cross at the left edge. Comparisons of which two neighbouring
    panels have nothing, and no run has failed, have no rows there: not every method can have every
    metric.

    Parameters
    ----------
    tests
        Rows of ``tests.csv``.
    failures
        Rows of ``failures.csv``.
    methods
        The methods to draw, in the order of the rows.
    title
        The heading.

    Raises
    ------
    ValueError
        If no method is given, or one name twice.
    """
    marks = marks_of(methods)
    rows = tests[tests["method"].isin(marks) & tests["reference"].isin(marks)]
    metrics = list(dict.fromkeys(rows["metric"]))
    failures = failures[failures["method"].isin(marks)]
    sizes = _sizes(rows, failures)
    bands = [metrics[start : start + 2] for start in range(0, len(metrics), 2)]
    layouts = [_lay_out(rows[rows["metric"].isin(band)], failures, marks, sizes) for band in bands]
    letters = _letters(rows, [group for layout in layouts for group in layout.groups])
    notes = [f"({letter}) {reason}" for reason, letter in letters.items()]
    notes += failure_notes(failures, methods)
    if not metrics:
        notes.append("no comparison: the table has none between these methods")
    left = MARGIN + NAMES + SIZES
    width = (WIDTH - MARGIN - left - BETWEEN) / 2 - TEXTS
    labels = [metric_label(metric) for metric in metrics]
    heads = [_head(label, width + TEXTS - BETWEEN) for label in labels]
    above = [
        ABOVE + text_height(max(map(len, heads[start : start + 2])), TITLE_SIZE)
        for start in range(0, len(heads), 2)
    ]
    below = [layout.n_rows * PITCH + FOOT for layout in layouts]
    page = open_page(title, _about(sizes), sum(above) + sum(below), notes=notes)
    for number, metric in enumerate(metrics):
        row, column = divmod(number, 2)
        layout, top = layouts[row], sum(above[: row + 1]) + sum(below[:row])
        if column == 0:
            _write_names(page, top, layout)
        across = left + column * (width + TEXTS + BETWEEN)
        axes = page.axes(across, top, width, layout.n_rows * PITCH)
        panel = rows[rows["metric"] == metric]
        _draw_panel(axes, panel, failures, labels[number], layout, letters)
        axes.set_title("\n".join(heads[number]), size=TITLE_SIZE, pad=4)
    return page.figure


def _about(sizes: list[str]) -> str:
    is_pooled = any(not size.isdigit() for size in sizes)
    return ABOUT.format(POOLED if is_pooled else ALONE.format(*sizes) if len(sizes) == 1 else "")


def _head(metric: MetricLabel, width: float) -> list[str]:
    """Return the lines above a panel: the metric's name, then its unit."""
    unit = wrap(f"({metric.unit})", width, TITLE_SIZE) if metric.unit else []
    return wrap(metric.text, width, TITLE_SIZE) + unit


def _sizes(rows: pandas.DataFrame, failures: pandas.DataFrame) -> list[str]:
    """Return the train sizes, ascending, then ``all``; a size where everything failed counts.

    All of one size are that size, so it stands alone.
    """
    sizes = {str(size) for size in rows["train_size"]}
    if any(size.isdigit() for size in sizes):
        sizes |= {str(size) for size in failures["train_size"]}
    numbers = {size for size in sizes if size.isdigit()}
    return sorted(numbers if len(numbers) == 1 else sizes, key=_by_size)


def _lay_out(
    rows: pandas.DataFrame, failures: pandas.DataFrame, marks: dict[str, Mark], sizes: list[str]
) -> Layout:
    blocks, pairs = [], []
    there = set(zip(rows["reference"], rows["method"], strict=True))
    failed = set(failures["method"])
    for reference in [name for name in marks if (rows["reference"] == name).any()]:
        method = marks[reference].method
        compared = [
            name
            for name in marks
            if (reference, name) in there or (name != reference and {reference, name} & failed)
        ]
        if method.is_control:
            found = set(rows.loc[rows["reference"] == reference, "method"])
            pairs += [(reference, name) for name in compared if name == method.family]
            compared = [name for name in compared if name in found - {method.family}]
        if compared:
            blocks.append((f"method − {method.text}", [(reference, name) for name in compared]))
    if pairs:
        blocks.append((GUIDED, pairs))
    headings, groups, top = [], [], 0.0
    for heading, comparisons in blocks:
        headings.append((top, heading))
        top += HEADING_ROWS
        for reference, name in comparisons:
            text = marks[name].method.text
            if heading == GUIDED:
                text += f" − {reference.rpartition('/')[2]}"
            lines = wrap(text, NAMES - 0.05 + SIZES * (len(sizes) == 1), TEXT_SIZE)
            groups.append(Group(marks[name], reference, lines, top))
            top += max(len(sizes), len(lines)) + GROUP_GAP
        top += 0.3
    return Layout(headings, groups, sizes, top)


def _by_size(size: str) -> tuple[bool, float, str]:
    """Sort numbers ascending, then words such as ``all``."""
    is_number = size.isdigit()
    return not is_number, float(size) if is_number else 0.0, size


def _letters(rows: pandas.DataFrame, groups: Iterable[Group]) -> dict[str, str]:
    """Return a letter for what undecided comparisons give as reason, in order of appearance.

    Only the first clause of a reason counts: what follows a semicolon is particular to its row. So
    are clauses that no other row has, where there are too many; the table of tests holds them all.
    """
    undecided = rows[rows["verdict"] == "undecided"]
    clauses = [_clause(row.reason) for row in _drawn(undecided, groups).itertuples()]
    often = Counter(clause for clause in clauses if clause)
    shared = [clause for clause, count in often.items() if count > 1 or len(often) <= MOST_REASONS]
    return dict(zip(shared, ascii_lowercase[:MOST_REASONS], strict=False))


def _clause(reason: str) -> str:
    return reason.partition(";")[0].strip()


def _drawn(rows: pandas.DataFrame, groups: Iterable[Group]) -> pandas.DataFrame:
    """Return the rows of comparisons that have a group."""
    known = {(group.reference, group.mark.method.name) for group in groups}
    pairs = zip(rows["reference"], rows["method"], strict=True)
    return rows[[pair in known for pair in pairs]]


def _write_names(page: Page, top: float, layout: Layout) -> None:
    style = {"size": TEXT_SIZE, "va": "center_baseline"}
    for row, heading in layout.headings:
        page.text(MARGIN, top + (row + 0.6) * PITCH, heading, weight="bold", **style)
    for group in layout.groups:
        for number, line in enumerate(group.lines):
            page.text(MARGIN, top + (group.top + number + 0.5) * PITCH, line, **style)
        for number, size in enumerate(layout.sizes if len(layout.sizes) > 1 else ()):
            label = f"n = {size}" if size.isdigit() else f"{size} sizes"
            y = top + (group.top + number + 0.5) * PITCH
            page.text(MARGIN + NAMES + SIZES - 0.06, y, label, ha="right", **style)


def _draw_panel(
    axes: Axes,
    rows: pandas.DataFrame,
    failures: pandas.DataFrame,
    metric: MetricLabel,
    layout: Layout,
    letters: dict[str, str],
) -> None:
    scaled = rows.assign(**{c: metric.scale * rows[c] for c in ("difference", "low", "high")})
    low, high = _limits(scaled, layout.groups)
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    axes.set_ylim(layout.n_rows, 0)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.axvline(0, color="#555555", linewidth=0.9)
    found = {(row.reference, row.method, str(row.train_size)): row for row in scaled.itertuples()}
    for group in layout.groups:
        for number, size in enumerate(layout.sizes):
            y = group.top + number + 0.5
            if not size.isdigit():
                axes.axhspan(y - 0.5, y + 0.5, color="#f0f0f0", linewidth=0, zorder=0)
            row = found.get((group.reference, group.mark.method.name, size))
            if row is not None and math.isfinite(row.difference):
                _draw_interval(axes, row, y, group.mark)
                _write_verdict(axes, row, y, letters)
            else:
                here = (failures["method"] == group.mark.method.name) & (
                    failures["train_size"].astype(str) == size
                )
                x = low + 0.04 * (high - low)
                axes.plot([x], [y], "x", color=group.mark.colour, markersize=5.5, markeredgewidth=2)
                _write_gap(axes, row, y, letters, int(here.sum()))
    _label(axes, metric)


def _limits(rows: pandas.DataFrame, groups: Iterable[Group]) -> tuple[float, float]:
    """Return horizontal limits that hold zero and every finite number that is drawn."""
    here = _drawn(rows, groups)
    numbers = here[["difference", "low", "high"]].to_numpy(dtype="float64").ravel()
    values = [0.0, *(number for number in numbers if math.isfinite(number))]
    pad = 0.08 * (max(values) - min(values)) or 1.0
    return min(values) - pad, max(values) + pad


def _draw_interval(axes: Axes, row: Any, y: float, mark: Mark) -> None:
    """Draw a difference and its interval; an end without a limit becomes an arrow at the edge."""
    edges = axes.get_xlim()
    ends = [row.difference if math.isnan(end) else end for end in (row.low, row.high)]
    inset = 0.02 * (edges[1] - edges[0])
    shown = [min(max(end, edges[0] + inset), edges[1] - inset) for end in ends]
    pooled = not str(row.train_size).isdigit()
    axes.plot(shown, [y, y], "-", color=mark.colour, linewidth=2.0 if pooled else 1.2)
    for end, place, arrow in zip(ends, shown, "<>", strict=True):
        if math.isinf(end):
            axes.plot([place], [y], arrow, color=mark.colour, markersize=4, clip_on=False)
    axes.plot([row.difference], [y], zorder=3, **(mark.points | {"markersize": 5.0}))


def _write_verdict(axes: Axes, row: Any, y: float, letters: dict[str, str]) -> None:
    """Write corrected p and verdict right of the panel."""
    weight = "bold" if row.verdict in {"better", "worse"} else "normal"
    _write_beside(axes, y, P_AT, _p_text(row.p_corrected))
    _write_beside(axes, y, VERDICT_AT, row.verdict + _suffix(row, letters), weight=weight)


def _write_gap(axes: Axes, row: Any, y: float, letters: dict[str, str], n_failed: int) -> None:
    """Write right of the panel why nothing is drawn in it."""
    runs = f"failed: {n_failed} run{'s' if n_failed > 1 else ''}"
    _write_beside(axes, y, P_AT, (runs if n_failed else "no comparison") + _suffix(row, letters))


def _suffix(row: Any, letters: dict[str, str]) -> str:
    """Return the letter of an undecided comparison's reason, in brackets."""
    if row is None or row.verdict != "undecided":
        return ""
    letter = letters.get(_clause(row.reason))
    return f" ({letter})" if letter else ""


def _write_beside(axes: Axes, y: float, inches: float, text: str, **style: Any) -> None:
    """Write text at a row, inches to the right of the panel."""
    axes.annotate(
        text,
        (1, y),
        xycoords=axes.get_yaxis_transform(),
        xytext=(72 * inches, 0),
        textcoords="offset points",
        size=TEXT_SIZE,
        va="center_baseline",
        annotation_clip=False,
        **style,
    )


def _p_text(p: float) -> str:
    if not math.isfinite(p):
        return "–"
    return "<.001" if p < 0.001 else f"{p:.3f}".rstrip("0").rstrip(".") if p >= 0.1 else f"{p:.3f}"


def _label(axes: Axes, metric: MetricLabel) -> None:
    axes.tick_params(axis="x", length=2.5)
    axes.locator_params(axis="x", nbins=5)
    for place, text, side in zip((0, 1), metric.ends, ("left", "right"), strict=True):
        axes.annotate(
            text,
            (place, 0),
            xycoords="axes fraction",
            xytext=(0, -24),
            textcoords="offset points",
            ha=side,
            va="center",
            size=TEXT_SIZE,
        )
    for inches, text in ((P_AT, "p"), (VERDICT_AT, "verdict")):
        _write_beside(axes, 0.6, inches, text, style="italic")
