"""Affine layers in gradient space: how the relevance of an output becomes that of its inputs.

Everywhere g = R / z stands for the relevance of a tensor divided by its value. An affine layer
z = W·x + b receives g of its output and returns g of its input, so that x · g is the relevance of
the input. Beside it stands what is absorbed: by the bias, and by the stabiliser.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Affine", "Convolution", "Elementwise", "Linear", "propagate"]


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


@dataclass(frozen=True)
class Convolution:
    """z = W * x + b; the options are those of `torch.nn.functional.conv2d` and its relatives."""

    weight: Tensor
    bias: Tensor | None
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def forward(self, x: Tensor) -> Tensor:
        """Return z for x."""
        return self._convolve(x, self.weight, self.bias, self.groups)

    def transpose(self, s: Tensor, x: Tensor) -> Tensor:
        """Return Wᵀ s, shaped like the input x."""
        return self._transpose(s, x, self.weight, self.groups)

    def spread(self, bias: Tensor, z: Tensor) -> Tensor:
        """Shape the bias so that it broadcasts over z."""
        return bias.view(-1, *[1] * len(self.stride))

    def spread_evenly(
        self, relevance: Tensor, x: Tensor, absorbed: Callable[[Tensor], None] | None
    ) -> Tensor:
        """Give every tap of a unit that lies inside the input the same share (flat).

        Parameters
        ----------
        relevance
            Of the output, (n, outputs, …).
        x
            The input, (n, channels, …); only its shape is used.
        absorbed
            Receives the relevance of units that see only padding, or None.

        Returns
        -------
        Tensor
            Relevance of the input, shaped like x.
        """
        channels = x.shape[1]
        kernel = torch.ones_like(self.weight[:1, :1])
        taps = self._convolve(torch.ones_like(x[:1, :1]), kernel, None, 1)
        if absorbed is not None:
            absorbed(torch.where(taps > 0, 0, relevance))
        per_group = relevance.unflatten(1, (self.groups, -1)).sum(2)
        share = per_group / (taps * (channels // self.groups)).clamp_min(1)
        kernels = kernel.expand(self.groups, 1, *kernel.shape[2:])
        like = x[:, : self.groups]
        return self._transpose(share, like, kernels, self.groups).repeat_interleave(
            channels // self.groups, dim=1
        )

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
        still = [0] * len(self.stride)
        return torch.convolution(
            x, weight, bias, self.stride, self.padding, self.dilation, False, still, groups
        )

    def _transpose(self, s: Tensor, x: Tensor, weight: Tensor, groups: int) -> Tensor:
        still = [0] * len(self.stride)
        return torch.ops.aten.convolution_backward(
            s, x, weight, None, self.stride, self.padding, self.dilation, False, still, groups,
            [True, False, False],
        )[0]  # fmt: skip


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


Affine = Linear | Convolution | Elementwise


def propagate(
    layer: Affine,
    how: str,
    epsilon: float,
    x: Tensor,
    z: Tensor,
    g: Tensor,
    nonnegative: bool,
    absorbed: Callable[[Tensor], None] | None,
) -> Tensor:
    """Carry g through one layer.

    Parameters
    ----------
    layer
        The affine map, batch norm folded in.
    how
        ``epsilon``, ``plus`` or ``flat``. For ``flat`` the result is the relevance itself, which
        does not depend on x.
    epsilon
        Relative stabiliser of ``epsilon``.
    x, z, g
        Input, output, and relevance ÷ value of the output.
    nonnegative
        Whether every entry of x is known to be ≥ 0, which spares two convolutions.
    absorbed
        Called with the relevance that the layer keeps, (n, …), or None where nobody asks.

    Returns
    -------
    Tensor
        Like x: relevance ÷ value (``epsilon``, ``plus``), relevance (``flat``).
    """
    if how == "flat":
        if not isinstance(layer, Convolution):
            raise ValueError("flat is defined for convolutions that read the input")
        return layer.spread_evenly(z * g, x, absorbed)
    if how == "plus":
        return _plus(layer, epsilon, x, z, g, nonnegative, absorbed)
    return _epsilon(layer, epsilon, x, z, g, absorbed)


def _epsilon(
    layer: Affine,
    epsilon: float,
    x: Tensor,
    z: Tensor,
    g: Tensor,
    absorbed: Callable[[Tensor], None] | None,
) -> Tensor:
    s = _stabilised(g, z, epsilon)
    if absorbed is not None:
        absorbed(z * (g - s))
        _absorb_bias(layer, layer.bias, s, absorbed)
    return layer.transpose(s, x)


def _plus(
    layer: Affine,
    epsilon: float,
    x: Tensor,
    z: Tensor,
    g: Tensor,
    nonnegative: bool,
    absorbed: Callable[[Tensor], None] | None,
) -> Tensor:
    """z⁺: R_i = Σ_j (x_i w_ij)⁺ / z⁺_j R_j, with ε for units without a positive contribution."""
    bias = None if layer.bias is None else layer.bias.clamp_min(0)
    excite = replace(layer, weight=layer.weight.clamp_min(0), bias=bias)
    inhibit = replace(layer, weight=layer.weight.clamp_max(0), bias=None)
    positive = excite.forward(x if nonnegative else x.clamp_min(0))
    if not nonnegative:
        positive = positive + inhibit.forward(x.clamp_max(0))
    # a subnormal sum cannot be divided by; such a unit counts as one without contribution
    has_positive = positive > torch.finfo(z.dtype).tiny * 1e8
    relevance = z * g
    s = torch.where(has_positive, relevance / positive.where(has_positive, 1), 0)
    lone = torch.where(has_positive, 0, _stabilised(g, z, epsilon))
    if absorbed is not None:
        absorbed(torch.where(has_positive, 0, relevance - z * lone))
        _absorb_bias(layer, bias, s, absorbed)
        _absorb_bias(layer, layer.bias, lone, absorbed)
    out = excite.transpose(s, x)
    if not nonnegative:
        out = torch.where(x < 0, inhibit.transpose(s, x), out)
    # On a CPU looking is free and spares a convolution; on an accelerator it would synchronise.
    if z.device.type != "cpu" or bool((lone != 0).any()):
        out = out + layer.transpose(lone, x)
    return out


def _stabilised(g: Tensor, z: Tensor, epsilon: float) -> Tensor:
    """Return g |z| / (|z| + ε·scale), the scale being the sample's mean |z|."""
    if epsilon == 0:
        return g
    magnitude = z.abs()
    scale = magnitude.mean(tuple(range(1, z.ndim)), keepdim=True)
    return g * (magnitude / (magnitude + epsilon * scale).clamp_min(torch.finfo(z.dtype).tiny))


def _absorb_bias(
    layer: Affine, bias: Tensor | None, s: Tensor, absorbed: Callable[[Tensor], Any]
) -> None:
    if bias is not None:
        absorbed(layer.spread(bias, s) * s)
