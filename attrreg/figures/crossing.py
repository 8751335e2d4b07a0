"""Numbers of the cross maps: areas under pairs of curves, and their means with margins."""

import warnings
from dataclasses import dataclass

import numpy
import pandas

from attrreg.figures.gaps import has_number

__all__ = ["Matrix", "areas", "matrix_of"]


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
        (n,) means of the cells off the diagonal that are there; NaN where none is.
    """

    cells: numpy.ndarray
    is_whole: numpy.ndarray
    rows: numpy.ndarray
    columns: numpy.ndarray


def areas(rows: pandas.DataFrame) -> pandas.DataFrame:
    """Return the area under every pair of curves, divided by the range of the fractions.

    Returns
    -------
    pandas.DataFrame
        A row per run and ``map_of``: the areas ``most`` and ``least``, of the order named, and
        ``gain``, least − most. NaN without a finite accuracy at every fraction of the cell, or at
        fewer than two.
    """
    place, curve = ["dataset", "model", "train_size"], ["method", "seed", "map_of"]
    finite = rows.assign(accuracy=rows["accuracy"].where(has_number(rows["accuracy"])))
    parts = []
    for key, here in finite.groupby(place, sort=True):
        table = here.groupby([*curve, "first", "fraction"], sort=True)["accuracy"].mean().unstack()
        x = table.columns.to_numpy(dtype="float64")
        extent = x[-1] - x[0] or numpy.nan
        area = numpy.trapezoid(table.to_numpy(dtype="float64"), x, axis=1) / extent
        both = pandas.Series(area, table.index).unstack().reindex(columns=["most", "least"])
        parts.append(both.reset_index().assign(**dict(zip(place, key, strict=True))))
    found = pandas.concat(parts, ignore_index=True)
    return found.assign(gain=found["least"] - found["most"])


def matrix_of(cube: numpy.ndarray) -> Matrix:
    """Return the means of (seeds, n, n), NaN where a seed is missing, and of rows and columns."""
    own = numpy.eye(cube.shape[1], dtype=bool)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
        cells = numpy.nanmean(cube, 0)
        others = numpy.where(own, numpy.nan, cells)
        rows, columns = numpy.nanmean(others, 1), numpy.nanmean(others, 0)
    return Matrix(cells, numpy.isfinite(cube).all(0), rows, columns)
