"""Runs a model with its operations intercepted, so that affine layers get a relevance backward.

No hooks and no surgery on the model: what is replaced is the call, recognised by the function, and
tensors are recognised by identity.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils.weak import WeakIdKeyDictionary

from attrreg.attribution.guards import (
    Graph,
    UnsupportedOperation,
    custom_function,
    module_path,
)
from attrreg.attribution.layers import Affine, Convolution, propagate
from attrreg.attribution.rules import Rule

__all__ = ["Interception", "Operation", "tensors_in"]

Operation = Callable[..., Any]


class Propagated(torch.autograd.Function):
    """An affine layer whose backward pass carries relevance ÷ value."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        even: Tensor | None,
        z: Tensor,
        back: Callable[[Tensor, Tensor, Tensor], Tensor],
    ) -> Tensor:
        """Return z; `even` is the second leaf that receives relevance spread by ``flat``."""
        ctx.save_for_backward(x, z)
        ctx.back, ctx.spreads_evenly = back, even is not None
        return z.view_as(z)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        """Return relevance ÷ value of x, or for ``flat`` the relevance itself to `even`."""
        x, z = ctx.saved_tensors
        g = ctx.back(x, z, g)
        return (None, g, None, None) if ctx.spreads_evenly else (g, None, None, None)


class Facts:
    """What is known of a live tensor.

    ``nonnegative``: no entry can be below zero. ``raw``: no affine layer lies between the input and
    it. ``convolution``: the input and the layer that made it, where it is a convolution's output
    that a batch norm may read. ``memory``: the address of its storage.
    """

    __slots__ = ("convolution", "memory", "nonnegative", "raw")

    def __init__(
        self,
        memory: int,
        nonnegative: bool = False,
        raw: bool = False,
        convolution: tuple[Tensor, Convolution] | None = None,
    ) -> None:
        self.memory, self.nonnegative = memory, nonnegative
        self.raw, self.convolution = raw, convolution


class Interception(TorchFunctionMode):
    """Runs a model with its affine layers replaced; every other operation as it is.

    Parameters
    ----------
    model
        Only named in errors.
    leaf
        The input that requires a gradient. What depends on it is *live*.
    rule
        The propagation.
    operations
        What to do instead of each function.
    queries
        Functions that tell something about a tensor other than its values; they just run.
    absorbed
        Receives what layers keep, or None.
    """

    def __init__(
        self,
        model: nn.Module,
        leaf: Tensor,
        rule: Rule,
        operations: Mapping[Any, Operation],
        queries: frozenset[Any],
        absorbed: Callable[[Tensor], None] | None,
    ) -> None:
        super().__init__()
        self.model, self.leaf, self.rule = model, leaf, rule
        self.operations, self.queries, self.absorbed = operations, queries, absorbed
        self.even: Tensor | None = None  # the second leaf, for ``flat``
        self.graph = Graph(leaf)
        # Looked up by identity, and forgotten with the tensor: what the model has dropped is freed,
        # and no identity is used twice.
        self._facts = WeakIdKeyDictionary()
        self._changed = WeakIdKeyDictionary()  # tensor: what stands for it since an in-place call
        self._facts[leaf] = Facts(_memory(leaf), raw=True)

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Give a call with a live tensor to the operation that knows it."""
        kwargs = kwargs or {}
        if func in self.queries:
            return func(*args, **kwargs)
        # every value is looked at: one that hides a dependence on the input must not pass
        if not sum([self._concerns(value) for value in (*args, *kwargs.values())]):
            return func(*args, **kwargs)
        operation = self.operations.get(func)
        if operation is None or kwargs.get("out") is not None:
            self.refuse(func)
        try:
            return operation(self, func, *args, **kwargs)
        except TypeError as error:
            self.refuse(func, f"is called in a form that has no relevance rule ({error})")

    def _concerns(self, value: Any) -> bool:
        """Whether a live tensor is in a value; refuses one that escaped the interception."""
        if isinstance(value, Tensor):
            if value in self._facts:
                return True
            if value.grad_fn is not None:
                self.check(value)
        elif isinstance(value, list | tuple):
            return sum([self._concerns(item) for item in value]) > 0
        return False

    def refuse(self, func: Any, because: str = "has no relevance rule") -> NoReturn:
        """Raise for an operation, by its name and the module that calls it."""
        name = resolve_name(func) or _name(func)
        path = module_path(self.model)
        where = f" in module {path!r}" if path else ""
        known = ", ".join(sorted({_name(function) for function in self.operations}))
        raise UnsupportedOperation(
            f"{name}{where} of {type(self.model).__name__} {because}; supported operations are "
            f"{known}. The rules 'gradient' and 'gradient-x-input' work on every differentiable "
            "model."
        )

    def facts(self, tensor: Any) -> Facts | None:
        """Return what is known of a tensor, None where it does not depend on the input."""
        return self._facts.get(tensor) if isinstance(tensor, Tensor) else None

    def is_live(self, value: Any) -> bool:
        """Whether the value is a tensor that depends on the input."""
        return self.facts(value) is not None

    def is_nonnegative(self, tensor: Tensor) -> bool:
        """Whether no entry of the tensor can be negative, as far as is known without looking."""
        facts = self.facts(tensor)
        return facts is not None and facts.nonnegative

    def settle(self, tensor: Tensor) -> Tensor:
        """Return what stands for a tensor after the in-place calls of the model."""
        while tensor in self._changed:
            tensor = self._changed[tensor]
        return tensor

    def check(self, tensor: Tensor) -> None:
        """Refuse a tensor that depends on the input in a way that was not intercepted."""
        hidden = self.graph.hidden(tensor)
        if hidden is not None:
            raise UnsupportedOperation(
                f"{type(self.model).__name__} computes {hidden} where attrreg cannot see it "
                "(scripted or traced code, or an autograd.Function); relevance has no rule for it. "
                "The rules 'gradient' and 'gradient-x-input' work on every differentiable model."
            )

    def admit(
        self, func: Any, output: Tensor, inputs: list[Tensor], nonnegative: bool = False
    ) -> Tensor:
        """Take note of what an operation has made of live tensors."""
        self._check_graph(func, output)
        known = [facts for facts in map(self.facts, inputs) if facts is not None]
        self.graph.admit(output, inputs)
        if output not in self._facts:
            raw = any(facts.raw for facts in known)
            self._facts[output] = Facts(_memory(output), nonnegative, raw)
        return output

    def change(self, func: Any, tensor: Tensor, by: Tensor) -> Tensor:
        """Let every later reading of a tensor, changed in place by the model, see the result."""
        tensor = self.settle(tensor)
        memory = _memory(tensor)
        if sum(facts.memory == memory for facts in self._facts.values()) > 1:
            self.refuse(func, "changes in place a tensor whose memory another one shares")
        self._changed[tensor] = by
        return by

    def _check_graph(self, func: Any, output: Tensor) -> None:
        if output.grad_fn is None:
            function = custom_function()
            inside = f" (inside the autograd.Function {function})" if function else ""
            self.refuse(func, f"is computed without a graph{inside}")

    def affine(
        self, func: Any, x: Tensor, z: Tensor, layer: Affine, how: str, alone: bool = True
    ) -> Tensor:
        """Put an affine layer into the graph under a propagation.

        `alone` is False for a convolution whose output a batch norm may read.
        """
        if len(z) != len(self.leaf):
            self.refuse(func, "does not keep the samples on its first axis")
        facts = self.facts(x)
        even = None
        if self.rule.first is not None and facts is not None and facts.raw:
            if x is not self.leaf or not isinstance(layer, Convolution):
                raise UnsupportedOperation(
                    f"rule {self.rule.name!r} spreads relevance over the taps of the first "
                    f"convolution, but {_name(func)} in module {module_path(self.model)!r} of "
                    f"{type(self.model).__name__} reads the input first, or it is rearranged "
                    "before: use a rule without 'flat'"
                )
            how = self.rule.first
            if self.even is None:
                self.even = torch.zeros_like(self.leaf, requires_grad=True)
            even = self.even
        # The graph must not hold this object, which holds the graph: such a circle keeps every
        # activation in memory until the garbage collector looks, and costs a factor of four.
        back = partial(
            propagate,
            layer,
            how,
            self.rule.epsilon,
            nonnegative=facts is not None and facts.nonnegative,
            absorbed=self.absorbed,
        )
        output = Propagated.apply(x, even, z, back)
        self._check_graph(func, output)
        self.graph.admit(output, [x])
        made = None if alone or not isinstance(layer, Convolution) else (x, layer)
        self._facts[output] = Facts(_memory(output), convolution=made)
        return output


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in a value or in the containers it is made of."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _name(func: Any) -> str:
    return getattr(func, "__name__", str(func)).strip("_")
