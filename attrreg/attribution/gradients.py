"""Attributions made of gradients only; they work on every differentiable model.

With S the explained output and w the weights of its classes at x:

====================  =====================================================================
gradient              ∂S/∂x
gradient-x-input      x · ∂S/∂x
smoothgrad            mean over k of ∂S/∂x at x + noise · (max x − min x) · ε_k
integrated-gradients  (x − b) · ∫₀¹ ∂S/∂x at b + t (x − b) dt, by Gauss-Legendre quadrature
====================  =====================================================================

w is found once, at x: all gradients of one map are those of the same output. Copies and nodes are
visited one after the other, so that memory does not grow with their number.

References
----------
Smilkov et al., "SmoothGrad: removing noise by adding noise", 2017, arXiv 1706.03825;
Sundararajan et al., "Axiomatic attribution for deep networks", ICML 2017, arXiv 1703.01365.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attrreg.attribution.explained import NO_DEPENDENCE, Output, check_logits, in_transform
from attrreg.attribution.guards import UnsupportedOperation, untouched
from attrreg.attribution.rules import Rule

__all__ = ["explain_by_gradient", "per_channel"]

Weighting = Callable[[Tensor], Tensor]


def explain_by_gradient(
    model: nn.Module,
    x: Tensor,
    weights_of: Weighting,
    rule: Rule,
    output: Output = "logit",
    create_graph: bool = False,
) -> Tensor:
    """Explain by gradients alone.

    Works inside the transforms of ``torch.func`` as well, so that `torch.func.vmap` explains many
    models at once. Autocast is off meanwhile. The model runs in evaluation mode and is left as it
    was.

    Parameters
    ----------
    model
        Maps x to logits (n, classes).
    x
        Input (n, …), floating point.
    weights_of
        From detached logits to the weights of the explained output, (n, classes); called once.
    rule
        One whose ``backward`` is gradient, gradient-x-input, smoothgrad or integrated-gradients.
    output
        ``logit``, or ``log-probability``.
    create_graph
        Keep the map differentiable by the model's parameters, and by x if that requires gradients.

    Returns
    -------
    Tensor
        Like x: same shape, dtype and device. In units of the explained output; for ``gradient`` and
        ``smoothgrad`` that per unit of x.

    Raises
    ------
    UnsupportedOperation
        The output does not depend on x.
    ValueError
        The model returned no logits, or a baseline per channel does not fit x.
    """
    plain = torch.autocast(device_type=x.device.type, enabled=False)
    with torch.inference_mode(False), torch.enable_grad(), plain, untouched(model):
        # inside a transform a tensor does not say whether an outer level differentiates it
        connected = create_graph and (x.requires_grad or in_transform())
        start = x if connected else x.detach().clone()
        slope = functools.partial(_slope, model, output=output, create_graph=create_graph)
        if rule.backward == "gradient":
            return slope(start, weights_of)
        if rule.backward == "gradient-x-input":
            return start * slope(start, weights_of)
        with torch.no_grad():
            logits = model(start.clone())
            check_logits(logits, start)
            weights = weights_of(logits.detach())
        if rule.backward == "smoothgrad":
            points, way = _copies(start, rule), None
        else:
            baseline = per_channel(rule.baseline, start, f"rule {rule.name!r}: baseline")
            way = start - baseline
            points = _nodes(baseline, way, rule.steps)
        total = torch.zeros_like(start)
        for share, point in points:
            total = total + share * slope(point, lambda _: weights)
        return total if way is None else way * total


def per_channel(value: float | tuple[float, ...], x: Tensor, what: str) -> Tensor:
    """Return a number, or one number per channel (axis 1 of x), so that it broadcasts against x.

    Built on the device of x, without a copy that the host would have to wait for.

    Raises
    ------
    ValueError
        There are not as many numbers as channels; `what` names them in the message.
    """
    if not isinstance(value, tuple):
        return x.new_full((), value)
    channels = x.shape[1] if x.ndim > 1 else 0
    if len(value) != channels:
        raise ValueError(
            f"{what} has {len(value)} numbers, but an input of shape {tuple(x.shape)} has "
            f"{channels} channels: give one number, or one per channel"
        )
    numbers = torch.stack([x.new_full((), number) for number in value])
    return numbers.view(1, -1, *[1] * (x.ndim - 2))


def _slope(
    model: nn.Module, point: Tensor, weights_of: Weighting, output: Output, create_graph: bool
) -> Tensor:
    """Return the derivative of the explained output by the point where the model is read."""

    def explained(place: Tensor) -> tuple[Tensor, Tensor]:
        logits = model(place.clone())  # which the model may change in place
        check_logits(logits, point)
        chosen = logits if output == "logit" else logits.log_softmax(1)
        if not chosen.requires_grad:
            raise UnsupportedOperation(NO_DEPENDENCE)
        return chosen, logits

    if in_transform():  # where requires_grad_ raises
        pulled: Any = torch.func.vjp(explained, point, has_aux=True)
        _, pull, logits = pulled
        gradient: Tensor = pull(weights_of(logits.detach()))[0]
        return gradient if create_graph else gradient.detach()
    leaf = point if point.requires_grad else point.detach().requires_grad_()
    chosen, logits = explained(leaf)
    (found,) = torch.autograd.grad(
        chosen, leaf, weights_of(logits.detach()), create_graph=create_graph, allow_unused=True
    )
    if found is None:
        raise UnsupportedOperation(NO_DEPENDENCE)
    return found


def _copies(x: Tensor, rule: Rule) -> Iterator[tuple[float, Tensor]]:
    """Yield noisy copies of x, each with its share of the mean."""
    flat = x.flatten(1)
    extent = (flat.amax(1) - flat.amin(1)).view(-1, *[1] * (x.ndim - 1))
    for noise in _noise(rule.seed, rule.samples, x.shape[1:], x.dtype, x.device):
        yield 1 / rule.samples, x + rule.noise * extent * noise


@functools.lru_cache(maxsize=4)
def _noise(
    seed: int, samples: int, shape: torch.Size, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Return standard normal numbers (samples, 1, *shape), the same on every device.

    torch's generators cannot be used inside vmap, nor a fresh one while a GPU's work is captured.
    """
    numbers = np.random.default_rng(seed).standard_normal((samples, 1, *shape))
    return torch.from_numpy(numbers).to(device, dtype)


def _nodes(baseline: Tensor, way: Tensor, steps: int) -> Iterator[tuple[float, Tensor]]:
    """Yield the Gauss-Legendre nodes between the ends of the way, each with its weight."""
    for place, weight in _quadrature(steps):
        yield weight, baseline + place * way


@functools.cache
def _quadrature(steps: int) -> list[tuple[float, float]]:
    """Return nodes on [0, 1] and weights that sum to 1."""
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return list(zip(((1 + nodes) / 2).tolist(), (weights / 2).tolist(), strict=True))
