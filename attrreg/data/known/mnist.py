"""MNIST and the two datasets made in its image: Fashion-MNIST and Kuzushiji-MNIST; 28×28, grey."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from attrreg.entries import Archive, Dataset

if TYPE_CHECKING:
    from pathlib import Path

    from attrreg.data.samples import Arrays, Given, Request

__all__ = ["DATASETS", "read_fashion_mnist", "read_kmnist", "read_mnist"]

# The parts: their archives, and bounds of what these unpack to.
PARTS = {
    ("train", "images"): ("train-images-idx3-ubyte.gz", 200_000_000),
    ("train", "labels"): ("train-labels-idx1-ubyte.gz", 250_000),
    ("test", "images"): ("t10k-images-idx3-ubyte.gz", 30_000_000),
    ("test", "labels"): ("t10k-labels-idx1-ubyte.gz", 40_000),
}

DIGITS = tuple("0123456789")
CLOTHES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
SYLLABLES = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")


def _archives(
    mirrors: Sequence[str], digests: Sequence[str], sizes: Sequence[int]
) -> tuple[Archive, ...]:
    return tuple(
        Archive(name, tuple(f"{mirror}{name}" for mirror in mirrors), f"md5:{md5}", size, bound)
        for (name, bound), md5, size in zip(PARTS.values(), digests, sizes, strict=True)
    )


def _entry(
    title: str, source: str, licence: str, reader: str, archives: tuple[Archive, ...]
) -> Dataset:
    return Dataset(
        title=title,
        modality="image",
        classes=10,
        pool=55_000,
        validation=5_000,
        test=10_000,
        shape=(1, 28, 28),
        source=source,
        licence=licence,
        implementation=f"attrreg.data.known.mnist:{reader}",
        archives=archives,
    )


DATASETS = {
    "mnist": _entry(
        title="MNIST, handwritten digits",
        source="LeCun, Cortes and Burges; LeCun et al., Proceedings of the IEEE 86(11), 1998",
        licence="none stated by the publisher; commonly given as CC BY-SA 3.0",
        reader="read_mnist",
        archives=_archives(
            mirrors=(
                "https://ossci-datasets.s3.amazonaws.com/mnist/",
                "http://yann.lecun.com/exdb/mnist/",
            ),
            digests=(
                "f68b3c2dcbeaaa9fbdd348bbdeb94873",
                "d53e105ee54ea40749a09fcbcd1e9432",
                "9fb629c4189551a2d022fa330f9573f3",
                "ec29112dd5afa0611ce80d1b7f02629c",
            ),
            sizes=(9_912_422, 28_881, 1_648_877, 4_542),
        ),
    ),
    "fashion-mnist": _entry(
        title="Fashion-MNIST, articles of clothing",
        source="Xiao, Rasul and Vollgraf, arXiv 1708.07747",
        licence="MIT",
        reader="read_fashion_mnist",
        archives=_archives(
            mirrors=("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
            digests=(
                "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
                "25c81989df183df01b3e8a0aad5dffbe",
                "bef4ecab320f06d8554ea6380940ec79",
                "bb300cfdad3c16e7a12a480ee83cd310",
            ),
            sizes=(26_421_880, 29_515, 4_422_102, 5_148),
        ),
    ),
    "kmnist": _entry(
        title="Kuzushiji-MNIST, cursive Japanese syllables",
        source="Clanuwat et al., arXiv 1812.01718",
        licence="CC BY-SA 4.0",
        reader="read_kmnist",
        archives=_archives(
            mirrors=("http://codh.rois.ac.jp/kmnist/dataset/kmnist/",),
            digests=(
                "bdb82020997e1d708af4cf47b453dcf7",
                "e144d726b3acfaa3e44228e80efcd344",
                "5c965bf0a639b31b8f53240b1b52f4d7",
                "7320c461ea6c1c855c0b718fb2a4b134",
            ),
            sizes=(18_165_135, 29_497, 3_041_136, 5_120),
        ),
    ),
}


def read_mnist(request: "Request") -> "Given":
    """Return MNIST; the validation split is drawn from its 60,000 training images."""
    return _read(request, DIGITS)


def read_fashion_mnist(request: "Request") -> "Given":
    """Return Fashion-MNIST; the validation split is drawn from its 60,000 training images."""
    return _read(request, CLOTHES)


def read_kmnist(request: "Request") -> "Given":
    """Return Kuzushiji-MNIST; the validation split is drawn from its 60,000 training images."""
    return _read(request, SYLLABLES)


def _read(request: "Request", class_names: tuple[str, ...]) -> "Given":
    from attrreg.data.samples import Given

    train, test = (
        _split(
            request.archives[PARTS[split, "images"][0]],
            request.archives[PARTS[split, "labels"][0]],
            len(class_names),
        )
        for split in ("train", "test")
    )
    return Given(train, class_names, test=test)


def _split(images: "Path", labels: "Path", classes: int) -> "Arrays":
    from attrreg.data.archives import gunzip
    from attrreg.data.formats import blaming, check_labels, parse_idx
    from attrreg.data.samples import Arrays

    bounds = dict(PARTS.values())
    raw_images = gunzip(images, bounds[images.name])
    raw_labels = gunzip(labels, bounds[labels.name])
    with blaming(images):
        x = parse_idx(raw_images, images.name, dimensions=3)
    with blaming(labels):
        found = parse_idx(raw_labels, labels.name, dimensions=1)
        y = check_labels(found, range(classes), labels.name)
    with blaming(images, labels):
        if len(x) != len(y):
            raise ValueError(f"{images.name} has {len(x)} images, {labels.name} {len(y)} labels")
    return Arrays(x[:, None], y)
