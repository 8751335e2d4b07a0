import math

import numpy as np
import pytest
from scipy import stats

from attrreg.statistics import equivalence_p, noninferiority_p
from attrreg.statistics.intervals import t_interval


@pytest.mark.parametrize("margin", [0.05, 0.3, 2.0])
@pytest.mark.parametrize("n_clusters", [2, 5, 30])
def test_equals_two_one_sided_tests_of_scipy(n_clusters, margin):
    differences = np.random.default_rng(n_clusters).normal(0.1, 0.5, n_clusters)
    above = stats.ttest_1samp(differences, -margin, alternative="greater").pvalue
    below = stats.ttest_1samp(differences, margin, alternative="less").pvalue
    assert equivalence_p(differences, margin) == pytest.approx(max(above, below), rel=1e-10)
    assert noninferiority_p(differences, margin, True) == pytest.approx(above, rel=1e-10)
    assert noninferiority_p(differences, margin, False) == pytest.approx(below, rel=1e-10)


@pytest.mark.parametrize("alpha", [0.01, 0.05])
def test_p_reaches_alpha_where_the_interval_reaches_the_margin(alpha):
    differences = np.random.default_rng(0).normal(0.1, 0.5, 12)
    low, high = t_interval(differences, 1 - 2 * alpha)
    assert equivalence_p(differences, max(-low, high)) == pytest.approx(alpha)
    assert noninferiority_p(differences, -low, True) == pytest.approx(alpha)
    assert noninferiority_p(differences, high, False) == pytest.approx(alpha)


def test_a_difference_at_the_margin_is_rarely_called_equivalent():
    drawn = np.random.default_rng(0).normal(0.2, 0.1, (4000, 8))
    assert np.mean([equivalence_p(x, 0.2) <= 0.05 for x in drawn]) <= 0.06
    assert np.mean([noninferiority_p(x, 0.2, False) <= 0.05 for x in drawn]) <= 0.06


def test_clusters_that_all_agree_count_as_in_an_exact_test():
    assert equivalence_p(np.zeros(5), 0.1) == 2**-5
    assert equivalence_p(np.full(5, 0.2), 0.1) == 1.0
    assert noninferiority_p(np.full(5, 0.2), 0.1, True) == 2**-5
    assert noninferiority_p(np.full(5, 0.2), 0.1, False) == 1.0


@pytest.mark.parametrize("differences", [[], [0.1]])
def test_one_cluster_says_nothing(differences):
    assert math.isnan(equivalence_p(np.array(differences), 0.1))
    assert math.isnan(noninferiority_p(np.array(differences), 0.1, True))


@pytest.mark.parametrize("margin", [0, -0.1, math.inf, math.nan])
def test_a_margin_is_a_number_above_zero(margin):
    with pytest.raises(ValueError, match="margin is"):
        equivalence_p(np.ones(3), margin)
    with pytest.raises(ValueError, match="margin is"):
        noninferiority_p(np.ones(3), margin, True)
    with pytest.raises(ValueError, match="only finite numbers"):
        equivalence_p(np.array([0.1, np.nan]), 0.1)
