"""Normalisation: deviations, or root mean squares, are held constant."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from attrreg.attribution.calls import everywhere, table
from attrreg.attribution.interception import Interception

__all__ = ["NORMALISATION"]


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


NORMALISATION = table(
    [
        (_layer_norm, everywhere(["layer_norm"])),
        (_group_norm, [F.group_norm, torch.group_norm]),
        (_instance_norm, [F.instance_norm]),
        (_rms_norm, [F.rms_norm, torch.rms_norm]),
        (_normalise_length, [F.normalize]),
    ]
)  # fmt: skip
