"""Synthetic samples whose class lies in a known region: shapes in images, waveforms in series.

A sample is an object on a background. Inside the region, which is all that the object touches,
there is nothing of the background, and outside nothing of the object; only noise lies over both.
So a pixel at an object's edge is no mixture: it fades towards a level that the sample has whatever
its background. A background has the style of one of the classes, which is that of the object as
often as the cue says.

Every split and every purpose has a random stream of its own. So a cue changes the backgrounds and
nothing else, and a higher one keeps all the true styles of a lower one.
"""

from collections.abc import Callable

import numpy as np

from attrreg.data.samples import Arrays, Given
from attrreg.entries import Dataset
from attrreg.provenance import stream_seed

__all__ = ["SHAPES", "WAVEFORMS", "draw_series", "draw_shapes", "given", "labels_and_styles"]

Array = np.ndarray
Streams = Callable[[str], np.random.Generator]

THINNEST = 0.1  # a pixel of which the object covers less shows the background
TURN = 0.2  # of an object at most, in radians
BLOCK = 500  # samples that are drawn at once, from streams of their own


def _disk(u: Array, v: Array) -> Array:
    return np.hypot(u, v) - 0.88


def _ring(u: Array, v: Array) -> Array:
    return np.abs(np.hypot(u, v) - 0.69) - 0.22


def _square(u: Array, v: Array) -> Array:
    return np.maximum(np.abs(u), np.abs(v)) - 0.78


def _frame(u: Array, v: Array) -> Array:
    return np.abs(np.maximum(np.abs(u), np.abs(v)) - 0.62) - 0.2


def _triangle(u: Array, v: Array) -> Array:
    return np.maximum(v - 0.5, np.sqrt(0.75) * np.abs(u) - 0.5 * v - 0.5)


def _plus(u: Array, v: Array) -> Array:
    long, across = np.maximum(np.abs(u), np.abs(v)), np.minimum(np.abs(u), np.abs(v))
    return np.maximum(long - 0.92, across - 0.27)


def _cross(u: Array, v: Array) -> Array:
    return _plus((u + v) / np.sqrt(2), (u - v) / np.sqrt(2))


def _bars(u: Array, v: Array) -> Array:
    return np.maximum(np.abs(u) - 0.82, np.abs(np.abs(v) - 0.52) - 0.26)


# Signed distances to the outline, below 0 inside, in a frame of −1 … 1 with v downwards.
SHAPES: dict[str, Callable[[Array, Array], Array]] = {
    "disk": _disk,
    "ring": _ring,
    "square": _square,
    "frame": _frame,
    "triangle": _triangle,
    "plus": _plus,
    "cross": _cross,
    "bars": _bars,
}


def _sine(t: Array) -> Array:
    return np.sin(6 * np.pi * t)


def _rectangle(t: Array) -> Array:
    return np.where(3 * t % 1 < 0.5, 1.0, -1.0)


def _saw(t: Array) -> Array:
    return 2 * (3 * t % 1) - 1


def _chirp(t: Array) -> Array:
    return np.sin(2 * np.pi * t * (1 + 2.5 * t))


def _spikes(t: Array) -> Array:
    return 1.8 * (_bump(t, 0.25, 0.04) + _bump(t, 0.75, 0.04))


def _bumps(t: Array) -> Array:
    return 1.4 * (_bump(t, 0.25, 0.1) + _bump(t, 0.75, 0.1))


def _bump(t: Array, at: float, width: float) -> Array:
    return np.exp(-(((t - at) / width) ** 2) / 2)


# Heights over an interval of 0 … 1.
WAVEFORMS: dict[str, Callable[[Array], Array]] = {
    "sine": _sine,
    "rectangle": _rectangle,
    "saw": _saw,
    "chirp": _chirp,
    "spikes": _spikes,
    "bumps": _bumps,
}


def given(
    name: str,
    entry: Dataset,
    class_names: tuple[str, ...],
    cues: dict[str, float],
    draw: Callable[[Array, Array, Streams], Arrays],
) -> Given:
    """Draw the splits of a dataset.

    Parameters
    ----------
    name, entry
        Of the catalogue; the name keys the random streams, the entry has the sizes.
    class_names
        By label.
    cues
        By split: how often the background has the style of the class.
    draw
        From labels, styles and random streams to samples.
    """

    def split(kind: str) -> Arrays:
        y, style = labels_and_styles(
            getattr(entry, kind), len(class_names), cues[kind], _streams(name, kind)
        )
        blocks = [
            draw(y[at : at + BLOCK], style[at : at + BLOCK], _streams(name, kind, at))
            for at in range(0, len(y), BLOCK)
        ]
        return Arrays(*(np.concatenate(each) for each in zip(*blocks, strict=True)))

    return Given(split("pool"), class_names, split("validation"), split("test"))


def labels_and_styles(size: int, classes: int, cue: float, streams: Streams) -> tuple[Array, Array]:
    """Return labels, as equally often as can be, and the styles of backgrounds; (n,) int64.

    A style is the label with the probability `cue`, and a class at random otherwise.
    """
    y = streams("labels").permutation(np.arange(size, dtype=np.int64) % classes)
    tells, other = streams("styles").random((2, size))
    return y, np.where(tells < cue, y, (other * classes).astype(np.int64))


def draw_shapes(y: Array, style: Array, side: int, noise: float, streams: Streams) -> Arrays:
    """Draw colour images of side × side pixels, one shape on a texture in each.

    Parameters
    ----------
    y
        (n,) which of `SHAPES`.
    style
        (n,) which hue and orientation the background has, by class.
    side
        Of an image in pixels.
    noise
        Standard deviation of the noise; 1 is from black to white.
    streams
        From a purpose to its random stream.
    """
    level = 0.5 + _between(streams("level"), (len(y), 1, 1, 1), -0.06, 0.06)
    coverage = _coverage(y, side, streams("place"))
    region = coverage >= THINNEST
    objects = coverage[:, None] * _colours(len(y), streams("colour"))[:, :, None, None]
    backgrounds = _textures(style, side, streams)
    x = np.where(region[:, None], objects, backgrounds)
    x += level + noise * streams("noise").standard_normal(x.shape, dtype=np.float32)
    return Arrays(_bytes(x), y, region)


def _coverage(y: Array, side: int, generator: np.random.Generator) -> Array:
    """Return how much of each pixel an object covers, (n, side, side) in 0 … 1."""
    n = len(y)
    size = side * _between(generator, n, 0.24, 0.36)  # half of the object's, in pixels
    turn = _between(generator, n, -TURN, TURN)
    margin = size + 0.5
    row, column = margin + (side - 2 * margin) * generator.random((2, n))
    pixels = np.arange(side) + 0.5
    down = ((pixels - row[:, None]) / size[:, None])[:, :, None]
    right = ((pixels - column[:, None]) / size[:, None])[:, None, :]
    sine, cosine = np.sin(turn)[:, None, None], np.cos(turn)[:, None, None]
    u, v = cosine * right + sine * down, cosine * down - sine * right
    distance = np.empty_like(u)
    for label, outline in enumerate(SHAPES.values()):
        which = y == label
        distance[which] = outline(u[which], v[which])
    return np.clip(0.5 - distance * size[:, None, None], 0, 1)


def _colours(n: int, generator: np.random.Generator) -> Array:
    """Return what is added to the level where the object is, (n, 3): lighter or darker, tinted."""
    sign = np.where(generator.random(n) < 0.5, -1, 1)
    light = sign * _between(generator, n, 0.3, 0.42)
    return light[:, None] + _tint(
        2 * np.pi * generator.random(n), _between(generator, n, 0.05, 0.2)
    )


def _textures(style: Array, side: int, streams: Streams) -> Array:
    """Return backgrounds (n, 3, side, side): a tint, an oriented grating and smooth clouds."""
    n, generator = len(style), streams("texture")
    phase = (style + _between(generator, n, -0.4, 0.4)) / len(SHAPES)
    tint = _tint(2 * np.pi * phase, _between(generator, n, 0.06, 0.14))
    waves = 2 * np.pi * _between(generator, n, 1.5, 4)
    start = 2 * np.pi * generator.random(n)
    across = (np.arange(side) + 0.5) / side
    right, down = np.cos(np.pi * phase) * waves, np.sin(np.pi * phase) * waves
    angle = (right[:, None] * across)[:, None, :] + (down[:, None] * across)[:, :, None]
    grating = np.sin(angle + start[:, None, None])
    clouds = _clouds(n, side, generator)
    strength = _between(generator, (n, 1, 1), 0.04, 0.12)
    return tint[:, :, None, None] + (strength * (grating + clouds))[:, None]


def _clouds(n: int, side: int, generator: np.random.Generator) -> Array:
    """Return smooth noise (n, side, side) about −1 … 1: a grid of 5 × 5, interpolated."""
    place = np.linspace(0, 4, side)[:, None] - np.arange(5)
    weight = np.clip(1 - np.abs(place), 0, 1)
    weight = weight**2 * (3 - 2 * weight)
    return np.einsum("ai,nij,bj->nab", weight, _between(generator, (n, 5, 5), -1, 1), weight)


def _tint(hue: Array, strength: Array) -> Array:
    """Return colours without lightness, (n, 3)."""
    first, second = np.array([2, -1, -1]) / np.sqrt(6), np.array([0, 1, -1]) / np.sqrt(2)
    return strength[:, None] * (np.outer(np.cos(hue), first) + np.outer(np.sin(hue), second))


def draw_series(y: Array, style: Array, length: int, noise: float, streams: Streams) -> Arrays:
    """Draw series of three channels, one waveform somewhere in each, in all channels at once.

    Parameters
    ----------
    y
        (n,) which of `WAVEFORMS`.
    style
        (n,) which levels and hum the background has, by class.
    length
        Points in time.
    noise
        Standard deviation of the coloured noise; 1 is from the lowest value to the highest.
    streams
        From a purpose to its random stream.
    """
    n, generator = len(y), streams("object")
    width = np.floor(length * _between(generator, n, 0.17, 0.34))
    start = np.floor((length - width + 1) * generator.random(n))
    within = (np.arange(length) - start[:, None]) / width[:, None]
    region = (within >= 0) & (within < 1)
    wave = np.zeros((n, length))
    for label, waveform in enumerate(WAVEFORMS.values()):
        wave[y == label] = waveform(within[y == label])
    sign = np.where(generator.random(n) < 0.5, -1, 1)
    gains = sign[:, None] * _between(generator, (n, 3), 0.08, 0.2)
    x = np.where(region[:, None], gains[:, :, None] * wave[:, None], _hums(style, length, streams))
    x += 0.5 + noise * _coloured((n, 3, length), streams("noise"))
    return Arrays(_bytes(x), y, region)


def _hums(style: Array, length: int, streams: Streams) -> Array:
    """Return backgrounds (n, 3, length): a level per channel, and a hum of the style's pitch."""
    n, generator = len(style), streams("hum")
    phase = (style + _between(generator, n, -0.3, 0.3)) / len(WAVEFORMS)
    turns = 2 * np.pi * (phase[:, None] + np.arange(3) / 3)
    levels = _between(generator, (n, 1), 0.04, 0.12) * np.cos(turns)
    cycles = 4 * 2 ** (2 * phase[:, None, None])
    starts = generator.random((n, 3, 1))
    angle = 2 * np.pi * (cycles * np.arange(length) / length + starts)
    return levels[:, :, None] + _between(generator, (n, 3, 1), 0.03, 0.1) * np.sin(angle)


def _coloured(shape: tuple[int, int, int], generator: np.random.Generator) -> Array:
    """Return noise of variance 1 in which each point remembers the one before it."""
    memory = _between(generator, (shape[0], 1), 0.2, 0.9)
    fresh = generator.standard_normal(shape)
    fresh[:, :, 1:] *= np.sqrt(1 - memory**2)[:, :, None]
    for place in range(1, shape[2]):
        fresh[:, :, place] += memory * fresh[:, :, place - 1]
    return fresh


def _streams(*keys: object) -> Streams:
    return lambda purpose: np.random.default_rng(stream_seed(purpose, *keys))


def _between(
    generator: np.random.Generator, shape: int | tuple[int, ...], low: float, high: float
) -> Array:
    return low + (high - low) * generator.random(shape)


def _bytes(x: Array) -> Array:
    return np.rint(255 * np.clip(x, 0, 1)).astype(np.uint8)
