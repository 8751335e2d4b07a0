"""How a model is trained, apart from the method: the typed recipe."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["SGD", "AdamW", "Augmentation", "Recipe", "Schedule", "Selection"]

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
LayerDecay = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Decay = Literal["all", "weights"]  # what decays: all parameters, or none of the norms and biases


class Strict(BaseModel):
    """Frozen, and refuses keys that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SGD(Strict):
    """Stochastic gradient descent with momentum.

    ``layer_decay`` below 1 multiplies the learning rate of every layer by it once more than that of
    the next one; the classifier has the whole rate.
    """

    name: Literal["sgd"] = "sgd"
    learning_rate: Positive = 0.05
    momentum: Fraction = 0.9
    nesterov: bool = False
    weight_decay: NonNegative = 5e-4
    decay: Decay = "all"
    layer_decay: LayerDecay = 1.0

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> "SGD":
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs momentum above 0, found 0")
        return self


class AdamW(Strict):
    """Adam with decoupled weight decay; ``layer_decay`` as in `SGD`."""

    name: Literal["adamw"] = "adamw"
    learning_rate: Positive = 1e-3
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    weight_decay: NonNegative = 1e-2
    decay: Decay = "all"
    layer_decay: LayerDecay = 1.0


class Schedule(Strict):
    """The learning rate over the steps, after a linear warm-up.

    ``step`` multiplies it by `factor` at each of the `milestones`, shares of all steps: with
    ``milestones: [0.2, 0.4, 0.6, 0.8]`` and ``factor: 0.7`` in 100 epochs, every 20 of them.
    """

    name: Literal["constant", "cosine", "step"] = "cosine"
    warm_up_steps: Annotated[int, Field(ge=0)] = 0
    final: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.0  # share of the first
    milestones: tuple[Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)], ...] = (0.5, 0.75)
    factor: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 0.1

    @model_validator(mode="after")
    def _milestones_rise(self) -> "Schedule":
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones must rise, found {list(self.milestones)}")
        return self


class Augmentation(Strict):
    """Random changes of the training images: a crop after zero padding, a horizontal flip."""

    crop_padding: Annotated[int, Field(ge=0)] = 0
    flip: bool = False


class Selection(Strict):
    """Which weights of a training are kept: the last, or the best on samples that are held back.

    What is held back is a share of the run's own training samples: selection is paid for from the
    same label budget. ``best`` holds back a fifth if nothing is said, ``last`` nothing. It is
    looked at whenever a pass over the rest ends, but at most every ``every`` steps, and evaluation
    fits the temperature on it.

    ``folds`` is the other way to pay for the temperature with own labels, by cross-fitting: the run
    is trained on all its samples, and as many models more are trained, each without one fold of
    them. What these say of the fold that they have not seen is what the temperature is fitted on.
    """

    name: Literal["last", "best"] = "last"
    held_back: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] | None = None
    every: Count = 50
    folds: Annotated[int, Field(ge=2, le=20)] | None = None

    @model_validator(mode="after")
    def _one_way(self) -> "Selection":
        if self.folds is not None and (self.name == "best" or self.held_back is not None):
            found = "name: best" if self.name == "best" else f"held_back: {self.held_back:g}"
            raise ValueError(
                f"selection has folds: {self.folds} and {found}, two ways to pay for what is not "
                "trained on: give one of them; 'best' needs samples that are held back"
            )
        return self

    @property
    def regime(self) -> Literal["held back", "cross-fitting", "validation split"]:
        """What temperatures are fitted on; only the last takes labels beyond the run's own."""
        if self.folds is not None:
            return "cross-fitting"
        holds_back = self.name == "best" or self.held_back is not None
        return "held back" if holds_back else "validation split"

    def fold(self, labels: Sequence[int], number: int) -> list[int]:
        """Return the places of the samples that a model of the cross-fitting does not see.

        Every class is spread over the folds, so that no model is read on a class that it has never
        seen; a sample that is alone in its class is never left out.
        """
        counts = Counter(labels)
        places = [place for place, label in enumerate(labels) if counts[label] > 1]
        left_out = sorted(places, key=labels.__getitem__)[number :: self.folds]
        if not left_out:
            raise ValueError(
                f"cross-fitting has {self.folds} folds, found {len(places)} training samples that "
                "are not alone in their class: give at least one such sample per fold"
            )
        return sorted(left_out)

    def kept(self, train_size: int) -> int:
        """Return how many of the samples are trained on."""
        share = 0.2 if self.name == "best" and self.held_back is None else self.held_back
        if share is None:
            return train_size
        if train_size < 2:
            raise ValueError(
                f"selection {self.name!r} holds back a share of the training samples, found "
                f"{train_size} of them: give 2 or more, or selection 'last' without held_back"
            )
        return max(1, train_size - max(1, round(share * train_size)))


class Recipe(Strict):
    """One recipe for all methods: the same steps, batches and optimiser.

    The length is given in ``steps`` or in ``epochs``. Small training sets need steps: an epoch of
    50 samples is hardly two of them. ``precision`` is that of forward and backward passes:
    ``bfloat16`` is mixed, ``tf32`` lets GPUs round the factors of products, ``auto`` is mixed on
    GPUs that have it and float32 elsewhere. Maps are made in float32 (that of a shared training
    pass, as in `sgt-shared`, in the precision of the pass).
    """

    steps: Count | None = None
    epochs: Count | None = None
    batch_size: Count = 32
    optimizer: Annotated[SGD | AdamW, Field(discriminator="name")] = SGD()
    schedule: Schedule = Schedule()
    augmentation: Augmentation = Augmentation()
    precision: Literal["auto", "float32", "tf32", "bfloat16"] = "auto"
    selection: Selection = Selection()

    @model_validator(mode="after")
    def _one_length(self) -> "Recipe":
        if (self.steps is None) == (self.epochs is None):
            found = "neither" if self.steps is None else "both"
            raise ValueError(f"give the training length as 'steps' or as 'epochs', found {found}")
        return self

    def run_steps(self, train_size: int) -> int:
        """Return the number of steps of a run, which may hold back some of its samples."""
        return self.total_steps(self.selection.kept(train_size))

    def all_steps(self, train_size: int) -> int:
        """Return the number of steps of a run and of the models of its cross-fitting."""
        folds = self.selection.folds or 0
        left_out = [len(range(number, train_size, folds)) for number in range(folds)]
        return self.run_steps(train_size) + sum(
            self.total_steps(train_size - each) for each in left_out
        )

    def total_steps(self, train_size: int) -> int:
        """Return the number of optimiser steps for a training set of that size."""
        if self.steps is not None:
            return self.steps
        batch = min(self.batch_size, train_size)
        return max(1, math.floor((self.epochs or 0) * train_size / batch + 0.5))
