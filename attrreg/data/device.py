"""Batches: the training set lies on the device, or streams to it; all else happens there."""

import queue
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from attrreg.data.samples import Arrays
from attrreg.recipe import Augmentation

__all__ = [
    "Batch",
    "Movement",
    "TrainingSet",
    "batch_indices",
    "draw_movement",
    "input_bounds",
    "normalise",
]


TOGETHER = 256  # batches whose indices go to the device in one transfer
AHEAD = 4  # batches that wait ready where a set streams


class Batch(NamedTuple):
    """What a step reads of the training set, on the device but for the indices.

    ``x`` (b, channels, *features) uint8, ``y`` (b,) int64, ``region`` (b, *features) bool or
    None; ``indices`` (b,) int64 on the CPU; ``passes`` completed after this batch.
    """

    x: Tensor
    y: Tensor
    region: Tensor | None
    indices: Tensor
    passes: int


@dataclass(frozen=True)
class TrainingSet:
    """A training set on the device, and nothing else of its dataset.

    Parameters
    ----------
    x
        (n, channels, *features) uint8; on the CPU where the set streams.
    y
        (n,) int64.
    mean, deviation
        (channels,) float32, of x / 255 over the whole pool.
    region
        (n, *features) bool, the ground-truth region of each sample, True inside; None where the
        dataset has none. Beside x.
    streams
        Whether batches are fetched one by one from the CPU's memory, ahead of their use. They are
        the same either way.
    """

    x: Tensor
    y: Tensor
    mean: Tensor
    deviation: Tensor
    region: Tensor | None = None
    streams: bool = False

    @classmethod
    def on(
        cls,
        device: torch.device,
        samples: Arrays,
        mean: np.ndarray,
        deviation: np.ndarray,
        streams: bool = False,
    ) -> "TrainingSet":
        """Copy arrays to a device; of a set that streams, the inputs are used where they are."""

        def there(values: np.ndarray) -> Tensor:
            return torch.from_numpy(np.array(values)).to(device)

        def beside(values: np.ndarray) -> Tensor:
            return torch.from_numpy(values) if streams else there(values)

        region = None if samples.region is None else beside(samples.region)
        labels, centre, spread = map(there, (samples.y, mean, deviation))
        return cls(beside(samples.x), labels, centre, spread, region, streams)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.y)

    def split(self, at: int) -> "tuple[TrainingSet, TrainingSet]":
        """Return the samples before a place, and those from there on."""
        return self._part(slice(at)), self._part(slice(at, None))

    def without(self, places: Sequence[int]) -> "TrainingSet":
        """Return the samples at other places than these."""
        kept = torch.ones(len(self), dtype=torch.bool)
        kept[list(places)] = False
        return self._part(kept)

    def _part(self, which: slice | Tensor) -> "TrainingSet":
        def part(values: Tensor) -> Tensor:
            return values[which if isinstance(which, slice) else which.to(values.device)]

        region = None if self.region is None else part(self.region)
        return TrainingSet(
            part(self.x), part(self.y), self.mean, self.deviation, region, self.streams
        )

    def batches(self, order: Iterable[tuple[Tensor, int]]) -> Generator[Batch]:
        """Yield the batches of an order, which is made of indices on the CPU and of passes."""
        return self._streamed(order) if self.streams else self._resident(order)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return normalised inputs (b, channels, *features) float32 and labels (b,) int64."""
        x = self.x[indices.to(self.x.device)].to(self.y.device)
        return self.normalised(x), self.y[indices]

    def normalised(self, x: Tensor) -> Tensor:
        """Return uint8 inputs as models see them, float32."""
        return normalise(x, self.mean, self.deviation)

    def _resident(self, order: Iterable[tuple[Tensor, int]]) -> Generator[Batch]:
        rest = iter(order)
        while some := list(islice(rest, TOGETHER)):
            places = torch.cat([indices for indices, _ in some])
            there = places.to(self.y.device, non_blocking=True)
            parts = there.split([len(indices) for indices, _ in some])
            for place, (indices, passes) in zip(parts, some, strict=True):
                region = None if self.region is None else self.region[place]
                yield Batch(self.x[place], self.y[place], region, indices, passes)

    def _streamed(self, order: Iterable[tuple[Tensor, int]]) -> Generator[Batch]:
        """Yield batches that another thread has fetched into memory the device can read."""
        device = self.y.device
        ready: queue.Queue[Batch | BaseException | None] = queue.Queue(AHEAD)
        stopped = threading.Event()

        def offer(each: Batch | BaseException | None) -> None:
            while not stopped.is_set():
                try:
                    return ready.put(each, timeout=0.1)
                except queue.Full:
                    continue

        def chosen(values: Tensor, indices: Tensor) -> Tensor:
            found = values[indices]
            return found.pin_memory() if device.type == "cuda" else found

        def fetch() -> None:
            try:
                for indices, passes in order:
                    region = None if self.region is None else chosen(self.region, indices)
                    offer(Batch(chosen(self.x, indices), indices, region, indices, passes))
                    if stopped.is_set():
                        return
                offer(None)
            except BaseException as error:  # raised again where the batch is used
                offer(error)

        thread = threading.Thread(target=fetch, name="batches", daemon=True)
        thread.start()
        try:
            while (each := ready.get()) is not None:
                if isinstance(each, BaseException):
                    raise each
                y = self.y[each.indices.to(device, non_blocking=True)]
                region = each.region
                if region is not None:
                    region = region.to(device, non_blocking=True)
                x = each.x.to(device, non_blocking=True)
                yield Batch(x, y, region, each.indices, each.passes)
        finally:
            stopped.set()
            thread.join()


def normalise(x: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """Turn uint8 inputs into what models see: (x / 255 − mean) / deviation, float32.

    A channel that never varies is only centred.
    """
    on_channels = (-1, *[1] * (x.ndim - 2))
    spread = torch.where(deviation > 0, deviation, 1).view(on_channels)
    return (x.float() / 255 - mean.view(on_channels)) / spread


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
        if self.offsets is None:
            return self._flip(images)
        padded = F.pad(images, (self.padding,) * 4)
        row, column = (
            corner.unsqueeze(1) + torch.arange(size, device=images.device)
            for corner, size in zip(self.offsets, images.shape[-2:], strict=True)
        )
        if self.flipped is not None:
            column = torch.where(self.flipped.unsqueeze(1), column.flip(1), column)
        places = (row * padded.shape[-1]).unsqueeze(2) + column.unsqueeze(1)
        of_each = places.flatten(1).unsqueeze(1).expand(-1, images.shape[1], -1)
        return padded.flatten(2).gather(2, of_each).view_as(images)

    def apply_to_regions(self, regions: Tensor | None) -> Tensor | None:
        """Return regions (n, *features) moved with their inputs; False in the padding."""
        if regions is None or (self.offsets is None and self.flipped is None):
            return regions
        return self.apply(regions.unsqueeze(1)).squeeze(1)

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
