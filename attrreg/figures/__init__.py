"""Figures: from the tables of an experiment to SVG, PNG and PDF, without torch.

Every figure is a function of tables that returns a `matplotlib.figure.Figure`; `draw` is the edge
that opens and writes files. The same tables give the same bytes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from attrreg.figures.accuracy_drop import accuracy_drop
from attrreg.figures.by_train_size import accuracy_by_train_size, ece_by_train_size
from attrreg.figures.cross_maps import cross_maps
from attrreg.figures.differences import differences
from attrreg.figures.faithfulness import faithfulness
from attrreg.figures.gallery import gallery
from attrreg.figures.occlusion import occlusion
from attrreg.figures.reliability import reliability
from attrreg.figures.style import MethodLabel, settings
from attrreg.figures.tables import read_table
from attrreg.files import writing

__all__ = ["FIGURES", "FORMATS", "Drawing", "MethodLabel", "draw"]

# A date among a file's metadata would make equal figures unequal.
FORMATS: dict[str, dict[str, Any]] = {
    "svg": {"Date": None},
    "png": {},
    "pdf": {"CreationDate": None, "ModDate": None},
}


@dataclass(frozen=True)
class Drawing:
    """A figure that can be drawn.

    Attributes
    ----------
    function
        Takes the tables in their order, then the methods and the title; returns the figure.
    tables
        The files it reads.
    title
        The heading, where no other is given.
    description
        One line for a caption.
    """

    function: Callable[..., Figure]
    tables: tuple[str, ...]
    title: str
    description: str


FIGURES: dict[str, Drawing] = {
    "accuracy-by-train-size": Drawing(
        accuracy_by_train_size,
        ("metrics.csv", "failures.csv"),
        "Test accuracy by train size",
        "Test accuracy against the number of training samples: mean over the seeds, 95 % t "
        "interval, single seeds as dots; failed runs are marked.",
    ),
    "ece-by-train-size": Drawing(
        ece_by_train_size,
        ("metrics.csv", "failures.csv"),
        "Expected calibration error by train size",
        "Expected calibration error (equal-width bins; lower is better) against the number of "
        "training samples: mean over the seeds, 95 % t interval, single seeds as dots, and what "
        "chance alone shows.",
    ),
    "reliability": Drawing(
        reliability,
        ("reliability.csv", "failures.csv"),
        "Reliability",
        "Accuracy against confidence per method and train size, before and after temperature "
        "scaling, bins pooled over the seeds, with the share of samples per bin and the expected "
        "calibration error.",
    ),
    "occlusion": Drawing(
        occlusion,
        ("curves.csv", "failures.csv"),
        "Accuracy under occlusion",
        "Test accuracy while features are replaced at random, or by relevance: by each model's own "
        "map, or by a neutral map that all methods share; mean and range over the seeds.",
    ),
    "faithfulness": Drawing(
        faithfulness,
        ("faithfulness.csv", "failures.csv"),
        "Faithfulness of the maps",
        "Accuracy while the most, or the least, relevant features of each map are replaced first; "
        "mean and range over the seeds.",
    ),
    "accuracy-drop": Drawing(
        accuracy_drop,
        ("accuracy_drop.csv", "failures.csv"),
        "Accuracy drop",
        "Accuracy while the features that a map gives the largest magnitude are replaced by the "
        "top-left pixel, without training again, and by how many points it is below that of a "
        "random map; mean and range over the seeds.",
    ),
    "cross-maps": Drawing(
        cross_maps,
        ("cross.csv", "failures.csv"),
        "Models by the maps of others",
        "Every method's model occluded in the order of every method's map: the area under "
        "accuracy with the most relevant first, and the gain, least minus most relevant first; "
        "means over the seeds, and of rows and columns without the model's own map.",
    ),
    "differences": Drawing(
        differences,
        ("tests.csv", "failures.csv"),
        "Differences between methods",
        "Paired differences to the reference method, and of guided methods to their controls, with "
        "interval (t below 20 clusters, bootstrap from there), Holm-corrected p of the exact "
        "sign-flip test, and verdict.",
    ),
    "gallery": Drawing(
        gallery,
        ("gallery.safetensors", "failures.csv"),
        "Inputs, relevance, and what each method does",
        "Test samples, the signed relevance of their features by each method's own model, and what "
        "the method does to the input in training.",
    ),
}


def draw(
    name: str,
    tables: Path,
    target: Path,
    methods: Sequence[MethodLabel],
    title: str = "",
    formats: Sequence[str] = ("svg", "png", "pdf"),
) -> list[Path]:
    """Draw a figure from a folder of tables and write it in the formats given.

    A file appears under its name only when it is complete. The same tables give the same bytes.

    Parameters
    ----------
    name
        A name of `FIGURES`; also the name of the files.
    tables
        The folder with the tables.
    target
        The folder to write to; made if it does not exist.
    methods
        The methods to draw, in the order of all legends, rows and columns.
    title
        The heading; empty for the figure's own.
    formats
        Of `FORMATS`.

    Returns
    -------
    list of pathlib.Path
        The files, in the order of the formats.

    Raises
    ------
    FileNotFoundError
        If a table is missing.
    ValueError
        If the name or a format is unknown, a table is not readable, or the methods are empty or
        not distinct.
    """
    _check("figure", name, FIGURES)
    for kind in formats:
        _check("format", kind, FORMATS)
    drawing = FIGURES[name]
    loaded = [read_table(Path(tables), table) for table in drawing.tables]
    figure = drawing.function(*loaded, methods=methods, title=title or drawing.title)
    Path(target).mkdir(parents=True, exist_ok=True)
    return [_save(figure, Path(target) / f"{name}.{kind}", kind) for kind in formats]


def _check(kind: str, found: str, allowed: dict[str, Any]) -> None:
    if found in allowed:
        return
    nearest = get_close_matches(found, allowed, n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    raise ValueError(f"unknown {kind} {found!r}: known are {', '.join(allowed)}{hint}")


def _save(figure: Figure, path: Path, kind: str) -> Path:
    with writing(path) as temporary, settings():
        figure.savefig(temporary, format=kind, metadata=FORMATS[kind])
    return path
