"""Oxford-IIIT Pet: 37 breeds of cats and dogs, with a trimap of every image."""

from typing import TYPE_CHECKING, NamedTuple

from attrreg.entries import Archive, Dataset, ImageOptions

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image

    from attrreg.data.samples import Encoded, Given, Request

__all__ = ["DATASETS", "read"]

IMAGES = Archive(
    name="images.tar.gz",
    urls=("https://www.robots.ox.ac.uk/~vgg/data/pets/data/images.tar.gz",),
    digest="md5:5c4f3ee8e5d25df40f4fd59a7f44e54c",
    size=791_918_971,
    unpacked=3_000_000_000,
)
ANNOTATIONS = Archive(
    name="annotations.tar.gz",
    urls=("https://www.robots.ox.ac.uk/~vgg/data/pets/data/annotations.tar.gz",),
    digest="md5:95a8c909bbe2e81eed6a22bccdf3f68f",
    size=19_173_078,
    unpacked=200_000_000,
)
PET, BACKGROUND, BORDER = 1, 2, 3  # the values of a trimap

DATASETS = {
    "oxford-pets": Dataset(
        title="Oxford-IIIT Pet, breeds of cats and dogs",
        modality="image",
        classes=37,
        pool=3_312,
        validation=368,
        test=3_669,
        shape=(3, 224, 224),
        source="Parkhi et al., CVPR 2012",
        licence="CC BY-SA 4.0; the images belong to their owners",
        implementation="attrreg.data.known.oxford_pets:read",
        archives=(IMAGES, ANNOTATIONS),
        options=ImageOptions,
        regions=True,
    )
}


class Listed(NamedTuple):
    """A list of images without their ending, and of the class of each, from 0."""

    names: list[str]
    labels: list[int]


def read(request: "Request") -> "Given":
    """Return the pets; the validation split is drawn from the published "trainval".

    The region is the pet with the border of its trimap, a band that nobody assigned to pet or
    background and in which the outline lies: what is outside of the region is surely background.
    """
    from attrreg.data.folder_trees import list_files, unpacked
    from attrreg.data.formats import blaming
    from attrreg.data.samples import Given

    images = unpacked(request, IMAGES, lambda name: name.endswith(".jpg"))
    texts = unpacked(
        request, ANNOTATIONS, lambda name: name.endswith(".png") or name.count("/") == 1
    )
    with blaming(request.archives[ANNOTATIONS.name]):
        train, test = (
            _read_list(texts / "annotations" / name) for name in ("trainval.txt", "test.txt")
        )
        class_names = _class_names(train, test)
    with blaming(request.archives[IMAGES.name], request.archives[ANNOTATIONS.name]):
        held = list_files(images) | list_files(texts)
        for name in train.names + test.names:
            for member in (f"images/{name}.jpg", f"annotations/trimaps/{name}.png"):
                if member not in held:
                    raise ValueError(f"{name} is listed, but there is no {member}")
    return Given(
        _samples(train, images, texts, request),
        class_names,
        test=_samples(test, images, texts, request),
    )


def _read_list(path: "Path") -> Listed:
    """Read lines of image, class from 1, species and breed."""
    import numpy as np

    from attrreg.data.formats import check_labels, read_table

    rows = read_table(path, columns=4)
    try:
        numbers = np.array([int(row[1]) for row in rows], dtype=np.int64)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{path.name} has a class that is no number ({error})") from error
    labels = check_labels(numbers, range(1, len(rows) + 1), path.name) - 1
    return Listed([row[0] for row in rows], labels.tolist())


def _class_names(*lists: Listed) -> tuple[str, ...]:
    """Return the names of the classes, which those of the images begin with."""
    from attrreg.data.formats import refuse_repeats

    refuse_repeats([name for each in lists for name in each.names], ANNOTATIONS.name)
    found: dict[int, str] = {}
    for each in lists:
        for name, label in zip(each.names, each.labels, strict=True):
            breed = name.rpartition("_")[0]
            if found.setdefault(label, breed) != breed:
                raise ValueError(
                    f"{ANNOTATIONS.name} lists {name} in class {label + 1}, which is "
                    f"{found[label]!r}"
                )
    if sorted(found) != list(range(len(found))):
        raise ValueError(f"{ANNOTATIONS.name} lists the classes {[1 + at for at in sorted(found)]}")
    return tuple(found[label].replace("_", " ") for label in range(len(found)))


def _samples(listed: Listed, images: "Path", texts: "Path", request: "Request") -> "Encoded":
    from attrreg.data.folder_trees import encoded_files

    files = [f"images/{name}.jpg" for name in listed.names]
    archives = (request.archives[IMAGES.name], request.archives[ANNOTATIONS.name])

    def mask(at: int) -> "Image":
        trimap = texts / "annotations" / "trimaps" / f"{listed.names[at]}.png"
        return _region(trimap, images / files[at], archives)

    return encoded_files(images, files, listed.labels, mask)


def _region(trimap: "Path", image: "Path", archives: "tuple[Path, Path]") -> "Image":
    import numpy as np

    from attrreg.data.formats import blaming
    from attrreg.data.masks import mask_values, region_image

    with blaming(*archives):
        values = mask_values(trimap, image, modes=("L", "P"))
        strange = set(np.unique(values).tolist()) - {PET, BACKGROUND, BORDER}
        if strange:
            raise ValueError(
                f"trimap {trimap.name} has the values {sorted(strange)}, expected {PET} (pet), "
                f"{BACKGROUND} (background), {BORDER} (border)"
            )
    return region_image(values != BACKGROUND, image)
