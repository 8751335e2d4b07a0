"""Elementwise functions: y = x · [f(x) / x], the bracket being held, and what counts as a gate."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from attrreg.attribution.calls import everywhere, in_place, settled, table
from attrreg.attribution.interception import Interception, Operation

__all__ = ["ACTIVATIONS"]

SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805
# In-place functions and the plain ones that they stand for.
IN_PLACE: dict[Any, Callable[..., Any]] = {
    **{
        getattr(place, f"{name}_"): getattr(torch, name)
        for name in ("sigmoid", "tanh", "selu", "celu")
        for place in (torch, Tensor)
        if hasattr(place, f"{name}_")
    },
    **{getattr(F, f"{name}_"): getattr(F, name) for name in ("elu", "selu", "celu")},
}


def _relu(run: Interception, func: Any, input: Tensor, inplace: bool = False) -> Tensor:
    x = run.settle(input)
    y = run.through(func, F.relu, [x], nonnegative=True, linear=lambda s: s * (x > 0))
    return run.change(func, input, y) if inplace else y


def _leaky_relu(
    run: Interception,
    func: Any,
    input: Tensor,
    negative_slope: float = 0.01,
    inplace: bool = False,
) -> Tensor:
    x = run.settle(input)
    apply = partial(F.leaky_relu, negative_slope=negative_slope)
    y = run.through(func, apply, [x], linear=lambda s: torch.where(x > 0, s, negative_slope * s))
    return run.change(func, input, y) if inplace else y


def _prelu(run: Interception, func: Any, input: Tensor, weight: Tensor) -> Tensor:
    if run.is_live(weight):
        run.refuse(func, "has a weight that depends on the input")
    x, weight = run.settle(input), run.hold(weight)
    per_channel = weight if weight.numel() == 1 else weight.view(-1, *[1] * (x.ndim - 2))

    def linear(shadow: Tensor) -> Tensor:
        return torch.where(x > 0, shadow, per_channel * shadow)

    return run.through(func, lambda values: F.prelu(values, weight), [x], linear=linear)


def _abs(run: Interception, func: Any, input: Tensor) -> Tensor:
    x = run.settle(input)
    return run.through(func, torch.abs, [x], nonnegative=True, linear=lambda s: s * x.sign())


def _activation(
    factor: Callable[..., Tensor],
    offset: float = 0.0,
    nonnegative: bool = False,
    gate: int = 0,
    options: tuple[str, ...] = (),
    exact: bool = False,
) -> Operation:
    """Return an operation y = c(x) · x + offset with c held; `factor` gives c.

    `options`: the function's parameters before ``inplace``, which go to `factor` as well. `exact`:
    c is not a quotient, so that y can be had from it.
    """

    def activate(run: Interception, func: Any, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        kwargs |= dict(zip((*options, "inplace"), args, strict=False))
        inplace = kwargs.pop("inplace", False) or func in IN_PLACE
        x = run.settle(input)
        plain = IN_PLACE.get(func, func)
        y = run.bracket(
            func,
            x,
            None if exact else lambda values, _: plain(values, **kwargs),
            lambda values: factor(values, **kwargs),
            offset,
            nonnegative,
            gate,
        )
        return run.change(func, input, y) if inplace else y

    return activate


def _quotient(y: Tensor, x: Tensor, slope: float, near: float = 0.0) -> Tensor:
    """Return y / x, and `slope` where |x| is at most `near`."""
    small = x.abs() <= near
    return torch.where(small, slope, y / torch.where(small, 1.0, x))


def _of_gelu(x: Tensor, approximate: str = "none") -> Tensor:
    if approximate == "tanh":
        return (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2
    return torch.erf(x * math.sqrt(0.5)).add_(1).mul_(0.5)


def _of_erf(x: Tensor) -> Tensor:
    return _quotient(x.erf(), x, 2 / math.sqrt(math.pi))


def _of_sigmoid(x: Tensor) -> Tensor:
    return _quotient((x / 2).tanh() / 2, x, 0.25)


def _of_hardsigmoid(x: Tensor) -> Tensor:
    return _quotient((x / 6).clamp(-0.5, 0.5), x, 1 / 6)


def _of_elu(x: Tensor, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Tensor:
    return _quotient(torch.ops.aten.elu(x, alpha, scale, input_scale), x, scale)


def _of_softplus(x: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    rises = F.softplus(x, beta, threshold) - math.log(2) / beta
    return _quotient(rises, x, 0.5, near=torch.finfo(x.dtype).eps ** 0.5)


def _softplus(
    run: Interception, func: Any, input: Tensor, beta: float = 1.0, threshold: float = 20.0
) -> Tensor:
    activate = _activation(_of_softplus, math.log(2) / beta, nonnegative=True)
    return activate(run, func, input, beta=beta, threshold=threshold)


def _hardtanh(
    run: Interception,
    func: Any,
    input: Tensor,
    min_val: float = -1.0,
    max_val: float = 1.0,
    inplace: bool = False,
) -> Tensor:
    y = _clamp(run, func, input, min_val, max_val)
    return run.change(func, input, y) if inplace else y


def _relu6(run: Interception, func: Any, input: Tensor, inplace: bool = False) -> Tensor:
    return _hardtanh(run, func, input, 0.0, 6.0, inplace)


def _clamp(run: Interception, func: Any, input: Tensor, min: Any = None, max: Any = None) -> Tensor:
    if any(isinstance(bound, Tensor) for bound in (min, max)):
        run.refuse(func, "is bounded by a tensor")
    x = run.settle(input)

    def clamped(values: Tensor, held: Any = None) -> Tensor:
        return values.clamp(min, max)

    if (min is not None and min > 0) or (max is not None and max < 0):
        return run.unknown(func, lambda: clamped(x), [x], gate=2)

    def factor(values: Tensor) -> Tensor:
        return _quotient(clamped(values), values, float(min != 0 and max != 0))

    gate = int(min is not None and max is not None)
    return run.bracket(func, x, clamped, factor, nonnegative=min == 0, gate=gate)


def _clamp_min(run: Interception, func: Any, input: Tensor, min: Any) -> Tensor:
    return _clamp(run, func, input, min)


def _power(run: Interception, func: Any, input: Any, exponent: Any) -> Tensor:
    """xᵖ = x · [xᵖ⁻¹] as a signal (as in squared ReLU); as a factor a statistic, so a gate."""
    if not run.is_live(input) or not isinstance(exponent, int | float) or exponent < 1:
        return _statistic(run, func, input, exponent)
    factor = partial(torch.pow, exponent=exponent - 1)
    return run.bracket(func, run.settle(input), None, factor, gate=1)


def _square(run: Interception, func: Any, input: Tensor) -> Tensor:
    return _power(run, func, input, 2)


def _statistic(run: Interception, func: Any, *args: Any, **kwargs: Any) -> Any:
    """Let a quantity that is no signal, such as a deviation, scale one: it counts as a gate."""
    (arguments, options), inputs = settled(run, func, (args, kwargs))
    return run.unknown(func, lambda: func(*arguments, **options), inputs, gate=2)


def _softmax(run: Interception, func: Any, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    x = run.settle(input)
    if run.rule.attention == "shared":
        return run.through(func, lambda values: func(values, *args, **kwargs), [x])
    return run.unknown(func, lambda: func(x, *args, **kwargs), [x], gate=2)


ACTIVATIONS = table(
    [
        (_relu, everywhere(["relu"])),
        (in_place(_relu), [torch.relu_, Tensor.relu_]),
        (_leaky_relu, [F.leaky_relu]),
        (in_place(_leaky_relu), [F.leaky_relu_]),
        (_prelu, everywhere(["prelu"])),
        (_abs, everywhere(["abs", "absolute"])),
        (_activation(torch.sigmoid, exact=True), [F.silu]),
        (_activation(_of_gelu, exact=True), [F.gelu]),
        (_activation(F.hardsigmoid, exact=True), [F.hardswish]),
        (_activation(lambda x: F.softplus(x).tanh(), exact=True), [F.mish]),
        (_activation(lambda x: _quotient(x.tanh(), x, 1.0), gate=1),
         [*everywhere(["tanh"]), torch.tanh_, Tensor.tanh_]),
        (_activation(_of_sigmoid, 0.5, nonnegative=True, gate=2),
         [*everywhere(["sigmoid"]), torch.sigmoid_, Tensor.sigmoid_, torch.special.expit]),
        (_activation(_of_hardsigmoid, 0.5, nonnegative=True, gate=2), [F.hardsigmoid]),
        (_activation(_of_elu, options=("alpha",)), [F.elu, F.elu_]),
        (_activation(lambda x: _of_elu(x, SELU_ALPHA, SELU_SCALE)), [F.selu, F.selu_, torch.selu]),
        (_activation(lambda x, alpha=1.0: _of_elu(x, alpha, 1.0, 1 / alpha), options=("alpha",)),
         [F.celu, F.celu_, torch.celu]),
        (_activation(lambda x: 1 / (1 + x.abs()), gate=1), [F.softsign]),
        (_activation(_of_erf, gate=1), [torch.erf, Tensor.erf, torch.special.erf]),
        (_softplus, [F.softplus]),
        (_hardtanh, [F.hardtanh]),
        (in_place(_hardtanh), [F.hardtanh_]),
        (_relu6, [F.relu6]),
        (_clamp, everywhere(["clamp", "clip"])),
        (in_place(_clamp), everywhere(["clamp_", "clip_"])),
        (_clamp_min, everywhere(["clamp_min"])),
        (in_place(_clamp_min), everywhere(["clamp_min_"])),
        (_power, [*everywhere(["pow"]), Tensor.__pow__]),
        (_square, everywhere(["square"])),
        (_statistic, everywhere(["var", "std", "norm", "sqrt", "rsqrt"])),
        (_statistic, everywhere(["reciprocal", "exp", "log"])),
        (_statistic, [torch.linalg.vector_norm, torch.linalg.norm]),
        (_softmax, everywhere(["softmax"])),
    ]
)  # fmt: skip
