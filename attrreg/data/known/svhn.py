"""Street View House Numbers, the cropped digits: 32×32, colour; without the "extra" part."""

from typing import TYPE_CHECKING

from attrreg.entries import Archive, Dataset

if TYPE_CHECKING:
    from attrreg.data.samples import Arrays, Given, Request

__all__ = ["DATASETS", "read"]


def _archive(name: str, md5: str, size: int) -> Archive:
    url = f"http://ufldl.stanford.edu/housenumbers/{name}"
    return Archive(name, (url,), f"md5:{md5}", size, unpacked=800_000_000)


TRAIN = _archive("train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373", 182_040_794)
TEST = _archive("test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3", 64_275_384)

DATASETS = {
    "svhn": Dataset(
        title="SVHN, house numbers, cropped digits",
        modality="image",
        classes=10,
        pool=65_931,
        validation=7_326,
        test=26_032,
        shape=(3, 32, 32),
        source="Netzer et al., NIPS workshop on deep learning 2011",
        licence="non-commercial use only",
        implementation="attrreg.data.known.svhn:read",
        archives=(TRAIN, TEST),
    )
}


def read(request: "Request") -> "Given":
    """Return SVHN; the validation split is drawn from its 73,257 training digits.

    The digit 0, which is labelled 10 in the files, is class 0.
    """
    from attrreg.data.samples import Given

    return Given(_split(request, TRAIN), tuple("0123456789"), test=_split(request, TEST))


def _split(request: "Request", archive: Archive) -> "Arrays":
    import numpy as np

    from attrreg.data.formats import blaming, check_labels, read_matlab
    from attrreg.data.samples import Arrays

    path = request.archives[archive.name]
    with blaming(path):
        held = read_matlab(path, ("X", "y"), archive.unpacked)
        x, y = held["X"], check_labels(held["y"], range(1, 11), f"'y' of {path.name}")
        if x.dtype != np.uint8 or x.shape != (32, 32, 3, len(y)):
            raise ValueError(
                f"'X' of {path.name} is {x.dtype} {x.shape}, expected uint8 (32, 32, 3, {len(y)})"
            )
    return Arrays(x.transpose(3, 2, 0, 1), y % 10)
