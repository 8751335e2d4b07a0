"""The figure of the accuracy drop: its curves, what is below random, and what is missing."""

import numpy
import pandas
import pytest
from matplotlib.text import Text

from attrreg.figures import draw
from attrreg.figures.accuracy_drop import accuracy_drop, below_random
from attrreg.figures.style import MethodLabel, marks_of

METHODS = [
    MethodLabel("baseline", "Baseline"),
    MethodLabel("sgt", "Saliency Guided Training"),
    MethodLabel("sgt/swapped", "Swapped map (control)", is_control=True),
]
MAPS = ("random", "gradient", "deeplift")
FRACTIONS = (0.0, 0.3, 0.9)
RUN = ["dataset", "model", "method", "train_size", "seed"]
NOBODY = pandas.DataFrame(columns=[*RUN, "stage", "error", "message"])


def table(methods=("baseline", "sgt", "sgt/swapped"), seeds=(0, 1, 2), maps=MAPS, sizes=(50,)):
    """Return curves without any pattern, so that no number stands for another."""
    random = numpy.random.default_rng(5)
    rows = [
        ("digits", "resnet-small", method, size, seed, name, fraction, random.random())
        for size in sizes
        for method in methods
        for seed in seeds
        for name in maps
        for fraction in FRACTIONS
    ]
    return pandas.DataFrame(rows, columns=[*RUN, "map", "fraction", "accuracy"])


def chosen(curves, **keys):
    for column, value in keys.items():
        curves = curves[curves[column] == value]
    return curves


def panels(figure):
    """Return by title the panels of each map: accuracy, and below it, what is below random."""
    upper = {axes.get_title(loc="left"): axes for axes in figure.axes if axes.get_title(loc="left")}
    rest = [axes for axes in figure.axes if not axes.get_title(loc="left")]
    left = {round(axes.get_position().x0, 6): axes for axes in rest}
    return {
        title.replace("\n", " "): (axes, left.get(round(axes.get_position().x0, 6)))
        for title, axes in upper.items()
    }


def lines_of(axes, methods=METHODS):
    """Return by method the line that has its mark."""
    marks = {(mark.marker, mark.hollow): name for name, mark in marks_of(methods).items()}
    return {
        marks[line.get_marker(), line.get_markerfacecolor() == "white"]: line
        for line in axes.lines
        if line.get_marker() not in ("None", "x")
    }


def words(figure):
    return " ".join(text.get_text() for text in figure.findobj(Text)).replace("\n", " ")


def test_lines_are_means_over_the_seeds_and_bands_their_range():
    curves = table()
    found = panels(accuracy_drop(curves, NOBODY, METHODS))
    assert list(found) == ["Gradient", "DeepLIFT", "Random map (control)"]
    for title, name in (("Gradient", "gradient"), ("Random map (control)", "random")):
        axes = found[title][0]
        assert list(lines_of(axes)) == [method.name for method in METHODS]
        for method, line in lines_of(axes).items():
            assert line.get_xdata() == pytest.approx([0, 30, 90])
            for x, mean in zip(FRACTIONS, line.get_ydata(), strict=True):
                here = chosen(curves, method=method, map=name, fraction=x)["accuracy"]
                assert mean == pytest.approx(100 * sum(here) / len(here))
        bands = [each.get_datalim(axes.transData) for each in axes.collections[1:]]
        for method, band in zip([method.name for method in METHODS], bands, strict=True):
            here = 100 * chosen(curves, method=method, map=name)["accuracy"]
            assert (band.y0, band.y1) == pytest.approx((here.min(), here.max()))


def test_lower_panels_compare_each_run_with_its_own_random_map():
    curves = table()
    found = panels(accuracy_drop(curves, NOBODY, METHODS))
    assert found["Random map (control)"][1] is None
    for title, name in (("Gradient", "gradient"), ("DeepLIFT", "deeplift")):
        for method, line in lines_of(found[title][1]).items():
            for x, mean in zip(FRACTIONS, line.get_ydata(), strict=True):
                here = chosen(curves, method=method, fraction=x)
                differences = [
                    chosen(here, map="random", seed=seed)["accuracy"].item()
                    - chosen(here, map=name, seed=seed)["accuracy"].item()
                    for seed in (0, 1, 2)
                ]
                assert mean == pytest.approx(100 * numpy.mean(differences))


def test_the_grey_band_reaches_from_the_lowest_to_the_highest_random_curve():
    curves = table()
    axes = panels(accuracy_drop(curves, NOBODY, METHODS))["Gradient"][0]
    means = chosen(curves, map="random").groupby(["fraction", "method"])["accuracy"].mean()
    corners = axes.collections[0].get_paths()[0].vertices
    for x in FRACTIONS:
        here = corners[numpy.isclose(corners[:, 0], 100 * x), 1]
        assert (here.min(), here.max()) == pytest.approx(
            (100 * means[x].min(), 100 * means[x].max())
        )


def test_all_lower_panels_have_one_scale_that_holds_zero_and_every_seed():
    curves = table(sizes=(50, 200))
    lower = [pair[1] for pair in panels(accuracy_drop(curves, NOBODY, METHODS)).values() if pair[1]]
    limits = {axes.get_ylim() for axes in lower}
    assert len(limits) == 1
    low, high = limits.pop()
    below = 100 * below_random(curves)["below"]
    assert low < min(0, below.min())
    assert high > max(0, below.max())


def test_a_map_that_is_the_random_one_is_zero_below_it():
    curves = table(maps=("random",))
    same = pandas.concat([curves, curves.assign(map="gradient")])
    axes = panels(accuracy_drop(same, NOBODY, METHODS))["Gradient"][1]
    for line in lines_of(axes).values():
        assert line.get_ydata() == pytest.approx([0, 0, 0])
    assert axes.get_ylim()[0] < 0 < axes.get_ylim()[1]


def test_without_the_random_map_only_accuracy_is_drawn_and_that_is_said():
    figure = accuracy_drop(table(maps=("gradient", "deeplift")), NOBODY, METHODS)
    assert len(figure.axes) == 2
    assert "Without the map 'random'" in words(figure)
    assert "Lower panels" not in words(figure)


def test_a_failed_method_is_a_gap_in_every_panel_and_panels_keep_one_scale():
    failures = pandas.DataFrame(
        [
            ("digits", "resnet-small", "sgt", 50, seed, "training", "Error", "why")
            for seed in (0, 1)
        ],
        columns=NOBODY.columns,
    )
    figure = accuracy_drop(table(("baseline",), seeds=(0, 1)), failures, METHODS[:2])
    for upper, _ in panels(figure).values():
        crosses = [line for line in upper.lines if line.get_marker() == "x"]
        assert [line.get_color() for line in crosses] == [marks_of(METHODS)["sgt"].colour]
        assert crosses[0].get_ydata()[0] < 0
    assert "× Saliency Guided Training failed (stage training)" in words(figure)


def test_a_map_that_one_method_lacks_is_marked_in_its_panel_and_noted():
    curves = table()
    lacks = (curves["method"] == "sgt") & (curves["map"] == "deeplift")
    figure = accuracy_drop(curves[~lacks], NOBODY, METHODS)
    found = panels(figure)
    crosses = {
        title: [line.get_color() for line in upper.lines if line.get_marker() == "x"]
        for title, (upper, _) in found.items()
    }
    colour = marks_of(METHODS)["sgt"].colour
    assert crosses == {"Gradient": [], "DeepLIFT": [colour], "Random map (control)": []}
    assert len({upper.get_ylim() for upper, _ in found.values()}) == 1
    assert (
        "× Saliency Guided Training lacks values on digits · resnet-small (train size 50, "
        "seeds 0, 1, 2) of DeepLIFT"
    ) in words(figure)


def test_single_values_that_are_not_finite_are_noted_and_not_drawn():
    curves = table()
    broken = (curves["method"] == "baseline") & (curves["map"] == "gradient")
    broken &= (curves["seed"] == 1) & (curves["fraction"] == 0.3)
    curves["accuracy"] = curves["accuracy"].mask(broken, numpy.nan)
    figure = accuracy_drop(curves, NOBODY, METHODS)
    mean = lines_of(panels(figure)["Gradient"][0])["baseline"].get_ydata()[1]
    kept = chosen(curves, method="baseline", map="gradient", fraction=0.3)["accuracy"].dropna()
    assert len(kept) == 2
    assert mean == pytest.approx(100 * kept.mean())
    assert "× Baseline lacks values" in words(figure)
    assert "seed 1) of Gradient" in words(figure)


def test_a_map_without_any_finite_value_keeps_its_panel():
    curves = table()
    curves["accuracy"] = curves["accuracy"].mask(curves["map"] == "deeplift", numpy.inf)
    figure = accuracy_drop(curves, NOBODY, METHODS)
    assert "DeepLIFT" in panels(figure)
    assert [text.get_text() for text in panels(figure)["DeepLIFT"][0].texts] == ["no value"]


def test_one_method_and_one_seed_have_a_line_in_every_panel():
    curves = table(("sgt/swapped",), seeds=(4,))
    found = panels(accuracy_drop(curves, NOBODY, METHODS[2:]))
    for upper, lower in found.values():
        assert len(lines_of(upper, METHODS[2:])) == 1
        assert lower is None or len(lines_of(lower, METHODS[2:])) == 1


def test_seven_maps_go_on_in_a_second_band_the_random_one_last():
    names = ("random", "a", "b", "c", "d", "e", "my-map")
    figure = accuracy_drop(table(maps=names), NOBODY, METHODS)
    titles = [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]
    assert titles == ["a", "b", "c", "d", "e", "my map", "Random map (control)"]
    rows = {round(axes.get_position().y1, 6) for axes in figure.axes if axes.get_title(loc="left")}
    assert len(rows) == 2


def test_an_empty_table_says_how_to_ask_for_it():
    figure = accuracy_drop(table().iloc[:0], NOBODY, METHODS)
    assert figure.axes == []
    assert "evaluation.measures: [accuracy-drop]" in words(figure)


def test_the_same_tables_give_the_same_bytes_in_any_order_of_their_rows(tmp_path):
    NOBODY.to_csv(tmp_path / "failures.csv", index=False)
    drawn = []
    for number, curves in enumerate([table(), table().sort_values(["seed", "fraction"])]):
        curves.to_csv(tmp_path / "accuracy_drop.csv", index=False)
        place = tmp_path / str(number)
        drawn.append(draw("accuracy-drop", tmp_path, place, METHODS, formats=["svg"])[0])
    assert drawn[0].read_bytes() == drawn[1].read_bytes()
