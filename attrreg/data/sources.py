"""Where datasets come from, and the arrays that they become.

A source is a function without arguments that returns `Splits`. `prepare` writes them once;
`read_pool` and `read_held_out` open them. Training reads the pool and cannot reach the rest.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import filelock
import numpy as np

from attrreg import catalogue
from attrreg.data.subsets import balanced_order
from attrreg.files import new_directory, read_json, remove_partial, write_json
from attrreg.provenance import array_digest

__all__ = ["Images", "Pool", "Splits", "digits", "prepare", "read_held_out", "read_pool"]


class Images(NamedTuple):
    """Images (n, channels, height, width) uint8 and labels (n,) int64."""

    x: np.ndarray
    y: np.ndarray


class Splits(NamedTuple):
    """The three parts of a dataset; they share no sample."""

    pool: Images
    validation: Images
    test: Images


class Pool(NamedTuple):
    """What training may see: the pool, its digest, and the channel statistics of the pool.

    ``mean`` and ``deviation`` (channels,) float32 are those of x / 255.
    """

    images: Images
    digest: str
    mean: np.ndarray
    deviation: np.ndarray


def digits() -> Splits:
    """Return scikit-learn's handwritten digits: 1,797 real 8×8 images, 0…16 scaled to 0…255.

    The splits are fixed, drawn once by a class-balanced order: 360 test, 360 validation, 1,077
    pool.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x = np.round(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    y = bunch.target.astype(np.int64)
    order = balanced_order(y, np.random.default_rng(0))
    parts = np.split(order, [360, 720])
    test, validation, pool = (Images(x[part], y[part]) for part in parts)
    return Splits(pool, validation, test)


def prepare(data: Path, dataset: str) -> Path:
    """Write the arrays of a dataset under `data`, and return the path of its description.

    Raises
    ------
    ValueError
        The source gives something else than the catalogue says.
    """
    entry = catalogue.dataset(dataset)
    splits: Splits = catalogue.load(entry.implementation)()
    _check(dataset, entry, splits)
    folder = data / dataset
    scaled = splits.pool.x.astype(np.float64) / 255
    description = {
        "dataset": dataset,
        "title": entry.title,
        "source": entry.source,
        "licence": entry.licence,
        "classes": entry.classes,
        "shape": list(entry.shape),
        "mean": scaled.mean((0, 2, 3)).tolist(),
        "deviation": scaled.std((0, 2, 3)).tolist(),
        "sizes": {name: len(images.y) for name, images in splits._asdict().items()},
        "digests": {name: array_digest(*images) for name, images in splits._asdict().items()},
    }
    folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder / ".prepare.lock"):
        remove_partial(folder / "arrays")
        with new_directory(folder / "arrays") as arrays:
            for name, images in splits._asdict().items():
                np.save(arrays / f"{name}_x.npy", images.x, allow_pickle=False)
                np.save(arrays / f"{name}_y.npy", images.y, allow_pickle=False)
        write_json(folder / "dataset.json", description)
    return folder / "dataset.json"


def read_pool(data: Path, dataset: str) -> Pool:
    """Open what training may see of a dataset; errors as `read_held_out`."""
    images, description = _read(data, dataset, "pool")
    return Pool(
        images,
        description["digests"]["pool"],
        np.asarray(description["mean"], dtype=np.float32),
        np.asarray(description["deviation"], dtype=np.float32),
    )


def read_held_out(
    data: Path, dataset: str, splits: Sequence[str] = ("validation", "test")
) -> dict[str, Images]:
    """Open splits that training never sees; the test split is for evaluation only.

    Raises
    ------
    FileNotFoundError
        The dataset is not prepared.
    ValueError
        An array is not what its description says: cut short, changed, or from elsewhere.
    """
    return {name: _read(data, dataset, name)[0] for name in splits}


def _read(data: Path, dataset: str, split: str) -> tuple[Images, dict]:
    folder = data / dataset
    command = f"run `attrreg prepare --dataset {dataset} --data {data}`"
    if not (folder / "dataset.json").is_file():
        raise FileNotFoundError(f"dataset {dataset!r} is not prepared under {data}: {command}")
    try:
        description = read_json(folder / "dataset.json")
        expected = description["digests"][split]
        mean, deviation = description["mean"], description["deviation"]
        np.asarray([mean, deviation], dtype=np.float32)
    except (ValueError, TypeError, LookupError) as error:
        raise ValueError(
            f"{folder / 'dataset.json'} does not describe a dataset ({error}): {command}"
        ) from error
    try:
        images = Images(
            *(
                np.load(
                    folder / "arrays" / f"{split}_{axis}.npy", mmap_mode="r", allow_pickle=False
                )
                for axis in "xy"
            )
        )
        found = array_digest(*images)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(
            f"{split} arrays of {dataset!r} are unreadable ({error}): {command}"
        ) from error
    if found != expected:
        raise ValueError(
            f"{split} arrays of {dataset!r} have digest {found}, their description says "
            f"{expected}: {command}"
        )
    return images, description


def _check(dataset: str, entry: catalogue.Dataset, splits: Splits) -> None:
    for name, images in splits._asdict().items():
        wanted = (getattr(entry, name), *entry.shape)
        if images.x.shape != wanted or images.x.dtype != np.uint8:
            raise ValueError(
                f"{name} of {dataset!r} is {images.x.dtype} {images.x.shape}, the catalogue says "
                f"uint8 {wanted}"
            )
        classes = np.unique(images.y)
        if len(images.y) != wanted[0] or not np.array_equal(classes, np.arange(entry.classes)):
            raise ValueError(
                f"{name} of {dataset!r} has {len(images.y)} labels of classes {classes.tolist()}, "
                f"the catalogue says {wanted[0]} of 0 … {entry.classes - 1}"
            )
