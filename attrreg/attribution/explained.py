"""What is explained: an output of the model, as weights over its classes.

Every way to explain (`attrreg.attribution.engine`, `gradients`, `backends`) runs the model, checks
its logits, turns the target into weights (n, classes), and explains Σ weights · output.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "NO_DEPENDENCE",
    "Output",
    "Target",
    "check_logits",
    "check_output",
    "in_transform",
    "seed",
    "weights",
]

Output = Literal["logit", "log-probability"]
Target = Tensor | Callable[[Tensor], Tensor]
NO_DEPENDENCE = "the model's output does not depend on its input, as far as autograd can see"


def seed(logits: Tensor, target: Target, output: Output) -> Tensor:
    """Return the derivative of the explained output by the logits, (n, classes).

    Relevance at the logits is this times the logits. Arguments and errors as in `weights`.
    """
    weighted = weights(logits, target)
    if output == "logit":
        return weighted
    return weighted - weighted.sum(1, keepdim=True) * logits.softmax(1)


def weights(logits: Tensor, target: Target) -> Tensor:
    """Return how much each class counts in the explained output, (n, classes), dtype of the logits.

    Parameters
    ----------
    logits
        What the model returned, detached, (n, classes).
    target
        Class indices (n,) int64, weights (n, classes) floating point, or a function from logits to
        either.

    Raises
    ------
    ValueError
        The target has another shape or dtype, or indices of no class. On a GPU, and inside a
        transform of ``torch.func``, values are not looked at.
    """
    found = target if isinstance(target, Tensor) else target(logits)
    if found.shape == logits.shape and found.is_floating_point():
        return found.to(logits.dtype)
    n, classes = logits.shape
    if found.shape != (n,) or found.dtype != torch.int64:
        raise ValueError(
            f"target has shape {tuple(found.shape)} and dtype {found.dtype}: give class "
            f"indices ({n},) int64 or weights ({n}, {classes}) floating point"
        )
    # on a GPU looking at the values would make the host wait
    visible = found.device.type == "cpu" and not in_transform()
    if visible and bool(((found < 0) | (found >= classes)).any()):
        raise ValueError(
            f"target has class indices from {int(found.min())} to {int(found.max())}, but the "
            f"model has classes 0 to {classes - 1}"
        )
    return F.one_hot(found, classes).to(logits.dtype)


def check_logits(logits: Any, x: Tensor) -> None:
    """Raise ValueError unless the model returned one row of logits per sample of x."""
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(x):
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"the model returned {found} for {len(x)} samples: give (n, classes)")


def check_output(output: str) -> None:
    """Raise ValueError unless the output is one of `Output`."""
    if output not in ("logit", "log-probability"):
        raise ValueError(f"unknown output {output!r}: known are logit, log-probability")


def in_transform() -> bool:
    """Whether this runs inside a transform of ``torch.func``: vmap, grad, vjp, jvp and the like."""
    return bool(torch._C._are_functorch_transforms_active())
