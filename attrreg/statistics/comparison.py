"""Paired comparisons of methods with a reference, one family per metric."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from attrreg.statistics.bounds import Bounds, check_failed, worst_case
from attrreg.statistics.choices import check_choice
from attrreg.statistics.correction import CORRECTIONS, corrected
from attrreg.statistics.design import ALTERNATIVES, smallest_p
from attrreg.statistics.directions import is_higher_better
from attrreg.statistics.equivalence import equivalence_p, noninferiority_p
from attrreg.statistics.intervals import effect_size, interval, interval_method, spread, t_test_p
from attrreg.statistics.pairing import Pairing, metric_table, pair
from attrreg.statistics.permutation import sign_flip_p
from attrreg.statistics.power import smallest_visible
from attrreg.statistics.scales import on_scale, percent_change
from attrreg.statistics.verdict import Evidence, Question, decide

__all__ = ["COLUMNS", "compare"]

# The columns of `compare` in their order, with their types.
COLUMNS = {
    "method": "str",
    "reference": "str",
    "metric": "str",
    "scale": "str",
    "difference": "float64",
    "low": "float64",
    "high": "float64",
    "interval": "str",
    "low_permutation": "float64",
    "high_permutation": "float64",
    "percent": "float64",
    "p": "float64",
    "p_corrected": "float64",
    "p_t": "float64",
    "p_equivalence": "float64",
    "p_noninferiority": "float64",
    "effect": "float64",
    "visible": "float64",
    "n_clusters": "int64",
    "n_pairs": "int64",
    "n_missing": "int64",
    "n_failed": "int64",
    "difference_worst": "float64",
    "p_worst": "float64",
    "p_worst_corrected": "float64",
    "smallest_p": "float64",
    "clusters_needed": "Int64",
    "verdict": "str",
    "reason": "str",
    "missing": "str",
}


@dataclass(frozen=True)
class _Compared:
    """The paired differences of one comparison, as found and at their bounds."""

    pairing: Pairing
    bounds: Bounds
    worst: np.ndarray

    @property
    def all(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.pairing.differences, self.bounds.method, self.bounds.reference


def compare(
    metrics: pd.DataFrame,
    metric: str,
    reference: str,
    alternative: str = "two-sided",
    correction: str = "holm",
    *,
    alpha: float = 0.05,
    equivalence_margin: float | None = None,
    noninferiority_margin: float | None = None,
    higher_is_better: bool | None = None,
    methods: Sequence[str] | None = None,
    scale: str = "difference",
    floor: float | None = None,
    failed: Collection[str] = (),
) -> pd.DataFrame:
    """Compare every other method with a reference, by paired differences.

    The unit is the cluster (dataset, seed). Within it, the differences method − reference are
    averaged over models and train sizes, all cells weighted equally, because these share a subset
    and initial weights: treated as independent they would give many false alarms. A cluster counts
    only if both methods have all its cells.

    Parameters
    ----------
    metrics
        Columns dataset, model, method, train_size, seed, metric, value; one row per run and metric.
    metric
        The metric to compare; ``"error"`` is 1 − accuracy if the table has no such rows.
    reference
        The method that the others are compared with.
    alternative
        ``"two-sided"``, or the direction of method − reference: ``"greater"`` or ``"less"``.
    correction
        ``"holm"``, ``"benjamini-hochberg"`` or ``"none"``; the family is all rows of the result.
        Holm for what was claimed before looking, Benjamini-Hochberg for what is explored.
    alpha
        The level of the verdicts, above 0 and below 0.5; the intervals cover 1 − alpha.
    equivalence_margin
        In the unit of the scale (log(1.05) is 5 % on ``"log-ratio"``): differences below it do not
        matter. Declare it before looking.
    noninferiority_margin
        In the same unit: losses below it are accepted. Adds to the reason, not to the verdict.
    higher_is_better
        Only for a metric whose direction the package does not know.
    methods
        The methods to compare, in this order; one without any value gets a row that says so. By
        default all in the table, sorted.
    scale
        ``"difference"``, or ``"log-ratio"``: log(method / reference) in every cell (see
        `attrreg.statistics.scales.on_scale`).
    floor
        For ``"log-ratio"``: values from 0 to here are raised to it, for an error rate half a sample
        of the test set.
    failed
        Names of runs that failed, as ``dataset/model/method/n<train_size>/s<seed>`` (see
        `run_names`). A verdict is given only if it holds with the worst value in their place.

    Returns
    -------
    pandas.DataFrame
        One row per method other than the reference; differences are on the scale:

        * ``difference``: the mean over clusters; ``low``, ``high``, ``interval``: its interval and
          what kind it is, "t" below 20 clusters and "bca" from there (see `interval`), always
          two-sided and not corrected; NaN for one cluster, without width where all clusters agree;
        * ``low_permutation``, ``high_permutation``: the interval that belongs to p, infinite where
          too few clusters have none;
        * ``percent``: the change in percent, 100 · (exp(difference) − 1); NaN on ``"difference"``;
        * ``p``: the exact sign-flip test of whole clusters (see `sign_flip_p`); ``p_corrected``;
          ``p_t``: the paired t test beside it, NaN where the clusters do not differ;
        * ``p_equivalence``, ``p_noninferiority``: t tests against the margins, not corrected, at
          the least favourable values of failed runs; NaN without a margin;
        * ``effect``: Cohen's d_z (see `effect_size`);
        * ``visible``: the smallest true difference that a t test of so many clusters finds with
          80 % power at the observed spread, within the family; NaN where the spread is unknown;
        * ``n_clusters``, ``n_pairs``: clusters and pairs of runs used; ``n_missing``, ``missing``:
          runs of either method that are absent or not finite, and their names joined by ``;``;
          ``n_failed``: those of them that failed;
        * ``difference_worst``, ``p_worst``, ``p_worst_corrected``: the same with the worst value of
          the table in place of the failed runs of the one that looks better (see
          `attrreg.statistics.bounds`);
        * ``smallest_p``: the smallest exact p that this many clusters allow;
        * ``verdict``: ``better`` or ``worse`` if p_corrected ≤ alpha, and p_worst_corrected too, in
          the same direction; ``equivalent``, which goes before the other two, if a margin is
          declared and p_equivalence ≤ alpha, so that the (1 − 2·alpha) interval lies inside it
          (Schuirmann 1987); otherwise ``undecided``; ``reason``: why, in one sentence;
        * ``clusters_needed``: for an undecided row, the clusters with which a paired t test finds
          the observed effect with 80 % power and a sign-flip test can; empty where unknown.

    Raises
    ------
    ValueError
        If a name, an option or the table is not as described.
    """
    _check_options(alternative, correction, alpha)
    _check_margin("equivalence_margin", equivalence_margin)
    _check_margin("noninferiority_margin", noninferiority_margin)
    failed = check_failed(failed)
    table = on_scale(metric_table(metrics, metric), metric, scale, floor)
    if len(metrics) and table.empty:
        check_choice("metric", metric, metrics["metric"].unique())
    found = sorted(table["method"].unique())
    methods = found if methods is None else methods
    check_choice("reference method", reference, {*found, *methods})
    if higher_is_better is None:
        higher_is_better = is_higher_better(metric)
    others = [method for method in dict.fromkeys(methods) if method != reference]
    question = Question(
        alternative=alternative,
        correction=correction,
        alpha=alpha,
        equivalence_margin=equivalence_margin,
        noninferiority_margin=noninferiority_margin,
        higher_is_better=higher_is_better,
        family=len(others),
    )
    compared = [_paired(table, method, reference, failed, higher_is_better) for method in others]
    rows = [
        {"method": method, "reference": reference, "metric": metric, "scale": scale} | numbers
        for method, numbers in zip(others, _rows(question, compared, scale), strict=True)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def _check_options(alternative: str, correction: str, alpha: float) -> None:
    check_choice("alternative", alternative, ALTERNATIVES)
    check_choice("correction", correction, CORRECTIONS)
    if not 0 < alpha < 0.5:
        raise ValueError(f"alpha is {alpha}: a level above 0 and below 0.5 is allowed")


def _check_margin(name: str, margin: float | None) -> None:
    if margin is not None and not 0 < margin < np.inf:
        raise ValueError(
            f"{name} is {margin}: a finite number above 0 is allowed, in the unit of the scale, or "
            "None"
        )


def _paired(
    table: pd.DataFrame, method: str, reference: str, failed: Collection[str], higher: bool
) -> _Compared:
    pairing = pair(table, method, reference, failed)
    bounds = worst_case(table, pairing, method, reference, failed, higher)
    return _Compared(pairing, bounds, bounds.against(pairing.differences, higher))


def _rows(question: Question, compared: Sequence[_Compared], scale: str) -> list[dict[str, Any]]:
    """Return the numbers and the verdict of every comparison in the family."""
    p = np.array([_p(each.pairing.differences, question) for each in compared])
    p_worst = np.array(
        [
            p[i] if each.worst is each.pairing.differences else _p(each.worst, question)
            for i, each in enumerate(compared)
        ]
    )
    n_clusters = [each.pairing.differences.size for each in compared]
    smallest = np.array([smallest_p(size, question.alternative) for size in n_clusters])
    tests = pd.DataFrame(
        {
            "p": p,
            "p_corrected": corrected(p, question.correction),
            "p_worst": p_worst,
            "p_worst_corrected": corrected(p_worst, question.correction),
            "smallest_p": smallest,
        }
    ).to_dict("records")
    reachable = corrected(smallest, question.correction)
    rows = []
    for i, (each, test) in enumerate(zip(compared, tests, strict=True)):
        estimates = _estimates(question, each, scale)
        evidence = Evidence(
            pairing=each.pairing,
            p_corrected=test["p_corrected"],
            smallest=test["smallest_p"],
            reachable=reachable[i],
            p_equivalence=estimates["p_equivalence"],
            p_noninferiority=estimates["p_noninferiority"],
            visible=estimates["visible"],
            worst=each.worst,
            p_worst=test["p_worst_corrected"],
        )
        rows.append(estimates | test | vars(decide(question, evidence)))
    return rows


def _p(differences: np.ndarray, question: Question) -> float:
    """Return p of the sign-flip test, NaN without clusters."""
    return sign_flip_p(differences, question.alternative) if differences.size else math.nan


def _estimates(question: Question, compared: _Compared, scale: str) -> dict[str, Any]:
    pairing, differences = compared.pairing, compared.pairing.differences
    low, high = interval(differences, 1 - question.alpha)
    low_permutation, high_permutation = interval(differences, 1 - question.alpha, "permutation")
    return {
        "difference": _mean(differences),
        "low": low,
        "high": high,
        "interval": interval_method(differences.size),
        "low_permutation": low_permutation,
        "high_permutation": high_permutation,
        "percent": percent_change(_mean(differences), scale),
        "p_t": t_test_p(differences, question.alternative),
        "p_equivalence": _p_equivalence(question, compared),
        "p_noninferiority": _p_noninferiority(question, compared),
        "effect": effect_size(differences),
        "visible": _visible(question, differences),
        "n_clusters": differences.size,
        "n_pairs": pairing.n_pairs,
        "n_missing": len(pairing.missing),
        "n_failed": len(pairing.failed),
        "difference_worst": _mean(compared.worst),
        "missing": ";".join(pairing.missing),
    }


def _mean(differences: np.ndarray) -> float:
    return float(differences.mean()) if differences.size else math.nan


def _p_equivalence(question: Question, compared: _Compared) -> float:
    margin = question.equivalence_margin
    if margin is None:
        return math.nan
    return float(np.max([equivalence_p(each, margin) for each in compared.all]))


def _p_noninferiority(question: Question, compared: _Compared) -> float:
    margin = question.noninferiority_margin
    if margin is None:
        return math.nan
    both = (compared.pairing.differences, compared.bounds.method)
    p = [noninferiority_p(each, margin, question.higher_is_better) for each in both]
    return float(np.max(p))


def _visible(question: Question, differences: np.ndarray) -> float:
    """Return the smallest visible difference, NaN where the clusters show no spread."""
    deviation = spread(differences)
    if not deviation > 0:
        return math.nan
    return smallest_visible(
        differences.size,
        deviation,
        question.alpha,
        question.n_tests,
        alternative=question.alternative,
    )
