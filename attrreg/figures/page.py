"""The page of a figure: heading above, body, then legend and notes below; all lengths in inches.

Every place is computed from measured text. Nothing is left to an automatic layout, so a legend
never lies over data, and the same tables always give the same bytes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.textpath import text_to_path

from attrreg.figures.style import Mark

__all__ = ["NOTE_SIZE", "WIDTH", "Page", "open_page", "text_height", "text_width", "wrap"]

WIDTH = 7.2
MARGIN = 0.1
TITLE_SIZE = 11.0
NOTE_SIZE = 8.0
LEGEND_SIZE = 8.5
LEGEND_HANDLE = 0.42
LEGEND_PITCH = 0.19
GREY = "#444444"


def text_width(text: str, size: float, bold: bool = False) -> float:
    """Return the width in inches of one line of text at a size in points."""
    font = FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal", size=size)
    return float(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0]) / 72


def text_height(n_lines: int, size: float) -> float:
    """Return the height in inches of lines of text at a size in points."""
    return n_lines * size * 1.3 / 72


def wrap(text: str, width: float, size: float, bold: bool = False) -> list[str]:
    """Break text into lines no wider than a width in inches; a longer word is broken too."""
    lines = [""]
    for word in text.split():
        candidate = f"{lines[-1]} {word}".strip()
        if text_width(candidate, size, bold) <= width:
            lines[-1] = candidate
            continue
        lines += [word] if lines[-1] else []
        lines[-1] = lines[-1] or word
        while text_width(lines[-1], size, bold) > width and len(lines[-1]) > 1:
            whole = lines.pop()
            fits = next(
                n
                for n in range(len(whole) - 1, 0, -1)
                if n == 1 or text_width(whole[:n], size, bold) <= width
            )
            lines += [whole[:fits], whole[fits:]]
    return lines


@dataclass(frozen=True)
class Page:
    """A figure and where its body begins.

    Attributes
    ----------
    figure
        The figure; heading, legend and notes are drawn.
    width, height
        Its size in inches.
    top
        Inches from the upper edge to the body.
    """

    figure: Figure
    width: float
    height: float
    top: float

    def axes(self, left: float, top: float, width: float, height: float, **keywords: Any) -> Axes:
        """Add axes: inches from the page's left edge, from the body's upper edge, and the size."""
        bottom = self.height - self.top - top - height
        box = (
            left / self.width,
            bottom / self.height,
            width / self.width,
            height / self.height,
        )
        return self.figure.add_axes(box, **keywords)

    def text(self, left: float, top: float, text: str, **keywords: Any) -> None:
        """Write text at inches from the page's left edge and from the body's upper edge."""
        place = (left / self.width, 1 - (self.top + top) / self.height)
        self.figure.text(*place, text, **{"va": "top", **keywords})


def open_page(
    title: str,
    description: str,
    body: float,
    marks: Iterable[Mark] = (),
    notes: Sequence[str] = (),
    width: float = WIDTH,
) -> Page:
    """Return a page with its heading, legend and notes, and room for a body of that height.

    Parameters
    ----------
    title
        The bold first line.
    description
        What is shown, and how; wrapped.
    body
        The height of the body in inches.
    marks
        The methods of the legend; without any there is no legend.
    notes
        Paragraphs below the legend: failed runs, reasons.
    width
        The width of the page in inches.
    """
    room = width - 2 * MARGIN
    head = wrap(title, room, TITLE_SIZE, bold=True)
    about = wrap(description, room, NOTE_SIZE)
    top = MARGIN + text_height(len(head), TITLE_SIZE) + text_height(len(about), NOTE_SIZE) + 0.12
    columns, entries = _legend_entries(list(marks), room)
    lines_of_notes = [wrap(note, room - 0.12, NOTE_SIZE) for note in notes]
    legend = _legend_height(columns, entries)
    foot = sum(text_height(len(lines), NOTE_SIZE) + 0.03 for lines in lines_of_notes)
    height = top + body + (legend + 0.08 if entries else 0) + foot + MARGIN
    page = Page(Figure(figsize=(width, height)), width, height, top)
    _write_heading(page, head, about)
    if entries:
        _add_legend(page, columns, entries, body + 0.04)
    cursor = body + (legend + 0.08 if entries else 0)
    for lines in lines_of_notes:
        hanging = "\n".join([lines[0], *lines[1:]])
        page.text(MARGIN, cursor, hanging, size=NOTE_SIZE, color=GREY, linespacing=1.3)
        cursor += text_height(len(lines), NOTE_SIZE) + 0.03
    return page


def _write_heading(page: Page, head: list[str], about: list[str]) -> None:
    y = MARGIN - page.top
    style = {"linespacing": 1.3}
    page.text(MARGIN, y, "\n".join(head), size=TITLE_SIZE, weight="bold", **style)
    y += text_height(len(head), TITLE_SIZE) + 0.02
    page.text(MARGIN, y, "\n".join(about), size=NOTE_SIZE, color=GREY, **style)


def _legend_entries(marks: list[Mark], room: float) -> tuple[int, list[tuple[Mark, list[str]]]]:
    """Return the number of columns that fit, and the wrapped labels."""
    if not marks:
        return 0, []
    longest = room / 2 - LEGEND_HANDLE - 0.4
    entries = [(mark, wrap(mark.method.text, longest, LEGEND_SIZE)) for mark in marks]
    widest = max(text_width(line, LEGEND_SIZE) for _, lines in entries for line in lines)
    columns = max(1, min(len(entries), int(room // (widest + LEGEND_HANDLE + 0.3))))
    return columns, entries


def _legend_height(columns: int, entries: list[tuple[Mark, list[str]]]) -> float:
    if not entries:
        return 0.0
    heights = [LEGEND_PITCH + text_height(len(lines) - 1, LEGEND_SIZE) for _, lines in entries]
    return max(float(column.sum()) for column in numpy.array_split(heights, columns))


def _add_legend(
    page: Page, columns: int, entries: list[tuple[Mark, list[str]]], top: float
) -> None:
    handles = [Line2D([], [], label="\n".join(lines), **mark.line) for mark, lines in entries]
    page.figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(MARGIN / page.width, 1 - (page.top + top) / page.height),
        ncols=columns,
        frameon=False,
        fontsize=LEGEND_SIZE,
        handlelength=LEGEND_HANDLE * 72 / LEGEND_SIZE,
        labelspacing=(LEGEND_PITCH * 72 - LEGEND_SIZE * 1.05) / LEGEND_SIZE,
        columnspacing=1.6,
        borderpad=0,
        borderaxespad=0,
    )
