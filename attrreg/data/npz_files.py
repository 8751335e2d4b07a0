"""Arrays in .npz files: their heads without their values, and their values without memory."""

import shutil
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

__all__ = ["Head", "mapped", "read_heads", "read_values"]

HEADS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


@dataclass(frozen=True)
class Head:
    """What the head of an array says: shape and type of its values."""

    shape: tuple[int, ...]
    dtype: np.dtype


def read_heads(path: Path) -> dict[str, Head]:
    """Return the heads of all arrays in a file by name.

    Raises
    ------
    ValueError
        It is no .npz file, is broken, or has an array of Python objects or one cut short.
    """
    found = {}
    with _opened(path) as archive:
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            with archive.open(info) as file:
                version = np.lib.format.read_magic(file)
                if version not in HEADS:
                    raise ValueError(f"{name!r} is of the unknown version {version}")
                shape, _, dtype = HEADS[version](file)
                if dtype.hasobject:
                    raise ValueError(
                        f"{name!r} holds Python objects, which are never unpickled: save an array "
                        "of numbers or texts"
                    )
                expected = file.tell() + prod(shape) * dtype.itemsize
            if info.file_size != expected:
                raise ValueError(f"{name!r} has {info.file_size} bytes, its head says {expected}")
            found[name] = Head(shape, dtype)
    return found


def read_values(path: Path, name: str) -> np.ndarray:
    """Return an array, read into memory; errors as `read_heads`."""
    with _opened(path) as archive, archive.open(f"{name}.npy") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def mapped(path: Path, name: str, scratch: Path) -> np.ndarray:
    """Return an array that is unpacked into a folder and stays there; errors as `read_heads`."""
    unpacked = scratch / f"{name}.npy"
    with _opened(path) as archive:
        with archive.open(f"{name}.npy") as file, unpacked.open("wb") as copy:
            shutil.copyfileobj(file, copy, 2**20)
        return np.load(unpacked, mmap_mode="r", allow_pickle=False)


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a file; whatever is wrong with it is said with its path."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(
            f"{path} is unreadable as an .npz file ({error}): save it again by numpy.savez"
        ) from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
