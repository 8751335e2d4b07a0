"""Affine layers in gradient space: how the relevance of an output becomes that of its inputs.

Everywhere g = R / z stands for the relevance of a tensor divided by its value. An affine layer
z = W·x + b receives g of its output and returns g of its input, so that x · g is the relevance of
the input. Beside it stands what is absorbed: by the bias, and by the stabiliser.

Two propagations for the input itself do not fit x · g. They have leaves of their own: R is the sum
of leaf · ∂/∂leaf over the leaves. ``flat`` has the leaf 1, ``z-box`` the leaves x, low and high.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from attrreg.attribution.rules import Propagation, Rule

__all__ = [
    "Affine",
    "Convolution",
    "Elementwise",
    "Linear",
    "propagate",
    "spread_evenly",
    "stabiliser",
    "z_box",
]


@dataclass(frozen=True)
class Linear:
    """z = x Wᵀ + b over the last axis."""

    weight: Tensor
    bias: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        """Return z for x."""
        return F.linear(x, self.weight, self.bias)

    def transpose(self, s: Tensor, x: Tensor) -> Tensor:
        """Return Wᵀ s, shaped like the input x."""
        return s @ self.weight

    def spread(self, bias: Tensor, z: Tensor) -> Tensor:
        """Shape the bias so that it broadcasts over z."""
        return bias

    def scale(self, magnitude: Tensor) -> Tensor:
        """Return the mean of |z| over the outputs at each position, so that no sample mixes in."""
        return magnitude.mean(-1, keepdim=True)

    def taps(self, ones: Tensor) -> Tensor:
        """Return how many inputs each unit reads, (…, 1), where `ones` is 1 at the valid ones."""
        return ones.sum(-1, keepdim=True)

    def pool(self, relevance: Tensor) -> Tensor:
        """Sum over the units that read the same inputs, (…, 1)."""
        return relevance.sum(-1, keepdim=True)

    def share(self, part: Tensor, like: Tensor) -> Tensor:
        """Give every input that pooled units read their `part`."""
        return part.expand_as(like)


@dataclass(frozen=True)
class Convolution:
    """z = W * x + b; the options are those of `torch.nn.functional.conv2d` and its relatives."""

    weight: Tensor
    bias: Tensor | None
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @property
    def tiles(self) -> bool:
        """Whether no two units read the same input: patches side by side, as in a ViT's stem."""
        kernel = tuple(self.weight.shape[2:])
        apart = kernel == self.stride and not any(self.padding) and set(self.dilation) == {1}
        return apart and self.groups == 1 and math.prod(kernel) > 1

    def forward(self, x: Tensor) -> Tensor:
        """Return z for x."""
        return self._convolve(x, self.weight, self.bias)

    def transpose(self, s: Tensor, x: Tensor) -> Tensor:
        """Return Wᵀ s, shaped like the input x."""
        return self._transpose(s, x, self.weight)

    def spread(self, bias: Tensor, z: Tensor) -> Tensor:
        """Shape the bias so that it broadcasts over z."""
        return bias.view(-1, *[1] * len(self.stride))

    def scale(self, magnitude: Tensor) -> Tensor:
        """Return the mean of |z| in each sample."""
        return magnitude.mean(tuple(range(1, magnitude.ndim)), keepdim=True)

    def taps(self, ones: Tensor) -> Tensor:
        """Return how many inputs the units of each group read, (n, groups, …)."""
        per_group = ones.unflatten(1, (self.groups, -1)).sum(2)
        return self._convolve(per_group, self._ones(), None)

    def pool(self, relevance: Tensor) -> Tensor:
        """Sum over the units that read the same inputs, (n, groups, …)."""
        return relevance.unflatten(1, (self.groups, -1)).sum(2)

    def share(self, part: Tensor, like: Tensor) -> Tensor:
        """Give every input that pooled units read their `part`."""
        channels = like.shape[1] // self.groups
        back = self._transpose(part, like[:, : self.groups], self._ones())
        return back.repeat_interleave(channels, dim=1)

    def _ones(self) -> Tensor:
        kernel = torch.ones_like(self.weight[:1, :1])
        return kernel.expand(self.groups, 1, *kernel.shape[2:])

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        still = [0] * len(self.stride)
        return torch.convolution(
            x, weight, bias, self.stride, self.padding, self.dilation, False, still, self.groups
        )

    def _transpose(self, s: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        if self.tiles:
            return _untiled(torch.tensordot(s, weight, ([1], [0])), x)
        still = [0] * len(self.stride)
        return torch.ops.aten.convolution_backward(
            s, x, weight, None, self.stride, self.padding, self.dilation, False, still, self.groups,
            [True, False, False],
        )[0]  # fmt: skip


def _untiled(tiles: Tensor, x: Tensor) -> Tensor:
    """Lay tiles (n, *places, channels, *kernel) side by side, shaped like x; the rest is zero.

    On a CPU the backward pass of torch's convolution takes several times as long for it.
    """
    d = x.ndim - 2
    interleaved = [axis for place in range(d) for axis in (1 + place, 2 + d + place)]
    ordered = tiles.permute(0, 1 + d, *interleaved)
    for axis in range(2, 2 + d):
        ordered = ordered.flatten(axis, axis + 1)
    short = [size - covered for size, covered in zip(x.shape[2:], ordered.shape[2:], strict=True)]
    return F.pad(ordered, [each for size in reversed(short) for each in (0, size)])


@dataclass(frozen=True)
class Elementwise:
    """z = a · x + b per channel (axis 1): a batch norm that reads no convolution."""

    weight: Tensor
    bias: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        """Return z for x."""
        z = x * self.spread(self.weight, x)
        return z if self.bias is None else z + self.spread(self.bias, x)

    def transpose(self, s: Tensor, x: Tensor) -> Tensor:
        """Return a · s."""
        return s * self.spread(self.weight, x)

    def spread(self, bias: Tensor, z: Tensor) -> Tensor:
        """Shape a value per channel so that it broadcasts over z."""
        return bias.view(-1, *[1] * (z.ndim - 2))

    def scale(self, magnitude: Tensor) -> Tensor:
        """Return the mean of |z| in each sample."""
        return magnitude.mean(tuple(range(1, magnitude.ndim)), keepdim=True)

    def taps(self, ones: Tensor) -> Tensor:
        """Return how many inputs each unit reads: its own."""
        return ones

    def pool(self, relevance: Tensor) -> Tensor:
        """Return the relevance: no two units read the same input."""
        return relevance

    def share(self, part: Tensor, like: Tensor) -> Tensor:
        """Give every unit's `part` to its only input."""
        return part


Affine = Linear | Convolution | Elementwise
# Below this share of the positive contributions the negative ones are summed by themselves.
CANCELLATION = 1e-2
Absorb = Callable[[Tensor], None] | None


def propagate(
    layer: Affine,
    how: Propagation,
    rule: Rule,
    x: Tensor,
    z: Tensor,
    g: Tensor,
    nonnegative: bool,
    absorbed: Absorb,
) -> Tensor:
    """Carry g through one layer.

    Parameters
    ----------
    layer
        The affine map, batch norm folded in.
    how
        The propagation.
    rule
        Its parameters ε, γ, α and β.
    x, z, g
        Input, output, and relevance ÷ value of the output.
    nonnegative
        Whether every entry of x is known to be ≥ 0, which spares two convolutions.
    absorbed
        Called with relevance that the layer keeps, or None where nobody asks.

    Returns
    -------
    Tensor
        Like x: relevance ÷ value.
    """
    if how == "epsilon":
        return _epsilon(layer, rule.epsilon, x, z, g, absorbed)
    parts = _Signed.of(layer, x, nonnegative)
    if how == "plus":
        return _plus(layer, parts, rule.epsilon, x, z, g, absorbed)
    if how == "gamma":
        return _gamma(layer, parts, rule.gamma, x, z, g, absorbed)
    return _alpha_beta(layer, parts, rule, x, z, g, absorbed)


def spread_evenly(layer: Affine, relevance: Tensor, ones: Tensor, absorbed: Absorb) -> Tensor:
    """Give every input that a unit reads the same share (flat).

    Parameters
    ----------
    layer
        Whose connections count; its weights do not.
    relevance
        Of the output.
    ones
        Like the input: 1 where it is a place of the network's input, 0 where it is padding.
    absorbed
        Receives the relevance of units that see only padding, or None.

    Returns
    -------
    Tensor
        ∂/∂ones, shaped like it.
    """
    taps, pooled = layer.taps(ones), layer.pool(relevance)
    if absorbed is not None:
        absorbed(torch.where(taps > 0, 0, pooled))
    return layer.share(pooled / torch.where(taps > 0, taps, torch.inf), ones)


def z_box(
    layer: Affine,
    x: Tensor,
    low: Tensor,
    high: Tensor,
    relevance: Tensor,
    absorbed: Absorb,
) -> tuple[Tensor, Tensor, Tensor]:
    """Share in proportion to x·w − low·w⁺ − high·w⁻ (z-box); the bias takes no part.

    Parameters
    ----------
    x, low, high
        Input and its bounds, shaped alike.
    relevance
        Of the output.
    absorbed
        Receives the relevance of units whose inputs all lie at the bound that counts, or None.

    Returns
    -------
    tuple of Tensor
        ∂/∂x, ∂/∂low and ∂/∂high, each shaped like x.
    """
    whole = replace(layer, bias=None)
    excite = replace(whole, weight=layer.weight.clamp_min(0))
    inhibit = replace(whole, weight=layer.weight.clamp_max(0))
    room = whole.forward(x) - excite.forward(low) - inhibit.forward(high)
    has_room = room.abs() > _smallest(x)
    s = torch.where(has_room, relevance / room.where(has_room, 1), 0)
    if absorbed is not None:
        absorbed(torch.where(has_room, 0, relevance))
    return whole.transpose(s, x), -excite.transpose(s, x), -inhibit.transpose(s, x)


def stabiliser(layer: Affine, z: Tensor, epsilon: float) -> Tensor:
    """Return |z| / (|z| + ε·scale), like z."""
    magnitude = z.abs()
    stable = magnitude + epsilon * layer.scale(magnitude)
    return magnitude / stable.clamp_min(torch.finfo(z.dtype).tiny)


def _epsilon(
    layer: Affine, epsilon: float, x: Tensor, z: Tensor, g: Tensor, absorbed: Absorb
) -> Tensor:
    s = _stabilised(layer, g, z, epsilon)
    if absorbed is not None:
        absorbed(z * (g - s))
        _absorb_bias(layer, layer.bias, s, absorbed)
    return layer.transpose(s, x)


@dataclass(frozen=True)
class _Signed:
    """The positive and the negative contributions of a layer's inputs: c = x·w by their sign.

    ``positive``: their sum in each unit, with the positive part of the bias.
    """

    excite: Affine
    inhibit: Affine
    positive: Tensor
    nonnegative: bool

    @classmethod
    def of(cls, layer: Affine, x: Tensor, nonnegative: bool) -> "_Signed":
        bias = None if layer.bias is None else layer.bias.clamp_min(0)
        excite = replace(layer, weight=layer.weight.clamp_min(0), bias=bias)
        inhibit = replace(layer, weight=layer.weight.clamp_max(0), bias=None)
        positive = excite.forward(x if nonnegative else x.clamp_min(0))
        if not nonnegative:
            positive = positive + inhibit.forward(x.clamp_max(0))
        return cls(excite, inhibit, positive, nonnegative)

    def negative(self, bias: Tensor | None, x: Tensor) -> Tensor:
        """Return the sum of the negative contributions, with the negative part of the bias."""
        below = None if bias is None else bias.clamp_max(0)
        inhibit = replace(self.inhibit, bias=below)
        if self.nonnegative:
            return inhibit.forward(x)
        excite = replace(self.excite, bias=None)
        return inhibit.forward(x.clamp_min(0)) + excite.forward(x.clamp_max(0))

    def pull(self, same: Tensor, opposite: Tensor | None, x: Tensor) -> Tensor:
        """Return g of the input: `same` goes along positive contributions, `opposite` negative."""
        out = self.excite.transpose(same, x)
        if opposite is not None:
            out = out + self.inhibit.transpose(opposite, x)
        if self.nonnegative:
            return out
        below = self.inhibit.transpose(same, x)
        if opposite is not None:
            below = below + self.excite.transpose(opposite, x)
        return torch.where(x < 0, below, out)


def _plus(
    layer: Affine,
    parts: _Signed,
    epsilon: float,
    x: Tensor,
    z: Tensor,
    g: Tensor,
    absorbed: Absorb,
) -> Tensor:
    """z⁺: R_i = Σ_j (x_i w_ij)⁺ / z⁺_j R_j, with ε for units without a positive contribution."""
    relevance, positive = z * g, parts.positive
    if not _can_look(z) or bool(positive.amin() <= _smallest(z)):
        has_positive = positive > _smallest(z)
        s = torch.where(has_positive, relevance / positive, 0)
        bare = torch.where(has_positive, 0, g)
    else:
        s, bare = relevance / positive, None
    if absorbed is not None:
        _absorb_bias(layer, parts.excite.bias, s, absorbed)
    out = parts.pull(s, None, x)
    if bare is None or (_can_look(z) and not bool((bare * z).any())):
        return out
    return out + _epsilon(layer, epsilon, x, z, bare, absorbed)


def _gamma(
    layer: Affine,
    parts: _Signed,
    gamma: float,
    x: Tensor,
    z: Tensor,
    g: Tensor,
    absorbed: Absorb,
) -> Tensor:
    """γ, generalised: contributions of the sign of z_j count (1 + γ)-fold."""
    rises = z > 0
    own = torch.where(rises, parts.positive, z - parts.positive)
    total = z + gamma * own
    s = torch.where(total == 0, 0, z * g / total)
    if absorbed is not None and layer.bias is not None:
        bias = layer.spread(layer.bias, z)
        of_sign = torch.where(rises, bias.clamp_min(0), bias.clamp_max(0))
        absorbed(s * (bias + gamma * of_sign))
    if _can_look(z) and not bool(torch.where(rises, 0, s).any()):
        # behind a ReLU no unit below zero has relevance, and one convolution does for two
        both = replace(layer, weight=layer.weight + gamma * layer.weight.clamp_min(0), bias=None)
        out = both.transpose(s, x)
        if parts.nonnegative:
            return out
        below = replace(layer, weight=layer.weight + gamma * layer.weight.clamp_max(0), bias=None)
        return torch.where(x < 0, below.transpose(s, x), out)
    more = s * (1 + gamma)
    return parts.pull(torch.where(rises, more, s), torch.where(rises, s, more), x)


def _alpha_beta(
    layer: Affine,
    parts: _Signed,
    rule: Rule,
    x: Tensor,
    z: Tensor,
    g: Tensor,
    absorbed: Absorb,
) -> Tensor:
    """αβ: R_i = Σ_j (α c⁺_ij / z⁺_j − β c⁻_ij / z⁻_j) R_j, c = x·w by its sign.

    A unit without negative contributions gives all to the positive ones, and the other way round,
    so that relevance is conserved; one with neither has no relevance.
    """
    relevance, positive = z * g, parts.positive
    taken = positive - z  # −z⁻
    # The difference spares a convolution, but of a small remainder it leaves only rounding.
    cancels = not _can_look(z) or bool((taken < CANCELLATION * positive).any())
    if cancels:
        taken = -parts.negative(layer.bias, x)
    if cancels or bool(positive.amin() <= _smallest(z)):
        has_positive, has_negative = positive > _smallest(z), taken > _smallest(z)
        upward = torch.where(has_negative, rule.alpha * relevance, relevance)
        downward = torch.where(has_positive, rule.beta * relevance, -relevance)
        same = torch.where(has_positive, upward / positive, 0)
        opposite = torch.where(has_negative, downward / taken, 0)
        if absorbed is not None:
            absorbed(torch.where(has_positive | has_negative, 0, relevance))
    else:
        same = (relevance / positive).mul_(rule.alpha)
        opposite = relevance.div_(taken).mul_(rule.beta)
    if absorbed is not None:
        _absorb_bias(layer, parts.excite.bias, same, absorbed)
        below = None if layer.bias is None else layer.bias.clamp_max(0)
        _absorb_bias(layer, below, opposite, absorbed)
    return parts.pull(same, opposite, x)


def _smallest(z: Tensor) -> float:
    """Return what cannot be divided by: a subnormal sum counts as none."""
    return torch.finfo(z.dtype).tiny * (1 if z.dtype == torch.float16 else 1e8)


def _can_look(values: Tensor) -> bool:
    """Whether looking at values is free; on an accelerator it would make the host wait."""
    return values.device.type == "cpu"


def _stabilised(layer: Affine, g: Tensor, z: Tensor, epsilon: float) -> Tensor:
    return g if epsilon == 0 else g * stabiliser(layer, z, epsilon)


def _absorb_bias(
    layer: Affine, bias: Tensor | None, s: Tensor, absorbed: Callable[[Tensor], Any]
) -> None:
    if bias is not None:
        absorbed(layer.spread(bias, s) * s)
