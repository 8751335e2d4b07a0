"""How often the interval that is reported holds the truth, by simulated experiments."""

import numpy as np
import pytest

from attrreg.statistics.intervals import interval

REPEATS = 1500
DRAW = {
    "normal": lambda generator, n: generator.normal(size=n),
    # Skewness 1, as of accuracies that are close to their ceiling.
    "skewed": lambda generator, n: generator.gamma(4, size=n) - 4,
}


def coverage(shape, n_clusters, method="auto"):
    generator = np.random.default_rng(n_clusters)
    drawn = (DRAW[shape](generator, n_clusters) for _ in range(REPEATS))
    intervals = [interval(differences, 0.95, method) for differences in drawn]
    return np.mean([low <= 0 <= high for low, high in intervals])


@pytest.mark.parametrize("n_clusters", [5, 10, 30])
def test_normal_differences_are_covered(n_clusters):
    assert 0.93 <= coverage("normal", n_clusters) <= 0.97


@pytest.mark.parametrize("n_clusters", [5, 10, 30])
def test_skewed_differences_are_covered_a_little_less(n_clusters):
    # No interval knows the skewness of a handful of clusters: these fall short of their 95 %.
    assert 0.915 <= coverage("skewed", n_clusters) <= 0.97


def test_the_bootstrap_would_cover_too_little_below_twenty_clusters():
    assert coverage("normal", 5, "bca") < 0.93 <= coverage("normal", 5, "t")


def test_the_interval_of_the_exact_test_covers_its_level():
    assert 0.94 <= coverage("normal", 9, "permutation") <= 0.97
