"""One look for all figures: the palette, the marks of the methods, the settings of matplotlib.

A method is told from the others three times over, by colour, by marker and by line style, so that
a print in grey, or a reader who does not see some hues, loses nothing. The first five colours also
lie at least ten steps of lightness (CIE L*) apart.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ParamSpec

import matplotlib
from matplotlib.figure import Figure

__all__ = ["DOTS_PER_INCH", "Mark", "MethodLabel", "marks_of", "settings", "styled"]

Parameters = ParamSpec("Parameters")

DOTS_PER_INCH = 200

COLOURS = (
    "#1a1a1a",
    "#e69f00",
    "#00529b",
    "#289a84",
    "#c8385a",
    "#7db9ea",
    "#5c1a66",
    "#8c510a",
    "#7f9000",
    "#f0a3c4",
    "#1e5631",
    "#6d7a94",
)
MARKERS = ("o", "s", "^", "D", "v", "P", "p", "<", "h", ">", "X", "d")
LINES: tuple[tuple[float, ...], ...] = (
    (),
    (1, 1.2),
    (7, 1.5, 1.2, 1.5),
    (5, 1.3),
    (7, 1.5, 1.2, 1.5, 1.2, 1.5),
)
CONTROL_LINES: tuple[tuple[float, ...], ...] = ((3.2, 1.8), (1.8, 1.8), (3.2, 1.4, 1, 1.4))

SETTINGS: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#555555",
    "axes.grid": True,
    "axes.labelsize": 8.5,
    "axes.linewidth": 0.7,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 9,
    "axes.unicode_minus": True,
    "figure.dpi": DOTS_PER_INCH,
    "font.family": "sans-serif",
    # The first comes with matplotlib: the same letters on every machine. The others are for readers
    # of an SVG who lack it; Verdana is as wide.
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    "font.size": 8.5,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.6,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.4,
    "lines.markersize": 5.5,
    "pdf.fonttype": 42,
    "savefig.dpi": DOTS_PER_INCH,
    "svg.fonttype": "none",
    "svg.hashsalt": "attrreg",
    "text.parse_math": False,  # names and error messages may hold a dollar sign
    "xtick.labelsize": 8,
    "xtick.major.width": 0.7,
    "ytick.labelsize": 8,
    "ytick.major.width": 0.7,
}


@dataclass(frozen=True)
class MethodLabel:
    """How a method is called in the figures.

    Attributes
    ----------
    name
        The name in the tables, such as ``"reldrop-block/swapped"``.
    label
        The name for readers.
    is_reconstruction
        The method is rebuilt from an abstract, not from a published algorithm.
    is_control
        The method is a control of the one named before its ``/``.
    """

    name: str
    label: str
    is_reconstruction: bool = False
    is_control: bool = False

    @property
    def text(self) -> str:
        """The label; its status is added where the label does not say it itself."""
        status = []
        if self.is_reconstruction and "reconstruction" not in self.label.lower():
            status.append("reconstruction")
        if self.is_control and "control" not in self.label.lower():
            status.append("control")
        return f"{self.label} ({', '.join(status)})" if status else self.label

    @property
    def family(self) -> str:
        """The name of the guided method that a control belongs to; else its own name."""
        return (self.is_control and self.name.rpartition("/")[0]) or self.name


@dataclass(frozen=True)
class Mark:
    """The look of one method: the same in every figure.

    Attributes
    ----------
    method
        The method that is drawn so.
    colour
        Hexadecimal; a control has the colour of its guided method.
    marker
        matplotlib's marker.
    dashes
        Lengths of line and gap in line widths; empty for a solid line.
    hollow
        The marker is drawn as an outline: so for controls.
    """

    method: MethodLabel
    colour: str
    marker: str
    dashes: tuple[float, ...]
    hollow: bool

    @property
    def points(self) -> dict[str, Any]:
        """Keyword arguments of ``Axes.plot`` for the markers alone."""
        return {
            "color": self.colour,
            "marker": self.marker,
            "markeredgecolor": self.colour,
            "markerfacecolor": "white" if self.hollow else self.colour,
            "markeredgewidth": 1.2,
            "linestyle": "none",
        }

    @property
    def line(self) -> dict[str, Any]:
        """Keyword arguments of ``Axes.plot`` for a line with markers."""
        return self.points | {"linestyle": (0, self.dashes) if self.dashes else "-"}


def marks_of(methods: Sequence[MethodLabel]) -> dict[str, Mark]:
    """Return the mark of every method by name, in the order given.

    Filled markers are unlike each other up to 12 guided methods, hollow ones up to 12 controls.

    Raises
    ------
    ValueError
        If no method is given, or one name twice.
    """
    names = [method.name for method in methods]
    if not names:
        raise ValueError("methods is empty: give the label of at least one method to draw")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"methods names {', '.join(twice)} more than once: give each name once")
    families = list(dict.fromkeys(method.family for method in methods))
    marks: dict[str, Mark] = {}
    for method in methods:
        place = families.index(method.family)
        siblings = [m for m in marks.values() if m.hollow and m.method.family == method.family]
        lines = CONTROL_LINES if method.is_control else LINES
        marks[method.name] = Mark(
            method=method,
            colour=COLOURS[place % len(COLOURS)],
            marker=_free_marker(marks, place, method.is_control),
            dashes=lines[(len(siblings) if method.is_control else place) % len(lines)],
            hollow=method.is_control,
        )
    return marks


def _free_marker(marks: dict[str, Mark], place: int, hollow: bool) -> str:
    """Return the marker of the place, or the next that no mark of its kind (hollow, filled) has."""
    taken = {mark.marker for mark in marks.values() if mark.hollow == hollow}
    turn = [MARKERS[(place + step) % len(MARKERS)] for step in range(len(MARKERS))]
    return next((marker for marker in turn if marker not in taken), turn[0])


@contextmanager
def settings() -> Iterator[None]:
    """Draw with the settings of this package, whatever matplotlibrc the user has."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)
        yield


def styled(function: Callable[Parameters, Figure]) -> Callable[Parameters, Figure]:
    """Make a drawing function draw with `settings`."""

    @functools.wraps(function)
    def draw(*arguments: Parameters.args, **keywords: Parameters.kwargs) -> Figure:
        with settings():
            return function(*arguments, **keywords)

    return draw
