"""Arrays of images give the same bytes, whatever type, layout and order they are stored in."""

import io
import os
import zipfile

import numpy as np
import pytest
from own_images import encoded, grey, pixels, request, same
from PIL import Image

from attrreg.data.images import decode, decode_mask
from attrreg.data.own import OwnOptions
from attrreg.data.own_arrays import inspect_arrays, read_arrays
from attrreg.data.pixel_arrays import CHUNK
from attrreg.data.samples import Arrays

X = np.stack([pixels(at) for at in range(12)])  # channels last
Y = np.arange(12) % 3


def inspect(path, **options):
    return inspect_arrays(str(path), OwnOptions(**options))


def read(path, scratch, **options):
    return read_arrays(request(path, scratch, **options))


@pytest.fixture
def save(tmp_path):
    """Return a function that writes arrays and returns where."""

    def write(name="a", compressed=False, **arrays):
        path = tmp_path / f"{name}.npz"
        (np.savez_compressed if compressed else np.savez)(path, **arrays)
        return path

    return write


def pairs(x, y, region=None):
    """Return each image with its label and region, sorted."""
    regions = [b""] * len(y) if region is None else [each.tobytes() for each in region]
    return sorted(zip((each.tobytes() for each in x), y.tolist(), regions, strict=True))


FIRST = X.transpose(0, 3, 1, 2)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (X, FIRST),
        (FIRST, FIRST),
        (np.asfortranarray(X), FIRST),
        (X[..., 0], FIRST[:, :1]),
        (X[..., :1], FIRST[:, :1]),
        (X[..., 0] > 99, (FIRST[:, :1] > 99) * np.uint8(255)),
        (X.astype(np.uint16) * 257, FIRST),
        ((X.astype(np.uint16) * 257).astype(">u2"), FIRST),
        (X.astype(np.uint16) * 256, np.rint(FIRST * (256 / 257)).astype(np.uint8)),
        (X / 255, FIRST),
        ((X / 255).astype(np.float32), FIRST),
        ((X[:, :, :, 0] / 255).astype(np.float16), FIRST[:, :1]),
    ],
    ids=lambda each: f"{each.dtype.str}{each.shape}",
)
def test_images_of_every_type_and_layout_become_bytes(save, tmp_path, given, wanted, compressed):
    path = save(x=given, y=Y, compressed=compressed)
    assert inspect(path).shape == wanted.shape[1:]
    found = read(path, tmp_path / "s").train
    assert (found.x.dtype, found.y.dtype, found.region) == (np.uint8, np.int64, None)
    assert pairs(found.x, found.y) == pairs(wanted, Y)


class TestOrder:
    """What is prepared depends on the samples only."""

    def test_the_order_of_samples_does_not_count(self, save, tmp_path):
        region = X[..., 0] > 99
        found = []
        for seed in range(4):
            order = np.random.default_rng(seed).permutation(12)
            path = save(str(seed), x=X[order], y=Y[order], region=region[order])
            found.append(read(path, tmp_path / f"s{seed}").train)
        assert all(same(found[0], each) for each in found[1:])
        assert np.array_equal(found[0].region, found[0].x[:, 0] > 99)

    def test_nor_do_type_and_layout(self, save, tmp_path):
        one = read(save("one", x=X, y=Y), tmp_path / "s1").train
        other = read(save("other", x=FIRST / 255, y=Y.astype(str)), tmp_path / "s2").train
        assert same(one, other)

    def test_equal_images_are_ordered_by_label_and_region(self, save, tmp_path):
        x, region = np.zeros((12, 8, 8), np.uint8), np.zeros((12, 8, 8), bool)
        region[::2] = True
        found = []
        for seed in range(3):
            order = np.random.default_rng(seed).permutation(12)
            path = save(str(seed), x=x, y=Y[order], region=region[order])
            found.append(read(path, tmp_path / f"s{seed}").train)
        assert all(same(found[0], each) for each in found[1:])

    def test_what_does_not_fit_into_one_part_is_whole(self, save, tmp_path):
        n = 3 * CHUNK // 64**2 // 2
        x = np.zeros((n, 64, 64), np.uint8)
        x[:, 0, :2] = np.arange(n, dtype="<u2").view(np.uint8).reshape(n, 2)
        found = read(save(x=x, y=np.arange(n) % 7, compressed=True), tmp_path / "s").train
        numbers = np.ascontiguousarray(found.x[:, 0, 0, :2]).view("<u2")[:, 0]
        assert np.array_equal(np.sort(numbers), np.arange(n))
        assert np.array_equal(found.y, numbers % 7)


class TestNames:
    """Arrays are found by their names."""

    @pytest.mark.parametrize(
        ("names", "sizes"),
        [
            (("x", "y"), (9, 1, 2)),
            (("X", "Y"), (9, 1, 2)),
            (("x_train", "y_train"), (9, 1, 2)),
            (("images", "labels"), (9, 1, 2)),
            (("train_images", "train_labels"), (9, 1, 2)),
            (("x_train", "y_train", "x_test", "y_test"), (11, 1, 12)),
            (("x", "y", "x_val", "y_val"), (10, 12, 2)),
            (("X_train", "y_train", "X_validation", "y_validation", "X_test", "y_test"), (12,) * 3),
            (
                [
                    f"{split}_{kind}"
                    for split in ("train", "val", "test")
                    for kind in ("images", "labels")
                ],
                (12, 12, 12),
            ),
        ],
        ids=str,
    )
    def test_splits_are_known_by_their_names(self, save, tmp_path, names, sizes):
        arrays = {name: Y[:, None] if at % 2 else X + np.uint8(at) for at, name in enumerate(names)}
        path = save(**arrays)
        entry = inspect(path)
        assert (entry.pool, entry.validation, entry.test) == sizes
        given = read(path, tmp_path / "s")
        assert len(given.train.y) == 12
        for at, split in enumerate(("validation", "test")):
            found = getattr(given, split)
            assert (found is None) == (sizes[1 + at] != 12)
            assert found is None or pairs(found.x, found.y) != pairs(*given.train[:2])

    @pytest.mark.parametrize(
        ("names", "said"),
        [
            (["y"], "'y' and no 'x': give both"),
            (["x"], "'x' and no 'y': give both"),
            (["x_test", "y_test"], "no arrays of the train split, .* give one of x and y, images"),
            (["x", "y", "images", "labels"], "2 arrays of the train split"),
            (["x", "y", "x_tset", "y_tset"], "'x_tset', 'y_tset'; known are .*x_test"),
            (["x", "y", "X"], "known are"),
            (["x", "y", "x_test", "y_test", "region"], "a region for each split"),
            (["x", "y", "region_train"], "a region for each split"),
        ],
        ids=str,
    )
    def test_names_that_say_too_little_or_too_much_are_refused(self, save, names, said):
        arrays = {name: Y if name[0] in "yl" else X for name in names}
        arrays |= {name: X[..., 0] for name in names if name.startswith("region")}
        with pytest.raises(ValueError, match=said):
            inspect(save(**arrays))


class TestLabels:
    """Labels of every kind become 0 … C−1, and the classes keep their names."""

    @pytest.mark.parametrize(
        ("labels", "declared", "names"),
        [
            (Y + 1, None, ("1", "2", "3")),
            (Y[:, None], None, ("0", "1", "2")),
            (Y > 0, None, ("false", "true")),
            (np.array(["dog", "ant", "cat"] * 4), None, ("ant", "cat", "dog")),
            (np.array([b"dog", b"ant", b"cat"] * 4), None, ("ant", "cat", "dog")),
            (Y.astype(np.uint8), ["ant", "bee", "cat"], ("ant", "bee", "cat")),
            (Y * 2, ["ant", "bee", "cat", "dog", "eel"], ("ant", "cat", "eel")),
        ],
        ids=str,
    )
    def test_every_kind_of_label_is_read(self, save, tmp_path, labels, declared, names):
        named = {} if declared is None else {"class_names": np.array(declared)}
        given = read(save(x=X, y=labels, **named), tmp_path / "s")
        assert given.class_names == names
        _, wanted = np.unique(labels, return_inverse=True)
        assert pairs(given.train.x, given.train.y) == pairs(FIRST, wanted.reshape(-1))

    @pytest.mark.parametrize(
        ("labels", "said"),
        [
            (Y - 1, "the label -1; .* without a label"),
            (Y / 2, r"'y' .* is float64 \(12,\); labels .* are \(12,\) whole numbers"),
            (Y[:11], r"'y' .* is int64 \(11,\); labels of the 12 images"),
            (np.eye(3)[Y], r"'y' .* is float64 \(12, 3\)"),
            (np.zeros(12, int), "1 class to train on"),
            (np.array([0] * 10 + [1] * 2), "2 samples of the class '1', 3 are needed"),
        ],
        ids=["negative", "floats", "few", "one hot", "one class", "small class"],
    )
    def test_labels_of_which_no_classes_can_be_made_are_refused(self, save, labels, said):
        with pytest.raises(ValueError, match=said):
            inspect(save(x=X, y=labels))

    def test_a_label_that_is_only_tested_is_refused(self, save):
        with pytest.raises(ValueError, match="class '5' in its test split and not among"):
            inspect(save(x=X, y=Y, x_test=X, y_test=Y + 5))

    @pytest.mark.parametrize("names", [np.array([1, 2, 3]), np.array([["a", "b", "c"]])], ids=str)
    def test_names_that_are_no_texts_are_refused(self, save, names):
        with pytest.raises(ValueError, match=r"'class_names' .*give one text per class"):
            inspect(save(x=X, y=Y, class_names=names))


class TestSizes:
    """Arrays become squares as images do."""

    @pytest.mark.parametrize("resize", ["crop", "pad", "squash"])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_they_are_brought_to_a_size_as_images_are(self, save, tmp_path, resize, channels):
        x = np.stack([pixels(at, 10, 20) for at in range(12)])
        path = save(x=x, y=Y, region=x[..., 0] > 99)
        options = {"image_size": 8, "resize": resize, "channels": channels}
        assert inspect(path, **options).shape == (channels, 8, 8)
        found = read(path, tmp_path / "s", **options).train
        images = [decode(encoded(each), 8, resize, channels, "") for each in x]
        masks = [Image.fromarray((each[..., 0] > 99) * np.uint8(255)) for each in x]
        regions = np.stack([decode_mask(each, (20, 10), 8, resize, "") for each in masks])
        assert pairs(*found) == pairs(np.stack(images), Y, regions)

    def test_grey_arrays_get_three_channels_and_coloured_ones_one(self, save, tmp_path):
        found = read(save("a", x=X[..., 0], y=Y), tmp_path / "s", channels=3).train
        assert pairs(found.x, found.y) == pairs(np.repeat(FIRST[:, :1], 3, 1), Y)
        found = read(save("b", x=X, y=Y), tmp_path / "t", channels=1).train
        assert pairs(found.x, found.y) == pairs(np.stack([grey(encoded(each)) for each in X]), Y)

    def test_splits_may_have_other_channels_but_no_other_size(self, save, tmp_path):
        path = save("a", x=X[..., 0], y=Y, x_test=X, y_test=Y)
        assert inspect(path).shape == (3, 8, 8)
        given = read(path, tmp_path / "s")
        assert given.train.x.shape == given.test.x.shape
        path = save("b", x=X, y=Y, x_test=X[:, :6, :6], y_test=Y)
        with pytest.raises(ValueError, match=r"8×8 \(x\), 6×6 \(x_test\); give image_size"):
            inspect(path)
        assert inspect(path, image_size=7).shape == (3, 7, 7)

    @pytest.mark.parametrize(
        ("shape", "layout", "said"),
        [
            ((12, 3, 8, 3), "auto", "second or the last may be channels: say by the option 'lay"),
            ((12, 8, 8, 4), "auto", "without transparency"),
            ((12, 64), "auto", "not flat"),
            ((12, 8, 8, 2), "auto", "with 1 or 3 channels"),
            ((12, 8, 8, 3), "channels-first", "and the layout channels-first: images are"),
            ((12, 8, 9, 3), "auto", "not all squares of one size: found 9×8"),
            ((0, 8, 8), "auto", "'x' .* is empty"),
        ],
        ids=str,
    )
    def test_shapes_that_are_none_of_images_or_of_two_kinds_are_refused(
        self, save, shape, layout, said
    ):
        path = save(x=np.zeros(shape, np.uint8), y=Y[: shape[0]])
        with pytest.raises(ValueError, match=said):
            inspect(path, layout=layout)

    def test_a_layout_can_be_said(self, save, tmp_path):
        x = np.stack([pixels(at, 3, 3) for at in range(12)])
        for layout, wanted in (("channels-last", x.transpose(0, 3, 1, 2)), ("channels-first", x)):
            given = read(save(x=x, y=Y), tmp_path / layout, layout=layout)
            assert pairs(*given.train) == pairs(wanted, Y)


class TestNumbers:
    """Numbers of which black and white are not known are refused."""

    @pytest.mark.parametrize(
        ("x", "said"),
        [
            (X * 1.0, r"'x' of .* floats from 0 to 255: bring them to 0 \(black\) … 1"),
            (X / 127.5 - 1, "floats from -1 to 1: bring"),
            (np.where(X > 250, np.nan, X / 255), r"from 0 to .* and \d+ values that are no finite"),
            (np.where(X > 250, np.inf, X / 255), r"and \d+ values that are no finite numbers"),
            (np.full(X.shape, np.nan), "and 2304 values that are no finite numbers"),
        ],
        ids=["bytes", "signed", "nan", "infinite", "only nan"],
    )
    def test_floats_must_be_from_0_to_1(self, save, tmp_path, x, said):
        with pytest.raises(ValueError, match=said):
            read(save(x=x, y=Y), tmp_path / "s")

    @pytest.mark.parametrize("kind", [np.int64, np.int8, np.uint32, np.complex64, "U3"])
    def test_other_types_are_refused(self, save, kind):
        with pytest.raises(ValueError, match="images are uint8, uint16, bool, or floats"):
            inspect(save(x=X.astype(kind), y=Y))

    @pytest.mark.parametrize("region", [X[:11, :, :, 0], X, X[:, :4, :, 0], X[..., 0] / 255])
    def test_regions_must_be_as_large_as_their_images(self, save, region):
        with pytest.raises(ValueError, match=r"'region' .*\(12, 8, 8\) whole numbers or truth val"):
            inspect(save(x=X, y=Y, region=region))


class TestBrokenFiles:
    """Nothing is unpickled, and nothing cut short gets through."""

    def test_pickled_arrays_are_refused_and_not_opened(self, save, tmp_path):
        class Trap:
            def __reduce__(self):
                return (open, (str(tmp_path / "sprung"), "w"))

        trap = np.array([Trap()] * 12, dtype=object)
        for arrays in (
            {"x": X, "y": trap},
            {"x": trap, "y": Y},
            {"x": X, "y": Y, "class_names": trap},
        ):
            with pytest.raises(ValueError, match="Python objects, which are never unpickled"):
                inspect(save(**arrays))
        assert not (tmp_path / "sprung").exists()

    @pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
    @pytest.mark.parametrize("compressed", [False, True])
    def test_a_file_cut_short_is_refused(self, save, share, compressed):
        path = save(x=X, y=Y, compressed=compressed)
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(ValueError, match=r"a\.npz is unreadable as an \.npz file.*savez"):
            inspect(path)

    @pytest.mark.parametrize("compressed", [False, True])
    def test_a_changed_byte_is_noticed(self, save, tmp_path, compressed):
        path = save(x=X, y=Y, compressed=compressed)
        content = bytearray(path.read_bytes())
        content[1200] ^= 255
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.npz is unreadable as an \.npz file"):
            read(path, tmp_path / "s")

    def test_a_head_that_says_more_than_there_is_is_refused(self, tmp_path):
        buffer = io.BytesIO()
        np.save(buffer, X)
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            archive.writestr("x.npy", buffer.getvalue()[:-100])
        with pytest.raises(ValueError, match=r"'x' has 2332 bytes, its head says 2432"):
            inspect(tmp_path / "a.npz")

    def test_a_single_array_or_another_archive_is_refused(self, tmp_path):
        np.save(tmp_path / "a.npy", X)
        with pytest.raises(ValueError, match=r"a\.npy is unreadable as an \.npz file"):
            inspect(tmp_path / "a.npy")
        with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
            archive.writestr("x.npy", b"hello")
        with pytest.raises(ValueError, match=r"b\.zip"):
            inspect(tmp_path / "b.zip")

    def test_the_fingerprint_changes_with_the_file(self, save):
        path = save(x=X, y=Y)
        before = inspect(path).fingerprint
        assert inspect(path, image_size=4).fingerprint == before
        os.utime(path, ns=(1, 1))
        assert inspect(path).fingerprint != before


def test_the_arrays_do_not_lie_in_memory(save, tmp_path):
    found = read(save(x=X, y=Y, region=X[..., 0]), tmp_path / "s").train
    assert isinstance(found, Arrays)
    assert isinstance(found.x, np.memmap)
    assert isinstance(found.region, np.memmap)
