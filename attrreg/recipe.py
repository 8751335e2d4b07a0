"""How a model is trained, apart from the method: the typed recipe."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["SGD", "AdamW", "Augmentation", "Recipe", "Schedule"]

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class Strict(BaseModel):
    """Frozen, and refuses keys that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SGD(Strict):
    """Stochastic gradient descent with momentum."""

    name: Literal["sgd"] = "sgd"
    learning_rate: Positive = 0.05
    momentum: Fraction = 0.9
    nesterov: bool = False
    weight_decay: NonNegative = 5e-4

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> "SGD":
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs momentum above 0, found 0")
        return self


class AdamW(Strict):
    """Adam with decoupled weight decay."""

    name: Literal["adamw"] = "adamw"
    learning_rate: Positive = 1e-3
    weight_decay: NonNegative = 1e-2


class Schedule(Strict):
    """The learning rate over the steps, after a linear warm-up."""

    name: Literal["constant", "cosine"] = "cosine"
    warm_up_steps: Annotated[int, Field(ge=0)] = 0
    final: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.0  # share of the first


class Augmentation(Strict):
    """Random changes of the training images: a crop after zero padding, a horizontal flip."""

    crop_padding: Annotated[int, Field(ge=0)] = 0
    flip: bool = False


class Recipe(Strict):
    """One recipe for all methods: the same steps, batches and optimiser.

    The length is given in ``steps`` or in ``epochs``. Small training sets need steps: an epoch of
    50 samples is hardly two of them.
    """

    steps: Count | None = None
    epochs: Count | None = None
    batch_size: Count = 32
    optimizer: Annotated[SGD | AdamW, Field(discriminator="name")] = SGD()
    schedule: Schedule = Schedule()
    augmentation: Augmentation = Augmentation()

    @model_validator(mode="after")
    def _one_length(self) -> "Recipe":
        if (self.steps is None) == (self.epochs is None):
            found = "neither" if self.steps is None else "both"
            raise ValueError(f"give the training length as 'steps' or as 'epochs', found {found}")
        return self

    def total_steps(self, train_size: int) -> int:
        """Return the number of optimiser steps for a training set of that size."""
        if self.steps is not None:
            return self.steps
        batch = min(self.batch_size, train_size)
        return max(1, round((self.epochs or 0) * train_size / batch))
