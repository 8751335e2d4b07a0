"""Every model occluded by every method's map: what is robust apart from what is faithful."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy
import pandas
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from attrreg.crossing import FEWEST, areas
from attrreg.figures.crossing import Matrix, matrix_of
from attrreg.figures.gaps import failure_notes, has_number, places, seed_list
from attrreg.figures.page import MARGIN, WIDTH, Page, open_page, text_height, text_width, wrap
from attrreg.figures.style import Mark, MethodLabel, marks_of, styled

__all__ = ["cross_maps"]

ABOUT = (
    "Every model (rows) loses its features in the order of every method's map (columns), that of "
    "the same train size and seed. Area: under test accuracy, divided by the range of the share; "
    "gain: area with the least relevant first − area with the most relevant first; means over the "
    "seeds. Framed: each model by its own map, which mixes the robustness of the model with the "
    "faithfulness of the map. Margins, from all others: the mean of a row or a column as it would "
    "be if all models had met the same maps. Compare them down for the models, across for the "
    "maps. Shades: light is the lowest number of a matrix, dark the highest."
)
MISSING = "×: nothing measured; a margin needs every pair."
FEWER = "*: some seeds are missing."
NOTHING = (
    "no cell: nothing was measured for these methods. The table is filled where the experiment "
    "names the methods to cross, evaluation.crossed: [...]."
)
ROW, COLUMN, MEAN = "model trained by ↓", "map of →", "adjusted mean"
NAMES, BETWEEN, APART, MARK = 1.4, 0.2, 0.08, 0.15
SMALLEST_CELL, LARGEST_CELL, SMALLEST_ROW = 0.35, 0.52, 0.27
HIGHEST_HEAD, MOST_LINES = 1.3, 3
ABOVE, FOOT = 0.25, 0.3
TITLE_SIZE, SIZE = 8.5, 8.0
TITLE = text_height(1, TITLE_SIZE) + text_height(2, SIZE) + 0.1
LEAST_SPAN = 0.05  # of accuracy: smaller differences do not use all shades
MIDDLE_GREY = 0.18  # relative luminance on which black and white are read equally well

Cell = tuple[str, str, int]


@dataclass(frozen=True)
class Quantity:
    """What a matrix shows, and its shades from low to high, which differ in lightness."""

    name: str
    title: str
    high: str
    shades: LinearSegmentedColormap


QUANTITIES = (
    Quantity(
        "most",
        "Area, most relevant first (%)",
        "high: robust model, or unfaithful map",
        LinearSegmentedColormap.from_list("area", ["#f2f6fc", "#8fb3dc", "#0a2f66"]),
    ),
    Quantity(
        "gain",
        "Gain, least − most relevant first (points)",
        "high: faithful map",
        LinearSegmentedColormap.from_list("gain", ["#fbf5ea", "#dda55a", "#5a2600"]),
    ),
)


@dataclass(frozen=True)
class Layout:
    """Sizes in inches, the same in all matrices of a page."""

    marks: list[Mark]
    names: list[list[str]]
    heads: list[list[str]]
    cell: float
    row: float
    head: float
    is_beside: bool

    @property
    def block(self) -> float:
        """The width of a matrix, or of its title."""
        titles = [text_width(each.title, TITLE_SIZE, bold=True) for each in QUANTITIES]
        return max(self.across, *titles)

    @property
    def across(self) -> float:
        """The width of a matrix with its margin."""
        return (len(self.marks) + 1) * self.cell + APART

    @property
    def height(self) -> float:
        """The height of a matrix with its title, heads, margin and the room below it."""
        return TITLE + self.head + (len(self.marks) + 1) * self.row + APART + FOOT


@styled
def cross_maps(
    cross: pandas.DataFrame,
    failures: pandas.DataFrame,
    methods: Sequence[MethodLabel],
    title: str = "Models by the maps of others",
) -> Figure:
    """Draw two square matrices per dataset, model and train size: area and gain.

    Rows are models, columns maps; methods that neither the table nor the failures know were not
    crossed and are left out. Where nothing is measured, the page says how to ask for it.

    Parameters
    ----------
    cross
        Rows of ``cross.csv``; fractions and accuracies from 0 to 1. A curve that has not every
        fraction of its cell, or a value that is not finite, counts as missing.
    failures
        Rows of ``failures.csv``.
    methods
        The methods to draw, in the order of rows and columns.
    title
        The heading.

    Raises
    ------
    ValueError
        If no method is given, or one name twice.

    References
    ----------
    Blücher et al., Decoupling pixel flipping and occlusion strategy, 2024 (the gain).
    """
    marks = marks_of(methods)
    failures = failures[failures["method"].isin(marks)]
    rows = cross[cross["method"].isin(marks) & cross["map_of"].isin(marks)]
    finite = has_number(rows["accuracy"])
    if not finite.any():
        notes = [NOTHING, *failure_notes(failures, methods)]
        return open_page(title, ABOUT, 0.0, notes=notes).figure
    crossed = {*rows["method"], *rows["map_of"], *failures["method"]}
    shown = [method for method in methods if method.name in crossed]
    found = areas(rows)
    cells = list(places(rows, failures).itertuples(index=False, name=None))
    matrices = {cell: _matrices(found, failures, cell, shown) for cell in cells}
    everything = [each for by_name in matrices.values() for each in by_name.values()]
    layout = _lay_out([marks[method.name] for method in shown], everything)
    notes = failure_notes(failures, shown, rows[finite])
    notes += [note for cell in cells for note in _lacking(found, rows[finite], cell, shown)]
    is_cut = any(line.endswith("…") for lines in (*layout.names, *layout.heads) for line in lines)
    pitch = layout.height * (1 if layout.is_beside else 2)
    legend = layout.marks if is_cut else []
    body, width = len(cells) * (ABOVE + pitch), max(WIDTH, 2 * MARGIN + NAMES + layout.across)
    page = open_page(title, _about(everything), body, legend, notes, width)
    for number, (cell, by_name) in enumerate(matrices.items()):
        top = number * (ABOVE + pitch)
        words = f"{cell[0]} · {cell[1]} · {cell[2]} training samples"
        page.text(MARGIN, top + 0.02, words, weight="bold")
        for place, quantity in enumerate(QUANTITIES):
            left = MARGIN + NAMES + place * (layout.block + BETWEEN) * layout.is_beside
            below = top + ABOVE + place * layout.height * (not layout.is_beside)
            _draw_matrix(page, left, below, by_name[quantity.name], quantity, layout)
            if place == 0 or not layout.is_beside:
                _write_names(page, below + TITLE + layout.head, layout)
    return page.figure


def _at(table: pandas.DataFrame, cell: Cell) -> pandas.DataFrame:
    here = (table["dataset"] == cell[0]) & (table["model"] == cell[1])
    return table[here & (table["train_size"] == cell[2])]


def _matrices(
    found: pandas.DataFrame, failures: pandas.DataFrame, cell: Cell, methods: Sequence[MethodLabel]
) -> dict[str, Matrix]:
    """Return the matrix of each quantity in a cell."""
    names = [method.name for method in methods]
    seeds = sorted({*_at(found, cell)["seed"], *_at(failures, cell)["seed"]})
    index = pandas.MultiIndex.from_product([seeds, names, names])
    here = _at(found, cell).set_index(["seed", "method", "map_of"]).reindex(index)
    shape = (len(seeds), len(names), len(names))
    return {
        quantity.name: matrix_of(here[quantity.name].to_numpy(dtype="float64").reshape(shape))
        for quantity in QUANTITIES
    }


def _lacking(
    found: pandas.DataFrame, finished: pandas.DataFrame, cell: Cell, methods: Sequence[MethodLabel]
) -> list[str]:
    """Return a line per model and set of seeds for pairs that lack a curve though both were run."""
    whole, here = _at(found[found["gain"].notna()], cell), _at(finished, cell)
    have = set(zip(whole["method"], whole["map_of"], whole["seed"], strict=True))
    ran = set(zip(here["method"], here["seed"], strict=True))
    notes = []
    for model in methods:
        maps: dict[tuple[int, ...], list[str]] = {}
        for other in methods:
            lost = tuple(
                seed
                for seed in sorted({*here["seed"]})
                if {(model.name, seed), (other.name, seed)} <= ran
                and (model.name, other.name, seed) not in have
            )
            maps.setdefault(lost, []).append(other.text)
        notes += [
            f"× {model.text} lacks whole curves on {cell[0]} · {cell[1]} (train size {cell[2]}, "
            f"{seed_list(seeds)}) by the map of {'; '.join(names)}"
            for seeds, names in maps.items()
            if seeds
        ]
    return notes


def _about(matrices: Sequence[Matrix]) -> str:
    """Return what is shown; signs are explained where they stand."""
    words = "".join(text for each in matrices for text in _texts(each).values())
    signs = [MISSING if "×" in words else "", FEWER if "*" in words else ""]
    return " ".join(filter(None, [ABOUT, *signs]))


def _values(matrix: Matrix) -> dict[tuple[int, int], float]:
    """Return the number of each cell, by row and column; n is the margin."""
    n = len(matrix.cells)
    values = {place: float(value) for place, value in numpy.ndenumerate(matrix.cells)}
    values |= {(k, n): float(value) for k, value in enumerate(matrix.rows)}
    return values | {(n, k): float(value) for k, value in enumerate(matrix.columns)}


def _texts(matrix: Matrix) -> dict[tuple[int, int], str]:
    """Return what is written in each cell; two methods have no margins, so nothing is missing."""
    n = len(matrix.cells)
    texts = {}
    for place, value in _values(matrix).items():
        is_margin = n in place
        number = f"{round(100 * value, 1) + 0.0:.1f}".replace("-", "−")  # no minus before zero
        if not numpy.isfinite(value):
            number = "–" if is_margin and n < FEWEST else "×"
        elif not is_margin and not matrix.is_whole[place]:
            number += "*"
        texts[place] = number
    return texts


def _shades(matrix: Matrix, quantity: Quantity) -> dict[tuple[int, int], str]:
    """Return the colour of every cell that has a number, from the lowest to the highest."""
    finite = {place: v for place, v in _values(matrix).items() if numpy.isfinite(v)}
    if not finite:
        return {}
    low, high = min(finite.values()), max(finite.values())
    extent = max(high - low, LEAST_SPAN)
    middle = (low + high) / 2
    return {
        place: to_hex(quantity.shades(0.5 + (value - middle) / extent))
        for place, value in finite.items()
    }


def _lay_out(marks: list[Mark], matrices: Sequence[Matrix]) -> Layout:
    """Return sizes by which the longest number fits; matrices are stacked where they are wide."""
    widest = max(text_width(text, SIZE) for each in matrices for text in _texts(each).values())
    smallest = max(SMALLEST_CELL, widest + 0.05)
    room, n = WIDTH - 2 * MARGIN - NAMES, len(marks) + 1
    beside = (room - BETWEEN) / 2 - APART
    is_beside = n * smallest <= beside
    cell = max(smallest, min(LARGEST_CELL, (beside if is_beside else room - APART) / n))
    most = int(cell / text_height(1, SIZE))
    names = [_cut(mark.method.text, NAMES - MARK - 0.06, MOST_LINES) for mark in marks]
    heads = [_cut(mark.method.text, HIGHEST_HEAD, most) for mark in marks]
    longest = max(text_width(line, SIZE) for lines in [*heads, [MEAN]] for line in lines)
    row = max(SMALLEST_ROW, text_height(max(map(len, names)), SIZE) + 0.05)
    return Layout(marks, names, heads, cell, row, MARK + longest + 0.06, is_beside)


def _cut(text: str, width: float, most: int) -> list[str]:
    """Wrap a name; what is beyond the last line becomes an ellipsis."""
    lines = wrap(text, width, SIZE)
    if len(lines) <= most:
        return lines
    last = lines[most - 1]
    while text_width(f"{last}…", SIZE) > width:
        last = last[:-1]
    return [*lines[: most - 1], f"{last.rstrip()}…"]


def _draw_matrix(
    page: Page, left: float, top: float, matrix: Matrix, quantity: Quantity, layout: Layout
) -> None:
    """Draw title, heads and cells; the unit of the axes is an inch."""
    n, x, y = len(layout.marks), layout.cell, layout.row
    page.text(left, top, quantity.title, size=TITLE_SIZE, weight="bold")
    page.text(left, top + text_height(1, TITLE_SIZE), quantity.high, size=SIZE)
    page.text(left, top + TITLE - 0.02, COLUMN, size=SIZE, style="italic", va="bottom")
    top += TITLE + layout.head
    style = {"size": SIZE, "rotation": 90, "ha": "center", "va": "bottom", "linespacing": 1.2}
    for number, head in enumerate(layout.heads):
        page.text(left + (number + 0.5) * x, top - MARK - 0.02, "\n".join(head), **style)
    page.text(left + (n + 0.5) * x + APART, top - 0.05, MEAN, **style)
    height = (n + 1) * y + APART
    axes = page.axes(left, top, layout.across, height)
    axes.set_axis_off()
    axes.set(xlim=(0, layout.across), ylim=(height, 0))
    shades = _shades(matrix, quantity)
    for (row, column), text in _texts(matrix).items():
        corner = (column * x + APART * (column == n), row * y + APART * (row == n))
        _draw_cell(axes, corner, (x, y), text, shades.get((row, column)))
    for number, mark in enumerate(layout.marks):
        frame = Rectangle((number * x, number * y), x, y, fill=False, edgecolor="black", zorder=3)
        frame.set(linewidth=1.6, clip_on=False)
        axes.add_patch(frame)
        points = mark.points | {"markersize": 5.0, "clip_on": False}
        axes.plot([(number + 0.5) * x], [-MARK / 2], **points)


def _draw_cell(
    axes: Axes,
    corner: tuple[float, float],
    size: tuple[float, float],
    text: str,
    shade: str | None,
) -> None:
    """Draw a cell with its number; a missing one is hatched, so that it is no light shade."""
    box = Rectangle(corner, *size, facecolor=shade or "white", edgecolor="#a0a0a0", linewidth=0.5)
    box.set(hatch="//////" if text == "×" else None, clip_on=False)
    axes.add_patch(box)
    middle = (corner[0] + size[0] / 2, corner[1] + size[1] / 2)
    is_dark = shade is not None and _luminance(shade) < MIDDLE_GREY
    ink = "white" if is_dark else "black"
    axes.text(*middle, text, size=SIZE, ha="center", va="center", color=ink)


def _luminance(colour: str) -> float:
    """Return the relative luminance of an sRGB colour (IEC 61966-2-1)."""
    part = numpy.asarray(to_rgb(colour))
    linear = numpy.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def _write_names(page: Page, top: float, layout: Layout) -> None:
    """Write what the rows are left of them, with the marks of the methods."""
    n, y, right = len(layout.marks), layout.row, MARGIN + NAMES
    words = {"size": SIZE, "ha": "right", "va": "center", "linespacing": 1.2}
    page.text(right - 0.06, top - 0.05, ROW, **(words | {"va": "bottom", "style": "italic"}))
    axes = page.axes(right - MARK, top, MARK, n * y)
    axes.set_axis_off()
    axes.set(xlim=(0, MARK), ylim=(n * y, 0))
    for number, (mark, name) in enumerate(zip(layout.marks, layout.names, strict=True)):
        middle = (number + 0.5) * y
        page.text(right - MARK - 0.03, top + middle, "\n".join(name), **words)
        axes.plot([MARK / 2], [middle], **(mark.points | {"markersize": 5.0, "clip_on": False}))
    page.text(right - 0.06, top + (n + 0.5) * y + APART, MEAN, **words)
