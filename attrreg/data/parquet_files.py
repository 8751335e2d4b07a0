"""Parquet files of labelled images: which there are, what they hold, and their rows one by one."""

import glob
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = [
    "MASK",
    "Shard",
    "check_columns",
    "content",
    "count_labels",
    "declared_names",
    "find_shards",
    "read_rows",
    "row_count",
]

NAMES = {
    "train": "train",
    "test": "test",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
}
MASK = "mask"
BATCH = 64  # rows that are in memory at once
BUFFER = 2**20  # bytes read ahead; without a buffer a column is read for all rows of a group


@dataclass(frozen=True)
class Shard:
    """One of several files: its path, its name below the place, and its split."""

    path: Path
    name: str
    split: str


def find_shards(place: Path) -> list[Shard]:
    """Return the files of a place, sorted by name, each with its split.

    Raises
    ------
    FileNotFoundError
        There are none.
    ValueError
        None is for training, the name of one says two splits, or one is a link out of the folder.
    """
    if place.is_file():
        base, paths = place.parent, [place]
    elif place.is_dir():
        base, paths = place, _in_folder(place)
    else:
        parts = place.parts
        fixed = next((at for at, part in enumerate(parts) if glob.has_magic(part)), len(parts))
        base = Path(*parts[:fixed])
        paths = [Path(each) for each in glob.glob(str(place), recursive=True)]
    if not paths:
        found = "no file whose name ends in .parquet" if place.is_dir() else "nothing there"
        raise FileNotFoundError(
            f"parquet:{place} has {found}: give a Parquet file, a folder of them, or a pattern "
            "such as 'data/*.parquet'"
        )
    names = sorted((path.relative_to(base).as_posix(), path) for path in paths)
    shards = [Shard(path, name, _split(Path(name))) for name, path in names]
    if not any(shard.split == "train" for shard in shards):
        raise ValueError(
            f"parquet:{place} has none but {shards[0].split} files, such as {shards[0].name}: add "
            "those to train on; a file whose name says no split is one of them"
        )
    return shards


def _in_folder(folder: Path) -> list[Path]:
    """Return the Parquet files at any depth; nothing hidden, no way out."""
    home, found = folder.resolve(), []
    for path in folder.rglob("*.parquet"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if hidden or not path.is_file():
            continue
        if not path.resolve().is_relative_to(home):
            raise ValueError(
                f"{path} is a link to {path.resolve()}, out of the folder: put the file itself "
                f"there, or say that it is meant by a pattern such as parquet:{path.parent}/*"
            )
        found.append(path)
    return found


def _split(name: Path) -> str:
    """Return the split that a file, or else its folder, is named after."""
    for said in (name.stem, name.parent.name):
        splits = {NAMES[each] for each in re.split(r"[-_.]", said.lower()) if each in NAMES}
        if len(splits) > 1:
            raise ValueError(
                f"{name} is named after {' and '.join(sorted(splits))}: name it after one split"
            )
        if splits:
            return splits.pop()
    return "train"


@contextmanager
def _opened(shard: Shard) -> Iterator[Any]:
    """Open a file; whatever is wrong with it is said with its name."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(shard.path, buffer_size=BUFFER, pre_buffer=False) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{shard.path} is unreadable as a Parquet file ({said}): restore or remove it"
        ) from error


def row_count(shard: Shard) -> int:
    """Return how many rows a file has."""
    with _opened(shard) as file:
        return int(file.metadata.num_rows)


def read_rows(
    shard: Shard, columns: list[str], batch: int = BATCH
) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Give the name of each row and its values; few rows are in memory at a time."""
    row = 0
    with _opened(shard) as file:
        for each in file.iter_batches(batch, columns=columns):
            values = [each.column(column).to_pylist() for column in columns]
            for of_row in zip(*values, strict=True):
                yield f"{shard.name} row {row}", of_row
                row += 1


def content(value: Any, name: str, column: str) -> bytes:
    """Return the bytes of an image, which may stand in a struct; ValueError if there are none."""
    found = value.get("bytes") if isinstance(value, dict) else value
    if found is None:
        path = value.get("path") if isinstance(value, dict) else None
        raise ValueError(
            f"{name} has no bytes in {column!r}{f', only the path {path!r}' if path else ''}: "
            "store every image in the file itself, or remove the row"
        )
    return bytes(found)


def check_columns(shards: list[Shard], image: str, label: str) -> bool:
    """Check that all files have the columns that they need, and return whether they have masks.

    Raises
    ------
    ValueError
        A column is missing or holds something else, or some files have masks and others not.
    """
    masked: dict[bool, str] = {}
    kinds: dict[str, str] = {}
    for shard in shards:
        with _opened(shard) as file:
            schema = file.schema_arrow
        for option, column in (("image", image), ("label", label)):
            if schema.names.count(column) != 1:
                raise ValueError(
                    f"{shard.path} has the columns {', '.join(map(repr, schema.names))}, of which "
                    f"one must be {column!r}: say by the option {option!r} which has the {option}s"
                )
        images = [image, MASK] if MASK in schema.names else [image]
        for column in images:
            _check_images(shard, column, schema.field(column).type)
        kinds.setdefault(_label_kind(shard, label, schema.field(label).type), shard.name)
        masked.setdefault(MASK in schema.names, shard.name)
    if len(kinds) > 1:
        said = " and ".join(f"{kind} in {name}" for kind, name in kinds.items())
        raise ValueError(f"labels are {said}: give labels of one kind")
    if len(masked) > 1:
        raise ValueError(
            f"{masked[True]} has a column {MASK!r}, {masked[False]} has none: give masks of all "
            "images or of none"
        )
    return True in masked


def _check_images(shard: Shard, column: str, kind: Any) -> None:
    from pyarrow import types

    found = kind
    if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        found = kind.field("bytes").type
    if not (types.is_binary(found) or types.is_large_binary(found) or types.is_binary_view(found)):
        raise ValueError(
            f"{shard.path} has {kind} in the column {column!r}: encoded images are needed, binary, "
            "or a struct with the fields bytes and path"
        )


def _label_kind(shard: Shard, column: str, kind: Any) -> str:
    from pyarrow import types

    found = kind.value_type if types.is_dictionary(kind) else kind
    if types.is_integer(found):
        return "whole numbers"
    if types.is_boolean(found):
        return "truth values"
    if types.is_string(found) or types.is_large_string(found) or types.is_string_view(found):
        return "texts"
    raise ValueError(
        f"{shard.path} has {kind} in the column {column!r}: labels are whole numbers, truth values "
        "or texts; say by the option 'label' which column has them"
    )


def count_labels(shard: Shard, column: str) -> Counter[Any]:
    """Return how often each label occurs in a file; ValueError if there are rows without one."""
    import pyarrow as pa

    with _opened(shard) as file:
        labels = file.read(columns=[column]).column(0)
        if pa.types.is_dictionary(labels.type):
            labels = labels.cast(labels.type.value_type)
        if pa.types.is_string_view(labels.type):
            labels = labels.cast(pa.large_string())
        if labels.null_count:
            raise ValueError(
                f"{shard.path} has {labels.null_count} rows without a label, the first is row "
                f"{labels.is_null().index(True).as_py()}: label or remove them"
            )
        counted = labels.value_counts().to_pylist()
    return Counter({each["values"]: each["counts"] for each in counted})


def declared_names(shards: list[Shard], column: str) -> list[str] | None:
    """Return the class names that the metadata of the files give, None without any.

    Raises
    ------
    ValueError
        Two files give different ones.
    """
    found: dict[tuple[str, ...], str] = {}
    for shard in shards:
        with _opened(shard) as file:
            metadata = file.schema_arrow.metadata or {}
        names = _hub_names(metadata, column)
        if names is None and b"classes" in metadata:
            said = metadata[b"classes"].decode(errors="replace")
            names = [each.strip() for each in said.split(",")]
        if names is not None:
            found.setdefault(tuple(names), shard.name)
    if len(found) > 1:
        (one, first), (other, second) = list(found.items())[:2]
        raise ValueError(
            f"{first} names the classes {', '.join(one[:5])}, … and {second} {', '.join(other[:5])}"
            ", …: all files must name the same"
        )
    return list(next(iter(found))) if found else None


def _hub_names(metadata: Mapping[bytes, bytes], column: str) -> list[str] | None:
    """Return the names that the Hugging Face hub's metadata give to the labels of a column."""
    try:
        said = json.loads(metadata[b"huggingface"])
        names = said.get("info", said)["features"][column]["names"]
    except (LookupError, ValueError, TypeError, AttributeError):
        return None  # the label has no declared classes, or somebody else's metadata
    if isinstance(names, list) and all(isinstance(each, str) for each in names):
        return names
    return None
