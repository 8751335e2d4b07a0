"""From a dataset's source to the arrays that everything else reads: fetched, decoded, split once.

Arrays come into place by rename, under a lock, with digests of archives, arrays, class names and
order; an interrupted preparation leaves the archives it has fetched and nothing else.
"""

import os
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import filelock
import numpy as np

from attrreg import catalogue
from attrreg.data.fetch import bring, fetch_all
from attrreg.data.images import decode_all
from attrreg.data.samples import Arrays, Encoded, Given, Request, Samples
from attrreg.data.sources import SPLITS, sampled_digest
from attrreg.data.subsets import proportional_order
from attrreg.entries import ImageOptions
from attrreg.files import new_directory, read_json, remove_partial, write_json
from attrreg.provenance import array_digest, digest
from attrreg.variant import Variant

__all__ = ["Splits", "downloads", "prepare", "read_embedded", "summary"]

Report = Callable[[str, int, int], None]
COMPARED = 2**30  # bytes of a dataset up to which its samples are compared with each other
CHUNK = 2**26  # bytes of a pool that are counted at once


class Splits(NamedTuple):
    """The three parts of a dataset; they share no sample."""

    pool: Samples
    validation: Samples
    test: Samples


def downloads(data: Path, dataset: str) -> Path:
    """Return where the archives of a dataset are kept."""
    return data / "downloads" / dataset


def prepare(
    data: Path,
    dataset: str | Variant,
    given: Sequence[Path] = (),
    offline: bool = False,
    report: Report = lambda stage, done, total: None,
) -> Path:
    """Write the arrays of a dataset under `data`, and return the path of its description.

    Parameters
    ----------
    data
        The folder of prepared datasets.
    dataset
        A name of the catalogue, "<prefix>:<place>", or one of these with options.
    given
        Archives that lie on this machine already, or folders of such.
    offline
        Fetch nothing: say at once what is missing.
    report
        Told how far each stage is.

    Raises
    ------
    ValueError
        The source gives something else than the catalogue says, or cannot be read.
    RuntimeError
        Its archives cannot be fetched.
    """
    variant = Variant.of(dataset)
    entry, folder = variant.entry, data / variant.key
    archives = _archives(variant, data, given, offline, report)
    folder.mkdir(parents=True, exist_ok=True)
    described = folder / "dataset.json"
    before = _written(described)
    with filelock.FileLock(folder / ".prepare.lock"):
        if _written(described) != before:
            return described  # another process has prepared it meanwhile
        remove_partial(folder / "arrays")
        remove_partial(folder / "unpacked")
        with TemporaryDirectory(dir=folder, prefix=".unpacked-", suffix=".partial") as scratch:
            request = Request(variant.options, archives, Path(scratch), Path(entry.place), report)
            read: Given = catalogue.load(entry.implementation)(request)
            _check_labels(variant, read)
            splits, order = _split(read, entry)
            _check(variant, splits)
            with new_directory(folder / "arrays") as arrays:
                written = {
                    name: _write(each, arrays, name, variant, report)
                    for name, each in splits._asdict().items()
                }
                description = _description(variant, read, written, order)
        write_json(described, description)
    return described


def read_embedded(dataset: str | Variant) -> Splits:
    """Return the splits of a dataset that needs neither an archive nor a place, not written."""
    variant = Variant.of(dataset)
    given: Given = catalogue.load(variant.entry.implementation)(Request(variant.options))
    return _split(given, variant.entry)[0]


def summary(path: Path) -> str:
    """Return in one line what a description says, with what a reader should be warned of."""
    described = read_json(path)
    sizes = ", ".join(f"{name} {n:,}" for name, n in described["sizes"].items())
    shape = "×".join(map(str, described["shape"]))
    said = f"{described['classes']} classes, {shape}, {sizes}"
    shared = {pair: n for pair, n in (described["identical"] or {}).items() if n}
    if shared:
        found = ", ".join(f"{n} in both {pair.replace('/', ' and ')}" for pair, n in shared.items())
        said += f"; note: identical samples, {found}"
    return said


def _written(path: Path) -> int:
    """Return when a file was written, 0 if it is not there."""
    return path.stat().st_mtime_ns if path.exists() else 0


def _archives(
    variant: Variant, data: Path, given: Sequence[Path], offline: bool, report: Report
) -> dict[str, Path]:
    archives, folder = variant.entry.archives, downloads(data, variant.base)
    if given and not archives:
        raise ValueError(f"dataset {variant.base!r} is made of no archive: remove --from")
    if not archives:
        return {}
    if given:
        bring(variant.base, archives, folder, given)
    return fetch_all(variant.base, archives, folder, offline=offline, report=report)


def _split(given: Given, entry: catalogue.Dataset) -> tuple[Splits, dict[str, np.ndarray]]:
    """Return the three splits, and the places of those that were not given but drawn.

    They are drawn by a fixed order in which every prefix has the proportions of the classes, the
    test split first, then validation: a rare class keeps its share of each, and of the pool.
    """
    drawn: dict[str, np.ndarray] = {}
    splits = {"pool": given.train, "validation": given.validation, "test": given.test}
    counts = np.bincount(given.train.y).tolist()
    rest = proportional_order(given.train.y, counts, np.random.default_rng(0))
    for name in ("test", "validation"):
        if splits[name] is None:
            drawn[name], rest = np.split(rest, [getattr(entry, name)])
    if drawn:
        drawn["pool"] = rest
    splits |= {name: given.train.take(places) for name, places in drawn.items()}
    return Splits(*(each for each in splits.values() if each is not None)), drawn


def _check_labels(variant: Variant, given: Given) -> None:
    """Refuse labels that are no classes."""
    classes = variant.entry.classes
    parts = (given.train, given.validation, given.test)
    for part in (each for each in parts if each is not None):
        wrong = part.y[(part.y < 0) | (part.y >= classes)]
        if len(wrong):
            raise ValueError(
                f"{variant.base!r} has the label {wrong[0]}, the catalogue says 0 … {classes - 1}"
            )


def _check(variant: Variant, splits: Splits) -> None:
    """Refuse what is not as large as the catalogue says, or labelled otherwise."""
    entry, name = variant.entry, variant.base
    for split, samples in splits._asdict().items():
        wanted = getattr(entry, split)
        if len(samples.y) != wanted:
            raise ValueError(
                f"{split} of {name!r} has {len(samples.y)} samples, the catalogue says {wanted}"
            )
        absent = np.setdiff1d(np.arange(entry.classes), samples.y)
        if split == "pool" and wanted and len(absent):
            raise ValueError(
                f"pool of {name!r} has no sample of {len(absent)} of the {entry.classes} classes "
                f"that the catalogue says, among them {absent[0]}"
            )
        if isinstance(samples, Arrays):
            _check_arrays(variant, split, samples)
        elif (samples.mask is not None) != entry.regions:
            raise ValueError(f"{split} of {name!r} has masks, or lacks them, unlike the catalogue")


def _check_arrays(variant: Variant, split: str, samples: Arrays) -> None:
    wanted = (len(samples.y), *variant.shape)
    if samples.x.shape != wanted or samples.x.dtype != np.uint8:
        raise ValueError(
            f"{split} of {variant.base!r} is {samples.x.dtype} {samples.x.shape}, the catalogue "
            f"says uint8 {wanted}"
        )
    if (samples.region is not None) != variant.entry.regions:
        raise ValueError(
            f"{split} of {variant.base!r} has regions, or lacks them, unlike the catalogue"
        )


def _write(samples: Samples, folder: Path, split: str, variant: Variant, report: Report) -> Arrays:
    """Write a split and return it, mapped from the files."""
    n, shape = len(samples.y), variant.shape
    x = allocate(folder / f"{split}_x.npy", (n, *shape), np.uint8)
    region = None
    if variant.entry.regions:
        region = allocate(folder / f"{split}_region.npy", (n, *shape[1:]), np.bool_)
    if isinstance(samples, Encoded):
        assert isinstance(variant.options, ImageOptions)
        decode_all(samples, x, region, variant.options.sized(shape[1]), report)
    else:
        x[:] = samples.x
        if region is not None:
            region[:] = samples.region
    for each in (x, region):
        if isinstance(each, np.memmap):
            each.flush()
    y = np.ascontiguousarray(samples.y, dtype=np.int64)
    np.save(folder / f"{split}_y.npy", y, allow_pickle=False)
    return Arrays(x, y, region)


def allocate(path: Path, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Make an array in a file whose disk space is there before anything is written to it.

    Writing to a mapped file without space would kill the process.
    """
    if 0 in shape:
        np.save(path, np.empty(shape, dtype), allow_pickle=False)
        return np.empty(shape, dtype)
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    with path.open("wb") as file:
        head = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False}
        np.lib.format.write_array_header_1_0(file, {**head, "shape": shape})
        start = file.tell()
        file.flush()
        _reserve(file.fileno(), start + size)
    return np.memmap(path, dtype=dtype, mode="r+", offset=start, shape=shape)


def _reserve(file: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    else:
        os.ftruncate(file, size)


def _description(
    variant: Variant, given: Given, splits: dict[str, Arrays], order: dict[str, np.ndarray]
) -> dict[str, Any]:
    entry = variant.entry
    mean, deviation = statistics(splits["pool"].x)
    return {
        "dataset": variant.base,
        "options": variant.options.model_dump(mode="json"),
        "title": entry.title,
        "source": entry.source,
        "licence": entry.licence,
        "modality": entry.modality,
        "classes": entry.classes,
        "class_names": list(given.class_names),
        "shape": list(variant.shape),
        "mean": mean,
        "deviation": deviation,
        "sizes": {name: len(each.y) for name, each in splits.items()},
        "counts": {
            name: np.bincount(each.y, minlength=entry.classes).tolist()
            for name, each in splits.items()
        },
        "identical": _identical(splits),
        "archives": {each.name: each.digest for each in entry.archives},
        "digests": {
            **{name: array_digest(*present(each)) for name, each in splits.items()},
            "class_names": digest(list(given.class_names)),
            "order": digest({name: places.tolist() for name, places in order.items()}),
        },
        "sampled": {name: sampled_digest(*present(each)) for name, each in splits.items()},
    }


def present(arrays: Arrays) -> list[np.ndarray]:
    """Return the arrays that are there."""
    return [each for each in arrays if each is not None]


def statistics(x: np.ndarray) -> tuple[list[float], list[float]]:
    """Return mean and deviation per channel of x / 255, exact, from counts of the 256 values.

    Of no samples: those of ImageNet, by which networks without a pool were normalised.
    """
    if len(x) == 0:
        return [0.485, 0.456, 0.406][: x.shape[1]], [0.229, 0.224, 0.225][: x.shape[1]]
    counts = np.zeros((x.shape[1], 256), dtype=np.int64)
    step = max(1, CHUNK // max(1, x[0].size))
    for start in range(0, len(x), step):
        part = np.asarray(x[start : start + step])
        for channel in range(x.shape[1]):
            counts[channel] += np.bincount(part[:, channel].ravel(), minlength=256)
    values = np.arange(256) / 255
    share = counts / counts.sum(1, keepdims=True)
    mean = share @ values
    deviation = np.sqrt((share * (values - mean[:, None]) ** 2).sum(1))
    return mean.tolist(), deviation.tolist()


def _identical(splits: dict[str, Arrays]) -> dict[str, int] | None:
    """Return how many samples of one split stand in another, too; None if there are too many."""
    if sum(each.x.nbytes for each in splits.values()) > COMPARED:
        return None
    seen = {name: {hash(sample.tobytes()) for sample in splits[name].x} for name in SPLITS}
    return {
        f"{one}/{other}": len(seen[one] & seen[other]) for one, other in combinations(SPLITS, 2)
    }
