"""What the figures compute: intervals, bins, gaps, directions, scaling."""

from typing import get_args

import numpy
import pandas
import pytest
import scipy.stats
from matplotlib.text import Text
from synthetic import METHODS, METRICS, make_tables

from attrreg.figures.by_train_size import accuracy_by_train_size, ece_by_train_size, t_interval
from attrreg.figures.curves import in_bands
from attrreg.figures.differences import differences
from attrreg.figures.faithfulness import faithfulness
from attrreg.figures.gallery import displayable, symmetric
from attrreg.figures.gaps import failure_notes, find_gaps
from attrreg.figures.labels import metric_label, order_label, sorted_orders
from attrreg.figures.occlusion import occlusion
from attrreg.figures.page import text_width, wrap
from attrreg.figures.reliability import calibration_errors, pooled_bins, reliability
from attrreg.protocol import Evaluation, Measure, Order


def words(artist):
    return [text.get_text() for text in artist.findobj(Text)]


def test_interval_is_students():
    values = numpy.random.default_rng(0).normal(80, 2, 5)
    expected = scipy.stats.t.interval(0.95, 4, values.mean(), scipy.stats.sem(values))
    assert t_interval(values) == pytest.approx(expected)
    assert t_interval(values[:1]) == (values[0], values[0])


def test_calibration_errors_equal_the_metric(tables):
    bins, metrics = tables["reliability.csv"], tables["metrics.csv"]
    bins = bins[~bins["scaled"] & (bins["count"] > 0)]
    here = (bins["method"] == "baseline") & (bins["train_size"] == 50)
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


def titles_of(figure):
    """Return the panels of a figure by their titles, on one line each."""
    return {axes.get_title(loc="left").replace("\n", " "): axes for axes in figure.axes}


def title_of(metric):
    label = metric_label(metric)
    return f"{label.text} ({label.unit})"


def test_direction_of_every_metric_is_labelled(tables):
    figure = differences(tables["tests.csv"], tables["failures.csv"], METHODS)
    panels = titles_of(figure)
    assert list(panels) == [title_of(metric) for metric in METRICS]
    for metric in METRICS:
        higher = metric == "accuracy" or metric.startswith("occlusion")
        ends = ("← worse", "better →") if higher else ("← better", "worse →")
        assert metric_label(metric).ends == ends
        assert set(ends) <= set(words(panels[title_of(metric)]))


def test_every_metric_has_a_label_of_its_own_and_a_direction_where_one_is_better():
    everything = Evaluation(orders=get_args(Order), beside=("mean",), measures=get_args(Measure))
    labels = {name: metric_label(name) for name in everything.metrics() if name != "temperature"}
    assert len({label.text for label in labels.values()}) == len(labels)
    neither = {name for name, label in labels.items() if label.higher_is_better is None}
    described = {"accuracy-drop-random", "leak-image"}
    assert described <= neither
    assert {name.split("-")[0] for name in neither - described} <= {"ece", "mce", "sparseness"}
    tested = everything.tested()
    assert not neither & set(tested)
    assert all(labels[name].unit for name in tested)


def test_a_metric_that_nobody_knows_is_drawn_with_its_words(tables):
    tests = tables["tests.csv"]
    other = tests[tests["metric"] == "ece"].assign(metric="bits_per-pixel")
    figure = differences(other, tables["failures.csv"], METHODS)
    panel = titles_of(figure)["bits per pixel"]
    assert {"← lower", "higher →"} <= set(words(panel))
    points = {line.get_xdata()[0] for line in panel.lines if line.get_marker() == "v"}
    assert points <= set(other["difference"])
    assert points


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
    axes = titles_of(figure)[title_of("ece")]
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


def test_every_order_has_a_name_and_orders_stand_in_one_sequence():
    orders = get_args(Order)
    assert not {order_label(order) for order in orders} & set(orders)
    assert sorted_orders(orders[::-1]) == sorted_orders(orders)
    assert sorted_orders(["mine", *orders])[-1] == "mine"
    assert order_label("my-order") == "my order"


def test_several_fills_get_panels_of_their_own_the_first_of_the_table_first():
    tables = make_tables(failed=())
    curves = pandas.concat(
        [tables["curves.csv"], tables["curves.csv"].assign(fill="blur", accuracy=0.5)]
    )
    figure = occlusion(curves, tables["failures.csv"], METHODS)
    fills = [title.partition("fill: ")[2] for title in map(panel_title, figure.axes)]
    assert fills == 2 * (6 * ["channel mean"] + 6 * ["blur"])


def panel_title(axes):
    return axes.get_title(loc="left").replace("\n", " ")


def test_maps_are_explained_where_they_are_used(tables):
    curves = tables["curves.csv"]
    about = {"Own map:": "most-relevant-first", "Neutral map:": "neutral-most-relevant-first"}
    for shown in about.values():
        only = curves[curves["order"].isin(["random-pixels", shown])]
        text = " ".join(words(occlusion(only, tables["failures.csv"], METHODS)))
        assert [order for key, order in about.items() if key in text] == [shown]


def test_bands_lose_no_panel_and_break_no_group_that_fits():
    for sizes in ([1], [3], [5, 5], [2, 2, 2], [7], [4, 4], []):
        groups = [[f"{n} {place}" for place in range(size)] for n, size in enumerate(sizes)]
        bands = in_bands(groups)
        assert [name for band in bands for name in band] == [name for g in groups for name in g]
        assert all(0 < len(band) <= 4 for band in bands)
        for group in groups:
            homes = [band for band in bands if set(group) & set(band)]
            assert len(homes) == -(-len(group) // 4)


def test_reliability_stands_before_and_after_scaling(tables):
    bins, failures = tables["reliability.csv"], tables["failures.csv"]
    both = reliability(bins, failures, METHODS[:1])
    assert [w.split("\n")[0] for w in words(both) if w.endswith("accuracy (%)")] == 2 * [
        "before scaling",
        "after scaling",
    ]
    shown = [word for word in words(both) if word.startswith("ECE ")]
    here = bins[(bins["method"] == "baseline") & (bins["count"] > 0)]
    expected = [
        f"ECE {100 * calibration_errors(part).mean():.1f} %"
        for _, part in here.groupby(["train_size", "scaled"], sort=True)
    ]
    assert shown == expected


def test_a_table_that_knows_no_scaling_is_drawn_as_before_it(tables):
    bins, failures = tables["reliability.csv"], tables["failures.csv"]
    old = bins[~bins["scaled"]].drop(columns="scaled")
    figure = reliability(old, failures, METHODS)
    assert not any("scaling" in word for word in words(figure))
    unscaled = reliability(bins[~bins["scaled"]], failures, METHODS)
    assert words(figure) == words(unscaled)


def test_what_chance_alone_shows_is_a_dash_at_its_mean(tables):
    metrics, failures = tables["metrics.csv"], tables["failures.csv"]
    figure = ece_by_train_size(metrics, failures, METHODS)
    dashes = [line for line in figure.axes[0].lines if line.get_marker() == "_"]
    chance = metrics[metrics["metric"] == "ece-expected"]
    expected = 100 * chance.groupby(["method", "train_size"])["value"].mean()
    assert sorted(line.get_ydata()[0] for line in dashes) == pytest.approx(sorted(expected))
    low, high = figure.axes[0].get_ylim()
    assert all(low <= line.get_ydata()[0] <= high for line in dashes)
    assert any("what chance alone shows" in word.replace("\n", " ") for word in words(figure))
    old = ece_by_train_size(metrics[metrics["metric"] == "ece"], failures, METHODS)
    assert not any("chance" in word for word in words(old))


def test_faithfulness_is_the_mean_over_the_seeds_under_the_first_fill(tables):
    curves, failures = tables["faithfulness.csv"], tables["failures.csv"]
    figure = faithfulness(curves, failures, METHODS)
    assert [panel_title(axes) for axes in figure.axes[:4]] == [
        f"{name} {first} relevant first"
        for name in ("gradient", "lrp-0")
        for first in ("most", "least")
    ]
    first = curves[(curves["method"] == "baseline") & (curves["train_size"] == 50)]
    first = first[(first["fill"] == "blur") & (first["map"] == "gradient")]
    for axes, which in zip(figure.axes, ("most", "least"), strict=False):
        expected = 100 * first[first["first"] == which].groupby("fraction")["accuracy"].mean()
        line = next(line for line in axes.lines if line.get_marker() == "o")
        assert line.get_ydata() == pytest.approx(expected.to_numpy())


def test_faithfulness_that_is_not_measured_says_where_to_ask_for_it(tables):
    figure = faithfulness(tables["faithfulness.csv"].iloc[:0], tables["failures.csv"], METHODS)
    text = " ".join(words(figure)).replace("\n", " ")
    assert figure.axes == []
    assert "evaluation.measures names faithfulness" in text
    assert "× Saliency Guided Training failed" in text
    assert "is missing" not in text
