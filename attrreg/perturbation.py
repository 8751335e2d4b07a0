"""Perturbations: what is done to the input, given relevance on its feature axes.

Each part maps (x, relevance) to `Perturbed`, whose x̃ is like x and detached from every graph.
Everything is computed for the whole batch at once, with shapes that do not depend on the data.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from attrreg import parameters
from attrreg.features import on_features, over_channels, resolve_axes

__all__ = [
    "Block",
    "Drop",
    "Perturbed",
    "ReplaceLowest",
    "Scale",
    "box_depth",
    "fill_values",
    "rank",
]

# Boxes are drawn until one fits; instead of a loop, this many are drawn and the first one is taken.
# With the published ranges 97 % of the draws fit, so the last resort is used once in 10¹² times.
CANDIDATES = 8


class Perturbed(NamedTuple):
    """A batch ``x`` like the input, and ``changed`` (n, *features) bool: where it may differ."""

    x: Tensor
    changed: Tensor


class Drop(parameters.Drop):
    """Drop a feature iff α·U + (1−α)·R̂ ≥ 1−β, U ~ U(0, 1) per feature (RelDrop pixel, points).

    So P(drop) = clip((α + β − 1 + (1−α)·R̂) / α, 0, 1); α = 1 is dropout at rate β, α = 0 a
    threshold on R̂. Source: Gururaj et al., arXiv 2505.21595, code.
    """

    def __call__(
        self,
        x: Tensor,
        relevance: Tensor,
        generator: torch.Generator | None = None,
        axes: tuple[int, ...] | None = None,
        own: Tensor | None = None,
    ) -> Perturbed:
        """Return x with features dropped in all channels; relevance is (n, *features).

        `own` is the sample's own map where `relevance` is a control's: over the batch as many
        features are dropped as the own maps would have made it, those with the largest score under
        the control's. Each sample takes the count of another one, since how many features a map
        drops tells something about the sample.
        """
        coin = _coin(self.coin, self.p, x, generator)
        noise = _uniform(relevance.shape, x, generator)
        score = self._score(relevance, noise)
        if self.rate is not None:
            mask = rank(-score) < round(self.rate * score[0].numel())
        elif own is None:
            mask = score >= 1 - self.beta
        else:
            dropped = (self._score(own, noise) >= 1 - self.beta).flatten(1).sum(1)
            count = _of_another(dropped, coin)
            mask = rank(-score) < count.view(-1, *[1] * (score.ndim - 1))
        return _erase(x, _toss(mask, coin), self.fill, axes, generator)

    def _score(self, relevance: Tensor, noise: Tensor) -> Tensor:
        unit = _unit_range if self.normalisation == "min-max" else _unit_rank
        return self.alpha * noise + (1 - self.alpha) * unit(relevance)


class Block(parameters.Block):
    """Erase boxes centred on features among the most relevant (RelDrop block and patch).

    Source: Gururaj et al., arXiv 2505.21595, code; areas and aspects are those of random erasing
    (Zhong et al., AAAI 2020). The coin is tossed per sample here and per batch there.
    """

    def __call__(
        self,
        x: Tensor,
        relevance: Tensor,
        generator: torch.Generator | None = None,
        axes: tuple[int, ...] | None = None,
        own: Tensor | None = None,
    ) -> Perturbed:
        """Return x with the boxes erased in all channels; relevance is (n, *features).

        `own` is the sample's own map where `relevance` is a control's: as many features are erased
        as around the own map's centres, those nearest to the control's boxes.
        """
        coin = _coin(self.coin, self.p, x, generator)
        extents = self._extents(relevance, generator).unsqueeze(1)
        top = min(self.centres, relevance[0].numel())
        choice = _uniform((len(x), top), x, generator).argsort(1)[:, : self.patches]
        depth = self._depth(relevance, choice, extents)
        mask = depth < 1
        if own is not None:
            erased = (self._depth(own, choice, extents) < 1).flatten(1).sum(1)
            mask = rank(depth) < erased.view(-1, *[1] * (mask.ndim - 1))
        return _erase(x, _toss(mask, coin), self.fill, axes, generator)

    def _depth(self, relevance: Tensor, choice: Tensor, extents: Tensor) -> Tensor:
        """Return how far each feature is from the nearest box; below 1 it is inside.

        `choice` (n, boxes) picks among the most relevant features, most relevant first.
        """
        flat, shape = relevance.flatten(1), relevance.shape[1:]
        top = flat.topk(min(self.centres, flat.shape[1]), dim=1).indices
        centres = _coordinates(top.gather(1, choice), shape)
        return box_depth(centres, extents, shape, self.placement == "inside").amin(1)

    def _extents(self, relevance: Tensor, generator: torch.Generator | None) -> Tensor:
        """Draw the size of one box per sample, (n, feature axes), whole features."""
        sizes = relevance.shape[1:]
        drawn = _uniform((2, len(relevance), CANDIDATES), relevance, generator)
        low, high = self.area
        area = (low + (high - low) * drawn[0]) / self.patches * sizes.numel()
        if len(sizes) == 1:
            return area[:, :1].round().clamp(1, sizes[0])
        if len(sizes) != 2:
            raise ValueError(
                f"blocks are defined on one or two feature axes, found {len(sizes)}: "
                "use perturbation 'drop' here"
            )
        narrow, wide = (math.log(bound) for bound in self.aspect)
        aspect = (narrow + (wide - narrow) * drawn[1]).exp()
        height, width = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
        fits = (height <= sizes[0]) & (width <= sizes[1])
        first = fits.int().argmax(1, keepdim=True)  # the first candidate where none fits
        area, height, width = (each.gather(1, first) for each in (area, height, width))
        # where none fits, the side that is too long is cut and the other keeps the area
        width = torch.where(height > sizes[0], (area / sizes[0]).round(), width)
        height = torch.where(width > sizes[1], (area / sizes[1]).round(), height)
        return torch.cat([height.clamp(1, sizes[0]), width.clamp(1, sizes[1])], dim=1)


class ReplaceLowest(parameters.ReplaceLowest):
    """Replace the features of lowest value (Saliency Guided Training, algorithm 1).

    Source: Ismail et al., arXiv 2111.14338. There k counts channels too and ranks without them;
    here the fraction is of the features.
    """

    def __call__(
        self,
        x: Tensor,
        relevance: Tensor,
        generator: torch.Generator | None = None,
        axes: tuple[int, ...] | None = None,
        own: Tensor | None = None,
    ) -> Perturbed:
        """Return x with the lowest features replaced in all channels."""
        coin = _coin(self.coin, self.p, x, generator)
        count = round(self.fraction * relevance[0].numel())
        return _erase(x, _toss(rank(relevance) < count, coin), self.fill, axes, generator)


class Scale(parameters.Scale):
    """Change the relevant pattern smoothly (Challenger, RECONSTRUCTION from the abstract).

    x′ = x + s·g(r, x), s ~ U(0, strength) per sample; a map without a positive value leaves x as it
    is. Source of the idea: Tomani and Cremers, arXiv 2205.15094, abstract; every formula is ours.
    """

    def __call__(
        self,
        x: Tensor,
        relevance: Tensor,
        generator: torch.Generator | None = None,
        axes: tuple[int, ...] | None = None,
        own: Tensor | None = None,
    ) -> Perturbed:
        """Return x changed where relevance is; with `own`, by the batch energy its map would give.

        `own` is the sample's own map where `relevance` is a control's: the change is scaled so that
        Σ‖x′ − x‖² over the batch is what the guided method would have made it.
        """
        axes = resolve_axes(x, axes)
        coin = _coin(self.coin, self.p, x, generator)
        strength = _uniform((len(x),), x, generator) * self.strength * coin
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        change = self._change(x, relevance, strength, noise, axes)
        if own is not None:
            wanted = self._change(x, own, strength, noise, axes).square().sum()
            energy = change.square().sum()
            ratio = (wanted / energy.clamp_min(torch.finfo(x.dtype).tiny)).sqrt()
            change = change * torch.where(energy > 0, ratio, 0)
        changed = on_features((change != 0).to(x.dtype), axes) > 0
        return Perturbed((x + change).detach(), changed)

    def _change(
        self, x: Tensor, relevance: Tensor, strength: Tensor, noise: Tensor, axes: tuple[int, ...]
    ) -> Tensor:
        r = relevance.clamp_min(0) if self.relevance == "positive" else relevance
        largest = r.abs().flatten(1).amax(1).clamp_min(torch.finfo(r.dtype).tiny)
        r = over_channels(r / largest.view(-1, *[1] * (r.ndim - 1)), x, axes)
        s = strength.view(-1, *[1] * (x.ndim - 1))
        changes = {"attenuate": -r * x, "reverse": -r, "amplify": r, "noise": r * noise}
        return s * changes[self.mode]


def rank(values: Tensor) -> Tensor:
    """Return the place of every feature in ascending order of its value, per sample.

    Parameters
    ----------
    values
        (n, *features); ties are broken by position.

    Returns
    -------
    Tensor
        int64 like values, 0 for the smallest.
    """
    flat = values.flatten(1)
    order = flat.argsort(dim=1, stable=True)
    places = torch.arange(flat.shape[1], device=flat.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places).view(values.shape)


def box_depth(centres: Tensor, extents: Tensor, shape: tuple[int, ...], inside: bool) -> Tensor:
    """Return how far each feature is from the middle of a box: below 1 inside, 1 at its border.

    Parameters
    ----------
    centres
        (n, boxes, axes) int64, the feature in the middle.
    extents
        (n, 1 or boxes, axes), whole numbers ≥ 1.
    shape
        Sizes of the feature axes.
    inside
        Shift boxes that stick out until they fit; otherwise they stick out.

    Returns
    -------
    Tensor
        (n, boxes, *shape): the largest over the axes of distance ÷ half the extent.
    """
    depth = torch.zeros((), dtype=extents.dtype, device=centres.device)
    for axis, size in enumerate(shape):
        extent = extents[..., axis]
        start = centres[..., axis] - torch.div(extent, 2, rounding_mode="floor")
        if inside:
            start = torch.minimum(start.clamp_min(0), size - extent)
        middle = (start + (extent - 1) / 2).unsqueeze(-1)
        place = torch.arange(size, dtype=extents.dtype, device=centres.device)
        away = (place - middle).abs() / (extent.unsqueeze(-1) / 2)
        depth = torch.maximum(depth, away.view(*away.shape[:2], *_one_axis(axis, len(shape), size)))
    return depth


def fill_values(
    fill: str, x: Tensor, axes: tuple[int, ...], generator: torch.Generator | None = None
) -> Tensor:
    """Return what takes the place of erased features, broadcastable to x.

    ``mean``: channel means of the batch. ``zero``. ``noise``: Gaussian with the batch's channel
    means and deviations. ``range``: uniform between each sample's smallest and largest value.
    ``blur``: a moving average over a quarter of each feature axis. ``other``: the next sample.
    """
    together = (0, *axes)
    if fill == "mean":
        return x.mean(together, keepdim=True)
    if fill == "zero":
        return torch.zeros_like(x[:1])
    if fill == "noise":
        drawn = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        deviation = x.var(together, keepdim=True, correction=0).sqrt()
        return x.mean(together, keepdim=True) + drawn * deviation
    if fill == "range":
        every = tuple(range(1, x.ndim))
        low, high = x.amin(every, keepdim=True), x.amax(every, keepdim=True)
        return low + (high - low) * _uniform(x.shape, x, generator)
    if fill == "blur":
        for axis in axes:
            x = _moving_average(x, axis)
        return x
    if fill == "other":
        return x.roll(1, 0)
    raise ValueError(f"unknown fill {fill!r}: known are mean, zero, noise, range, blur, other")


def _moving_average(x: Tensor, axis: int) -> Tensor:
    width = max(x.shape[axis] // 4, 1) // 2 * 2 + 1
    moved = x.movedim(axis, -1)
    flat = moved.reshape(-1, 1, moved.shape[-1])
    smooth = F.avg_pool1d(flat, width, 1, width // 2, count_include_pad=False)
    return smooth.view(moved.shape).movedim(-1, axis)


def _erase(
    x: Tensor,
    mask: Tensor,
    fill: str,
    axes: tuple[int, ...] | None,
    generator: torch.Generator | None,
) -> Perturbed:
    axes = resolve_axes(x, axes)
    x = x.detach()
    filled = fill_values(fill, x, axes, generator)
    return Perturbed(torch.where(over_channels(mask, x, axes), filled, x), mask)


def _coin(coin: str, p: float, x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return per sample whether to act, (n,) bool."""
    drawn = _uniform((len(x) if coin == "sample" else 1,), x, generator) < p
    return drawn.expand(len(x))


def _toss(mask: Tensor, coin: Tensor) -> Tensor:
    return mask & coin.view(-1, *[1] * (mask.ndim - 1))


def _of_another(values: Tensor, coin: Tensor) -> Tensor:
    """Give every sample that is acted on the value (n,) of the next such sample."""
    order = (~coin).int().argsort(stable=True)  # those first
    place = coin.cumsum(0) - 1
    following = order[(place + 1) % coin.sum().clamp_min(1)]
    return torch.where(coin, values[following], values)


def _uniform(shape: tuple[int, ...], x: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.rand(shape, generator=generator, dtype=x.dtype, device=x.device)


def _unit_range(relevance: Tensor) -> Tensor:
    """Scale each map to [0, 1]; a constant map becomes 0."""
    flat = relevance.flatten(1)
    low = flat.amin(1, keepdim=True)
    span = flat.amax(1, keepdim=True) - low
    return ((flat - low) / torch.where(span > 0, span, 1)).view_as(relevance)


def _unit_rank(relevance: Tensor) -> Tensor:
    """Replace each value by its rank, scaled to [0, 1]."""
    last = max(relevance[0].numel() - 1, 1)
    return rank(relevance).to(relevance.dtype) / last


def _coordinates(flat: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Turn indices into flattened features (n, boxes) into (n, boxes, axes)."""
    places = []
    for size in reversed(shape):
        places.append(flat % size)
        flat = flat // size
    return torch.stack(places[::-1], dim=-1)


def _one_axis(axis: int, axes: int, size: int) -> list[int]:
    return [size if each == axis else 1 for each in range(axes)]
