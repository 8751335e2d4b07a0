"""Every model under every map: the robustness of the models and the faithfulness of the maps.

The model of method i, occluded in the order of the map of method j, gives one number for each pair.
The pairs i = j mix both, and are left out. Plain means of what is left would still not compare the
methods alike: the mean of a row lacks the map of its own method, so that a model is judged by other
maps than its neighbour. The layout without its diagonal is therefore fitted by one effect per row
and one per column, which has a closed form where no pair is missing.

References
----------
Searle, Linear models, 1971, chapter 7 (two-way layouts with empty cells).
"""

import numpy as np
import pandas as pd

__all__ = ["FEWEST", "areas", "crossed_metrics", "effects"]

FEWEST = 3  # methods; of two the effects of rows and columns cannot be told apart
PLACE = ["dataset", "model", "train_size"]
AREAS = {"occlusion-crossed": "most", "srg-crossed": "gain"}


def effects(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean of each row and of each column, as if every pair had been there.

    With K rows, sums R of rows, C of columns and T of all pairs off the diagonal, a row's mean is
    ((K − 1) R + C) / (K (K − 2)) − T / (K (K − 1) (K − 2)), the least-squares fit of an additive
    layout; a column's has R and C exchanged.

    Parameters
    ----------
    pairs
        (K, K) float64; the diagonal is not looked at.

    Returns
    -------
    tuple of numpy.ndarray
        (K,) each; NaN with fewer than three rows, or where a pair off the diagonal is not finite.
    """
    count = len(pairs)
    if count < FEWEST:
        return np.full(count, np.nan), np.full(count, np.nan)
    others = np.where(np.eye(count, dtype=bool), 0.0, pairs)
    others = np.where(np.isfinite(others), others, np.nan)
    rows, columns = others.sum(1), others.sum(0)
    common = others.sum() / (count * (count - 1) * (count - 2))
    adjusted = [
        ((count - 1) * own + other) / (count * (count - 2)) - common
        for own, other in ((rows, columns), (columns, rows))
    ]
    return adjusted[0], adjusted[1]


def areas(cross: pd.DataFrame) -> pd.DataFrame:
    """Return the area under every pair of curves, divided by the range of the fractions.

    Parameters
    ----------
    cross
        Rows of ``cross.csv``.

    Returns
    -------
    pandas.DataFrame
        A row per run and ``map_of``: the areas ``most`` and ``least``, of the order named, and
        ``gain``, least − most. NaN without a finite accuracy at every fraction of the place, or at
        fewer than two.
    """
    curve = ["method", "seed", "map_of"]
    accuracy = pd.to_numeric(cross["accuracy"], errors="coerce")
    finite = cross.assign(accuracy=accuracy.where(np.isfinite(accuracy)))
    parts = [pd.DataFrame(columns=[*PLACE, *curve, "most", "least"])]
    for key, here in finite.groupby(PLACE, sort=True):
        table = here.groupby([*curve, "first", "fraction"], sort=True)["accuracy"].mean().unstack()
        x = table.columns.to_numpy(dtype="float64")
        extent = x[-1] - x[0] or np.nan
        area = np.trapezoid(table.to_numpy(dtype="float64"), x, axis=1) / extent
        both = pd.Series(area, table.index).unstack().reindex(columns=["most", "least"])
        parts.append(both.reset_index().assign(**dict(zip(PLACE, key, strict=True))))
    found = pd.concat(parts[1:] or parts, ignore_index=True)
    return found.assign(gain=found["least"] - found["most"])


def crossed_metrics(cross: pd.DataFrame) -> pd.DataFrame:
    """Return by run how its model lasts under maps of others, and its map tells on their models.

    Parameters
    ----------
    cross
        Rows of ``cross.csv``, of all methods that take part.

    Returns
    -------
    pandas.DataFrame
        Columns dataset, model, train_size, seed, method, metric, value. ``occlusion-crossed`` is
        the effect of the model on the area with the most relevant first, ``srg-crossed`` that of
        the map on the gain (`effects`). No rows where a pair of a place and seed is missing.
    """
    found, methods = areas(cross), sorted(set(cross["method"]) | set(cross["map_of"]))
    rows = []
    for key, here in found.groupby([*PLACE, "seed"], sort=True):
        for metric, name in AREAS.items():
            pairs = here.pivot(index="method", columns="map_of", values=name)
            by_row, by_column = effects(
                pairs.reindex(index=methods, columns=methods).to_numpy(dtype="float64")
            )
            values = by_row if metric == "occlusion-crossed" else by_column
            rows += [
                (*key, method, metric, value)
                for method, value in zip(methods, values, strict=True)
                if np.isfinite(value)
            ]
    return pd.DataFrame(rows, columns=[*PLACE, "seed", "method", "metric", "value"])
