"""Guards: attribution leaves no trace in the model, and nothing it cannot treat passes unseen."""

import sys
from collections.abc import Iterator, Mapping, Sequence
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
    flags = [(module.__dict__, module.training) for module in model.modules()]
    try:
        for attributes, training in flags:
            if training:
                attributes["training"] = False
        yield
    finally:
        for attributes, training in flags:
            attributes["training"] = training


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """As `evaluating`, and give back what a model may change even so: buffers, the random stream.

    The random stream is the CPU's; a GPU's could not be read while its work is captured.
    """
    kept = [
        (module._buffers, name, buffer, buffer._version, buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None and not buffer.is_inference()
    ]
    stream = torch.get_rng_state()
    try:
        with evaluating(model):
            yield
    finally:
        torch.set_rng_state(stream)
        with torch.no_grad():
            for buffers, name, buffer, version, value in kept:
                buffers[name] = buffer
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
        """Admit the nodes on the ways from an operation's inputs to its output."""
        ends = [torch.autograd.graph.get_gradient_edge(each).node for each in inputs]
        self._look(output.grad_fn, known=True, ends=ends)

    def hidden(self, tensor: Tensor) -> str | None:
        """Return the name of an operation that nobody has admitted on the way to the input.

        Of several the one nearest to the input. None where there is none: all of the way is
        admitted, or the tensor does not depend on the input.
        """
        return None if tensor.grad_fn is None else self._look(tensor.grad_fn)

    def _look(self, top: Any, known: bool = False, ends: Sequence[Any] = ()) -> str | None:
        """Walk down from a node, and sort the new ones: those that lead to the input, and others.

        The former are admitted with `known`; otherwise the first is named. Not recursive, since a
        graph of parameters may be deep.
        """
        waiting = [top]
        while waiting:
            node = waiting[-1]
            if node in self._known or node in self._apart or node in ends:
                waiting.pop()
                continue
            parents = [parent for parent, _ in node.next_functions if parent is not None]
            sorted_ = (self._known, self._apart, ends)
            new = [parent for parent in parents if not any(parent in each for each in sorted_)]
            if new:
                waiting.extend(new)
                continue
            waiting.pop()
            if not any(parent in self._known or parent in ends for parent in parents):
                self._apart.add(node)
            elif known:
                self._known.add(node)
            else:
                name: str = node.name().rpartition("::")[2].rstrip("0123456789")
                return name.removesuffix("Backward")
        return None


def module_path(paths: Mapping[int, str]) -> str:
    """Return the dotted path of the module that is running now, ``""`` if none is.

    Reads the call stack, so that no hook is needed; meant for error messages.

    Parameters
    ----------
    paths
        By ``id`` the paths of the modules of a model.
    """
    for frame in _frames():
        # Only here are local variables read: that copies them, and the copy keeps them alive.
        if frame.f_code is nn.Module._call_impl.__code__:
            path = paths.get(id(frame.f_locals["self"]))
            if path is not None:
                return path
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
