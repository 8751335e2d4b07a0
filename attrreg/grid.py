"""The axes of an experiment: datasets, models and methods by name or described, sizes and seeds."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from attrreg import catalogue
from attrreg.laws import SubsetLaw, total
from attrreg.messages import explain
from attrreg.names import Name
from attrreg.parameters import Composition
from attrreg.recipe import Recipe, Strict
from attrreg.variant import Variant

__all__ = [
    "Grid",
    "NamedDataset",
    "NamedMethod",
    "NamedModel",
    "each_once",
    "merged",
    "name_of",
    "named",
]


def _is_name(value: Any) -> str:
    return "name" if isinstance(value, str) else "mapping"


# Which of the two is meant is plain before either is checked, so only one of them complains.
AnyPart = Annotated[
    Annotated[str, Tag("name")] | Annotated[dict[str, Any], Tag("mapping")], Discriminator(_is_name)
]


class Budget(Strict):
    """A length that is measured: as many steps as those of another method cost."""

    matched: str


class NamedMethod(Strict):
    """A method of one's own: a preset with other parameters, or three parts put together.

    Parameters
    ----------
    name
        Of its own; a preset's name only where it is that preset with tuned parameters.
    preset
        What it starts from.
    attribution, perturbation, objective
        Parts, or parameters, that differ.
    recipe
        What differs from the recipe of the experiment.
    tuned
        Whether parameters and recipe were chosen by ``attrreg tune``.
    budget
        ``{matched: sgt}`` trains for as many steps as the recipe's steps of `sgt` cost, measured
        where it is trained: with as much compute, not with as many steps.
    """

    name: Name
    preset: str | None = None
    attribution: AnyPart | None = None
    perturbation: AnyPart | None = None
    objective: AnyPart | None = None
    recipe: dict[str, Any] = Field(default_factory=dict)
    tuned: bool = False
    budget: Budget | None = None

    @model_validator(mode="after")
    def _parts_make_a_method(self) -> "NamedMethod":
        is_tuned_preset = self.tuned and self.preset == self.name
        if self.name in catalogue.method_names() and not is_tuned_preset:
            raise ValueError(
                f"{self.name!r} is the name of a preset: give the changed method a name of its own"
            )
        self.composition()
        return self

    def composition(self) -> Composition:
        """Return the three parts, or raise for those that do not fit."""
        base = _known("preset", self.preset) if self.preset else Composition()
        given: dict[str, Any] = {
            kind: getattr(self, kind)
            for kind in ("attribution", "perturbation", "objective")
            if kind in self.model_fields_set
        }
        return catalogue.override(base, given)

    def own_recipe(self, recipe: Recipe) -> Recipe:
        """Return the recipe of the experiment with what differs for this method."""
        return Recipe.model_validate(merged(recipe.model_dump(), self.recipe))


def merged(settings: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return nested settings with changes; a mapping with another ``name`` replaces a whole one."""
    result = dict(settings)
    for key, change in changes.items():
        known = result.get(key)
        if isinstance(known, dict) and isinstance(change, dict):
            is_other = change.get("name", known.get("name")) != known.get("name")
            result[key] = change if is_other else merged(known, change)
        else:
            result[key] = change
        if key in ("steps", "epochs"):  # the length is given in one of them
            result.pop("epochs" if key == "steps" else "steps", None)
    return result


class NamedModel(Strict):
    """A model with options for timm, or with weights to start from.

    Parameters
    ----------
    name
        Of its own.
    base
        A model of the catalogue or of timm.
    options
        Passed on to timm, for example ``drop_path_rate``; ``timm`` is another word for it.
    pretrained
        Start from timm's weights.
    weights
        Start from these: a file of safetensors.
    frozen
        ``backbone``: only the classifier is trained.
    """

    name: Name
    base: str
    options: dict[str, Any] = Field(default_factory=dict)
    timm: dict[str, Any] = Field(default_factory=dict)
    pretrained: bool = False
    weights: Path | None = None
    frozen: Literal["nothing", "backbone"] = "nothing"

    @model_validator(mode="after")
    def _base_is_known(self) -> "NamedModel":
        _known("model", self.base)
        if self.name in catalogue.MODELS or self.name in catalogue.timm_names():
            raise ValueError(
                f"{self.name!r} is the name of a model: give the changed model a name of its own"
            )
        if self.timm and not catalogue.model(self.base).timm:
            raise ValueError(
                f"model {self.name!r} has options for timm, but {self.base!r} is not made by timm: "
                "give them as options"
            )
        if self.pretrained and self.weights is not None:
            raise ValueError(
                f"model {self.name!r} has both pretrained and weights: give one of them"
            )
        if self.weights is not None and not self.weights.is_file():
            raise ValueError(f"model {self.name!r} has weights: {self.weights}, which is no file")
        return self

    def made_of(self) -> tuple[str, dict[str, Any]]:
        """Return a name of the catalogue, and what `attrreg.models.create` is given beside it."""
        start: dict[str, Any] = {"pretrained": True} if self.pretrained else {}
        if self.weights is not None:
            start["weights"] = str(self.weights)
        if self.frozen != "nothing":
            start["frozen"] = self.frozen
        return self.base, self.options | self.timm | start


class NamedDataset(Strict):
    """A dataset with options, or with subsets drawn by another law, under a name of its own.

    Parameters
    ----------
    name
        Of its own.
    base
        A dataset of the catalogue, or data of one's own: ``folder:<path>``.
    options
        Of the dataset, for example ``{image_size: 64}``; `attrreg datasets` lists them.
    subset
        How training subsets are drawn: order, label noise, imbalance.
    """

    name: Name
    base: str
    options: dict[str, Any] = Field(default_factory=dict)
    subset: SubsetLaw = SubsetLaw()

    @model_validator(mode="after")
    def _can_be_had(self) -> "NamedDataset":
        if self.name in catalogue.DATASETS:
            raise ValueError(
                f"{self.name!r} is the name of a dataset: give the changed dataset a name of its "
                "own"
            )
        self.variant()
        return self

    def variant(self) -> Variant:
        """Return the dataset with its options, or raise for those that it does not have."""
        return _variant(self.base, self.options, self.subset)


def _variant(base: str, options: dict[str, Any], law: SubsetLaw) -> Variant:
    """Return a dataset that is there, or raise ValueError saying why it is not."""
    try:
        kind = catalogue.options_of(base)
        variant = Variant(base, kind.model_validate(options), law)
        catalogue.dataset(base, variant.options)  # a look at its place
    except KeyError as error:
        raise ValueError(error.args[0]) from error
    except ValidationError as error:
        raise ValueError(f"options of {base!r}: {explain(error, options, kind, {})}") from error
    except OSError as error:
        raise ValueError(str(error)) from error
    return variant


def _known(kind: str, name: str) -> Any:
    """Look a name up in the catalogue; pydantic turns ValueError into a message with the key."""
    look_up = {
        "model": catalogue.model,
        "method": catalogue.preset,
        "preset": catalogue.preset,
    }
    try:
        return look_up[kind](name)
    except KeyError as error:
        raise ValueError(error.args[0]) from error


AnyDataset = Annotated[
    Annotated[str, Tag("name")] | Annotated[NamedDataset, Tag("mapping")], Discriminator(_is_name)
]
AnyModel = Annotated[
    Annotated[str, Tag("name")] | Annotated[NamedModel, Tag("mapping")], Discriminator(_is_name)
]
AnyMethod = Annotated[
    Annotated[str, Tag("name")] | Annotated[NamedMethod, Tag("mapping")], Discriminator(_is_name)
]
TrainSize = Annotated[int, Field(ge=1)] | Annotated[str, Field(pattern=r"^[1-9][0-9]*/class$")]
Seeds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


class Grid(Strict):
    """The axes of the experiment: every combination is trained.

    ``train_sizes`` are numbers of samples, or ``5/class``: that many of each class. ``seeds`` is a
    list, or a number of seeds that count from 0.
    """

    datasets: Annotated[list[AnyDataset], Field(min_length=1)]
    models: Annotated[list[AnyModel], Field(min_length=1)]
    methods: Annotated[list[AnyMethod], Field(min_length=1)]
    train_sizes: Annotated[list[TrainSize], Field(min_length=1)]
    seeds: Seeds

    @field_validator(
        "seeds", mode="before", json_schema_input_type=Seeds | Annotated[int, Field(ge=2)]
    )
    @classmethod
    def _count_seeds(cls, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return value
        if type(value) is not int or value < 1:
            raise ValueError(f"found {value!r}; give a list of seeds, or how many, at least 2")
        return list(range(value))

    @field_validator("datasets")
    @classmethod
    def _datasets_are_known(cls, datasets: list[str | NamedDataset]) -> list[str | NamedDataset]:
        for dataset in datasets:
            if isinstance(dataset, str):
                _variant(dataset, {}, SubsetLaw())
        return datasets

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
        each_once("datasets", [each for each, _ in map(named, self.datasets)])
        for axis in ("models", "methods", "train_sizes", "seeds"):
            each_once(axis, [name_of(value) for value in getattr(self, axis)])
        if len(self.seeds) < 2:
            raise ValueError(
                f"seeds has only {self.seeds}: give at least 2, since nothing can be said about "
                "the spread of a single run"
            )
        for dataset in self.datasets:
            self._fits(*named(dataset))
        return self

    def sizes(self, dataset: Variant) -> list[int]:
        """Return the train sizes for a dataset, those per class multiplied out."""
        return [total(size, dataset.entry.classes) for size in self.train_sizes]

    def _fits(self, name: str, variant: Variant) -> None:
        dataset = variant.entry
        if dataset.pool == 0:
            raise ValueError(f"{name!r} is for tests only: it has no training samples; remove it")
        each_once(f"train_sizes, for {name!r},", self.sizes(variant))
        for size in self.sizes(variant):
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
                    f"model {name_of(model)!r} takes {taken} inputs, dataset {name!r} has "
                    f"{dataset.modality} inputs: remove one of them"
                )
        for method in self.methods:
            composition = (
                catalogue.preset(method) if isinstance(method, str) else method.composition()
            )
            modalities = catalogue.modalities(composition)
            if dataset.modality not in modalities:
                raise ValueError(
                    f"method {name_of(method)!r} is defined for {', '.join(modalities)} inputs, "
                    f"dataset {name!r} has {dataset.modality} inputs: remove one of them"
                )
            if catalogue.needs_regions(composition) and not dataset.regions:
                raise ValueError(
                    f"method {name_of(method)!r} needs the ground-truth region of every sample, "
                    f"dataset {name!r} has none: remove one of them"
                )


def named(dataset: str | NamedDataset) -> tuple[str, Variant]:
    """Return the name of a dataset in tables and paths, and what it is."""
    if isinstance(dataset, str):
        variant = _variant(dataset, {}, SubsetLaw())
        return variant.key, variant
    return dataset.name, dataset.variant()


def each_once(key: str, names: Sequence[Any]) -> None:
    """Raise if a name stands there more than once."""
    twice = sorted({str(name) for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{key} has {', '.join(twice)} more than once: remove one")


def name_of(value: Any) -> Any:
    """Return the name of a point of an axis, which may be the point itself."""
    return getattr(value, "name", value)
