"""Images of one's own in folders: one per class, perhaps below train and test, perhaps with masks.

::

    <path>/<class>/….png                  masks/<class>/….png
    <path>/<split>/<class>/….png          masks/<split>/<class>/….png

``<split>`` is train, test, and one of validation, valid and val; those that are missing are drawn.
Images may lie deeper in the folder of their class. A mask is as large as its image and has its
path and name, but for the suffix: it is a PNG, not zero inside. Hidden files and those that are no
images do not count. Links to files inside the folder are followed; others are errors.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from attrreg.data.own import LOOKED, SPLITS, Found, OwnOptions, describe
from attrreg.entries import Dataset

if TYPE_CHECKING:
    from attrreg.data.samples import Encoded, Given, Request

__all__ = ["inspect_folder", "read_folder"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
MASK = (".png",)
MASKS = "masks"
NAMES = {
    "train": "train",
    "test": "test",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
}
IGNORED = frozenset({"__MACOSX"})


@dataclass(frozen=True)
class _File:
    """A file by its path below the root, and what tells whether it has changed."""

    path: str
    size: int
    changed: int

    @property
    def stem(self) -> str:
        return os.path.splitext(self.path)[0]


@dataclass(frozen=True)
class _Tree:
    """Images by split and class, each sorted by path, and their masks by path without suffix."""

    images: dict[str, dict[str, list[_File]]]
    masks: dict[str, _File]

    def files(self) -> Iterator[_File]:
        for classes in self.images.values():
            for files in classes.values():
                yield from files
        yield from self.masks.values()


def inspect_folder(place: str, options: OwnOptions) -> Dataset:
    """Look at a folder of images: list all files, read the heads of a few.

    Raises
    ------
    FileNotFoundError
        There is no such folder.
    ValueError
        It is not laid out as this module says, or the images do not fit together.
    """
    from attrreg.data.images import look

    root = Path(place).expanduser().absolute()
    tree = _scan(root)
    found = hashlib.blake2b(digest_size=8)
    for file in tree.files():
        found.update(os.fsencode(f"{file.path}\0{file.size}\0{file.changed}\n"))
    first = [files[0].path for files in tree.images["train"].values()][:LOOKED]
    return describe(
        Found(
            prefix="folder",
            place=root,
            counts={
                split: {name: len(files) for name, files in classes.items()}
                for split, classes in tree.images.items()
            },
            looks={path: look(_read(root, path), path) for path in first},
            regions=bool(tree.masks),
            fingerprint=found.hexdigest(),
        ),
        options,
        "attrreg.data.own_folder:read_folder",
    )


def read_folder(request: "Request") -> "Given":
    """Return the images of a folder in the order of their paths; errors as `inspect_folder`."""
    from attrreg.data.samples import Given

    tree = _scan(request.place)
    names = tuple(tree.images["train"])
    splits = {
        split: _encoded(request.place, classes, tree.masks, names)
        for split, classes in tree.images.items()
    }
    return Given(splits["train"], names, splits.get("validation"), splits.get("test"))


def _encoded(
    root: Path, classes: dict[str, list[_File]], masks: dict[str, _File], names: tuple[str, ...]
) -> "Encoded":
    import numpy as np

    from attrreg.data.images import read_mask
    from attrreg.data.samples import Encoded

    labelled = sorted(
        (file.path, label) for label, name in enumerate(names) for file in classes.get(name, [])
    )
    paths = [path for path, _ in labelled]
    of_each = [masks[os.path.splitext(path)[0]].path for path in paths] if masks else []
    return Encoded(
        lambda at: _read(root, paths[at]),
        paths,
        np.array([label for _, label in labelled], dtype=np.int64),
        (lambda at: read_mask(_read(root, of_each[at]), of_each[at])) if masks else None,
    )


def _read(root: Path, path: str) -> bytes:
    try:
        return (root / path).read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error


def _scan(root: Path) -> _Tree:
    """List all images and masks, and check that they are laid out as they must be."""
    if not root.exists():
        raise FileNotFoundError(f"folder:{root} is not there: give the folder of your images")
    if not root.is_dir():
        raise ValueError(
            f"folder:{root} is a file: give the folder that has one folder of images per class, or "
            "parquet:<path> or arrays:<path>"
        )
    folders, files = _entries(root, "")
    top = [name for name in folders if name != MASKS]
    if not top:
        raise ValueError(
            f"folder:{root} has no folders, and {len(files)} files: put the images of each class "
            "into a folder that is named like the class"
        )
    images = {
        split: _classes(root, below)
        for split, below in sorted(_splits(root, top).items(), key=_rank)
    }
    return _Tree(images, _masks(root, images) if MASKS in folders else {})


def _rank(item: tuple[str, str]) -> int:
    return SPLITS.index(item[0])


def _splits(root: Path, top: list[str]) -> dict[str, str]:
    """Return the folder of each split, "" where the classes lie at the top."""
    named = {name: NAMES[name.lower()] for name in top if name.lower() in NAMES}
    splits = {split: name for name, split in named.items()}
    others = [name for name in top if name not in named]
    if not named or (others and list(splits) == ["train"] and _is_class(root, splits["train"])):
        return {"train": ""}
    if others or len(splits) < len(named):
        raise ValueError(
            f"folder:{root} has the folders {', '.join(map(repr, top))}: besides the splits train, "
            f"test and one of validation, valid and val there may be none but {MASKS}"
        )
    if "train" not in splits:
        raise ValueError(f"folder:{root} has a split {top[0]!r} and none named 'train': add it")
    return splits


def _is_class(root: Path, folder: str) -> bool:
    """Whether a folder that is named like a split is a class: trains beside cars."""
    return any(name.lower().endswith(SUFFIXES) for name in _entries(root, folder)[1])


def _classes(root: Path, split: str) -> dict[str, list[_File]]:
    """Return the images of each class below a split, sorted."""
    folders, _ = _entries(root, split)
    classes = {}
    for name in (each for each in folders if split or each != MASKS):
        if not name.isprintable():
            raise ValueError(
                f"folder:{root} has a folder {name!r}, of which a class cannot have its name: "
                "rename it"
            )
        path = f"{split}/{name}" if split else name
        files, others = _below(root, path, SUFFIXES)
        if not files:
            seen = f", but {len(others)} other files such as {min(others)}" if others else ""
            raise ValueError(
                f"folder:{root} has no images in {path}{seen}; images are {' '.join(SUFFIXES)}: "
                "add some or remove the folder"
            )
        classes[name] = files
    if not classes:
        raise ValueError(f"folder:{root} has no class folders in {split}: add them or remove it")
    return classes


def _masks(root: Path, images: dict[str, dict[str, list[_File]]]) -> dict[str, _File]:
    """Return the mask of every image by the image's path without suffix."""
    if any(name.lower().endswith(SUFFIXES) for name in _entries(root, MASKS)[1]):
        raise ValueError(
            f"folder:{root} has images directly in {MASKS}: masks lie in {MASKS}/<class>/<name of "
            "the image>.png; a class of that name must be named otherwise"
        )
    found = {file.stem.removeprefix(f"{MASKS}/"): file for file in _below(root, MASKS, MASK)[0]}
    wanted: dict[str, str] = {}
    missing = []
    for classes in images.values():
        for file in (file for files in classes.values() for file in files):
            if file.stem in wanted:
                raise ValueError(
                    f"folder:{root} has one mask for {wanted[file.stem]} and {file.path}: give "
                    "images with masks names that differ in more than the suffix"
                )
            wanted[file.stem] = file.path
            if file.stem not in found:
                missing.append(file.path)
    if missing:
        raise ValueError(
            f"folder:{root} has no mask for {len(missing)} of {len(wanted)} images, the first is "
            f"{missing[0]}: add {MASKS}/{os.path.splitext(missing[0])[0]}.png and so on, or remove "
            f"{MASKS}"
        )
    return {stem: found[stem] for stem in wanted}


def _below(root: Path, start: str, suffixes: tuple[str, ...]) -> tuple[list[_File], list[str]]:
    """Return files with some suffixes at any depth, sorted, and the paths of all others."""
    waiting, found, others = [start], [], []
    while waiting:
        below = waiting.pop()
        folders, files = _entries(root, below)
        waiting.extend(f"{below}/{name}" for name in folders)
        for name, entry in files.items():
            if name.lower().endswith(suffixes):
                state = entry.stat()
                found.append(_File(f"{below}/{name}", state.st_size, state.st_mtime_ns))
            else:
                others.append(f"{below}/{name}")
    return sorted(found, key=lambda file: file.path), others


def _entries(root: Path, below: str) -> tuple[list[str], dict[str, os.DirEntry[str]]]:
    """Return the folders of a folder, sorted, and its files; nothing hidden, no way out."""
    folders, files = [], {}
    try:
        with os.scandir(root / below) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name in IGNORED:
                    continue
                if entry.is_symlink():
                    _check_link(root, entry)
                if entry.is_dir():
                    folders.append(entry.name)
                elif entry.is_file():
                    files[entry.name] = entry
    except OSError as error:
        raise ValueError(f"{root / below} cannot be read: {error.strerror}") from error
    return sorted(folders), files


def _check_link(root: Path, entry: os.DirEntry[str]) -> None:
    target = Path(os.path.realpath(entry.path))
    if entry.is_file() and target.is_relative_to(root.resolve()):
        return
    raise ValueError(
        f"{entry.path} is a link to {target}: only links to files in the folder are followed; put "
        "the files themselves there"
    )
