"""Folders are listed in one order, whatever the file system says, and never left."""

import os

import numpy as np
import pytest

from attrreg.data.folder_trees import (
    count_images,
    encoded_files,
    list_entries,
    list_files,
    list_images,
    read_tree,
)
from attrreg.data.synsets import class_titles, refuse_unknown, synsets


def fill(folder, names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return folder


IMAGES = ["b/2.png", "b/10.JPG", "a/x.webp", "a/X.jpeg", "c/1.tif"]
OTHERS = ["readme.txt", "a/notes.txt", "a/.hidden.png", ".git/1.png", "b/deep/1.png"]


def test_images_are_sorted_by_class_and_name(tmp_path):
    tree = read_tree(fill(tmp_path, IMAGES + OTHERS))
    assert tree.classes == ("a", "b", "c")
    assert tree.files == ("a/X.jpeg", "a/x.webp", "b/10.JPG", "b/2.png", "c/1.tif")
    assert tree.labels == (0, 0, 1, 1, 2)


def test_the_order_is_not_that_in_which_files_were_made(tmp_path):
    one, other = fill(tmp_path / "1", IMAGES), fill(tmp_path / "2", IMAGES[::-1])
    assert read_tree(one).files == read_tree(other).files


def test_counts_are_those_of_the_tree(tmp_path):
    fill(tmp_path, IMAGES + OTHERS)
    labels = read_tree(tmp_path).labels
    assert list(count_images(tmp_path).values()) == np.bincount(labels).tolist()


def test_folders_and_files_are_told_apart(tmp_path):
    fill(tmp_path, IMAGES + OTHERS)
    assert list_entries(tmp_path) == (["a", "b", "c"], ["readme.txt"])
    assert list_images(tmp_path / "b") == ["10.JPG", "2.png"]
    assert list_files(tmp_path) == {*IMAGES, *OTHERS}


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_link_that_leads_out_is_refused(tmp_path, kind):
    fill(tmp_path, ["home/a/1.png", "home/b/1.png", "outside/1.png"])
    if kind == "file":
        (tmp_path / "home/a/2.png").symlink_to(tmp_path / "outside/1.png")
    else:
        (tmp_path / "home/c").symlink_to(tmp_path / "outside")
    with pytest.raises(ValueError, match=r"is a link to .*outside.*outside of .*home"):
        read_tree(tmp_path / "home", tmp_path / "home")


def test_a_link_within_the_place_is_followed_only_for_data_of_ones_own(tmp_path):
    fill(tmp_path, ["home/train/a/1.png", "home/val/a/1.png"])
    (tmp_path / "home/val/b").symlink_to(tmp_path / "home/train/a")
    assert read_tree(tmp_path / "home/val", tmp_path / "home").classes == ("a", "b")
    with pytest.raises(ValueError, match="is a link to"):
        read_tree(tmp_path / "home/val")


def test_links_are_not_among_the_files_of_what_was_unpacked(tmp_path):
    fill(tmp_path, ["home/1.png", "outside/2.png"])
    (tmp_path / "home/link").symlink_to(tmp_path / "outside")
    (tmp_path / "home/2.png").symlink_to(tmp_path / "outside/2.png")
    assert list_files(tmp_path / "home") == {"1.png"}


def test_a_link_that_leads_nowhere_is_refused(tmp_path):
    fill(tmp_path, ["a/1.png"])
    (tmp_path / "a/2.png").symlink_to(tmp_path / "a/gone.png")
    with pytest.raises(ValueError, match="leads nowhere"):
        read_tree(tmp_path, tmp_path)


def test_the_place_itself_may_be_a_link(tmp_path):
    fill(tmp_path, ["real/a/1.png"])
    (tmp_path / "home").symlink_to(tmp_path / "real")
    assert read_tree(tmp_path / "home", tmp_path / "home").files == ("a/1.png",)


def test_an_empty_class_is_refused(tmp_path):
    fill(tmp_path, ["a/1.png", "b/1.txt"])
    with pytest.raises(ValueError, match="/b has no image in it"):
        read_tree(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_may_not_be_read_is_refused(tmp_path):
    fill(tmp_path, ["a/1.png"])
    (tmp_path / "a").chmod(0)
    with pytest.raises(ValueError, match="cannot be read: Permission denied"):
        read_tree(tmp_path)


def test_samples_are_the_files_in_the_order_that_is_given(tmp_path):
    samples = encoded_files(fill(tmp_path, IMAGES), IMAGES[::-1], [3, 1, 2, 0, 0])
    assert samples.y.tolist() == [3, 1, 2, 0, 0]
    assert samples.y.dtype == np.int64
    assert [samples.read(at).decode() for at in range(5)] == list(samples.names) == IMAGES[::-1]
    some = samples.take(np.array([4, 1]))
    assert [some.read(at).decode() for at in range(2)] == [IMAGES[0], IMAGES[3]]


def test_no_files_are_samples_too(tmp_path):
    assert encoded_files(tmp_path, (), ()).y.shape == (0,)


def test_the_thousand_classes_are_in_the_order_of_their_ids():
    assert len(synsets()) == len(set(synsets())) == 1000
    assert list(synsets()) == sorted(synsets())


def test_every_class_has_words_of_its_own():
    titles = class_titles(synsets())
    assert len(set(titles)) == 1000
    assert not any(title in synsets() for title in titles)
    assert class_titles(["n02012849", "nothing"]) == ("crane (n02012849)", "nothing")


def test_ids_that_are_none_are_refused(tmp_path):
    refuse_unknown(tmp_path, synsets()[:3])
    with pytest.raises(ValueError, match="has 2 folders that are no class of ImageNet, such as a"):
        refuse_unknown(tmp_path, ["b", "a", synsets()[0]])
