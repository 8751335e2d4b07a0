"""Corrections of p for the number of comparisons made."""

import numpy as np

from attrreg.statistics.choices import check_choice

__all__ = ["CORRECTIONS", "corrected"]

CORRECTIONS = ("holm", "benjamini-hochberg", "none")


def corrected(p: np.ndarray, correction: str) -> np.ndarray:
    """Correct the p of one family of comparisons.

    Parameters
    ----------
    p
        (m,) float in [0, 1]; NaN is a comparison that could not be made. It counts in the family
        as p = 1, so that a failure does not make the others significant, and stays NaN.
    correction
        ``"holm"`` bounds the chance of any false alarm, ``"benjamini-hochberg"`` the expected share
        of false alarms among the findings (independent or positively dependent p), ``"none"``
        changes nothing.

    Returns
    -------
    numpy.ndarray
        (m,) float in [0, 1], in the order of ``p``.

    Raises
    ------
    ValueError
        If the correction is unknown.

    References
    ----------
    Holm, A simple sequentially rejective multiple test procedure, 1979.
    Benjamini & Hochberg, Controlling the false discovery rate, 1995.
    """
    check_choice("correction", correction, CORRECTIONS)
    p = np.asarray(p, dtype=np.float64)
    if correction == "none" or p.size == 0:
        return p
    family = np.where(np.isnan(p), 1.0, p)
    adjusted = _holm(family) if correction == "holm" else _benjamini_hochberg(family)
    return np.where(np.isnan(p), np.nan, adjusted)


def _holm(p: np.ndarray) -> np.ndarray:
    order = np.argsort(p, kind="stable")
    scaled = p[order] * np.arange(p.size, 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return adjusted


def _benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    order = np.argsort(-p, kind="stable")
    scaled = p[order] * (p.size / np.arange(p.size, 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.minimum.accumulate(scaled), 1.0)
    return adjusted
