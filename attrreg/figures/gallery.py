"""A gallery: inputs, the relevance of their features, and what each method does to them."""

from collections.abc import Mapping, Sequence

import numpy
import pandas
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from attrreg.figures.gaps import failure_notes
from attrreg.figures.page import MARGIN, WIDTH, Page, open_page, text_height, wrap
from attrreg.figures.style import Mark, MethodLabel, marks_of, styled

__all__ = ["RELEVANCE_COLOURS", "displayable", "gallery", "symmetric"]

ABOUT = (
    "Test samples. Per method: the relevance of each feature, by that method's own model, scaled "
    "per image; under each map the predicted class (✗: wrong). Below it: what the method does to "
    "this input in training."
)
# From dark to light through a middle grey, so that the sign survives a print in grey.
RELEVANCE_COLOURS = LinearSegmentedColormap.from_list(
    "relevance", ["#06153a", "#2a5a9c", "#9b9b9b", "#f0bd45", "#fffbe0"]
).with_extremes(bad="#d81b60")
MOST_SAMPLES = 10
NAMES, GAP = 1.3, 0.07
WORDS, SCALE, BLOCK_HEAD, TEXT_SIZE = 0.19, 0.46, 0.24, 8.0
LARGEST_CELL = 0.62


@styled
def gallery(
    arrays: Mapping[str, numpy.ndarray],
    failures: pandas.DataFrame,
    methods: Sequence[MethodLabel],
    title: str = "Inputs, relevance, and what each method does",
) -> Figure:
    """Draw a column per test sample and two strips per method: relevance, and the changed input.

    Parameters
    ----------
    arrays
        Named arrays of ``gallery.safetensors``. Per ``<dataset>|<model>``: ``inputs`` (k, C, H, W)
        in [0, 1] and ``labels`` (k,); per method ``relevance`` (k, H, W), signed, ``predictions``
        (k,) and, where the method changes inputs, ``perturbed`` (k, C, H, W). The first 10 samples
        are drawn.
    failures
        Rows of ``failures.csv``.
    methods
        The methods to draw, in the order of the rows. One without arrays leaves a marked gap.
    title
        The heading.

    Raises
    ------
    ValueError
        If no method is given, or one name twice.
    """
    marks = marks_of(methods)
    blocks = sorted(key.removesuffix("/inputs") for key in arrays if key.endswith("/inputs"))
    notes = failure_notes(failures, methods)
    if not blocks:
        notes.append("no finished run: the gallery holds no samples")
    cells = {block: _cell(arrays[f"{block}/inputs"]) for block in blocks}
    body = sum(_block_height(arrays, block, marks, *cells[block]) for block in blocks)
    page = open_page(title, ABOUT, body, notes=notes)
    top = 0.0
    for block in blocks:
        _draw_block(page, top, arrays, block, marks, cells[block], failures)
        top += _block_height(arrays, block, marks, *cells[block])
    return page.figure


def displayable(images: numpy.ndarray) -> numpy.ndarray:
    """Return images as matplotlib shows them.

    Parameters
    ----------
    images
        (k, C, H, W) float in [0, 1]. Three channels are red, green and blue; any other number is
        averaged.

    Returns
    -------
    numpy.ndarray
        (k, H, W, 3) float64 in [0, 1]; values that are not finite become 0.
    """
    finite = numpy.nan_to_num(images.astype("float64"), nan=0.0, posinf=0.0, neginf=0.0)
    channels = finite if finite.shape[1] == 3 else finite.mean(1, keepdims=True).repeat(3, 1)
    return numpy.clip(channels.transpose(0, 2, 3, 1), 0, 1)


def symmetric(relevance: numpy.ndarray) -> numpy.ndarray:
    """Return signed maps (k, H, W) over the largest |value| of each; a map of zeros stays so.

    Values that are not finite are masked.
    """
    masked = numpy.ma.masked_invalid(relevance.astype("float64"))
    largest = numpy.ma.filled(numpy.abs(masked).max(axis=(1, 2), keepdims=True), 0.0)
    return masked / numpy.where(largest > 0, largest, 1.0)


def _cell(inputs: numpy.ndarray) -> tuple[float, float]:
    """Return width and height of an image in inches."""
    n_samples = min(len(inputs), MOST_SAMPLES)
    height, width = inputs.shape[-2:]
    room = (WIDTH - NAMES - 2 * MARGIN) / max(n_samples, 1) - GAP
    across = min(room, LARGEST_CELL if width <= height else LARGEST_CELL * width / height)
    return across, across * height / width


def _strips(arrays: Mapping[str, numpy.ndarray], block: str, name: str) -> int:
    return sum(f"{block}/{name}/{part}" in arrays for part in ("relevance", "perturbed"))


def _method_height(
    arrays: Mapping[str, numpy.ndarray], block: str, mark: Mark, height: float
) -> float:
    """Return the inches of a method's strips, or of its label where that is longer."""
    label = text_height(len(_label_lines(mark)) + 1, TEXT_SIZE) + 0.1
    strips = max(_strips(arrays, block, mark.method.name), 1)
    return max(strips * (height + GAP) + WORDS, label) + 0.08


def _block_height(
    arrays: Mapping[str, numpy.ndarray],
    block: str,
    marks: Mapping[str, Mark],
    width: float,
    height: float,
) -> float:
    methods = sum(_method_height(arrays, block, mark, height) for mark in marks.values())
    return BLOCK_HEAD + WORDS + height + GAP + 0.1 + methods + SCALE


def _label_lines(mark: Mark) -> list[str]:
    return wrap(mark.method.text, NAMES - 0.2, TEXT_SIZE, bold=True)


def _draw_block(
    page: Page,
    top: float,
    arrays: Mapping[str, numpy.ndarray],
    block: str,
    marks: Mapping[str, Mark],
    cell: tuple[float, float],
    failures: pandas.DataFrame,
) -> None:
    height = cell[1]
    page.text(MARGIN, top, block.replace("|", " · "), size=9, weight="bold")
    top += BLOCK_HEAD
    labels = arrays[f"{block}/labels"]
    images = displayable(arrays[f"{block}/inputs"])
    axes = _strip(page, top + WORDS, images, cell)
    page.text(MARGIN, top + WORDS, "input", size=TEXT_SIZE, weight="bold")
    _words_above(axes, [f"label {int(label)}" for label in labels], cell)
    top += WORDS + height + GAP + 0.1
    for mark in marks.values():
        has_failed = (failures["method"] == mark.method.name) & (
            failures["dataset"] + "|" + failures["model"] == block
        )
        gap = "failed: no finished run" if has_failed.any() else "no finished run"
        _draw_method(page, top, arrays, block, mark, cell, labels, gap)
        top += _method_height(arrays, block, mark, height)
    _draw_scale(page, top + 0.06)


def _draw_method(
    page: Page,
    top: float,
    arrays: Mapping[str, numpy.ndarray],
    block: str,
    mark: Mark,
    cell: tuple[float, float],
    labels: numpy.ndarray,
    gap: str,
) -> None:
    prefix = f"{block}/{mark.method.name}"
    height = cell[1]
    room = {"size": TEXT_SIZE, "linespacing": 1.3}
    bar = page.axes(MARGIN, top, 0.05, _method_height(arrays, block, mark, height) - 0.16)
    bar.set_axis_off()
    bar.add_patch(
        Rectangle(
            (0, 0),
            1,
            1,
            facecolor="white" if mark.hollow else mark.colour,
            edgecolor=mark.colour,
            linewidth=1.2,
            transform=bar.transAxes,
        )
    )
    lines = _label_lines(mark)
    page.text(MARGIN + 0.12, top, "\n".join(lines), weight="bold", **room)
    if f"{prefix}/relevance" not in arrays:
        axes = page.axes(NAMES + MARGIN, top, WIDTH - NAMES - 2 * MARGIN, height)
        axes.set_axis_off()
        axes.plot([0.03], [0.6], "x", color=mark.colour, markersize=12, markeredgewidth=3)
        axes.text(0.06, 0.6, gap, size=TEXT_SIZE, va="center")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        return
    below = top + text_height(len(lines), TEXT_SIZE)
    page.text(MARGIN + 0.12, below, "relevance", color="#444444", **room)
    axes = _strip(page, top, symmetric(arrays[f"{prefix}/relevance"]), cell)
    _write_predictions(axes, arrays[f"{prefix}/predictions"], labels, cell)
    if f"{prefix}/perturbed" in arrays:
        second = max(top + height + WORDS + GAP, below + text_height(1, TEXT_SIZE))
        _strip(page, top + height + WORDS + GAP, displayable(arrays[f"{prefix}/perturbed"]), cell)
        page.text(MARGIN + 0.12, second, "changed input", color="#444444", **room)


def _strip(page: Page, top: float, images: numpy.ndarray, cell: tuple[float, float]) -> Axes:
    """Draw images side by side in one axes whose unit is an inch, and return it."""
    width, height = cell
    shown = images[:MOST_SAMPLES]
    pitch = width + GAP
    axes = page.axes(NAMES + MARGIN, top, max(len(shown), 1) * pitch, height)
    axes.set_axis_off()
    for number, image in enumerate(shown):
        box = (number * pitch, number * pitch + width, 0.0, height)
        axes.imshow(
            image,
            extent=box,
            aspect="auto",
            interpolation="nearest",
            cmap=RELEVANCE_COLOURS,
            norm=Normalize(-1, 1),
        )
        frame = Rectangle((box[0], 0), width, height, fill=False, edgecolor="#888888")
        frame.set(linewidth=0.6, clip_on=False)
        axes.add_patch(frame)
    axes.set_xlim(0, max(len(shown), 1) * pitch)
    axes.set_ylim(0, height)
    return axes


def _words_above(axes: Axes, words: Sequence[str], cell: tuple[float, float]) -> None:
    for number, word in enumerate(words[:MOST_SAMPLES]):
        x = number * (cell[0] + GAP) + cell[0] / 2
        axes.text(x, cell[1] + 0.03, word, size=TEXT_SIZE, ha="center", va="bottom")


def _write_predictions(
    axes: Axes, predictions: numpy.ndarray, labels: numpy.ndarray, cell: tuple[float, float]
) -> None:
    pairs = list(zip(predictions, labels, strict=True))[:MOST_SAMPLES]
    for number, (prediction, label) in enumerate(pairs):
        is_right = bool(prediction == label)
        axes.text(
            number * (cell[0] + GAP) + cell[0] / 2,
            -0.03,
            str(int(prediction)) if is_right else f"{int(prediction)} ✗",
            size=TEXT_SIZE,
            weight="normal" if is_right else "bold",
            ha="center",
            va="top",
        )


def _draw_scale(page: Page, top: float) -> None:
    """Draw the scale of the relevance maps."""
    axes = page.axes(NAMES + MARGIN, top, 2.2, 0.09)
    axes.imshow(
        numpy.linspace(-1, 1, 256)[None],
        extent=(-1, 1, 0, 1),
        aspect="auto",
        cmap=RELEVANCE_COLOURS,
        norm=Normalize(-1, 1),
    )
    axes.grid(visible=False)
    axes.set_yticks([])
    axes.set_xticks([-1, 0, 1], ["against the class", "0", "for the class"])
    for label, side in zip(axes.get_xticklabels(), ("left", "center", "right"), strict=True):
        label.set(horizontalalignment=side)
    page.text(MARGIN, top - 0.02, "relevance", size=TEXT_SIZE)
