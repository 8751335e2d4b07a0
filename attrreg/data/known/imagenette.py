"""Imagenette of 2019, the shorter side at 160 pixels: ten easily told ImageNet classes."""

from typing import TYPE_CHECKING

from attrreg.entries import Archive, Dataset, ImageOptions

if TYPE_CHECKING:
    from attrreg.data.samples import Given, Request

__all__ = ["DATASETS", "read"]

ARCHIVE = Archive(
    name="imagenette2-160.tgz",
    urls=("https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-160.tgz",),
    digest="md5:e793b78cc4c9e9a4ccc0c1155377a412",
    unpacked=400_000_000,
)
FOLDER = "imagenette2-160"
CLASSES = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}

DATASETS = {
    "imagenette": Dataset(
        title="Imagenette, ten easily told ImageNet classes",
        modality="image",
        classes=10,
        pool=8_522,
        validation=947,
        test=3_925,
        shape=(3, 224, 224),
        source="Howard, github.com/fastai/imagenette; images of ILSVRC 2012",
        licence="Apache 2.0 for the selection; the images under ImageNet's terms, non-commercial "
        "research and education",
        implementation="attrreg.data.known.imagenette:read",
        archives=(ARCHIVE,),
        options=ImageOptions,
    )
}


def read(request: "Request") -> "Given":
    """Return Imagenette; its "val" is the test split, and validation is drawn from its "train"."""
    from attrreg.data.folder_trees import encoded_files, read_tree, unpacked
    from attrreg.data.formats import blaming
    from attrreg.data.samples import Given

    place = unpacked(request, ARCHIVE, lambda name: not name.endswith(".csv")) / FOLDER
    with blaming(request.archives[ARCHIVE.name]):
        train, test = (read_tree(place / split) for split in ("train", "val"))
        for tree in (train, test):
            if tree.classes != tuple(CLASSES):
                raise ValueError(
                    f"{ARCHIVE.name} has in {FOLDER}/{tree.folder.name} the folders "
                    f"{list(tree.classes)}, expected {list(CLASSES)}"
                )
    return Given(
        encoded_files(train.folder, train.files, train.labels),
        tuple(CLASSES.values()),
        test=encoded_files(test.folder, test.files, test.labels),
    )
