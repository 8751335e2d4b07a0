"""The experiment file: typed, checked before anything runs, and explained when it is wrong."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from attrreg import catalogue
from attrreg.parameters import Composition
from attrreg.protocol import Evaluation
from attrreg.recipe import Recipe, Strict
from attrreg.statistics.design import clusters_needed, smallest_p

__all__ = ["ConfigError", "Experiment", "json_schema", "notices", "read_experiment"]

NAME = r"^[A-Za-z0-9][A-Za-z0-9._+-]*(/[A-Za-z0-9._+-]+)?$"
Metrics = Literal[
    "accuracy",
    "nll",
    "brier",
    "ece",
    "occlusion-random-pixels",
    "occlusion-random-block",
    "occlusion-most-relevant-first",
]


class ConfigError(ValueError):
    """An experiment file is wrong; the message is one line for its author."""


class NamedMethod(Strict):
    """A method of one's own: a preset with other parameters, or three parts put together."""

    name: Annotated[str, Field(pattern=NAME)]
    preset: str | None = None
    attribution: str | dict[str, Any] | None = None
    perturbation: str | dict[str, Any] | None = None
    objective: str | dict[str, Any] | None = None

    @model_validator(mode="after")
    def _parts_make_a_method(self) -> "NamedMethod":
        if self.name in catalogue.method_names():
            raise ValueError(
                f"{self.name!r} is the name of a preset: give the changed method a name of its own"
            )
        self.composition()
        return self

    def composition(self) -> Composition:
        """Return the three parts, or raise for those that do not fit."""
        base = _known("preset", self.preset) if self.preset else Composition()
        given = {
            kind: getattr(self, kind)
            for kind in ("attribution", "perturbation", "objective")
            if getattr(self, kind) is not None
        }
        return catalogue.override(base, given)


class NamedModel(Strict):
    """A model with options for timm."""

    name: Annotated[str, Field(pattern=NAME)]
    base: str
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _base_is_known(self) -> "NamedModel":
        _known("model", self.base)
        return self


def _known(kind: str, name: str) -> Any:
    """Look a name up in the catalogue; pydantic turns ValueError into a message with the key."""
    look_up = {
        "dataset": catalogue.dataset,
        "model": catalogue.model,
        "method": catalogue.preset,
        "preset": catalogue.preset,
    }
    try:
        return look_up[kind](name)
    except KeyError as error:
        raise ValueError(error.args[0]) from error


class Grid(Strict):
    """The axes of the experiment: every combination is trained.

    ``seeds`` is a list, or a number of seeds that count from 0.
    """

    datasets: Annotated[list[str], Field(min_length=1)]
    models: Annotated[list[str | NamedModel], Field(min_length=1)]
    methods: Annotated[list[str | NamedMethod], Field(min_length=1)]
    train_sizes: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)]
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]

    @field_validator("seeds", mode="before")
    @classmethod
    def _count_seeds(cls, value: Any) -> Any:
        return list(range(value)) if isinstance(value, int) and value > 0 else value

    @field_validator("datasets")
    @classmethod
    def _datasets_are_known(cls, names: list[str]) -> list[str]:
        for name in names:
            _known("dataset", name)
        return names

    @field_validator("models")
    @classmethod
    def _models_are_known(cls, models: list[str | NamedModel]) -> list[str | NamedModel]:
        for model in models:
            if isinstance(model, str):
                _known("model", model)
        return models

    @field_validator("methods")
    @classmethod
    def _methods_are_known(cls, methods: list[str | NamedMethod]) -> list[str | NamedMethod]:
        for method in methods:
            if isinstance(method, str):
                _known("method", method)
        return methods

    @model_validator(mode="after")
    def _points_exist(self) -> "Grid":
        for axis in ("datasets", "models", "methods", "train_sizes", "seeds"):
            names = [_name(value) for value in getattr(self, axis)]
            twice = sorted({str(name) for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{axis} has {', '.join(twice)} more than once: remove one")
        if len(self.seeds) < 2:
            raise ValueError(
                f"seeds has only {self.seeds}: give at least 2, since nothing can be said about "
                "the spread of a single run"
            )
        for dataset in self.datasets:
            self._fits(dataset)
        return self

    def _fits(self, name: str) -> None:
        dataset = catalogue.dataset(name)
        for size in self.train_sizes:
            if size > dataset.pool:
                raise ValueError(
                    f"train_sizes has {size}, but {name!r} has a pool of {dataset.pool} training "
                    f"samples: give at most {dataset.pool}"
                )
            if size < dataset.classes:
                raise ValueError(
                    f"train_sizes has {size}, but {name!r} has {dataset.classes} classes: give at "
                    f"least {dataset.classes}, one sample per class"
                )
        for model in self.models:
            taken = catalogue.model(model if isinstance(model, str) else model.base).modality
            if taken != dataset.modality:
                raise ValueError(
                    f"model {_name(model)!r} takes {taken} inputs, dataset {name!r} has "
                    f"{dataset.modality} inputs: remove one of them"
                )
        for method in self.methods:
            composition = (
                catalogue.preset(method) if isinstance(method, str) else method.composition()
            )
            modalities = catalogue.modalities(composition)
            if dataset.modality not in modalities:
                raise ValueError(
                    f"method {_name(method)!r} is defined for {', '.join(modalities)} inputs, "
                    f"dataset {name!r} has {dataset.modality} inputs: remove one of them"
                )


class Statistics(Strict):
    """Which methods the others are compared with, on what, and at which level."""

    references: Annotated[tuple[str, ...], Field(min_length=1)] = ("baseline",)
    metrics: Annotated[tuple[Metrics, ...], Field(min_length=1)] = get_args(Metrics)
    alpha: Annotated[float, Field(gt=0, lt=0.5, allow_inf_nan=False)] = 0.05


class Execution(Strict):
    """Where and in which portions the work is done; no result depends on it but the device.

    ``shard_seconds``: about how long one process works; small cells share one.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    shard_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 60.0


class Experiment(Strict):
    """An experiment: its grid, recipe, evaluation and statistics."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    title: str = ""
    grid: Grid
    recipe: Recipe
    evaluation: Evaluation = Evaluation()
    statistics: Statistics = Statistics()
    execution: Execution = Execution()

    @model_validator(mode="after")
    def _references_run(self) -> "Experiment":
        methods = [_name(method) for method in self.grid.methods]
        for reference in self.statistics.references:
            if reference not in methods:
                raise ValueError(
                    "statistics.references has "
                    + catalogue.unknown("method", reference, methods).removeprefix("unknown ")
                    + "; references must be among grid.methods"
                )
        return self

    def compositions(self) -> dict[str, Composition]:
        """Return the parts of every method by its name, in the order of the grid."""
        return {
            _name(method): catalogue.preset(method)
            if isinstance(method, str)
            else method.composition()
            for method in self.grid.methods
        }

    def models(self) -> dict[str, tuple[str, dict[str, Any]]]:
        """Return by name what each model is made of: a name of the catalogue, and options."""
        return {
            _name(model): (model, {}) if isinstance(model, str) else (model.base, model.options)
            for model in self.grid.models
        }


def read_experiment(path: Path) -> Experiment:
    """Read and check an experiment file.

    Raises
    ------
    ConfigError
        One line: the file, the key, what was found, what is allowed, and the nearest match.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: there is no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as text ({error})") from error
    try:
        content = yaml.load(text, Loader=UniqueKeys)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from error
    if content is None:
        raise ConfigError(f"{path}: is empty; configs/demo.yaml is an example to start from")
    if not isinstance(content, dict):
        raise ConfigError(
            f"{path}: holds a {type(content).__name__}, expected keys such as name, grid, recipe; "
            "configs/demo.yaml is an example to start from"
        )
    content.pop("$schema", None)
    try:
        return Experiment.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_explain(error)}") from error


def notices(experiment: Experiment) -> list[str]:
    """Return what its author should know before anything runs: what the design cannot show."""
    clusters = len(experiment.grid.seeds) * len(experiment.grid.datasets)
    family = max(1, len(experiment.grid.methods) - 1)
    alpha = experiment.statistics.alpha
    p = smallest_p(clusters)
    if min(1.0, p * family) <= alpha:
        return []
    enough = clusters_needed(alpha, family)
    return [
        f"{clusters} clusters (dataset, seed) cannot reach significance: the smallest two-sided p "
        f"is {p:.3g}, {min(1.0, p * family):.3g} after Holm's correction over {family} "
        f"comparisons, and alpha is {alpha:g}; at least {enough} clusters are needed. Differences "
        "and intervals are still reported, verdicts will be 'undecided'."
    ]


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of experiment files, for editors."""
    schema = Experiment.model_json_schema()
    schema["properties"]["$schema"] = {"type": "string", "description": "path of this schema"}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


class UniqueKeys(yaml.SafeLoader):
    """The safe loader, which also refuses a key that stands twice in one mapping."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping, or raise where a key is repeated."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} stands twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


def _name(value: Any) -> Any:
    return getattr(value, "name", value)


def _explain(error: ValidationError) -> str:
    """Put the first error of a validation into one line."""
    details = error.errors(include_url=False)
    # of a union, the branch that got furthest speaks: the one with the deepest place
    first = max(details, key=lambda each: len(each["loc"])) if _is_union(details) else details[0]
    more = len({each["loc"][:3] for each in details}) - 1
    tail = f" (and {more} more after this)" if more else ""
    return _sentence(first) + tail


def _is_union(details: list[Any]) -> bool:
    return len({each["loc"][:3] for each in details}) == 1


def _sentence(detail: Any) -> str:
    place = _place(detail["loc"])
    found = _shorten(detail["input"])
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if detail["type"] == "extra_forbidden":
        allowed = _allowed_keys(detail["loc"])
        return f"{place}: " + catalogue.unknown("key", str(detail["loc"][-1]), allowed)
    if detail["type"] == "missing":
        return f"{place}: is missing; it must be given"
    if detail["type"] == "value_error":
        return f"{place}: {message}" if place else message
    if detail["type"] == "literal_error":
        allowed = [
            each.strip(" '") for each in detail["ctx"]["expected"].replace(" or ", ",").split(",")
        ]
        return f"{place}: " + catalogue.unknown("value", str(detail["input"]), allowed)
    if detail["type"] == "union_tag_invalid":
        allowed = [each.strip(" '") for each in detail["ctx"]["expected_tags"].split(",")]
        return f"{place}: " + catalogue.unknown("name", str(detail["ctx"]["tag"]), allowed)
    if isinstance(detail["input"], float) and not math.isfinite(detail["input"]):
        message = "Input should be a finite number"
    return f"{place}: found {found}; {message[0].lower() + message[1:]}"


def _place(location: Iterable[Any]) -> str:
    """Write a location as in YAML paths, without the names of union branches."""
    text = ""
    for step in location:
        if isinstance(step, int):
            text += f"[{step}]"
        elif step not in _BRANCHES:
            text += f".{step}" if text else str(step)
    return text


_BRANCHES = {"str", "NamedMethod", "NamedModel", "sgd", "adamw", "dict[str,any]"}


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _allowed_keys(location: tuple[Any, ...]) -> list[str]:
    """Return the keys that stand beside the last one of a location."""
    model: Any = Experiment
    for step in location[:-1]:
        model = _step_into(model, step)
        if model is None:
            return []
    return list(model.model_fields)


def _step_into(model: Any, step: Any) -> Any:
    """Follow one step of a location from model to model."""
    if isinstance(step, int):
        return model
    candidates = (
        _models_in(model.model_fields[step].annotation) if step in model.model_fields else []
    )
    if not candidates:
        return model if step in _BRANCHES and model.__name__ != "Experiment" else None
    return candidates[0]


def _models_in(annotation: Any) -> list[Any]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in getattr(annotation, "__args__", ()) for model in _models_in(part)]
