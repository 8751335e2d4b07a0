"""Runs a model with its operations intercepted, so that affine layers get a relevance backward.

No hooks and no surgery on the model: what is replaced is the call, recognised by the function, and
tensors are recognised by identity.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name

from attrreg.attribution.guards import UnsupportedOperation, module_path
from attrreg.attribution.layers import Affine, Convolution, propagate
from attrreg.attribution.rules import Rule

__all__ = ["Interception", "Operation"]

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
    absorbed
        Receives what layers keep, or None.
    """

    def __init__(
        self,
        model: nn.Module,
        leaf: Tensor,
        rule: Rule,
        operations: Mapping[Any, Operation],
        absorbed: Callable[[Tensor], None] | None,
    ) -> None:
        super().__init__()
        self.model, self.leaf, self.rule = model, leaf, rule
        self.operations, self.absorbed = operations, absorbed
        self.even: Tensor | None = None  # the second leaf, for ``flat``
        # All are looked up by identity; the tensors are held so that no identity is used twice.
        self._live: dict[int, Tensor] = {id(leaf): leaf}
        self._pending: dict[int, tuple[Tensor, Convolution]] = {}
        self._replaced: dict[int, Tensor] = {}
        self._nonnegative: set[int] = set()
        self._viewed: set[int] = set()

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Give a call with a live tensor to the operation that knows it."""
        kwargs = kwargs or {}
        if not any(self._holds_live(value) for value in (*args, *kwargs.values())):
            return func(*args, **kwargs)
        operation = self.operations.get(func)
        if operation is not None:
            return operation(self, func, *args, **kwargs)
        result = func(*args, **kwargs)
        if _holds_tensor(result):
            self.refuse(func)
        return result  # a shape, a type, a device: nothing flows through it

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

    def live(self, tensor: Tensor, nonnegative: bool = False) -> Tensor:
        """Note that a tensor depends on the input."""
        self._live[id(tensor)] = tensor
        if nonnegative:
            self._nonnegative.add(id(tensor))
        return tensor

    def is_live(self, value: Any) -> bool:
        """Whether the value is a tensor that depends on the input."""
        return isinstance(value, Tensor) and id(value) in self._live

    def is_nonnegative(self, tensor: Tensor) -> bool:
        """Whether no entry of the tensor can be negative, as far as is known without looking."""
        return id(tensor) in self._nonnegative

    def _holds_live(self, value: Any) -> bool:
        if isinstance(value, list | tuple):
            return any(self._holds_live(item) for item in value)
        return self.is_live(value)

    def settle(self, tensor: Tensor) -> Tensor:
        """Return what stands for the tensor: after in-place calls, with its rule applied."""
        while id(tensor) in self._replaced:
            tensor = self._replaced[id(tensor)]
        if id(tensor) not in self._pending:
            return tensor
        x, layer = self._pending[id(tensor)]
        return self.affine(x, tensor.detach(), layer, self.rule.convolution)

    def replace(self, func: Any, tensor: Tensor, by: Tensor) -> Tensor:
        """Let every later reading of a tensor, changed in place by the model, see the result."""
        if id(tensor) in self._viewed:
            self.refuse(func, "changes a tensor in place of which the model holds a view")
        self._replaced[id(tensor)] = by
        return by

    def note_view(self, tensor: Tensor, view: Tensor) -> None:
        """Note that two tensors may share memory."""
        self._viewed.update((id(tensor), id(view)))

    def wait(self, x: Tensor, z: Tensor, layer: Convolution) -> Tensor:
        """Keep a convolution back until it is known whether a batch norm reads it."""
        self._pending[id(z)] = (x, layer)
        return self.live(z)

    def waiting(self, tensor: Tensor) -> tuple[Tensor, Convolution] | None:
        """Return input and layer of a convolution that was kept back."""
        return self._pending.get(id(tensor))

    def affine(self, x: Tensor, z: Tensor, layer: Affine, how: str) -> Tensor:
        """Put an affine layer into the graph under a propagation."""
        even = None
        if x is self.leaf and self.rule.first is not None:
            if not isinstance(layer, Convolution):
                raise UnsupportedOperation(
                    f"rule {self.rule.name!r} spreads relevance over the taps of the first "
                    f"convolution, but module {module_path(self.model)!r} of "
                    f"{type(self.model).__name__} reads the input first"
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
            nonnegative=self.is_nonnegative(x),
            absorbed=self.absorbed,
        )
        return self.live(Propagated.apply(x, even, z, back))


def _name(func: Any) -> str:
    return getattr(func, "__name__", str(func)).strip("_")


def _holds_tensor(value: object) -> bool:
    if isinstance(value, Tensor):
        return True
    return isinstance(value, list | tuple) and any(_holds_tensor(item) for item in value)
