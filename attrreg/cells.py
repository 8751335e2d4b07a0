"""The words of the grid: a cell is a point without its seed, a run is a cell and a seed."""

from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from attrreg import catalogue
from attrreg.files import path_name
from attrreg.parameters import Composition, chain
from attrreg.provenance import digest, source_digest
from attrreg.recipe import Recipe
from attrreg.variant import Variant

__all__ = ["Run", "architecture", "part_modules"]

STARTS = ("pretrained", "weights", "frozen")  # options that say how a training begins


@dataclass(frozen=True, eq=False)
class Run:
    """One training: what is trained on what, resolved to the last parameter.

    Parameters
    ----------
    dataset, model, method, train_size, seed
        Its place in the grid.
    base, options
        The model of the catalogue that `model` is made of, and its options.
    composition
        The parts of the method.
    recipe
        Everything else about the training.
    matched
        The parts and the recipe of the method whose cost gives the length, or None.
    variant
        Where the dataset comes from and how it is drawn; without one, the catalogue's of that name.
    """

    dataset: str
    model: str
    method: str
    train_size: int
    seed: int
    base: str
    options: dict[str, Any]
    composition: Composition
    recipe: Recipe
    matched: tuple[Composition, Recipe] | None = None
    variant: Variant | None = None
    fold: int | None = None

    @property
    def folds(self) -> "tuple[Run, ...]":
        """The models of its cross-fitting, each trained without one fold of its samples."""
        return tuple(replace(self, fold=each) for each in range(self.recipe.selection.folds or 0))

    @property
    def source(self) -> Variant:
        """The dataset with its options, and the law of its subsets."""
        return self.variant or Variant.of(self.dataset)

    @property
    def key(self) -> dict[str, str | int]:
        """The run's place in the grid, as the first columns of every table."""
        return {
            "dataset": self.dataset,
            "model": self.model,
            "method": self.method,
            "train_size": self.train_size,
            "seed": self.seed,
        }

    @property
    def path(self) -> Path:
        """Where it lies below ``runs`` and ``scores``."""
        names = (path_name(name) for name in (self.dataset, self.model, self.method))
        fold = "" if self.fold is None else f".fold{self.fold}"
        return Path(*names, f"n{self.train_size}", f"s{self.seed}{fold}")

    @property
    def name(self) -> str:
        """The run in one line."""
        fold = "" if self.fold is None else f" fold={self.fold}"
        return (
            f"{self.dataset} {self.model} {self.method} n={self.train_size} seed={self.seed}{fold}"
        )

    @cached_property
    def intent(self) -> str:
        """The digest of all that decides the weights and is known before data are prepared."""
        model = catalogue.model(self.base)
        return digest(
            {
                "dataset": [self.dataset, self.source.identity],
                "model": [model.timm, model.implementation, model.options, self.options],
                "method": self.composition.model_dump(mode="json"),
                "train_size": self.train_size,
                "seed": self.seed,
                "fold": self.fold,
                "recipe": self._trained_by(self.recipe),
                "matched": self.matched
                and [self.matched[0].model_dump(mode="json"), self._trained_by(self.matched[1])],
                "source": source_digest("attrreg.training.runs", *self.modules),
                "torch": version("torch"),
                "timm": version("timm"),
            }
        )

    def _trained_by(self, recipe: Recipe) -> dict[str, Any]:
        """Return a recipe; the number of folds is nothing to a run that leaves out none."""
        content = recipe.model_dump(mode="json")
        if self.fold is None:
            content["selection"].pop("folds")
        return content

    @property
    def modules(self) -> tuple[str, ...]:
        """Where the code of the method's parts, and of a model that is not timm's, lies."""
        implementation = catalogue.model(self.base).implementation
        return (*part_modules(self.composition), *filter(None, [implementation]))

    def scores_intent(self, protocol: dict[str, Any]) -> str:
        """Return the digest of how the run is evaluated; its training is not in it."""
        source = source_digest("attrreg.evaluation.scores", *self.modules)
        return digest([protocol, source, self.recipe.selection.folds])


def architecture(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a model without those that say with which weights training begins."""
    return {name: value for name, value in options.items() if name not in STARTS}


def part_modules(composition: Composition) -> tuple[str, ...]:
    """Return where the code of a method's parts lies."""
    parts = (composition.perturbation, composition.objective, *chain(composition.attribution))
    return tuple(sorted({part.implementation for part in parts if part is not None}))
