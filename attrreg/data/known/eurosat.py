"""EuroSAT: land use seen by the Sentinel-2 satellite, 64×64; the version of three channels."""

from typing import TYPE_CHECKING

from attrreg.entries import Archive, Dataset, ImageOptions

if TYPE_CHECKING:
    from attrreg.data.samples import Given, Request

__all__ = ["DATASETS", "read"]

ARCHIVE = Archive(
    name="EuroSAT.zip",
    urls=(
        "https://huggingface.co/datasets/torchgeo/eurosat/resolve/"
        "c877bcd43f099cd0196738f714544e355477f3fd/EuroSAT.zip",
    ),
    digest="md5:c8fa014336c82ac7804f0398fcb19387",
    size=94_280_567,
    unpacked=400_000_000,
)
FOLDER = "2750"

DATASETS = {
    "eurosat": Dataset(
        title="EuroSAT, land use seen from space",
        modality="image",
        classes=10,
        pool=18_900,
        validation=2_700,
        test=5_400,
        shape=(3, 64, 64),
        source="Helber et al., IEEE J-STARS 12(7), 2019",
        licence="MIT",
        implementation="attrreg.data.known.eurosat:read",
        archives=(ARCHIVE,),
        options=ImageOptions,
    )
}


def read(request: "Request") -> "Given":
    """Return the 27,000 images of EuroSAT; no split is published, so test and validation are drawn.

    Neighbouring tiles may be in different splits: the archive does not say where a tile lies.
    """
    from attrreg.data.folder_trees import encoded_files, read_tree, unpacked
    from attrreg.data.formats import blaming
    from attrreg.data.samples import Given

    place = unpacked(request, ARCHIVE) / FOLDER
    with blaming(request.archives[ARCHIVE.name]):
        tree = read_tree(place)
    return Given(encoded_files(tree.folder, tree.files, tree.labels), tree.classes)
