"""Runs that failed: named, and held against the method that they belong to."""

import numpy as np
import pandas as pd
import pytest
from tidy import table

from attrreg.statistics import compare, compare_all, run_names

GAINS = np.array([0.1, 0.12, 0.08, 0.11, 0.09, 0.1, 0.13, 0.07])
BASELINE = np.linspace(0.5, 0.6, 8)


def with_failures(method, seeds, sizes=(50,)):
    """Return the metrics, and the names of the runs of a method that are taken out of them."""
    metrics = table({"baseline": BASELINE, "ours": BASELINE + GAINS}, sizes=sizes)
    hit = (metrics["method"] == method) & metrics["seed"].isin(seeds)
    return metrics[~hit], run_names(metrics[hit])


def test_a_method_that_wins_where_it_ends_is_not_better_if_it_often_fails():
    metrics, failed = with_failures("ours", [6, 7])
    missing = compare(metrics, "accuracy", "baseline").iloc[0]
    assert (missing["verdict"], missing["n_missing"], missing["n_failed"]) == ("better", 2, 0)
    row = compare(metrics, "accuracy", "baseline", failed=failed).iloc[0]
    assert (row["verdict"], row["n_missing"], row["n_failed"]) == ("undecided", 2, 2)
    assert row["difference"] == missing["difference"]
    assert row["p"] == missing["p"] <= 0.05 < row["p_worst"]
    assert row["reason"].startswith("better only without 2 failed runs")
    assert all(run in row["reason"] for run in failed)


def test_the_bound_puts_the_worst_value_seen_in_place_of_failed_runs():
    metrics, failed = with_failures("ours", [0, 5])
    row = compare(metrics, "accuracy", "baseline", failed=failed).iloc[0]
    gains = GAINS.copy()
    gains[[0, 5]] = BASELINE.min() - BASELINE[[0, 5]]
    assert row["difference_worst"] == pytest.approx(gains.mean())


def test_a_lower_value_is_not_the_worst_where_lower_is_better():
    metrics, failed = with_failures("ours", [0])
    metrics = metrics.assign(metric="nll")
    # Higher loss: ours looks worse, so that its own failures cannot count against the other.
    row = compare(metrics, "nll", "baseline", failed=failed).iloc[0]
    assert (row["verdict"], row["difference_worst"]) == ("worse", row["difference"])
    turned = compare(metrics, "nll", "baseline", failed=failed, higher_is_better=True).iloc[0]
    assert turned["difference_worst"] < turned["difference"]


def test_a_large_lead_survives_one_failure():
    values = {"baseline": np.linspace(0.5, 0.51, 12), "ours": np.linspace(0.7, 0.8, 12)}
    metrics = table(values)
    failed = run_names(metrics.iloc[[15]])
    row = compare(metrics.drop(index=15), "accuracy", "baseline", failed=failed).iloc[0]
    assert (row["verdict"], row["n_clusters"], row["n_failed"]) == ("better", 11, 1)
    assert "with the worst value seen in failed runs still" in row["reason"]
    assert 0 < row["difference_worst"] < row["difference"]


def test_a_reference_that_fails_is_treated_the_same():
    metrics, failed = with_failures("baseline", [6, 7])
    forward = compare(metrics, "accuracy", "baseline", failed=failed).iloc[0]
    assert (forward["verdict"], forward["p_worst"]) == ("better", forward["p"])
    turned = table({"baseline": BASELINE + GAINS, "ours": BASELINE})
    hit = (turned["method"] == "baseline") & turned["seed"].isin([6, 7])
    row = compare(turned[~hit], "accuracy", "baseline", failed=run_names(turned[hit])).iloc[0]
    assert row["verdict"] == "undecided"
    assert row["reason"].startswith("worse only without 2 failed runs")


def test_without_failures_the_bound_is_the_result():
    metrics, _ = with_failures("ours", [])
    row = compare(metrics, "accuracy", "baseline").iloc[0]
    assert (row["difference_worst"], row["p_worst"]) == (row["difference"], row["p"])
    assert row["p_worst_corrected"] == row["p_corrected"]


def test_the_bounds_are_corrected_as_a_family():
    metrics, failed = with_failures("ours", [0])
    other = table({"other": BASELINE + GAINS / 2})
    result = compare(pd.concat([metrics, other]), "accuracy", "baseline", failed=failed)
    result = result.set_index("method")
    assert result.loc["other", "p_worst"] == result.loc["other", "p"]
    assert result.loc["other", "p_worst_corrected"] == 2 * result.loc["other", "p_worst"]


def test_margins_have_to_hold_with_the_failures_as_well():
    values = {"baseline": BASELINE, "ours": BASELINE + GAINS / 50}
    metrics = table(values)
    hit = (metrics["method"] == "ours") & (metrics["seed"] == 7)
    margins = {"equivalence_margin": 0.01, "noninferiority_margin": 0.01}
    left_out = compare(metrics[~hit], "accuracy", "baseline", **margins).iloc[0]
    assert left_out["verdict"] == "equivalent"
    assert "; non-inferior within 0.01" in left_out["reason"]
    failed = run_names(metrics[hit])
    row = compare(metrics[~hit], "accuracy", "baseline", failed=failed, **margins).iloc[0]
    assert row["verdict"] != "equivalent"
    assert min(row["p_equivalence"], row["p_noninferiority"]) > 0.05
    assert "; non-inferiority not shown within 0.01" in row["reason"]


def test_a_method_that_always_fails_is_undecided_and_its_runs_are_named():
    metrics, failed = with_failures("ours", range(8))
    row = compare(metrics, "accuracy", "baseline", methods=["ours"], failed=failed).iloc[0]
    assert (row["verdict"], row["n_clusters"], row["n_failed"]) == ("undecided", 0, 8)
    assert row["difference_worst"] < 0
    assert row["missing"].split(";") == failed


def test_a_cell_that_only_the_failures_know_of_is_named():
    metrics, _ = with_failures("ours", [])
    lost = [
        f"digits/resnet/{name}/n800/s{seed}" for name in ("baseline", "ours") for seed in (0, 1)
    ]
    row = compare(metrics, "accuracy", "baseline", failed=lost).iloc[0]
    assert row["missing"].split(";") == lost
    assert row["n_clusters"] == 8
    assert "missing digits/resnet/baseline/n800/s0" in row["reason"]


def test_failures_of_other_methods_and_of_runs_with_a_value_do_not_matter():
    metrics, _ = with_failures("ours", [])
    metrics = pd.concat([metrics, table({"other/ours": BASELINE})])
    names = ["digits/resnet/other/ours/n800/s0", "digits/resnet/ours/n50/s0"]
    expected = compare(metrics, "accuracy", "baseline").iloc[[1]]
    found = compare(metrics, "accuracy", "baseline", failed=names).iloc[[1]]
    assert expected["method"].tolist() == ["ours"]
    pd.testing.assert_frame_equal(found, expected)


def test_all_comparisons_take_the_failures_of_their_train_size():
    metrics, failed = with_failures("ours", [0], sizes=(50, 800))
    result = compare_all(metrics, ["baseline"], ["accuracy"], failed=failed)
    n_failed = result.set_index("train_size")["n_failed"]
    assert n_failed.to_dict() == {"all": 2, "50": 1, "800": 1}


@pytest.mark.parametrize("failed", [["ours"], "digits/ours/n50/s0", ["a/b/c/n50"], [3]])
def test_names_that_are_not_of_runs_are_refused(failed):
    metrics, _ = with_failures("ours", [])
    with pytest.raises(ValueError, match=r"failed holds .*dataset/model/method"):
        compare(metrics, "accuracy", "baseline", failed=failed)
