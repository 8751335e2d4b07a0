import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower

from attrreg.statistics.bootstrap import bca_interval
from attrreg.statistics.intervals import (
    INTERVALS,
    clusters_for_power,
    effect_size,
    interval,
    interval_method,
    t_interval,
    t_test_p,
)
from attrreg.statistics.permutation import permutation_interval


@pytest.mark.parametrize("level", [0.9, 0.95])
@pytest.mark.parametrize("n_clusters", [2, 5, 30])
def test_interval_and_p_equal_scipy(n_clusters, level):
    differences = np.random.default_rng(n_clusters).normal(0.3, 1, n_clusters)
    expected = stats.ttest_1samp(differences, 0.0)
    np.testing.assert_allclose(
        t_interval(differences, level), expected.confidence_interval(level), rtol=1e-12
    )
    for alternative in ("two-sided", "greater", "less"):
        p = stats.ttest_1samp(differences, 0.0, alternative=alternative).pvalue
        assert t_test_p(differences, alternative) == pytest.approx(p, rel=1e-12)


def test_interval_covers_at_its_level():
    generator = np.random.default_rng(0)
    intervals = [t_interval(generator.normal(1, 2, 6), 0.95) for _ in range(2000)]
    covered = np.mean([low <= 1 <= high for low, high in intervals])
    assert covered == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / 2000))


def test_effect_size_by_hand():
    assert effect_size(np.array([1.0, 2.0, 3.0])) == pytest.approx(2.0)


def test_clusters_that_agree_up_to_rounding_have_no_effect_size():
    agree = np.array([0.3 - 0.2, 0.2 - 0.1, 0.1])
    assert math.isnan(effect_size(agree))
    assert math.isnan(t_test_p(agree, "two-sided"))
    low, high = t_interval(agree, 0.95)
    assert low == high == pytest.approx(0.1)


def test_no_difference_has_effect_zero():
    assert effect_size(np.zeros(4)) == 0.0
    assert t_interval(np.zeros(4), 0.95) == (0.0, 0.0)


def test_one_cluster_says_nothing():
    one = np.array([0.2])
    assert math.isnan(effect_size(one))
    assert math.isnan(t_test_p(one, "greater"))
    assert np.isnan(t_interval(one, 0.95)).all()


@pytest.mark.parametrize("effect", [0.1, 0.5, -1.0, 2.0])
@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_power_equals_statsmodels(effect, alpha):
    exact = TTestPower().solve_power(abs(effect), alpha=alpha, power=0.8, alternative="two-sided")
    assert clusters_for_power(effect, alpha) == math.ceil(exact)


def test_one_sided_power():
    exact = TTestPower().solve_power(0.5, alpha=0.05, power=0.8, alternative="larger")
    assert clusters_for_power(0.5, 0.05, "greater") == math.ceil(exact)
    assert clusters_for_power(-0.5, 0.05, "less") == math.ceil(exact)
    assert clusters_for_power(-0.5, 0.05, "greater") == math.inf


def test_effects_that_no_reasonable_number_finds():
    assert clusters_for_power(0.0, 0.05) == math.inf
    assert clusters_for_power(0.01, 0.05) == math.inf
    assert clusters_for_power(1e6, 0.05) == 2


@pytest.mark.parametrize(("n_clusters", "method"), [(2, "t"), (19, "t"), (20, "bca"), (40, "bca")])
def test_the_interval_is_chosen_by_the_number_of_clusters(n_clusters, method):
    differences = np.random.default_rng(n_clusters).gamma(2, size=n_clusters)
    assert interval_method(n_clusters) == method
    assert interval(differences, 0.95) == interval(differences, 0.95, method)
    assert len({interval(differences, 0.95, name) for name in INTERVALS}) == 3


def test_each_method_is_the_function_of_its_name():
    differences = np.random.default_rng(0).gamma(2, size=12)
    assert interval(differences, 0.9, "t") == t_interval(differences, 0.9)
    assert interval(differences, 0.9, "permutation") == permutation_interval(differences, 0.9)


def test_the_bootstrap_is_widened_most_for_few_clusters():
    def widening(n_clusters):
        differences = np.random.default_rng(0).normal(size=n_clusters)
        low, high = np.array(interval(differences, 0.95, "bca"))
        plain = np.diff(bca_interval(differences, 0.95))[0]
        return (high - low) / plain

    assert widening(6) > 1.2 > widening(12) > widening(40) > 1


@pytest.mark.parametrize("method", INTERVALS)
def test_clusters_that_agree_have_intervals_without_width(method):
    assert interval(np.full(8, 0.25), 0.95, method) == (0.25, 0.25)
    assert interval(np.zeros(30), 0.95, method) == (0.0, 0.0)


@pytest.mark.parametrize("method", INTERVALS)
def test_without_clusters_there_is_no_interval(method):
    assert np.isnan(interval(np.array([]), 0.95, method)).all()


@pytest.mark.parametrize("method", INTERVALS)
def test_intervals_take_finite_numbers_only(method):
    with pytest.raises(ValueError, match="only finite numbers"):
        interval(np.array([0.1, np.nan, 0.2]), 0.95, method)


def test_unknown_intervals_and_levels():
    with pytest.raises(ValueError, match=r"unknown interval 'bcq'.*'bca'\?"):
        interval(np.ones(3), 0.95, "bcq")
    with pytest.raises(ValueError, match=r"level is 95"):
        interval(np.ones(3), 95)
