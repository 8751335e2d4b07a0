"""Shapes in images and in series, drawn by this package: the class lies in a known region.

Nothing is fetched. See `attrreg.data.synthesis` for how they are drawn.
"""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from attrreg.entries import Dataset, Options

if TYPE_CHECKING:
    from attrreg.data.samples import Given, Request

__all__ = ["DATASETS", "SeriesOptions", "ShapesOptions", "read_series", "read_shapes"]

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Deviation = Annotated[float, Field(ge=0, le=0.5, allow_inf_nan=False)]


class ShapesOptions(Options):
    """What can be chosen about the shapes in images.

    Parameters
    ----------
    image_size
        Side of the squares in pixels.
    cue
        How far the background gives the class away, in the pool and the validation split: with
        this probability its hue and orientation are those of the class, otherwise those of a class
        at random. Whatever it is, shapes and regions stay the same.
    test_cue
        The same in the test split.
    noise
        Standard deviation of the noise over the whole image; 1 is from black to white.
    """

    image_size: int = Field(default=16, ge=12, le=64)
    cue: Share = 0.0
    test_cue: Share = 0.0
    noise: Deviation = 0.04

    def shape(self, native: tuple[int, ...]) -> tuple[int, ...]:
        """Return the dataset's channels and the side that is chosen."""
        return (native[0], self.image_size, self.image_size)


class SeriesOptions(Options):
    """What can be chosen about the shapes in series.

    Parameters
    ----------
    length
        Points in time.
    cue
        How far the background gives the class away, in the pool and the validation split: with
        this probability its levels and its hum are those of the class, otherwise those of a class
        at random. Whatever it is, shapes and regions stay the same.
    test_cue
        The same in the test split.
    noise
        Standard deviation of the coloured noise over the whole series; 1 is from the lowest value
        to the highest.
    """

    length: int = Field(default=128, ge=96, le=1024)
    cue: Share = 0.0
    test_cue: Share = 0.0
    noise: Deviation = 0.07

    def shape(self, native: tuple[int, ...]) -> tuple[int, ...]:
        """Return the dataset's channels and the length that is chosen."""
        return (native[0], self.length)


DATASETS = {
    "shapes": Dataset(
        title="shapes on textures, with their regions",
        modality="image",
        classes=8,
        pool=4000,
        validation=500,
        test=2000,
        shape=(3, 16, 16),
        source="drawn by attrreg from fixed seeds",
        licence="MIT",
        implementation="attrreg.data.known.shapes:read_shapes",
        options=ShapesOptions,
        regions=True,
    ),
    "shapes-series": Dataset(
        title="waveforms in coloured noise, with their intervals",
        modality="series",
        classes=6,
        pool=4000,
        validation=500,
        test=2000,
        shape=(3, 128),
        source="drawn by attrreg from fixed seeds",
        licence="MIT",
        implementation="attrreg.data.known.shapes:read_series",
        options=SeriesOptions,
        regions=True,
    ),
}


def read_shapes(request: "Request") -> "Given":
    """Draw the images, as many as the catalogue says."""
    from attrreg.data.synthesis import SHAPES, draw_shapes, given

    options = request.options or ShapesOptions()
    return given(
        "shapes",
        DATASETS["shapes"],
        tuple(SHAPES),
        _cues(options),
        lambda y, style, streams: draw_shapes(y, style, options.image_size, options.noise, streams),
    )


def read_series(request: "Request") -> "Given":
    """Draw the series, as many as the catalogue says."""
    from attrreg.data.synthesis import WAVEFORMS, draw_series, given

    options = request.options or SeriesOptions()
    return given(
        "shapes-series",
        DATASETS["shapes-series"],
        tuple(WAVEFORMS),
        _cues(options),
        lambda y, style, streams: draw_series(y, style, options.length, options.noise, streams),
    )


def _cues(options: ShapesOptions | SeriesOptions) -> dict[str, float]:
    return {"pool": options.cue, "validation": options.cue, "test": options.test_cue}
