"""What `attrreg tune` may change, where, and for how long: the section ``tuning``. Torch-free."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from attrreg.catalogue import unknown
from attrreg.cells import Run
from attrreg.messages import explain
from attrreg.parameters import Composition
from attrreg.recipe import Count, Recipe, Strict

__all__ = [
    "Domain",
    "Range",
    "Spent",
    "State",
    "Study",
    "Trial",
    "Tuning",
    "changed",
    "own_values",
    "written",
]

LENGTH = ("recipe.steps", "recipe.epochs")  # the same for every method, so nothing to be chosen
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Range(Strict):
    """All values from `low` to `high`, whole ones where the parameter is; `log` by magnitude."""

    low: Finite
    high: Finite
    log: bool = False

    @model_validator(mode="after")
    def _holds_something(self) -> "Range":
        if self.low >= self.high:
            raise ValueError(f"low must be below high, found low {self.low:g}, high {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"log needs a low above 0, found {self.low:g}: raise it or remove log")
        return self


Choices = Annotated[list[Any], Field(min_length=1)]
Domain = Range | tuple[Any, ...]
State = Literal["finished", "pruned", "failed"]


def _is_range(value: Any) -> str:
    return "choices" if isinstance(value, list | tuple) else "range"


class Spent(Strict):
    """What the tuning of a method has cost, and what its chosen values reach on the validation."""

    trials: Count
    steps: Annotated[int, Field(ge=0)]
    accuracy: Finite | None
    nll: Finite | None


class Tuning(Strict):
    """How parameters are chosen: on the validation split, with the same budget for every method.

    Parameters
    ----------
    trials
        Per method; the first one is the file's own values.
    train_size
        One of the grid's; the smallest, if not given.
    seeds
        A trial is trained once with each, and scored by the mean; none of them is the grid's. If
        not given, the next after the grid's, as many as `reduction`.
    steps
        Of each training, for every method; if not given, those of the experiment's recipe.
    reduction
        Successive halving: after 1 seed, after so many, after so many times that, one trial in so
        many goes on to further seeds.
    metric
        What is chosen by; of equals the other one decides.
    space
        By the path of a parameter, such as ``recipe.optimizer.learning_rate``, ``perturbation.p``,
        ``attribution.rule`` or ``objective.weight``, the range or the list of values to search. A
        method is tuned in those that it has; its own value joins a list that lacks it.
    spent
        By method; written by ``attrreg tune``.
    """

    trials: Annotated[int, Field(ge=2)] = 20
    train_size: int | None = None
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None = None
    steps: Count | None = None
    reduction: Annotated[int, Field(ge=2)] = 3
    metric: Literal["accuracy", "nll"] = "accuracy"
    space: Annotated[
        dict[
            str,
            Annotated[
                Annotated[Range, Tag("range")] | Annotated[Choices, Tag("choices")],
                Discriminator(_is_range),
            ],
        ],
        Field(min_length=1),
    ]
    spent: dict[str, Spent] = Field(default_factory=dict)

    @field_validator("space", mode="before")
    @classmethod
    def _domains_are_mappings_or_lists(cls, space: Any) -> Any:
        for path, domain in space.items() if isinstance(space, dict) else ():
            if not isinstance(domain, dict | list | tuple | Range):
                raise ValueError(
                    f"found {path}: {domain!r}; give a range, {{low: …, high: …}}, or a list of "
                    "values"
                )
        return space

    def resolved(
        self, train_sizes: Sequence[int], seeds: Sequence[int], recipe: Recipe
    ) -> "Tuning":
        """Return these settings with nothing left to defaults that depend on grid and recipe."""
        size = min(train_sizes) if self.train_size is None else self.train_size
        return self.model_copy(
            update={
                "train_size": size,
                "seeds": self.seeds or [max(seeds) + 1 + more for more in range(self.reduction)],
                "steps": self.steps or recipe.total_steps(size),
            }
        )

    def check(
        self,
        axes: Mapping[str, Sequence[Any]],
        methods: Mapping[str, tuple[Composition, Recipe]],
    ) -> None:
        """Raise ValueError where an experiment cannot be tuned like this.

        Parameters
        ----------
        axes
            The grid: names by ``datasets`` and ``models``, numbers by ``train_sizes`` and
            ``seeds``.
        methods
            Parts and recipe of every method by its name.
        """
        for axis in ("datasets", "models"):
            if len(axes[axis]) > 1:
                raise ValueError(
                    f"tuning chooses values for one dataset and one model, grid.{axis} has "
                    f"{', '.join(axes[axis])}: make a file for each"
                )
        if self.train_size not in (None, *axes["train_sizes"]):
            raise ValueError(
                f"tuning.train_size is {self.train_size}: allowed are those of grid.train_sizes, "
                f"{list(axes['train_sizes'])}"
            )
        both = [seed for seed in self.seeds or () if seed in axes["seeds"]]
        if both:
            raise ValueError(
                f"tuning.seeds has {both[0]}, which is one of grid.seeds {list(axes['seeds'])}: "
                "values chosen on a seed of the grid are not judged fairly there; give others, "
                f"such as [{max(axes['seeds']) + 1}], or none"
            )
        if len(set(self.seeds or ())) < len(self.seeds or ()):
            raise ValueError(f"tuning.seeds has one more than once: {self.seeds}; remove it")
        known = dict.fromkeys(path for each in methods.values() for path in _places(*each))
        for path in self.space:
            if path in LENGTH:
                raise ValueError(
                    f"tuning.space has {path!r}, which is the same for every method: remove it; "
                    "tuning.steps is the length of a trial"
                )
            if path not in known:
                choice = [each for each in known if each not in LENGTH]
                raise ValueError(f"tuning.space has {unknown('parameter', path, choice)}")
        for name, settings in methods.items():
            if not self.domains(name, *settings):
                raise ValueError(
                    f"tuning.space has no parameter of method {name!r}, whose trials would all be "
                    "the same: add one that every method has, such as "
                    "recipe.optimizer.learning_rate"
                )
        unlike = sorted(self.spent.keys() ^ methods.keys()) if self.spent else []
        if unlike:
            raise ValueError(
                f"tuning.spent and grid.methods differ in {', '.join(unlike)}: tune the experiment "
                "with exactly its methods, or remove the section tuning"
            )

    def domains(self, name: str, composition: Composition, recipe: Recipe) -> dict[str, Domain]:
        """Return by path what is searched for one method, its own value included; recipe first.

        Raises
        ------
        ValueError
            A value is none for the parameter, or the method's own one lies outside a range.
        """
        places = _places(composition, recipe)
        domains: dict[str, Domain] = {}
        for path in sorted(self.space, key=lambda each: not each.startswith("recipe.")):
            if path not in places:
                continue
            domain = self.space[path]
            holder, key = places[path]
            given = [domain.low, domain.high] if isinstance(domain, Range) else domain
            values = [_checked(name, path, holder, key, value) for value in given]
            own = getattr(holder, key)
            if not isinstance(domain, Range):
                domains[path] = tuple(
                    value for at, value in enumerate([*values, own]) if value not in values[:at]
                )
                continue
            is_number = isinstance(own, int | float) and not isinstance(own, bool)
            if not is_number or not domain.low <= own <= domain.high:
                raise ValueError(
                    f"tuning.space has {domain.low:g} to {domain.high:g} for {path!r}, method "
                    f"{name!r} has {own!r}: tuning starts from the method's own value, so give a "
                    "range or a list that holds it, or change the method"
                )
            domains[path] = domain
        return domains


@dataclass(frozen=True)
class Study:
    """The tuning of one method.

    Parameters
    ----------
    run
        What is trained where, with the method's own values and the length of a trial; its seed is
        the first of the tuning.
    tuning
        Resolved.
    domains
        What is searched, by path.
    """

    run: Run
    tuning: Tuning
    domains: dict[str, Domain]

    @property
    def own(self) -> dict[str, Any]:
        """The method's own values."""
        return own_values(self.run.composition, self.run.recipe, self.domains)

    @property
    def rungs(self) -> tuple[int, ...]:
        """After how many seeds trials are compared."""
        factor, seeds = self.tuning.reduction, len(self.tuning.seeds or ())
        return tuple(factor**power for power in range(seeds) if factor**power < seeds)

    def best(self, trials: Sequence["Trial"]) -> "Trial | None":
        """Return the best trial that reached the end, of equals the first; None without any."""

        def rank(trial: Trial) -> tuple[float, ...]:
            scores = [trial.mean("accuracy"), -trial.mean("nll")]
            by_accuracy = self.tuning.metric == "accuracy"
            return (*(scores if by_accuracy else reversed(scores)), -trial.number)

        finished = [each for each in trials if each.state == "finished"]
        return max(finished, key=rank, default=None)


@dataclass
class Trial:
    """One row of a study's table.

    Parameters
    ----------
    number
        Counted from 0, which is the method's own values.
    values
        By path.
    state
        Pruned at a rung, or failed: diverged, or values that do not fit together.
    steps, seconds
        Spent, over all seeds.
    scores
        Accuracy and negative log-likelihood on the validation split, for each seed trained.
    message
        Why it failed.
    """

    number: int
    values: dict[str, Any]
    state: State = "finished"
    steps: int = 0
    seconds: float = 0.0
    scores: list[tuple[float, float]] = field(default_factory=list)
    message: str = ""

    def mean(self, metric: str, seeds: int | None = None) -> float:
        """Return the mean of a metric over the first seeds, or over all that were trained."""
        values = [score[metric == "nll"] for score in self.scores[:seeds]]
        return sum(values) / len(values)


def own_values(composition: Composition, recipe: Recipe, paths: Iterable[str]) -> dict[str, Any]:
    """Return the values of some parameters, where a method has them."""
    places = _places(composition, recipe)
    return {path: getattr(*places[path]) for path in paths if path in places}


def changed(
    composition: Composition, recipe: Recipe, values: Mapping[str, Any]
) -> tuple[Composition, Recipe]:
    """Return parts and recipe with other values by path; ValueError if they do not fit."""
    content: dict[str, Any] = {**composition.model_dump(), "recipe": recipe.model_dump()}
    for path, value in values.items():
        *parents, key = path.split(".")
        place = content
        for parent in parents:
            place = place[parent]
        while key not in place:
            place = place["of"]
        place[key] = value
    new = Recipe.model_validate(content.pop("recipe"))
    return Composition.model_validate(content), new


def written(value: Any) -> str:
    """Return a value as it stands in tables."""
    return value if isinstance(value, str) else json.dumps(value)


def _places(composition: Composition, recipe: Recipe) -> dict[str, tuple[BaseModel, str]]:
    """Return by path where each parameter is: what holds it, and its name there."""
    parts = dict(composition)
    return {
        path: place
        for kind, part in {"recipe": recipe, **parts}.items()
        if part is not None
        for path, place in _leaves(part, kind)
    }


def _leaves(holder: BaseModel, path: str) -> Iterator[tuple[str, tuple[BaseModel, str]]]:
    """Yield parameters with their paths, in which what a wrapper wraps is not named."""
    for key, value in holder:
        if isinstance(value, BaseModel):
            yield from _leaves(value, path if key == "of" else f"{path}.{key}")
        elif key != "name":
            yield f"{path}.{key}", (holder, key)


def _checked(method: str, path: str, holder: BaseModel, key: str, value: Any) -> Any:
    """Return a value as the parameter takes it; whether it fits others, each trial shows."""
    annotation = type(holder).model_fields[key].rebuild_annotation()
    try:
        return TypeAdapter(annotation).validate_python(value)
    except ValidationError as error:
        raise ValueError(
            f"tuning.space.{path}, for method {method!r}: {explain(error, value, Strict, {})}"
        ) from error
