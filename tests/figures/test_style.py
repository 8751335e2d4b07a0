"""Methods can be told apart, in colour and in grey."""

import itertools

import numpy
import pytest
from matplotlib.colors import to_rgb
from matplotlib.markers import MarkerStyle
from synthetic import METHODS

from attrreg.figures.gallery import RELEVANCE_COLOURS
from attrreg.figures.style import COLOURS, MARKERS, MethodLabel, marks_of


def lightness(colour):
    """CIE L* of an sRGB colour under its own white (IEC 61966-2-1, CIE 15)."""
    part = numpy.asarray(to_rgb(colour))
    linear = numpy.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    luminance = float(linear @ [0.2126, 0.7152, 0.0722])
    return 116 * luminance ** (1 / 3) - 16 if luminance > 0.008856 else 903.3 * luminance


def many(n_guided, n_controls):
    guided = [MethodLabel(f"m{n}", f"Method {n}") for n in range(n_guided)]
    controls = [
        MethodLabel(f"m{n % n_guided}/c{n}", f"Control {n}", False, True) for n in range(n_controls)
    ]
    return [*guided, *controls]


def test_first_colours_differ_in_grey():
    for one, other in itertools.combinations(COLOURS[:5], 2):
        assert abs(lightness(one) - lightness(other)) >= 10


def test_colours_stand_out_from_paper():
    assert max(map(lightness, COLOURS)) < 80


@pytest.mark.parametrize("methods", [METHODS, many(12, 12), many(2, 12), many(12, 0)])
def test_every_method_has_a_shape_of_its_own(methods):
    marks = marks_of(methods)
    shapes = {(mark.marker, mark.hollow) for mark in marks.values()}
    assert len(shapes) == len(methods)
    assert list(marks) == [method.name for method in methods]
    assert all(MarkerStyle(marker).is_filled() for marker in MARKERS)


def test_control_has_the_colour_of_its_guided_method():
    marks = marks_of(METHODS)
    guided, control = marks["reldrop-block"], marks["reldrop-block/swapped"]
    assert control.colour == guided.colour
    assert control.hollow
    assert control.dashes != guided.dashes
    assert control.line["markerfacecolor"] == "white"
    alone = marks_of([MethodLabel("sgt/swapped", "Swapped", False, True)])
    assert alone["sgt/swapped"].hollow


def test_marks_do_not_depend_on_what_else_follows():
    few, all_of_them = marks_of(METHODS[:4]), marks_of(METHODS)
    assert all(few[name] == all_of_them[name] for name in few)


def test_status_is_added_where_the_label_is_silent():
    assert (
        MethodLabel("challenger", "Challenger", True, False).text == "Challenger (reconstruction)"
    )
    said = MethodLabel("challenger", "Challenger (reconstruction)", True, False)
    assert said.text == said.label
    both = MethodLabel("challenger/swapped", "Challenger, swapped", True, True)
    assert both.text == "Challenger, swapped (reconstruction, control)"


def test_sign_of_relevance_survives_grey():
    light = [lightness(RELEVANCE_COLOURS(x)[:3]) for x in numpy.linspace(0, 1, 21)]
    assert (numpy.diff(light) > 0).all()
    middle = RELEVANCE_COLOURS(0.5)
    assert max(middle[:3]) - min(middle[:3]) < 0.02
