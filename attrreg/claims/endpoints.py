"""Endpoints: from the table of metrics to one effect per cluster, on the scale of a claim.

An effect is positive where it goes the way that the claim says. On ratio scales it is a logarithm:
cells with small and with large errors then weigh alike, and the mean of logarithms is shown as a
percentage.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
import pandas as pd

from attrreg.claims.specification import Cells, Endpoint
from attrreg.statistics.pairing import KEYS, metric_table, pair

__all__ = [
    "Effects",
    "Yardstick",
    "effects",
    "matching",
    "values_of",
    "within",
    "without_logarithm",
]

RUN = ["dataset", "model", "method", "seed"]
FACTORS = {"absolute": 1.0, "points": 100.0, "percent": 100.0}


@dataclass(frozen=True)
class Yardstick:
    """From effects as they are computed to the unit in which they are shown and judged.

    A ratio is shown as the percentage by which the method lies below its comparator, or above it,
    so an effect of log 0.95 or log 1.05 in the direction of the claim is 5 percent.
    """

    is_ratio: bool
    higher: bool
    unit: str

    @classmethod
    def of(cls, endpoint: Endpoint, unit: str) -> "Yardstick":
        """Return that of an endpoint in a unit."""
        return cls(endpoint.scale != "difference", endpoint.direction == "higher", unit)

    def shown(self, effect: float) -> float:
        """Return an effect in the unit."""
        if not self.is_ratio:
            return FACTORS[self.unit] * effect
        with np.errstate(over="ignore"):
            return float(100 * np.expm1(effect) if self.higher else -100 * np.expm1(-effect))

    def effect(self, shown: float) -> float:
        """Return what `shown` was made of."""
        if not self.is_ratio:
            return shown / FACTORS[self.unit]
        return float(np.log1p(shown / 100) if self.higher else -np.log1p(-shown / 100))


@dataclass(frozen=True)
class Effects:
    """The effects of a method against a reference.

    Parameters
    ----------
    clusters
        (S,) float64, one for each complete cluster.
    missing
        The runs without a value, as ``dataset/model/method/n<train_size>/s<seed>``.
    left_out
        The cells that do not count, as they differ in what must be equal.
    """

    clusters: np.ndarray
    missing: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def matching(metric: str, other_than: tuple[str, ...], present: Mapping[str, object]) -> list[str]:
    """Return the metrics that a name stands for, in the order of the table."""
    if "*" not in metric:
        return [metric] if metric in present else []
    return [each for each in present if fnmatchcase(each, metric) and each not in other_than]


def values_of(
    endpoint: Endpoint, metric: str, metrics: pd.DataFrame, test_sizes: Mapping[str, int]
) -> pd.DataFrame:
    """Return one value per run whose differences are the endpoint's, before slopes are taken.

    An error rate is at least half a sample of the test split, so that no error at all has a
    logarithm. For ratios of other metrics, the column ``raw`` is what the logarithm was taken of.

    Raises
    ------
    ValueError
        If the table is not as described, or an accuracy is no share.
    """
    table = metric_table(metrics, metric)
    if endpoint.minus:
        other = metric_table(metrics, endpoint.minus)
        table = table.merge(other, how="left", on=KEYS, suffixes=("", "_other"))
        return table.assign(value=table["value"] - table["value_other"])[[*KEYS, "value"]]
    if endpoint.scale == "difference":
        return table
    if endpoint.scale == "log-ratio":
        return table.assign(
            value=np.log(table["value"].where(table["value"] > 0)), raw=table["value"]
        )
    _check_share(table, metric)
    floor = 0.5 / table["dataset"].map(test_sizes).to_numpy(dtype=np.float64)
    return table.assign(value=np.log(np.maximum(1 - table["value"], floor)))


def within(
    table: pd.DataFrame, cells: Cells, group: str, modalities: Mapping[str, str], models: Mapping
) -> pd.DataFrame:
    """Return the rows in the cells of a claim; of one group, where one is named."""
    kept = table["train_size"].between(cells.at_least, cells.at_most or np.inf)
    allowed: tuple[str, ...] = cells.modalities
    patterns = [pattern for family in cells.models.values() for pattern in family]
    if group and cells.models:
        patterns = list(cells.models[group])
    elif group:
        allowed = (group,)
    if allowed:
        kept &= table["dataset"].map(modalities).isin(allowed)
    if patterns:
        base = table["model"].map(lambda name: models.get(name, name))
        kept &= base.map(lambda name: any(fnmatchcase(name, each) for each in patterns))
    return table[kept]


def effects(
    endpoint: Endpoint, table: pd.DataFrame, method: str, reference: str, metrics: pd.DataFrame
) -> Effects:
    """Return the effects of a method against a reference, one per cluster (dataset, seed).

    Cells are weighted equally within a cluster; a cluster counts only if both have all its cells.

    Parameters
    ----------
    endpoint
        What is measured.
    table
        The values in the cells of the claim.
    method, reference
        The two.
    metrics
        Where to look up what must be equal.
    """
    left_out: tuple[str, ...] = ()
    if endpoint.equal is not None:
        table, left_out = _equal(endpoint, table, method, reference, metrics)
    if table.empty:
        return Effects(np.empty(0), (), left_out)
    pairing = pair(table, method, reference)
    if endpoint.scale == "log-error-slope":
        slopes = _slopes(table[table["method"].isin([method, reference])])
        differences = pair(slopes, method, reference).differences
    else:
        differences = pairing.differences
    sign = 1.0 if endpoint.direction == "higher" else -1.0
    return Effects(sign * differences + 0.0, pairing.missing, left_out)  # no negative zeros


def _slopes(table: pd.DataFrame) -> pd.DataFrame:
    """Return the least-squares slope of the values on log₁₀ of the training size.

    One per run of a dataset, a model, a method and a seed; NaN unless it has all sizes of its
    dataset. Datasets with a single size have none. The slope of a difference is the difference of
    slopes.
    """
    parts = [pd.DataFrame(columns=[*KEYS, "value"]).astype({"value": "float64"})]
    for _, rows in table.groupby("dataset"):
        wide = rows.pivot(index=RUN, columns="train_size", values="value")
        x = np.log10(wide.columns.to_numpy(dtype=np.float64))
        if x.size < 2:
            continue
        weights = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
        slopes = (wide * weights).sum(axis=1, skipna=False)
        parts.append(slopes.rename("value").reset_index().assign(train_size=0))
    return pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)


def _equal(
    endpoint: Endpoint, table: pd.DataFrame, method: str, reference: str, metrics: pd.DataFrame
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Keep the cells in which the two are equal in what must be, and name the others."""
    assert endpoint.equal is not None
    cell = ["dataset", "model", "train_size"]
    rows = metric_table(metrics, endpoint.equal.metric)
    wide = rows[rows["method"].isin([method, reference])].pivot(
        index=[*cell, "seed"], columns="method", values="value"
    )
    wide = wide.reindex(columns=[method, reference])
    apart = (wide[method] - wide[reference]).abs().groupby(cell).mean()
    equal = apart.index[apart <= endpoint.equal.within]
    kept = pd.MultiIndex.from_frame(table[cell]).isin(equal)
    own = table["method"].isin([method, reference])
    names = table.loc[own & ~kept, cell].drop_duplicates().itertuples(index=False, name=None)
    left_out = tuple(f"{dataset}/{model}/n{size}" for dataset, model, size in names)
    return table[kept], left_out


def without_logarithm(table: pd.DataFrame, methods: list[str]) -> str:
    """Say which value of some methods has no logarithm, though the scale needs one; or nothing."""
    if "raw" not in table:
        return ""
    wrong = table[table["method"].isin(methods) & (table["raw"] <= 0)]
    return f"a value above 0, as a ratio needs, {_first(wrong, 'raw')}" if len(wrong) else ""


def _check_share(table: pd.DataFrame, metric: str) -> None:
    wrong = table[table["value"].notna() & ~table["value"].between(0, 1)]
    if len(wrong):
        raise ValueError(f"metric {metric!r} must be a share from 0 to 1, {_first(wrong, 'value')}")


def _first(wrong: pd.DataFrame, column: str) -> str:
    """Name the first of several rows."""
    row = wrong.iloc[0]
    more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
    return (
        f"found {row[column]:g} for {row['dataset']}/{row['model']}/{row['method']}/"
        f"n{row['train_size']}/s{row['seed']}{more}"
    )
