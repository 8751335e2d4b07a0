"""Guards: attribution leaves no trace in the model, and nothing it cannot treat passes unseen."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

__all__ = [
    "Graph",
    "UnsupportedOperation",
    "custom_function",
    "evaluating",
    "module_path",
    "untouched",
]


class UnsupportedOperation(RuntimeError):
    """A model uses an operation for which no relevance rule is known."""


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Hold every module in evaluation mode; each gets its own flag back, whatever happens."""
    # written past Module.__setattr__, which takes as long as a small layer
    training = [module.__dict__ for module in model.modules() if module.training]
    try:
        for attributes in training:
            attributes["training"] = False
        yield
    finally:
        for attributes in training:
            attributes["training"] = True


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """As `evaluating`, and give back what a model may change even so: buffers, the random stream.

    The random stream is the CPU's; a GPU's could not be read while its work is captured.
    """
    kept = [
        (buffer, buffer._version, buffer.clone())
        for buffer in model.buffers()
        if not buffer.is_inference()
    ]
    stream = torch.get_rng_state()
    try:
        with evaluating(model):
            yield
    finally:
        torch.set_rng_state(stream)
        with torch.no_grad():
            for buffer, version, value in kept:
                if buffer._version != version:
                    buffer.copy_(value)


class Graph:
    """The nodes of autograd's graph that operations with a relevance rule have recorded.

    Calls from Python are intercepted. A scripted function or a custom ``autograd.Function`` escapes
    that, but not the graph that autograd keeps: what leads to the input and was never admitted.
    """

    def __init__(self, leaf: Tensor) -> None:
        self._known: set[Any] = {torch.autograd.graph.get_gradient_edge(leaf).node}
        self._apart: set[Any] = set()  # nodes found to lead to parameters only

    def admit(self, output: Tensor, inputs: Sequence[Tensor]) -> None:
        """Admit the nodes that lie between an operation's inputs and its output."""
        ends = {tensor.grad_fn for tensor in inputs}
        waiting: list[Any] = [output.grad_fn]
        while waiting:
            node = waiting.pop()
            if node is not None and node not in self._known and node not in ends:
                self._known.add(node)
                waiting.extend(parent for parent, _ in node.next_functions)

    def hidden(self, tensor: Tensor) -> str | None:
        """Return the name of an operation that nobody has admitted on the way to the input.

        Of several the one nearest to the input. None where there is none: all of the way is
        admitted, or the tensor does not depend on the input.
        """
        return None if tensor.grad_fn is None else self._hidden(tensor.grad_fn)

    def _hidden(self, node: Any) -> str | None:
        if node in self._known or node in self._apart:
            return None
        reaches = False
        for parent, _ in node.next_functions:
            if parent is None:
                continue
            nearer = self._hidden(parent)
            if nearer is not None:
                return nearer
            reaches = reaches or parent in self._known
        if reaches:
            name: str = node.name().rpartition("::")[2].rstrip("0123456789")
            return name.removesuffix("Backward")
        self._apart.add(node)
        return None


def module_path(model: nn.Module) -> str:
    """Return the dotted path of the module of `model` that is running now, ``""`` if none is.

    Reads the call stack, so that no hook is needed; meant for error messages.
    """
    paths = {id(module): name for name, module in model.named_modules()}
    for frame in _frames():
        owner = frame.f_locals.get("self")
        if isinstance(owner, nn.Module) and id(owner) in paths:
            return paths[id(owner)]
    return ""


def custom_function() -> str:
    """Return the name of the ``autograd.Function`` that is running now, ``""`` if none is."""
    for frame in _frames():
        if frame.f_code.co_name == "forward" and "ctx" in frame.f_locals:
            return frame.f_code.co_qualname.removesuffix(".forward")
    return ""


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        yield frame
        frame = frame.f_back
