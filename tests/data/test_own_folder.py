"""A folder of images is what it looks like: classes, splits and masks, wherever the files come."""

import os
import shutil

import numpy as np
import pytest
from own_images import arrays, encoded, pixels, png, request, same, write_masks, write_tree

from attrreg.data.own import OwnOptions
from attrreg.data.own_folder import inspect_folder, read_folder

CLASSES = {"cat": 5, "dog": 4, "eel": 6}


def inspect(root, **options):
    return inspect_folder(str(root), OwnOptions(**options))


def read(root, scratch, **options):
    """Return class names and all splits as arrays."""
    entry = inspect(root, **options)
    given = read_folder(request(root, scratch, **options))
    splits = {
        name: arrays(samples, entry.shape, OwnOptions(**options))
        for name in ("train", "validation", "test")
        if (samples := getattr(given, name)) is not None
    }
    return given.class_names, splits


@pytest.fixture
def root(tmp_path):
    write_tree(tmp_path / "photos", CLASSES)
    return tmp_path / "photos"


class TestClasses:
    """Without splits, each folder is a class."""

    def test_a_look_tells_classes_sizes_and_shape(self, root):
        entry = inspect(root)
        assert (entry.classes, entry.shape, entry.regions) == (3, (3, 8, 8), False)
        assert (entry.pool, entry.validation, entry.test) == (11, 1, 3)
        assert entry.place == str(root)
        assert entry.title == "photos"

    def test_images_come_in_the_order_of_their_paths(self, root, tmp_path):
        names, splits = read(root, tmp_path / "scratch")
        x, y, _ = splits["train"]
        assert names == ("cat", "dog", "eel")
        assert y.tolist() == [0] * 5 + [1] * 4 + [2] * 6
        for at in range(15):
            assert np.array_equal(x[at], pixels(at + 1).transpose(2, 0, 1))

    def test_the_order_in_which_files_were_made_does_not_count(self, root, tmp_path):
        other = tmp_path / "other"
        files = sorted(path for path in root.rglob("*") if path.is_file())
        for path in np.random.default_rng(0).permutation(files):
            place = other / path.relative_to(root)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, place)
        names, splits = read(root, tmp_path / "a")
        assert names == read(other, tmp_path / "b")[0]
        assert same(splits["train"], read(other, tmp_path / "c")[1]["train"])

    def test_images_may_lie_deeper_and_be_of_any_kind(self, root):
        (root / "cat" / "young" / "black").mkdir(parents=True)
        for number, (suffix, kind) in enumerate(
            [("JPG", "JPEG"), ("jpeg", "JPEG"), ("Tif", "TIFF"), ("webp", "WEBP"), ("pgm", "PPM")]
        ):
            image = encoded(pixels(number, channels=1 if suffix == "pgm" else 3), kind)
            (root / "cat" / "young" / "black" / f"{number}.{suffix}").write_bytes(image)
        entry = inspect(root)
        assert entry.pool + entry.validation + entry.test == 20

    def test_hidden_files_and_rubbish_do_not_count(self, root):
        before = inspect(root)
        for name in (".DS_Store", "cat/._000.png", "cat/Thumbs.db", "dog/notes.txt", "README.md"):
            (root / name).write_bytes(b"rubbish")
        for name in ("__MACOSX/cat", ".git/objects", "cat/.ipynb_checkpoints"):
            (root / name).mkdir(parents=True)
            (root / name / "a.png").write_bytes(b"rubbish")
        assert inspect(root) == before

    def test_sizes_and_channels_can_be_chosen(self, root, tmp_path):
        assert inspect(root, image_size=16, channels=1).shape == (1, 16, 16)
        _, splits = read(root, tmp_path / "s", image_size=16, channels=1)
        assert splits["train"][0].shape == (15, 1, 16, 16)

    def test_grey_images_have_one_channel_and_a_single_coloured_one_makes_three(self, tmp_path):
        write_tree(tmp_path, {"a": 3, "b": 3}, channels=1)
        assert inspect(tmp_path).shape == (1, 8, 8)
        (tmp_path / "b" / "000.png").write_bytes(png(9))
        assert inspect(tmp_path).shape == (3, 8, 8)

    def test_titles_and_licences_can_be_said(self, root):
        entry = inspect(root, title="Pets", licence="CC0-1.0")
        assert (entry.title, entry.licence) == ("Pets", "CC0-1.0")

    def test_the_fingerprint_changes_with_every_file_and_with_nothing_else(self, root):
        seen = {inspect(root).fingerprint}
        assert inspect(root, image_size=4).fingerprint in seen
        for change in (
            lambda: os.utime(root / "cat" / "000.png", ns=(1, 1)),
            (root / "dog" / "001.png").unlink,
            lambda: (root / "dog" / "002.png").rename(root / "dog" / "new.png"),
            lambda: (root / "eel" / "extra.png").write_bytes(png(50)),
        ):
            change()
            found = inspect(root).fingerprint
            assert found not in seen
            seen.add(found)


class TestSplits:
    """Folders named train and test are splits."""

    @pytest.mark.parametrize("name", ["val", "valid", "validation", "Validation"])
    def test_given_splits_stay_apart(self, tmp_path, name):
        write_tree(tmp_path / "d", {"a": 3, "b": 4}, 0, "train")
        write_tree(tmp_path / "d", {"a": 2, "b": 1}, 50, "test")
        write_tree(tmp_path / "d", {"b": 2}, 70, name)
        entry = inspect(tmp_path / "d")
        assert (entry.pool, entry.validation, entry.test) == (7, 2, 3)
        names, splits = read(tmp_path / "d", tmp_path / "s")
        assert names == ("a", "b")
        assert {split: y.tolist() for split, (_, y, _) in splits.items()} == {
            "train": [0, 0, 0, 1, 1, 1, 1],
            "test": [0, 0, 1],
            "validation": [1, 1],
        }
        assert np.array_equal(splits["test"][0][0], pixels(51).transpose(2, 0, 1))

    def test_missing_splits_are_drawn_later(self, tmp_path):
        write_tree(tmp_path, {"a": 20, "b": 20}, 0, "train")
        assert (inspect(tmp_path).pool, inspect(tmp_path).test) == (29, 8)
        write_tree(tmp_path, {"a": 2, "b": 2}, 90, "val")
        assert (inspect(tmp_path).pool, inspect(tmp_path).validation) == (32, 4)

    def test_a_class_may_be_called_train_where_there_is_no_other_split(self, tmp_path):
        write_tree(tmp_path, {"train": 3, "tram": 3})
        assert inspect(tmp_path).classes == 2

    @pytest.mark.parametrize(
        ("folders", "said"),
        [
            (["train", "test", "cat"], "'cat', 'test', 'train': besides the splits"),
            (["train", "extra"], "'extra', 'train': besides the splits"),
            (["test", "cat"], "'cat', 'test': besides the splits"),
            (["train", "val", "valid"], "'train', 'val', 'valid': besides the splits"),
            (["test", "val"], "a split 'test' and none named 'train'"),
        ],
        ids=str,
    )
    def test_splits_that_cannot_be_told_from_classes_are_refused(self, tmp_path, folders, said):
        for folder in folders:
            write_tree(tmp_path, {"a": 3, "b": 3}, 0, folder)
        with pytest.raises(ValueError, match=said):
            inspect(tmp_path)

    def test_a_class_that_is_only_tested_is_refused(self, tmp_path):
        write_tree(tmp_path, {"a": 3, "b": 3}, 0, "train")
        write_tree(tmp_path, {"a": 3, "c": 3}, 20, "test")
        with pytest.raises(ValueError, match="class 'c' in its test split and not among"):
            inspect(tmp_path)


class TestMasks:
    """A folder of masks beside the classes gives regions."""

    @pytest.mark.parametrize("start", ["", "train"])
    def test_every_image_has_its_mask(self, tmp_path, start):
        root = tmp_path / "d"
        write_tree(root, {"a": 3, "b/deeper": 4}, 0, start)
        write_masks(root, [path for path in root.rglob("*.png")])
        assert inspect(root).regions
        x, _, region = read(root, tmp_path / "s")[1]["train"]
        assert np.array_equal(region, x[:, 0] > 100)

    def test_a_missing_mask_is_named(self, root):
        write_masks(root, sorted(root.rglob("*.png"))[:-2])
        with pytest.raises(ValueError, match=r"no mask for 2 of 15 images, .* eel/004\.png: add"):
            inspect(root)

    def test_a_mask_of_another_size_is_named(self, root, tmp_path):
        write_masks(root, sorted(root.rglob("*.png")))
        (root / "masks" / "dog" / "001.png").write_bytes(png(0, 8, 9, 1))
        with pytest.raises(ValueError, match=r"1 of 15 .*the mask of dog/001\.png has 9×8"):
            read(root, tmp_path / "s")

    def test_a_broken_mask_is_named(self, root, tmp_path):
        write_masks(root, sorted(root.rglob("*.png")))
        (root / "masks" / "dog" / "001.png").write_bytes(b"")
        with pytest.raises(ValueError, match=r"masks/dog/001\.png is empty"):
            read(root, tmp_path / "s")

    def test_two_images_cannot_share_a_mask(self, root):
        write_masks(root, sorted(root.rglob("*.png")))
        (root / "cat" / "000.bmp").write_bytes(encoded(pixels(0), "BMP"))
        with pytest.raises(ValueError, match=r"one mask for cat/000\.bmp and cat/000\.png"):
            inspect(root)

    def test_a_class_cannot_be_called_masks(self, tmp_path):
        write_tree(tmp_path, {"masks": 3, "faces": 3})
        with pytest.raises(ValueError, match=r"images directly in masks: .* named otherwise"):
            inspect(tmp_path)


class TestWhatIsWrong:
    """Each mistake is said in one line, with what to do."""

    def refused(self, root, said, **options):
        with pytest.raises(ValueError, match=said) as error:
            inspect(root, **options)
        assert "\n" not in str(error.value)

    def test_images_without_folders(self, tmp_path):
        for number in range(3):
            (tmp_path / f"{number}.png").write_bytes(png(number))
        self.refused(tmp_path, "no folders, and 3 files: put the images of each class into")

    def test_a_single_class(self, tmp_path):
        write_tree(tmp_path, {"cat": 9})
        self.refused(tmp_path, "1 class to train on, 'cat': 2 or more")

    def test_a_class_without_images(self, root):
        (root / "fox").mkdir()
        self.refused(root, "no images in fox; .* add some or remove the folder")
        (root / "fox" / "raw.heic").write_bytes(b"")
        self.refused(root, r"no images in fox, but 1 other files such as fox/raw\.heic")

    def test_a_class_too_small_to_be_split(self, root):
        write_tree(root, {"fox": 2}, 90)
        self.refused(root, "2 samples of the class 'fox', 3 are needed: training and test and val")

    def test_a_small_class_is_enough_where_the_splits_are_given(self, tmp_path):
        for split in ("train", "test", "val"):
            write_tree(tmp_path, {"a": 1, "b": 1}, len(split), split)
        assert inspect(tmp_path).pool == 2

    def test_sizes_that_differ_or_are_no_squares(self, root, tmp_path):
        (root / "dog" / "000.png").write_bytes(png(0, 8, 10))
        self.refused(root, r"not all squares .* 8×8 \(cat/000\.png\), 10×8 \(dog/.*give image_size")
        assert inspect(root, image_size=8).shape == (3, 8, 8)
        write_tree(tmp_path / "wide", {"a": 3, "b": 3}, height=6, width=9)
        self.refused(tmp_path / "wide", r"not all squares of one size: found 9×6 .*image_size")

    def test_an_image_of_another_size_that_was_not_looked_at(self, root, tmp_path):
        (root / "dog" / "003.png").write_bytes(png(0, 8, 10))
        with pytest.raises(ValueError, match=r"1 of 15 .* 10×8 \(1\); the first is dog/003\.png"):
            read(root, tmp_path / "s")

    def test_a_broken_first_image(self, root):
        (root / "dog" / "000.png").write_bytes(b"hello")
        self.refused(root, r"dog/000\.png is no readable image")

    def test_an_image_that_is_gone_when_it_is_read(self, root, tmp_path):
        given = read_folder(request(root, tmp_path / "s"))
        (root / "cat" / "002.png").unlink()
        with pytest.raises(ValueError, match=r"cat/002\.png cannot be read: No such file"):
            arrays(given.train, (3, 8, 8), OwnOptions())

    def test_a_class_name_that_cannot_be_written(self, root):
        (root / "two\nlines").mkdir()
        self.refused(root, r"a folder 'two\\nlines', .*rename it")


class TestLinks:
    """Nothing outside the folder is read."""

    def test_a_link_to_a_file_in_the_folder_is_followed(self, root):
        (root / "dog" / "link.png").symlink_to(root / "dog" / "000.png")
        entry = inspect(root)
        assert entry.pool + entry.validation + entry.test == 16

    @pytest.mark.parametrize("kind", ["file", "folder", "class", "nowhere", "up"])
    def test_any_other_link_is_refused_and_named(self, root, tmp_path, kind):
        outside = tmp_path / "outside"
        write_tree(outside, {"fox": 3})
        place, target = {
            "file": (root / "dog" / "link.png", outside / "fox" / "000.png"),
            "folder": (root / "dog" / "link", outside / "fox"),
            "class": (root / "fox", outside / "fox"),
            "nowhere": (root / "dog" / "link.png", outside / "none"),
            "up": (root / "dog" / "link", root),
        }[kind]
        place.symlink_to(target)
        with pytest.raises(ValueError, match=rf"{place} is a link to .* only links to files in"):
            inspect(root)

    def test_the_folder_itself_may_be_a_link(self, root, tmp_path):
        (tmp_path / "link").symlink_to(root)
        assert inspect(tmp_path / "link").classes == 3
