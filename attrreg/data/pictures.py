"""What Pillow knows of an image, made plain: upright, "L" or "RGB", and brought to a size."""

import io
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

__all__ = [
    "FORMATS",
    "Channels",
    "Picture",
    "Resize",
    "fit",
    "head",
    "mask_picture",
    "picture",
    "to_channels",
]

Channels = Literal[1, 3]
Resize = Literal["crop", "pad", "squash"]

# Only what is a grid of pixels; Pillow hands some other formats to programs outside.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
LARGEST = 89_478_485  # pixels; beyond this Pillow, too, suspects a decompression bomb
ORIENTATION = 0x0112  # the EXIF tag
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
PNG_METADATA = (b"eXIf", b"Raw profile", b"XML:com.adobe.xmp")


@dataclass(frozen=True)
class Picture:
    """An image as "L" or "RGB", turned upright.

    Parameters
    ----------
    image
        Its pixels.
    size
        Width and height of the whole image.
    scale
        The pixels are 1 / `scale` of the whole in both directions, where it was decoded smaller.
    channels
        Those that the image had.
    """

    image: Image.Image
    size: tuple[int, int]
    scale: int
    channels: Channels

    def square(self, size: int, resize: Resize) -> Image.Image:
        """Return it as a square."""
        return fit(self.image, size, resize, whole=self.size, scale=self.scale)


def picture(content: bytes, size: int | None, channels: Channels, name: str) -> Picture:
    """Decode an image that is to become a square of some size, or keeps its own.

    Raises
    ------
    ValueError
        As `attrreg.data.images.decode`.
    """
    try:
        image = _open(content)
        orientation = _orientation(image, content)
        own, whole = _channels(image), _turned(image.size, orientation)
        scale = 1 if size is None else _decode_smaller(image, size, orientation)
        image.load()
        plain = to_channels(image, channels)
    except Exception as error:  # Pillow raises many kinds for content that is broken
        raise _unreadable(content, name, error) from error
    if orientation in UPRIGHT:
        plain = plain.transpose(UPRIGHT[orientation])
    return Picture(plain, whole, scale, own)


def head(content: bytes, name: str) -> tuple[int, int, Channels]:
    """Return width and height as turned upright, and channels, without decoding the pixels."""
    try:
        image = _open(content)
        width, height = _turned(image.size, _orientation(image, content))
        return width, height, _channels(image)
    except Exception as error:
        raise _unreadable(content, name, error) from error


def mask_picture(content: bytes, name: str) -> Image.Image:
    """Decode a mask; see `attrreg.data.images.read_mask`."""
    try:
        image = _open(content)
        orientation = _orientation(image, content)
        image.load()
        inside = np.asarray(image) != 0
    except Exception as error:
        raise _unreadable(content, name, error) from error
    if image.mode in ("LA", "PA", "RGBA"):
        inside = inside[..., :-1].any(2) & inside[..., -1]
    elif inside.ndim == 3:
        inside = inside.any(2)
    mask = Image.fromarray(inside.astype(np.uint8) * 255)
    return mask.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else mask


def fit(
    image: Image.Image,
    size: int,
    resize: Resize,
    by: Image.Resampling = Image.Resampling.BILINEAR,
    whole: tuple[int, int] | None = None,
    scale: int = 1,
) -> Image.Image:
    """Return an image as a square.

    Parameters
    ----------
    image
        "L" or "RGB".
    size
        Side of the square.
    resize
        See `attrreg.entries.ImageOptions`.
    by
        The filter; of smaller squares a bilinear one takes in all pixels that fall into one.
    whole, scale
        Width and height of what the image is 1 / `scale` of, where it was decoded smaller.
    """
    width, height = whole or image.size
    left, top, across, down = 0, 0, size, size
    if resize == "crop":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        width, height = side, side
    elif resize == "pad":
        longer = max(width, height)
        across = max(1, round(width * size / longer))
        down = max(1, round(height * size / longer))
    box = (left / scale, top / scale, (left + width) / scale, (top + height) / scale)
    scaled = image.resize((across, down), by, box)
    if scaled.size == (size, size):
        return scaled
    square = Image.new(scaled.mode, (size, size))
    square.paste(scaled, ((size - across) // 2, (size - down) // 2))
    return square


def to_channels(image: Image.Image, channels: Channels) -> Image.Image:
    """Return an image of any kind as "L" or "RGB".

    Raises
    ------
    ValueError
        Its numbers are not those of pixels.
    """
    if image.mode == "F" or image.mode.startswith("I"):
        image = _from_numbers(image)
    elif image.has_transparency_data:
        above = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", above.size, "white"), above).convert("RGB")
    elif image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    wanted = "L" if channels == 1 else "RGB"
    return image if image.mode == wanted else image.convert(wanted)


def _open(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content), formats=FORMATS)
    if image.width * image.height > LARGEST:
        raise ValueError(
            f"{image.width}×{image.height} pixels are more than the {LARGEST:,} allowed"
        )
    return image


def _orientation(image: Image.Image, content: bytes) -> int:
    if image.format == "PNG" and not any(each in content for each in PNG_METADATA):
        return 1  # to look for what may stand behind the pixels, Pillow would decode them
    if image.format == "TIFF":
        return 1  # Pillow turns these itself
    try:
        found = image.getexif().get(ORIENTATION)
    except Exception:  # broken metadata of a good image are ignored, as viewers do
        return 1
    return found if found in UPRIGHT else 1


def _turned(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    return size[::-1] if orientation >= 5 else size


def _channels(image: Image.Image) -> Channels:
    if image.mode == "P":
        palette = np.array(image.getpalette("RGB") or [], dtype=np.uint8).reshape(-1, 3)
        return 1 if (palette == palette[:, :1]).all() else 3
    return 1 if Image.getmodebase(image.mode) == "L" else 3


def _decode_smaller(image: Image.Image, size: int, orientation: int) -> int:
    """Let a JPEG be decoded at 1/2, 1/4 or 1/8 where that is twice the size, or more.

    Most of the time for a photograph goes into pixels that the interpolation averages anyway.
    """
    if image.format not in ("JPEG", "MPO"):
        return 1
    for scale in (8, 4, 2):
        smaller = (image.width // scale, image.height // scale)
        # a side that is no multiple gets an edge on the right or below, which turning would move
        exact = orientation == 1 or (image.width % scale == 0 and image.height % scale == 0)
        if exact and min(smaller) >= 2 * size and image.draft(None, smaller):
            return scale
    return 1


def _from_numbers(image: Image.Image) -> Image.Image:
    """Return an image of 16-bit numbers as "L"."""
    values = np.asarray(image)
    # Pillow reads 16-bit PGM as 32-bit numbers that never have more than 16
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        kind = "floating-point" if image.mode == "F" else "32-bit or signed"
        raise ValueError(
            f"its pixels are {kind} numbers, from {values.min()} to {values.max()}, and which of "
            "them are black and white is not said: save it with 8 or 16 bits"
        )
    return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))


def _unreadable(content: bytes, name: str, error: Exception) -> ValueError:
    if not content:
        return ValueError(f"{name} is empty: restore or remove it")
    if isinstance(error, UnidentifiedImageError):
        return ValueError(
            f"{name} is no readable image, its {len(content)} bytes begin with {content[:8]!r}; "
            f"readable are {', '.join(FORMATS)}: restore or remove it"
        )
    said = str(error) or type(error).__name__
    return ValueError(f"{name} is unreadable as an image ({said}): restore or remove it")
