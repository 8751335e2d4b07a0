"""Caltech-UCSD Birds 200 (2011): 200 species, with a segmentation and a box of every bird."""

from typing import TYPE_CHECKING, NamedTuple

from attrreg.entries import Archive, Dataset, ImageOptions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from PIL.Image import Image

    from attrreg.data.samples import Encoded, Given, Request

__all__ = ["DATASETS", "read", "read_boxes"]

BIRDS = Archive(
    name="CUB_200_2011.tgz",
    urls=("https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",),
    digest="md5:97eceeb196236b17998738112f37df78",
    size=1_150_585_339,
    unpacked=4_500_000_000,
)
SEGMENTATIONS = Archive(
    name="segmentations.tgz",
    urls=("https://data.caltech.edu/records/w9d68-gec53/files/segmentations.tgz",),
    digest="md5:4d47ba1228eae64f2fa547c47bc65255",
    size=39_272_883,
    unpacked=300_000_000,
)
FOLDER = "CUB_200_2011"
LISTS = ("images", "image_class_labels", "train_test_split", "bounding_boxes", "classes")
HALF = 128  # of 255: the value of a pixel is the share of annotators who saw the bird there


def _entry(title: str, reader: str, *archives: Archive) -> Dataset:
    return Dataset(
        title=title,
        modality="image",
        classes=200,
        pool=5_395,
        validation=599,
        test=5_794,
        shape=(3, 224, 224),
        source="Wah et al., technical report CNS-TR-2011-001, Caltech, 2011",
        licence="non-commercial research and education only; the images belong to their owners",
        implementation=f"attrreg.data.known.cub200:{reader}",
        archives=archives,
        options=ImageOptions,
        regions=True,
    )


DATASETS = {
    "cub200": _entry("CUB-200-2011, birds, segmented", "read", BIRDS, SEGMENTATIONS),
    "cub200-boxes": _entry("CUB-200-2011, birds, in boxes", "read_boxes", BIRDS),
}


class Bird(NamedTuple):
    """A line of the lists: the file below "images", its class from 0, its split and its box."""

    file: str
    label: int
    training: bool
    box: tuple[float, ...]


def read(request: "Request") -> "Given":
    """Return the birds; the region is where most annotators saw the bird.

    The validation split is drawn from the published training images.
    """
    from attrreg.data.folder_trees import list_files, unpacked
    from attrreg.data.formats import blaming
    from attrreg.data.masks import mask_values, region_image

    birds, class_names, images = _read_lists(request)
    masks = unpacked(request, SEGMENTATIONS, lambda name: name.endswith(".png"))
    archives = (request.archives[BIRDS.name], request.archives[SEGMENTATIONS.name])
    held = list_files(masks)
    with blaming(*archives):
        for bird in birds:
            if _mask_name(bird.file) not in held:
                raise ValueError(f"{SEGMENTATIONS.name} has no {_mask_name(bird.file)}")

    def region(bird: Bird) -> "Image":
        with blaming(*archives):
            values = mask_values(masks / _mask_name(bird.file), images / bird.file)
        return region_image(values >= HALF, images / bird.file)

    return _given(birds, class_names, images, region)


def read_boxes(request: "Request") -> "Given":
    """Return the birds; the region is the box around the bird, as `read` otherwise."""
    from attrreg.data.formats import blaming
    from attrreg.data.masks import box_region

    birds, class_names, images = _read_lists(request)

    def region(bird: Bird) -> "Image":
        with blaming(request.archives[BIRDS.name]):
            return box_region(images / bird.file, bird.box)

    return _given(birds, class_names, images, region)


def _mask_name(file: str) -> str:
    return f"segmentations/{file.rpartition('.')[0]}.png"


def _given(
    birds: list[Bird],
    class_names: tuple[str, ...],
    images: "Path",
    region: "Callable[[Bird], Image]",
) -> "Given":
    from attrreg.data.folder_trees import encoded_files
    from attrreg.data.samples import Given

    def samples(training: bool) -> "Encoded":
        those = [bird for bird in birds if bird.training == training]
        files, labels = [bird.file for bird in those], [bird.label for bird in those]
        return encoded_files(images, files, labels, lambda at: region(those[at]))

    return Given(samples(True), class_names, test=samples(False))


def _read_lists(request: "Request") -> "tuple[list[Bird], tuple[str, ...], Path]":
    """Return every bird in the order of the lists, the names of the classes, and the images."""
    from attrreg.data.folder_trees import list_files, unpacked
    from attrreg.data.formats import blaming

    lists = {f"{FOLDER}/{name}.txt" for name in LISTS}
    place = unpacked(
        request, BIRDS, lambda name: name in lists or name.startswith(f"{FOLDER}/images/")
    )
    with blaming(request.archives[BIRDS.name]):
        tables = {name: _keyed(place / FOLDER / f"{name}.txt") for name in LISTS}
        birds = _join(tables)
        held = list_files(place / FOLDER / "images")
        for bird in birds:
            if bird.file not in held:
                raise ValueError(f"images.txt lists {bird.file}, which is not among the images")
    names = [row[0].partition(".")[2].replace("_", " ") for row in tables["classes"].values()]
    return birds, tuple(names), place / FOLDER / "images"


def _keyed(path: "Path") -> dict[str, list[str]]:
    """Return the fields of a list by its first, the number of an image or class."""
    from attrreg.data.formats import read_table, refuse_repeats

    rows = read_table(path, columns=5 if path.stem == "bounding_boxes" else 2)
    refuse_repeats([row[0] for row in rows], path.name)
    return {row[0]: row[1:] for row in rows}


def _join(tables: dict[str, dict[str, list[str]]]) -> list[Bird]:
    """Put together what the lists say of each image, or raise where they do not agree."""
    from attrreg.data.formats import refuse_repeats

    images, classes = tables["images"], list(tables["classes"].items())
    for name in LISTS[:4]:
        if tables[name].keys() != images.keys():
            other = sorted(tables[name].keys() ^ images.keys())[0]
            raise ValueError(f"image {other} is in one only of images.txt and {name}.txt")
    if [number for number, _ in classes] != [str(at + 1) for at in range(len(classes))]:
        raise ValueError(f"classes.txt does not count its classes 1 … {len(classes)}")
    refuse_repeats([row[0] for row in images.values()], "images.txt")
    places = {number: (at, row[0]) for at, (number, row) in enumerate(classes)}
    birds = []
    for number, (file,) in images.items():
        (label,), (training,) = (tables[name][number] for name in LISTS[1:3])
        at, folder = places.get(label, (0, ""))
        if folder != file.partition("/")[0]:
            raise ValueError(f"image_class_labels.txt puts {file} into class {label}")
        if training not in {"0", "1"}:
            raise ValueError(f"train_test_split.txt says {training!r} of {file}, expected 0 or 1")
        birds.append(Bird(file, at, training == "1", _box(tables["bounding_boxes"][number], file)))
    return birds


def _box(fields: list[str], file: str) -> tuple[float, ...]:
    try:
        return tuple(float(field) for field in fields)
    except ValueError as error:
        raise ValueError(f"bounding_boxes.txt gives {file} the box {fields}") from error
