"""Archives that are not as published are refused: what is wrong, and what to do."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_archives import BUILDERS, build
from small_files import idx, members_of, pack, png, write_matlab, written
from test_known import UNUSED, pixels, read, regions

from attrreg import catalogue

FILES = [(name, archive.name) for name in BUILDERS for archive in catalogue.DATASETS[name].archives]
PACKED = [(name, file) for name, file in FILES if file.endswith((".tgz", ".tar.gz", ".zip"))]
# Readers of folders cannot know that an image is missing: whoever counts finds out.
COUNTED = ("imagenette", "eurosat")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a function from a name to its small dataset, made once."""
    found = {}

    def make(name):
        if name not in found:
            found[name] = build(name, tmp_path_factory.mktemp(name), np.random.default_rng(8))
        return found[name]

    return make


def everything(small, scratch, files=None):
    """Read a small dataset and look at every image and region."""
    given = read(small, scratch, files)
    for samples in (given.train, given.validation, given.test):
        if samples is not None:
            pixels(samples)
            if getattr(samples, "mask", None) is not None:
                regions(samples)
    return given


def refused(small, scratch, files):
    """Return what is said of archives that must be refused."""
    with pytest.raises(ValueError, match="delete ") as error:
        everything(small, scratch, files)
    said = str(error.value)
    assert re.search(r"delete .*prepare (the dataset )?again", said)
    return said


def changed(small, tmp_path, file, content):
    """Return the archives of a small dataset, one of them with another content."""
    path = tmp_path / "changed" / file
    path.parent.mkdir()
    path.write_bytes(content)
    return small.files | {file: path}


CUTS = {
    "nothing": lambda raw: b"",
    "a byte": lambda raw: raw[:1],
    "its head": lambda raw: raw[:40],
    "half": lambda raw: raw[: len(raw) // 2],
    "all but a byte": lambda raw: raw[:-1],
    "zeros": lambda raw: bytes(len(raw)),
    "a web page": lambda raw: b"<!DOCTYPE html><title>Not found</title>",
}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize(("name", "file"), FILES)
def test_an_archive_that_is_cut_short_is_refused_by_name(name, file, cut, made, tmp_path):
    small = made(name)
    files = changed(small, tmp_path, file, CUTS[cut](small.files[file].read_bytes()))
    with pytest.raises(ValueError, match=re.escape(str(files[file]))):
        everything(small, tmp_path / "scratch", files)


def kinds(members):
    """Return one member of each kind that a reader needs: every list, and an image per folder."""
    found = {}
    for name in members:
        if not UNUSED.search(name):
            path = Path(name)
            found.setdefault(name if path.suffix != ".jpg" else path.parts[:2], name)
    lists = [name for name in found.values() if not name.endswith((".jpg", ".JPEG", ".png"))]
    images = [name for name in found.values() if name not in lists]
    return [*lists, images[0], images[-1]] if images else lists


@pytest.mark.parametrize(("name", "file"), [each for each in PACKED if each[0] not in COUNTED])
def test_no_member_that_is_needed_may_be_missing(name, file, made, tmp_path):
    small = made(name)
    members = members_of(small.files[file])
    needed = kinds(members)
    assert needed
    for number, gone in enumerate(needed):
        kept = {each: raw for each, raw in members.items() if each != gone}
        folder = tmp_path / str(number)
        files = small.files | {file: pack(folder / file, kept)}
        said = refused(small, folder / "scratch", files)
        assert gone in said or Path(gone).name in said or Path(gone).stem in said


@pytest.mark.parametrize("name", COUNTED)
def test_a_missing_image_of_a_folder_is_missing_in_what_is_counted(name, made, tmp_path):
    small = made(name)
    ((file, path),) = small.files.items()
    members = members_of(path)
    del members[max(each for each in members if each.lower().endswith((".jpg", ".jpeg")))]
    given = everything(small, tmp_path / "scratch", {file: pack(tmp_path / file, members)})
    sizes = [len(each.y) for each in (given.train, given.test) if each is not None]
    expected = [len(each.y) for each in (small.train, small.test) if each is not None]
    assert sum(sizes) == sum(expected) - 1


@pytest.mark.parametrize(("name", "file"), FILES)
def test_whatever_the_bytes_are_it_is_read_or_refused(name, file, made, tmp_path):
    """Nothing else happens: no other error, and nothing is run."""
    small, rng = made(name), np.random.default_rng(len(name) + len(file))
    raw = small.files[file].read_bytes()
    members = members_of(small.files[file]) if (name, file) in PACKED else {file: raw}
    needed = [each for each in members if not UNUSED.search(each)] or [file]
    for number in range(6):
        which = needed[int(rng.integers(len(needed)))]
        content = bytearray(members[which])
        for place in rng.integers(0, min(len(content), 400), 3):
            content[place] = rng.integers(256)
        folder = tmp_path / str(number)
        if (name, file) in PACKED:
            path = pack(folder / file, members | {which: bytes(content)})
        else:
            folder.mkdir()
            path = folder / file
            path.write_bytes(content)
        said = str(path)
        try:
            everything(small, folder / "scratch", small.files | {file: path})
        except ValueError as error:
            said = str(error)
        assert str(path) in said


def line(old, new):
    """Return a change of a text: some words, where they stand first, become others."""

    def change(raw):
        assert old.encode() in raw
        return raw.replace(old.encode(), new.encode(), 1)

    return change


def first(value):
    """Return a change of the first byte."""
    return lambda raw: bytes([value]) + raw[1:]


def resized(raw):
    """Return another PNG, a pixel wider."""
    image = Image.open(io.BytesIO(raw))
    return written(image.resize((image.width + 1, image.height)), "PNG")


CUB, TEN, STL = "CUB_200_2011", "cifar-10-batches-bin", "stl10_binary"
NOTES, MASKS = "annotations.tar.gz", "segmentations.tgz"
BIRD = "001.Small_footed_Bird_1/Bird_0000_7"
# By what is wrong: dataset, archive, member, how it is changed, and what must be said.
WRONG = {
    "a class too high": (
        *("cifar10", "cifar-10-binary.tar.gz", f"{TEN}/data_batch_2.bin", first(10)),
        r"label 10 at place 0 of data_batch_2\.bin, expected 0 … 9",
    ),
    "a fine class too high": (
        *("cifar100", "cifar-100-binary.tar.gz", "cifar-100-binary/test.bin"),
        lambda raw: raw[:1] + bytes([100]) + raw[2:],
        r"label 100 at place 0 of test\.bin, expected 0 … 99",
    ),
    "half a record": (
        *("cifar10", "cifar-10-binary.tar.gz", f"{TEN}/test_batch.bin", lambda raw: raw[:-1]),
        r"test_batch\.bin has 61459 bytes, expected records of 3073",
    ),
    "no class names": (
        *("cifar10", "cifar-10-binary.tar.gz", f"{TEN}/batches.meta.txt", lambda raw: b"\n"),
        r"batches\.meta\.txt is empty",
    ),
    "a class from zero": (
        *("stl10", "stl10_binary.tar.gz", f"{STL}/train_y.bin", first(0)),
        r"label 0 at place 0 of train_y\.bin, expected 1 … 10",
    ),
    "fewer labels than images": (
        *("stl10", "stl10_binary.tar.gz", f"{STL}/test_y.bin", lambda raw: raw[1:]),
        r"test_X\.bin has 20 images, test_y\.bin 19",
    ),
    "another WordNet id": (
        *("imagenette", "imagenette2-160.tgz", None),
        lambda name: name.replace("n03888257", "n03888258"),
        r"imagenette2-160/train the folders .*n03888258.*expected .*n03888257",
    ),
    "no folders": (
        *("eurosat", "EuroSAT.zip", None, lambda name: "2750/" + name.rpartition("/")[2]),
        r"2750 has no folder in it",
    ),
    "a line without its class": (
        *("oxford-pets", NOTES, "annotations/test.txt", line(" 1 1 1", "")),
        r"entry 1 of test\.txt is 'Cat\w*_100|entry 1 of test\.txt is 'dog",
    ),
    "a class that is a word": (
        *("oxford-pets", NOTES, "annotations/test.txt", line(" 2 1 1", " two 1 1")),
        r"test\.txt has a class that is no number",
    ),
    "a pet in another class": (
        *("oxford-pets", NOTES, "annotations/trainval.txt", line(" 2 1 1", " 3 1 1")),
        r"lists Cat_breed_0\d_\d in class 3",
    ),
    "a pet that is trained on and tested": (
        *("oxford-pets", NOTES, "annotations/test.txt"),
        line("dog_breed_00_100", "dog_breed_00_1"),
        r"names dog_breed_00_1 twice",
    ),
    "a pet that has no image": (
        *("oxford-pets", NOTES, "annotations/test.txt"),
        line("dog_breed_00_100", "dog_breed_00_999"),
        r"dog_breed_00_999 is listed, but there is no images/dog_breed_00_999\.jpg",
    ),
    "a path in place of a name": (
        *("oxford-pets", NOTES, "annotations/test.txt"),
        line("dog_breed_00_100", "../../dog_breed_00_100"),
        r"lists \.\./\.\./dog_breed_00_100 in class 1",
    ),
    "a trimap of other values": (
        *("oxford-pets", NOTES, "annotations/trimaps/dog_breed_00_1.png"),
        lambda raw: png(7 * np.asarray(Image.open(io.BytesIO(raw)))),
        r"trimap dog_breed_00_1\.png has the values \[7, 14, 21\]",
    ),
    "a trimap of another size": (
        *("oxford-pets", NOTES, "annotations/trimaps/dog_breed_00_1.png", resized),
        r"mask trimaps/dog_breed_00_1\.png has \d+×\d+ pixels, its image images/dog_breed_00_1",
    ),
    "a trimap in colour": (
        *("oxford-pets", NOTES, "annotations/trimaps/dog_breed_00_1.png"),
        lambda raw: written(Image.open(io.BytesIO(raw)).convert("RGB"), "PNG"),
        r"of mode RGB, expected L or P",
    ),
    "a trimap that is none": (
        *("oxford-pets", NOTES, "annotations/trimaps/dog_breed_00_1.png", lambda raw: raw[:50]),
        r"trimaps/dog_breed_00_1\.png is unreadable as an image",
    ),
    "a bird without a class": (
        *("cub200", "CUB_200_2011.tgz", f"{CUB}/image_class_labels.txt", line("1 1\n", "")),
        r"image 1 is in one only of images\.txt and image_class_labels\.txt",
    ),
    "a bird in another class": (
        *("cub200", "CUB_200_2011.tgz", f"{CUB}/image_class_labels.txt", line("1 1\n", "1 2\n")),
        rf"puts {BIRD}\.jpg into class 2",
    ),
    "a bird in neither split": (
        *("cub200", "CUB_200_2011.tgz", f"{CUB}/train_test_split.txt", line("1 1\n", "1 2\n")),
        rf"says '2' of {BIRD}\.jpg, expected 0 or 1",
    ),
    "a bird that is listed twice": (
        *("cub200", "CUB_200_2011.tgz", f"{CUB}/images.txt"),
        line("Bird_0001", "Bird_0000"),
        rf"images\.txt names {BIRD}\.jpg twice",
    ),
    "a number that stands twice": (
        *("cub200", "CUB_200_2011.tgz", f"{CUB}/images.txt", line("2 001", "1 001")),
        r"images\.txt names 1 twice",
    ),
    "classes that do not count": (
        *("cub200", "CUB_200_2011.tgz", f"{CUB}/classes.txt", line("5 005", "6 005")),
        r"classes\.txt does not count its classes 1 … 5",
    ),
    "a bird that has no image": (
        *("cub200", "CUB_200_2011.tgz", f"{CUB}/images.txt"),
        line(f"{BIRD}.jpg", "001.Small_footed_Bird_1/../../../secret.jpg"),
        r"images\.txt lists 001.*secret\.jpg, which is not among the images",
    ),
    "a box of words": (
        *("cub200-boxes", "CUB_200_2011.tgz", f"{CUB}/bounding_boxes.txt", line("1 ", "1 left")),
        rf"gives {BIRD}\.jpg the box \['left",
    ),
    "a box beside its image": (
        *("cub200-boxes", "CUB_200_2011.tgz", f"{CUB}/bounding_boxes.txt", line("1 ", "1 9")),
        r"holds no pixel of 001\.Small_footed_Bird_1/Bird_0000_7\.jpg",
    ),
    "a segmentation of another size": (
        *("cub200", MASKS, f"segmentations/{BIRD}.png", resized),
        r"mask 001\.Small_footed_Bird_1/Bird_0000_7\.png has \d+×\d+ pixels, its image",
    ),
    "a list that is no text": (
        *("cub200", "CUB_200_2011.tgz", f"{CUB}/images.txt", lambda raw: b"\xff\xfe" + raw),
        r"images\.txt is no UTF-8 text",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_content_that_does_not_agree_is_refused(case, made, tmp_path):
    name, file, member, change, said = WRONG[case]
    small = made(name)
    members = members_of(small.files[file])
    if member is None:
        members = {change(each): raw for each, raw in members.items()}
    else:
        members[member] = change(members[member])
    files = small.files | {file: pack(tmp_path / file, members)}
    found = refused(small, tmp_path / "scratch", files)
    assert re.search(said, found)
    assert str(files[file]) in found
    assert str(tmp_path / "scratch") not in found  # which nobody will find any more


def svhn(x, y):
    return {"X": x, "y": y}


X, Y = np.zeros((32, 32, 3, 20), dtype=np.uint8), np.full((20, 1), 10, dtype=np.uint8)
IDS = {name: np.arange(102)[None] + first for name, first in (("trnid", 1), ("valid", 103))}
# By what is wrong: dataset, file, its arrays, and what must be said.
WRONG_ARRAYS = {
    "a digit too high": ("svhn", "test_32x32.mat", svhn(X, Y + 1), "label 11 at place 0 of 'y'"),
    "a half digit": ("svhn", "test_32x32.mat", svhn(X, Y - 0.5), "label 9.5 at place 0 of 'y'"),
    "images of numbers": ("svhn", "test_32x32.mat", svhn(X / 2, Y), "is float64 .*expected uint8"),
    "samples first": ("svhn", "test_32x32.mat", svhn(X.T, Y), r"uint8 \(20, 3, 32, 32\), expected"),
    "fewer labels": ("svhn", "test_32x32.mat", svhn(X, Y[1:]), r"expected uint8 \(32, 32, 3, 19\)"),
    "no labels": ("svhn", "test_32x32.mat", {"X": X}, r"it holds no array 'y', but \['X'\]"),
    "labels in a cell": (
        *("svhn", "test_32x32.mat", svhn(X, np.array(["a", 1], dtype=object))),
        "'y' is a MATLAB cell, expected numbers",
    ),
    "more labels than is allowed": (
        *("flowers102", "imagelabels.mat", {"labels": np.ones((1, 1_000_001), dtype=np.uint8)}),
        "imagelabels.mat holds more than the bytes that are allowed",
    ),
    "a kind too high": (
        *("flowers102", "imagelabels.mat", {"labels": np.full((1, 306), 103)}),
        "label 103 at place 0 of imagelabels.mat, expected 1 … 102",
    ),
    "an image that is not there": (
        *("flowers102", "setid.mat", IDS | {"tstid": np.array([[307]])}),
        "label 307 at place 0 of 'tstid' of setid.mat, expected 1 … 306",
    ),
    "an image in two splits": (
        *("flowers102", "setid.mat", IDS | {"tstid": np.array([[102]])}),
        "setid.mat names 102 twice",
    ),
    "no test split": (
        "flowers102",
        "setid.mat",
        IDS,
        "setid.mat is unreadable as a MATLAB file: it holds no array 'tstid'",
    ),
}


@pytest.mark.parametrize("case", WRONG_ARRAYS)
def test_arrays_that_do_not_agree_are_refused(case, made, tmp_path):
    name, file, arrays, said = WRONG_ARRAYS[case]
    small = made(name)
    files = small.files | {file: write_matlab(tmp_path / file, arrays)}
    assert re.search(said, refused(small, tmp_path / "scratch", files))


def test_labels_in_place_of_images_are_refused(made, tmp_path):
    small = made("mnist")
    images, labels = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"
    files = changed(small, tmp_path, images, small.files[labels].read_bytes())
    said = refused(small, tmp_path / "scratch", files)
    assert f"{images} begins with 00 00 08 01, expected 00 00 08 03" in said


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (np.arange(59) % 10, "has 60 images, train-labels-idx1-ubyte.gz 59 labels"),
        (np.arange(60) % 11, "label 10 at place 10"),
    ],
)
def test_labels_of_other_images_are_refused(labels, said, made, tmp_path):
    small = made("kmnist")
    files = changed(small, tmp_path, "train-labels-idx1-ubyte.gz", idx(labels))
    assert said in refused(small, tmp_path / "scratch", files)
