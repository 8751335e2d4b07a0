"""The layouts in which datasets are published: idx, CIFAR and STL binaries, MATLAB files, tables.

What is not as its format says raises ValueError with the name of the file, what was found and what
was expected; `blaming` adds which archive it came from and what to do.
"""

import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

__all__ = [
    "blaming",
    "check_labels",
    "parse_idx",
    "read_cifar",
    "read_lines",
    "read_matlab",
    "read_stl",
    "read_table",
    "refuse_repeats",
]

UNSIGNED_BYTE = 8  # the type of idx files that hold uint8
CIFAR_SHAPE = (3, 32, 32)
STL_SHAPE = (3, 96, 96)
NUMERIC = {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)} | {
    "double",
    "single",
}
COMPRESSED = 15  # the type of compressed elements of MATLAB files
CHUNK = 2**12  # bytes, of which zlib makes at most about a thousand times as many
TEXT_LIMIT = 2**26  # bytes of a list; the longest known has less than 2²⁰


@contextmanager
def blaming(*archives: Path) -> Iterator[None]:
    """Say of every ValueError which archives are wrong, and what to do with them."""
    try:
        yield
    except ValueError as error:
        wrong = " and ".join(map(str, archives))
        raise ValueError(f"{error}: delete {wrong} and prepare again") from error


def parse_idx(raw: bytes, name: str, dimensions: int) -> np.ndarray:
    """Return the array of an idx file of unsigned bytes.

    Two zero bytes, the type, the number of dimensions, each dimension as 4 bytes (the highest
    first), then the values, the last dimension fastest.

    Parameters
    ----------
    raw
        The content.
    name
        Of the file, for messages.
    dimensions
        How many it must have.
    """
    magic = bytes([0, 0, UNSIGNED_BYTE, dimensions])
    if raw[:4] != magic:
        raise ValueError(f"{name} begins with {raw[:4].hex(' ')}, expected {magic.hex(' ')}")
    start = 4 + 4 * dimensions
    if len(raw) < start:
        raise ValueError(f"{name} ends within its head, after {len(raw)} of {start} bytes")
    shape = tuple(int(each) for each in np.frombuffer(raw, ">u4", dimensions, 4))
    expected = start + math.prod(shape)
    if len(raw) != expected:
        raise ValueError(f"{name} has {len(raw)} bytes, its head of shape {shape} says {expected}")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)


def read_cifar(path: Path, label_bytes: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images (n, 3, 32, 32) uint8 and labels (n,) int64 of a file of CIFAR's binary version.

    A record is the labels, of which the last is the finest, and the three channels row by row.
    """
    records = _records(path, label_bytes + math.prod(CIFAR_SHAPE))
    y = check_labels(records[:, label_bytes - 1], range(classes), path.name)
    return records[:, label_bytes:].reshape(-1, *CIFAR_SHAPE), y


def read_stl(images: Path, labels: Path, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images (n, 3, 96, 96) uint8 and labels (n,) int64 of two files of STL-10.

    An image is three channels column by column; labels count from 1. The images are mapped from
    the file, not loaded.
    """
    columns = _records(images, math.prod(STL_SHAPE)).reshape(-1, *STL_SHAPE)
    found = _records(labels, 1)[:, 0]
    if len(found) != len(columns):
        raise ValueError(f"{images.name} has {len(columns)} images, {labels.name} {len(found)}")
    y = check_labels(found, range(1, classes + 1), labels.name)
    return columns.transpose(0, 1, 3, 2), y - 1


def _records(path: Path, size: int) -> np.ndarray:
    """Map a file of records of some bytes, (n, size) uint8."""
    found = _size(path)
    if found == 0 or found % size:
        raise ValueError(f"{path.name} has {found} bytes, expected records of {size} bytes each")
    return np.memmap(path, np.uint8, mode="r").reshape(-1, size)


def read_matlab(path: Path, names: Sequence[str], limit: int) -> dict[str, np.ndarray]:
    """Return numeric arrays of a MATLAB file of version 5 whose arrays are compressed.

    MATLAB compresses unless it is told otherwise, and so has checksums: they are looked at before
    anything is parsed. What is no array of numbers is never built.

    Parameters
    ----------
    path
        The file.
    names
        The arrays that it must hold; others are not read.
    limit
        Bytes that all its arrays may have.
    """
    import scipy.io

    _check_compressed(path, limit)
    try:
        held = {name: kind for name, _, kind in scipy.io.whosmat(path)}
        for name in names:
            if name not in held:
                raise ValueError(f"it holds no array {name!r}, but {sorted(held)}")
            if held[name] not in NUMERIC:
                raise ValueError(f"{name!r} is a MATLAB {held[name]}, expected numbers")
        loaded = scipy.io.loadmat(path, variable_names=list(names))
        return {name: np.asarray(loaded[name]) for name in names}
    except Exception as error:  # whatever a parser of foreign bytes may run into
        raise ValueError(f"{path.name} is unreadable as a MATLAB file: {error}") from error


def _check_compressed(path: Path, limit: int) -> None:
    """Raise where a MATLAB file is of another version, or an array of it is not as it was saved."""
    total = 0
    with path.open("rb") as file:
        head = file.read(128)
        order = {b"\x00\x01IM": "<", b"\x01\x00MI": ">"}.get(head[124:])
        if not head.startswith(b"MATLAB 5.0 ") or order is None:
            raise ValueError(
                f"{path.name} begins with {head[:19]!r}, expected b'MATLAB 5.0 MAT-file'"
            )
        while tag := file.read(8):
            kind, size = struct.unpack(f"{order}II", tag) if len(tag) == 8 else (0, 0)
            if kind != COMPRESSED:
                raise ValueError(f"{path.name} holds an element of type {kind}, not {COMPRESSED}")
            total += _inflated(file, size, path.name, limit - total)


def _inflated(file: IO[bytes], size: int, name: str, limit: int) -> int:
    """Return how many bytes a compressed element has, or raise where its checksum is wrong."""
    stream, total = zlib.decompressobj(), 0
    try:
        while size and (chunk := file.read(min(size, CHUNK))):
            size -= len(chunk)
            total += len(stream.decompress(chunk))
            if total > limit:
                raise ValueError(f"{name} holds more than the bytes that are allowed")
    except zlib.error as error:
        raise ValueError(f"{name} is damaged ({error})") from error
    if size or not stream.eof or stream.unused_data:
        raise ValueError(f"{name} is damaged: an array of it does not end where it says")
    return total


def check_labels(labels: np.ndarray, known: range, name: str) -> np.ndarray:
    """Return labels as (n,) int64, or raise where one is no whole number or not among the known."""
    y = np.asarray(labels).ravel()
    if y.dtype.kind not in "iuf":
        raise ValueError(f"labels of {name} are {y.dtype}, expected whole numbers")
    with np.errstate(invalid="ignore"):  # what is not a number is refused below
        whole = y.astype(np.int64)
    wrong = np.flatnonzero((whole != y) | (whole < known.start) | (whole >= known.stop))
    if len(wrong):
        raise ValueError(
            f"label {y[wrong[0]]} at place {wrong[0]} of {name}, expected {known.start} … "
            f"{known.stop - 1}"
        )
    return whole


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text that are not blank, stripped."""
    if _size(path) > TEXT_LIMIT:
        raise ValueError(f"{path.name} has {_size(path)} bytes, expected at most {TEXT_LIMIT}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is no UTF-8 text ({error})") from error
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{path.name} is empty")
    return lines


def read_table(path: Path, columns: int) -> list[list[str]]:
    """Return the lines of a text as fields apart by blanks; lines that begin with # are skipped."""
    rows = []
    for number, line in enumerate(read_lines(path)):
        fields = line.split()
        if fields[0].startswith("#"):
            continue
        if len(fields) != columns:
            raise ValueError(f"entry {number + 1} of {path.name} is {line!r}, not {columns} fields")
        rows.append(fields)
    return rows


def refuse_repeats(names: Sequence[object], place: str) -> None:
    """Raise where a sample is listed twice: it could stand in two splits."""
    seen: set[object] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{place} names {name} twice, expected every sample once")
        seen.add(name)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError as error:
        raise ValueError(f"there is no {path.name}") from error
