"""What each intercepted operation does: the table from functions to their relevance rule.

Adding an operation is one entry in `OPERATIONS`. Operations made of others (attention, recurrent
layers) are in `attrreg.attribution.unrolled`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from attrreg.attribution.interception import Interception, Operation, tensors_in
from attrreg.attribution.layers import Convolution, Elementwise, Linear
from attrreg.attribution.unrolled import UNROLLED

__all__ = ["OPERATIONS", "QUERIES"]


# Affine layers


def _convolution(dimensions: int) -> Operation:
    def convolve(
        run: Interception,
        func: Any,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        if run.is_live(weight) or run.is_live(bias):
            run.refuse(func, "has a weight that depends on the input")
        if input.ndim != dimensions + 2:
            run.refuse(func, "reads a single sample without a batch axis")
        dilation = _each(dilation, dimensions)
        x = run.settle(input)
        if isinstance(padding, str):
            spans = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
            if padding == "same" and any(span % 2 for span in spans):  # more on the far side
                x = run.call(F.pad, x, [each for s in reversed(spans) for each in (0, s % 2)])
            padding = [span // 2 if padding == "same" else 0 for span in spans]
        layer = Convolution(
            run.hold(weight),
            run.hold(bias),
            _each(stride, dimensions),
            _each(padding, dimensions),
            dilation,
            groups,
        )
        return run.affine(func, x, layer, run.rule.convolution, foldable=True)

    return convolve


def _each(value: Any, dimensions: int) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, tuple | list) else (value,)
    return values * dimensions if len(values) == 1 else values


def _batch_norm(
    run: Interception,
    func: Any,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Fold into the convolution that made the input, or scale per channel where none did."""
    if training or running_mean is None or running_var is None:
        run.refuse(func, "uses the statistics of the batch, so that no sample has a map of its own")
    if not run.is_live(input) or any(map(run.is_live, (running_mean, running_var, weight, bias))):
        run.refuse(func, "has parameters that depend on the input")
    x = run.settle(input)
    weight, bias = run.hold(weight), run.hold(bias)
    scale = (running_var + eps).rsqrt()
    scale = scale if weight is None else scale * weight
    shift = -running_mean * scale
    shift = shift if bias is None else shift + bias
    compute = partial(F.batch_norm, x, running_mean, running_var, weight, bias, eps=eps)
    facts = run.facts(x)
    if facts is None or facts.convolution is None:
        return run.affine(func, x, Elementwise(scale, shift), run.rule.linear, compute)
    read, made = facts.convolution
    bias = shift if made.bias is None else made.bias * scale + shift
    folded = replace(
        made,
        weight=(made.weight * scale.view(-1, *[1] * (made.weight.ndim - 1))).to(x.dtype),
        bias=bias.to(x.dtype),
    )
    return run.affine(func, read, folded, run.rule.convolution, compute)


def _linear(
    run: Interception, func: Any, input: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    if run.is_live(weight) or run.is_live(bias):
        run.refuse(func, "has a weight that depends on the input")
    if weight.ndim != 2:
        run.refuse(func, "has a weight that is no matrix")
    layer = Linear(run.hold(weight), run.hold(bias))
    return run.affine(func, run.settle(input), layer, run.rule.linear)


# Activations


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
    return torch.erf(x * math.sqrt(0.5)).add(1).mul(0.5)


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
    return _clamped(run, func, input, min_val, max_val, inplace)


def _relu6(run: Interception, func: Any, input: Tensor, inplace: bool = False) -> Tensor:
    return _clamped(run, func, input, 0.0, 6.0, inplace)


def _clamp(run: Interception, func: Any, input: Tensor, min: Any = None, max: Any = None) -> Tensor:
    return _clamped(run, func, input, min, max, func in IN_PLACE)


def _clamp_min(run: Interception, func: Any, input: Tensor, min: Any) -> Tensor:
    return _clamped(run, func, input, min, None, func in IN_PLACE)


def _clamped(
    run: Interception, func: Any, input: Tensor, low: Any, high: Any, inplace: bool
) -> Tensor:
    if any(isinstance(bound, Tensor) for bound in (low, high)):
        run.refuse(func, "is bounded by a tensor")
    x = run.settle(input)
    above, below = low is None or low <= 0, high is None or high >= 0
    if above and below:

        def clamped(values: Tensor) -> Tensor:
            return values.clamp(low, high)

        def factor(values: Tensor) -> Tensor:
            return _quotient(clamped(values), values, float(low != 0 and high != 0))

        gate = int(low is not None and high is not None)
        value = lambda values, _: clamped(values)  # noqa: E731
        y = run.bracket(func, x, value, factor, nonnegative=low == 0, gate=gate)
    else:
        y = run.unknown(func, lambda: x.clamp(low, high), [x], gate=2)
    return run.change(func, input, y) if inplace else y


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
    values, inputs = _settled(run, func, (args, kwargs))
    rebuild = partial(_replaced, values, inputs)

    def apply() -> Any:
        arguments, options = rebuild(inputs)
        return func(*arguments, **options)

    return run.unknown(func, apply, inputs, gate=2)


def _softmax(run: Interception, func: Any, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    x = run.settle(input)
    if run.rule.attention == "shared":
        return run.through(func, lambda values: func(values, *args, **kwargs), [x])
    return run.unknown(func, lambda: func(x, *args, **kwargs), [x], gate=2)


# Sums and products


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
    if run.gate(left) > run.gate(right):
        held = run.hold(left)
        return run.through(func, lambda x: apply(held, x), [right], nonnegative)
    if run.gate(right) > run.gate(left):
        held = run.hold(right)
        return run.through(func, lambda x: apply(x, held), [left], nonnegative)
    if run.rule.attention == "shared":
        return run.through(func, lambda a, b: apply(_halved(a), _halved(b)), [left, right])
    why = (
        f"{run.where(func)} multiplies two tensors that both depend on the input (which is the "
        "gate?)"
    )
    return run.unknown(func, lambda: apply(left, right), [left, right], why, run.gate(left))


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
    if run.gate(divisor) < 2:
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


def _in_place(operation: Operation) -> Operation:
    """Return the in-place form of an operation: the model goes on with the result."""

    def change(run: Interception, func: Any, input: Any, *args: Any, **kwargs: Any) -> Any:
        if not run.is_live(input):
            run.refuse(func, "changes in place a tensor that does not depend on the input")
        return run.change(func, input, operation(run, func, input, *args, **kwargs))

    return change


# Normalisation: deviations are held


class Deviation(NamedTuple):
    """What a normalisation holds: 1 ÷ deviation, the weight, and its result without the weight."""

    inverse: Tensor
    weight: Tensor | None
    value: Tensor


def _layer_norm(
    run: Interception,
    func: Any,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    axes = tuple(range(-len(normalized_shape), 0))
    shape = list(normalized_shape)

    def deviation(x: Tensor) -> Deviation:
        value, _, inverse = torch.native_layer_norm(x, shape, weight, bias, eps)
        if run.is_differentiable:  # autograd does not differentiate the deviation it returns
            inverse = (x.var(axes, correction=0, keepdim=True) + eps).rsqrt()
        return Deviation(inverse, run.hold(weight), value)

    return _normalise(run, func, input, deviation, axes, weight, bias)


def _group_norm(
    run: Interception,
    func: Any,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise the channels of a group, and all positions, together."""

    def grouped(x: Tensor) -> Tensor:
        return x.unflatten(1, (num_groups, -1))

    axes = tuple(range(2, input.ndim + 1))
    weight, bias = (
        each if each is None else each.view(1, -1, *[1] * (input.ndim - 2))
        for each in (weight, bias)
    )

    def deviation(x: Tensor) -> Deviation:
        inverse = (grouped(x).var(axes, correction=0, keepdim=True) + eps).rsqrt()
        flat = [each if each is None else each.flatten() for each in (weight, bias)]
        value = F.group_norm(x, num_groups, flat[0], flat[1], eps)
        held = run.hold(weight)
        return Deviation(inverse, held if held is None else grouped(held), value)

    return _normalise(run, func, input, deviation, axes, weight, bias, grouped)


def _instance_norm(
    run: Interception,
    func: Any,
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not use_input_stats:
        run.refuse(func, "uses running statistics")
    return _group_norm(run, func, input, input.shape[1], weight, bias, eps)


def _rms_norm(
    run: Interception,
    func: Any,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    if run.is_live(weight):
        run.refuse(func, "has parameters that depend on the input")
    axes = tuple(range(-len(normalized_shape), 0))
    floor = torch.finfo(input.dtype).eps if eps is None else eps
    weight = run.hold(weight)

    def factor(x: Tensor) -> Tensor:
        inverse = (x.square().mean(axes, keepdim=True) + floor).rsqrt()
        return inverse if weight is None else inverse * weight

    return run.bracket(func, run.settle(input), None, factor)


def _normalise(
    run: Interception,
    func: Any,
    input: Tensor,
    deviation: Callable[[Tensor], Deviation],
    axes: tuple[int, ...],
    weight: Tensor | None,
    bias: Tensor | None,
    grouped: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Propagate through (x − mean) / deviation · weight + bias, the deviation being held.

    `grouped` brings what is normalised together onto `axes`, by splitting the channels.
    """
    if run.is_live(weight) or run.is_live(bias):
        run.refuse(func, "has parameters that depend on the input")

    def forward(x: Tensor, held: Deviation) -> Tensor:
        y = x if grouped is None else grouped(x)
        y = (y - y.mean(axes, keepdim=True)) * held.inverse
        y = y if held.weight is None else y * held.weight
        return y if grouped is None else y.flatten(1, 2)

    def adjoint(g: Tensor, held: Deviation) -> Tensor:
        s = g if grouped is None else grouped(g)
        s = s if held.weight is None else s * held.weight
        s = (s - s.mean(axes, keepdim=True)).mul_(held.inverse)
        return s if grouped is None else s.flatten(1, 2)

    return run.bracket(
        func,
        run.settle(input),
        lambda _, held: held.value,
        deviation,
        0.0 if bias is None else bias.detach(),
        forward=forward,
        adjoint=adjoint,
    )


def _normalise_length(
    run: Interception,
    func: Any,
    input: Tensor,
    p: float = 2.0,
    dim: int = 1,
    eps: float = 1e-12,
    out: None = None,
) -> Tensor:
    def factor(x: Tensor) -> Tensor:
        return 1 / x.norm(p, dim, keepdim=True).clamp_min(eps)

    return run.bracket(func, run.settle(input), None, factor)


# What picks, moves or averages values


def _interpolate(
    run: Interception,
    func: Any,
    input: Tensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    **kwargs: Any,
) -> Tensor:
    apply = partial(F.interpolate, size=size, scale_factor=scale_factor, mode=mode, **kwargs)
    averages, x = mode != "bicubic", run.settle(input)
    return run.through(func, apply, [x], averages and run.is_nonnegative(x), rearranges=averages)


def _dropout(
    run: Interception, func: Any, input: Tensor, p: float = 0.5, training: bool = True, **_: Any
) -> Tensor:
    if training and p > 0:
        run.refuse(func, "is random")
    return input


def _pad(
    run: Interception, func: Any, input: Tensor, pad: Any, mode: str = "constant", value: Any = None
) -> Tensor:
    x = run.settle(input)
    if mode == "constant" and value:
        padded = torch.full_like(x[:1], 0)
        frame = run.constant(F.pad(padded, pad, value=value), x)
        return run.through(func, lambda values: F.pad(values, pad) + frame, [x])
    apply = partial(F.pad, pad=pad, mode=mode)
    return run.through(func, apply, [x], run.is_nonnegative(x), rearranges=True)


def _max_pool(dimensions: int) -> Operation:
    def pool(
        run: Interception,
        func: Any,
        input: Tensor,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Tensor:
        if return_indices:
            run.refuse(func, "returns indices")
        function = getattr(F, f"max_pool{dimensions}d")
        apply = partial(
            function,
            kernel_size=kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            ceil_mode=ceil_mode,
        )
        return _winners(run, func, run.settle(input), apply, dimensions)

    return pool


def _adaptive_max_pool(dimensions: int) -> Operation:
    def pool(
        run: Interception, func: Any, input: Tensor, output_size: Any, return_indices: bool = False
    ) -> Tensor:
        if return_indices:
            run.refuse(func, "returns indices")
        apply = partial(getattr(F, f"adaptive_max_pool{dimensions}d"), output_size=output_size)
        return _winners(run, func, run.settle(input), apply, dimensions)

    return pool


def _winners(
    run: Interception, func: Any, x: Tensor, apply: Callable[..., Any], dimensions: int
) -> Tensor:
    """Give all relevance to the largest of a window; of equals, to the first."""

    def linear(shadow: Tensor) -> Tensor:
        places = apply(x, return_indices=True)[1]
        picked = shadow.flatten(-dimensions).gather(-1, places.flatten(-dimensions))
        return picked.view(places.shape)

    return run.through(func, apply, [x], run.is_nonnegative(x), linear=linear)


def _maximum(
    run: Interception, func: Any, input: Tensor, dim: Any = None, keepdim: bool = False, **_: Any
) -> Any:
    """Take the largest along an axis (PointNet); of equals, the one that torch picks."""
    if type(dim) is not int:
        run.refuse(func, "is not taken along an axis")
    x = run.settle(input)

    def linear(shadow: Tensor) -> Tensor:
        picked = shadow.gather(dim, x.max(dim, keepdim=True).indices)
        return picked if keepdim else picked.squeeze(dim)

    apply = partial(torch.max, dim=dim, keepdim=keepdim)
    return run.through(func, apply, [x], run.is_nonnegative(x), linear=linear)


def _amax(
    run: Interception, func: Any, input: Tensor, dim: Any = (), keepdim: bool = False
) -> Tensor:
    """Take the largest along axes; equals share."""
    x = run.settle(input)
    axes = (dim,) if isinstance(dim, int) else tuple(dim) or tuple(range(x.ndim))

    def linear(shadow: Tensor) -> Tensor:
        wins = (x == x.amax(axes, keepdim=True)).to(x.dtype)
        share = wins / wins.sum(axes, keepdim=True)
        return (shadow * share).sum(axes, keepdim=keepdim)

    apply = partial(torch.amax, dim=axes, keepdim=keepdim)
    return run.through(func, apply, [x], run.is_nonnegative(x), linear=linear)


def _where(run: Interception, func: Any, condition: Tensor, input: Any, other: Any) -> Tensor:
    if run.is_live(condition):
        run.refuse(func, "has a condition that depends on the input")
    values = [run.settle(input), run.settle(other)]
    inputs = [each for each in values if run.is_live(each)]
    filled = [each if run.is_live(each) else run.constant(each, inputs[0]) for each in values]

    def apply(*live: Tensor) -> Tensor:
        chosen, otherwise = _replaced(filled, inputs, live)
        return torch.where(condition, chosen, otherwise)

    return run.through(func, apply, inputs)


def _chosen(run: Interception, func: Any, input: Any, condition: Tensor, other: Any) -> Tensor:
    return _where(run, func, condition, input, other)


def _masked_fill(run: Interception, func: Any, input: Tensor, mask: Tensor, value: Any) -> Tensor:
    return run.call(torch.where, mask, value, input)


def _as(function: Callable[..., Tensor]) -> Operation:
    """Return an operation that takes nothing but its shape from its second tensor."""

    def shape(run: Interception, func: Any, input: Tensor, other: Tensor) -> Tensor:
        if not run.is_live(input):
            return function(input, other.shape)
        return run.call(function, input, other.shape)

    return shape


def _to(run: Interception, func: Any, input: Any, *args: Any, **kwargs: Any) -> Tensor:
    if run.is_live(input):
        return _through(rearranges=True)(run, func, input, *args, **kwargs)
    plain = [each.detach() if isinstance(each, Tensor) else each for each in args]
    return input.to(*plain, **kwargs)


def _type_as(run: Interception, func: Any, input: Tensor, other: Tensor) -> Tensor:
    return run.call(Tensor.to, input, other.dtype) if run.is_live(input) else input.type_as(other)


def _through(rearranges: bool) -> Operation:
    """Return an operation that propagates relevance as autograd propagates gradients.

    It is linear with weights that are not negative: what is not negative stays so.
    """

    def carry(run: Interception, func: Any, *args: Any, **kwargs: Any) -> Any:
        values, inputs = _settled(run, func, (args, kwargs))

        def apply(*live: Tensor) -> Any:
            arguments, options = _replaced(values, inputs, live)
            return func(*arguments, **options)

        if func in CASTS and not func(inputs[0].detach(), *args[1:], **kwargs).is_floating_point():
            run.refuse(func, "turns what carries relevance into whole numbers")
        # what is joined with constants is no mere rearrangement, and has their signs
        floating = [each for each in tensors_in(values) if each.is_floating_point()]
        only = len(floating) == sum(any(each is x for x in inputs) for each in floating)
        nonnegative = only and all(map(run.is_nonnegative, inputs))
        return run.through(func, apply, inputs, nonnegative, rearranges and only)

    return carry


def _aside(run: Interception, func: Any, *args: Any, **kwargs: Any) -> Any:
    """Compute what no relevance can flow through: a comparison, a place, a tensor of some shape."""

    def detached(value: Any) -> Any:
        return run.settle(value).detach() if isinstance(value, Tensor) else value

    plain = {name: detached(value) for name, value in kwargs.items()}
    return func(*map(detached, args), **plain)


def _settled(run: Interception, func: Any, value: Any) -> tuple[Any, list[Tensor]]:
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


def _replaced(value: Any, inputs: Sequence[Tensor], by: Sequence[Tensor]) -> Any:
    """Return arguments with tensors, recognised by identity, replaced by others."""
    for tensor, other in zip(inputs, by, strict=True):
        if value is tensor:
            return other
    if isinstance(value, list | tuple):
        return type(value)([_replaced(each, inputs, by) for each in value])
    if isinstance(value, dict):
        return {name: _replaced(each, inputs, by) for name, each in value.items()}
    return value


JOINS = frozenset([torch.cat, torch.concat, torch.stack])
CASTS = frozenset([Tensor.to, torch.Tensor.view])

# In-place functions and the plain ones that they stand for.
IN_PLACE: dict[Any, Callable[..., Any]] = {
    **{
        getattr(place, f"{name}_"): getattr(torch, name)
        for name in ("sigmoid", "tanh", "selu", "celu", "clamp", "clamp_min")
        for place in (torch, Tensor)
        if hasattr(place, f"{name}_")
    },
    **{getattr(F, f"{name}_"): getattr(F, name) for name in ("elu", "selu", "celu")},
}


def _relu_in_place(run: Interception, func: Any, input: Tensor) -> Tensor:
    return _relu(run, func, input, inplace=True)


def _table() -> dict[Any, Operation]:
    rearranging = [
        *("avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d"),
        *("adaptive_avg_pool3d", "flatten", "unflatten", "reshape", "view", "permute", "transpose"),
        *("swapaxes", "movedim", "squeeze", "unsqueeze", "t", "expand", "repeat", "tile", "narrow"),
        *("repeat_interleave", "select", "index_select", "unbind", "chunk", "split", "roll"),
        *("flip", "cat", "concat", "stack", "clone", "contiguous", "mean", "sum", "unfold"),
        *("pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "tensor_split", "gather"),
        *("float", "double", "half", "bfloat16", "fold", "swapdims", "split_with_sizes"),
    ]
    aside = [
        *("eq", "ne", "lt", "le", "gt", "ge", "equal", "isnan", "isinf", "isfinite", "argmax"),
        *("argmin", "zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones"),
        *("new_full", "new_empty", "new_tensor"),
    ]
    comparisons = [getattr(Tensor, f"__{name}__") for name in ("eq", "ne", "lt", "le", "gt", "ge")]
    properties = [getattr(Tensor, name).__get__ for name in ("T", "mT")]
    entries: list[tuple[Operation, list[Any]]] = [
        (_convolution(1), [F.conv1d]),
        (_convolution(2), [F.conv2d]),
        (_convolution(3), [F.conv3d]),
        (_batch_norm, [F.batch_norm]),
        (_linear, [F.linear]),
        (_relu, _everywhere(["relu"])),
        (_relu_in_place, [torch.relu_, Tensor.relu_]),
        (_leaky_relu, [F.leaky_relu]),
        (_in_place(_leaky_relu), [F.leaky_relu_]),
        (_prelu, _everywhere(["prelu"])),
        (_abs, _everywhere(["abs", "absolute"])),
        (_activation(torch.sigmoid, exact=True), [F.silu]),
        (_activation(_of_gelu, exact=True), [F.gelu]),
        (_activation(F.hardsigmoid, exact=True), [F.hardswish]),
        (_activation(lambda x: F.softplus(x).tanh(), exact=True), [F.mish]),
        (_activation(lambda x: _quotient(x.tanh(), x, 1.0), gate=1),
         [*_everywhere(["tanh"]), torch.tanh_, Tensor.tanh_]),
        (_activation(_of_sigmoid, 0.5, nonnegative=True, gate=2),
         [*_everywhere(["sigmoid"]), torch.sigmoid_, Tensor.sigmoid_, torch.special.expit]),
        (_activation(_of_hardsigmoid, 0.5, nonnegative=True, gate=2), [F.hardsigmoid]),
        (_activation(_of_elu, options=("alpha",)), [F.elu, F.elu_]),
        (_activation(lambda x: _of_elu(x, SELU_ALPHA, SELU_SCALE)), [F.selu, F.selu_, torch.selu]),
        (_activation(lambda x, alpha=1.0: _of_elu(x, alpha, 1.0, 1 / alpha), options=("alpha",)),
         [F.celu, F.celu_, torch.celu]),
        (_activation(lambda x: 1 / (1 + x.abs()), gate=1), [F.softsign]),
        (_activation(_of_erf, gate=1), [torch.erf, Tensor.erf, torch.special.erf]),
        (_softplus, [F.softplus]),
        (_glu, [F.glu]),
        (_hardtanh, [F.hardtanh]),
        (_in_place(_hardtanh), [F.hardtanh_]),
        (_relu6, [F.relu6]),
        (_clamp, [torch.clamp, Tensor.clamp, torch.clip, Tensor.clip, torch.clamp_, Tensor.clamp_]),
        (_clamp_min, [torch.clamp_min, Tensor.clamp_min, torch.clamp_min_, Tensor.clamp_min_]),
        (_power, [*_everywhere(["pow"]), Tensor.__pow__]),
        (_square, _everywhere(["square"])),
        (_statistic, _everywhere(["var", "std", "norm", "sqrt", "rsqrt"])),
        (_statistic, _everywhere(["reciprocal", "exp", "log"])),
        (_statistic, [torch.linalg.vector_norm, torch.linalg.norm]),
        (_softmax, _everywhere(["softmax"])),
        (_add, [*_everywhere(["add"]), Tensor.__add__, Tensor.__radd__]),
        (_in_place(_add), [Tensor.add_, Tensor.__iadd__]),
        (_sub, [*_everywhere(["sub", "subtract"]), Tensor.__sub__]),
        (_in_place(_sub), [Tensor.sub_, Tensor.__isub__]),
        (_rsub, [torch.rsub, Tensor.__rsub__]),
        (_mul, [*_everywhere(["mul", "multiply"]), Tensor.__mul__, Tensor.__rmul__]),
        (_in_place(_mul), [Tensor.mul_, Tensor.__imul__]),
        (_matmul, [*_everywhere(["matmul", "bmm", "mm"]), Tensor.__matmul__]),
        (_rmatmul, [Tensor.__rmatmul__]),
        (_einsum, [torch.einsum]),
        (_divide, [*_everywhere(["div", "divide"]), Tensor.__truediv__]),
        (_in_place(_divide), [Tensor.div_, Tensor.__itruediv__]),
        (_rdivide, [Tensor.__rtruediv__]),
        (_negate, [*_everywhere(["neg", "negative"]), Tensor.__neg__]),
        (_in_place(_negate), [torch.neg_, Tensor.neg_]),
        (_addcmul, _everywhere(["addcmul"])),
        (_in_place(_addcmul), [Tensor.addcmul_]),
        (_layer_norm, _everywhere(["layer_norm"])),
        (_group_norm, [F.group_norm, torch.group_norm]),
        (_instance_norm, [F.instance_norm]),
        (_rms_norm, [F.rms_norm, torch.rms_norm]),
        (_normalise_length, [F.normalize]),
        (_dropout, [F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout]),
        (_pad, [F.pad]),
        (_max_pool(1), [F.max_pool1d, torch.max_pool1d]),
        (_max_pool(2), [F.max_pool2d, torch.max_pool2d]),
        (_max_pool(3), [F.max_pool3d, torch.max_pool3d]),
        (_adaptive_max_pool(1), [F.adaptive_max_pool1d]),
        (_adaptive_max_pool(2), [F.adaptive_max_pool2d]),
        (_maximum, _everywhere(["max"])),
        (_amax, _everywhere(["amax"])),
        (_where, [torch.where]),
        (_chosen, [Tensor.where]),
        (_masked_fill, _everywhere(["masked_fill"])),
        (_in_place(_masked_fill), [Tensor.masked_fill_]),
        (_as(torch.reshape), [Tensor.reshape_as, Tensor.view_as]),
        (_as(Tensor.expand), [Tensor.expand_as]),
        (_type_as, [Tensor.type_as]),
        (_to, [Tensor.to]),
        (_interpolate, [F.interpolate]),
        (_aside, [*_everywhere(aside), *comparisons]),
        (_through(rearranges=True), [*_everywhere(rearranging), Tensor.__getitem__, *properties]),
    ]  # fmt: skip
    return {func: operation for operation, functions in entries for func in functions} | UNROLLED


SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805


def _everywhere(names: list[str]) -> list[Callable[..., Any]]:
    """Return every public function of that name: torch has up to three for one operation."""
    return [
        getattr(place, name)
        for name in names
        for place in (torch, F, Tensor)
        if hasattr(place, name)
    ]


OPERATIONS: dict[Any, Operation] = _table()

# What says something about a tensor without looking at its values.
QUERIES: frozenset[Any] = frozenset(
    [
        *(Tensor.size, Tensor.dim, Tensor.numel, Tensor.nelement, Tensor.stride, Tensor.__len__),
        *(Tensor.is_contiguous, Tensor.is_floating_point, torch.is_floating_point),
        *(Tensor.is_complex, torch.is_complex, torch.numel, Tensor.get_device, Tensor.__hash__),
        *(Tensor.ndimension, Tensor.storage_offset, Tensor.is_inference),
        *(
            getattr(Tensor, name).__get__
            for name in (
                *("shape", "ndim", "dtype", "device", "layout", "requires_grad", "is_leaf"),
                *("is_cuda", "is_cpu", "is_mps", "is_sparse", "is_quantized", "is_mkldnn"),
                *("is_meta", "is_nested", "itemsize", "nbytes", "_version"),
            )
        ),
    ]
)
