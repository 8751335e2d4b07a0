"""Whole grids in which no method differs: how often is one called better or worse?

Every run of a seed shares a subset, so that all cells of a cluster move together; every method
meets the same reference, so that all comparisons do.
"""

import itertools

import numpy as np
import pandas as pd
import pytest

from attrreg.statistics import compare
from attrreg.statistics.correction import corrected
from attrreg.statistics.intervals import t_test_p
from attrreg.statistics.permutation import sign_flip_p

GRIDS, CLUSTERS, METHODS, ALPHA = 2000, 8, 3, 0.05
SIZES, MODELS = (50, 200, 800, 3200), ("resnet", "vit")
CELLS = len(SIZES) * len(MODELS)


def null_values(correlation, n_grids=GRIDS):
    """Return (grids, 1 + methods, clusters, cells) values of methods that are all the same.

    The difference of two methods has this correlation between cells of one seed.
    """
    generator = np.random.default_rng(round(100 * correlation))
    shape = (n_grids, 1 + METHODS, CLUSTERS)
    shared = generator.normal(0, 2.0, (n_grids, 1, CLUSTERS, CELLS))  # how easy the subset is
    of_seed = generator.normal(0, np.sqrt(correlation), (*shape, 1))
    of_run = generator.normal(0, np.sqrt(1 - correlation), (*shape, CELLS))
    return shared + of_seed + of_run


def test_the_simulated_differences_correlate_within_a_seed():
    values = null_values(0.3)
    differences = values[:, 1] - values[:, 0]
    pairs = differences.reshape(-1, CELLS)
    found = np.corrcoef(pairs.T)[~np.eye(CELLS, dtype=bool)]
    assert found.mean() == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize("correlation", [0.3, 0.5])
def test_whole_clusters_keep_the_level_of_the_family_and_single_runs_do_not(correlation):
    values = null_values(correlation)
    differences = values[:, 1:] - values[:, :1]
    whole = np.array([[sign_flip_p(x) for x in grid] for grid in differences.mean(axis=-1)])
    apart = np.array(
        [
            [t_test_p(x, "two-sided") for x in grid]
            for grid in differences.reshape(GRIDS, METHODS, -1)
        ]
    )
    assert alarms(whole) <= 0.06
    assert 0.2 <= np.mean(apart <= ALPHA) <= 0.5  # a single comparison
    assert 0.3 <= alarms(apart) <= 0.7  # the family, in spite of Holm


def alarms(p):
    """Return the share of grids in which any comparison is significant after Holm."""
    return np.mean([corrected(grid, "holm").min() <= ALPHA for grid in p])


@pytest.mark.parametrize("correlation", [0.3, 0.5])
def test_what_is_simulated_is_what_compare_does(correlation):
    keys = itertools.product(range(1 + METHODS), range(CLUSTERS), MODELS, SIZES)
    runs = pd.DataFrame(keys, columns=["method", "seed", "model", "train_size"])
    runs["method"] = runs["method"].map("m{}".format)
    for values in null_values(correlation, n_grids=5):
        metrics = runs.assign(dataset="digits", metric="nll", value=values.ravel())
        found = compare(metrics, "nll", "m0")
        differences = (values[1:] - values[:1]).mean(axis=-1)
        p = np.array([sign_flip_p(x) for x in differences])
        np.testing.assert_allclose(found["p"], p)
        np.testing.assert_allclose(found["p_corrected"], corrected(p, "holm"))
        assert (found["verdict"] == "undecided").all() == (corrected(p, "holm").min() > ALPHA)
