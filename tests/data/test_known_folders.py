"""Folders of one's own that are not laid out as their prefix says are refused, or told apart."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_archives import FOLDER_BUILDERS, build
from small_files import encode, png
from small_folders import inspected
from test_known import read
from test_known_damage import everything, resized


def remove(path):
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def link(path):
    """Put a link to the same file elsewhere in place of a file."""
    other = path.parents[3] / "elsewhere"
    path.rename(other)
    path.symlink_to(other)


def add_image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(np.random.default_rng(0)))


def empty(path):
    for each in path.iterdir():
        each.unlink()


def other_class(path):
    """Let a segmentation name a class that does not exist."""
    size = Image.open(path).size
    path.write_bytes(png(np.full((*size[::-1], 3), [51, 0, 0], dtype=np.uint8)))


S = "train-semi-segmentation/n01440764/n01440764_0.png"
# By what is wrong: prefix, what is changed and how, and what must be said.
WRONG_FOLDERS = {
    "no train": ("imagenet", "train", remove, "has no folder 'train': expected train/"),
    "no val": ("imagenet", "val", remove, "has no folder 'val': expected train/"),
    "a class less": ("imagenet", "val/n01440764", remove, "n01440764 in train but not in val"),
    "a class more": ("imagenet", "val/n5/a.JPEG", add_image, "n5 in val but not in train"),
    "an empty class": ("imagenet", "train/n01440764", empty, "n01440764 has no image in it"),
    "a link": (
        *("imagenet", "train/n01440764/n01440764_1.JPEG", link),
        r"n01440764_1\.JPEG is a link to .*elsewhere, outside of",
    ),
    "nothing": ("imagenet-r", "", remove, "there is no folder .*imagenet-r"),
    "another class": ("imagenet-a", "n5/a.jpg", add_image, "1 folders that are no class.*as n5"),
    "a name": ("imagenet-o", "train/a.jpg", add_image, "such as train: expected WordNet ids"),
    "no masks": (
        *("imagenet-s", "validation-segmentation", remove),
        "has no folder 'validation-segmentation'",
    ),
    "a choice of classes": (
        *("imagenet-s", "*/n01440764", remove),
        "has 49 classes, ImageNet-S has 50, 300 or 919",
    ),
}


@pytest.fixture
def place(tmp_path):
    """Return a function that makes a folder of a prefix and changes it."""

    def make(prefix, where, change):
        small = build(prefix, tmp_path / "place", np.random.default_rng(9))
        home = Path(small.entry.place)
        for path in home.glob(where) if "*" in where else [home / where]:
            change(path)
        return small

    return make


@pytest.mark.parametrize("case", WRONG_FOLDERS)
def test_a_folder_that_is_not_laid_out_so_is_refused(case, place, tmp_path):
    prefix, where, change, said = WRONG_FOLDERS[case]
    small = place(prefix, where, change)
    with pytest.raises(ValueError, match=said):
        inspected(prefix, Path(small.entry.place))
    with pytest.raises(ValueError, match=r"\w"):
        read(small, tmp_path / "scratch")


@pytest.mark.parametrize(
    ("where", "change", "said"),
    [
        (S, remove, "n01440764_0.png is missing: every image needs its segmentation"),
        (S.replace("_0", "_9"), add_image, "n01440764_9.png belongs to no image"),
        (S, other_class, "names the class 51, expected 0 … 50 or 1000"),
        (S, lambda path: path.write_bytes(resized(path.read_bytes())), "pixels, its image"),
    ],
)
def test_segmentations_of_other_images_are_refused(where, change, said, place, tmp_path):
    small = place("imagenet-s", where, change)
    with pytest.raises(ValueError, match=said):
        everything(small, tmp_path / "scratch")


@pytest.mark.parametrize("prefix", FOLDER_BUILDERS)
def test_a_folder_has_another_fingerprint_when_an_image_comes_or_goes(prefix, tmp_path):
    before = build(prefix, tmp_path, np.random.default_rng(9)).entry
    home = Path(before.place)
    assert inspected(prefix, home) == before
    image = max(path for path in home.rglob("n01440764*") if path.is_file())
    image.rename(image.with_name("another" + image.suffix))
    renamed = inspected(prefix, home)
    assert renamed.fingerprint != before.fingerprint
    assert replace(renamed, fingerprint=before.fingerprint) == before


def test_links_within_a_folder_are_followed(tmp_path):
    small = build("imagenet", tmp_path, np.random.default_rng(9))
    image = Path(small.entry.place) / "train/n01440764/n01440764_1.JPEG"
    content = image.read_bytes()
    store = Path(small.entry.place) / "store"
    store.mkdir()
    image.rename(store / "1")
    image.symlink_to(store / "1")
    given = read(small, tmp_path / "scratch")
    assert given.train.read(1) == content
