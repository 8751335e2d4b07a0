"""The table of tests of a whole experiment."""

import io
import itertools

import numpy as np
import pandas as pd
import pytest

from attrreg.statistics import compare, compare_all

METHODS = ["baseline", "random-erasing", "reldrop-block", "reldrop-block/swapped"]
METRICS = ["accuracy", "nll"]
CONTROLS = [("reldrop-block", "reldrop-block/swapped")]


@pytest.fixture
def metrics():
    generator = np.random.default_rng(0)
    runs = itertools.product(["digits"], ["resnet"], METHODS, [50, 200, 1000], range(4), METRICS)
    columns = ["dataset", "model", "method", "train_size", "seed", "metric"]
    table = pd.DataFrame(list(runs), columns=columns)
    return table.assign(value=generator.uniform(0.2, 0.9, len(table)))


def test_every_comparison_stands_once(metrics):
    result = compare_all(metrics, ["baseline", "random-erasing"], METRICS, CONTROLS)
    keys = result[["reference", "method", "metric", "train_size"]]
    assert not keys.duplicated().any()
    assert len(result) == len(METRICS) * 4 * (3 + 3 + 1)
    assert list(result["train_size"].unique()) == ["all", "50", "200", "1000"]
    assert list(result.columns[:4]) == list(keys.columns)


def test_rows_are_those_of_compare(metrics):
    result = compare_all(metrics, ["baseline"], METRICS, CONTROLS)
    for size, part in (("all", metrics), ("200", metrics[metrics["train_size"] == 200])):
        rows = result[(result["train_size"] == size) & (result["metric"] == "nll")]
        expected = compare(part, "nll", "baseline")
        found = rows[rows["reference"] == "baseline"].reset_index(drop=True)
        pd.testing.assert_frame_equal(found[expected.columns], expected)
        control = rows[rows["reference"] == "reldrop-block/swapped"].iloc[0]
        assert control["method"] == "reldrop-block"
        assert control["p_corrected"] == control["p"]


def test_a_control_that_is_a_reference_is_not_repeated(metrics):
    result = compare_all(metrics, ["reldrop-block/swapped"], ["accuracy"], CONTROLS)
    assert len(result) == 4 * 3


def test_deterministic_and_independent_of_row_order(metrics):
    result = compare_all(metrics, ["baseline"], METRICS, CONTROLS)
    shuffled = compare_all(metrics.sample(frac=1, random_state=1), ["baseline"], METRICS, CONTROLS)
    pd.testing.assert_frame_equal(result, shuffled)


def test_survives_a_round_trip_through_csv(metrics):
    result = compare_all(metrics, ["baseline"], ["accuracy"], CONTROLS)
    read = pd.read_csv(io.StringIO(result.to_csv(index=False)), keep_default_na=True)
    assert list(read["train_size"].unique()) == ["all", "50", "200", "1000"]
    np.testing.assert_array_equal(read["p"], result["p"])


def test_without_single_train_sizes(metrics):
    result = compare_all(metrics, ["baseline"], ["accuracy"], by_train_size=False)
    assert set(result["train_size"]) == {"all"}


def test_margins_and_directions_go_by_metric(metrics):
    metrics = metrics.replace({"metric": {"nll": "own"}})
    result = compare_all(
        metrics,
        ["baseline"],
        ["accuracy", "own"],
        by_train_size=False,
        equivalence_margins={"own": 10.0},
        higher_is_better={"own": True},
    )
    equivalent = result["verdict"] == "equivalent"
    assert (equivalent == (result["metric"] == "own")).all()


def test_scales_floors_and_margins_go_by_metric(metrics):
    result = compare_all(
        metrics,
        ["baseline"],
        ["accuracy", "nll", "error"],
        by_train_size=False,
        scales={"nll": "log-ratio", "error": "log-ratio"},
        floors={"error": 0.001},
        noninferiority_margins={"nll": 0.1},
    )
    options = {"scale": "log-ratio", "methods": METHODS}
    for metric, own in (("nll", {"noninferiority_margin": 0.1}), ("error", {"floor": 0.001})):
        expected = compare(metrics, metric, "baseline", **options, **own)
        found = result[result["metric"] == metric].reset_index(drop=True)
        pd.testing.assert_frame_equal(found[expected.columns], expected)
    assert set(result.loc[result["metric"] == "accuracy", "scale"]) == {"difference"}


def test_error_rates_have_the_train_sizes_of_their_accuracy(metrics):
    result = compare_all(metrics, ["baseline"], ["error"])
    assert list(result["train_size"].unique()) == ["all", "50", "200", "1000"]


def test_failed_methods_keep_their_rows(metrics):
    left = metrics[~metrics["method"].isin(["baseline", "reldrop-block/swapped"])]
    result = compare_all(left, ["baseline"], METRICS, CONTROLS, methods=METHODS)
    assert len(result) == len(METRICS) * 4 * (3 + 1)
    assert set(result["verdict"]) == {"undecided"}


def test_nothing_has_run(metrics):
    header = metrics.iloc[:0].to_csv(index=False)
    empty = pd.read_csv(io.StringIO(header))
    result = compare_all(empty, ["baseline"], METRICS, CONTROLS, methods=METHODS)
    assert len(result) == len(METRICS) * (3 + 1)
    assert (result["n_clusters"] == 0).all()
    nothing = compare_all(empty, [], METRICS)
    assert list(nothing.columns) == list(result.columns)
    assert nothing.empty


def test_unknown_names(metrics):
    with pytest.raises(ValueError, match=r"unknown method 'bseline'.*'baseline'\?"):
        compare_all(metrics, ["bseline"], METRICS)
    with pytest.raises(ValueError, match=r"unknown method 'reldrop-block/swaped'"):
        compare_all(metrics, ["baseline"], METRICS, [("reldrop-block", "reldrop-block/swaped")])
    with pytest.raises(ValueError, match=r"unknown metric 'nl'.*'nll'\?"):
        compare_all(metrics, ["baseline"], ["nl"])


def test_methods_that_cannot_have_a_metric_are_left_out_of_it_and_of_nothing_else(metrics):
    able = ["baseline", "reldrop-block", "reldrop-block/swapped"]
    rest = metrics[(metrics.metric == "accuracy") | metrics.method.isin(able)]
    references = ["baseline", "random-erasing"]
    result = compare_all(rest, references, METRICS, CONTROLS, taking_part={"nll": able})
    whole = compare_all(metrics, references, METRICS, CONTROLS)
    of_all = whole[whole.metric == "accuracy"].reset_index(drop=True)
    pd.testing.assert_frame_equal(result[result.metric == "accuracy"], of_all)
    found = result[result.metric == "nll"]
    assert set(found.reference) == {"baseline", "reldrop-block/swapped"}
    assert set(found.method) == {"reldrop-block", "reldrop-block/swapped"}
    assert (found.n_missing == 0).all()
    # the family is smaller by the method that cannot have it
    alone = compare_all(rest[rest.method.isin(able)], ["baseline"], ["nll"], methods=able)
    ours = found[found.reference == "baseline"].reset_index(drop=True)
    pd.testing.assert_frame_equal(ours, alone)


def test_a_metric_that_only_one_method_can_have_is_not_compared(metrics):
    result = compare_all(metrics, ["baseline"], METRICS, taking_part={"nll": ["baseline"]})
    assert set(result.metric) == {"accuracy"}
