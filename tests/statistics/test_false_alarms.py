"""Why whole clusters are flipped: train sizes of one seed are not independent."""

import math

import numpy as np

from attrreg.statistics.permutation import sign_flip_p

REPEATS = 500
CLUSTERS, SIZES, CORRELATION, ALPHA = 6, 3, 0.5, 0.05


def test_only_flipping_whole_clusters_keeps_the_level():
    generator = np.random.default_rng(0)
    of_seed = generator.normal(0, math.sqrt(CORRELATION), (REPEATS, CLUSTERS, 1))
    of_run = generator.normal(0, math.sqrt(1 - CORRELATION), (REPEATS, CLUSTERS, SIZES))
    differences = of_seed + of_run  # no true difference

    whole = np.mean([sign_flip_p(x.mean(axis=1)) <= ALPHA for x in differences])
    apart = np.mean([sign_flip_p(x.ravel()) <= ALPHA for x in differences])

    error = 3 * math.sqrt(ALPHA * (1 - ALPHA) / REPEATS)
    assert whole <= ALPHA + error
    assert apart >= 2 * ALPHA + error
