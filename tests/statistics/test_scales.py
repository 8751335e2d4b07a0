"""Ratios, floors, and metrics without a logarithm."""

import math

import numpy as np
import pandas as pd
import pytest
from tidy import table

from attrreg.statistics import compare

ERRORS = {"baseline": [0.4, 0.1, 0.2, 0.04], "ours": [0.3, 0.1, 0.1, 0.02]}


def error_table(values=ERRORS):
    """Make a table of accuracies with two seeds and two train sizes."""
    return table({name: 1 - np.array(each) for name, each in values.items()}, sizes=(50, 800))


def test_the_ratio_is_taken_in_every_cell_and_averaged_in_its_logarithm():
    row = compare(error_table(), "error", "baseline", scale="log-ratio").iloc[0]
    logs = np.log([[0.3 / 0.4, 1.0], [0.1 / 0.2, 0.02 / 0.04]])
    assert row["difference"] == pytest.approx(logs.mean())
    assert row["percent"] == pytest.approx(100 * (math.exp(logs.mean()) - 1))
    assert (row["scale"], row["metric"], row["n_clusters"]) == ("log-ratio", "error", 2)


def test_cells_weigh_equally_whatever_their_level():
    # Half the error is half the error, from 40 % as from 2 %.
    halved = {"baseline": [0.4, 0.02], "ours": [0.2, 0.02]}
    other = {"baseline": [0.4, 0.02], "ours": [0.4, 0.01]}
    found = [
        compare(error_table(each), "error", "baseline", scale="log-ratio").iloc[0]["difference"]
        for each in (halved, other)
    ]
    assert found[0] == pytest.approx(found[1]) == pytest.approx(math.log(0.5) / 2)


def test_a_lower_error_is_better_and_the_scale_of_values_cancels():
    values = {"baseline": np.linspace(1, 2, 7), "ours": np.linspace(1, 2, 7) * 0.9}
    row = compare(table(values, "nll"), "nll", "baseline", scale="log-ratio").iloc[0]
    assert row["verdict"] == "better"
    assert row["percent"] == pytest.approx(-10)
    times = {name: 7 * each for name, each in values.items()}
    scaled = compare(table(times, "nll"), "nll", "baseline", scale="log-ratio").iloc[0]
    assert scaled["difference"] == pytest.approx(row["difference"])


def test_percent_belongs_to_ratios():
    assert math.isnan(compare(error_table(), "error", "baseline").iloc[0]["percent"])


def test_error_is_one_minus_accuracy_unless_the_table_has_its_own():
    by_accuracy = compare(error_table(), "accuracy", "baseline").iloc[0]
    by_error = compare(error_table(), "error", "baseline").iloc[0]
    assert by_error["difference"] == pytest.approx(-by_accuracy["difference"])
    assert by_error["verdict"] == by_accuracy["verdict"]
    own = pd.concat([error_table(), table({"baseline": [0.5], "ours": [0.9]}, "error")])
    assert compare(own, "error", "baseline").iloc[0]["difference"] == pytest.approx(0.4)


def test_no_error_at_all_counts_as_half_a_sample():
    without = {"baseline": [0.1, 0.2, 0.1, 0.1], "ours": [0.0, 0.2, 0.1, 0.1]}
    row = compare(error_table(without), "error", "baseline", scale="log-ratio", floor=0.005)
    assert row["difference"][0] == pytest.approx(math.log(0.005 / 0.1) / 4)


def test_values_above_the_floor_stay():
    plain = compare(error_table(), "error", "baseline", scale="log-ratio")
    floored = compare(error_table(), "error", "baseline", scale="log-ratio", floor=0.01)
    pd.testing.assert_frame_equal(plain, floored)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"scale": "log-ratio"},
            r"1 values without a logarithm.*digits/resnet/ours/n50/s0: .*half",
        ),
        ({"scale": "ratio"}, r"unknown scale 'ratio': known are .*'log-ratio'\?"),
        ({"floor": 0.01}, r"floor is 0.01 for metric 'error' on the scale 'difference'"),
        ({"scale": "log-ratio", "floor": 0.0}, r"floor is 0.0 .*above 0"),
    ],
)
def test_what_has_no_ratio_is_refused(options, message):
    values = {"baseline": [0.1, 0.2], "ours": [0.0, 0.2]}
    with pytest.raises(ValueError, match=message):
        compare(error_table(values), "error", "baseline", **options)


def test_a_floor_does_not_hide_values_below_zero():
    metrics = table({"baseline": [0.1, 0.2], "ours": [-0.1, 0.2]}, "nll")
    with pytest.raises(ValueError, match=r"-0.1 of .*at least 0 are allowed"):
        compare(metrics, "nll", "baseline", scale="log-ratio", floor=0.01)


@pytest.mark.parametrize("gap", [np.nan, np.inf])
def test_gaps_are_missing_on_every_scale(gap):
    metrics = table({"baseline": [0.1, 0.2, 0.3], "ours": [0.1, gap, 0.2]}, "nll")
    row = compare(metrics, "nll", "baseline", scale="log-ratio").iloc[0]
    assert (row["n_clusters"], row["missing"]) == (2, "digits/resnet/ours/n50/s1")
