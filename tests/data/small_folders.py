"""Small datasets of one's own: folders of images in the layouts that prefixes stand for."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from small_files import (
    Builder,
    Part,
    Rng,
    Small,
    part_of,
    part_of_tree,
    patch,
    png,
    stored_size,
    tree,
)

from attrreg import catalogue
from attrreg.data.synsets import class_titles, synsets
from attrreg.entries import Dataset

__all__ = ["FOLDER_BUILDERS"]


def write_members(folder: Path, members: Mapping[str, bytes]) -> Path:
    """Write members as files below a folder."""
    for name, content in members.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def inspected(prefix: str, folder: Path) -> Dataset:
    """Return what an inspection of a folder says."""
    options = catalogue.OPTIONS[prefix]()
    return catalogue.load(catalogue.SOURCES[prefix])(str(folder), options)


def build_imagenet(folder: Path, rng: Rng) -> Small:
    """Write four WordNet ids in "train" and "val", and files that are no images."""
    ids = ["n01440764", "n02012849", "n03126707", "n15075141"]
    members = tree("train", ids, 5, rng, "JPEG") | tree("val", ids, 2, rng, "JPEG")
    home = write_members(folder / "imagenet", members)
    write_members(home, {"train/n01440764/notes.txt": b"-", "val/.DS_Store": b"-"})
    train, test = (part_of_tree(members, split, ids) for split in ("train", "val"))
    titles = ("tench, Tinca tinca", "crane (n02012849)", "crane (n03126707)")
    titles = (*titles, "toilet tissue, toilet paper, bathroom tissue")
    return Small(inspected("imagenet", home), {}, titles, train, test=test)


def build_test_only(prefix: str) -> Builder:
    """Return the builder of a test set that is labelled by ImageNet's 1,000 classes."""

    def builder(folder: Path, rng: Rng) -> Small:
        numbers = {"n01440764": 0, "n01443537": 1, "n15075141": 999}
        members = tree(prefix, list(numbers), 3, rng, "jpg")
        home = write_members(folder, members) / prefix
        write_members(home, {"README.txt": b"-"})
        found = part_of_tree(members, prefix, list(numbers))
        test = Part(found.x, np.array(list(numbers.values()))[found.y])
        nothing = Part([], np.empty(0, dtype=np.int64))
        return Small(inspected(prefix, home), {}, class_titles(synsets()), nothing, test=test)

    return builder


def build_imagenet_s(folder: Path, rng: Rng) -> Small:
    """Write the 50 classes of the smallest size with segmentations of several classes."""
    home, ids, parts = folder / "ImageNetS50", synsets()[::20], []
    for split, each in (("train-semi", 3), ("validation", 1)):
        images = tree(split, ids, each, rng, "JPEG")
        masks, regions = {}, {}
        for at, (name, content) in enumerate(images.items()):
            _, own, file = name.split("/")
            region, other = (patch(rng, *stored_size(content)) for _ in range(2))
            # class numbers count from 1; some pixels belong to others or are left out
            value = np.where(other, rng.choice([1000, 1, 50]), 0)
            if at != 7:  # which has no pixel of its own class
                value[region] = 1 + ids.index(own)
            regions[name] = value == 1 + ids.index(own)
            colours = np.stack([value % 256, value // 256, 0 * value], axis=-1)
            masks[f"{split}-segmentation/{own}/{file.partition('.')[0]}.png"] = png(
                colours.astype(np.uint8)
            )
        write_members(home, images | masks)
        y = [ids.index(name.split("/")[1]) for name in sorted(images)]
        parts.append(part_of(sorted(images), images, y, regions))
    entry = inspected("imagenet-s", home)
    return Small(entry, {}, class_titles(ids), parts[0], test=parts[1])


FOLDER_BUILDERS: dict[str, Builder] = {
    "imagenet": build_imagenet,
    "imagenet-r": build_test_only("imagenet-r"),
    "imagenet-a": build_test_only("imagenet-a"),
    "imagenet-o": build_test_only("imagenet-o"),
    "imagenet-s": build_imagenet_s,
}
