"""What a training step knows beside model, inputs and labels."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor, nn

__all__ = ["Movement", "SharedPass", "State", "eager", "slot"]


class Movement(Protocol):
    """How the augmentation has moved the features of each sample of a batch.

    `attrreg.data.device.Movement` is that of images.
    """

    def apply_to_maps(self, maps: Tensor) -> Tensor:
        """Return maps (n, *features) of the samples as they were, moved to where they are."""

    def undo(self, maps: Tensor) -> Tensor:
        """Return maps (n, *features) of the moved samples, moved back to where they were."""


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
        Which samples of the training set the batch holds, (n,) int64 on the CPU, where a part may
        look at them and nobody waits for a GPU.
    size
        Number of samples in the training set.
    epoch, last_epoch
        Passes over the training set that are completed before the batch's first sample, and before
        its last one; None: the same.
    augmentation
        How the samples of the batch were moved; None: not at all.
    region
        The ground-truth region of each sample of the batch, (n, *features): the larger the value,
        the more it belongs there, such as 1 inside and 0 outside.
    bounds
        Smallest and largest possible input per channel (axis 1), in the units the model sees.
    memory
        What parts keep from one step to the next: one dict for the whole training, made by the
        loop. A part keeps tensors, or tuples and dicts of them, under its `slot`, so that a
        checkpoint can hold them. None: nothing is kept, and a part that cannot do without says so.
    forward
        The pass that several parts share; set by `attrreg.method.Method.loss`.
    """

    feature_axes: tuple[int, ...] | None = None
    generator: torch.Generator | None = None
    indices: Tensor | None = None
    size: int | None = None
    epoch: int = 0
    last_epoch: int | None = None
    augmentation: Movement | None = None
    region: Tensor | None = None
    bounds: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    memory: dict[str, Any] | None = None
    forward: Callable[[Tensor], Tensor] | None = None


@cache
def slot(part: Any) -> str:
    """Return the name under which a part keeps things: its parameters tell it from others."""
    return str(part.model_dump_json())


@contextmanager
def eager(model: nn.Module) -> Iterator[None]:
    """Run what ``torch.compile`` has compiled as it was written; nothing else is touched."""
    compiled = any(
        module._compiled_call_impl is not None or type(module).__name__ == "OptimizedModule"
        for module in model.modules()
    )
    with torch.compiler.set_stance("force_eager") if compiled else nullcontext():
        yield


class SharedPass:
    """A model that computes its clean batch only once.

    Two calls with the very same tensor give the same logits, graph included; every other input is
    a pass of its own.
    """

    def __init__(self, model: nn.Module, clean: Tensor) -> None:
        self.model, self._clean = model, clean
        self._logits: Tensor | None = None

    @property
    def can_be_joined(self) -> bool:
        """Whether another batch may be computed in one pass with the clean one."""
        batch_norm = nn.modules.batchnorm._BatchNorm
        norms = (each for each in self.model.modules() if isinstance(each, batch_norm))
        return self._logits is None and not any(each.training for each in norms)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits (n, classes) of x, in the model's own mode."""
        if x is not self._clean:
            return self.model(x)
        if self._logits is None:
            self._logits = self.model(x)
        return self._logits
