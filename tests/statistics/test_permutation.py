import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from attrreg.statistics.permutation import permutation_interval, sign_flip_p

ALTERNATIVES = ("two-sided", "greater", "less")
# Multiples of 1/360 as in accuracies of a small test set: full of ties that rounding breaks.
tied = st.lists(st.integers(-8, 8).map(lambda k: k / 360), min_size=1, max_size=9)


@pytest.mark.parametrize("alternative", ALTERNATIVES)
@pytest.mark.parametrize("n_clusters", [2, 3, 6, 10, 13])
def test_exact_p_equals_scipy(n_clusters, alternative):
    differences = np.random.default_rng(n_clusters).normal(0.4, 1, n_clusters)
    expected = stats.permutation_test(
        (differences,),
        lambda x, axis: np.mean(x, axis=axis),
        permutation_type="samples",
        alternative=alternative,
        n_resamples=np.inf,
        vectorized=True,
    )
    assert sign_flip_p(differences, alternative) == pytest.approx(expected.pvalue, abs=1e-12)


@pytest.mark.parametrize("alternative", ALTERNATIVES)
@given(differences=tied)
def test_ties_count_as_in_whole_numbers(alternative, differences):
    whole = np.round(np.array(differences) * 360)
    signs = 1 - 2 * (np.arange(2**whole.size)[:, None] >> np.arange(whole.size) & 1)
    totals, observed = signs @ whole, whole.sum()
    extreme = {
        "two-sided": np.abs(totals) >= abs(observed),
        "greater": totals >= observed,
        "less": totals <= observed,
    }[alternative]
    assert sign_flip_p(differences, alternative) == extreme.mean()


def test_hand_worked():
    # Signs of (1, 2, 4): the sums 7, 5, 3, 1 and their negatives. With (−1, 2, 4) the sum is 5.
    assert sign_flip_p([-1, 2, 4]) == 4 / 8
    assert sign_flip_p([-1, 2, 4], "greater") == 2 / 8
    assert sign_flip_p([-1, 2, 4], "less") == 7 / 8


@given(differences=tied)
def test_turning_the_signs_swaps_the_sides(differences):
    turned = [-x for x in differences]
    assert sign_flip_p(turned) == sign_flip_p(differences)
    assert sign_flip_p(turned, "greater") == sign_flip_p(differences, "less")


def test_no_difference_is_no_evidence():
    assert sign_flip_p(np.zeros(5)) == 1.0
    assert sign_flip_p([]) == 1.0


def test_scale_does_not_matter():
    differences = np.array([0.3, -0.1, 0.2, 0.4])
    assert sign_flip_p(differences * 1e-9) == sign_flip_p(differences * 1e9) == 0.25


def test_many_clusters_are_drawn_close_to_exact_and_reproducibly():
    differences = np.random.default_rng(3).normal(0.25, 1, 18)
    totals = np.zeros(1)
    for difference in differences:
        totals = np.concatenate((totals + difference, totals - difference))
    exact = np.mean(np.abs(totals) >= abs(differences.sum()) - 1e-9)
    drawn = sign_flip_p(differences)
    assert drawn == pytest.approx(exact, abs=5 * np.sqrt(exact / 2**16))
    assert drawn == sign_flip_p(differences)


def test_drawn_p_is_never_zero():
    assert sign_flip_p(np.ones(60)) == 2**-16


def test_only_finite_differences():
    with pytest.raises(ValueError, match="finite"):
        sign_flip_p([0.1, np.nan])


def leaves_out_zero(differences, level):
    low, high = permutation_interval(differences, level)
    return not low <= 0 <= high


@given(differences=tied, level=st.sampled_from([0.5, 0.75, 0.8, 0.9, 0.9375, 0.95, 1 - 2**-7]))
def test_the_interval_leaves_out_zero_exactly_if_p_says_so(differences, level):
    # Levels such as 1 − 1/16 are p that the test can reach: there the two must agree as well.
    assert leaves_out_zero(differences, level) == (sign_flip_p(differences) <= 1 - level)


@pytest.mark.parametrize("shift", [0.0, 0.3, 0.45, 0.5, 0.55, 0.6, 0.9])
def test_the_drawn_interval_agrees_with_the_drawn_p(shift):
    differences = np.random.default_rng(5).normal(shift, 1, 18)
    assert leaves_out_zero(differences, 0.95) == (sign_flip_p(differences) <= 0.05)


@pytest.mark.parametrize("n_clusters", [6, 9, 18])
def test_p_crosses_the_level_at_the_ends(n_clusters):
    differences = np.random.default_rng(n_clusters).normal(0.2, 1, n_clusters)
    low, high = permutation_interval(differences, 0.95)
    assert low < differences.mean() < high
    for inside, outside in ((low + 1e-6, low - 1e-6), (high - 1e-6, high + 1e-6)):
        assert sign_flip_p(differences - inside) > 0.05 >= sign_flip_p(differences - outside)


@pytest.mark.parametrize("n_clusters", range(1, 8))
def test_below_six_clusters_there_is_no_interval_at_95_percent(n_clusters):
    ends = permutation_interval(np.arange(1.0, n_clusters + 1), 0.95)
    assert np.isinf(ends).all() == (n_clusters < 6)
    assert np.isinf(ends).any() == np.isinf(ends).all()


def test_an_interval_by_hand():
    # Split in two, the means are 1 and 3, 2 and 2.5, or 4 and 1.5. Two of the 8 patterns count
    # everywhere, and p is above 2/8 where a split counts too: from 1 to 4.
    assert permutation_interval([1, 2, 4], 0.75) == (1.0, 4.0)


@given(differences=tied, shift=st.integers(-9, 9))
def test_the_interval_moves_and_turns_with_the_differences(differences, shift):
    low, high = permutation_interval(differences, 0.8)
    moved = permutation_interval(np.array(differences) + shift, 0.8)
    np.testing.assert_allclose(moved, (low + shift, high + shift), atol=1e-9)
    turned = permutation_interval(-np.array(differences), 0.8)
    np.testing.assert_allclose(turned, (-high, -low), atol=1e-12)
