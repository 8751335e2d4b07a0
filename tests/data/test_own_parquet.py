"""Parquet files give the same images, however their rows are ordered and spread over files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from own_images import arrays, encoded, pixels, png, request, same

from attrreg.data.own import OwnOptions
from attrreg.data.own_parquet import inspect_parquet, read_parquet

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(
    os.environ.get("ATTRREG_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data")
)


def write(path, n=12, seed=0, labels=None, metadata=None, masks=None, order=None, **columns):
    """Write random images with labels 0, 1, 2, … as a table."""
    images = [png(seed + at) for at in range(n)]
    table = {"image": images, "label": [at % 3 for at in range(n)] if labels is None else labels}
    if masks is not None:
        table["mask"] = masks
    table |= columns
    written = pa.table(table).replace_schema_metadata(metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(written if order is None else written.take(order), path, row_group_size=5)


def inspect(place, **options):
    return inspect_parquet(str(place), OwnOptions(**options))


def read(place, scratch, **options):
    """Return class names and all splits as arrays."""
    entry = inspect(place, **options)
    given = read_parquet(request(place, scratch, **options))
    splits = {
        name: arrays(samples, entry.shape, OwnOptions(**options))
        for name in ("train", "validation", "test")
        if (samples := getattr(given, name)) is not None
    }
    return given.class_names, splits


def pairs(x, y, region=None):
    """Return each image with its label and region, sorted."""
    regions = [b""] * len(y) if region is None else [each.tobytes() for each in region]
    return sorted(zip((each.tobytes() for each in x), y.tolist(), regions, strict=True))


class TestOrder:
    """What is prepared depends on the samples only."""

    def test_every_image_keeps_its_label(self, tmp_path):
        write(tmp_path / "a.parquet")
        _, splits = read(tmp_path / "a.parquet", tmp_path / "s")
        wanted = np.stack([pixels(at).transpose(2, 0, 1) for at in range(12)])
        assert pairs(*splits["train"]) == pairs(wanted, np.arange(12) % 3)

    def test_the_order_of_rows_does_not_count(self, tmp_path):
        labels = [0] * 4 + [1] * 4 + [2] * 4
        write(tmp_path / "a.parquet", labels=labels)
        found = read(tmp_path / "a.parquet", tmp_path / "s")
        for seed in range(4):
            order = np.random.default_rng(seed).permutation(12)
            write(tmp_path / f"{seed}.parquet", labels=labels, order=order)
            other = read(tmp_path / f"{seed}.parquet", tmp_path / f"s{seed}")
            assert other[0] == found[0]
            assert same(other[1]["train"], found[1]["train"])
        assert found[1]["train"][1].tolist() != labels  # nor is it that of the classes

    def test_the_number_and_names_of_files_do_not_count(self, tmp_path):
        write(tmp_path / "one" / "train.parquet")
        rows = pq.read_table(tmp_path / "one" / "train.parquet")
        for name, part in (("z", [3, 7, 0]), ("b/c", [11, 10, 2, 1]), ("a", [4, 5, 6, 8, 9])):
            path = tmp_path / "many" / f"{name}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(rows.take(part), path)
        one, many = (read(tmp_path / each, tmp_path / f"s-{each}") for each in ("one", "many"))
        assert one[0] == many[0]
        assert same(one[1]["train"], many[1]["train"])

    def test_equal_images_are_ordered_by_label_and_mask(self, tmp_path):
        masks = [encoded(np.full((8, 8), at % 2, np.uint8)) for at in range(12)]
        rows = pa.table({"image": [png(0)] * 12, "label": [0, 1, 2] * 4, "mask": masks})
        for seed in range(3):
            order = np.random.default_rng(seed).permutation(12)
            pq.write_table(rows.take(order), tmp_path / f"{seed}.parquet")
        first, *others = (
            read(tmp_path / f"{seed}.parquet", tmp_path / f"s{seed}")[1]["train"]
            for seed in range(3)
        )
        assert all(same(first, other) for other in others)

    def test_masks_go_with_their_images(self, tmp_path):
        masks = [encoded((pixels(at)[..., 0] > 100).astype(np.uint8)) for at in range(12)]
        write(tmp_path / "a.parquet", masks=[{"bytes": each, "path": None} for each in masks])
        assert inspect(tmp_path / "a.parquet").regions
        x, _, region = read(tmp_path / "a.parquet", tmp_path / "s")[1]["train"]
        assert np.array_equal(region, x[:, 0] > 100)

    def test_images_can_be_structs_of_bytes_and_path(self, tmp_path):
        write(tmp_path / "a.parquet")
        structs = [{"bytes": png(at), "path": f"{at}.png"} for at in range(12)]
        write(tmp_path / "b.parquet", image=structs)
        found = [read(tmp_path / f"{each}.parquet", tmp_path / each)[1]["train"] for each in "ab"]
        assert same(*found)


class TestSplits:
    """The name of a file says its split."""

    @pytest.mark.parametrize(
        ("train", "validation", "test"),
        [
            ("train-00000-of-00001", "validation-00000-of-00001", "test-00000-of-00001"),
            ("cifar10-jpeg-train", "cifar10-jpeg-dev", "cifar10-jpeg-test"),
            ("data", "a_VAL_b", "x.test"),
            ("train/0000", "valid/0000", "test/0000"),
        ],
        ids=str,
    )
    def test_names_of_files_and_folders_say_it(self, tmp_path, train, validation, test):
        for seed, (name, n) in enumerate([(train, 12), (validation, 6), (test, 3)]):
            write(tmp_path / "d" / f"{name}.parquet", n, seed * 50)
        entry = inspect(tmp_path / "d")
        assert (entry.pool, entry.validation, entry.test) == (12, 6, 3)
        assert {k: len(y) for k, (_, y, _) in read(tmp_path / "d", tmp_path / "s")[1].items()} == {
            "train": 12,
            "validation": 6,
            "test": 3,
        }

    def test_a_name_that_says_two_splits_is_refused(self, tmp_path):
        write(tmp_path / "train" / "test_train.parquet")
        with pytest.raises(ValueError, match=r"test_train\.parquet is named after test and train"):
            inspect(tmp_path)

    def test_a_pattern_takes_only_what_it_names(self, tmp_path):
        for name in ("a-train", "a-test", "b-train"):
            write(tmp_path / "test" / f"{name}.parquet", 9)
        entry = inspect(tmp_path / "test" / "a-*.parquet")
        assert (entry.pool + entry.validation, entry.test) == (9, 9)
        assert inspect(tmp_path / "*" / "b-*.parquet").test == 2  # "test" stands in the pattern

    def test_files_for_testing_only_are_refused(self, tmp_path):
        write(tmp_path / "x-test.parquet")
        with pytest.raises(ValueError, match=r"none but test files, such as x-test\.parquet: add"):
            inspect(tmp_path / "x-test.parquet")

    def test_a_label_that_is_only_tested_is_refused(self, tmp_path):
        write(tmp_path / "train.parquet", labels=[0, 1] * 6)
        write(tmp_path / "test.parquet")
        with pytest.raises(ValueError, match="class '2' in its test split and not among"):
            inspect(tmp_path)


class TestLabels:
    """Labels of every kind become 0 … C−1, and the classes keep their names."""

    @pytest.mark.parametrize(
        ("labels", "names"),
        [
            ([1, 2, 3] * 4, ("1", "2", "3")),
            ([10, 2, 300] * 4, ("2", "10", "300")),
            (["cat", "bee", "ant"] * 4, ("ant", "bee", "cat")),
            (pa.array(["cat", "bee", "ant"] * 4).dictionary_encode(), ("ant", "bee", "cat")),
            (pa.array(["cat", "bee", "ant"] * 4, pa.large_string()), ("ant", "bee", "cat")),
            (pa.array([2, 1, 0] * 4, pa.uint8()), ("0", "1", "2")),
            ([True, False] * 6, ("false", "true")),
        ],
        ids=lambda each: str(getattr(each, "type", each)),
    )
    def test_every_kind_of_label_is_read(self, tmp_path, labels, names):
        write(tmp_path / "a.parquet", labels=labels)
        found, splits = read(tmp_path / "a.parquet", tmp_path / "s")
        assert found == names
        values = labels.to_pylist() if isinstance(labels, pa.Array) else labels
        wanted = [names.index(str(each).lower()) for each in values]
        images = np.stack([pixels(at).transpose(2, 0, 1) for at in range(12)])
        assert pairs(*splits["train"]) == pairs(images, np.array(wanted))

    @pytest.mark.parametrize(
        "metadata",
        [
            {"classes": "ant, bee,cat"},
            {"huggingface": {"info": {"features": {"label": {"names": ["ant", "bee", "cat"]}}}}},
            {"huggingface": {"features": {"label": {"names": ["ant", "bee", "cat"]}}}},
            {"huggingface": "nonsense", "classes": "ant,bee,cat,dog"},
        ],
        ids=str,
    )
    def test_the_metadata_name_the_classes(self, tmp_path, metadata):
        said = {k: v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()}
        write(tmp_path / "a.parquet", metadata=said)
        assert read(tmp_path / "a.parquet", tmp_path / "s")[0] == ("ant", "bee", "cat")

    def test_classes_without_samples_are_no_classes(self, tmp_path):
        write(tmp_path / "a.parquet", labels=[0, 2] * 6, metadata={"classes": "ant,bee,cat"})
        names, splits = read(tmp_path / "a.parquet", tmp_path / "s")
        assert names == ("ant", "cat")
        assert set(splits["train"][1].tolist()) == {0, 1}

    @pytest.mark.parametrize(
        ("labels", "said"),
        [
            ([0, 1, None] * 4, r"4 rows without a label, the first is row 2: label or remove"),
            ([0, 1, -1] * 4, r"the label -1; .* without a label"),
            ([0.5, 1.5, 2.0] * 4, r"double in the column 'label': labels are whole numbers"),
            ([[0], [1], [2]] * 4, r"list<.*> in the column 'label'"),
            ([0] * 12, r"1 class to train on, '0': 2 or more"),
            ([0] * 6 + [1] * 4 + [2] * 2, r"2 samples of the class '2', 3 are needed"),
        ],
        ids=["null", "negative", "floats", "lists", "one class", "few"],
    )
    def test_labels_of_which_no_classes_can_be_made_are_refused(self, tmp_path, labels, said):
        write(tmp_path / "a.parquet", labels=labels)
        with pytest.raises(ValueError, match=said):
            inspect(tmp_path / "a.parquet")

    def test_files_must_agree(self, tmp_path):
        write(tmp_path / "a.parquet", metadata={"classes": "ant,bee,cat"})
        write(tmp_path / "b.parquet", metadata={"classes": "bee,ant,cat"})
        with pytest.raises(ValueError, match=r"names the classes ant, bee.* must name the same"):
            inspect(tmp_path)
        write(tmp_path / "b.parquet", labels=["x", "y", "z"] * 4)
        with pytest.raises(ValueError, match=r"whole numbers in a.* and texts in b"):
            inspect(tmp_path)
        write(tmp_path / "b.parquet", masks=[png(0)] * 12)
        with pytest.raises(ValueError, match=r"b\.parquet has a column 'mask', a\.parquet has no"):
            inspect(tmp_path)


class TestWhatIsWrong:
    """Each mistake is said with the file, the row or the column."""

    def test_other_columns_can_be_said(self, tmp_path):
        write(tmp_path / "a.parquet", img=[png(at) for at in range(12)], fine=["a", "b"] * 6)
        assert inspect(tmp_path / "a.parquet", image="img", label="fine").classes == 2
        with pytest.raises(ValueError, match=r"'image', 'label', 'img', 'fine', .*option 'label'"):
            inspect(tmp_path / "a.parquet", label="coarse")

    @pytest.mark.parametrize("column", [["a"] * 12, [1] * 12, [[1, 2]] * 12, [{"path": "a"}] * 12])
    def test_a_column_of_something_else_is_refused(self, tmp_path, column):
        write(tmp_path / "a.parquet", image=column)
        with pytest.raises(ValueError, match="in the column 'image': encoded images are needed"):
            inspect(tmp_path / "a.parquet")

    @pytest.mark.parametrize(
        ("image", "said"),
        [
            (None, r"a\.parquet row 11 has no bytes in 'image': store"),
            ({"bytes": None, "path": "x.png"}, r"row 11 has no bytes in 'image', only the path 'x"),
        ],
    )
    def test_a_row_without_an_image_is_named(self, tmp_path, image, said):
        whole = png(0) if image is None else {"bytes": png(0), "path": "a"}
        write(tmp_path / "a.parquet", image=[whole] * 11 + [image])
        with pytest.raises(ValueError, match=said):
            read(tmp_path / "a.parquet", tmp_path / "s")

    def test_a_broken_image_is_named_by_its_row(self, tmp_path):
        images = [png(at) for at in range(40)]
        images[33] = images[33][:50]
        write(tmp_path / "a.parquet", 40, image=images)
        with pytest.raises(ValueError, match=r"1 of 40 images .*a\.parquet row 33 is unreadable"):
            read(tmp_path / "a.parquet", tmp_path / "s")

    @pytest.mark.parametrize("kept", [0, 3, 100, -4, -200])
    def test_a_file_cut_short_is_refused(self, tmp_path, kept):
        write(tmp_path / "a.parquet")
        content = (tmp_path / "a.parquet").read_bytes()
        (tmp_path / "a.parquet").write_bytes(content[:kept])
        with pytest.raises(ValueError, match=r"a\.parquet is unreadable as a Parquet file"):
            inspect(tmp_path / "a.parquet")

    def test_pages_that_are_broken_are_refused(self, tmp_path):
        write(tmp_path / "a.parquet")
        content = bytearray((tmp_path / "a.parquet").read_bytes())
        content[4:3000] = bytes(2996)
        (tmp_path / "a.parquet").write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.parquet"):
            read(tmp_path / "a.parquet", tmp_path / "s")

    def test_hidden_files_do_not_count_and_links_out_of_a_folder_are_refused(self, tmp_path):
        write(tmp_path / "outside.parquet")
        write(tmp_path / "d" / "a.parquet")
        write(tmp_path / "d" / ".cache" / "b.parquet", labels=[-1] * 12)
        assert inspect(tmp_path / "d").classes == 3
        (tmp_path / "d" / "c.parquet").symlink_to(tmp_path / "outside.parquet")
        with pytest.raises(ValueError, match=r"c\.parquet is a link to .*outside\.parquet, out of"):
            inspect(tmp_path / "d")
        assert inspect(tmp_path / "d" / "c*.parquet").classes == 3

    def test_the_fingerprint_changes_with_a_file(self, tmp_path):
        write(tmp_path / "a.parquet")
        before = inspect(tmp_path).fingerprint
        assert inspect(tmp_path, image_size=4).fingerprint == before
        os.utime(tmp_path / "a.parquet", ns=(1, 1))
        assert inspect(tmp_path).fingerprint != before


MEMORY = """
import pyarrow
from pathlib import Path
from attrreg.data.own import OwnOptions
from attrreg.data.own_parquet import read_parquet
from attrreg.data.samples import Request
given = read_parquet(Request(OwnOptions(), {{}}, Path({scratch!r}), Path({place!r})))
assert sum(len(given.train.read(at)) for at in range(800)) == 80_000_000
print(pyarrow.default_memory_pool().max_memory())
"""


def test_a_large_row_group_is_not_loaded_at_once(tmp_path):
    """80 MB of images in one row group are read with half of that in memory."""
    noise, place = np.random.default_rng(0).bytes(200_000), tmp_path / "a.parquet"
    images = [noise[at : at + 100_000] for at in range(800)]
    rows = pa.table({"image": images, "label": [at % 3 for at in range(800)]})
    how = {"compression": "none", "use_dictionary": False, "write_batch_size": 16}
    pq.write_table(rows, place, **how)
    assert pq.ParquetFile(place).num_row_groups == 1
    (tmp_path / "s").mkdir()
    code = MEMORY.format(scratch=str(tmp_path / "s"), place=str(place))
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert int(answer.stdout) < 40_000_000


@pytest.mark.skipif(
    not (SHARED / "mnist10k-train.parquet").is_file(),
    reason=f"no mnist10k-train.parquet in {SHARED}: set ATTRREG_SHARED_DATA",
)
def test_published_digits_are_read_whole(tmp_path):
    place = SHARED / "mnist10k-*.parquet"
    entry = inspect(place)
    assert (entry.classes, entry.shape) == (10, (1, 28, 28))
    names, splits = read(place, tmp_path / "s")
    assert names == tuple("0123456789")
    for name in ("train", "test"):
        x, y, _ = splits[name]
        rows = pq.read_table(SHARED / f"mnist10k-{name}.parquet")
        assert np.bincount(y).tolist() == np.bincount(rows["label"].to_numpy()).tolist()
        assert 0.1 < x.mean() / 255 < 0.16  # digits are thin
        assert len({each.tobytes() for each in x}) > 0.99 * len(y)
