import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from attrreg.statistics import bootstrap
from attrreg.statistics.bootstrap import RESAMPLES, bca_interval, resampled_means, widened_level


@pytest.mark.parametrize("level", [0.9, 0.99])
@pytest.mark.parametrize("n_clusters", [5, 20, 60])
def test_equals_scipy_with_the_same_resamples(n_clusters, level):
    differences = np.random.default_rng(n_clusters).gamma(2, size=n_clusters)
    expected = stats.bootstrap(
        (differences,),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=level,
        method="BCa",
        rng=np.random.default_rng(bootstrap._SEED),
    ).confidence_interval
    np.testing.assert_allclose(bca_interval(differences, level), expected, rtol=1e-10)


def test_there_are_enough_resamples_and_they_are_always_the_same():
    differences = np.random.default_rng(0).normal(size=25)
    means = resampled_means(differences)
    assert means.size >= 10_000
    np.testing.assert_array_equal(means, resampled_means(differences))
    deviation = differences.std() / math.sqrt(25)
    assert means.std() == pytest.approx(deviation, rel=0.05)


def test_a_long_tail_pulls_the_interval_after_it():
    differences = np.random.default_rng(0).exponential(size=30)
    low, high = bca_interval(differences, 0.95)
    assert high - differences.mean() > 1.15 * (differences.mean() - low)


@given(differences=st.lists(st.integers(-9, 9), min_size=2, max_size=25))
def test_turning_the_signs_turns_the_interval(differences):
    differences = np.array(differences) / 8
    low, high = bca_interval(differences, 0.95)
    np.testing.assert_allclose(bca_interval(-differences, 0.95), (-high, -low), atol=1e-12)
    assert differences.min() <= low <= high <= differences.max()


def test_one_cluster_says_nothing():
    assert np.isnan(bca_interval(np.array([0.2]), 0.95)).all()


@pytest.mark.parametrize("n_clusters", [4, 10, 30])
def test_the_widened_level_makes_up_for_what_resampling_lacks(n_clusters):
    # Where the differences are normal, their resampled mean is nearly normal with the deviation
    # √((S − 1) / S) of the standard error, and the interval should be Student's.
    shrinkage = math.sqrt((n_clusters - 1) / n_clusters)
    level = widened_level(0.95, n_clusters - 1, shrinkage)
    half = shrinkage * stats.norm.ppf((1 + level) / 2)
    assert half == pytest.approx(stats.t.ppf(0.975, n_clusters - 1))


def test_the_widest_level_is_still_a_level():
    assert 0.99 < widened_level(0.999, 1, 0.7) < 1
    assert np.isfinite(bca_interval(np.array([1.0, 2.0]), widened_level(0.999, 1, 0.7))).all()
