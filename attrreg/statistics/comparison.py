"""Paired comparisons of methods with a reference, one family per metric."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from attrreg.statistics.choices import check_choice
from attrreg.statistics.correction import CORRECTIONS, corrected
from attrreg.statistics.design import ALTERNATIVES, smallest_p
from attrreg.statistics.directions import is_higher_better
from attrreg.statistics.intervals import effect_size, t_interval, t_test_p
from attrreg.statistics.pairing import Pairing, metric_table, pair
from attrreg.statistics.permutation import sign_flip_p
from attrreg.statistics.verdict import Question, decide

__all__ = ["COLUMNS", "compare", "compare_all"]

# The columns of `compare` in their order, with their types.
COLUMNS = {
    "method": "str",
    "reference": "str",
    "metric": "str",
    "difference": "float64",
    "low": "float64",
    "high": "float64",
    "p": "float64",
    "p_corrected": "float64",
    "p_t": "float64",
    "effect": "float64",
    "n_clusters": "int64",
    "n_pairs": "int64",
    "n_missing": "int64",
    "smallest_p": "float64",
    "clusters_needed": "Int64",
    "verdict": "str",
    "reason": "str",
    "missing": "str",
}


def compare(
    metrics: pd.DataFrame,
    metric: str,
    reference: str,
    alternative: str = "two-sided",
    correction: str = "holm",
    *,
    alpha: float = 0.05,
    equivalence_margin: float | None = None,
    higher_is_better: bool | None = None,
    methods: Sequence[str] | None = None,
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
        The metric to compare.
    reference
        The method that the others are compared with.
    alternative
        ``"two-sided"``, or the direction of method − reference: ``"greater"`` or ``"less"``.
    correction
        ``"holm"``, ``"benjamini-hochberg"`` or ``"none"``; the family is all rows of the result.
    alpha
        The level of the verdicts, above 0 and below 0.5; the interval covers 1 − alpha.
    equivalence_margin
        In the metric's unit: differences below it do not matter. Declare it before looking.
    higher_is_better
        Only for a metric whose direction the package does not know.
    methods
        The methods to compare, in this order; one without any value gets a row that says so. By
        default all in the table, sorted.

    Returns
    -------
    pandas.DataFrame
        One row per method other than the reference:

        * ``difference``: the mean over clusters; ``low``, ``high``: its paired t interval, always
          two-sided and not corrected; NaN for one cluster, without width where all clusters agree;
        * ``p``: the exact sign-flip test of whole clusters (see `sign_flip_p`); ``p_corrected``;
          ``p_t``: the paired t test beside it, NaN where the clusters do not differ;
        * ``effect``: Cohen's d_z (see `effect_size`);
        * ``n_clusters``, ``n_pairs``: clusters and pairs of runs used; ``n_missing``, ``missing``:
          runs of either method that are absent or not finite, and their names joined by ``;``;
        * ``smallest_p``: the smallest exact p that this many clusters allow;
        * ``verdict``: ``better`` or ``worse`` if p_corrected ≤ alpha; ``equivalent``, which goes
          before the other two, if a margin is declared and the (1 − 2·alpha) interval lies inside
          it (Schuirmann 1987); otherwise ``undecided``; ``reason``: why, in one sentence;
        * ``clusters_needed``: for an undecided row, the clusters with which a paired t test finds
          the observed effect with 80 % power and a sign-flip test can; empty where unknown.

    Raises
    ------
    ValueError
        If a name, an option or the table is not as described.
    """
    _check_options(alternative, correction, alpha, equivalence_margin)
    table = metric_table(metrics, metric)
    if len(metrics):
        check_choice("metric", metric, metrics["metric"].unique())
    found = sorted(table["method"].unique())
    methods = found if methods is None else methods
    check_choice("reference method", reference, {*found, *methods})
    if higher_is_better is None:
        higher_is_better = is_higher_better(metric)
    others = [method for method in dict.fromkeys(methods) if method != reference]

    pairings = [pair(table, method, reference) for method in others]
    p = np.array([_p(pairing, alternative) for pairing in pairings])
    p_corrected = corrected(p, correction)
    smallest = np.array([smallest_p(x.differences.size, alternative) for x in pairings])
    reachable = corrected(smallest, correction)
    question = Question(
        alternative, correction, alpha, equivalence_margin, higher_is_better, len(others)
    )
    rows = []
    for i, (method, pairing) in enumerate(zip(others, pairings, strict=True)):
        verdict = decide(question, pairing, p_corrected[i], smallest[i], reachable[i])
        rows.append(
            {"method": method, "reference": reference, "metric": metric}
            | _estimates(pairing, alternative, 1 - alpha)
            | {"p": p[i], "p_corrected": p_corrected[i], "smallest_p": smallest[i]}
            | vars(verdict)
        )
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def compare_all(
    metrics: pd.DataFrame,
    references: Sequence[str],
    metrics_list: Sequence[str],
    controls: Sequence[tuple[str, str]] = (),
    by_train_size: bool = True,
    *,
    alternative: str = "two-sided",
    correction: str = "holm",
    alpha: float = 0.05,
    equivalence_margins: Mapping[str, float] | None = None,
    higher_is_better: Mapping[str, bool] | None = None,
    methods: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Make all comparisons of an experiment: its table of tests.

    Per metric and reference, and then per guided method and its control, there is a comparison over
    all train sizes and one for each of them. Each is a family of its own for the correction: all
    methods against a reference; the one pair against a control, which is left out if the control is
    a reference already.

    Parameters
    ----------
    metrics
        As in `compare`. An empty table, where every run has failed, gives undecided rows.
    references
        The reference methods.
    metrics_list
        The metrics to compare.
    controls
        Pairs (guided method, its control); the control is the reference.
    by_train_size
        Whether single train sizes are compared too.
    alternative, correction, alpha
        As in `compare`, for all comparisons.
    equivalence_margins, higher_is_better
        What `compare` takes, by metric; metrics not named get none.
    methods
        All methods of the experiment, in display order. One whose runs have all failed then still
        has its rows. By default those in the table, sorted.

    Returns
    -------
    pandas.DataFrame
        The columns reference, method, metric, train_size (``"all"`` or the number, as text), and
        then those of `compare`; the order of rows follows the arguments.

    Raises
    ------
    ValueError
        As `compare`.
    """
    if methods is None:
        methods = sorted(metrics["method"].unique())
    families = [(reference, list(methods)) for reference in references]
    families += [
        (control, [guided, control]) for guided, control in controls if control not in references
    ]
    for reference, members in families:
        for name in (reference, *members):
            check_choice("method", name, methods)

    order = ["reference", "method", "metric", "train_size"]
    order += [column for column in COLUMNS if column not in order]
    parts = [pd.DataFrame(columns=order).astype(COLUMNS | {"train_size": "str"})]
    for metric in metrics_list:
        sizes = sorted(metrics.loc[metrics["metric"] == metric, "train_size"].unique())
        for reference, members in families:
            for size in ["all", *sizes] if by_train_size else ["all"]:
                part = compare(
                    metrics if size == "all" else metrics[metrics["train_size"] == size],
                    metric,
                    reference,
                    alternative,
                    correction,
                    alpha=alpha,
                    equivalence_margin=(equivalence_margins or {}).get(metric),
                    higher_is_better=(higher_is_better or {}).get(metric),
                    methods=members,
                )
                parts.append(part.assign(train_size=str(size))[order])
    return pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)


def _check_options(
    alternative: str, correction: str, alpha: float, equivalence_margin: float | None
) -> None:
    check_choice("alternative", alternative, ALTERNATIVES)
    check_choice("correction", correction, CORRECTIONS)
    if not 0 < alpha < 0.5:
        raise ValueError(f"alpha is {alpha}: a level above 0 and below 0.5 is allowed")
    if equivalence_margin is not None and not 0 < equivalence_margin < np.inf:
        raise ValueError(
            f"equivalence_margin is {equivalence_margin}: a finite number above 0 is allowed, in "
            "the unit of the metric, or None"
        )


def _p(pairing: Pairing, alternative: str) -> float:
    """Return p of the sign-flip test, NaN without clusters."""
    return sign_flip_p(pairing.differences, alternative) if pairing.differences.size else np.nan


def _estimates(pairing: Pairing, alternative: str, level: float) -> dict[str, Any]:
    differences = pairing.differences
    low, high = t_interval(differences, level)
    return {
        "difference": differences.mean() if differences.size else np.nan,
        "low": low,
        "high": high,
        "p_t": t_test_p(differences, alternative),
        "effect": effect_size(differences),
        "n_clusters": differences.size,
        "n_pairs": pairing.n_pairs,
        "n_missing": len(pairing.missing),
        "missing": ";".join(pairing.missing),
    }
