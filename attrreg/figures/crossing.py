"""Numbers of the cross maps: means over the seeds, and the effects of models and of maps."""

import warnings
from dataclasses import dataclass

import numpy

from attrreg.crossing import effects

__all__ = ["Matrix", "matrix_of"]


@dataclass(frozen=True, eq=False)
class Matrix:
    """Means over the seeds, with margins.

    Attributes
    ----------
    cells
        (n, n) float64: model trained by, map of; NaN where nothing is measured.
    is_whole
        (n, n): every seed is there.
    rows, columns
        (n,) effects of models and of maps, from the cells off the diagonal
        (`attrreg.crossing.effects`); NaN where one of these cells is missing.
    """

    cells: numpy.ndarray
    is_whole: numpy.ndarray
    rows: numpy.ndarray
    columns: numpy.ndarray


def matrix_of(cube: numpy.ndarray) -> Matrix:
    """Return the means of (seeds, n, n), NaN where a seed is missing, and the effects.

    Methods of which there is nothing at all take no part in the effects.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
        cells = numpy.nanmean(cube, 0)
    there = numpy.flatnonzero(numpy.isfinite(cells).any(0) | numpy.isfinite(cells).any(1))
    rows, columns = (numpy.full(len(cells), numpy.nan) for _ in range(2))
    rows[there], columns[there] = effects(cells[numpy.ix_(there, there)])
    return Matrix(cells, numpy.isfinite(cube).all(0), rows, columns)
