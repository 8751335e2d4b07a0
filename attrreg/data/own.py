"""Data of one's own: what can be chosen about them, and what a look at them must find.

``folder:<path>`` is read by `attrreg.data.own_folder`, ``parquet:<path>`` by
`attrreg.data.own_parquet`, ``arrays:<path>`` by `attrreg.data.own_arrays`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field

from attrreg.entries import Dataset, ImageOptions

__all__ = ["SOURCES", "SPLITS", "Found", "OwnOptions", "describe", "drawn_sizes", "name_classes"]

# By prefix: the function that inspects a place.
SOURCES = {
    "folder": "attrreg.data.own_folder:inspect_folder",
    "parquet": "attrreg.data.own_parquet:inspect_parquet",
    "arrays": "attrreg.data.own_arrays:inspect_arrays",
}
SPLITS = ("train", "validation", "test")
LOOKED = 64  # images whose heads are read to find size and channels

Held = Annotated[float, Field(gt=0, le=0.5, allow_inf_nan=False)]
Looks = Mapping[str, tuple[int, int, Literal[1, 3]]]


class OwnOptions(ImageOptions):
    """How data of one's own are read.

    Without an ``image_size`` all images must be squares of one size. Without ``channels`` they
    become coloured if one of those that are looked at first is; otherwise all must be grey.

    Parameters
    ----------
    test, validation
        Shares that are held out where the data have no such splits: for testing of all samples,
        for validation of the rest.
    image, label
        Columns of Parquet files.
    layout
        Where the channels of arrays stand: ``channels-first`` is (n, channels, height, width),
        ``channels-last`` (n, height, width, channels); ``auto`` looks for an axis of 1 or 3.
    title, licence
        What a reader should know.
    """

    validation: Held = 0.1
    test: Held = 0.2
    image: str = Field(default="image", min_length=1)
    label: str = Field(default="label", min_length=1)
    layout: Literal["auto", "channels-first", "channels-last"] = "auto"
    title: str | None = None
    licence: str | None = None

    def sized(self, side: int) -> Self:
        """Return these options: images of other sizes are refused where no size is chosen."""
        return self


@dataclass(frozen=True)
class Found:
    """What a look at data of one's own has found.

    Parameters
    ----------
    prefix, place
        The source and where its data lie.
    counts
        By split, of which ``train`` is there: the number of samples by class.
    looks
        Width, height and channels of some images, or of all, by their names.
    regions
        Whether there are masks.
    fingerprint
        What stands for the present state of the files.
    """

    prefix: str
    place: Path
    counts: Mapping[str, Mapping[str, int]]
    looks: Looks
    regions: bool
    fingerprint: str


def drawn_sizes(
    n: int, given_validation: int | None, given_test: int | None, options: OwnOptions
) -> tuple[int, int, int]:
    """Return the sizes of pool, validation and test split.

    A split that is not given is drawn from the n samples for training: first for testing, a share
    ``options.test`` of them, then for validation, a share ``options.validation`` of those that are
    left; each rounded, and at least one sample. What then is left is the pool.

    Parameters
    ----------
    n
        Samples that are not in a given split.
    given_validation, given_test
        Sizes of the given splits, None where there is none.
    options
        The shares.
    """
    test = max(1, round(options.test * n)) if given_test is None else given_test
    left = n - test if given_test is None else n
    if given_validation is not None:
        return left, given_validation, test
    validation = max(1, round(options.validation * left))
    return left - validation, validation, test


def describe(found: Found, options: OwnOptions, implementation: str) -> Dataset:
    """Return what the catalogue would say of data of one's own.

    Raises
    ------
    ValueError
        There are too few classes or samples, a class that training never sees, or images that
        have no common size and none is chosen.
    """
    train, n = found.counts["train"], {split: sum(each.values()) for split, each in _given(found)}
    _check(found, train)
    pool, validation, test = drawn_sizes(n["train"], n.get("validation"), n.get("test"), options)
    return Dataset(
        title=options.title or found.place.name,
        modality="image",
        classes=len(train),
        pool=pool,
        validation=validation,
        test=test,
        shape=_shape(found, options),
        source=f"own data, {found.prefix}:{found.place}",
        licence=options.licence or "not said",
        implementation=implementation,
        options=OwnOptions,
        regions=found.regions,
        place=str(found.place),
        fingerprint=found.fingerprint,
    )


def name_classes(
    values: Sequence[Any], declared: Sequence[str] | None, place: str
) -> tuple[str, ...]:
    """Return the names of classes: what their labels stand for, or the labels themselves.

    Parameters
    ----------
    values
        The distinct labels of the training samples, sorted: whole numbers, truth values, texts.
    declared
        The name that each number from 0 stands for; it may name more than there are.
    place
        For messages.

    Raises
    ------
    ValueError
        A number is negative or stands for no name, or two classes have one name.
    """
    numbers = [each for each in values if isinstance(each, int)]
    if numbers and numbers[0] < 0:
        raise ValueError(
            f"{place} has the label {numbers[0]}; labels are whole numbers from 0, and negative "
            "ones often mark samples without a label: remove these samples"
        )
    if not declared or len(numbers) < len(values):
        names = [str(each).lower() if isinstance(each, bool) else str(each) for each in values]
    elif numbers[-1] >= len(declared):
        raise ValueError(
            f"{place} has the label {numbers[-1]}, its class names go from 0 to "
            f"{len(declared) - 1}: correct the names or the labels"
        )
    else:
        names = [declared[each] for each in numbers]
    twice = [each for each in names if names.count(each) > 1]
    if twice or "" in names:
        raise ValueError(
            f"{place} has two classes named {twice[0]!r}: give each its own name"
            if twice
            else f"{place} has a class with an empty name: name it, or remove its samples"
        )
    return tuple(names)


def _given(found: Found) -> list[tuple[str, Mapping[str, int]]]:
    return [(split, found.counts[split]) for split in SPLITS if split in found.counts]


def _check(found: Found, train: Mapping[str, int]) -> None:
    place = f"{found.prefix}:{found.place}"
    if len(train) < 2:
        raise ValueError(
            f"{place} has {len(train)} {'class' if len(train) == 1 else 'classes'} to train on"
            f"{''.join(f', {each!r}' for each in train)}: 2 or more are needed"
        )
    for split, counts in _given(found):
        if not sum(counts.values()):
            raise ValueError(f"{place} has no samples in its {split} split: add some or remove it")
        unknown = sorted(set(counts) - set(train))
        if unknown:
            raise ValueError(
                f"{place} has the class {unknown[0]!r} in its {split} split and not among the "
                "training samples: add training samples of it, or remove it"
            )
    drawn = [split for split in ("test", "validation") if split not in found.counts]
    few = [name for name, many in train.items() if many < 1 + len(drawn)]
    if few:
        raise ValueError(
            f"{place} has {train[few[0]]} samples of the class {few[0]!r}, {1 + len(drawn)} are "
            f"needed: {' and '.join(['training', *drawn])} take one or more each; add samples or "
            "remove the class"
        )


def _shape(found: Found, options: OwnOptions) -> tuple[int, int, int]:
    channels = options.channels or max(each[2] for each in found.looks.values())
    if options.image_size is not None:
        return channels, options.image_size, options.image_size
    sizes: dict[tuple[int, int], str] = {}
    for name, (width, height, _) in found.looks.items():
        sizes.setdefault((width, height), name)
    width, height = next(iter(sizes))
    if len(sizes) == 1 and width == height:
        return channels, height, width
    said = ", ".join(f"{size[0]}×{size[1]} ({name})" for size, name in list(sizes.items())[:5])
    raise ValueError(
        f"images of {found.prefix}:{found.place} are not all squares of one size: found {said}"
        f"{', …' if len(sizes) > 5 else ''}; give image_size, and every image is brought to it"
    )
