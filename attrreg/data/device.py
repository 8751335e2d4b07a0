"""Batches: the whole training set lies on the device; normalising and augmenting happen there."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from attrreg.recipe import Augmentation

__all__ = [
    "Movement",
    "TrainingSet",
    "batch_indices",
    "draw_movement",
    "input_bounds",
    "normalise",
]


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
    region
        (n, height, width) float32, the ground-truth region of each sample: 1 inside, 0 outside;
        None where the dataset has none.
    """

    x: Tensor
    y: Tensor
    mean: Tensor
    deviation: Tensor
    region: Tensor | None = None

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

    def region_of(self, indices: Tensor, movement: "Movement") -> Tensor | None:
        """Return the regions of moved images, (b, height, width); zero where they were padded."""
        if self.region is None:
            return None
        return movement.apply(self.region[indices].unsqueeze(1)).squeeze(1)


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


def input_bounds(mean: Tensor, deviation: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the smallest and the largest possible input per channel, after `normalise`.

    The zeros around a crop lie in between. This reads from the device: call it before the loop.
    """
    extremes = torch.tensor([0, 255], dtype=torch.uint8, device=mean.device).view(2, 1, 1, 1)
    low, high = normalise(extremes.expand(2, mean.numel(), 1, 1), mean, deviation).view(2, -1)
    return tuple(low.tolist()), tuple(high.tolist())


@dataclass(frozen=True)
class Movement:
    """How the images of a batch are moved: where the crop of each lies, and which are flipped.

    A place of a map without a value, since the crop has cut it off or the padding has added it,
    gets the median of the map: it counts neither among the most relevant places nor among the
    least.

    Parameters
    ----------
    padding
        Zeros on each side of an image before the crop.
    offsets
        (2, n) int64, top and left of the crops in the padded images; None: no crop.
    flipped
        (n,) bool, which are flipped left to right after the crop; None: none.
    """

    padding: int = 0
    offsets: Tensor | None = None
    flipped: Tensor | None = None

    def apply(self, images: Tensor) -> Tensor:
        """Return the images (n, channels, height, width), moved."""
        if self.offsets is not None:
            images = self._cropped(F.pad(images, (self.padding,) * 4), self.offsets)
        return self._flip(images)

    def apply_to_maps(self, maps: Tensor) -> Tensor:
        """Return the maps (n, height, width) of images before they are moved, moved with them."""
        if self.offsets is not None:
            canvas = self._canvas(maps)
            self._middle(canvas).copy_(maps)
            maps = self._cropped(canvas.unsqueeze(1), self.offsets).squeeze(1)
        return self._flip(maps)

    def undo(self, maps: Tensor) -> Tensor:
        """Return the maps (n, height, width) of moved images, moved back."""
        back = self._flip(maps)
        if self.offsets is None:
            return back
        canvas = self._canvas(maps)
        canvas[_places(self.offsets, maps)] = back
        return self._middle(canvas)

    def _cropped(self, padded: Tensor, offsets: Tensor) -> Tensor:
        channel = torch.arange(padded.shape[1], device=padded.device).view(1, -1, 1, 1)
        sample, row, column = (each.unsqueeze(1) for each in _places(offsets, self._middle(padded)))
        return padded[sample, channel, row, column]

    def _canvas(self, maps: Tensor) -> Tensor:
        """Return padded maps, the median of each everywhere."""
        height, width = (size + 2 * self.padding for size in maps.shape[-2:])
        return maps.flatten(1).median(1).values.view(-1, 1, 1).repeat(1, height, width)

    def _middle(self, padded: Tensor) -> Tensor:
        """Return the view of what lies inside the padding."""
        height, width = padded.shape[-2:]
        pad = self.padding
        return padded[..., pad : height - pad, pad : width - pad]

    def _flip(self, values: Tensor) -> Tensor:
        if self.flipped is None:
            return values
        return torch.where(self.flipped.view(-1, *[1] * (values.ndim - 1)), values.flip(-1), values)


def _places(offsets: Tensor, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the indices of sample, row and column of each crop's pixels in the padded images."""
    places = [torch.arange(size, device=like.device) for size in like.shape[-2:]]
    top, left = offsets.unsqueeze(-1)
    sample = torch.arange(len(like), device=like.device).view(-1, 1, 1)
    return sample, (top + places[0]).unsqueeze(2), (left + places[1]).unsqueeze(1)


def draw_movement(x: Tensor, settings: Augmentation, generator: torch.Generator) -> Movement:
    """Draw a random place for the crop of each image, and a coin for its flip.

    x is (n, channels, height, width) as the model sees it, where zero is the channel mean.
    """
    n, pad, offsets, flipped = len(x), settings.crop_padding, None, None
    if pad:
        offsets = torch.randint(0, 2 * pad + 1, (2, n), generator=generator, device=x.device)
    if settings.flip:
        flipped = torch.rand(n, generator=generator, device=x.device) < 0.5
    return Movement(pad, offsets, flipped)
