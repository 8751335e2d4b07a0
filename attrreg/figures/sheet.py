"""A sheet of explanations: a row per input, a column per rule, and under each map its account."""

import math
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from attrreg.figures import FORMATS
from attrreg.figures.gallery import RELEVANCE_COLOURS, displayable, symmetric
from attrreg.figures.page import MARGIN, WIDTH, Page, open_page, text_height, text_width, wrap
from attrreg.figures.style import settings, styled
from attrreg.files import writing

__all__ = ["Column", "Sheet", "check_output", "draw_sheet", "reasons", "save_sheet", "table"]

ABOUT = (
    "Rows: inputs as the model sees them. Columns: rules. Colours: signed relevance, summed over "
    "channels, each map on its own scale. Under each map: Σ, the sum of relevance, of the output "
    "that is explained (a logit), and the share of this output that biases and stabilisers absorb."
)
NO_LEDGER = "–: the rule keeps no account of that; in brackets Σ as a share of the output."
NOT_FINITE = "Magenta: not finite."
SLOPES = "The sum of a plain or smoothed gradient is a slope and no share of the output."
SIZE = 8.0
NAMES, GAP, SCALE, FRAME = 1.2, 0.09, 0.42, "#888888"
SMALLEST_CELL, LARGEST_CELL = 1.06, 2.4
LONGEST_NAME, LONGEST_REASON = 48, 300  # letters
NEGLIGIBLE = 1e-12  # an explained output below this has no shares


@dataclass(frozen=True, eq=False)
class Column:
    """What one rule says of every input.

    Attributes
    ----------
    rule
        Its name.
    maps
        (n, H, W) signed relevance; ``None`` where the rule does not support the model.
    absorbed
        (n,) what biases and stabilisers absorb, in units of the output; ``None`` for a rule that
        keeps no ledger.
    is_share
        Whether the sum of relevance is in units of the output.
    reason
        Why there are no maps.
    """

    rule: str
    maps: numpy.ndarray | None = None
    absorbed: numpy.ndarray | None = None
    is_share: bool = True
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Sheet:
    """Inputs and their explanations.

    Attributes
    ----------
    title
        The heading: the model, its weights, and where the inputs are from.
    names
        What each input is called, n.
    inputs
        (n, C, H, W) in [0, 1].
    labels
        (n,) integers; ``None`` where nobody knows them.
    predictions, confidences
        (n,) the class with the largest logit, and its softmax probability.
    explained, outputs
        (n,) the class that is explained, and its logit.
    columns
        A rule each.
    """

    title: str
    names: tuple[str, ...]
    inputs: numpy.ndarray
    labels: numpy.ndarray | None
    predictions: numpy.ndarray
    confidences: numpy.ndarray
    explained: numpy.ndarray
    outputs: numpy.ndarray
    columns: tuple[Column, ...]


@styled
def draw_sheet(sheet: Sheet) -> Figure:
    """Draw inputs × rules, with a signed colour map centred at zero.

    Every map is scaled by its largest magnitude. A rule without maps leaves cells that say so, and
    a note with the reason.
    """
    names = [_broken(name, NAMES) for name in sheet.names]
    beside = [_beside(sheet, row) for row in range(len(sheet.names))]
    widest = max(text_width(line, SIZE, bold=True) for lines in names + beside for line in lines)
    count, room = 1 + len(sheet.columns), widest + 0.15
    cell = (WIDTH - room - 2 * MARGIN) / count - GAP
    cell = min(max(cell, SMALLEST_CELL), LARGEST_CELL)
    heads = [_broken(column.rule, cell) for column in sheet.columns]
    captions = [
        [
            [line for parts in _caption(sheet, column, row) for line in _fitted(parts, cell)]
            for column in sheet.columns
        ]
        for row in range(len(sheet.names))
    ]
    heights = [
        max(cell + 0.03 + _lines(max(map(len, under))), _lines(len(name) + len(words))) + 0.1
        for name, words, under in zip(names, beside, captions, strict=True)
    ]
    above = _lines(max(map(len, heads))) + 0.03
    notes = [
        textwrap.shorten(reason, LONGEST_REASON, placeholder=" …") for reason in reasons(sheet)
    ]
    width = 2 * MARGIN + room + count * (cell + GAP) - GAP
    body = above + sum(heights) + SCALE
    page = open_page(sheet.title, _about(sheet), body, notes=notes, width=width)
    lefts = [MARGIN + room + number * (cell + GAP) for number in range(count)]
    for left, head in zip(lefts, [["input"], *heads], strict=True):
        _write(page, left, above - 0.03 - _lines(len(head)), head, weight="bold")
    images = displayable(sheet.inputs)
    maps = [None if each.maps is None else symmetric(each.maps) for each in sheet.columns]
    top = above
    for row, height in enumerate(heights):
        _write(page, MARGIN, top, names[row], weight="bold")
        _write(page, MARGIN, top + _lines(len(names[row])), beside[row])
        _picture(page, lefts[0], top, cell, images[row])
        for left, shown, under in zip(lefts[1:], maps, captions[row], strict=True):
            _picture(page, left, top, cell, None if shown is None else shown[row])
            _write(page, left, top + cell + 0.03, under)
        top += height
    _scale(page, lefts[0], top)
    return page.figure


def table(sheet: Sheet) -> str:
    """Return what stands under the maps as a table in plain text, a line per input and rule."""
    head = ("input", "label", "predicted", "explained", "output", "rule", "sum", "sum/output")
    lines = [(*head, "biases")]
    for row, name in enumerate(sheet.names):
        output = float(sheet.outputs[row])
        begin = (
            _printable(name),
            "–" if sheet.labels is None else str(int(sheet.labels[row])),
            str(int(sheet.predictions[row])),
            str(int(sheet.explained[row])),
            _number(output),
        )
        for column in sheet.columns:
            total, share, biases = "not supported", "–", "–"
            if column.maps is not None:
                total = _number(_sum(column, row))
                if column.is_share:
                    share = _percent(_sum(column, row), output, 1)
            if column.absorbed is not None:
                biases = _percent(float(column.absorbed[row]), output, 1)
            lines.append((*begin, column.rule, total, share, biases))
    widths = [max(map(len, entries)) for entries in zip(*lines, strict=True)]
    left = (0, 5)  # text; numbers are flush right
    return "\n".join(
        "  ".join(
            f"{entry:<{width}}" if place in left else f"{entry:>{width}}"
            for place, (entry, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def reasons(sheet: Sheet) -> list[str]:
    """Return why maps are missing, a line per reason with the rules that gave it."""
    rules: dict[str, list[str]] = {}
    for column in sheet.columns:
        if column.maps is None:
            rules.setdefault(column.reason, []).append(column.rule)
    return [f"not supported by {', '.join(names)}: {why}" for why, names in rules.items()]


def check_output(path: Path, inputs: Sequence[Path] = ()) -> None:
    """Refuse, before anything is computed, a file that cannot be written or is an input."""
    if _format(path) not in FORMATS:
        raise ValueError(
            f"cannot write {path}: its name must end with one of "
            + ", ".join(f".{each}" for each in FORMATS)
        )
    if path.resolve() in [each.resolve() for each in inputs]:
        raise ValueError(f"--output {path} is one of the images: give another name")


def save_sheet(figure: Figure, path: Path) -> None:
    """Write a figure in the format that its file is named by; a sheet always gives equal bytes."""
    kind = _format(path)
    with writing(path) as temporary, settings():
        figure.savefig(temporary, format=kind, metadata=FORMATS[kind])


def _format(path: Path) -> str:
    return path.suffix.removeprefix(".").lower()


def _lines(count: int) -> float:
    return text_height(count, SIZE)


def _write(page: Page, left: float, top: float, lines: Sequence[str], **keywords: str) -> None:
    for number, line in enumerate(lines):
        baseline = top + _lines(number) + 0.8 * _lines(1)
        page.text(left, baseline, line, size=SIZE, va="baseline", **keywords)


def _picture(page: Page, left: float, top: float, cell: float, image: numpy.ndarray | None) -> None:
    """Draw an image or a map in a frame; without one the frame says that there is none."""
    axes = page.axes(left, top, cell, cell, xticks=[], yticks=[])
    axes.grid(visible=False)
    axes.spines[:].set(visible=True, color=FRAME, linewidth=0.6)
    if image is None:
        axes.set_facecolor("#f2f2f2")
        axes.text(0.5, 0.5, "not\nsupported", size=SIZE, ha="center", va="center", color="#444444")
        return
    axes.imshow(
        image,
        aspect="auto",
        interpolation="auto",
        cmap=RELEVANCE_COLOURS,
        norm=Normalize(-1, 1),
    )


def _scale(page: Page, left: float, top: float) -> None:
    axes = page.axes(left, top + 0.04, 2.0, 0.1)
    axes.imshow(
        numpy.linspace(-1, 1, 256)[None],
        extent=(-1, 1, 0, 1),
        aspect="auto",
        cmap=RELEVANCE_COLOURS,
        norm=Normalize(-1, 1),
    )
    axes.grid(visible=False)
    axes.set_yticks([])
    axes.set_xticks([-1, 0, 1], ["− against", "0", "for +"])
    for label, side in zip(axes.get_xticklabels(), ("left", "center", "right"), strict=True):
        label.set(horizontalalignment=side)
    _write(page, MARGIN, top + 0.02, ["relevance"], weight="bold")


def _about(sheet: Sheet) -> str:
    drawn = [column for column in sheet.columns if column.maps is not None]
    parts = [ABOUT]
    if any(column.absorbed is None for column in drawn):
        parts.append(NO_LEDGER)
    if not all(column.is_share for column in drawn):
        parts.append(SLOPES)
    maps = [column.maps for column in drawn if column.maps is not None]
    if not all(numpy.isfinite(each).all() for each in maps):
        parts.append(NOT_FINITE)
    return " ".join(parts)


def _beside(sheet: Sheet, row: int) -> list[str]:
    """Return what stands below the name of an input."""
    prediction, confidence = int(sheet.predictions[row]), float(sheet.confidences[row])
    is_wrong = sheet.labels is not None and prediction != sheet.labels[row]
    return [
        *([] if sheet.labels is None else [f"label {int(sheet.labels[row])}"]),
        f"predicted {prediction}{' ✗' if is_wrong else ''}",
        f"  at {_percent(confidence, 1, digits=0 if confidence > 0.1 else 1)}",
        f"explained {int(sheet.explained[row])}",
        f"  output {_typeset(_number(float(sheet.outputs[row])))}",
    ]


def _caption(sheet: Sheet, column: Column, row: int) -> list[list[str]]:
    """Return the lines below a map, each in the parts at which it may be broken."""
    if column.maps is None:
        return []
    total, output = _sum(column, row), float(sheet.outputs[row])
    first = [f"Σ {_typeset(_number(total))}"]
    if not column.is_share:
        return [first, ["biases –"]]
    first.append(f"of {_typeset(_number(output))}")
    if column.absorbed is None:
        share = _typeset(_percent(total, output))
        return [first, ["biases –"] if share == "–" else ["biases –", f"(Σ {share})"]]
    return [first, [f"biases {_typeset(_percent(float(column.absorbed[row]), output))}"]]


def _fitted(parts: list[str], width: float) -> list[str]:
    """Return parts in one line where that is not too wide, else each in its own."""
    whole = " ".join(parts)
    return [whole] if text_width(whole, SIZE) <= width else parts


def _sum(column: Column, row: int) -> float:
    return math.nan if column.maps is None else float(column.maps[row].sum(dtype="float64"))


def _number(value: float) -> str:
    """Return three significant digits."""
    return f"{value:.3g}" if math.isfinite(value) else "not finite"


def _typeset(number: str) -> str:
    """Return a number as short as it can be, with a minus that is as wide as a digit."""
    return re.sub(r"e([+-])0*", lambda exponent: "e" + exponent[1].strip("+"), number).replace(
        "-", "−"
    )


def _percent(part: float, whole: float, digits: int = 0) -> str:
    """Return a share of an output; – where it has none."""
    if abs(whole) < NEGLIGIBLE or not math.isfinite(part) or not math.isfinite(whole):
        return "–"
    percent = round(100 * part / whole, digits) + 0.0  # no minus before a zero
    return f"{percent:.{digits}f} %" if abs(percent) < 1e5 else "over 1000-fold"


def _broken(name: str, width: float) -> list[str]:
    """Break a name in bold letters into lines, behind hyphens and the like if possible."""
    if len(name) > LONGEST_NAME:
        name = f"{name[: LONGEST_NAME // 2]}…{name[-LONGEST_NAME // 3 :]}"
    lines = [""]
    for piece in re.split(r"(?<=[-:_. ])|(?<=[a-z0-9])(?=[A-Z])", _printable(name)):
        if text_width(lines[-1] + piece.rstrip(), SIZE, bold=True) > width:
            *full, piece_end = wrap(piece, width, SIZE, bold=True)
            lines += [*full, piece_end + piece[len(piece.rstrip()) :]]
        else:
            lines[-1] += piece
    return [line.strip() for line in lines if line.strip()] or ["?"]


def _printable(name: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in name)
