"""The experiment file: typed, checked before anything runs, and explained when it is wrong."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from attrreg import catalogue
from attrreg.execution import Execution
from attrreg.laws import SubsetLaw, total
from attrreg.messages import explain
from attrreg.parameters import Composition
from attrreg.protocol import Evaluation
from attrreg.recipe import Recipe, Strict
from attrreg.statistics.design import clusters_needed, smallest_p
from attrreg.statistics.directions import is_higher_better
from attrreg.tuning_settings import Tuning
from attrreg.variant import Variant
from attrreg.yaml_files import ConfigError, read_mapping

__all__ = ["ConfigError", "Experiment", "json_schema", "notices", "read_experiment"]


def _no_second_slash(name: str) -> str:
    if "--" in name:
        raise ValueError(f"{name!r} has '--', which stands for '/' in paths: use a single '-'")
    return name


Name = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*(/[A-Za-z0-9._+-]+)?$"),
    AfterValidator(_no_second_slash),
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
        _each_once("datasets", [each for each, _ in map(_named, self.datasets)])
        for axis in ("models", "methods", "train_sizes", "seeds"):
            _each_once(axis, [_name(value) for value in getattr(self, axis)])
        if len(self.seeds) < 2:
            raise ValueError(
                f"seeds has only {self.seeds}: give at least 2, since nothing can be said about "
                "the spread of a single run"
            )
        for dataset in self.datasets:
            self._fits(*_named(dataset))
        return self

    def sizes(self, dataset: Variant) -> list[int]:
        """Return the train sizes for a dataset, those per class multiplied out."""
        return [total(size, dataset.entry.classes) for size in self.train_sizes]

    def _fits(self, name: str, variant: Variant) -> None:
        dataset = variant.entry
        if dataset.pool == 0:
            raise ValueError(f"{name!r} is for tests only: it has no training samples; remove it")
        _each_once(f"train_sizes, for {name!r},", self.sizes(variant))
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
            if catalogue.needs_regions(composition) and not dataset.regions:
                raise ValueError(
                    f"method {_name(method)!r} needs the ground-truth region of every sample, "
                    f"dataset {name!r} has none: remove one of them"
                )


Margin = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Statistics(Strict):
    """Which methods the others are compared with, on what, and at which level.

    Without ``metrics``: accuracy, calibration before and after temperature scaling, and occlusion
    in every order of the evaluation. ``equivalence`` and ``non_inferiority`` declare by metric, in
    its own unit, the difference that does not matter; ``scales`` compares a metric by the logarithm
    of its ratio (then margins are logarithms, too), with values below its ``floors`` raised to it.
    """

    references: Annotated[tuple[str, ...], Field(min_length=1)] = ("baseline",)
    metrics: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    alpha: Annotated[float, Field(gt=0, lt=0.5, allow_inf_nan=False)] = 0.05
    equivalence: dict[str, Margin] = Field(default_factory=dict)
    non_inferiority: dict[str, Margin] = Field(default_factory=dict)
    scales: dict[str, Literal["difference", "log-ratio"]] = Field(default_factory=dict)
    floors: dict[str, Margin] = Field(default_factory=dict)


class Experiment(Strict):
    """An experiment: its grid, recipe, evaluation and statistics, and the figures to draw."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    title: str = ""
    grid: Grid
    recipe: Recipe
    evaluation: Evaluation = Evaluation()
    statistics: Statistics = Statistics()
    figures: tuple[catalogue.Figure, ...] | None = None  # None: all that have something to show
    execution: Execution = Execution()
    claims: tuple[str, ...] | None = None  # ids of configs/claims.yaml; None: all
    tuning: Tuning | None = None

    @model_validator(mode="after")
    def _comparisons_can_be_made(self) -> "Experiment":
        _each_once("evaluation.orders", self.evaluation.orders)
        _each_once("figures", self.figures or ())
        if (
            "faithfulness" in (self.figures or ())
            and "faithfulness" not in self.evaluation.measures
        ):
            raise ValueError(
                "figures has 'faithfulness', which evaluation.measures lacks: add it there or "
                "remove it here"
            )
        _each_once("statistics.metrics", self.statistics.metrics or ())
        _each_once("statistics.references", self.statistics.references)
        measured = self.evaluation.metrics()
        for metric in self.statistics.metrics or ():
            if metric not in measured:
                raise ValueError(
                    "statistics.metrics has "
                    + catalogue.unknown("metric", metric, measured).removeprefix("unknown ")
                    + "; what is measured follows from evaluation.orders, measures and maps"
                )
            try:
                is_higher_better(metric)
            except ValueError:
                raise ValueError(
                    f"statistics.metrics has {metric!r}, of which neither more nor less is better: "
                    "it describes other metrics and is not compared; remove it"
                ) from None
        for key in ("equivalence", "non_inferiority", "scales", "floors"):
            for metric in getattr(self.statistics, key):
                if metric not in self.tested_metrics():
                    raise ValueError(
                        f"statistics.{key} has "
                        + catalogue.unknown("metric", metric, self.tested_metrics()).removeprefix(
                            "unknown "
                        )
                        + "; only metrics that are compared can have one"
                    )
        methods = [_name(method) for method in self.grid.methods]
        self._lengths_are_known(methods)
        self._classes_are_trained()
        self._images_are_augmented()
        for reference in self.statistics.references:
            if reference not in methods:
                raise ValueError(
                    "statistics.references has "
                    + catalogue.unknown("method", reference, methods).removeprefix("unknown ")
                    + "; references must be among grid.methods"
                )
        if self.tuning is not None:
            datasets = self.datasets()
            axes = {**dict(self.grid), "models": list(self.models()), "datasets": list(datasets)}
            axes["train_sizes"] = self.grid.sizes(next(iter(datasets.values())))
            parts, recipes = self.compositions(), self.recipes()
            self.tuning.check(axes, {name: (parts[name], recipes[name]) for name in methods})
        return self

    def drawn_figures(self) -> tuple[catalogue.Figure, ...]:
        """Return the figures that are drawn."""
        if self.figures is not None:
            return self.figures
        measured = self.evaluation.measures
        return tuple(
            figure for figure in catalogue.FIGURES if figure != "faithfulness" or figure in measured
        )

    def tested_metrics(self) -> tuple[str, ...]:
        """Return the metrics that methods are compared on."""
        return self.statistics.metrics or self.evaluation.tested()

    def datasets(self) -> dict[str, Variant]:
        """Return by name where each dataset comes from, and how it is drawn."""
        return dict(map(_named, self.grid.datasets))

    def compositions(self) -> dict[str, Composition]:
        """Return the parts of every method by its name, in the order of the grid."""
        return {
            _name(method): catalogue.preset(method)
            if isinstance(method, str)
            else method.composition()
            for method in self.grid.methods
        }

    def recipes(self) -> dict[str, Recipe]:
        """Return the recipe of every method by its name."""
        return {
            _name(method): self.recipe
            if isinstance(method, str)
            else method.own_recipe(self.recipe)
            for method in self.grid.methods
        }

    def matched(self) -> dict[str, str]:
        """Return by method the one whose cost gives its length, for those that have such a one."""
        return {
            method.name: method.budget.matched
            for method in self.grid.methods
            if not isinstance(method, str) and method.budget is not None
        }

    def _lengths_are_known(self, methods: list[str]) -> None:
        for method in self.grid.methods:
            if not isinstance(method, str):
                self._check_recipe(method)
        matched = self.matched()
        for name, other in matched.items():
            if other not in methods:
                raise ValueError(
                    f"method {name!r} has budget.matched: "
                    + catalogue.unknown("method", other, methods)
                    + "; it must be among grid.methods"
                )
            if other in matched:
                raise ValueError(
                    f"method {name!r} has budget.matched: {other!r}, whose own length is measured: "
                    "give a method with a length of its own"
                )

    def _classes_are_trained(self) -> None:
        cells = [
            (dataset, variant, size)
            for dataset, variant in self.datasets().items()
            for size in self.grid.sizes(variant)
        ]
        for name, recipe in self.recipes().items():
            for dataset, variant, size in cells:
                kept, classes = recipe.selection.kept(size), variant.entry.classes
                folds = recipe.selection.folds
                if folds is not None and size - len(recipe.selection.fold(size, 0)) < classes:
                    raise ValueError(
                        f"method {name!r}: recipe.selection leaves out one of {folds} folds, and "
                        f"of {size} training samples fewer remain than {dataset!r} has classes, "
                        f"{classes}: give larger train_sizes, more folds, or a share held_back"
                    )
                if kept < classes:
                    raise ValueError(
                        f"method {name!r}: recipe.selection holds back {size - kept} of {size} "
                        f"training samples, which leaves {kept} for the {classes} classes of "
                        f"{dataset!r}: give larger train_sizes, a smaller held_back, or "
                        "selection: {name: last}"
                    )

    def _images_are_augmented(self) -> None:
        for method, recipe in self.recipes().items():
            if not (recipe.augmentation.crop_padding or recipe.augmentation.flip):
                continue
            for dataset, variant in self.datasets().items():
                if variant.entry.modality != "image":
                    raise ValueError(
                        f"method {method!r}: recipe.augmentation crops and flips images, dataset "
                        f"{dataset!r} has {variant.entry.modality} inputs: set crop_padding: 0 and "
                        "flip: false"
                    )

    def _check_recipe(self, method: NamedMethod) -> None:
        try:
            method.own_recipe(self.recipe)
        except ValidationError as error:
            content = merged(self.recipe.model_dump(), method.recipe)
            raise ValueError(
                f"method {method.name!r}: recipe.{explain(error, content, Recipe, {})}"
            ) from error

    def models(self) -> dict[str, tuple[str, dict[str, Any]]]:
        """Return by name what each model is made of: a name of the catalogue, and options."""
        return {
            _name(model): (model, {}) if isinstance(model, str) else model.made_of()
            for model in self.grid.models
        }


# the parts of a method are checked as those of a composition
CHECKED_AS: dict[type[BaseModel], type[BaseModel]] = {NamedMethod: Composition}


def read_experiment(path: Path) -> Experiment:
    """Read and check an experiment file.

    Raises
    ------
    ConfigError
        One line: the file, the key, what was found, what is allowed, and the nearest match.
    """
    content = read_mapping(path)
    try:
        return Experiment.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"{path}: {explain(error, content, Experiment, CHECKED_AS)}") from error


def notices(experiment: Experiment) -> list[str]:
    """Return what its author should know before anything runs: what the design cannot show."""
    clusters = len(experiment.grid.seeds) * len(experiment.grid.datasets)
    family = max(1, len(experiment.grid.methods) - 1)
    alpha = experiment.statistics.alpha
    p = smallest_p(clusters)
    corrected = min(1.0, p * family)
    if corrected <= alpha:
        return []
    enough = clusters_needed(alpha, family)
    decided = "can be significant" if p <= alpha else "will be 'undecided' as well"
    return [
        f"{clusters} clusters (dataset, seed) cannot reach significance: the smallest two-sided p "
        f"is {p:.3g}, {corrected:.3g} after Holm's correction over {family} comparisons with a "
        f"reference, and alpha is {alpha:g}; at least {enough} clusters are needed. Differences "
        "and intervals are still reported, these verdicts will be 'undecided'; a guided method "
        f"against its control, a comparison by itself, {decided}."
    ]


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of experiment files, for editors."""
    schema = Experiment.model_json_schema()
    schema["properties"]["$schema"] = {"type": "string", "description": "path of this schema"}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _named(dataset: str | NamedDataset) -> tuple[str, Variant]:
    """Return the name of a dataset in tables and paths, and what it is."""
    if isinstance(dataset, str):
        variant = _variant(dataset, {}, SubsetLaw())
        return variant.key, variant
    return dataset.name, dataset.variant()


def _each_once(key: str, names: Sequence[Any]) -> None:
    twice = sorted({str(name) for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{key} has {', '.join(twice)} more than once: remove one")


def _name(value: Any) -> Any:
    return getattr(value, "name", value)
