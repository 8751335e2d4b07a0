"""The answers: every claim that an experiment has the results for, and what the others lack."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from attrreg import catalogue
from attrreg.claims.facts import Facts
from attrreg.claims.finding import Errors, Found, find, interval_of, needed
from attrreg.claims.gathering import Comparison, Gathered, Results, gather, questions
from attrreg.claims.reasons import reason_of
from attrreg.claims.specification import Claim
from attrreg.claims.verdicts import Bounds, position
from attrreg.statistics.correction import corrected
from attrreg.statistics.permutation import sign_flip_p

__all__ = ["COLUMNS", "answer", "exploratory"]

# The columns in their order, with their types. `role` is "answer", one row per claim, method and
# group; "decides", one row per comparison of it; "beside", what decides nothing.
COLUMNS = {
    "role": "str",
    "id": "str",
    "method": "str",
    "label": "str",
    "group": "str",
    "claim": "str",
    "verdict": "str",
    "endpoint": "str",
    "metric": "str",
    "comparator": "str",
    "reference": "str",
    "position": "str",
    "estimate": "float64",
    "low": "float64",
    "high": "float64",
    "unit": "str",
    "least": "float64",
    "kind": "str",
    "p": "float64",
    "p_corrected": "float64",
    "clusters": "Int64",
    "clusters_needed": "Int64",
    "claims_run": "int64",
    "alpha": "float64",
    "status": "str",
    "source": "str",
    "missing": "str",
    "reason": "str",
}


def answer(claims: Sequence[Claim], metrics: pd.DataFrame, facts: Facts) -> pd.DataFrame:
    """Answer the claims from a table of metrics.

    Parameters
    ----------
    claims
        From `attrreg.claims.specification.read_claims`, or some of them from `select`.
    metrics
        Columns dataset, model, method, train_size, seed, metric, value; one row per run and metric.
    facts
        What is known about the experiment.

    Returns
    -------
    pandas.DataFrame
        The columns `COLUMNS`. Per claim, method and group a row of role ``answer``, followed by its
        comparisons. ``estimate``, ``low`` and ``high`` are in ``unit`` and positive as the claim
        says; in an answer they are of the claim's effect, the smallest over its comparators.
        ``clusters_needed``: what would decide, where that is known; see
        `attrreg.claims.finding.needed`.

    Raises
    ------
    ValueError
        The table or the facts are not as described.
    """
    results = Results.of(metrics, facts)
    gathered = [gather(question, results) for question in questions(claims)]
    family = sum(not each.absent for each in gathered)
    found = [None if each.absent else find(each, family, facts.alpha) for each in gathered]
    p_corrected = iter(corrected(np.array([each.claim_p for each in found if each]), "holm"))
    rows = []
    for each, numbers in zip(gathered, found, strict=True):
        common = _common(each, family, facts.alpha)
        if numbers is None:
            rows.append(common | _not_run(each))
        else:
            p = float(next(p_corrected))
            rows += [common | row for row in _rows(each, numbers, p, family, facts.alpha)]
    blank = {name: "" if kind == "str" else None for name, kind in COLUMNS.items()}
    table = pd.DataFrame([blank | row for row in rows], columns=list(COLUMNS))
    return table.astype(COLUMNS)


def exploratory(table: pd.DataFrame, answers: pd.DataFrame) -> pd.Series:
    """Return by row of another table the ids of the claims that compare the same, or "exploratory".

    Parameters
    ----------
    table
        With the columns method and metric and, for comparisons, reference.
    answers
        From `answer`.
    """
    keys = [name for name in ("method", "reference", "metric") if name in table.columns]
    if missing := {"method", "metric"} - set(keys):
        raise ValueError(f"the table lacks the columns {sorted(missing)}: found {list(table)}")
    made = answers[(answers["role"] == "decides") & (answers["status"] == "declared")]
    if "reference" not in keys:  # a value of a reference is part of the claim, too
        made = pd.concat([made, made.assign(method=made["reference"])])
    ids = made.groupby(keys)["id"].agg(lambda each: ";".join(dict.fromkeys(each)))
    found = [ids.get(key, "exploratory") for key in table[keys].itertuples(index=False, name=None)]
    return pd.Series(found, index=table.index, dtype="str", name="status")


def _common(gathered: Gathered, family: int, alpha: float) -> dict[str, Any]:
    """Return what all rows of a question say."""
    question = gathered.question
    claim = question.claim
    return {
        "id": claim.id,
        "method": question.method,
        "label": catalogue.label(question.method),
        "group": question.group,
        "claim": claim.statement,
        "unit": claim.least.unit,
        "least": claim.least.value,
        "kind": claim.kind,
        "claims_run": family,
        "alpha": alpha,
        "status": f"exploratory: {claim.changed}" if claim.changed else "declared",
        "source": claim.source,
    }


def _not_run(gathered: Gathered) -> dict[str, Any]:
    return {
        "role": "answer",
        "verdict": "not run",
        "missing": ";".join(gathered.absent),
        "reason": f"missing: {'; '.join(gathered.absent)}",
    }


def _rows(
    gathered: Gathered, found: Found, p_corrected: float, family: int, alpha: float
) -> list[dict[str, Any]]:
    """Return the row of a claim that was run, and those of its comparisons."""
    verdict = found.verdict
    is_early = found.clusters < found.floor
    if is_early or (verdict == "supported" and not p_corrected <= alpha):
        verdict = "undecided"
    is_open = verdict == "undecided" or not found.settled
    enough = needed(gathered, family, alpha) if is_open else None
    claim = gathered.question.claim
    row = {
        "role": "answer",
        "verdict": verdict,
        "endpoint": "; ".join(dict.fromkeys(each.described for each in gathered.comparisons)),
        "estimate": found.estimate,
        "low": found.claim.low,
        "high": found.claim.high,
        "p": found.claim_p,
        "p_corrected": p_corrected,
        "clusters": found.clusters,
        "clusters_needed": enough,
        "missing": ";".join(gathered.noted),
        "reason": reason_of(gathered, found, verdict, p_corrected, enough, family, alpha),
    }
    deciding = [
        _row(each, "decides", bounds, p)
        | {"position": position(bounds, claim.least.value, claim.kind)}
        for each, bounds, p in zip(gathered.comparisons, found.bounds, found.p, strict=True)
    ]
    errors = Errors.of(gathered, alpha / family)
    beside = [
        _row(each, "beside", interval_of(each, errors), sign_flip_p(each.clusters))
        | {"unit": each.yardstick.unit, "least": np.nan}
        for each in gathered.beside
    ]
    return [row, *deciding, *beside]


def _row(comparison: Comparison, role: str, bounds: Bounds, p: float) -> dict[str, Any]:
    """Return the row of a comparison."""
    group = {"group": comparison.group} if comparison.group else {}
    return group | {
        "role": role,
        "endpoint": comparison.described,
        "metric": comparison.metric,
        "comparator": comparison.reference.title,
        "reference": comparison.reference.method,
        "estimate": comparison.estimate,
        "low": bounds.low,
        "high": bounds.high,
        "p": p,
        "clusters": comparison.clusters.size,
        "missing": ";".join(comparison.missing),
    }
