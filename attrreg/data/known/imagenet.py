"""ImageNet 1k and the test sets made for it, from folders of one's own: one folder per WordNet id.

``imagenet:<path>`` has "train" and "val" with such folders, as made of the archives of ILSVRC 2012;
``imagenet-r:<path>``, ``imagenet-a:<path>`` and ``imagenet-o:<path>`` have such folders directly.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from attrreg.data.folder_trees import (
    Tree,
    count_images,
    read_tree,
    require_folders,
    require_same,
    state,
)
from attrreg.data.synsets import class_titles, refuse_unknown, synsets
from attrreg.entries import Dataset, ImageOptions, Options

if TYPE_CHECKING:
    from attrreg.data.samples import Given, Request

__all__ = [
    "OPTIONS",
    "SOURCES",
    "inspect_a",
    "inspect_imagenet",
    "inspect_o",
    "inspect_r",
    "inspect_test_only",
    "read",
    "read_test_only",
]

_HERE = "attrreg.data.known.imagenet"
SOURCES = {
    "imagenet": f"{_HERE}:inspect_imagenet",
    "imagenet-r": f"{_HERE}:inspect_r",
    "imagenet-a": f"{_HERE}:inspect_a",
    "imagenet-o": f"{_HERE}:inspect_o",
}
OPTIONS: dict[str, type[Options]] = dict.fromkeys(SOURCES, ImageOptions)

SHAPE = (3, 224, 224)
TERMS = "ImageNet's terms: non-commercial research and education"
LARGEST_VALIDATION = 50_000


def inspect_imagenet(place: str, options: Options) -> Dataset:
    """Return what lies in a folder with "train" and "val"; "val" is the test split.

    The validation split is drawn from "train": a tenth, at most 50,000. Any choice of classes can
    be there; their numbers are those of their sorted ids, with all 1,000 the usual ones.

    Raises
    ------
    ValueError
        There is no such folder, or "train" and "val" have other classes.
    """
    root = Path(place).expanduser().resolve()
    require_folders(root, ("train", "val"), "train/<WordNet id>/ and val/<WordNet id>/")
    train, test = (count_images(root / split, root) for split in ("train", "val"))
    require_same(root, {"train": train, "val": test})
    samples = sum(train.values())
    validation = min(LARGEST_VALIDATION, max(len(train), samples // 10))
    return Dataset(
        title=f"ImageNet, {len(train):,} classes",
        modality="image",
        classes=len(train),
        pool=samples - validation,
        validation=validation,
        test=sum(test.values()),
        shape=SHAPE,
        source="Russakovsky et al., International Journal of Computer Vision 115(3), 2015",
        licence=TERMS,
        implementation=f"{_HERE}:read",
        options=ImageOptions,
        place=str(root),
        fingerprint=state(root, {"train": train, "val": test}),
    )


def inspect_r(place: str, options: Options) -> Dataset:
    """Return what lies in a folder of ImageNet-R, as `inspect_test_only`."""
    return inspect_test_only(
        place,
        "ImageNet-R, renditions of ImageNet classes",
        "Hendrycks et al., ICCV 2021, arXiv 2006.16241",
    )


def inspect_a(place: str, options: Options) -> Dataset:
    """Return what lies in a folder of ImageNet-A, as `inspect_test_only`."""
    return inspect_test_only(
        place,
        "ImageNet-A, photographs that networks get wrong",
        "Hendrycks et al., CVPR 2021, arXiv 1907.07174",
    )


def inspect_o(place: str, options: Options) -> Dataset:
    """Return what lies in a folder of ImageNet-O, as `inspect_test_only`.

    What its images show is none of the 1,000 classes: their labels are those of the folders that
    they lie in, not what a model should answer.
    """
    return inspect_test_only(
        place,
        "ImageNet-O, photographs of none of the 1,000 classes",
        "Hendrycks et al., CVPR 2021, arXiv 1907.07174",
    )


def inspect_test_only(place: str, title: str, source: str) -> Dataset:
    """Return what lies in a folder of folders named by WordNet ids: a test split and nothing else.

    The labels are the numbers of the 1,000 classes of ImageNet, of which some do not occur.

    Raises
    ------
    ValueError
        There is no such folder, or one in it is not one of the 1,000.
    """
    root = Path(place).expanduser().resolve()
    require_folders(root, (), "<WordNet id>/")
    counts = count_images(root, root)
    refuse_unknown(root, counts)
    return Dataset(
        title=title,
        modality="image",
        classes=len(synsets()),
        pool=0,
        validation=0,
        test=sum(counts.values()),
        shape=SHAPE,
        source=source,
        licence="MIT for the selection; the images belong to their owners",
        implementation=f"{_HERE}:read_test_only",
        options=ImageOptions,
        place=str(root),
        fingerprint=state(root, {"": counts}),
    )


def read(request: "Request") -> "Given":
    """Return ImageNet from a folder; the validation split is drawn from its "train"."""
    from attrreg.data.folder_trees import encoded_files
    from attrreg.data.samples import Given

    train, test = (read_tree(request.place / name, request.place) for name in ("train", "val"))
    require_same(request.place, {"train": train.classes, "val": test.classes})
    return Given(
        encoded_files(train.folder, train.files, train.labels),
        class_titles(train.classes),
        test=encoded_files(test.folder, test.files, test.labels),
    )


def read_test_only(request: "Request") -> "Given":
    """Return the images of a folder as a test split, labelled by ImageNet's 1,000 classes."""
    from attrreg.data.folder_trees import encoded_files
    from attrreg.data.samples import Given

    tree = read_tree(request.place, request.place)
    refuse_unknown(request.place, tree.classes)
    return Given(
        encoded_files(tree.folder, (), ()),
        class_titles(synsets()),
        test=encoded_files(tree.folder, tree.files, _numbered(tree)),
    )


def _numbered(tree: Tree) -> list[int]:
    numbers = {synset: number for number, synset in enumerate(synsets())}
    return [numbers[tree.classes[label]] for label in tree.labels]
