"""From the claims to the comparisons that answer them, or to what is missing for an answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from attrreg.claims.comparators import Reference, references
from attrreg.claims.endpoints import (
    Yardstick,
    effects,
    matching,
    values_of,
    within,
    without_logarithm,
)
from attrreg.claims.facts import Facts
from attrreg.claims.specification import Claim, Endpoint

__all__ = ["Comparison", "Gathered", "Question", "Results", "gather", "questions"]


@dataclass(frozen=True)
class Question:
    """A claim about one method, in one group of cells where each gets its own answer."""

    claim: Claim
    method: str
    group: str = ""


@dataclass(frozen=True)
class Comparison:
    """A method against one reference in one endpoint.

    Parameters
    ----------
    endpoint
        The place of the endpoint among those of the claim; None: it decides nothing.
    metric, group
        What is compared, and in which group of cells where the claim must hold in several.
    described
        The endpoint in words.
    reference
        The method that stands for the comparator.
    yardstick
        The unit of the effects.
    clusters
        (S,) float64, one effect per cluster, positive as the claim says.
    missing, left_out
        Runs without a value; cells that do not count.
    """

    endpoint: int | None
    metric: str
    group: str
    described: str
    reference: Reference
    yardstick: Yardstick
    clusters: np.ndarray
    missing: tuple[str, ...]
    left_out: tuple[str, ...]

    @property
    def estimate(self) -> float:
        """The mean effect in the unit of the claim."""
        return self.yardstick.shown(float(self.clusters.mean()))


@dataclass(frozen=True)
class Gathered:
    """All that is there to answer a question.

    Parameters
    ----------
    question
        The question.
    comparisons
        Those that decide.
    beside
        Those that decide nothing.
    absent
        What is missing so that it cannot be answered.
    noted
        What is missing though it can.
    """

    question: Question
    comparisons: tuple[Comparison, ...] = ()
    beside: tuple[Comparison, ...] = ()
    absent: tuple[str, ...] = ()
    noted: tuple[str, ...] = ()


@dataclass(frozen=True)
class Results:
    """The table of metrics, by metric, and the facts about its experiment."""

    by_metric: Mapping[str, pd.DataFrame]
    facts: Facts

    @classmethod
    def of(cls, metrics: pd.DataFrame, facts: Facts) -> "Results":
        """Take a table apart, after checking that the facts are about it.

        Raises
        ------
        ValueError
            It lacks a column, or has a dataset that the facts do not know.
        """
        wanted = ["dataset", "model", "method", "train_size", "seed", "metric", "value"]
        absent = [column for column in wanted if column not in metrics.columns]
        if absent:
            raise ValueError(
                f"the metrics table lacks the columns {absent}: found {list(metrics.columns)}; "
                f"one row per run and metric with the columns {wanted} is needed"
            )
        facts.check(metrics["dataset"].unique())
        by_metric = dict(iter(metrics.groupby("metric", sort=False)))
        return cls({str(name): table for name, table in by_metric.items()}, facts)


def questions(claims: Sequence[Claim]) -> list[Question]:
    """Return what is asked: every claim about each of its methods, and in each group apart."""
    return [
        Question(claim, method, group)
        for claim in claims
        for method in claim.methods
        for group in (claim.cells.names if claim.cells.groups == "apart" else ("",))
    ]


def gather(question: Question, results: Results) -> Gathered:
    """Make the comparisons of a question, or say what is missing for them.

    Of a claim that need not hold for all endpoints, some may be missing.
    """
    claim = question.claim
    found = _Found()
    lost = 0
    for place, endpoint in enumerate(claim.endpoints):
        of_endpoint = _of_endpoint(_Part(question, place, endpoint), results)
        found.add(of_endpoint)
        lost += bool(of_endpoint.absent)
    if found.comparisons and lost <= claim.failures_allowed:
        found.noted, found.absent = [*found.absent, *found.noted], []
    if found.absent:
        return Gathered(question, absent=_once(found.absent))
    beside = _Found()
    for endpoint in claim.beside:
        beside.add(_of_endpoint(_Part(question, None, endpoint), results))
    missing = [run for each in found.comparisons for run in each.missing]
    left_out = [cell for each in found.comparisons for cell in each.left_out]
    noted = [
        *found.noted,
        *beside.absent,
        *(f"run {run}" for run in missing),
        *(f"equal cell {cell}" for cell in left_out),
    ]
    return Gathered(question, tuple(found.comparisons), tuple(beside.comparisons), (), _once(noted))


@dataclass(frozen=True)
class _Part:
    """An endpoint of a question; later in one of its metrics and in one group of cells."""

    question: Question
    place: int | None
    endpoint: Endpoint
    metric: str = ""
    group: str = ""

    @property
    def cells(self) -> str:
        """The cells in words; empty if all."""
        cells = self.question.claim.cells
        words = [cells.sizes, self.group]
        if not self.group or cells.models:
            words.append(" or ".join(cells.modalities))
        if self.endpoint.scale == "log-error-slope":
            words.append("two or more training sizes")
        return ", ".join(filter(None, words))

    @property
    def described(self) -> str:
        """The endpoint in words."""
        minus = self.endpoint.minus
        of = f"{self.metric} − {minus}" if minus else self.metric
        words = {
            "log-error-ratio": f"error rate, 1 − {of}",
            "log-error-slope": f"slope of the log error rate on log n, 1 − {of}",
        }
        return f"{words.get(self.endpoint.scale, of)} ({self.endpoint.direction})"

    @property
    def yardstick(self) -> Yardstick:
        """The unit of the claim; what stands beside it has its own."""
        unit: str = self.question.claim.least.unit
        if self.place is None:
            unit = "points" if self.endpoint.scale == "difference" else "percent"
        return Yardstick.of(self.endpoint, unit)


@dataclass
class _Found:
    """Comparisons; what is missing so that they cannot be made; and what is missing else."""

    comparisons: list[Comparison] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    noted: list[str] = field(default_factory=list)

    def add(self, other: "_Found") -> None:
        """Take over what another has; its comparisons only where none of them is missing."""
        self.comparisons += [] if other.absent else other.comparisons
        self.absent += other.absent
        self.noted += other.noted


def _of_endpoint(part: _Part, results: Results) -> _Found:
    """Return the comparisons of an endpoint."""
    question, endpoint = part.question, part.endpoint
    name = endpoint.metric_of(question.method)
    metrics = matching(name, endpoint.other_than, results.by_metric)
    needed = [endpoint.minus, endpoint.equal.metric if endpoint.equal else ""]
    absent = [f"metric {each}" for each in needed if each and each not in results.by_metric]
    if not metrics:
        others = f" other than {', '.join(endpoint.other_than)}" if endpoint.other_than else ""
        absent = [f"metric {name}{others}", *absent]
    if absent:
        return _Found(absent=[*absent, *_methods_without_results(question, results)])
    cells = question.claim.cells
    groups = cells.names if cells.groups == "together" else (question.group,)
    found = _Found()
    for metric in metrics:
        rows = results.by_metric[metric]
        if endpoint.minus:
            rows = pd.concat([rows, results.by_metric[endpoint.minus]])
        table = values_of(endpoint, metric, rows, results.facts.test_sizes)
        for group in groups:
            found.add(_in_group(replace(part, metric=metric, group=group), table, results))
    return found


def _methods_without_results(question: Question, results: Results) -> list[str]:
    """Name the methods that a question needs and that the table has nothing about."""
    present = {name for table in results.by_metric.values() for name in table["method"].unique()}
    absent = [] if question.method in present else [f"method {question.method}"]
    for comparator in question.claim.against:
        absent += references(comparator, question.method, present, results.facts.baselines)[1]
    return absent


def _in_group(part: _Part, table: pd.DataFrame, results: Results) -> _Found:
    """Return the comparisons in one metric and one group of cells."""
    claim, facts = part.question.claim, results.facts
    table = within(table, claim.cells, part.group, facts.modalities, facts.models)
    if part.endpoint.scale == "log-error-slope":
        table = table[table.groupby("dataset")["train_size"].transform("nunique") >= 2]
    at = f" at {part.cells}" if part.cells else ""
    if table.empty:
        return _Found(absent=[part.metric + at])
    method, present = part.question.method, set(table["method"])
    where = f" (in {part.metric}{at})"
    found = _Found(absent=[] if method in present else [f"method {method}{where}"])
    against: list[Reference] = []
    for comparator in claim.against:
        there, lacks, remarks = references(comparator, method, present, facts.baselines)
        against += there
        found.absent += [each + where for each in lacks]
        found.noted += remarks
    if undefined := without_logarithm(table, [method, *(each.method for each in against)]):
        found.absent.append(f"{undefined} (in {part.metric})")
    if not found.absent:
        found.comparisons = [_compare(part, table, each, results) for each in against]
        found.absent = [
            _no_cluster(part, each) for each in found.comparisons if not len(each.clusters)
        ]
    return found


def _compare(
    part: _Part, table: pd.DataFrame, reference: Reference, results: Results
) -> Comparison:
    """Compare the method of a question with a reference."""
    endpoint, claim = part.endpoint, part.question.claim
    equal = results.by_metric[endpoint.equal.metric] if endpoint.equal else table
    found = effects(endpoint, table, part.question.method, reference.method, equal)
    return Comparison(
        endpoint=part.place,
        metric=part.metric,
        group=part.group if claim.cells.groups == "together" else "",
        described=part.described,
        reference=reference,
        yardstick=part.yardstick,
        clusters=found.clusters,
        missing=found.missing,
        left_out=found.left_out,
    )


def _no_cluster(part: _Part, comparison: Comparison) -> str:
    said = (
        f"a cluster (dataset, seed) with all cells of {part.question.method} and "
        f"{comparison.reference.method} in {comparison.metric}"
    )
    equal = part.endpoint.equal
    if equal is not None and comparison.left_out:
        said += f" and equal {equal.metric} (within {equal.within:g} on average)"
    return said


def _once(words: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(words))
