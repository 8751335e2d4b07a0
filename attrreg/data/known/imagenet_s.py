"""ImageNet-S from a folder of one's own: images of ImageNet with the pixels of every class.

``imagenet-s:<path>`` is one of ImageNetS50, ImageNetS300 and ImageNetS919 as its publishers lay
them out: "train-semi" and "validation", each with a folder per WordNet id, and
"train-semi-segmentation" and "validation-segmentation" with a PNG for every image.
"""

from collections.abc import Collection, Mapping
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
from attrreg.data.synsets import class_titles
from attrreg.entries import Dataset, ImageOptions, Options

if TYPE_CHECKING:
    from PIL.Image import Image

    from attrreg.data.samples import Encoded, Given, Request

__all__ = ["OPTIONS", "SOURCES", "inspect", "read"]

_HERE = "attrreg.data.known.imagenet_s"
SOURCES = {"imagenet-s": f"{_HERE}:inspect"}
OPTIONS: dict[str, type[Options]] = dict.fromkeys(SOURCES, ImageOptions)

TRAIN, TEST = "train-semi", "validation"
CLASSES = (50, 300, 919)  # in the three published sizes
IGNORED = 1000


def inspect(place: str, options: Options) -> Dataset:
    """Return what lies in a folder of ImageNet-S; its "validation" is the test split.

    The validation split is drawn from "train-semi": a tenth of it, at least one image per class.
    The publishers keep the pixels of their own test split to themselves.

    Raises
    ------
    ValueError
        There is no such folder, or it has not the classes of one of the published sizes.
    """
    root = Path(place).expanduser().resolve()
    require_folders(root, _folders(), f"{', '.join(_folders())}, each with <WordNet id>/")
    counts = {name: count_images(root / name, root) for name in _folders()}
    _check_classes(root, counts)
    train, test = counts[TRAIN], counts[TEST]
    samples = sum(train.values())
    validation = max(len(train), samples // 10)
    return Dataset(
        title=f"ImageNet-S, {len(train)} classes, segmented",
        modality="image",
        classes=len(train),
        pool=samples - validation,
        validation=validation,
        test=sum(test.values()),
        shape=(3, 224, 224),
        source="Gao et al., IEEE TPAMI 45(6), 2023, arXiv 2106.03149",
        licence="ImageNet's terms: non-commercial research and education",
        implementation=f"{_HERE}:read",
        options=ImageOptions,
        regions=True,
        place=str(root),
        fingerprint=state(root, counts),
    )


def read(request: "Request") -> "Given":
    """Return ImageNet-S; the region is the pixels of the image's own class.

    Pixels that the publishers leave out are outside. A region is empty where the segmentation
    names other classes only.
    """
    from attrreg.data.samples import Given

    trees = {name: read_tree(request.place / name, request.place) for name in _folders()}
    _check_classes(request.place, {name: tree.classes for name, tree in trees.items()})
    train, test = (_samples(trees[name], trees[f"{name}-segmentation"]) for name in (TRAIN, TEST))
    return Given(train, class_titles(trees[TRAIN].classes), test=test)


def _folders() -> tuple[str, ...]:
    return (TRAIN, f"{TRAIN}-segmentation", TEST, f"{TEST}-segmentation")


def _check_classes(root: Path, classes: Mapping[str, Collection[str]]) -> None:
    """Refuse a choice of classes: the values of the segmentations count all of a size."""
    for name in _folders()[1:]:
        require_same(root, {TRAIN: classes[TRAIN], name: classes[name]})
    if len(classes[TRAIN]) not in CLASSES:
        raise ValueError(
            f"{root} has {len(classes[TRAIN])} classes, ImageNet-S has {CLASSES[0]}, {CLASSES[1]} "
            f"or {CLASSES[2]}: give one of the folders ImageNetS50, ImageNetS300 and ImageNetS919"
        )


def _samples(images: Tree, masks: Tree) -> "Encoded":
    from attrreg.data.folder_trees import encoded_files

    paired = [f"{file.rpartition('.')[0]}.png" for file in images.files]
    if set(paired) != set(masks.files):
        odd = min(set(paired) ^ set(masks.files))
        wrong = "is missing" if odd in paired else "belongs to no image"
        raise ValueError(f"{masks.folder / odd} {wrong}: every image needs its segmentation")

    def mask(at: int) -> "Image":
        return _region(
            masks.folder / paired[at],
            images.folder / images.files[at],
            images.labels[at] + 1,
            len(images.classes),
        )

    return encoded_files(images.folder, images.files, images.labels, mask)


def _region(segmentation: Path, image: Path, own: int, classes: int) -> "Image":
    """Return where a segmentation names a class: red + 256 · green, from 1; 0 is background."""
    import numpy as np

    from attrreg.data.masks import mask_values, region_image

    colours = mask_values(segmentation, image, modes=("RGB",))
    values = colours[..., 0].astype(np.int64) + 256 * colours[..., 1].astype(np.int64)
    strange = values[(values > classes) & (values != IGNORED)]
    if strange.size:
        raise ValueError(
            f"{segmentation} names the class {strange[0]}, expected 0 … {classes} or {IGNORED}"
        )
    return region_image(values == own, image)
