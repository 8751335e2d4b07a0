"""STL-10: 96×96, colour; the 100,000 images without labels are left in the archive."""

from typing import TYPE_CHECKING

from attrreg.entries import Archive, Dataset

if TYPE_CHECKING:
    from attrreg.data.samples import Given, Request

__all__ = ["DATASETS", "read"]

ARCHIVE = Archive(
    name="stl10_binary.tar.gz",
    urls=("http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",),
    digest="md5:91f7769df0f17e558f3565bffb0c7dfb",
    size=2_640_397_119,
    unpacked=10_000_000_000,
)
FOLDER = "stl10_binary"

DATASETS = {
    "stl10": Dataset(
        title="STL-10, natural images",
        modality="image",
        classes=10,
        pool=4_500,
        validation=500,
        test=8_000,
        shape=(3, 96, 96),
        source="Coates, Lee and Ng, AISTATS 2011",
        licence="none stated by the publisher; the images are from ImageNet",
        implementation="attrreg.data.known.stl10:read",
        archives=(ARCHIVE,),
    )
}


def read(request: "Request") -> "Given":
    """Return STL-10; the validation split is drawn from its 5,000 labelled training images."""
    from attrreg.data.folder_trees import unpacked
    from attrreg.data.formats import blaming, read_lines, read_stl
    from attrreg.data.samples import Arrays, Given

    names = ("class_names.txt", "train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin")
    members = {f"{FOLDER}/{name}" for name in names}
    place = unpacked(request, ARCHIVE, members.__contains__) / FOLDER
    with blaming(request.archives[ARCHIVE.name]):
        classes = tuple(read_lines(place / "class_names.txt"))
        train, test = (
            Arrays(*read_stl(place / f"{split}_X.bin", place / f"{split}_y.bin", len(classes)))
            for split in ("train", "test")
        )
    return Given(train, classes, test=test)
