"""Small images in memory and in files, made anew for each test."""

import io

import numpy as np
from PIL import Image

from attrreg.data.images import decode, decode_all
from attrreg.data.own import OwnOptions
from attrreg.data.samples import Encoded, Request

# How an image must be turned that is stored with each EXIF orientation.
TURNED = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x.swapaxes(0, 1)[:, ::-1],
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: x.swapaxes(0, 1)[::-1],
}


def colour(content, size=None, resize="crop"):
    """Decode an image in three channels."""
    return decode(content, size, resize, 3, "a.png")


def grey(content, size=None, resize="crop"):
    """Decode an image in one channel."""
    return decode(content, size, resize, 1, "a.png")


def oriented(orientation):
    """Return metadata that say how an image is to be turned."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def pixels(seed, height=8, width=8, channels=3):
    """Return random pixels, (height, width, 3) or (height, width) uint8."""
    shape = (height, width, 3) if channels == 3 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(image, kind="PNG", **how):
    """Return an image, or pixels, as the bytes of a file."""
    buffer = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(buffer, kind, **how)
    return buffer.getvalue()


def png(seed, height=8, width=8, channels=3):
    """Return random pixels as the bytes of a PNG."""
    return encoded(pixels(seed, height, width, channels))


def write_tree(root, classes, seed=0, start="", suffix=".png", **size):
    """Write random images as <start>/<class>/<number>, by the number of each class."""
    for name, many in classes.items():
        folder = root / start / name
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(many):
            seed += 1
            (folder / f"{number:03d}{suffix}").write_bytes(png(seed, **size))


def write_masks(root, images):
    """Write a mask for each image, 255 where the first channel is above 100."""
    for image in images:
        place = root / "masks" / image.relative_to(root).with_suffix(".png")
        place.parent.mkdir(parents=True, exist_ok=True)
        values = np.asarray(Image.open(image).convert("RGB"))[..., 0]
        place.write_bytes(encoded((values > 100).astype(np.uint8) * 255))


def request(place, scratch, **options):
    """Return a request for data of one's own, with a scratch folder that is made."""
    scratch.mkdir()
    return Request(OwnOptions(**options), {}, scratch, place)


def arrays(samples, shape, options):
    """Return images, labels and regions of samples as arrays in memory."""
    if not isinstance(samples, Encoded):
        return samples
    n = len(samples.y)
    x = np.zeros((n, *shape), dtype=np.uint8)
    region = None if samples.mask is None else np.zeros((n, *shape[1:]), dtype=bool)
    decode_all(samples, x, region, options, lambda stage, done, total: None)
    return x, samples.y, region


def same(one, other):
    """Whether two triples of images, labels and regions are the same."""
    return all(
        (a is None and b is None) or np.array_equal(a, b) for a, b in zip(one, other, strict=True)
    )
