"""What an entry of the catalogue says: a dataset and its archives, a model, a preset. Torch-free.

An entry names its code ("module:attribute"); the code is imported when it is used. A plugin is a
module with a ``DATASETS``, ``MODELS`` or ``PRESETS`` of its own.
"""

from dataclasses import dataclass, field
from typing import Any, Literal, Self

from pydantic import Field

from attrreg.parameters import Composition, Modality
from attrreg.recipe import Strict

__all__ = ["Archive", "Dataset", "ImageOptions", "Model", "NoOptions", "Options", "Preset"]


class Options(Strict):
    """What can be chosen about a dataset."""

    def shape(self, native: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of a sample with these options, from that without any."""
        return native


class NoOptions(Options):
    """A dataset that can be had in one way only."""


class ImageOptions(Options):
    """How images of any size become squares of one size.

    Parameters
    ----------
    image_size
        Side of the squares in pixels; without one, that of the dataset.
    resize
        ``crop``: the shorter side is scaled to the size and the middle is cut out; ``pad``: the
        longer side is scaled to the size and the rest is black; ``squash``: both sides are scaled
        to it.
    channels
        1: grey; 3: colour; without a number, that of the dataset.
    """

    image_size: int | None = Field(default=None, ge=4, le=2048)
    resize: Literal["crop", "pad", "squash"] = "crop"
    channels: Literal[1, 3] | None = None

    def shape(self, native: tuple[int, ...]) -> tuple[int, ...]:
        """Return channels and sides, those that are chosen and otherwise the dataset's own."""
        side = self.image_size or native[1]
        return (self.channels or native[0], side, side)

    def sized(self, side: int) -> Self:
        """Return these options with the size that images are brought to, where none is chosen."""
        return self if self.image_size else self.model_copy(update={"image_size": side})


@dataclass(frozen=True)
class Archive:
    """A file that a dataset is made of, and where it can be had.

    Parameters
    ----------
    name
        Of the file.
    urls
        Mirrors, in the order in which they are tried.
    digest
        ``sha256:…`` or ``md5:…`` in hexadecimal.
    size
        Bytes of the file; more than that are not fetched, where it is known.
    unpacked
        Bytes that its members may have in all; more are not unpacked.
    verified
        Whether somebody of this project has fetched it and found the digest right; otherwise it is
        the digest that its publisher, or torchvision, gives.
    """

    name: str
    urls: tuple[str, ...]
    digest: str
    size: int | None = None
    unpacked: int = 0
    verified: bool = False


@dataclass(frozen=True)
class Dataset:
    """A dataset: what it is, how large, and the function that reads it.

    Parameters
    ----------
    title, source, licence
        What a reader should know.
    modality
        What a model must take.
    classes
        How many.
    pool, validation, test
        Samples from which subsets are drawn, and those that training never sees.
    shape
        Of a sample as prepared without options: channels, height, width; channels, length.
    implementation
        The reader, from `attrreg.data.samples.Request` to `attrreg.data.samples.Given`.
    archives
        Fetched before the reader is called.
    options
        What can be chosen.
    regions
        Whether the ground-truth region of every sample is known.
    place
        For data of one's own: where they lie.
    fingerprint
        For data of one's own: what stands for their present state.
    """

    title: str
    modality: Modality
    classes: int
    pool: int
    validation: int
    test: int
    shape: tuple[int, ...]
    source: str
    licence: str
    implementation: str
    archives: tuple[Archive, ...] = ()
    options: type[Options] = NoOptions
    regions: bool = False
    place: str = ""
    fingerprint: str = ""


@dataclass(frozen=True)
class Model:
    """A model: the timm name or the function that it is made of, and options for it.

    Parameters
    ----------
    title
        What a reader should know.
    modality
        The inputs that it takes.
    timm
        The timm architecture that it is; or empty.
    options
        Passed to timm, or to the implementation.
    step_seconds
        A plain step of 32 samples on one core, roughly: sizes shards.
    implementation
        For a model that is not timm's: a function of ``num_classes``, ``in_chans``, ``image_size``
        and the options that returns the module.
    parameters, flops
        Counted by `attrreg.models.counts` at 10 classes and an input of 3 × 32 × 32 (a series:
        3 × 128; mnist-cnn: 1 × 28 × 28); 0: nobody has.
    """

    title: str
    modality: Modality
    timm: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    step_seconds: float = 0.5
    implementation: str = ""
    parameters: int = 0
    flops: int = 0


@dataclass(frozen=True)
class Preset:
    """A method with a name of its own, and what may honestly be said about it."""

    title: str
    status: Literal["baseline", "published algorithm", "variant", "reconstruction"]
    source: str
    composition: Composition
