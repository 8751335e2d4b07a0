"""The figure of crossed maps: numbers in its cells, margins, shades, and what is missing."""

import itertools

import numpy
import pandas
import pytest
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from test_style import lightness

from attrreg.crossing import FEWEST, crossed_metrics
from attrreg.figures import draw
from attrreg.figures.cross_maps import QUANTITIES, cross_maps
from attrreg.figures.crossing import matrix_of
from attrreg.figures.style import MethodLabel

METHODS = [
    MethodLabel("sgt", "Saliency Guided Training"),
    MethodLabel("baseline", "Baseline"),
    MethodLabel("sgt/swapped", "Swapped map (control)", is_control=True),
]
NAMES = [method.name for method in METHODS]
FRACTIONS = (0.0, 0.2, 0.5, 0.9)
RUN = ["dataset", "model", "method", "train_size", "seed"]
NOBODY = pandas.DataFrame(columns=[*RUN, "stage", "error", "message"])


def table(names=NAMES, seeds=(0, 1, 2), sizes=(50,)):
    """Return curves without any pattern, so that no number stands for another."""
    random = numpy.random.default_rng(5)
    keys = itertools.product(sizes, sorted(names), seeds, names, ("least", "most"), FRACTIONS)
    rows = [
        ("digits", "resnet-small", method, size, seed, other, first, fraction, random.random())
        for size, method, seed, other, first, fraction in keys
    ]
    return pandas.DataFrame(rows, columns=[*RUN, "map_of", "first", "fraction", "accuracy"])


def area(cross, method, other, first, seed):
    """Return the area of one curve by hand, in %."""
    here = cross[(cross["method"] == method) & (cross["map_of"] == other)]
    here = here[(here["first"] == first) & (here["seed"] == seed)].sort_values("fraction")
    x, y = here["fraction"].tolist(), here["accuracy"].tolist()
    parts = [(x[k + 1] - x[k]) * (y[k] + y[k + 1]) / 2 for k in range(len(x) - 1)]
    return 100 * sum(parts) / (x[-1] - x[0])


def cells_of(axes, n):
    """Return by row and column what is written; row and column n are the margins."""
    xs, ys = (sorted({round(each.get_position()[k], 6) for each in axes.texts}) for k in (0, 1))
    assert len(xs) == len(ys) == n + 1
    return {
        (ys.index(round(y, 6)), xs.index(round(x, 6))): each.get_text()
        for each in axes.texts
        for x, y in [each.get_position()]
    }


def boxes_of(axes, n):
    """Return by row and column the box behind each number."""
    boxes = [box for box in axes.patches if isinstance(box, Rectangle) and box.get_fill()]
    xs, ys = (sorted({round(box.get_xy()[k], 6) for box in boxes}) for k in (0, 1))
    assert len(xs) == len(ys) == n + 1
    return {
        (ys.index(round(box.get_y(), 6)), xs.index(round(box.get_x(), 6))): box for box in boxes
    }


def matrices(figure):
    return [axes for axes in figure.axes if axes.texts]


def words(figure):
    return " ".join(text.get_text() for text in figure.findobj(Text)).replace("\n", " ")


def fitted(pairs):
    """Return the means of rows and columns of an additive layout, fitted without the diagonal."""
    n = len(pairs)
    places = [place for place in itertools.product(range(n), repeat=2) if len(set(place)) == 2]
    columns = [[0, 1 + row, 1 + n + column] for row, column in places]
    design = numpy.zeros((len(places), 1 + 2 * n))
    for line, own in zip(design, columns, strict=True):
        line[own] = 1
    wanted = [pairs[place] for place in places]
    found = numpy.linalg.lstsq(design, numpy.array(wanted), rcond=None)[0]
    layout = found[0] + found[1 : 1 + n, None] + found[1 + n :]
    return layout.mean(1), layout.mean(0)


def shown(value):
    text = f"{value:.1f}"
    return "0.0" if text == "-0.0" else text.replace("-", "−")


def test_cells_hold_the_mean_area_and_the_mean_gain_over_the_seeds():
    cross = table()
    most, gain = matrices(cross_maps(cross, NOBODY, METHODS))
    for (row, model), (column, other) in itertools.product(enumerate(NAMES), repeat=2):
        low = [area(cross, model, other, "most", seed) for seed in (0, 1, 2)]
        high = [area(cross, model, other, "least", seed) for seed in (0, 1, 2)]
        assert cells_of(most, 3)[row, column] == shown(numpy.mean(low))
        assert cells_of(gain, 3)[row, column] == shown(numpy.mean(high) - numpy.mean(low))


@pytest.mark.parametrize("names", [NAMES, [*NAMES, "challenger"]])
def test_margins_are_those_of_an_additive_layout_without_the_diagonal(names):
    methods = [*METHODS, MethodLabel("challenger", "Challenger")][: len(names)]
    cross, n = table(names), len(names)
    for axes, signs in zip(
        matrices(cross_maps(cross, NOBODY, methods)), ((0, 1), (1, -1)), strict=True
    ):
        value = [
            numpy.mean(
                [
                    signs[0] * area(cross, *pair, "least", seed)
                    + signs[1] * area(cross, *pair, "most", seed)
                    for seed in (0, 1, 2)
                ]
            )
            for pair in itertools.product(names, repeat=2)
        ]
        rows, columns = fitted(numpy.reshape(value, (n, n)))
        cells = cells_of(axes, n)
        for place in range(n):
            assert cells[place, n] == shown(rows[place])
            assert cells[n, place] == shown(columns[place])
        assert (n, n) not in cells


def test_margins_are_the_means_of_the_metrics_over_the_seeds():
    metrics = crossed_metrics(table()).groupby(["metric", "method"])["value"].mean()
    most, gain = (cells_of(axes, 3) for axes in matrices(cross_maps(table(), NOBODY, METHODS)))
    for place, name in enumerate(NAMES):
        assert most[place, 3] == shown(100 * metrics["occlusion-crossed", name])
        assert gain[3, place] == shown(100 * metrics["srg-crossed", name])


def test_only_the_diagonal_is_framed():
    for axes in matrices(cross_maps(table(), NOBODY, METHODS)):
        frames = [box for box in axes.patches if not box.get_fill()]
        own = [boxes_of(axes, 3)[place, place] for place in range(3)]
        assert [box.get_bbox().bounds for box in frames] == [box.get_bbox().bounds for box in own]


def test_higher_numbers_are_darker_and_ink_stands_out():
    figure = cross_maps(table(), NOBODY, METHODS)
    for axes, quantity in zip(matrices(figure), QUANTITIES, strict=True):
        assert quantity.high in words(figure)
        boxes, cells = boxes_of(axes, 3), cells_of(axes, 3)
        number = {place: float(text.replace("−", "-")) for place, text in cells.items()}
        light = {place: lightness(boxes[place].get_facecolor()[:3]) for place in cells}
        order = sorted(cells, key=number.get)
        for one, other in itertools.pairwise(order):
            assert number[one] == number[other] or light[one] > light[other]
        for text in axes.texts:
            place = next(
                p for p, box in boxes.items() if box.get_bbox().contains(*text.get_position())
            )
            assert abs(lightness(text.get_color()) - light[place]) >= 40


def test_equal_numbers_have_one_shade_and_small_differences_not_the_whole_scale():
    tied = table().assign(accuracy=0.5)
    for axes, number in zip(
        matrices(cross_maps(tied, NOBODY, METHODS)), ("50.0", "0.0"), strict=True
    ):
        assert set(cells_of(axes, 3).values()) == {number}
        assert len({box.get_facecolor() for box in axes.patches if box.get_fill()}) == 1
    almost = tied.assign(accuracy=tied["accuracy"] + 0.001 * (tied["map_of"] == "sgt"))
    boxes = boxes_of(matrices(cross_maps(almost, NOBODY, METHODS))[0], 3)
    light = [lightness(box.get_facecolor()[:3]) for box in boxes.values()]
    assert 0 < max(light) - min(light) < 10


@pytest.mark.parametrize("more", [[], ["challenger"]])
def test_a_failed_method_is_crossed_out_in_row_and_column_and_its_reason_noted(more):
    """Of three methods two are left, which have no margins; of four the others have theirs."""
    methods = [*METHODS, *(MethodLabel(name, name.title()) for name in more)]
    left, n = [method for method in methods if method.name != "baseline"], len(methods)
    cross = table([method.name for method in left])
    failures = pandas.DataFrame(
        [
            ("digits", "resnet-small", "baseline", 50, s, "training", "Error", "why")
            for s in (0, 1, 2)
        ],
        columns=NOBODY.columns,
    )
    figure = cross_maps(cross, failures, methods)
    without = cross_maps(cross, NOBODY, left)
    kept = [place for place in range(n + 1) if place != 1]
    for axes, expected in zip(matrices(figure), matrices(without), strict=True):
        cells, boxes = cells_of(axes, n), boxes_of(axes, n)
        crossed = {place for place, text in cells.items() if text == "×"}
        assert crossed == {
            place for place in cells if 1 in place or (n in place and len(left) < FEWEST)
        }
        assert crossed == {place for place, box in boxes.items() if box.get_hatch()}
        for (row, column), text in cells_of(expected, n - 1).items():
            assert text == "–" or cells[kept[row], kept[column]] == text
    assert "× Baseline failed (stage training)" in words(figure)
    assert "×: nothing measured" in words(figure)


def test_a_cell_over_fewer_seeds_has_an_asterisk_and_a_missing_pair_is_noted():
    cross = table()
    lost = (cross["method"] == "sgt") & (cross["map_of"] == "baseline") & (cross["seed"] == 1)
    figure = cross_maps(cross[~lost], NOBODY, METHODS)
    for axes in matrices(figure):
        starred = {place for place, text in cells_of(axes, 3).items() if text.endswith("*")}
        assert starred == {(0, 1)}
    value = numpy.mean([area(cross, "sgt", "baseline", "most", seed) for seed in (0, 2)])
    assert cells_of(matrices(figure)[0], 3)[0, 1] == f"{value:.1f}*"
    assert "*: some seeds are missing" in words(figure)
    assert (
        "× Saliency Guided Training lacks whole curves on digits · resnet-small (train size 50, "
        "seed 1) by the map of Baseline"
    ) in words(figure)
    assert "*" not in words(cross_maps(cross, NOBODY, METHODS))


@pytest.mark.parametrize("how", ["nan", "infinite", "without its row"])
def test_a_curve_that_is_not_whole_counts_as_missing(how):
    cross = table(seeds=(0,))
    broken = (cross["method"] == "baseline") & (cross["map_of"] == "sgt")
    broken &= (cross["first"] == "least") & (cross["fraction"] == 0.5)
    if how == "without its row":
        cross = cross[~broken]
    else:
        cross["accuracy"] = cross["accuracy"].mask(broken, float("nan" if how == "nan" else "inf"))
    figure = cross_maps(cross, NOBODY, METHODS)
    most, gain = (cells_of(axes, 3) for axes in matrices(figure))
    assert most[1, 0] == shown(area(cross, "baseline", "sgt", "most", 0))
    missing = {place for place, text in gain.items() if text == "×"}
    assert missing == {(1, 0), *((k, 3) for k in range(3)), *((3, k) for k in range(3))}
    assert "×" not in most.values()
    assert "× Baseline lacks whole curves" in words(figure)


def test_curves_of_one_fraction_have_no_area():
    cross = table()
    figure = cross_maps(cross[cross["fraction"] == 0.2], NOBODY, METHODS)
    assert {text for axes in matrices(figure) for text in cells_of(axes, 3).values()} == {"×"}


def test_one_method_alone_has_no_margins_and_one_seed_suffices():
    cross = table(["sgt/swapped"], seeds=(7,))
    most, gain = matrices(cross_maps(cross, NOBODY, METHODS[2:]))
    low = area(cross, "sgt/swapped", "sgt/swapped", "most", 7)
    high = area(cross, "sgt/swapped", "sgt/swapped", "least", 7)
    assert cells_of(most, 1) == {(0, 0): shown(low), (0, 1): "–", (1, 0): "–"}
    assert cells_of(gain, 1) == {(0, 0): shown(high - low), (0, 1): "–", (1, 0): "–"}


def test_methods_that_were_not_crossed_are_left_out_and_two_have_no_margins():
    figure = cross_maps(table(["baseline", "sgt"]), NOBODY, METHODS)
    for axes in matrices(figure):
        cells = cells_of(axes, 2)
        assert {place for place, text in cells.items() if text == "–"} == {
            *((0, 2), (1, 2), (2, 0), (2, 1))
        }
        assert len(cells) == 2 * 2 + 4
    assert "×" not in words(figure)
    assert "Swapped" not in words(figure)


def test_rows_and_columns_stand_in_the_order_of_the_methods():
    cross = table()
    forward, backward = (
        cells_of(matrices(cross_maps(cross, NOBODY, methods))[0], 3)
        for methods in (METHODS, METHODS[::-1])
    )
    turn = {0: 2, 1: 1, 2: 0, 3: 3}
    assert backward == {(turn[row], turn[column]): text for (row, column), text in forward.items()}


def test_train_sizes_have_matrices_of_their_own_the_smallest_first():
    cross = table(sizes=(200, 50))
    found = [cells_of(axes, 3)[0, 1] for axes in matrices(cross_maps(cross, NOBODY, METHODS))[::2]]
    assert found == [
        shown(
            numpy.mean(
                [
                    area(cross[cross["train_size"] == size], "sgt", "baseline", "most", seed)
                    for seed in (0, 1, 2)
                ]
            )
        )
        for size in (50, 200)
    ]


def test_wide_matrices_are_stacked_and_long_names_are_told_in_full_below():
    methods = [
        MethodLabel(f"m/{k}", f"A method with a long name, number {k} " * 3) for k in range(9)
    ]
    cross = table([method.name for method in methods], seeds=(0,))
    figure = cross_maps(cross, NOBODY, methods)
    most, gain = (axes.get_position() for axes in matrices(figure))
    assert gain.y1 < most.y0
    legend = [text.get_text().replace("\n", " ") for text in figure.legends[0].texts]
    assert legend == [method.label.strip() for method in methods]


def test_matrix_of_seeds_agrees_with_loops():
    cube = numpy.random.default_rng(0).normal(size=(4, 3, 3))
    cube[1, 0, 2] = numpy.nan
    matrix = matrix_of(cube)
    assert matrix.is_whole.tolist() == [[True, True, False], [True] * 3, [True] * 3]
    assert matrix.cells[0, 2] == pytest.approx(cube[[0, 2, 3], 0, 2].mean())
    assert matrix.cells[1, 2] == pytest.approx(cube[:, 1, 2].mean())
    rows, columns = fitted(matrix.cells)
    assert matrix.rows == pytest.approx(rows)
    assert matrix.columns == pytest.approx(columns)


def test_without_one_pair_there_are_no_effects():
    cube = numpy.random.default_rng(0).normal(size=(4, 4, 4))
    cube[:, 2, 1] = numpy.nan
    matrix = matrix_of(cube)
    assert numpy.isnan(matrix.cells).sum() == 1
    assert numpy.isnan([*matrix.rows, *matrix.columns]).all()


def test_methods_of_which_there_is_nothing_take_no_part_in_the_effects():
    cube = numpy.random.default_rng(0).normal(size=(2, 5, 5))
    cube[:, 1] = cube[:, :, 1] = numpy.nan
    matrix, there = matrix_of(cube), [0, 2, 3, 4]
    rows, columns = fitted(matrix.cells[numpy.ix_(there, there)])
    assert matrix.rows[there] == pytest.approx(rows)
    assert matrix.columns[there] == pytest.approx(columns)
    assert numpy.isnan([matrix.rows[1], matrix.columns[1]]).all()


def test_an_empty_table_says_how_to_ask_for_it():
    for cross in (table().iloc[:0], table().assign(accuracy=numpy.nan)):
        figure = cross_maps(cross, NOBODY, METHODS)
        assert figure.axes == []
        assert "evaluation.crossed: [...]" in words(figure)


def test_the_same_tables_give_the_same_bytes_in_any_order_of_their_rows(tmp_path):
    NOBODY.to_csv(tmp_path / "failures.csv", index=False)
    drawn = []
    for number, cross in enumerate([table(), table().sort_values(["seed", "fraction"])]):
        cross.to_csv(tmp_path / "cross.csv", index=False)
        place = tmp_path / str(number)
        drawn.append(draw("cross-maps", tmp_path, place, METHODS, formats=["svg"])[0])
    assert drawn[0].read_bytes() == drawn[1].read_bytes()
