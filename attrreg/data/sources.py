"""What is read of a prepared dataset: training reads the pool and cannot reach the rest."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from attrreg.data.samples import Arrays
from attrreg.files import read_json
from attrreg.provenance import array_digest, digest
from attrreg.variant import Variant

__all__ = ["SPLITS", "Pool", "read_held_out", "read_pool", "sampled_digest"]

SPLITS = ("pool", "validation", "test")
WHOLE = 2**30  # bytes of a split that are read whole to compare its digest
BLOCK, BLOCKS = 2**20, 64  # of larger ones, this many blocks of this many bytes


class Pool(NamedTuple):
    """What training may see: the pool, its digest, and what describes it.

    ``mean`` and ``deviation`` (channels,) float32 are those of x / 255; ``class_names`` by label.
    """

    images: Arrays
    digest: str
    mean: np.ndarray
    deviation: np.ndarray
    class_names: tuple[str, ...] = ()


def read_pool(data: Path, dataset: str | Variant) -> Pool:
    """Open what training may see of a dataset; errors as `read_held_out`."""
    variant = Variant.of(dataset)
    images, description = _read(data, variant, "pool")
    if len(images.y) == 0:
        raise ValueError(f"dataset {variant.base!r} is for tests only: it has no training samples")
    return Pool(
        images,
        description["digests"]["pool"],
        np.asarray(description["mean"], dtype=np.float32),
        np.asarray(description["deviation"], dtype=np.float32),
        tuple(description["class_names"]),
    )


def read_held_out(
    data: Path, dataset: str | Variant, splits: Sequence[str] = ("validation", "test")
) -> dict[str, Arrays]:
    """Open splits that training never sees; the test split is for evaluation only.

    Raises
    ------
    FileNotFoundError
        The dataset is not prepared.
    ValueError
        An array is not what its description says: cut short, changed, or from elsewhere.
    """
    variant = Variant.of(dataset)
    return {name: _read(data, variant, name)[0] for name in splits}


def sampled_digest(*arrays: np.ndarray) -> str:
    """Return what stands for arrays too large to be read each time: some blocks of each."""
    found = []
    for array in arrays:
        flat = array.reshape(-1).view(np.uint8)
        starts = np.linspace(0, max(0, len(flat) - BLOCK), BLOCKS, dtype=np.int64)
        blocks = [flat[start : start + BLOCK] for start in dict.fromkeys(starts.tolist())]
        found += [str(array.dtype), array.shape, array_digest(*blocks)]
    return digest(found)


def _read(data: Path, variant: Variant, split: str) -> tuple[Arrays, dict]:
    folder, dataset = data / variant.key, variant.base
    command = f"run `{variant.command('prepare', data)}`"
    if not (folder / "dataset.json").is_file():
        raise FileNotFoundError(f"dataset {dataset!r} is not prepared under {data}: {command}")
    try:
        description = read_json(folder / "dataset.json")
        digests, sampled = description["digests"][split], description["sampled"][split]
        mean, deviation = description["mean"], description["deviation"]
        np.asarray([mean, deviation], dtype=np.float32)
        tuple(description["class_names"])
    except (ValueError, TypeError, LookupError) as error:
        raise ValueError(
            f"{folder / 'dataset.json'} does not describe a dataset ({error}): {command}"
        ) from error
    try:
        images = _open(folder / "arrays", split)
        there = [each for each in images if each is not None]
        is_small = sum(each.nbytes for each in there) <= WHOLE
        found = array_digest(*there) if is_small else sampled_digest(*there)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(
            f"{split} arrays of {dataset!r} are unreadable ({error}): {command}"
        ) from error
    expected = digests if is_small else sampled
    if found != expected:
        raise ValueError(
            f"{split} arrays of {dataset!r} have digest {found}, their description says "
            f"{expected}: {command}"
        )
    return images, description


def _open(folder: Path, split: str) -> Arrays:
    """Map the arrays of a split."""

    def mapped(axis: str) -> np.ndarray:
        array: np.ndarray = np.load(
            folder / f"{split}_{axis}.npy", mmap_mode="r", allow_pickle=False
        )
        return array

    has_regions = (folder / f"{split}_region.npy").exists()
    return Arrays(mapped("x"), mapped("y"), mapped("region") if has_regions else None)
