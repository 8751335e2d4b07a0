"""CIFAR-10 and CIFAR-100, from the binary archives; the pickled ones are never opened."""

from typing import TYPE_CHECKING

from attrreg.entries import Archive, Dataset

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from attrreg.data.samples import Arrays, Given, Request

__all__ = ["DATASETS", "read_cifar10", "read_cifar100"]

TEN = Archive(
    name="cifar-10-binary.tar.gz",
    urls=("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
    digest="md5:c32a1d4ab5d03f1284b67883e8d87530",
    size=170_052_171,
    unpacked=600_000_000,
)
HUNDRED = Archive(
    name="cifar-100-binary.tar.gz",
    urls=("https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",),
    digest="md5:03b5dce01913d631647c71ecec9e9cb8",
    size=168_513_733,
    unpacked=600_000_000,
)


def _entry(title: str, classes: int, reader: str, archive: Archive) -> Dataset:
    return Dataset(
        title=title,
        modality="image",
        classes=classes,
        pool=45_000,
        validation=5_000,
        test=10_000,
        shape=(3, 32, 32),
        source="Krizhevsky, Learning multiple layers of features from tiny images, 2009",
        licence="none stated by the publisher",
        implementation=f"attrreg.data.known.cifar:{reader}",
        archives=(archive,),
    )


DATASETS = {
    "cifar10": _entry("CIFAR-10, natural images", 10, "read_cifar10", TEN),
    "cifar100": _entry("CIFAR-100, natural images, fine labels", 100, "read_cifar100", HUNDRED),
}


def read_cifar10(request: "Request") -> "Given":
    """Return CIFAR-10; the validation split is drawn from its five training batches."""
    batches = [f"data_batch_{number}.bin" for number in range(1, 6)]
    return _read(request, TEN, "cifar-10-batches-bin", batches, "test_batch.bin", 1)


def read_cifar100(request: "Request") -> "Given":
    """Return CIFAR-100 with its fine labels; the validation split is drawn from its train.bin."""
    return _read(request, HUNDRED, "cifar-100-binary", ["train.bin"], "test.bin", 2)


def _read(
    request: "Request",
    archive: Archive,
    folder: str,
    batches: "Sequence[str]",
    test: str,
    label_bytes: int,
) -> "Given":
    from attrreg.data.folder_trees import unpacked
    from attrreg.data.formats import blaming, read_lines
    from attrreg.data.samples import Given

    names = "batches.meta.txt" if label_bytes == 1 else "fine_label_names.txt"
    members = {f"{folder}/{name}" for name in (*batches, test, names)}
    place = unpacked(request, archive, members.__contains__) / folder
    with blaming(request.archives[archive.name]):
        class_names = tuple(read_lines(place / names))
        train = _join([place / batch for batch in batches], label_bytes, len(class_names))
        held_out = _join([place / test], label_bytes, len(class_names))
    return Given(train, class_names, test=held_out)


def _join(paths: "Sequence[Path]", label_bytes: int, classes: int) -> "Arrays":
    import numpy as np

    from attrreg.data.formats import read_cifar
    from attrreg.data.samples import Arrays

    parts = [read_cifar(path, label_bytes, classes) for path in paths]
    return Arrays(np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts]))
