import subprocess
import sys

import pytest

from attrreg.statistics import clusters_needed, smallest_p
from attrreg.statistics.permutation import sign_flip_p


@pytest.mark.parametrize("alternative", ["two-sided", "greater"])
@pytest.mark.parametrize("n_clusters", range(1, 9))
def test_smallest_p_is_reached_by_differences_that_all_agree(n_clusters, alternative):
    differences = [0.1 * (i + 1) for i in range(n_clusters)]
    assert sign_flip_p(differences, alternative) == smallest_p(n_clusters, alternative)


def test_without_clusters_p_is_one():
    assert smallest_p(0) == 1.0


@pytest.mark.parametrize("alternative", ["two-sided", "less"])
@pytest.mark.parametrize("family", [1, 2, 5, 20])
@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.0625])
def test_clusters_needed_is_the_first_number_that_can_reach_alpha(alpha, family, alternative):
    needed = clusters_needed(alpha, family, alternative)
    assert smallest_p(needed, alternative) * family <= alpha
    assert smallest_p(needed - 1, alternative) * family > alpha


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"n_clusters is -1"):
        smallest_p(-1)
    with pytest.raises(ValueError, match=r"alternative 'greter': known are .* 'greater'\?"):
        smallest_p(3, "greter")
    with pytest.raises(ValueError, match=r"alpha is 0"):
        clusters_needed(0)
    with pytest.raises(ValueError, match=r"family is 0"):
        clusters_needed(0.05, 0)


def test_a_plan_needs_no_heavy_imports():
    code = (
        "import sys; from attrreg.statistics import clusters_needed, plan_power, smallest_p;"
        "plan_power(5, {'n = 50': 0.04}, 0.05, 3);"
        "heavy = {'numpy', 'pandas', 'scipy', 'torch'} & set(sys.modules); sys.exit(str(heavy)"
        " if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_comparing_needs_no_torch():
    code = (
        "import sys; from attrreg.statistics import compare; sys.exit(int('torch' in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_is_there():
    import attrreg.statistics

    for name in attrreg.statistics.__all__:
        assert callable(getattr(attrreg.statistics, name))


def test_scipy_stats_is_imported_by_those_functions_only_that_use_it():
    code = (
        "import sys, attrreg.statistics as s; [getattr(s, name) for name in s.__all__];"
        "import pandas; found = lambda: int('scipy.stats' in sys.modules);"
        "before = found(); s.wilcoxon_pairs(pandas.DataFrame({'a': [1, 2, 4], 'b': [2, 2, 2]}));"
        "sys.exit(before or 1 - found())"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_attribute_is_an_attribute_error():
    import attrreg.statistics

    with pytest.raises(AttributeError, match="compair"):
        _ = attrreg.statistics.compair
