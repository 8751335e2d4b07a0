import math
import time

import numpy as np
import pytest
from scipy import special
from statsmodels.stats.power import TTestPower

from attrreg.statistics import clusters_needed, plan_power, smallest_visible
from attrreg.statistics.intervals import clusters_for_power, t_test_p
from attrreg.statistics.power import clusters_to_see


@pytest.mark.parametrize("family", [1, 4, 20])
@pytest.mark.parametrize("n_clusters", [3, 4, 5, 10, 30, 200])
def test_equals_the_noncentral_t_of_scipy(n_clusters, family):
    freedom = n_clusters - 1
    threshold = -special.stdtrit(freedom, 0.025 / family)
    exact = special.nctdtrinc(freedom, 0.2, threshold) / math.sqrt(n_clusters)
    assert smallest_visible(n_clusters, 1.0, 0.05, family) == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("power", [0.5, 0.9])
@pytest.mark.parametrize(("ours", "theirs"), [("two-sided", "two-sided"), ("less", "larger")])
def test_equals_statsmodels(ours, theirs, power):
    options = {"nobs": 12, "alpha": 0.05, "power": power, "alternative": theirs}
    exact = TTestPower().solve_power(**options)
    found = smallest_visible(12, 3.0, power=power, alternative=ours)
    assert found == pytest.approx(3 * exact, rel=1e-4)


def test_such_a_difference_is_found_in_four_of_five_experiments():
    difference = smallest_visible(6, 0.04, 0.05, 3)
    drawn = np.random.default_rng(0).normal(difference, 0.04, (4000, 6))
    found = np.mean([t_test_p(x, "two-sided") <= 0.05 / 3 for x in drawn])
    assert found == pytest.approx(0.8, abs=3 * math.sqrt(0.8 * 0.2 / 4000))


@pytest.mark.parametrize("effect", [0.3, 0.8, 1.5])
def test_agrees_with_the_number_of_clusters_for_an_effect(effect):
    needed = int(clusters_for_power(effect, 0.05))
    assert smallest_visible(needed, 1.0) <= effect < smallest_visible(needed - 1, 1.0)


@pytest.mark.parametrize("family", [1, 5, 20])
@pytest.mark.parametrize("ratio", [0.25, 0.5, 1.0, 2.0, 4.0])
def test_the_clusters_of_a_plan_are_those_of_the_noncentral_t_but_for_one(ratio, family):
    exact = clusters_for_power(ratio, 0.05 / family)
    found = clusters_to_see(3 * ratio, 3.0, 0.05, family)
    assert found >= clusters_needed(0.05, family)
    assert abs(found - max(exact, clusters_needed(0.05, family))) <= 1


def test_a_difference_of_nothing_cannot_be_planned_for():
    with pytest.raises(ValueError, match="difference is 0"):
        clusters_to_see(0, 1.0)


def test_more_clusters_see_more_and_larger_families_less():
    visible = [smallest_visible(n, 1.0) for n in range(2, 40)]
    assert visible == sorted(visible, reverse=True)
    assert smallest_visible(8, 1.0, family=5) > smallest_visible(8, 1.0)
    assert smallest_visible(8, 1.0, alternative="greater") < smallest_visible(8, 1.0)


@pytest.mark.parametrize("n_clusters", [0, 1])
def test_one_cluster_sees_nothing(n_clusters):
    assert smallest_visible(n_clusters, 0.1) == math.inf


def test_a_plan_gets_the_visible_difference_of_every_assumed_spread():
    plan = plan_power(5, {"n = 50": 0.04, "n = 800": 0.02}, alpha=0.05, family=2)
    assert list(plan) == ["n = 50", "n = 800"]
    assert plan["n = 50"] == smallest_visible(5, 0.04, 0.05, 2) == 2 * plan["n = 800"]


def test_a_plan_does_not_wait_for_it():
    started = time.process_time()
    plan_power(37, {"n = 50": 0.04}, alpha=0.04, family=7)
    assert time.process_time() - started < 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_clusters": -1}, "n_clusters is -1"),
        ({"deviation": math.nan}, "deviation is nan"),
        ({"alpha": 0.0}, "alpha is 0"),
        ({"family": 0}, "family is 0"),
        ({"power": 0.01}, "power is 0.01"),
        ({"alternative": "lower"}, "unknown alternative 'lower'"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        smallest_visible(**({"n_clusters": 5, "deviation": 1.0} | options))
