"""Regions of images from segmentation files and boxes, as "L" images: 255 inside, 0 outside.

Segmentations and boxes are those of the pixels as stored. An image whose metadata say that it must
be turned is turned when it is decoded, and so is its region here.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from attrreg.data.pictures import FORMATS

__all__ = ["box_region", "mask_values", "region_image"]

ORIENTATION = ExifTags.Base.Orientation


def mask_values(path: Path, image: Path, modes: Sequence[str] = ()) -> np.ndarray:
    """Return the values of a segmentation file, (height, width) or with channels behind, uint8.

    Parameters
    ----------
    path
        The segmentation.
    image
        Its image, which must be as large.
    modes
        What Pillow may call it: "L" grey, "P" with a palette, of which the indices are returned,
        "RGB". Without any, all are taken and turned to grey.

    Raises
    ------
    ValueError
        It is unreadable, of another mode, or not as large as its image.
    """
    size, expected = _opened(path)[0], _opened(image)[0]
    if size != expected:
        raise ValueError(
            f"mask {_shown(path)} has {size[0]}×{size[1]} pixels, its image {_shown(image)} "
            f"{expected[0]}×{expected[1]}"
        )
    try:
        with Image.open(path, formats=FORMATS) as mask:
            mode, values = mask.mode, np.asarray(mask if modes else mask.convert("L"))
    except Exception as error:  # Pillow raises many kinds for content that is broken
        raise _unreadable(path, error) from error
    if modes and mode not in modes:
        raise ValueError(f"mask {_shown(path)} is of mode {mode}, expected {' or '.join(modes)}")
    return values


def region_image(inside: np.ndarray, image: Path) -> Image.Image:
    """Return a region (height, width) bool of the pixels of an image, turned upright with it."""
    region = Image.fromarray(np.where(inside, 255, 0).astype(np.uint8))
    region.getexif()[ORIENTATION] = _opened(image)[1]
    return ImageOps.exif_transpose(region)


def box_region(image: Path, box: Sequence[float]) -> Image.Image:
    """Return the region of a box of an image: every pixel that it touches.

    Parameters
    ----------
    image
        Of which the size is taken.
    box
        Left, top, width and height in pixels from the upper left corner.

    Raises
    ------
    ValueError
        No pixel of the image is in the box.
    """
    (left, top, width, height), size = box, _opened(image)[0]
    columns, rows = np.arange(size[0]), np.arange(size[1])
    across = (columns + 1 > left) & (columns < left + width) & (width > 0)
    down = (rows + 1 > top) & (rows < top + height) & (height > 0)
    if not (across.any() and down.any()):
        raise ValueError(
            f"box {tuple(box)} holds no pixel of {_shown(image)}, which has {size[0]}×{size[1]}"
        )
    return region_image(down[:, None] & across, image)


def _opened(path: Path) -> tuple[tuple[int, int], int]:
    """Return width and height of an image as stored, and how its metadata say it must be turned."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                return image.size, _orientation(image)
    except Exception as error:
        raise _unreadable(path, error) from error


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # broken metadata of a good image are ignored, as where it is decoded
        return 1


def _unreadable(path: Path, error: Exception) -> ValueError:
    said = "of no known kind" if isinstance(error, UnidentifiedImageError) else str(error)
    return ValueError(f"{_shown(path)} is unreadable as an image ({said})")


def _shown(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"
