"""Test items as a second source of uncertainty, against experiments of known variance."""

import math

import numpy as np
import pytest

from attrreg.statistics import items_by_clusters

REPEATS = 200


def draw(generator, shape, of_clusters, of_items, rest):
    """Draw differences with no true mean from the two-way random effects model."""
    return (
        generator.normal(0, of_clusters, (shape[0], 1))
        + generator.normal(0, of_items, (1, shape[1]))
        + generator.normal(0, rest, shape)
    )


def simulate(shape, *deviations):
    generator = np.random.default_rng(0)
    zeros = np.zeros(shape)
    drawn = [draw(generator, shape, *deviations) for _ in range(REPEATS)]
    return [items_by_clusters(x, zeros, resamples=500) for x in drawn]


@pytest.mark.parametrize(
    ("shape", "deviations"),
    [((5, 100), (0.1, 0.3, 0.3)), ((10, 200), (0.02, 0.3, 0.4)), ((30, 100), (0.1, 0.2, 0.3))],
)
def test_standard_errors_and_interval_fit_the_known_model(shape, deviations):
    results = simulate(shape, *deviations)
    of_clusters, of_items, rest = deviations
    variances = of_clusters**2 / shape[0], of_items**2 / shape[1], rest**2 / math.prod(shape)
    squares = np.mean(
        [(r.error_of_clusters**2, r.error_of_items**2, r.error_of_rest**2) for r in results], axis=0
    )
    np.testing.assert_allclose(squares, variances, rtol=0.15, atol=0.05 * sum(variances))
    total = np.mean([r.standard_error**2 for r in results])
    assert total == pytest.approx(sum(variances), rel=0.15)
    share = np.mean([r.share_of_items for r in results])
    assert share == pytest.approx(variances[1] / sum(variances), abs=0.1)
    covered = np.mean([r.low <= 0 <= r.high for r in results])
    assert covered >= 0.92


def test_parts_add_up():
    generator = np.random.default_rng(1)
    right = generator.random((6, 80)) < 0.8
    result = items_by_clusters(right, generator.random((6, 80)) < 0.7)
    parts = (result.error_of_clusters, result.error_of_items, result.error_of_rest)
    assert math.hypot(*parts) == pytest.approx(result.standard_error)
    assert result.low < result.difference < result.high
    assert (result.n_clusters, result.n_items) == (6, 80)


def test_items_that_decide_everything_are_all_of_the_uncertainty():
    of_items = np.tile(np.linspace(-1, 1, 50), (5, 1))
    result = items_by_clusters(of_items, np.zeros((5, 50)))
    assert result.share_of_items == pytest.approx(1.0)
    assert result.standard_error == pytest.approx(of_items[0].std(ddof=1) / math.sqrt(50))
    assert "100 % is the 50 test items" in str(result)


def test_clusters_that_decide_everything_leave_nothing_to_items():
    of_clusters = np.tile(np.array([[0.1], [0.3], [0.2], [0.5]]), (1, 30))
    result = items_by_clusters(of_clusters, np.zeros((4, 30)))
    assert result.share_of_items == pytest.approx(0.0, abs=1e-12)
    assert result.standard_error == pytest.approx(of_clusters[:, 0].std(ddof=1) / 2)


def test_a_larger_test_set_helps_against_items_and_more_clusters_do_not():
    def error(*shape):
        results = simulate(shape, 0.0, 0.3, 0.1)
        return np.mean([each.error_of_items for each in results[:40]])

    assert error(5, 400) == pytest.approx(error(5, 100) / 2, rel=0.1)
    assert error(20, 100) == pytest.approx(error(5, 100), rel=0.1)


def test_identical_methods_have_no_uncertainty():
    right = np.random.default_rng(0).random((4, 20)) < 0.5
    result = items_by_clusters(right, right)
    assert (result.difference, result.low, result.high, result.standard_error) == (0, 0, 0, 0)
    assert math.isnan(result.share_of_items)
    assert "neither clusters nor items vary" in str(result)


def test_exchanging_the_methods_turns_the_result_and_seeds_are_fixed():
    generator = np.random.default_rng(2)
    one, other = generator.random((2, 5, 40))
    result, turned = items_by_clusters(one, other), items_by_clusters(other, one)
    assert result == items_by_clusters(one, other)
    assert (turned.low, turned.high) == pytest.approx((-result.high, -result.low))
    assert turned.standard_error == pytest.approx(result.standard_error)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (np.ones((3, 4)), {}, r"shape \(3, 4\) and \(3, 5\)"),
        (np.ones(5), {}, r"correct_method has shape \(5,\)"),
        (np.ones((1, 5)), {}, "at least 2 of each"),
        (np.full((3, 5), np.nan), {}, "is nan at cluster 0, item 0"),
        (np.ones((3, 5)), {"level": 95}, "level is 95"),
        (np.ones((3, 5)), {"resamples": 5}, "resamples is 5"),
    ],
)
def test_wrong_arrays_are_refused(method, options, message):
    with pytest.raises(ValueError, match=message):
        items_by_clusters(method, np.ones((3, 5)), **options)
