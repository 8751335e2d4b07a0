"""Occlusion robustness: accuracy while more and more of the input is replaced."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from attrreg.evaluation.faithfulness import FRACTIONS, area_under, deletion
from attrreg.perturbation import rank

__all__ = [
    "Curve",
    "area_under",
    "curve",
    "grid_patches",
    "least_relevant_first",
    "most_relevant_first",
    "random_block",
    "random_pixels",
]


class Curve(NamedTuple):
    """Accuracy (fractions,) after replacing each share of the features, and the area under it.

    The area is divided by the range of the fractions, so that it is a mean accuracy.
    """

    fractions: Tensor
    accuracy: Tensor
    area: Tensor


def curve(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    order: Tensor,
    fill: str = "mean",
    fractions: Sequence[float] = FRACTIONS,
    generator: torch.Generator | None = None,
    axes: tuple[int, ...] | None = None,
) -> Curve:
    """Return accuracy while features are replaced, those of smallest order first.

    Parameters
    ----------
    model
        Maps x to logits; it is left as it is.
    x, y
        Inputs (n, …) and labels (n,) int64.
    order
        (n, *features) int64: the place of each feature in its sample, 0 is replaced first.
    fill
        What takes their place; see `attrreg.perturbation.fill_values`.
    fractions
        Shares of the features, ascending; each is rounded to whole features.
    generator
        Randomness of the fill, on the device of x; None: one of seed 0.
    axes
        Feature axes of x; None: all after the channel axis 1.

    Returns
    -------
    Curve
        On the CPU, float64.

    Raises
    ------
    ValueError
        Shapes that do not fit, shares outside [0, 1], or logits that are not finite.
    """
    found = deletion(model, x, y, order, fill, fractions, generator=generator, axes=axes)
    return Curve(found.fractions, found.accuracy, area_under(found.fractions, found.accuracy))


def random_pixels(x: Tensor, generator: torch.Generator, axes: tuple[int, ...]) -> Tensor:
    """Return an order that is random in every sample."""
    shape = (len(x), *(x.shape[axis] for axis in axes))
    return rank(torch.rand(shape, generator=generator, device=x.device))


def random_block(x: Tensor, generator: torch.Generator, axes: tuple[int, ...]) -> Tensor:
    """Return an order that grows a box from a random feature in every sample.

    The order is by the largest distance on any axis, as a share of that axis; ties are random.
    """
    sizes = [x.shape[axis] for axis in axes]
    distance = torch.zeros((len(x), *sizes), device=x.device)
    for axis, size in enumerate(sizes):
        centre = torch.randint(size, (len(x), 1), generator=generator, device=x.device)
        away = (torch.arange(size, device=x.device) - centre).abs() / size
        spread = [len(x), *(size if each == axis else 1 for each in range(len(sizes)))]
        distance = torch.maximum(distance, away.view(spread))
    flat = distance.flatten(1)
    shuffled = torch.rand(flat.shape, generator=generator, device=x.device).argsort(1)
    ordered = flat.gather(1, shuffled).argsort(dim=1, stable=True)
    places = torch.arange(flat.shape[1], device=x.device).expand_as(flat)
    order = torch.empty_like(shuffled).scatter_(1, shuffled.gather(1, ordered), places)
    return order.view(distance.shape)


def grid_patches(
    x: Tensor, generator: torch.Generator, axes: tuple[int, ...], cells: int = 4
) -> Tensor:
    """Return an order that takes cell after cell of a grid, in a random order in every sample.

    Every axis is cut into `cells` parts, as equal as can be; within a cell the order is random.
    """
    sizes = [x.shape[axis] for axis in axes]
    cell = torch.zeros(sizes, dtype=torch.int64, device=x.device)
    for axis, size in enumerate(sizes):
        part = torch.arange(size, device=x.device) * cells // size
        shape = [size if each == axis else 1 for each in range(len(sizes))]
        cell = cell * cells + part.view(shape)
    turn = torch.rand((len(x), cells ** len(sizes)), generator=generator, device=x.device)
    within = torch.rand((len(x), cell.numel()), generator=generator, device=x.device)
    turns = turn.argsort(1).argsort(1)[:, cell.flatten()]
    return rank((turns + within.to(torch.float64)).view(len(x), *sizes))


def least_relevant_first(relevance: Tensor) -> Tensor:
    """Return the order of ascending relevance, (n, *features)."""
    return rank(relevance)


def most_relevant_first(relevance: Tensor) -> Tensor:
    """Return the order of descending relevance, (n, *features)."""
    return rank(-relevance)
