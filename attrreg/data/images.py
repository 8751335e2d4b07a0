"""Encoded images of any kind become arrays: turned upright, grey or colour, squares of one size."""

import os
import threading
import warnings
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from PIL import Image

from attrreg.data.pictures import Channels, Resize, fit, head, mask_picture, picture
from attrreg.data.samples import Encoded
from attrreg.entries import ImageOptions

__all__ = ["decode", "decode_all", "decode_mask", "look", "read_mask"]

TOGETHER = 32  # images that a thread decodes before it looks for more
NAMED = 10  # images that an error names


def decode(
    content: bytes, size: int | None, resize: Resize, channels: Channels, name: str
) -> np.ndarray:
    """Return an image as an array, (channels, height, width) uint8.

    It is turned as its EXIF orientation says. What is transparent lies over white; 16-bit grey is
    divided by 257; colour becomes grey by the luma of ITU-R 601; colour profiles do not count; of
    several frames it is the first. An image that has the size already keeps every pixel.

    Parameters
    ----------
    content
        The encoded image.
    size
        Side of the square that it becomes, by bilinear interpolation over all pixels that fall
        into one; None: it keeps its height and width.
    resize
        How it becomes a square, see `attrreg.entries.ImageOptions`.
    channels
        1: grey; 3: colour.
    name
        For messages.

    Raises
    ------
    ValueError
        It is no image, is cut short or broken, has numbers that are not those of pixels, or is too
        large.
    """
    found = picture(content, size, channels, name)
    return _to_array(found.image if size is None else found.square(size, resize))


def look(content: bytes, name: str = "the image") -> tuple[int, int, Channels]:
    """Return width and height as turned upright, and channels, from the head of an image.

    Raises
    ------
    ValueError
        The head is not that of an image that can be read.
    """
    return head(content, name)


def read_mask(content: bytes, name: str) -> Image.Image:
    """Return an encoded mask as an "L" image: 255 where a value is not zero, elsewhere 0.

    Of a palette it is the index that counts; of colours any one of them, unless it is transparent.

    Raises
    ------
    ValueError
        As `decode`.
    """
    return mask_picture(content, name)


def decode_mask(
    mask: Image.Image, like: tuple[int, int], size: int | None, resize: Resize, name: str
) -> np.ndarray:
    """Return a mask as an array that covers its image as `decode` returns it, (height, width) bool.

    Each place takes the value of the pixel in its middle.

    Parameters
    ----------
    mask
        "L"; not 0 is inside.
    like
        Width and height of the image, turned upright.
    size, resize, name
        Those of the image.

    Raises
    ------
    ValueError
        It is not as large as its image.
    """
    if mask.size != like:
        raise ValueError(
            f"the mask of {name} has {_size(mask.size)} pixels, the image, turned upright, "
            f"{_size(like)}: a mask must be as large as its image"
        )
    if size is not None:
        mask = fit(mask, size, resize, Image.Resampling.NEAREST)
    return np.asarray(mask) != 0


def decode_all(
    samples: Encoded,
    target: np.ndarray,
    region_target: np.ndarray | None,
    options: ImageOptions,
    report: Callable[[str, int, int], None],
) -> None:
    """Decode all images into an array, and their masks into another, with all processor cores.

    Parameters
    ----------
    samples
        The images.
    target
        (n, channels, height, width) uint8, for instance mapped from a file.
    region_target
        (n, height, width) bool; None: masks are not read.
    options
        Without an ``image_size`` every image must have the size already; without ``channels``
        none may be coloured where the target is grey.
    report
        Told how many are done.

    Raises
    ------
    ValueError
        Some images are unreadable or do not fit; the first of them are named. What the targets
        then hold is of no use.
    """
    n = len(samples.y)
    if len(target) != n or (region_target is not None and samples.mask is None):
        raise ValueError(
            f"{n} images {'without' if samples.mask is None else 'with'} masks do not fit into "
            f"{target.shape}{'' if region_target is None else f' and {region_target.shape}'}"
        )
    work = _Work(samples, target, region_target, options)
    order = np.arange(n) if samples.position is None else np.argsort(samples.position)
    parts = deque(order[start : start + TOGETHER] for start in range(0, n, TOGETHER))
    waiting: deque[Future[int]] = deque()
    done, cores = 0, _cores()
    with warnings.catch_warnings(), ThreadPoolExecutor(cores) as threads:
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # it becomes an error
        try:
            while parts or waiting:
                while parts and len(waiting) < 2 * cores:
                    waiting.append(threads.submit(work.decode, parts.popleft()))
                done += waiting.popleft().result()
                report("decoding images", done, n)
        except BaseException:  # Ctrl-C, too: the threads end with the image they are at
            work.stopped.set()
            raise
    work.check()


class _OtherSize(Exception):
    """An image that can be used but for its size."""


class _Work:
    """What the threads share: where from, where to, and what went wrong."""

    def __init__(
        self,
        samples: Encoded,
        target: np.ndarray,
        region_target: np.ndarray | None,
        options: ImageOptions,
    ) -> None:
        self.samples, self.target, self.region_target = samples, target, region_target
        self.options = options
        self.stopped = threading.Event()
        self.broken: dict[int, str] = {}
        self.other_sizes: dict[int, tuple[int, int]] = {}

    def decode(self, places: np.ndarray) -> int:
        """Decode the images of some places, and return how many."""
        for place in map(int, places):
            if self.stopped.is_set():
                break
            try:
                self._decode(place)
            except _OtherSize as other:
                self.other_sizes[place] = other.args[0]
            except (OSError, ValueError) as error:
                self.broken[place] = str(error)
        return len(places)

    def _decode(self, place: int) -> None:
        name, target = self.samples.names[place], self.target
        size, resize = self.options.image_size, self.options.resize
        channels: Channels = 1 if target.shape[1] == 1 else 3
        found = picture(self.samples.read(place), size, channels, name)
        if size is None and found.size != target.shape[:1:-1]:
            raise _OtherSize(found.size)
        if self.options.channels is None and found.channels > channels:
            raise ValueError(
                f"{name} is coloured, those looked at first are grey: give channels, 1 or 3"
            )
        target[place] = _to_array(found.image if size is None else found.square(size, resize))
        if self.region_target is not None and self.samples.mask is not None:
            mask = self.samples.mask(place)
            self.region_target[place] = decode_mask(mask, found.size, size, resize, name)

    def check(self) -> None:
        """Raise if some images were unreadable or of another size."""
        n = len(self.samples.y)
        if self.broken:
            said = [self.broken[place] for place in sorted(self.broken)]
            raise ValueError(f"{len(said)} of {n} images cannot be used: {_first(said)}")
        if self.other_sizes:
            height, width = self.target.shape[2:]
            sizes = Counter(self.other_sizes[place] for place in sorted(self.other_sizes))
            counted = [f"{_size(size)} ({many})" for size, many in sizes.most_common()]
            raise ValueError(
                f"{len(self.other_sizes)} of {n} images do not have {width}×{height} pixels but "
                f"{_first(counted, ', ')}; the first is {self.samples.names[min(self.other_sizes)]}"
                ": give image_size, and every image is brought to it"
            )


def _to_array(image: Image.Image) -> np.ndarray:
    values = np.asarray(image)
    return np.ascontiguousarray(values.transpose(2, 0, 1)) if values.ndim == 3 else values[None]


def _cores() -> int:
    """Return how many processor cores this process may use."""
    if hasattr(os, "process_cpu_count"):
        return os.process_cpu_count() or 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _first(said: Sequence[str], between: str = "; ") -> str:
    more = len(said) - NAMED
    return between.join([*said[:NAMED], *([f"… and {more} more"] if more > 0 else [])])


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"
