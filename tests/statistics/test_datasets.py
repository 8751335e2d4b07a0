"""Ranks over datasets, against published numbers and other packages."""

import numpy as np
import pandas as pd
import pytest
import scikit_posthocs
from scipy import stats
from tidy import table

from attrreg.statistics import dataset_table, friedman_nemenyi, wilcoxon_pairs
from attrreg.statistics.correction import corrected

# Area under the curve of four variants of C4.5 on 14 datasets: Demšar 2006, table 6. It prints two
# values as .975 that its ranks tell apart.
PER_MILLE = {
    "C4.5": [763, 599, 954, 628, 882, 936, 661, 583, 775, 1000, 940, 619, 972, 957],
    "C4.5+m": [768, 591, 971, 661, 888, 931, 668, 583, 838, 1000, 962, 666, 981, 978],
    "C4.5+cf": [771, 590, 968, 654, 886, 916, 609, 563, 866, 1000, 965, 614, 975.1, 946],
    "C4.5+m+cf": [798, 569, 967, 657, 898, 931, 685, 625, 875, 1000, 962, 669, 975, 970],
}
DEMSAR = pd.DataFrame(PER_MILLE) / 1000


@pytest.fixture(params=["apart", "tied"])
def random_table(request):
    values = np.random.default_rng(3).normal(size=(12, 5)) + np.linspace(0, 1, 5)
    return pd.DataFrame(values.round(15 if request.param == "apart" else 0), columns=list("abcde"))


def test_ranks_and_critical_differences_are_those_published():
    ranking = friedman_nemenyi(DEMSAR)
    assert ranking.ranks.round(3).to_dict() == {
        "C4.5+m+cf": 1.964,
        "C4.5+m": 2.0,
        "C4.5+cf": 2.893,
        "C4.5": 3.143,
    }
    assert ranking.critical_difference == pytest.approx(1.25, abs=0.005)
    assert len(ranking.groups) == 1
    lenient = friedman_nemenyi(DEMSAR, alpha=0.1)
    assert lenient.critical_difference == pytest.approx(1.12, abs=0.005)
    assert lenient.groups == (("C4.5+m+cf", "C4.5+m", "C4.5+cf"), ("C4.5+cf", "C4.5"))


def test_friedman_equals_scipy(random_table):
    ranking = friedman_nemenyi(random_table)
    expected = stats.friedmanchisquare(*random_table.to_numpy().T)
    assert ranking.statistic == pytest.approx(expected.statistic, rel=1e-10)
    assert ranking.p == pytest.approx(expected.pvalue, rel=1e-10)


def test_nemenyi_equals_scikit_posthocs(random_table):
    ranking = friedman_nemenyi(random_table)
    expected = scikit_posthocs.posthoc_nemenyi_friedman(random_table)
    pd.testing.assert_frame_equal(
        ranking.nemenyi.sort_index(axis=0).sort_index(axis=1), expected, rtol=1e-10, atol=1e-10
    )


def test_ranks_beyond_the_critical_difference_are_those_with_small_p(random_table):
    ranking = friedman_nemenyi(random_table)
    ranks = ranking.ranks.to_numpy()
    apart = np.abs(ranks[:, None] - ranks) >= ranking.critical_difference
    np.testing.assert_array_equal(apart, ranking.nemenyi.to_numpy() <= 0.05)
    for group in ranking.groups:
        assert (ranking.nemenyi.loc[list(group), list(group)] > 0.05).all(axis=None)


def test_wilcoxon_equals_scipy_and_scikit_posthocs(random_table):
    random_table = random_table[["a", "b", "c"]]  # with ties, scipy takes its time
    pairs = wilcoxon_pairs(random_table)
    long = random_table.melt(var_name="method")
    expected = scikit_posthocs.posthoc_wilcoxon(long, val_col="value", group_col="method")
    for row in pairs.itertuples():
        assert row.p == pytest.approx(expected.loc[row.method, row.other], rel=1e-10)
        one = stats.wilcoxon(random_table[row.method] - random_table[row.other])
        assert (row.p, row.statistic) == pytest.approx((one.pvalue, one.statistic), rel=1e-10)
    assert pairs["p_corrected"].tolist() == corrected(pairs["p"], "holm").tolist()
    assert len(pairs) == 3


def test_better_is_rank_one_in_both_directions():
    values = pd.DataFrame(np.arange(36.0).reshape(12, 3), columns=["low", "middle", "high"])
    assert list(friedman_nemenyi(values).ranks.items()) == [("high", 1), ("middle", 2), ("low", 3)]
    assert friedman_nemenyi(values, higher_is_better=False).ranks.index[0] == "low"
    assert friedman_nemenyi(values).p < 0.001
    assert friedman_nemenyi(values).groups == (("high",), ("middle",), ("low",))


def test_methods_that_always_tie():
    ties = pd.DataFrame(np.tile(np.arange(10.0)[:, None], 3), columns=list("abc"))
    ranking = friedman_nemenyi(ties)
    assert (ranking.ranks == 2).all()
    assert (ranking.statistic, ranking.p, ranking.groups) == (0.0, 1.0, (("a", "b", "c"),))
    pairs = wilcoxon_pairs(ties)
    assert (pairs["p"] == 1).all()
    assert (pairs["n_tied"] == 10).all()


def test_rounding_makes_no_ranks():
    sums = pd.DataFrame({"a": [0.1 + 0.2] * 10, "b": [0.3] * 10, "c": [0.5] * 10})
    assert friedman_nemenyi(sums).ranks.to_dict() == {"c": 1.0, "a": 2.5, "b": 2.5}
    assert wilcoxon_pairs(sums).iloc[0]["p"] == 1.0


@pytest.mark.parametrize(("n_datasets", "descriptive"), [(9, True), (10, False)])
def test_few_datasets_only_describe(n_datasets, descriptive):
    values = pd.DataFrame(np.random.default_rng(0).normal(size=(n_datasets, 3)))
    assert friedman_nemenyi(values).descriptive == descriptive
    assert (wilcoxon_pairs(values)["descriptive"] == descriptive).all()


@pytest.mark.parametrize("gap", [np.nan, np.inf])
def test_incomplete_datasets_are_left_out_and_named(random_table, gap):
    gaps = random_table.set_axis([f"set{i}" for i in range(12)])
    gaps.iloc[4, 1] = gap
    ranking = friedman_nemenyi(gaps)
    assert (ranking.left_out, ranking.n_datasets) == (("set4",), 11)
    pd.testing.assert_series_equal(ranking.ranks, friedman_nemenyi(gaps.drop("set4")).ranks)
    assert set(wilcoxon_pairs(gaps[["a", "b"]])["left_out"]) == {"set4"}


def test_too_small_tables_are_refused():
    with pytest.raises(ValueError, match=r"2 methods \(a, b\): at least 3"):
        friedman_nemenyi(pd.DataFrame({"a": [1.0, 2.0], "b": [2.0, 1.0]}))
    with pytest.raises(ValueError, match=r"1 of 2 datasets .*incomplete are y"):
        wilcoxon_pairs(pd.DataFrame({"a": [1, 2], "b": [2, np.nan]}, index=["x", "y"]))
    with pytest.raises(ValueError, match="alpha is 5"):
        friedman_nemenyi(DEMSAR, alpha=5)
    with pytest.raises(ValueError, match=r"unknown correction 'hom'.*'holm'\?"):
        wilcoxon_pairs(DEMSAR, "hom")


def test_a_dataset_is_the_mean_of_its_runs_and_gaps_stay_gaps():
    metrics = pd.concat(
        [
            table({"baseline": [0.1, 0.3], "ours": [0.2, 0.4]}, dataset="digits"),
            table({"baseline": [0.5, 0.7], "ours": [0.6]}, dataset="mnist"),
            table({"baseline": [0.5], "ours": [np.nan]}, dataset="svhn"),
        ]
    )
    found = dataset_table(metrics, "accuracy")
    assert found["baseline"].to_dict() == pytest.approx({"digits": 0.2, "mnist": 0.6, "svhn": 0.5})
    assert found.loc["digits", "ours"] == pytest.approx(0.3)
    assert found.loc[["mnist", "svhn"], "ours"].isna().all()
    errors = dataset_table(metrics, "error")
    assert errors.loc["digits", "ours"] == pytest.approx(0.7)
    with pytest.raises(ValueError, match="unknown metric 'nll'"):
        dataset_table(metrics, "nll")
