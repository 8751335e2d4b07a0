"""Guards: attribution leaves no trace in the model, and nothing it cannot treat passes unseen."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

__all__ = ["UnsupportedOperation", "audit", "evaluating", "module_path"]


class UnsupportedOperation(RuntimeError):
    """A model uses an operation for which no relevance rule is known."""


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Hold every module in evaluation mode; each gets its own flag back, whatever happens."""
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


# The nodes that autograd records for the operations of `attrreg.attribution.engine`.
KNOWN_NODES = frozenset(
    {
        "AccumulateGrad",
        "AdaptiveAvgPool1DBackward",
        "AdaptiveAvgPool2DBackward",
        "AddBackward",
        "AvgPool1DBackward",
        "AvgPool2DBackward",
        "CatBackward",
        "CloneBackward",
        "ConstantPadNdBackward",
        "DivBackward",
        "ExpandBackward",
        "MaxPool2DWithIndicesBackward",
        "MeanBackward",
        "MulBackward",
        "PermuteBackward",
        "PropagatedBackward",
        "ReluBackward",
        "ReshapeAliasBackward",
        "SliceBackward",
        "SqueezeBackward",
        "SumBackward",
        "TransposeBackward",
        "UnsafeViewBackward",
        "UnsqueezeBackward",
        "ViewBackward",
    }
)


def audit(output: Tensor) -> None:
    """Check that autograd recorded only operations that have a relevance rule.

    The interception sees calls from Python. A scripted function or a custom
    ``autograd.Function`` escapes it, but not the graph that autograd keeps.

    Raises
    ------
    UnsupportedOperation
        A node of the graph belongs to no supported operation, or there is no graph.
    """
    if output.grad_fn is None:
        raise UnsupportedOperation("the model's output does not depend on its input by autograd")
    seen = {output.grad_fn}
    waiting = [output.grad_fn]
    while waiting:
        node = waiting.pop()
        name = node.name().rsplit("::", 1)[-1].rstrip("0123456789")
        if name not in KNOWN_NODES:
            raise UnsupportedOperation(
                f"the model computes {name.removesuffix('Backward')} where attrreg cannot see it "
                "(scripted or traced code, or an autograd.Function); relevance has no rule for it"
            )
        for parent, _ in node.next_functions:
            if parent is not None and parent not in seen:
                seen.add(parent)
                waiting.append(parent)


def module_path(model: nn.Module) -> str:
    """Return the dotted path of the module of `model` that is running now, ``""`` if none is.

    Reads the call stack, so that no hook is needed; meant for error messages.
    """
    paths = {id(module): name for name, module in model.named_modules()}
    frame = sys._getframe(1)
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, nn.Module) and id(owner) in paths:
            return paths[id(owner)]
        frame = frame.f_back  # type: ignore[assignment]
    return ""
