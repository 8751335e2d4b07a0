"""What a training step knows beside model, inputs and labels."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

__all__ = ["SharedPass", "State"]


@dataclass(frozen=True)
class State:
    """What some parts of a method need and others do not; all of it is optional.

    Parameters
    ----------
    feature_axes
        The axes of the input that are ranked and masked; ``None``: all after the channel axis 1.
    generator
        Random numbers of the attribution. The perturbation has its own, so that a control with
        extra draws still perturbs with the same numbers as the method it controls.
    indices
        Which samples of the training set the batch holds, (n,) int64.
    epoch
        Passes over the training set that are completed.
    memory
        What a part keeps from one step to the next; the loop owns it.
    forward
        The pass that several parts share; set by `attrreg.method.Method.loss`.
    """

    feature_axes: tuple[int, ...] | None = None
    generator: torch.Generator | None = None
    indices: Tensor | None = None
    epoch: int = 0
    memory: dict[str, Tensor] = field(default_factory=dict)
    forward: Callable[[Tensor], Tensor] | None = None


class SharedPass:
    """A model that computes its clean batch only once.

    Two calls with the very same tensor give the same logits, graph included; every other input is
    a pass of its own.
    """

    def __init__(self, model: nn.Module, clean: Tensor) -> None:
        self._model, self._clean = model, clean
        self._logits: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits (n, classes) of x, in the model's own mode."""
        if x is not self._clean:
            return self._model(x)
        if self._logits is None:
            self._logits = self._model(x)
        return self._logits
