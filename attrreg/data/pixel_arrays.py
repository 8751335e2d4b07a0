"""Arrays that hold images: how they lie, and how their numbers become bytes."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from attrreg.data.pictures import Channels, Resize, fit, to_channels

__all__ = [
    "Layout",
    "check_numbers",
    "check_type",
    "chunks",
    "find_layout",
    "mask_squares",
    "squares",
    "to_bytes",
]

CHUNK = 2**24  # bytes that are converted at once


@dataclass(frozen=True)
class Layout:
    """How many images an array holds, their size, and the axis of their channels, if any."""

    n: int
    height: int
    width: int
    channels: Channels
    axis: int | None


def find_layout(
    name: str, shape: tuple[int, ...], said: Literal["auto", "channels-first", "channels-last"]
) -> Layout:
    """Return how images lie in an array of some shape.

    Raises
    ------
    ValueError
        It is no shape of images, or one of two kinds of images.
    """
    if len(shape) == 3:
        return Layout(shape[0], shape[1], shape[2], 1, None)
    axes = {"auto": [1, 3], "channels-first": [1], "channels-last": [3]}[said]
    fitting = [axis for axis in axes if len(shape) == 4 and shape[axis] in (1, 3)]
    if len(fitting) == 2:
        raise ValueError(
            f"{name} has the shape {shape}, of which the second or the last may be channels: say "
            "by the option 'layout', channels-first or channels-last"
        )
    if not fitting:
        raise ValueError(
            f"{name} has the shape {shape}{'' if said == 'auto' else f' and the layout {said}'}: "
            "images are (n, height, width), (n, height, width, channels) or (n, channels, height, "
            "width) with 1 or 3 channels, not flat and without transparency"
        )
    axis = fitting[0]
    sides = [each for at, each in enumerate(shape[1:], 1) if at != axis]
    return Layout(shape[0], sides[0], sides[1], 1 if shape[axis] == 1 else 3, axis)


def check_type(name: str, dtype: np.dtype) -> None:
    """Refuse numbers of which it is not said which are black and white."""
    if dtype.newbyteorder("=") not in (np.uint8, np.uint16, np.bool_) and dtype.kind != "f":
        raise ValueError(
            f"{name} holds {dtype}: images are uint8, uint16, bool, or floats from 0 to 1; convert "
            "it so that 0 is black and the highest value of its type, or 1, is white"
        )


def check_numbers(name: str, x: np.ndarray) -> None:
    """Refuse floats that are not within 0 … 1."""
    if x.dtype.kind != "f":
        return
    low, high, wrong = np.inf, -np.inf, 0
    for part in chunks(x):
        finite = np.isfinite(x[part])
        wrong += finite.size - int(finite.sum())
        if finite.any():
            low = min(low, float(x[part].min(where=finite, initial=np.inf)))
            high = max(high, float(x[part].max(where=finite, initial=-np.inf)))
    if wrong or low < 0 or high > 1:
        more = f" and {wrong} values that are no finite numbers" if wrong else ""
        raise ValueError(
            f"{name} has floats from {low:g} to {high:g}{more}: bring them to 0 (black) … 1 "
            "(white), or give uint8"
        )


def chunks(x: np.ndarray) -> Iterator[slice]:
    """Cut the first axis of an array into parts of bounded memory."""
    step = max(1, CHUNK // max(1, x[:1].nbytes))
    for start in range(0, len(x), step):
        yield slice(start, start + step)


def to_bytes(part: np.ndarray, axis: int | None) -> np.ndarray:
    """Return images as (n, channels, height, width) uint8, whatever holds them.

    Parameters
    ----------
    part
        (n, height, width), or with channels where `axis` says.
    axis
        1, 3 or None.
    """
    images = part[:, None] if axis is None else np.moveaxis(part, axis, 1)
    if images.dtype == np.bool_:
        return images * np.uint8(255)
    if images.dtype.itemsize == 2 and images.dtype.kind == "u":
        return ((images.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if images.dtype.kind == "f":
        return np.rint(images.astype(np.float64) * 255).astype(np.uint8)
    return images


def squares(images: np.ndarray, channels: Channels, size: int | None, resize: Resize) -> np.ndarray:
    """Return images (n, channels, height, width) uint8 with other channels and another size.

    As `attrreg.data.images.decode` does with the same images encoded without loss.
    """
    _, own, height, width = images.shape
    if own == channels and size in (None, height) and size in (None, width):
        return np.ascontiguousarray(images)
    return np.stack([_square(each, channels, size, resize) for each in images])


def _square(pixels: np.ndarray, channels: Channels, size: int | None, resize: Resize) -> np.ndarray:
    values = np.ascontiguousarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    image = to_channels(Image.fromarray(values), channels)
    fitted = np.asarray(image if size is None else fit(image, size, resize))
    return fitted[None] if channels == 1 else fitted.transpose(2, 0, 1)


def mask_squares(masks: np.ndarray, size: int | None, resize: Resize) -> np.ndarray:
    """Return masks (n, height, width) of any numbers as bool, as `squares` does with images."""
    inside = masks != 0
    if size is None or inside.shape[1:] == (size, size):
        return inside
    by = Image.Resampling.NEAREST
    return np.stack(
        [
            np.asarray(fit(Image.fromarray(each * np.uint8(255)), size, resize, by))
            for each in inside
        ]
    ).astype(bool)
