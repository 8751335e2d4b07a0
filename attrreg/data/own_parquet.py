"""Images of one's own in Parquet files, as the Hugging Face hub lays them out.

The place is a file, a folder, or a pattern such as ``data/train-*.parquet``. The column of images
is binary, or a struct with the fields ``bytes`` and ``path``; that of labels holds whole numbers,
truth values or texts; a column ``mask`` like that of images may hold a mask of each, not zero
inside. The names of the classes stand in the metadata, as the hub writes them, or as ``classes``
with commas between; otherwise they are the labels.

A file belongs to a split by its name, or by that of the folder it lies in: train, test, or one of
validation, valid, val and dev, between ``-``, ``_`` and ``.``; without any, to train.

What is prepared does not depend on the order of the rows, nor on which file they are in.
"""

import hashlib
import os
from array import array
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from attrreg.data.own import SPLITS, Found, OwnOptions, describe, name_classes
from attrreg.data.parquet_files import (
    MASK,
    Shard,
    check_columns,
    content,
    count_labels,
    declared_names,
    find_shards,
    read_rows,
    row_count,
)
from attrreg.entries import Dataset

if TYPE_CHECKING:
    from attrreg.data.samples import Encoded, Given, Request

__all__ = ["inspect_parquet", "read_parquet"]

SHARDS_LOOKED, ROWS_LOOKED = 4, 16  # files of each split, and rows of each, whose heads are read
REPORTED = 1024  # rows between two reports


@dataclass(frozen=True)
class _Pieces:
    """Where pieces lie in a file of bytes, and what stands for each."""

    begins: "array[int]" = field(default_factory=lambda: array("q"))
    lengths: "array[int]" = field(default_factory=lambda: array("q"))
    digests: bytearray = field(default_factory=bytearray)

    def add(self, file: BinaryIO, piece: bytes, digest: bytes) -> None:
        """Write a piece at the end of the file."""
        self.begins.append(file.tell())
        self.lengths.append(file.write(piece))
        self.digests.extend(digest)


@dataclass(frozen=True)
class _Stored:
    """The samples of a split, in a file of bytes."""

    path: Path
    names: list[str] = field(default_factory=list)
    labels: "array[int]" = field(default_factory=lambda: array("q"))
    images: _Pieces = field(default_factory=_Pieces)
    masks: _Pieces = field(default_factory=_Pieces)


@dataclass(frozen=True)
class _Labels:
    """How often each label occurs by split, and the name of each that is trained on, by label."""

    counts: dict[str, Counter[Any]]
    names: dict[Any, str]


def inspect_parquet(place: str, options: OwnOptions) -> Dataset:
    """Look at Parquet files: read their schemas, all labels, and the heads of a few images.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        They are not as this module says, or do not fit together.
    """
    root = Path(place).expanduser().absolute()
    shards = find_shards(root)
    regions = check_columns(shards, options.image, options.label)
    state = hashlib.blake2b(digest_size=8)
    for shard in shards:
        said = shard.path.stat()
        state.update(os.fsencode(f"{shard.name}\0{said.st_size}\0{said.st_mtime_ns}\n"))
    labels = _labels(root, shards, options)
    return describe(
        Found(
            prefix="parquet",
            place=root,
            counts={
                split: {labels.names.get(each, str(each)): many for each, many in counted.items()}
                for split, counted in labels.counts.items()
            },
            looks=_looks(shards, options),
            regions=regions,
            fingerprint=state.hexdigest(),
        ),
        options,
        "attrreg.data.own_parquet:read_parquet",
    )


def read_parquet(request: "Request") -> "Given":
    """Return the images of Parquet files in an order that depends on nothing but their content.

    They are copied into the scratch folder, where any of them is found at once; of the Parquet
    files only a few rows are in memory at a time. Errors as `inspect_parquet`.
    """
    from attrreg.data.samples import Given

    shards, options = find_shards(request.place), request.options
    regions = check_columns(shards, options.image, options.label)
    names = _labels(request.place, shards, options).names
    splits = {}
    for split in SPLITS:
        mine = [shard for shard in shards if shard.split == split]
        if mine:
            splits[split] = _encoded(_store(mine, list(names), regions, request))
    return Given(
        splits["train"], tuple(names.values()), splits.get("validation"), splits.get("test")
    )


def _labels(place: Path, shards: list[Shard], options: OwnOptions) -> _Labels:
    counts: dict[str, Counter[Any]] = {}
    for shard in shards:
        counts.setdefault(shard.split, Counter()).update(count_labels(shard, options.label))
    values = sorted(counts["train"])
    declared = declared_names(shards, options.label)
    names = name_classes(values, declared, f"parquet:{place}")
    return _Labels(counts, dict(zip(values, names, strict=True)))


def _looks(shards: list[Shard], options: OwnOptions) -> dict[str, Any]:
    """Return width, height and channels of the first images of some files."""
    from attrreg.data.images import look

    looks = {}
    for split in SPLITS:
        for shard in [shard for shard in shards if shard.split == split][:SHARDS_LOOKED]:
            rows = read_rows(shard, [options.image], ROWS_LOOKED)
            for name, (value,) in islice(rows, ROWS_LOOKED):
                looks[name] = look(content(value, name, options.image), name)
    return looks


def _store(shards: list[Shard], labels: list[Any], regions: bool, request: "Request") -> _Stored:
    """Copy the images of a split, and their masks, into one file."""
    from attrreg.data.canonical import content_digest

    split, options = shards[0].split, request.options
    stored = _Stored(request.scratch / f"{split}.images")
    columns = [options.image, *([MASK] if regions else [])]
    place_of = {label: place for place, label in enumerate(labels)}
    total = sum(map(row_count, shards))
    with stored.path.open("wb") as file:
        for shard in shards:
            for name, (label, *values) in read_rows(shard, [options.label, *columns]):
                if label not in place_of:
                    raise ValueError(f"{name} has the label {label!r}, which no training row has")
                stored.names.append(name)
                stored.labels.append(place_of[label])
                for value, column, pieces in zip(
                    values, columns, (stored.images, stored.masks), strict=False
                ):
                    piece = content(value, name, column)
                    pieces.add(file, piece, content_digest(piece))
                if len(stored.names) % REPORTED == 0 or len(stored.names) == total:
                    request.report(f"reading the {split} split", len(stored.names), total)
    return stored


def _encoded(stored: _Stored) -> "Encoded":
    """Return stored samples in their canonical order."""
    import numpy as np

    from attrreg.data.canonical import canonical_order
    from attrreg.data.images import read_mask
    from attrreg.data.samples import Encoded

    y = np.array(stored.labels, dtype=np.int64)
    order = canonical_order(bytes(stored.images.digests), y, bytes(stored.masks.digests))
    names = [stored.names[place] for place in order]

    def read(pieces: _Pieces, at: int) -> bytes:
        place = order[at]
        with stored.path.open("rb") as file:
            file.seek(pieces.begins[place])
            return file.read(pieces.lengths[place])

    def mask(at: int) -> Any:
        return read_mask(read(stored.masks, at), f"the mask of {names[at]}")

    return Encoded(
        lambda at: read(stored.images, at),
        names,
        y[order],
        mask if stored.masks.begins else None,
        np.array(stored.images.begins, dtype=np.int64)[order],
    )
