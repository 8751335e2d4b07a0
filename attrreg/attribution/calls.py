"""Calls as operations see them: arguments, in-place forms, the table of functions."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from attrreg.attribution.interception import Interception, Operation, tensors_in

__all__ = ["everywhere", "in_place", "replaced", "settled", "table"]

# These make one tensor of several, so that constants among them are part of the result.
JOINS = frozenset([torch.cat, torch.concat, torch.stack])


def table(entries: list[tuple[Operation, list[Any]]]) -> dict[Any, Operation]:
    """Return the operation of each function."""
    return {func: operation for operation, functions in entries for func in functions}


def everywhere(names: list[str]) -> list[Callable[..., Any]]:
    """Return every public function of that name: torch has up to three for one operation."""
    return [
        getattr(place, name)
        for name in names
        for place in (torch, F, Tensor)
        if hasattr(place, name)
    ]


def in_place(operation: Operation) -> Operation:
    """Return the in-place form of an operation: the model goes on with the result."""

    def change(run: Interception, func: Any, input: Any, *args: Any, **kwargs: Any) -> Any:
        if not run.is_live(input):
            run.refuse(func, "changes in place a tensor that does not depend on the input")
        return run.change(func, input, operation(run, func, input, *args, **kwargs))

    return change


def settled(run: Interception, func: Any, value: Any) -> tuple[Any, list[Tensor]]:
    """Return arguments with what stands for live tensors, and these."""
    first = next(each for each in tensors_in(value) if run.is_live(each))
    settled = _settle(run, func, first, value)
    return settled, [each for each in tensors_in(settled) if run.is_live(each)]


def _settle(run: Interception, func: Any, first: Tensor, value: Any) -> Any:
    if isinstance(value, list | tuple):
        if any(map(run.is_live, tensors_in(value))):
            return type(value)([_settle(run, func, first, each) for each in value])
        return value
    if isinstance(value, dict):
        return {name: _settle(run, func, first, each) for name, each in value.items()}
    if run.is_live(value):
        return run.settle(value)
    joined = isinstance(value, Tensor) and (value.is_floating_point() or func in JOINS)
    return run.constant(value, first) if joined else value


def replaced(value: Any, inputs: Sequence[Tensor], by: Sequence[Tensor]) -> Any:
    """Return arguments with tensors, recognised by identity, replaced by others."""
    for tensor, other in zip(inputs, by, strict=True):
        if value is tensor:
            return other
    if isinstance(value, list | tuple):
        return type(value)([replaced(each, inputs, by) for each in value])
    if isinstance(value, dict):
        return {name: replaced(each, inputs, by) for name, each in value.items()}
    return value
