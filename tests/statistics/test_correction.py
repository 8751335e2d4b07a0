import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from attrreg.statistics.correction import corrected


@pytest.mark.parametrize(("ours", "theirs"), [("holm", "holm"), ("benjamini-hochberg", "fdr_bh")])
@pytest.mark.parametrize("size", [1, 5, 100])
def test_equals_statsmodels(size, ours, theirs):
    p = np.random.default_rng(size).uniform(0, 1, size).round(2) ** 3  # with ties
    np.testing.assert_allclose(corrected(p, ours), multipletests(p, method=theirs)[1], rtol=1e-12)


@pytest.mark.parametrize("correction", ["holm", "benjamini-hochberg"])
@given(p=st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_a_correction_never_helps_and_keeps_the_order(correction, p):
    adjusted = corrected(p, correction)
    assert (adjusted >= np.array(p) * (1 - 1e-12)).all()
    assert (adjusted <= 1).all()
    assert (np.diff(adjusted[np.argsort(p)]) >= 0).all()


def test_holm_by_hand():
    # 0.01·4, then 0.02·3, then 0.03·2 = 0.06 as well, then max(0.06, 0.04·1).
    np.testing.assert_allclose(
        corrected([0.04, 0.01, 0.03, 0.02], "holm"), [0.06, 0.04, 0.06, 0.06]
    )


def test_none_changes_nothing():
    np.testing.assert_array_equal(corrected([0.04, np.nan], "none"), [0.04, np.nan])


@pytest.mark.parametrize("correction", ["holm", "benjamini-hochberg"])
def test_a_failed_comparison_still_counts(correction):
    adjusted = corrected([0.01, np.nan, 0.04], correction)
    np.testing.assert_allclose(adjusted[[0, 2]], corrected([0.01, 1.0, 0.04], correction)[[0, 2]])
    assert np.isnan(adjusted[1])


@pytest.mark.parametrize("correction", ["holm", "benjamini-hochberg", "none"])
def test_an_empty_family(correction):
    assert corrected([], correction).shape == (0,)


def test_unknown_correction():
    with pytest.raises(ValueError, match=r"unknown correction 'bonferoni': known are .*holm"):
        corrected([0.1], "bonferoni")
