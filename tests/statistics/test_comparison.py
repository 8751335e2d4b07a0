"""One family: its numbers, its verdicts, and tables that are not as they should be."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from tidy import against_zero, table

from attrreg.statistics import (
    clusters_needed,
    compare,
    equivalence_p,
    interval,
    noninferiority_p,
    smallest_visible,
)
from attrreg.statistics.comparison import COLUMNS
from attrreg.statistics.permutation import sign_flip_p


def test_difference_averages_cells_within_clusters_and_then_clusters():
    metrics = table(
        {"baseline": [0.5, 0.7, 0.4, 0.6, 0.5, 0.6], "sgt": [0.6, 0.8, 0.6, 0.6, 0.5, 0.9]},
        sizes=(50, 200),
    )
    row = compare(metrics, "accuracy", "baseline").iloc[0]
    clusters = np.array([0.1, 0.1, 0.15])
    assert row["difference"] == pytest.approx(clusters.mean())
    assert (row["n_clusters"], row["n_pairs"], row["n_missing"]) == (3, 6, 0)
    expected = stats.ttest_1samp(clusters, 0.0)
    assert row["p_t"] == pytest.approx(expected.pvalue)
    np.testing.assert_allclose(row[["low", "high"]].tolist(), expected.confidence_interval(0.95))
    assert row["effect"] == pytest.approx(clusters.mean() / clusters.std(ddof=1))
    assert row["p"] == row["smallest_p"] == 0.25


def test_clusters_count_equally_whatever_their_number_of_cells():
    small = table({"baseline": [0.0, 0.0], "sgt": [0.1, 0.1]}, dataset="digits")
    large = table({"baseline": [0.0] * 6, "sgt": [0.4] * 6}, sizes=(1, 2, 3), dataset="mnist")
    row = compare(pd.concat([small, large]), "accuracy", "baseline").iloc[0]
    assert row["difference"] == pytest.approx(0.25)
    assert (row["n_clusters"], row["n_pairs"]) == (4, 8)


def test_columns_and_rows():
    metrics = table({"baseline": [0.1, 0.2], "sgt": [0.2, 0.3], "challenger": [0.1, 0.3]})
    result = compare(metrics, "accuracy", "baseline")
    assert list(result.columns) == list(COLUMNS)
    assert list(result["method"]) == ["challenger", "sgt"]
    chosen = compare(metrics, "accuracy", "baseline", methods=["sgt", "baseline", "challenger"])
    assert list(chosen["method"]) == ["sgt", "challenger"]


values = st.lists(st.integers(0, 64), min_size=12, max_size=12)


@given(
    baseline=values, ours=values, constants=st.lists(st.integers(-99, 99), min_size=6, max_size=6)
)
@settings(max_examples=25, deadline=None)
def test_symmetries(baseline, ours, constants):
    # Multiples of 1/64 have no rounding, so that equal means bit-equal.
    baseline, ours = np.array(baseline) / 64, np.array(ours) / 64
    metrics = table({"baseline": baseline, "ours": ours}, sizes=(50, 200))
    row = compare(metrics, "accuracy", "baseline").iloc[0]

    shuffled = metrics.sample(frac=1, random_state=0)
    pd.testing.assert_series_equal(compare(shuffled, "accuracy", "baseline").iloc[0], row)

    shift = np.repeat(constants, 2) / 64
    shifted = table({"baseline": baseline + shift, "ours": ours + shift}, sizes=(50, 200))
    pd.testing.assert_series_equal(compare(shifted, "accuracy", "baseline").iloc[0], row)

    turned = compare(metrics, "accuracy", "ours").iloc[0]
    assert turned["p"] == row["p"]
    assert turned["difference"] == -row["difference"]
    assert turned["low"] == pytest.approx(-row["high"])
    assert {turned["verdict"], row["verdict"]} in ({"better", "worse"}, {"undecided"})


def test_the_family_is_the_methods_of_the_metric():
    differences = np.random.default_rng(0).normal([[0.5], [0.2], [0.0]], 0.3, (3, 9))
    values = {"baseline": np.zeros(9)} | dict(zip("abc", differences, strict=True))
    metrics = pd.concat([table(values), table({"other": np.ones(9)}, metric="nll")])
    result = compare(metrics, "accuracy", "baseline")
    p = np.array([sign_flip_p(x) for x in differences])
    assert result["p"].tolist() == p.tolist()
    order = np.argsort(p)
    holm = np.maximum.accumulate(p[order] * [3, 2, 1]).clip(max=1)
    assert result["p_corrected"].to_numpy()[order].tolist() == holm.tolist()
    plain = compare(metrics, "accuracy", "baseline", correction="none")
    assert plain["p_corrected"].tolist() == p.tolist()


def test_one_sided_asks_for_method_minus_reference():
    differences = [0.1, 0.2, 0.3, 0.4, 0.5]
    assert against_zero(differences, alternative="greater")["p"] == 2**-5
    assert against_zero(differences, alternative="greater")["verdict"] == "better"
    less = against_zero(differences, alternative="less")
    assert (less["p"], less["verdict"]) == (1.0, "undecided")
    assert "points away" in less["reason"]


@pytest.mark.parametrize(
    ("metric", "verdict"),
    [("accuracy", "better"), ("occlusion-random-block", "better"), ("nll", "worse")],
)
def test_better_depends_on_the_metric(metric, verdict):
    metrics = table({"baseline": np.zeros(6), "ours": np.arange(1, 7)}, metric=metric)
    assert compare(metrics, metric, "baseline").iloc[0]["verdict"] == verdict


def test_own_metrics_need_a_direction():
    metrics = table({"baseline": np.zeros(6), "ours": np.arange(1, 7)}, metric="brightness")
    with pytest.raises(ValueError, match=r"direction of metric 'brightness'.*higher_is_better"):
        compare(metrics, "brightness", "baseline")
    result = compare(metrics, "brightness", "baseline", higher_is_better=False)
    assert result["verdict"].tolist() == ["worse"]


def test_too_few_clusters_are_said():
    row = against_zero([0.1, 0.2, 0.4])
    assert row["verdict"] == "undecided"
    assert row["reason"].startswith(
        "3 clusters: the smallest two-sided p possible is 0.25, so nothing can reach 0.05; about"
    )
    assert row["clusters_needed"] >= clusters_needed(0.05)


def test_a_family_can_make_clusters_too_few():
    values = {"baseline": np.zeros(6)} | {name: np.arange(1, 7) for name in "abcd"}
    result = compare(table(values), "accuracy", "baseline")
    assert set(result["verdict"]) == {"undecided"}
    assert "0.0312 (0.125 after Holm over 4 comparisons)" in result["reason"][0]
    assert (result["clusters_needed"] >= clusters_needed(0.05, 4)).all()


def test_undecided_with_enough_clusters():
    row = against_zero([0.3, -0.1, 0.2, -0.2, 0.1, 0.2, -0.1])
    assert row["verdict"] == "undecided"
    assert "is above 0.05" in row["reason"]
    assert row["clusters_needed"] > 7


def test_identical_methods():
    row = against_zero(np.zeros(6))
    assert (row["p"], row["effect"], row["difference"]) == (1.0, 0.0, 0.0)
    assert (row["low"], row["high"]) == (0.0, 0.0)
    assert (row["verdict"], row["reason"]) == ("undecided", "the two agree exactly in 6 clusters")


def test_equal_after_averaging_is_equal():
    metrics = table({"baseline": [0.2, 0.2, 0.1, 0.4], "ours": [0.3, 0.1, 0.2, 0.3]}, sizes=(1, 2))
    row = compare(metrics, "accuracy", "baseline").iloc[0]
    assert (row["difference"], row["p"], row["effect"]) == (0.0, 1.0, 0.0)


def test_opposite_methods():
    steps = np.array([0.1, 0.2, 0.3, 0.4])
    row = against_zero(np.concatenate([steps, -steps]))
    assert (row["difference"], row["p"], row["effect"]) == (0.0, 1.0, 0.0)
    assert row["low"] == pytest.approx(-row["high"])
    assert row["low_permutation"] == pytest.approx(-row["high_permutation"])
    assert row["verdict"] == "undecided"


def test_methods_that_tie_in_all_but_one_cluster():
    row = against_zero([0.0] * 7 + [0.8])
    # One cluster alone says nothing: flipping the ties changes no mean.
    assert (row["difference"], row["p"], row["verdict"]) == (pytest.approx(0.1), 1.0, "undecided")
    assert row["low_permutation"] == 0.0


def test_one_cluster():
    row = against_zero([0.3])
    assert (row["p"], row["smallest_p"], row["n_clusters"]) == (1.0, 1.0, 1)
    assert row[["low", "high", "effect", "p_t", "visible"]].isna().all()
    assert np.isinf([row["low_permutation"], row["high_permutation"]]).all()
    assert row["reason"].endswith("nothing can reach 0.05; at least 6 clusters are needed")
    assert row["clusters_needed"] is pd.NA


def test_clusters_that_all_agree_on_a_difference():
    row = against_zero([0.1] * 6)
    assert (row["p"], row["verdict"]) == (2**-5, "better")
    assert row[["effect", "p_t", "visible"]].isna().all()
    assert row[["low", "high"]].tolist() == [row["difference"]] * 2


def test_equivalence_needs_a_margin_and_the_interval_inside():
    differences = [0.01, -0.01, 0.02, -0.02, 0.01, -0.01]
    low, high = stats.ttest_1samp(differences, 0.0).confidence_interval(0.9)
    wide = max(-low, high)
    assert against_zero(differences)["verdict"] == "undecided"
    assert against_zero(differences, equivalence_margin=wide * 1.01)["verdict"] == "equivalent"
    assert against_zero(differences, equivalence_margin=wide * 0.99)["verdict"] == "undecided"


def test_a_significant_difference_inside_the_margin_is_equivalent():
    row = against_zero(np.linspace(0.01, 0.02, 8), equivalence_margin=0.1)
    assert (row["verdict"], row["p"]) == ("equivalent", 2**-7)
    assert "p = 0.00781" in row["reason"]


@pytest.mark.parametrize(("n_clusters", "verdict"), [(2, "undecided"), (5, "equivalent")])
def test_equivalence_without_spread_needs_some_clusters(n_clusters, verdict):
    row = against_zero(np.zeros(n_clusters), equivalence_margin=0.1)
    assert row["verdict"] == verdict


@pytest.mark.parametrize("gap", ["absent", np.nan, np.inf])
def test_a_missing_run_drops_its_cluster_and_is_named(gap):
    metrics = table({"baseline": np.zeros(14), "sgt": np.arange(14)}, sizes=(50, 200))
    hit = (metrics["method"] == "sgt") & (metrics["seed"] == 2) & (metrics["train_size"] == 200)
    metrics["value"] = metrics["value"].astype(float)
    metrics = (
        metrics[~hit] if gap == "absent" else metrics.assign(value=metrics["value"].mask(hit, gap))
    )
    row = compare(metrics, "accuracy", "baseline").iloc[0]
    assert (row["n_clusters"], row["n_pairs"], row["n_missing"]) == (6, 12, 1)
    assert row["difference"] == pytest.approx(np.delete(np.arange(7) * 2 + 0.5, 2).mean())
    assert row["missing"] == "digits/resnet/sgt/n200/s2"
    assert row["reason"].endswith("left out digits/s2 for missing digits/resnet/sgt/n200/s2")


def test_a_gap_of_one_method_leaves_the_others_whole():
    metrics = table({"baseline": np.zeros(6), "a": np.arange(1, 7), "b": np.arange(1, 7)})
    result = compare(metrics.drop(metrics.index[6]), "accuracy", "baseline").set_index("method")
    assert result["n_clusters"].to_dict() == {"a": 5, "b": 6}
    # b has six clusters, and would be significant as one of two only if a could be too.
    assert result.loc["b", "p_corrected"] == 2 * 2**-5


def test_a_method_without_results_has_a_row_and_counts_in_the_family():
    metrics = table({"baseline": np.zeros(6), "a": np.arange(1, 7)})
    result = compare(metrics, "accuracy", "baseline", methods=["a", "b"]).set_index("method")
    assert result.loc["a", "p_corrected"] == 2 * 2**-5
    assert result.loc["b", "n_missing"] == 6
    assert result.loc["b", "verdict"] == "undecided"
    assert result.loc["b", "reason"].startswith("no cluster (dataset, seed) has all cells of both")
    assert "and 3 more" in result.loc["b", "reason"]
    assert result.loc["b", ["difference", "p", "p_corrected", "effect"]].isna().all()


def test_a_single_method_gives_an_empty_table():
    result = compare(table({"baseline": [0.1, 0.2]}), "accuracy", "baseline")
    assert result.empty
    assert list(result.columns) == list(COLUMNS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="seed"), r"lacks the columns \['seed'\]"),
        (lambda t: pd.concat([t, t.iloc[[1]]]), r"more than one value for digits/resnet/.*/n50/s1"),
        (
            lambda t: t.assign(value=t["value"].astype(str)),
            r"values of metric 'accuracy' have dtype",
        ),
        (lambda t: t.assign(model=None), r"rows with an empty model"),
    ],
)
def test_wrong_tables_are_refused(change, message):
    metrics = table({"baseline": [0.1, 0.2], "sgt": [0.2, 0.3]})
    with pytest.raises(ValueError, match=message):
        compare(change(metrics), "accuracy", "baseline")


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (
            ("acuracy", "baseline"),
            {},
            r"unknown metric 'acuracy': known are accuracy; did you mean",
        ),
        (("accuracy", "baselin"), {}, r"unknown reference method 'baselin'.*'baseline'\?"),
        (("accuracy", "baseline", "both"), {}, r"unknown alternative 'both'"),
        (("accuracy", "baseline", "less", "hom"), {}, r"unknown correction 'hom'.*'holm'\?"),
        (("accuracy", "baseline"), {"alpha": 0.5}, r"alpha is 0.5"),
        (("accuracy", "baseline"), {"equivalence_margin": 0}, r"equivalence_margin is 0"),
        (("accuracy", "baseline"), {"noninferiority_margin": -1}, r"noninferiority_margin is -1"),
    ],
)
def test_wrong_arguments_are_refused(arguments, options, message):
    metrics = table({"baseline": [0.1, 0.2], "sgt": [0.2, 0.3]})
    with pytest.raises(ValueError, match=message):
        compare(metrics, *arguments, **options)


@pytest.mark.parametrize(("n_clusters", "method"), [(5, "t"), (9, "t"), (24, "bca")])
def test_the_intervals_are_named_and_those_of_the_differences(n_clusters, method):
    differences = np.random.default_rng(n_clusters).gamma(2, size=n_clusters) - 1
    row = against_zero(differences, alpha=0.1)
    assert row["interval"] == method
    assert tuple(row[["low", "high"]]) == pytest.approx(interval(differences, 0.9))
    by_test = interval(differences, 0.9, "permutation")
    assert tuple(row[["low_permutation", "high_permutation"]]) == pytest.approx(by_test)
    assert (not by_test[0] <= 0 <= by_test[1]) == (row["p"] <= 0.1)


def test_undecided_rows_say_what_could_have_been_seen():
    values = {
        "baseline": np.zeros(7),
        "a": [0.3, -0.1, 0.2, -0.2, 0.1, 0.2, -0.1],
        "b": np.zeros(7),
    }
    row = compare(table(values), "accuracy", "baseline").iloc[0]
    visible = smallest_visible(7, np.std(values["a"], ddof=1), 0.05, family=2)
    assert row["visible"] == pytest.approx(visible)
    seen = f"at this spread a t test of 7 clusters sees {visible:.3g} or more with 80 % power"
    assert row["reason"].endswith(seen)
    alone = compare(table(values), "accuracy", "baseline", correction="none").iloc[0]
    assert alone["visible"] == pytest.approx(smallest_visible(7, np.std(values["a"], ddof=1)))


def test_margins_have_a_p_of_their_own():
    differences = np.array([0.01, -0.01, 0.02, -0.03, 0.01, -0.01])
    plain = against_zero(differences)
    assert plain[["p_equivalence", "p_noninferiority"]].isna().all()
    row = against_zero(differences, equivalence_margin=0.05, noninferiority_margin=0.02)
    assert row["p_equivalence"] == pytest.approx(equivalence_p(differences, 0.05))
    assert row["p_noninferiority"] == pytest.approx(noninferiority_p(differences, 0.02, True))


@pytest.mark.parametrize(("metric", "shown"), [("accuracy", False), ("nll", True)])
def test_noninferiority_adds_to_the_reason_and_not_to_the_verdict(metric, shown):
    values = {"baseline": np.zeros(6), "ours": -0.01 * np.arange(5, 11)}
    result = compare(table(values, metric), metric, "baseline", noninferiority_margin=0.05)
    assert result["verdict"][0] == ("better" if shown else "worse")
    assert ("; non-inferior within 0.05 (p = " in result["reason"][0]) == shown
    assert ("non-inferiority not shown" in result["reason"][0]) != shown
