import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from attrreg.statistics.permutation import sign_flip_p

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
