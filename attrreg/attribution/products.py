"""Sums and products: of two factors that depend on the input, a gate counts as a constant."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from attrreg.attribution.calls import everywhere, in_place, table
from attrreg.attribution.interception import Interception
from attrreg.attribution.layers import Linear

__all__ = ["SUMS_AND_PRODUCTS"]


def _add(run: Interception, func: Any, input: Any, other: Any, *, alpha: float = 1) -> Tensor:
    left, right = run.settle(input), run.settle(other)
    if run.is_live(left) and run.is_live(right):
        nonnegative = alpha >= 0 and run.is_nonnegative(left) and run.is_nonnegative(right)
        return run.through(func, partial(torch.add, alpha=alpha), [left, right], nonnegative)
    if run.is_live(left):
        summand = run.constant(right, left)
        return run.through(func, lambda x: torch.add(x, summand, alpha=alpha), [left], scales=True)
    summand = run.constant(left, right)
    return run.through(func, lambda x: torch.add(summand, x, alpha=alpha), [right], scales=True)


def _sub(run: Interception, func: Any, input: Any, other: Any, *, alpha: float = 1) -> Tensor:
    return _add(run, func, input, other, alpha=-alpha)


def _rsub(run: Interception, func: Any, input: Any, other: Any, *, alpha: float = 1) -> Tensor:
    return _add(run, func, other, input, alpha=-alpha)


def _bilinear(
    run: Interception, func: Any, left: Any, right: Any, apply: Callable[[Any, Any], Tensor]
) -> Tensor:
    """Multiply: by a constant, by a gate that counts as one, or to something that has no rule."""
    left, right = run.settle(left), run.settle(right)
    scales = apply is torch.mul
    if not run.is_live(right):
        right = run.hold(right)
        return run.through(func, lambda x: apply(x, right), [left], scales=scales)
    if not run.is_live(left):
        left = run.hold(left)
        return run.through(func, lambda x: apply(left, x), [right], scales=scales)
    nonnegative = run.is_nonnegative(left) and run.is_nonnegative(right)
    if run.known(left).gate > run.known(right).gate:
        held = run.hold(left)
        return run.through(func, lambda x: apply(held, x), [right], nonnegative)
    if run.known(right).gate > run.known(left).gate:
        held = run.hold(right)
        return run.through(func, lambda x: apply(x, held), [left], nonnegative)
    if run.rule.attention == "shared":
        return run.through(func, lambda a, b: apply(_halved(a), _halved(b)), [left, right])
    why = (
        f"{run.where(func)} multiplies two tensors that both depend on the input (which is the "
        "gate?)"
    )
    return run.unknown(func, lambda: apply(left, right), [left, right], why, run.known(left).gate)


class Halved(torch.autograd.Function):
    """One of two factors that share the relevance of their product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Return x."""
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        """Return half of g."""
        return g / 2


def _halved(x: Tensor) -> Tensor:
    return Halved.apply(x)


def _mul(run: Interception, func: Any, input: Any, other: Any) -> Tensor:
    return _bilinear(run, func, input, other, torch.mul)


def _matmul(run: Interception, func: Any, input: Any, other: Any) -> Tensor:
    if not run.is_live(other) and other.ndim == 2:
        layer = Linear(run.hold(other).t(), None)
        return run.affine(func, run.settle(input), layer, run.rule.linear)
    return _bilinear(run, func, input, other, torch.matmul)


def _rmatmul(run: Interception, func: Any, input: Any, other: Any) -> Tensor:
    return _matmul(run, func, other, input)


def _einsum(run: Interception, func: Any, equation: Any, *operands: Any) -> Tensor:
    factors = operands[0] if len(operands) == 1 and isinstance(operands[0], list) else operands
    if isinstance(equation, str) and len(factors) == 1:
        return run.through(func, lambda x: torch.einsum(equation, x), [run.settle(factors[0])])
    if not isinstance(equation, str) or len(factors) != 2:
        run.refuse(func, "is called with something other than an equation and one or two tensors")
    left, right = factors
    return _bilinear(run, func, left, right, partial(torch.einsum, equation))


def _divide(run: Interception, func: Any, input: Any, other: Any, **kwargs: Any) -> Tensor:
    if kwargs.get("rounding_mode"):
        run.refuse(func, "rounds")
    if not run.is_live(other):
        x, divisor = run.settle(input), run.hold(other)
        return run.through(func, lambda values: torch.div(values, divisor), [x], scales=True)
    divisor = run.settle(other)
    if run.known(divisor).gate < 2:
        run.refuse(func, "divides by a tensor that depends on the input and is no gate")
    inverse = run.unknown(func, lambda: torch.reciprocal(divisor), [divisor], gate=2)
    return _mul(run, func, input, inverse)


def _rdivide(run: Interception, func: Any, input: Any, other: Any) -> Tensor:
    return _divide(run, func, other, input)


def _negate(run: Interception, func: Any, input: Tensor) -> Tensor:
    return run.through(func, torch.neg, [run.settle(input)], scales=True)


def _addcmul(
    run: Interception, func: Any, input: Any, tensor1: Any, tensor2: Any, *, value: float = 1
) -> Tensor:
    product = run.call(torch.mul, tensor1, tensor2)
    return run.call(torch.add, input, product, alpha=value)


def _glu(run: Interception, func: Any, input: Tensor, dim: int = -1) -> Tensor:
    signal, gate = run.call(torch.chunk, input, 2, dim)
    return run.call(torch.mul, signal, run.call(torch.sigmoid, gate))


SUMS_AND_PRODUCTS = table(
    [
        (_add, [*everywhere(["add"]), Tensor.__add__, Tensor.__radd__]),
        (in_place(_add), [Tensor.add_, Tensor.__iadd__]),
        (_sub, [*everywhere(["sub", "subtract"]), Tensor.__sub__]),
        (in_place(_sub), [Tensor.sub_, Tensor.__isub__]),
        (_rsub, [torch.rsub, Tensor.__rsub__]),
        (_mul, [*everywhere(["mul", "multiply"]), Tensor.__mul__, Tensor.__rmul__]),
        (in_place(_mul), [Tensor.mul_, Tensor.__imul__]),
        (_matmul, [*everywhere(["matmul", "bmm", "mm"]), Tensor.__matmul__]),
        (_rmatmul, [Tensor.__rmatmul__]),
        (_einsum, [torch.einsum]),
        (_divide, [*everywhere(["div", "divide"]), Tensor.__truediv__]),
        (in_place(_divide), [Tensor.div_, Tensor.__itruediv__]),
        (_rdivide, [Tensor.__rtruediv__]),
        (_negate, [*everywhere(["neg", "negative"]), Tensor.__neg__]),
        (in_place(_negate), [torch.neg_, Tensor.neg_]),
        (_addcmul, everywhere(["addcmul"])),
        (in_place(_addcmul), [Tensor.addcmul_]),
        (_glu, [F.glu]),
    ]
)  # fmt: skip
