"""The claims, declared before any result is seen: typed, checked, and explained when wrong."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from attrreg.catalogue import unknown
from attrreg.claims.comparators import COMPARATORS
from attrreg.messages import explain
from attrreg.parameters import Modality
from attrreg.recipe import Strict
from attrreg.yaml_files import ConfigError, read_mapping

__all__ = ["Cells", "Claim", "Endpoint", "Equal", "Least", "read_claims", "select"]

Scale = Literal["log-error-ratio", "log-error-slope", "log-ratio", "difference"]
Unit = Literal["percent", "percent per decade", "points", "absolute"]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Size = Annotated[int, Field(ge=1)]
Names = Annotated[tuple[str, ...], Field(min_length=1)]

UNITS: dict[str, tuple[Unit, ...]] = {
    "log-error-ratio": ("percent",),
    "log-error-slope": ("percent per decade",),
    "log-ratio": ("percent",),
    "difference": ("points", "absolute", "percent"),
}


class Equal(Strict):
    """What must be equal in a comparison: cells where this metric differs by more are left out.

    ``within`` is the largest mean magnitude of the paired differences, in the metric's unit.
    """

    metric: str
    within: Positive


class Endpoint(Strict):
    """What is measured, and which way is as the claim says.

    Parameters
    ----------
    metric
        A name in the table; with ``*``, all names of that form, and the claim must hold for each.
    metric_by_method
        In place of ``metric``, where it differs between the methods of the claim.
    minus
        Another metric that is subtracted.
    other_than
        Names that ``*`` does not stand for.
    equal
        What must be equal for a cell to count.
    scale
        ``log-error-ratio``: of 1 − metric; ``log-error-slope``: its slope on log₁₀ of the training
        size; ``log-ratio``: of the metric; ``difference``.
    direction
        Of the method against its comparator, as claimed.
    """

    metric: str = ""
    metric_by_method: dict[str, str] = Field(default_factory=dict)
    minus: str = ""
    other_than: tuple[str, ...] = ()
    equal: Equal | None = None
    scale: Scale
    direction: Literal["higher", "lower"]

    @model_validator(mode="after")
    def _has_one_metric(self) -> "Endpoint":
        if bool(self.metric) == bool(self.metric_by_method):
            found = "both" if self.metric else "neither"
            raise ValueError(f"give the metric as 'metric' or 'metric_by_method', found {found}")
        if self.other_than and "*" not in self.metric:
            raise ValueError(f"other_than needs a metric with '*', found {self.metric!r}")
        if self.minus and self.scale != "difference":
            raise ValueError(f"minus needs scale 'difference', found {self.scale!r}")
        return self

    def metric_of(self, method: str) -> str:
        """Return the metric for one of the claim's methods."""
        return self.metric or self.metric_by_method[method]


class Cells(Strict):
    """The part of the grid that a claim speaks of.

    Parameters
    ----------
    at_least, at_most
        The training size.
    modalities
        Of the datasets; empty: any.
    models
        Families by name, and the patterns (``*lstm*``) that the models of each match.
    groups
        ``pooled``: one comparison over all cells; ``together``: the claim must hold in every
        family, or modality if there are no families; ``apart``: each gets an answer of its own.
    """

    at_least: Size = 1
    at_most: Size | None = None
    modalities: tuple[Modality, ...] = ()
    models: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    groups: Literal["pooled", "together", "apart"] = "pooled"

    @model_validator(mode="after")
    def _can_be_met(self) -> "Cells":
        if self.at_most is not None and self.at_most < self.at_least:
            raise ValueError(f"at_most is {self.at_most}, below at_least, which is {self.at_least}")
        if self.groups != "pooled" and not self.names:
            raise ValueError(f"groups {self.groups!r} needs models or modalities")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the groups: families of models, or else modalities."""
        return tuple(self.models) or self.modalities

    @property
    def sizes(self) -> str:
        """The training sizes in words; empty if all."""
        if self.at_most is None:
            return f"n ≥ {self.at_least}" if self.at_least > 1 else ""
        return (
            f"{self.at_least} ≤ n ≤ {self.at_most}" if self.at_least > 1 else f"n ≤ {self.at_most}"
        )


class Least(Strict):
    """The smallest effect of interest; for a non-inferior claim, the margin."""

    value: Positive
    unit: Unit

    @model_validator(mode="after")
    def _is_a_share(self) -> "Least":
        if self.unit.startswith("percent") and self.value >= 100:
            raise ValueError(f"value is {self.value:g} {self.unit}: give less than 100")
        return self

    def __str__(self) -> str:
        value = f"{self.value:g}"
        return {"absolute": value, "points": f"{value} point{'s' * (self.value != 1)}"}.get(
            self.unit, value + self.unit.replace("percent", " %")
        )


class Claim(Strict):
    """A claim of a paper.

    Parameters
    ----------
    id
        Its short name.
    source, statement
        Who claims it, and what.
    methods
        The methods that it speaks of; each gets an answer of its own.
    kind
        ``superior``: better than every comparator by more than the least effect; ``non-inferior``:
        worse by less than it.
    endpoints
        What is measured; it must hold for all, or for ``holds_for`` of them.
    beside
        What is shown beside it and decides nothing.
    against
        Names in `attrreg.claims.comparators.COMPARATORS`; it must hold against all.
    least
        The smallest effect of interest.
    cells
        The part of the grid.
    changed
        What an experiment has changed about the declared claim; its answer is exploratory.
    """

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    source: str
    statement: str
    methods: Names
    kind: Literal["superior", "non-inferior"] = "superior"
    endpoints: Annotated[tuple[Endpoint, ...], Field(min_length=1)]
    holds_for: Size | None = None
    beside: tuple[Endpoint, ...] = ()
    against: Names
    least: Least
    cells: Cells = Cells()
    changed: str = ""

    @property
    def plain(self) -> tuple[str, ...]:
        """The comparators without attribution maps."""
        return tuple(each for each in self.against if COMPARATORS[each].role == "plain")

    @property
    def failures_allowed(self) -> int:
        """The number of endpoints for which it need not hold."""
        return len(self.endpoints) - (self.holds_for or len(self.endpoints))

    @model_validator(mode="after")
    def _can_be_compared(self) -> "Claim":
        for name in self.against:
            if name not in COMPARATORS:
                raise ValueError(f"against has an {unknown('comparator', name, COMPARATORS)}")
        scales = {endpoint.scale for endpoint in self.endpoints}
        for scale in sorted(scales):
            if self.least.unit not in UNITS[scale]:
                raise ValueError(
                    f"least.unit is {self.least.unit!r}, but scale {scale!r} is in "
                    f"{' or '.join(map(repr, UNITS[scale]))}"
                )
            for name in self.against:
                if COMPARATORS[name].of_slopes != (scale == "log-error-slope"):
                    raise ValueError(f"scale {scale!r} cannot be compared with {name!r}")
        if self.kind == "non-inferior" and len(self.plain) < len(self.against):
            raise ValueError("a non-inferior claim is held against the baseline or random erasing")
        return self

    @model_validator(mode="after")
    def _endpoints_fit(self) -> "Claim":
        if self.holds_for is not None:
            if self.holds_for > len(self.endpoints):
                raise ValueError(
                    f"holds_for is {self.holds_for}, but there are {len(self.endpoints)} endpoints"
                )
            if any("*" in endpoint.metric for endpoint in self.endpoints):
                raise ValueError("holds_for needs endpoints that are named one by one, without '*'")
        for endpoint in (*self.endpoints, *self.beside):
            lacks = set(self.methods) - set(endpoint.metric_by_method)
            if endpoint.metric_by_method and lacks:
                raise ValueError(f"metric_by_method lacks {', '.join(sorted(lacks))}")
        return self


class Claims(Strict):
    """A file of claims."""

    claims: Annotated[tuple[Claim, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _each_once(self) -> "Claims":
        twice = [
            name for name, times in Counter(each.id for each in self.claims).items() if times > 1
        ]
        if twice:
            raise ValueError(f"claims has {', '.join(twice)} more than once: remove one")
        return self


def read_claims(path: Path) -> tuple[Claim, ...]:
    """Read and check a file of claims.

    Raises
    ------
    ConfigError
        One line: the file, the key, what was found, and what is allowed.
    """
    content = read_mapping(path)
    try:
        return Claims.model_validate(content).claims
    except ValidationError as error:
        raise ConfigError(f"{path}: {explain(error, content, Claims, {})}") from error


def select(
    claims: Sequence[Claim],
    ids: Sequence[str] | None = None,
    least: Mapping[str, float] | None = None,
) -> tuple[Claim, ...]:
    """Return the claims of these ids in the order of the file, some with another least effect.

    A claim whose least effect is another one than declared is exploratory from then on.

    Parameters
    ----------
    claims
        All that are declared.
    ids
        Those wanted; None: all.
    least
        By id: the least effect in the unit of the claim.

    Raises
    ------
    ValueError
        An id is not known, stands twice, or a least effect is given for one that is not wanted.
    """
    known = [claim.id for claim in claims]
    ids = known if ids is None else ids
    for name in ids:
        if name not in known:
            raise ValueError(unknown("claim", name, known))
    twice = [name for name, times in Counter(ids).items() if times > 1]
    if twice:
        raise ValueError(f"claims has {', '.join(twice)} more than once: remove one")
    for name in least or {}:
        if name not in ids:
            said = unknown("claim", name, ids).removeprefix("unknown ")
            raise ValueError(f"statistics.least has {said}; give it to claims that are asked")
    return tuple(
        _with_least(claim, (least or {}).get(claim.id)) for claim in claims if claim.id in ids
    )


def _with_least(claim: Claim, value: float | None) -> Claim:
    if value is None or value == claim.least.value:
        return claim
    try:
        least = Least(value=value, unit=claim.least.unit)
    except ValidationError as error:
        said = explain(error, {"value": value, "unit": claim.least.unit}, Least, {})
        raise ValueError(f"least effect of claim {claim.id!r}: {said}") from error
    return claim.model_copy(update={"least": least, "changed": f"declared with {claim.least}"})
