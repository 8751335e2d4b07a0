"""Small archives of every known dataset in its true format, and what must be read from them.

Members, folders, heads and layouts are those of the published files; pixels, and how many there
are, are not. A builder is given a folder and a random generator, and writes always the same.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from small_files import (
    Builder,
    Part,
    Rng,
    Small,
    encode,
    every_class,
    idx,
    noise,
    part_of,
    part_of_tree,
    patch,
    png,
    stored_size,
    tar_gz,
    tree,
    write_matlab,
    written,
    zip_archive,
)
from small_folders import FOLDER_BUILDERS

from attrreg import catalogue
from attrreg.data.known.flowers102 import CLASSES as FLOWERS
from attrreg.data.known.imagenette import CLASSES as EASY
from attrreg.entries import Archive

__all__ = ["BUILDERS", "FOLDER_BUILDERS", "Part", "Small", "build"]


def build(name: str, folder: Path, rng: Rng) -> Small:
    """Write a small dataset into a folder: one of `BUILDERS` or of `FOLDER_BUILDERS`."""
    folder.mkdir(parents=True, exist_ok=True)
    return {**BUILDERS, **FOLDER_BUILDERS}[name](folder, rng)


def small(
    name: str,
    files: Mapping[str, Path],
    class_names: Sequence[str],
    train: Part,
    validation: Part | None = None,
    test: Part | None = None,
    drawn: Mapping[str, int] | None = None,
) -> Small:
    """Put a small dataset together; `drawn` is how many of each split are taken from "train"."""
    entry, drawn = catalogue.DATASETS[name], drawn or {}
    given = {"validation": validation, "test": test}
    counts = {split: len(part.y) for split, part in given.items() if part is not None} | drawn
    entry = replace(
        entry,
        classes=len(class_names),
        pool=len(train.y) - sum(drawn.values()),
        archives=tuple(described(each, files[each.name]) for each in entry.archives),
        **counts,
    )
    return Small(entry, dict(files), tuple(class_names), train, validation, test)


def described(archive: Archive, path: Path) -> Archive:
    """Return an archive with the digest and the size of a file."""
    content = path.read_bytes()
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    return replace(archive, digest=f"md5:{md5}", size=len(content))


def build_mnist(name: str, class_names: Sequence[str]) -> Builder:
    """Return the builder of a dataset of four idx files."""

    def builder(folder: Path, rng: Rng) -> Small:
        files, parts = {}, []
        for prefix, each in (("train", 6), ("t10k", 2)):
            y = every_class(rng, 10, each)
            x = noise(rng, len(y), 28, 28)
            for content, file in ((x, "images-idx3"), (y, "labels-idx1")):
                path = folder / f"{prefix}-{file}-ubyte.gz"
                path.write_bytes(idx(content))
                files[path.name] = path
            parts.append(Part(x[:, None], y))
        return small(name, files, class_names, parts[0], test=parts[1], drawn={"validation": 20})

    return builder


def build_cifar10(folder: Path, rng: Rng) -> Small:
    """Write five batches of ten classes, and a test batch."""
    names = [
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ]
    home, members, parts = "cifar-10-batches-bin", {}, []
    members[f"{home}/batches.meta.txt"] = ("\n".join(names) + "\n\n").encode()
    files = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
    for file in files:
        y = every_class(rng, 10, 2)
        x = noise(rng, len(y), 3, 32, 32)
        members[f"{home}/{file}"] = b"".join(
            bytes([label]) + pixels.tobytes() for label, pixels in zip(y, x, strict=True)
        )
        parts.append((x, y))
    members[f"{home}/readme.html"] = b"<html></html>"
    path = tar_gz(folder / "cifar-10-binary.tar.gz", members)
    x, y = (np.concatenate(each) for each in zip(*parts[:5], strict=True))
    drawn = {"validation": 20}
    return small("cifar10", {path.name: path}, names, Part(x, y), test=Part(*parts[5]), drawn=drawn)


def build_cifar100(folder: Path, rng: Rng) -> Small:
    """Write records of a coarse and a fine label."""
    names = [f"thing_{number}" for number in range(100)]
    home, parts = "cifar-100-binary", []
    members = {
        f"{home}/coarse_label_names.txt": "\n".join(f"things_{at}" for at in range(20)).encode(),
        f"{home}/fine_label_names.txt": ("\n".join(names) + "\n").encode(),
    }
    for file, each in (("train.bin", 2), ("test.bin", 1)):
        y = every_class(rng, 100, each)
        x, coarse = noise(rng, len(y), 3, 32, 32), rng.integers(0, 20, len(y))
        members[f"{home}/{file}"] = b"".join(
            bytes(labels) + pixels.tobytes()
            for labels, pixels in zip(zip(coarse, y, strict=True), x, strict=True)
        )
        parts.append(Part(x, y))
    path = tar_gz(folder / "cifar-100-binary.tar.gz", members)
    drawn = {"validation": 100}
    return small("cifar100", {path.name: path}, names, parts[0], test=parts[1], drawn=drawn)


def build_svhn(folder: Path, rng: Rng) -> Small:
    """Write MATLAB files, samples last, the digit 0 labelled 10."""
    files, parts = {}, []
    for file, each in (("train_32x32.mat", 5), ("test_32x32.mat", 2)):
        y = every_class(rng, 10, each)
        x = noise(rng, len(y), 3, 32, 32)
        labels = np.where(y == 0, 10, y).astype(np.uint8)[:, None]
        files[file] = write_matlab(folder / file, {"X": x.transpose(2, 3, 1, 0), "y": labels})
        parts.append(Part(x, y))
    return small("svhn", files, "0123456789", parts[0], test=parts[1], drawn={"validation": 10})


def build_stl10(folder: Path, rng: Rng) -> Small:
    """Write images column by column, labels from 1, and images without labels."""
    names = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]
    home, parts = "stl10_binary", []
    members = {f"{home}/class_names.txt": ("\n".join(names) + "\n").encode()}
    for split, each in (("train", 3), ("test", 2)):
        y = every_class(rng, 10, each)
        x = noise(rng, len(y), 3, 96, 96)
        members[f"{home}/{split}_X.bin"] = x.transpose(0, 1, 3, 2).tobytes()
        members[f"{home}/{split}_y.bin"] = (y + 1).astype(np.uint8).tobytes()
        parts.append(Part(x, y))
    members[f"{home}/unlabeled_X.bin"] = noise(rng, 2, 3, 96, 96).tobytes()
    members[f"{home}/fold_indices.txt"] = b"0 1 2\n"
    path = tar_gz(folder / "stl10_binary.tar.gz", members)
    drawn = {"validation": 10}
    return small("stl10", {path.name: path}, names, parts[0], test=parts[1], drawn=drawn)


def build_flowers102(folder: Path, rng: Rng) -> Small:
    """Write numbered images, their labels from 1, and the numbers of three splits."""
    y = every_class(rng, 102, 3)
    images = {f"jpg/image_{number:05d}.jpg": encode(rng) for number in range(1, len(y) + 1)}
    by_class = np.argsort(y).reshape(102, 3) + 1  # the numbers of the images of each class
    numbers = [rng.permutation(by_class[:, at]) for at in range(3)]
    ids = dict(zip(("trnid", "valid", "tstid"), numbers, strict=True))
    files = {
        "102flowers.tgz": tar_gz(folder / "102flowers.tgz", images),
        "imagelabels.mat": write_matlab(
            folder / "imagelabels.mat", {"labels": (y + 1).astype(np.uint8)[None]}
        ),
        "setid.mat": write_matlab(
            folder / "setid.mat", {name: each.astype(np.uint16)[None] for name, each in ids.items()}
        ),
    }
    parts = [
        Part([images[f"jpg/image_{number:05d}.jpg"] for number in each], y[each - 1])
        for each in numbers
    ]
    return small("flowers102", files, FLOWERS, *parts)


def build_oxford_pets(folder: Path, rng: Rng) -> Small:
    """Write breeds with trimaps, and the oddities of the published archives."""
    breeds = [f"{'Cat' if at % 3 else 'dog'}_breed_{at:02d}" for at in range(37)]
    listed = {
        split: [f"{breed}_{first + number}" for breed in breeds for number in range(each)]
        for split, first, each in (("trainval", 1, 2), ("test", 100, 1))
    }
    images, trimaps = {}, {}
    for at, name in enumerate(listed["trainval"] + listed["test"]):
        # some of the published images are PNG with an alpha channel, whatever they are called
        odd = {"kind": "PNG", "mode": "RGBA"} if at == 3 else {}
        images[name] = encode(rng, **odd, turned=(1, 1, 6, 1, 3, 8)[at] if at < 6 else 1)
        pet = patch(rng, *stored_size(images[name]))
        inner = pet & np.roll(pet, 1, 0) & np.roll(pet, 1, 1)
        trimaps[name] = np.where(inner, 1, np.where(pet, 3, 2)).astype(np.uint8)
    members = {f"images/{name}.jpg": content for name, content in images.items()}
    members["images/Abyssinian_100.mat"] = b"MATLAB 5.0"
    notes = {f"annotations/trimaps/{name}.png": png(each) for name, each in trimaps.items()}
    notes["annotations/trimaps/._cat.png"] = b"\x00\x05\x16\x07"
    notes["annotations/xmls/cat.xml"] = b"<annotation/>"
    parts = {}
    for split, names in listed.items():
        y = [breeds.index(name.rpartition("_")[0]) for name in names]
        lines = [f"{name} {1 + at} 1 1" for name, at in zip(names, y, strict=True)]
        notes[f"annotations/{split}.txt"] = ("\n".join(lines) + "\n").encode()
        regions = {name: trimaps[name] != 2 for name in names}
        parts[split] = part_of(names, images, y, regions)
    files = {
        "images.tar.gz": tar_gz(folder / "images.tar.gz", members),
        "annotations.tar.gz": tar_gz(folder / "annotations.tar.gz", notes),
    }
    titles = [breed.replace("_", " ") for breed in breeds]
    train, test = parts["trainval"], parts["test"]
    return small("oxford-pets", files, titles, train, test=test, drawn={"validation": 37})


def build_cub200(folder: Path, rng: Rng) -> Small:
    """Write birds with segmentations."""
    return _birds(folder, rng, "cub200")


def build_cub200_boxes(folder: Path, rng: Rng) -> Small:
    """Write birds with boxes."""
    return _birds(folder, rng, "cub200-boxes")


def _birds(folder: Path, rng: Rng, name: str) -> Small:
    home = "CUB_200_2011"
    classes = [f"{at:03d}.Small_footed_Bird_{at}" for at in range(1, 6)]
    files = [f"{folder}/Bird_{number:04d}_7.jpg" for folder in classes for number in range(6)]
    y = [at for at in range(5) for _ in range(6)]
    images, regions, masks, boxes = {}, {}, {}, []
    for at, file in enumerate(files):
        images[file] = encode(rng, mode="L" if at == 1 else "RGB", turned=6 if at == 2 else 1)
        inside = patch(rng, *stored_size(images[file]))
        votes = np.where(inside, rng.choice([153, 204, 255]), rng.choice([0, 51, 102]))
        mask = Image.fromarray(votes.astype(np.uint8))
        masks[f"segmentations/{file.removesuffix('.jpg')}.png"] = written(
            mask.convert("LA") if at == 4 else mask, "PNG"
        )
        rows, columns = (np.flatnonzero(inside.any(axis)) for axis in (1, 0))
        left, top = float(columns[0]), float(rows[0])
        boxes.append((left, top, columns[-1] + 1 - left, rows[-1] + 1 - top))
        regions[file] = inside
    training = [at % 6 < 4 for at in range(len(files))]
    lists = {
        "images.txt": files,
        "image_class_labels.txt": [1 + each for each in y],
        "train_test_split.txt": [int(each) for each in training],
        "bounding_boxes.txt": [" ".join(map(str, box)) for box in boxes],
    }
    members = {
        f"{home}/{file}": "".join(f"{1 + at} {row}\n" for at, row in enumerate(rows)).encode()
        for file, rows in {**lists, "classes.txt": classes}.items()
    }
    members |= {f"{home}/images/{file}": content for file, content in images.items()}
    members |= {f"{home}/attributes/certainties.txt": b"1 guessing\n", "attributes.txt": b"1 a\n"}
    archives = {"CUB_200_2011.tgz": members}
    if name == "cub200":
        archives["segmentations.tgz"] = masks
    paths = {file: tar_gz(folder / file, each) for file, each in archives.items()}
    train, test = (
        part_of(
            [file for file, each in zip(files, training, strict=True) if each == wanted],
            images,
            [label for label, each in zip(y, training, strict=True) if each == wanted],
            regions,
        )
        for wanted in (True, False)
    )
    titles = [each[4:].replace("_", " ") for each in classes]
    return small(name, paths, titles, train, test=test, drawn={"validation": 5})


def build_imagenette(folder: Path, rng: Rng) -> Small:
    """Write ten WordNet ids in "train" and "val"."""
    home, ids = "imagenette2-160", sorted(EASY)
    members = tree(f"{home}/train", ids, 3, rng, "JPEG") | tree(f"{home}/val", ids, 2, rng, "JPEG")
    members[f"{home}/noisy_imagenette.csv"] = b"path,noisy_labels_0\n"
    path = tar_gz(folder / "imagenette2-160.tgz", members)
    train, test = (part_of_tree(members, f"{home}/{split}", ids) for split in ("train", "val"))
    titles = [EASY[each] for each in ids]
    return small(
        "imagenette", {path.name: path}, titles, train, test=test, drawn={"validation": 10}
    )


def build_eurosat(folder: Path, rng: Rng) -> Small:
    """Write ten folders of 64×64 images without splits."""
    classes = (
        *("AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial", "Pasture"),
        *("PermanentCrop", "Residential", "River", "SeaLake"),
    )
    members = {
        f"2750/{name}/{name}_{number}.jpg": written(Image.fromarray(noise(rng, 64, 64, 3)), "JPEG")
        for name in classes
        for number in range(1, 13)  # so that _10 sorts before _2
    }
    path = zip_archive(folder / "EuroSAT.zip", members)
    train = part_of_tree(members, "2750", classes)
    drawn = {"validation": 10, "test": 20}
    return small("eurosat", {path.name: path}, classes, train, drawn=drawn)


CLOTHES = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot"
BUILDERS: dict[str, Builder] = {
    "mnist": build_mnist("mnist", "0123456789"),
    "fashion-mnist": build_mnist("fashion-mnist", CLOTHES.split(",")),
    "kmnist": build_mnist("kmnist", ["o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"]),
    "cifar10": build_cifar10,
    "cifar100": build_cifar100,
    "svhn": build_svhn,
    "stl10": build_stl10,
    "flowers102": build_flowers102,
    "oxford-pets": build_oxford_pets,
    "cub200": build_cub200,
    "cub200-boxes": build_cub200_boxes,
    "imagenette": build_imagenette,
    "eurosat": build_eurosat,
}
