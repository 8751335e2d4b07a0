"""The experiment file: typed, checked before anything runs, and explained when it is wrong."""

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, Field, ValidationError, model_validator

from attrreg import catalogue
from attrreg.execution import Execution
from attrreg.grid import Grid, NamedMethod, each_once, merged, name_of, named
from attrreg.messages import explain
from attrreg.other_sets import check_other_sets, sets_beside
from attrreg.parameters import Composition
from attrreg.protocol import CROSSED, FIXED, Evaluation, Measure
from attrreg.recipe import Recipe, Strict
from attrreg.statistics.design import clusters_needed, smallest_p
from attrreg.statistics.directions import is_higher_better
from attrreg.tuning_settings import Tuning
from attrreg.variant import Variant
from attrreg.yaml_files import ConfigError, read_mapping

__all__ = ["ConfigError", "Experiment", "json_schema", "notices", "read_experiment"]


Margin = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Statistics(Strict):
    """Which methods the others are compared with, on what, and at which level.

    Without ``metrics``: accuracy, calibration before and after temperature scaling, and occlusion
    in every order of the evaluation. ``equivalence`` and ``non_inferiority`` declare by metric, in
    its own unit, the difference that does not matter; ``scales`` compares a metric by the logarithm
    of its ratio (then margins are logarithms, too), with values below its ``floors`` raised to it.
    ``least`` gives claims by their id another least effect than the declared one, in the same unit;
    their answers are exploratory from then on.
    """

    references: Annotated[tuple[str, ...], Field(min_length=1)] = ("baseline",)
    metrics: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    alpha: Annotated[float, Field(gt=0, lt=0.5, allow_inf_nan=False)] = 0.05
    equivalence: dict[str, Margin] = Field(default_factory=dict)
    non_inferiority: dict[str, Margin] = Field(default_factory=dict)
    scales: dict[str, Literal["difference", "log-ratio"]] = Field(default_factory=dict)
    floors: dict[str, Margin] = Field(default_factory=dict)
    least: dict[str, Margin] = Field(default_factory=dict)


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
        each_once("evaluation.orders", self.evaluation.orders)
        each_once("figures", self.figures or ())
        each_once("statistics.metrics", self.statistics.metrics or ())
        each_once("statistics.references", self.statistics.references)
        methods = [name_of(method) for method in self.grid.methods]
        self._figures_have_something_to_show()
        self._least_effects_are_of_chosen_claims()
        self._metrics_are_measured()
        self._methods_are_in_the_grid(methods)
        self._lengths_are_known(methods)
        self._classes_are_trained()
        self._images_are_augmented()
        check_other_sets(self.evaluation, self.datasets())
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
        return tuple(filter(self._has_something_to_show, catalogue.FIGURES))

    def _has_something_to_show(self, figure: catalogue.Figure) -> bool:
        if figure == "cross-maps":
            return bool(self.evaluation.crossed)
        return figure not in get_args(Measure) or figure in self.evaluation.measures

    def tested_metrics(self) -> tuple[str, ...]:
        """Return the metrics that methods are compared on."""
        return self.statistics.metrics or self.evaluation.tested()

    def taking_part(self) -> dict[str, tuple[str, ...]]:
        """Return by metric the methods that can have it, for metrics that not all can."""
        perturbing = tuple(
            name for name, parts in self.compositions().items() if parts.perturbation is not None
        )
        return dict.fromkeys(CROSSED, self.evaluation.crossed) | dict.fromkeys(
            FIXED["leak"], perturbing
        )

    def datasets(self) -> dict[str, Variant]:
        """Return by name where each dataset comes from, and how it is drawn."""
        return dict(map(named, self.grid.datasets))

    def prepared(self) -> list[Variant]:
        """Return what must be prepared: the datasets, and other test sets that fit them."""
        datasets = list(self.datasets().values())
        sets = {
            each.variant.key: each.variant
            for dataset in datasets
            for each in sets_beside(self.evaluation, dataset)
        }
        known = {each.key for each in datasets}
        return [*datasets, *(each for key, each in sets.items() if key not in known)]

    def compositions(self) -> dict[str, Composition]:
        """Return the parts of every method by its name, in the order of the grid."""
        return {
            name_of(method): catalogue.preset(method)
            if isinstance(method, str)
            else method.composition()
            for method in self.grid.methods
        }

    def recipes(self) -> dict[str, Recipe]:
        """Return the recipe of every method by its name."""
        return {
            name_of(method): self.recipe
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

    def _figures_have_something_to_show(self) -> None:
        for figure in self.figures or ():
            if not self._has_something_to_show(figure):
                key = "crossed" if figure == "cross-maps" else "measures"
                wanted = "methods for it" if figure == "cross-maps" else repr(figure)
                raise ValueError(
                    f"figures has {figure!r}, for which evaluation.{key} lacks {wanted}: add it "
                    "there or remove the figure here"
                )

    def _least_effects_are_of_chosen_claims(self) -> None:
        for name in self.statistics.least:
            if self.claims is not None and name not in self.claims:
                raise ValueError(
                    f"statistics.least has {name!r}, which claims lacks: add it there or remove it "
                    f"here; found claims {', '.join(self.claims) or 'none'}"
                )

    def _metrics_are_measured(self) -> None:
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

    def _methods_are_in_the_grid(self, methods: list[str]) -> None:
        named = [("statistics.references", each) for each in self.statistics.references]
        named += [("evaluation.crossed", each) for each in self.evaluation.crossed]
        for key, method in named:
            if method not in methods:
                raise ValueError(
                    f"{key} has "
                    + catalogue.unknown("method", method, methods).removeprefix("unknown ")
                    + f"; {key.rpartition('.')[2]} must be among grid.methods"
                )

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
                if folds is not None and size < max(folds, 2 * classes):
                    raise ValueError(
                        f"method {name!r}: recipe.selection leaves out one of {folds} folds at a "
                        f"time, which takes a sample per fold and two of each of the {classes} "
                        f"classes of {dataset!r}; found train_sizes {size}: give at least "
                        f"{max(folds, 2 * classes)}, or a share held_back"
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
            name_of(model): (model, {}) if isinstance(model, str) else model.made_of()
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
    return [*_too_few_clusters(experiment), *_unlike_regimes(experiment)]


def _too_few_clusters(experiment: Experiment) -> list[str]:
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


def _unlike_regimes(experiment: Experiment) -> list[str]:
    """Say where temperatures of the methods are paid for differently."""
    regimes = {name: recipe.selection.regime for name, recipe in experiment.recipes().items()}
    if len(set(regimes.values())) < 2:
        return []
    said = "; ".join(f"{name}: {regime}" for name, regime in regimes.items())
    return [
        f"what temperatures are fitted on differs between methods ({said}), so that metrics after "
        "temperature scaling compare regimes as well as methods"
    ]


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of experiment files, for editors."""
    schema = Experiment.model_json_schema()
    schema["properties"]["$schema"] = {"type": "string", "description": "path of this schema"}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
