"""Localization: does a map lie where the ground truth says that the class is?

Every score takes relevance (n, *features), signed, and a region (n, *features) bool, True inside,
and returns one float64 number per sample, (n,), on the device of the relevance: NaN where it is not
defined, as for an empty region. Whatever the map, a large region is hit easily and a central one
often, so `localization` puts each score beside what a constant map and a map of the centre reach.

References
----------
Arras et al., CLEVR-XAI, Information Fusion 2022 (mass and rank accuracy); Zhang et al., Top-down
neural attention by excitation backprop, 2018 (the pointing game, here without tolerance).
"""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "SCORES",
    "Average",
    "Localization",
    "average",
    "centre_map",
    "coverage",
    "localization",
    "mass",
    "pointing",
    "rank_accuracy",
]

WIDTH = 0.25  # deviation of the map of the centre, as a share of each axis


class Average(NamedTuple):
    """A mean over the samples where a score is defined, (), and how many these are, and are not."""

    mean: Tensor
    defined: int
    undefined: int


class Localization(NamedTuple):
    """A score of a map, of the map of the centre, and of a constant map (chance); (n,) each."""

    score: Tensor
    centre: Tensor
    chance: Tensor


def mass(relevance: Tensor, region: Tensor) -> Tensor:
    """Return the share of positive relevance that lies inside; NaN if none is positive."""
    values, inside, area = _checked(relevance, region)
    positive = _positive(values)
    return _defined(area > 0, (positive * inside).sum(1) / positive.sum(1))


def coverage(relevance: Tensor, region: Tensor) -> Tensor:
    """Return exp(entropy of positive relevance inside) ÷ area of the region, from 0 to 1.

    The number of features that are used inside, were they used evenly, as a share of those that
    there are. 0 if all positive relevance lies outside, NaN if none is positive.
    """
    values, inside, area = _checked(relevance, region)
    positive = _positive(values)
    within = positive * inside
    total = within.sum(1, keepdim=True)
    share = within / torch.where(total > 0, total, 1)
    used = torch.where(total[:, 0] > 0, (-torch.xlogy(share, share).sum(1)).exp(), 0)
    return _defined((area > 0) & (positive.sum(1) > 0), used / area)


def rank_accuracy(relevance: Tensor, region: Tensor) -> Tensor:
    """Return the share inside of the k most relevant features, k the size of the region.

    Of features with equal relevance as many count as a random choice would take on average.
    """
    values, inside, area = _checked(relevance, region)
    last = values.sort(1, descending=True).values.gather(1, (area - 1).clamp_min(0).unsqueeze(1))
    above, tied = values > last, values == last
    open_places = area - above.sum(1)
    taken = (above & inside).sum(1) + open_places * (tied & inside).sum(1) / tied.sum(1).double()
    return _defined(area > 0, taken / area)


def pointing(relevance: Tensor, region: Tensor) -> Tensor:
    """Return 1 where the most relevant feature lies inside, otherwise 0; of ties, their share."""
    values, inside, area = _checked(relevance, region)
    largest = values == values.amax(1, keepdim=True)
    return _defined(area > 0, (largest & inside).sum(1).double() / largest.sum(1))


SCORES = {
    "mass": mass,
    "coverage": coverage,
    "rank-accuracy": rank_accuracy,
    "pointing": pointing,
}


def localization(relevance: Tensor, region: Tensor) -> dict[str, Localization]:
    """Return every score in `SCORES` by name, beside those of the centre and of chance.

    Chance is the region's share of all features, and 1 for coverage.
    """
    centre = centre_map(relevance.shape[1:], relevance.device).expand_as(relevance)
    maps = (relevance, centre, torch.ones_like(centre))
    return {
        name: Localization(*(score(each, region) for each in maps))
        for name, score in SCORES.items()
    }


def centre_map(shape: tuple[int, ...], device: torch.device | None = None) -> Tensor:
    """Return a Gaussian around the middle, (*shape) float64, a quarter of each axis wide."""
    exponent = torch.zeros(shape, dtype=torch.float64, device=device)
    for axis, size in enumerate(shape):
        place = torch.arange(size, dtype=torch.float64, device=device) - (size - 1) / 2
        away = (place / (WIDTH * size)).square() / 2
        exponent = exponent + away.view(-1, *[1] * (len(shape) - axis - 1))
    return (-exponent).exp()


def average(values: Tensor) -> Average:
    """Return the mean of scores (n,) that are not NaN; NaN if there are none."""
    defined = ~values.isnan()
    count = int(defined.sum())
    return Average(values[defined].double().mean(), count, values.numel() - count)


def _positive(values: Tensor) -> Tensor:
    """Return the positive part, as shares of each sample's largest, so that no sum overflows."""
    largest = values.amax(1, keepdim=True)
    return values.clamp_min(0) / torch.where(largest > 0, largest, 1)


def _defined(where: Tensor, values: Tensor) -> Tensor:
    return torch.where(where, values, torch.nan)


def _checked(relevance: Tensor, region: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return both flattened, (n, features) float64 and bool, and the size of each region (n,)."""
    if relevance.shape != region.shape or relevance.ndim < 2 or region.dtype != torch.bool:
        raise ValueError(
            f"relevance has shape {tuple(relevance.shape)}, the region {tuple(region.shape)} and "
            f"dtype {region.dtype}: give the same shape (n, *features), and a region of bool"
        )
    values = relevance.detach().double().flatten(1)
    broken = int((~values.isfinite()).any(1).sum())
    if broken:
        raise ValueError(
            f"relevance of {broken} of {len(values)} samples is NaN or infinite: only finite "
            "relevance is allowed; the model has probably diverged"
        )
    inside = region.flatten(1)
    return values, inside, inside.sum(1)
