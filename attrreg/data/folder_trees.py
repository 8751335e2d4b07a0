"""Folders of images: one folder per class, or files that a list names. Light, for quick looks."""

import hashlib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

    from attrreg.data.samples import Encoded, Request
    from attrreg.entries import Archive

__all__ = [
    "Tree",
    "count_images",
    "encoded_files",
    "list_entries",
    "list_files",
    "list_images",
    "read_tree",
    "require_folders",
    "require_same",
    "state",
    "unpacked",
]

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class Tree:
    """The images below a folder that has one folder per class.

    Parameters
    ----------
    folder
        Where it lies.
    classes
        The names of the class folders, sorted.
    files
        "class/file" of every image, by class and then by name.
    labels
        The place in `classes` of each file's folder.
    """

    folder: Path
    classes: tuple[str, ...]
    files: tuple[str, ...]
    labels: tuple[int, ...]


def list_entries(folder: Path, root: Path | None = None) -> tuple[list[str], list[str]]:
    """Return the names of the folders and of the files in a folder, each sorted; no hidden ones.

    Parameters
    ----------
    folder
        Where they are.
    root
        For data of one's own: the place that no link may lead out of. Without it, that is `folder`.

    Raises
    ------
    ValueError
        There is no such folder, it cannot be read, or it has a link that leads out.
    """
    home = Path(root or folder).resolve()
    folders: list[str] = []
    files: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_symlink():
                    _refuse_outside(Path(entry.path), home)
                (folders if entry.is_dir() else files).append(entry.name)
    except OSError as error:
        raise ValueError(
            f"folder {_called(folder, root)} cannot be read: {error.strerror}"
        ) from error
    return sorted(folders), sorted(files)


def _called(folder: Path, root: Path | None) -> str:
    """Return what to call a folder: what was unpacked lies where nobody will find it any more."""
    return str(folder) if root else folder.name


def _refuse_outside(link: Path, home: Path) -> None:
    target = link.resolve()
    if not target.is_relative_to(home):
        raise ValueError(
            f"{link} is a link to {target}, outside of {home}: put the files themselves there"
        )
    if not target.exists():
        raise ValueError(f"{link} is a link to {target} and leads nowhere: mend or remove it")


def list_images(folder: Path, root: Path | None = None) -> list[str]:
    """Return the names of the image files in a folder, sorted; as `list_entries`."""
    return [name for name in list_entries(folder, root)[1] if name.lower().endswith(SUFFIXES)]


def _images_by_class(folder: Path, root: Path | None) -> dict[str, list[str]]:
    classes = list_entries(folder, root)[0]
    if not classes:
        raise ValueError(f"{_called(folder, root)} has no folder in it, expected one per class")
    found = {name: list_images(folder / name, root) for name in classes}
    for name, images in found.items():
        if not images:
            raise ValueError(f"{_called(folder, root)}/{name} has no image in it")
    return found


def count_images(folder: Path, root: Path | None = None) -> dict[str, int]:
    """Return how many images each class folder has; errors as `read_tree`."""
    return {name: len(images) for name, images in _images_by_class(folder, root).items()}


def read_tree(folder: Path, root: Path | None = None) -> Tree:
    """Return the images of a folder of class folders; other files are passed over.

    Raises
    ------
    ValueError
        As `list_entries`; there is no class, or one without images.
    """
    found = _images_by_class(folder, root)
    return Tree(
        folder,
        tuple(found),
        tuple(f"{name}/{image}" for name, images in found.items() for image in images),
        tuple(label for label, images in enumerate(found.values()) for _ in images),
    )


def require_folders(root: Path, names: Collection[str], layout: str) -> None:
    """Raise where a folder of one's own lacks a folder of its layout."""
    if not root.is_dir():
        raise ValueError(f"there is no folder {root}: expected {layout} in it")
    for name in names:
        if not (root / name).is_dir():
            raise ValueError(f"{root} has no folder {name!r}: expected {layout}")


def require_same(root: Path, classes: Mapping[str, Collection[str]]) -> None:
    """Raise where two folders, by name, do not have the same classes."""
    (first, some), (second, others) = ((name, set(found)) for name, found in classes.items())
    if some != others:
        odd = min(some ^ others)
        there, absent = (first, second) if odd in some else (second, first)
        raise ValueError(
            f"{root} has a folder {odd} in {there} but not in {absent}: both need one per class"
        )


def state(root: Path, counts: Mapping[str, Mapping[str, int]]) -> str:
    """Return 16 hexadecimal digits for the class folders as they are: names, times and numbers.

    A time changes when a file comes or goes; a file that is written anew in place goes unnoticed.
    """
    total = hashlib.sha256()
    for part, classes in counts.items():
        for name, count in classes.items():
            changed = (root / part / name).stat().st_mtime_ns
            total.update(f"{part}/{name} {changed} {count}\n".encode())
    return total.hexdigest()[:16]


def list_files(folder: Path) -> frozenset[str]:
    """Return the paths of all files below a folder, as "a/b/c"; links are not followed."""
    return frozenset(
        (Path(place) / name).relative_to(folder).as_posix()
        for place, _, names in os.walk(folder)
        for name in names
        if not (Path(place) / name).is_symlink()
    )


def encoded_files(
    folder: Path,
    files: Sequence[str],
    labels: Sequence[int],
    mask: "Callable[[int], Image] | None" = None,
) -> "Encoded":
    """Return image files below a folder as samples; masks by place."""
    import numpy as np

    from attrreg.data.samples import Encoded

    return Encoded(
        lambda at: (folder / files[at]).read_bytes(),
        files,
        np.asarray(labels, dtype=np.int64).reshape(len(files)),
        mask,
    )


def unpacked(
    request: "Request", archive: "Archive", wanted: Callable[[str], bool] = lambda name: True
) -> Path:
    """Unpack an archive of a request, or the members that are wanted, and return the folder."""
    from attrreg.data.archives import unpack

    folder = request.scratch / archive.name.partition(".")[0]
    path = request.archives[archive.name]
    unpack(path, folder, archive.unpacked, wanted, request.report)
    return folder
