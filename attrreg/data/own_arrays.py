"""Images of one's own as numpy arrays in an .npz file.

The images are ``x`` and the labels ``y``, or ``x_train`` and ``y_train``, or ``images`` and
``labels``, or ``train_images`` and ``train_labels``. ``x_test`` and ``y_test``, ``x_validation``
or ``x_val``, ``test_images`` and so on are given splits; those that are missing are drawn.
``region``, or ``region_train`` and so on, holds the masks, not zero inside. ``class_names`` says
what each label from 0 stands for. Capital letters do not count.

Images are (n, height, width), (n, height, width, channels) or (n, channels, height, width) with 1
or 3 channels; uint8, bool, uint16, which is divided by 257, or floats from 0 to 1, which are
multiplied by 255. What is prepared does not depend on their order.
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrreg.data.own import Found, OwnOptions, describe, name_classes
from attrreg.entries import Dataset

if TYPE_CHECKING:
    import numpy as np

    from attrreg.data.npz_files import Head
    from attrreg.data.pixel_arrays import Layout
    from attrreg.data.samples import Arrays, Given, Request

__all__ = ["inspect_arrays", "read_arrays"]

# By split: the names of images, labels and masks; those of one row are used.
KEYS = {
    "train": (
        ("x", "y", "region"),
        ("images", "labels", "region"),
        ("x_train", "y_train", "region_train"),
        ("train_images", "train_labels", "train_region"),
    ),
    "validation": (
        ("x_validation", "y_validation", "region_validation"),
        ("x_val", "y_val", "region_val"),
        ("validation_images", "validation_labels", "validation_region"),
        ("val_images", "val_labels", "val_region"),
    ),
    "test": (
        ("x_test", "y_test", "region_test"),
        ("test_images", "test_labels", "test_region"),
    ),
}
CLASS_NAMES = "class_names"
KNOWN = {CLASS_NAMES, *(key for rows in KEYS.values() for row in rows for key in row)}


@dataclass(frozen=True)
class _Split:
    """The arrays of a split by their names in the file, and how its images lie."""

    x: str
    y: str
    region: str | None
    layout: "Layout"


def inspect_arrays(place: str, options: OwnOptions) -> Dataset:
    """Look at an .npz file: read the heads of its arrays, and its labels.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        Its arrays are not as this module says, or do not fit together.
    """
    path = Path(place).expanduser().absolute()
    splits = _splits(path, options)
    labels = {split: _read_labels(path, each.y) for split, each in splits.items()}
    names = _names(path, labels["train"])
    state = path.stat()
    said = f"{path.name}\0{state.st_size}\0{state.st_mtime_ns}\n"
    layouts = {each.x: each.layout for each in splits.values()}
    return describe(
        Found(
            prefix="arrays",
            place=path,
            counts={split: _count(each, names) for split, each in labels.items()},
            looks={x: (each.width, each.height, each.channels) for x, each in layouts.items()},
            regions=splits["train"].region is not None,
            fingerprint=hashlib.blake2b(os.fsencode(said), digest_size=8).hexdigest(),
        ),
        options,
        "attrreg.data.own_arrays:read_arrays",
    )


def read_arrays(request: "Request") -> "Given":
    """Return the arrays of an .npz file in an order that depends on nothing but their content.

    They lie in the scratch folder, not in memory. Errors as `inspect_arrays`, and ValueError where
    floats are not within 0 … 1.
    """
    from attrreg.data.samples import Given

    path, options = request.place, request.options
    splits = _splits(path, options)
    labels = {split: _read_labels(path, each.y) for split, each in splits.items()}
    names = _names(path, labels["train"])
    own = max(each.layout.channels for each in splits.values())
    found = {
        split: _read(each, _places(labels[split], names), options.channels or own, request)
        for split, each in splits.items()
    }
    return Given(found["train"], tuple(names.values()), found.get("validation"), found.get("test"))


def _splits(path: Path, options: OwnOptions) -> dict[str, _Split]:
    """Find the arrays of each split by their names, and check their heads."""
    from attrreg.data.npz_files import read_heads

    if not path.exists():
        raise FileNotFoundError(f"arrays:{path} is not there: give an .npz file")
    heads = read_heads(path)
    named = {name.lower(): name for name in heads}
    strange = [name for name in heads if name.lower() not in KNOWN]
    if strange or len(named) < len(heads):
        raise ValueError(
            f"arrays:{path} has the arrays {', '.join(map(repr, heads))}; known are "
            f"{', '.join(sorted(KNOWN))}: rename or remove the others"
        )
    splits = {}
    for split, rows in KEYS.items():
        present = [row for row in rows if row[0] in named or row[1] in named]
        if len(present) > 1 or (not present and split == "train"):
            raise ValueError(
                f"arrays:{path} has {len(present) or 'no'} arrays of the {split} split, its arrays "
                f"are {', '.join(map(repr, heads))}: give one of "
                f"{', '.join(' and '.join(row[:2]) for row in rows)}"
            )
        for row in present:
            splits[split] = _described(
                path, heads, [named.get(key, "") for key in row], row, options
            )
    used = [each.region for each in splits.values() if each.region]
    if len(used) not in (0, len(splits)) or len(used) < sum("region" in name for name in named):
        raise ValueError(
            f"arrays:{path} has the arrays {', '.join(map(repr, heads))}: give a region for each "
            "split that is there, named like its images, or none"
        )
    return splits


def _described(
    path: Path,
    heads: "dict[str, Head]",
    names: list[str],
    row: tuple[str, ...],
    options: OwnOptions,
) -> _Split:
    """Check the heads of one split's arrays."""
    from attrreg.data.pixel_arrays import check_type, find_layout

    x, y, region = names
    if not x or not y:
        raise ValueError(
            f"arrays:{path} has {x or y!r} and no {row[0] if not x else row[1]!r}: give both"
        )
    if 0 in heads[x].shape:
        raise ValueError(f"{x!r} of {path} is empty, its shape is {heads[x].shape}: remove it")
    layout = find_layout(f"{x!r} of {path}", heads[x].shape, options.layout)
    check_type(f"{x!r} of {path}", heads[x].dtype)
    labels = heads[y]
    if labels.shape not in ((layout.n,), (layout.n, 1)) or labels.dtype.kind not in "iubUS":
        raise ValueError(
            f"{y!r} of {path} is {labels.dtype} {labels.shape}; labels of the {layout.n} images in "
            f"{x!r} are ({layout.n},) whole numbers, truth values or texts"
        )
    wanted = (layout.n, layout.height, layout.width)
    if region and (heads[region].shape != wanted or heads[region].dtype.kind not in "iub"):
        raise ValueError(
            f"{region!r} of {path} is {heads[region].dtype} {heads[region].shape}, {wanted} whole "
            "numbers or truth values are needed: one mask of each image, as large as it"
        )
    return _Split(x, y, region or None, layout)


def _read_labels(path: Path, name: str) -> "np.ndarray":
    """Return labels as (n,) integers, truth values or texts."""
    from attrreg.data.npz_files import read_values

    found = read_values(path, name).reshape(-1)
    return found.astype(str) if found.dtype.kind == "S" else found


def _names(path: Path, labels: "np.ndarray") -> dict[Any, str]:
    """Return the name of each label that is trained on, by label."""
    import numpy as np

    from attrreg.data.npz_files import read_heads, read_values

    found = np.unique(labels).tolist()
    declared = None
    for name in (name for name in read_heads(path) if name.lower() == CLASS_NAMES):
        texts = read_values(path, name)
        if texts.ndim != 1 or texts.dtype.kind not in "US":
            raise ValueError(
                f"{name!r} of {path} is {texts.dtype} {texts.shape}: give one text per class"
            )
        declared = texts.astype(str).tolist()
    return dict(zip(found, name_classes(found, declared, f"arrays:{path}"), strict=True))


def _count(labels: "np.ndarray", names: dict[Any, str]) -> dict[str, int]:
    import numpy as np

    values, counts = (each.tolist() for each in np.unique(labels, return_counts=True))
    return {names.get(value, str(value)): many for value, many in zip(values, counts, strict=True)}


def _places(labels: "np.ndarray", names: dict[Any, str]) -> "np.ndarray":
    """Return labels as (n,) int64, the place of each among those that are trained on."""
    import numpy as np

    values, inverse = np.unique(labels, return_inverse=True)
    known = {value: place for place, value in enumerate(names)}
    strange = [value for value in values.tolist() if value not in known]
    if strange:
        raise ValueError(f"the label {strange[0]!r} is that of no training sample: remove it")
    return np.array([known[each] for each in values.tolist()], dtype=np.int64)[inverse]


def _read(split: _Split, y: "np.ndarray", channels: Any, request: "Request") -> "Arrays":
    """Convert the arrays of a split, and bring them into their canonical order."""
    from attrreg.data.canonical import canonical_order
    from attrreg.data.npz_files import mapped
    from attrreg.data.pixel_arrays import check_numbers, mask_squares, squares, to_bytes
    from attrreg.data.samples import Arrays

    scratch, size, resize = request.scratch, request.options.image_size, request.options.resize
    given = mapped(request.place, split.x, scratch)
    check_numbers(f"{split.x!r} of {request.place}", given)
    axis = split.layout.axis
    x, digests = _converted(
        given,
        lambda part: squares(to_bytes(part, axis), channels, size, resize),
        scratch / f"{split.x}.converted.npy",
        lambda done, total: request.report(f"reading {split.x}", done, total),
    )
    if split.region is None:
        order = canonical_order(digests, y)
        return Arrays(_ordered(x, order, scratch / f"{split.x}.ordered.npy"), y[order])
    region, of_regions = _converted(
        mapped(request.place, split.region, scratch),
        lambda part: mask_squares(part, size, resize),
        scratch / f"{split.region}.converted.npy",
        lambda done, total: request.report(f"reading {split.region}", done, total),
    )
    order = canonical_order(digests, y, of_regions)
    return Arrays(
        _ordered(x, order, scratch / f"{split.x}.ordered.npy"),
        y[order],
        _ordered(region, order, scratch / f"{split.region}.ordered.npy"),
    )


def _converted(
    given: "np.ndarray",
    convert: "Callable[[np.ndarray], np.ndarray]",
    path: Path,
    report: Callable[[int, int], None],
) -> "tuple[np.ndarray, bytes]":
    """Convert an array part by part into a file, and return what stands for each sample, too."""
    import numpy as np

    from attrreg.data.canonical import content_digest
    from attrreg.data.pixel_arrays import chunks

    digests = bytearray()
    target = None
    for part in chunks(given):
        found = convert(given[part])
        if target is None:
            shape = (len(given), *found.shape[1:])
            target = np.lib.format.open_memmap(path, "w+", found.dtype, shape)
        target[part] = found
        for each in found:
            digests += content_digest(each.tobytes())
        report(min(part.stop, len(given)), len(given))
    assert target is not None
    return target, bytes(digests)


def _ordered(found: "np.ndarray", order: "np.ndarray", path: Path) -> "np.ndarray":
    """Return an array in another order, in a file of its own."""
    import numpy as np

    from attrreg.data.pixel_arrays import chunks

    target = np.lib.format.open_memmap(path, "w+", found.dtype, found.shape)
    for part in chunks(target):
        target[part] = found[order[part]]
    return target
