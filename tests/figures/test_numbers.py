"""What the figures compute: intervals, bins, gaps, directions, scaling."""

import numpy
import pandas
import pytest
import scipy.stats
from matplotlib.text import Text
from synthetic import METHODS, make_tables

from attrreg.figures.by_train_size import accuracy_by_train_size, t_interval
from attrreg.figures.differences import METRICS, differences
from attrreg.figures.gallery import displayable, symmetric
from attrreg.figures.gaps import failure_notes, find_gaps
from attrreg.figures.page import text_width, wrap
from attrreg.figures.reliability import calibration_errors, pooled_bins


def words(artist):
    return [text.get_text() for text in artist.findobj(Text)]


def test_interval_is_students():
    values = numpy.random.default_rng(0).normal(80, 2, 5)
    expected = scipy.stats.t.interval(0.95, 4, values.mean(), scipy.stats.sem(values))
    assert t_interval(values) == pytest.approx(expected)
    assert t_interval(values[:1]) == (values[0], values[0])


def test_calibration_errors_equal_the_metric(tables):
    bins, metrics = tables["reliability.csv"], tables["metrics.csv"]
    here = (bins["method"] == "baseline") & (bins["train_size"] == 50) & (bins["count"] > 0)
    ece = metrics[(metrics["metric"] == "ece") & (metrics["method"] == "baseline")]
    expected = ece[ece["train_size"] == 50].sort_values("seed")["value"]
    assert calibration_errors(bins[here]) == pytest.approx(expected.to_numpy())


def test_pooled_bins_equal_those_of_all_samples_together():
    edges = {"low": [0.0, 0.5], "high": [0.5, 1.0]}
    one = pandas.DataFrame(
        {"seed": 0, "bin": [0, 1], "count": [1, 3], "confidence": [0.4, 0.9]} | edges
    ).assign(accuracy=[1.0, 2 / 3])
    other = pandas.DataFrame(
        {"seed": 1, "bin": [1], "count": [1], "confidence": [0.5], "accuracy": [0.0]}
        | {"low": [0.5], "high": [1.0]}
    )
    pooled = pooled_bins(pandas.concat([one, other]))
    assert pooled["confidence"].tolist() == pytest.approx([0.4, (3 * 0.9 + 0.5) / 4])
    assert pooled["accuracy"].tolist() == pytest.approx([1.0, 0.5])
    assert pooled["share"].tolist() == pytest.approx([0.2, 0.8])


def test_a_cell_without_runs_is_a_gap_and_a_single_failure_is_not(tables):
    metrics = tables["metrics.csv"]
    finished = metrics[metrics["metric"] == "accuracy"]
    gaps = find_gaps(finished, tables["failures.csv"], METHODS)
    assert [(gap.method, gap.train_size, gap.text) for gap in gaps] == [
        ("sgt", 50, "failed: 3 of 3 runs")
    ]
    notes = failure_notes(tables["failures.csv"], METHODS, finished)
    assert len(notes) == 2
    assert "train size 200, seed 1" in notes[1]


def test_a_run_that_is_neither_finished_nor_failed_is_noted(tables):
    metrics = tables["metrics.csv"]
    finished = metrics[(metrics["metric"] == "accuracy")]
    lost = (finished["method"] == "baseline") & (finished["train_size"] == 200)
    notes = failure_notes(tables["failures.csv"].iloc[:0], METHODS[:2], finished[~lost])
    assert len(notes) == 1
    assert "Baseline is missing" in notes[0]
    assert "seeds 0, 1, 2" in notes[0]
    gaps = find_gaps(finished[~lost], tables["failures.csv"].iloc[:0], METHODS[:2])
    assert [gap.text for gap in gaps] == ["no finished run"]


def test_gap_is_marked_in_the_colour_below_all_values(tables):
    figure = accuracy_by_train_size(tables["metrics.csv"], tables["failures.csv"], METHODS)
    axes = figure.axes[0]
    crosses = [line for line in axes.lines if line.get_marker() == "x"]
    colours = {line.get_color() for line in axes.lines if line.get_marker() == "D"}
    assert [line.get_color() for line in crosses] == list(colours)
    lowest = min(line.get_ydata().min() for line in axes.lines if line.get_marker() == ".")
    assert crosses[0].get_ydata()[0] < lowest
    assert 45 < crosses[0].get_xdata()[0] < 60


def test_ticks_stand_at_the_sizes(tables):
    figure = accuracy_by_train_size(tables["metrics.csv"], tables["failures.csv"], METHODS)
    ticks = figure.axes[0].get_xticks()
    assert ticks.tolist() == [50, 200]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["50", "200"]
    assert figure.axes[0].get_xscale() == "log"


def test_methods_do_not_hide_each_other(tables):
    figure = accuracy_by_train_size(tables["metrics.csv"], tables["failures.csv"], METHODS)
    means = [line for line in figure.axes[0].lines if line.get_marker() not in (".", "x", "None")]
    ends = [line.get_xdata()[-1] for line in means]
    assert len(set(ends)) == len(ends) == len(METHODS)


def test_direction_of_every_metric_is_labelled(tables):
    figure = differences(tables["tests.csv"], tables["failures.csv"], METHODS)
    panels = {axes.get_title(loc="left"): words(axes) for axes in figure.axes}
    assert len(panels) == len(METRICS)
    for metric in METRICS.values():
        ends = ("← worse", "better →") if metric.higher_is_better else ("← better", "worse →")
        assert set(ends) <= set(panels[metric.text])
        assert not {"← worse", "worse →"} <= set(panels[metric.text])
    assert not METRICS["nll"].higher_is_better
    assert not METRICS["ece"].higher_is_better


def test_guided_methods_are_compared_with_their_controls_in_a_block(tables):
    figure = differences(tables["tests.csv"], tables["failures.csv"], METHODS)
    labels = [text.get_text() for text in figure.texts]
    panels = -(-len(METRICS) // 2)
    assert labels.count("guided − control") == panels
    assert labels.count("RelDrop block −") == panels
    assert labels.count("n = 50") == panels * len(METHODS)


def test_a_control_may_be_a_reference_for_all(tables):
    tests = tables["tests.csv"]
    main = tests[(tests["reference"] == "baseline") & (tests["method"] == "random-erasing")]
    more = pandas.concat([tests, main.assign(reference="reldrop-block/swapped")])
    figure = differences(more, tables["failures.csv"], METHODS)
    labels = [text.get_text() for text in figure.texts]
    assert "method − RelDrop block, swapped map (control)" in labels
    assert "guided − control" in labels


def test_difference_stands_where_the_table_says(tables):
    tests = tables["tests.csv"]
    figure = differences(tests, tables["failures.csv"], METHODS)
    here = (tests["metric"] == "ece") & (tests["method"] == "challenger")
    row = tests[here & (tests["reference"] == "baseline") & (tests["train_size"] == "all")].iloc[0]
    axes = next(a for a in figure.axes if a.get_title(loc="left") == METRICS["ece"].text)
    points = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "v"]
    assert 100 * row["difference"] in points


def test_reasons_are_lettered_once_and_without_what_concerns_one_row(tables):
    figure = differences(tables["tests.csv"], tables["failures.csv"], METHODS)
    notes = [text.get_text() for text in figure.texts if text.get_text().startswith("(a)")]
    assert notes == ["(a) 3 clusters: no p below 0.25"]
    shown = [word for axes in figure.axes for word in words(axes)]
    assert "undecided (a)" in shown
    assert "better" in shown
    tests = tables["tests.csv"]
    own = tests.assign(reason=[f"p = {number}" for number in range(len(tests))])
    figure = differences(own, tables["failures.csv"], METHODS)
    assert not [text for text in figure.texts if text.get_text().startswith("(a)")]


def test_relevance_is_scaled_about_zero_per_image():
    maps = numpy.array([[[1.0, -4.0]], [[0.0, 0.0]], [[2.0, numpy.nan]]])
    scaled = symmetric(maps)
    assert scaled[0].tolist() == [[0.25, -1.0]]
    assert scaled[1].tolist() == [[0.0, 0.0]]
    assert scaled[2, 0, 0] == 1.0
    assert scaled.mask[2, 0, 1]


def test_images_of_any_channels_can_be_shown():
    generator = numpy.random.default_rng(0)
    grey = generator.random((2, 1, 4, 5)).astype("float32")
    colour = generator.random((2, 3, 4, 5)).astype("float32")
    assert displayable(grey).shape == (2, 4, 5, 3)
    assert numpy.allclose(displayable(grey)[..., 2], grey[:, 0])
    assert numpy.allclose(displayable(colour)[1, :, :, 1], colour[1, 1])
    many = displayable(generator.random((2, 7, 4, 5)) * 9 - 4)
    assert many.min() >= 0
    assert many.max() <= 1


@pytest.mark.parametrize("text", ["one two three four five", "Unbreakable" * 9, "", "a $x$ _b_"])
def test_wrapped_lines_fit_and_lose_nothing(text):
    lines = wrap(text, 0.8, 8)
    assert all(text_width(line, 8) <= 0.8 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_figures_take_the_methods_asked_for(tables):
    figure = accuracy_by_train_size(tables["metrics.csv"], tables["failures.csv"], METHODS[:2])
    assert len(figure.legends[0].texts) == 2
    assert not any("failed" in text for text in words(figure))


def test_several_fills_get_columns_of_their_own():
    from attrreg.figures.occlusion import occlusion

    tables = make_tables(failed=())
    curves = pandas.concat(
        [tables["curves.csv"], tables["curves.csv"].assign(fill="zero", accuracy=0.5)]
    )
    figure = occlusion(curves, tables["failures.csv"], METHODS)
    assert len(figure.axes) == 2 * 6
