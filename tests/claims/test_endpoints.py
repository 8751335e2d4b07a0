"""From metrics to effects: scales, slopes, cells, and what must be equal."""

import numpy as np
import pandas as pd
import pytest
from claim_tables import LOG_ERROR, rows, table

from attrreg.claims.endpoints import Yardstick, effects, matching, values_of, within
from attrreg.claims.specification import Cells, Endpoint

SIZES = {"digits": 1000, "mnist": 100}
PERCENT = "percent"


def made(endpoint, metrics, method="challenger", reference="baseline"):
    """Return the effects of an endpoint in a table of one metric, or of two for a gap."""
    endpoint = Endpoint.model_validate(endpoint)
    values = values_of(endpoint, endpoint.metric, metrics, SIZES)
    return effects(endpoint, values, method, reference, metrics)


def test_a_lower_error_rate_is_shown_as_the_share_that_is_gone():
    found = made(LOG_ERROR, rows({"baseline": [0.8, 0.6], "challenger": [0.85, 0.7]}))
    yardstick = Yardstick.of(Endpoint.model_validate(LOG_ERROR), PERCENT)
    shown = [yardstick.shown(each) for each in found.clusters]
    np.testing.assert_allclose(shown, [25.0, 25.0])


@pytest.mark.parametrize("direction", ["higher", "lower"])
def test_a_ratio_is_shown_as_the_percentage_in_the_direction_of_the_claim(direction):
    endpoint = {"metric": "nll", "scale": "log-ratio", "direction": direction}
    found = made(endpoint, rows({"baseline": [2.0], "challenger": [2.1]}, metric="nll"))
    shown = Yardstick.of(Endpoint.model_validate(endpoint), PERCENT).shown(found.clusters[0])
    assert shown == pytest.approx(5.0 if direction == "higher" else -5.0)


@pytest.mark.parametrize("unit", ["percent", "points", "absolute"])
@pytest.mark.parametrize("is_ratio", [True, False])
@pytest.mark.parametrize("higher", [True, False])
def test_what_is_shown_turns_back_into_the_effect(unit, is_ratio, higher):
    yardstick = Yardstick(is_ratio, higher, unit)
    for effect in (-0.7, -0.01, 0.0, 0.02, 0.6):
        assert yardstick.effect(yardstick.shown(effect)) == pytest.approx(effect)
    shown = [yardstick.shown(each) for each in (-np.inf, -1.0, 0.0, 1.0, np.inf)]
    assert shown == sorted(shown)


def test_cells_with_small_and_with_large_errors_weigh_alike():
    easy = rows({"baseline": [0.98], "challenger": [0.99]}, size=500)
    hard = rows({"baseline": [0.2], "challenger": [0.2]}, size=50)
    found = made(LOG_ERROR, pd.concat([easy, hard]))
    np.testing.assert_allclose(found.clusters, [np.log(2) / 2])


def test_no_error_at_all_counts_as_half_a_sample_of_the_dataset():
    metrics = [
        rows({"baseline": [0.9], "challenger": [1.0]}, dataset=name) for name in ("digits", "mnist")
    ]
    found = made(LOG_ERROR, pd.concat(metrics))
    np.testing.assert_allclose(found.clusters, np.log([0.1 / 0.0005, 0.1 / 0.005]))


def test_an_accuracy_in_percent_is_refused():
    with pytest.raises(
        ValueError, match=r"'accuracy' must be a share from 0 to 1, found 90 for dig"
    ):
        made(LOG_ERROR, rows({"baseline": [90.0], "challenger": [0.9]}))


def test_the_slope_of_the_log_error_ratio_is_recovered():
    slope = {**LOG_ERROR, "scale": "log-error-slope", "direction": "higher"}
    sizes = (50, 100, 400, 1600)
    ratio = 0.7 * (np.array(sizes) / 50) ** 0.08  # of errors, nearer to 1 with every sample
    parts = [
        rows({"baseline": [0.8, 0.7], "challenger": [1 - 0.2 * r, 1 - 0.3 * r]}, size=size)
        for size, r in zip(sizes, ratio, strict=True)
    ]
    found = made(slope, pd.concat(parts))
    np.testing.assert_allclose(found.clusters, 0.08 * np.log(10) * np.ones(2))


def test_the_slope_is_that_of_least_squares():
    slope = {**LOG_ERROR, "scale": "log-error-slope", "direction": "higher"}
    metrics = table({"baseline": 0, "challenger": 0.1}, clusters=3, noise=0.3, sizes=(50, 90, 700))
    found = made(slope, metrics)
    errors = np.log(1 - metrics.pivot_table("value", "train_size", ["seed", "method"]))
    x = np.log10([50, 90, 700])
    for seed in range(3):
        difference = errors[seed]["challenger"] - errors[seed]["baseline"]
        assert found.clusters[seed] == pytest.approx(np.polyfit(x, difference, 1)[0])


def test_a_slope_needs_every_size_of_its_run():
    slope = {**LOG_ERROR, "scale": "log-error-slope", "direction": "higher"}
    metrics = table({"baseline": 0, "challenger": 0}, clusters=3, sizes=(50, 100, 200))
    lost = (metrics["seed"] == 1) & (metrics["train_size"] == 100)
    found = made(slope, metrics[~(lost & (metrics["method"] == "challenger"))])
    assert found.clusters.size == 2
    assert found.missing == ("digits/resnet/challenger/n100/s1",)


GAP = {
    "metric": "train-accuracy",
    "minus": "accuracy",
    "equal": {"metric": "train-accuracy", "within": 0.005},
    "scale": "difference",
    "direction": "lower",
}


def test_a_smaller_gap_counts_only_where_training_accuracies_are_equal():
    parts = []
    for size, trained in ((50, 1.0), (200, 0.9)):
        parts.append(rows({"baseline": [0.7] * 3, "challenger": [0.72] * 3}, size=size))
        of_training = {"baseline": [1.0] * 3, "challenger": [trained] * 3}
        parts.append(rows(of_training, "train-accuracy", size))
    found = made(GAP, pd.concat(parts))
    np.testing.assert_allclose(found.clusters, [0.02] * 3)
    assert found.left_out == ("digits/resnet/n200",)


def test_a_run_without_its_second_metric_is_missing_and_named():
    test = rows({"baseline": [0.7] * 3, "challenger": [0.72] * 2})
    trained = rows({"baseline": [1.0] * 3, "challenger": [1.0] * 3}, "train-accuracy")
    found = made(GAP, pd.concat([test, trained]))
    assert found.clusters.size == 2
    assert found.missing == ("digits/resnet/challenger/n100/s2",)


def test_cells_choose_sizes_modalities_and_families_of_models():
    parts = [
        rows({"sgt": [0.5]}, size=size, dataset=dataset, model=model)
        for size in (50, 500, 2000)
        for dataset in ("digits", "waves")
        for model in ("lstm-32", "tcn", "mine")
    ]
    metrics = pd.concat(parts)
    modalities = {"digits": "image", "waves": "series"}

    def kept(group="", **cells):
        found = within(
            metrics, Cells.model_validate(cells), group, modalities, {"mine": "gru-small"}
        )
        return {
            column: sorted(found[column].unique()) for column in ("train_size", "dataset", "model")
        }

    assert kept(at_most=500)["train_size"] == [50, 500]
    assert kept(at_least=2000)["train_size"] == [2000]
    assert kept(modalities=["series"])["dataset"] == ["waves"]
    assert kept("image", modalities=["image", "series"], groups="apart")["dataset"] == ["digits"]
    families = {"recurrent": ["*lstm*", "*gru*"], "tcn": ["*tcn*"]}
    assert kept("recurrent", models=families, groups="apart")["model"] == ["lstm-32", "mine"]
    assert kept("tcn", models=families, groups="apart")["model"] == ["tcn"]


def test_a_star_stands_for_all_metrics_but_those_excluded():
    present = dict.fromkeys(["coverage-epsilon", "mass-epsilon", "coverage-gamma"])
    assert matching("coverage-*", ("coverage-epsilon",), present) == ["coverage-gamma"]
    assert matching("coverage-*", (), present) == ["coverage-epsilon", "coverage-gamma"]
    assert matching("mass-gamma", (), present) == []
