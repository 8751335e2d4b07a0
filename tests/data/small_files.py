"""What small datasets are made of: images, archives and binary files, the same bytes every time."""

import gzip
import io
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image

from attrreg.entries import Dataset

Rng = np.random.Generator
Builder = Callable[[Path, Rng], "Small"]
ORIENTATION = 0x0112
# How pixels as stored are turned upright, by EXIF orientation.
TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda pixels: pixels,
    3: lambda pixels: np.rot90(pixels, 2),
    6: lambda pixels: np.rot90(pixels, -1),
    8: np.rot90,
}


@dataclass(frozen=True)
class Part:
    """A split as it must be read.

    Parameters
    ----------
    x
        Arrays (n, channels, height, width) uint8, or the bytes of each encoded image.
    y
        (n,) int64.
    region
        Of each encoded image, (height, width) bool, turned upright with it; or None.
    """

    x: np.ndarray | list[bytes]
    y: np.ndarray
    region: list[np.ndarray] | None = None


@dataclass(frozen=True)
class Small:
    """A small dataset.

    Parameters
    ----------
    entry
        That of the catalogue with the counts, digests and sizes of what was written; or, for data
        of one's own, what the inspection of the folder gave.
    files
        The archives by name.
    class_names
        In the order of their numbers.
    train, validation, test
        What is read; None for a split that is drawn.
    """

    entry: Dataset
    files: dict[str, Path]
    class_names: tuple[str, ...]
    train: Part
    validation: Part | None = None
    test: Part | None = None


def tar_gz(path: Path, members: Mapping[str, bytes]) -> Path:
    """Write members and the folders that they are in; the same bytes every time."""
    folders = {str(parent) for name in members for parent in Path(name).parents} - {"."}
    with (
        path.open("wb") as raw,
        gzip.GzipFile("", "wb", 1, raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        for name in sorted(folders):
            head = tarfile.TarInfo(name)
            head.type, head.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(head)
        for name, content in members.items():
            head = tarfile.TarInfo(name)
            head.size = len(content)
            tar.addfile(head, io.BytesIO(content))
    return path


def zip_archive(path: Path, members: Mapping[str, bytes]) -> Path:
    """Write members and the folders that they are in; the same bytes every time."""
    folders = {f"{parent}/" for name in members for parent in Path(name).parents} - {"./"}
    with zipfile.ZipFile(path, "w") as packed:
        for name, content in {**dict.fromkeys(sorted(folders), b""), **members}.items():
            packed.writestr(zipfile.ZipInfo(name), content)
    return path


def members_of(path: Path) -> dict[str, bytes]:
    """Return the files of a .tgz, .tar.gz or .zip archive."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as packed:
            return {each: packed.read(each) for each in packed.namelist() if each[-1] != "/"}
    with tarfile.open(path) as tar:
        return {each.name: tar.extractfile(each).read() for each in tar if each.isfile()}


def pack(path: Path, members: Mapping[str, bytes]) -> Path:
    """Write an archive of the kind that its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return (zip_archive if path.suffix == ".zip" else tar_gz)(path, members)


def write_matlab(path: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    """Write a MATLAB file of version 5, compressed, without the time in its head."""
    scipy.io.savemat(path, dict(arrays), do_compression=True)
    raw = bytearray(path.read_bytes())
    raw[:116] = b"MATLAB 5.0 MAT-file, Platform: GLNX86".ljust(116)
    path.write_bytes(raw)
    return path


def idx(array: np.ndarray) -> bytes:
    """Return an idx file of unsigned bytes, compressed."""
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return gzip.compress(head + array.astype(np.uint8).tobytes(), 1, mtime=0)


def every_class(rng: Rng, classes: int, each: int) -> np.ndarray:
    """Return labels in random order, every class equally often."""
    return rng.permutation(np.repeat(np.arange(classes), each)).astype(np.int64)


def noise(rng: Rng, *shape: int) -> np.ndarray:
    """Return random pixels."""
    return rng.integers(0, 256, shape, dtype=np.uint8)


def encode(rng: Rng, kind: str = "JPEG", mode: str = "RGB", turned: int = 1) -> bytes:
    """Return an encoded image of random size and content."""
    height, width = rng.integers(12, 40, 2)
    image = Image.fromarray(noise(rng, height, width, 3)).convert(mode)
    exif = Image.Exif()
    if turned != 1:
        exif[ORIENTATION] = turned
    return written(image, kind, exif)


def written(image: Image.Image, kind: str, exif: Image.Exif | None = None) -> bytes:
    """Return an image encoded."""
    stream = io.BytesIO()
    image.save(stream, kind, **({"exif": exif} if exif else {}))
    return stream.getvalue()


def png(values: np.ndarray) -> bytes:
    """Return pixels as PNG."""
    return written(Image.fromarray(values), "PNG")


def stored_size(content: bytes) -> tuple[int, int]:
    """Return height and width of an encoded image as stored."""
    return Image.open(io.BytesIO(content)).size[::-1]


def upright(region: np.ndarray, content: bytes) -> np.ndarray:
    """Return a region of the stored pixels as it lies when its image is turned upright."""
    return TURNS[Image.open(io.BytesIO(content)).getexif().get(ORIENTATION, 1)](region)


def patch(rng: Rng, height: int, width: int) -> np.ndarray:
    """Return a rectangle that does not touch the edge, (height, width) bool."""
    inside = np.zeros((height, width), dtype=bool)
    top, left = rng.integers(2, height // 2), rng.integers(2, width // 2)
    inside[top : height - rng.integers(2, 4), left : width - rng.integers(2, 4)] = True
    return inside


def part_of(
    names: Sequence[str], images: Mapping[str, bytes], y: Sequence[int], regions: Mapping | None
) -> Part:
    """Return a split of encoded images in the order of their names."""
    return Part(
        [images[name] for name in names],
        np.array(y, dtype=np.int64),
        None if regions is None else [upright(regions[name], images[name]) for name in names],
    )


def tree(folder: str, classes: Sequence[str], each: int, rng: Rng, ending: str) -> dict[str, bytes]:
    """Return images in folders per class, the first of them grey, as members of an archive."""
    return {
        f"{folder}/{name}/{name}_{number}.{ending}": encode(rng, mode="RGB" if number else "L")
        for name in classes
        for number in range(each)
    }


def part_of_tree(members: Mapping[str, bytes], folder: str, classes: Sequence[str]) -> Part:
    """Return the images below a folder as they must be read: sorted by class and name."""
    names = sorted(
        (name for name in members if name.startswith(f"{folder}/")),
        key=lambda name: tuple(name.split("/")[-2:]),
    )
    return part_of(names, members, [classes.index(name.split("/")[-2]) for name in names], None)
