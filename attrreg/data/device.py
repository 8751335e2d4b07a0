"""Batches: the whole training set lies on the device; normalising and augmenting happen there."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from attrreg.recipe import Augmentation

__all__ = ["TrainingSet", "augment", "batch_indices", "normalise"]


@dataclass(frozen=True)
class TrainingSet:
    """A training set on the device, and nothing else of its dataset.

    Parameters
    ----------
    x
        (n, channels, height, width) uint8.
    y
        (n,) int64.
    mean, deviation
        (channels,) float32, of x / 255 over the whole pool.
    """

    x: Tensor
    y: Tensor
    mean: Tensor
    deviation: Tensor

    @classmethod
    def on(
        cls,
        device: torch.device,
        x: np.ndarray,
        y: np.ndarray,
        mean: np.ndarray,
        deviation: np.ndarray,
    ) -> "TrainingSet":
        """Copy arrays to a device."""
        return cls(
            *(torch.from_numpy(np.array(each)).to(device) for each in (x, y, mean, deviation))
        )

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return normalised inputs (b, channels, height, width) float32 and labels (b,) int64."""
        return normalise(self.x[indices], self.mean, self.deviation), self.y[indices]


def normalise(x: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """Turn uint8 images into what models see: (x / 255 − mean) / deviation, float32.

    A channel that never varies is only centred.
    """
    spread = torch.where(deviation > 0, deviation, 1).view(-1, 1, 1)
    return (x.float() / 255 - mean.view(-1, 1, 1)) / spread


def batch_indices(
    n: int, batch_size: int, steps: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, int]]:
    """Yield the indices of each batch, (min(batch_size, n),), and the passes completed after it.

    Permutations of the set follow one another without a seam, so every batch has the same size and
    every sample is used equally often; a batch may reach from one pass into the next.
    """
    batch = min(batch_size, n)
    waiting = torch.empty(0, dtype=torch.int64)
    for step in range(steps):
        while len(waiting) < batch:
            waiting = torch.cat([waiting, torch.randperm(n, generator=generator)])
        yield waiting[:batch], (step + 1) * batch // n
        waiting = waiting[batch:]


def augment(x: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """Crop each image at a random place after zero padding, and flip each by a coin.

    x is (n, channels, height, width) as the model sees it; zero is the channel mean there.
    """
    n, channels, height, width = x.shape
    pad = settings.crop_padding
    if pad:
        padded = F.pad(x, (pad, pad, pad, pad))
        top, left = torch.randint(0, 2 * pad + 1, (2, n), generator=generator, device=x.device)
        rows = top.view(-1, 1) + torch.arange(height, device=x.device)
        columns = left.view(-1, 1) + torch.arange(width, device=x.device)
        x = padded[
            torch.arange(n, device=x.device).view(-1, 1, 1, 1),
            torch.arange(channels, device=x.device).view(1, -1, 1, 1),
            rows.view(n, 1, height, 1),
            columns.view(n, 1, 1, width),
        ]
    if settings.flip:
        coin = torch.rand(n, generator=generator, device=x.device) < 0.5
        x = torch.where(coin.view(-1, 1, 1, 1), x.flip(-1), x)
    return x
