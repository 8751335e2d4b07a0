"""Prepared arrays are always the same, never silently wrong, and training sees only its pool."""

import json
import shlex
from dataclasses import replace

import numpy as np
import pytest
from experiments import command

from attrreg import catalogue
from attrreg.data import sources
from attrreg.data.known import digits as source
from attrreg.data.prepare import prepare, read_embedded, statistics
from attrreg.data.samples import Arrays, Request
from attrreg.data.sources import read_held_out, read_pool, sampled_digest

ARRAYS = [f"{split}_{axis}.npy" for split in ("pool", "validation", "test") for axis in "xy"]


@pytest.fixture
def data(tmp_path):
    prepare(tmp_path, "digits")
    return tmp_path


def opened(data, name):
    """Read the splits of which an array is a part."""
    return read_pool(data, "digits") if name.startswith("pool") else read_held_out(data, "digits")


def flat(images):
    """Return each sample with its label as bytes."""
    return [x.tobytes() + bytes([int(y)]) for x, y in zip(images.x, images.y, strict=True)]


def test_the_splits_share_no_sample_and_lose_none():
    from sklearn.datasets import load_digits

    bunch = load_digits()
    whole = Arrays(np.round(bunch.images * (255 / 16)).astype(np.uint8)[:, None], bunch.target)
    parts = [sample for images in read_embedded("digits") for sample in flat(images)]
    assert sorted(parts) == sorted(flat(whole))


def test_every_split_has_every_class_about_equally_often():
    pool, validation, test = read_embedded("digits")
    for images in (validation, test):
        assert set(np.bincount(images.y).tolist()) == {36}
    assert np.bincount(pool.y).min() > 90


def test_what_is_read_is_what_the_source_gave(data):
    splits = read_embedded("digits")
    found = {"pool": read_pool(data, "digits").images, **read_held_out(data, "digits")}
    for name, images in splits._asdict().items():
        assert np.array_equal(found[name].x, images.x)
        assert np.array_equal(found[name].y, images.y)


def test_channel_statistics_are_those_of_the_pool(data):
    pool = read_pool(data, "digits")
    scaled = read_embedded("digits").pool.x / 255
    assert pool.mean == pytest.approx(scaled.mean((0, 2, 3)), rel=1e-6)
    assert pool.deviation == pytest.approx(scaled.std((0, 2, 3)), rel=1e-6)
    assert (pool.mean.dtype, pool.deviation.dtype) == (np.float32, np.float32)


def test_preparing_twice_gives_the_same_bytes(data, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    prepare(other, "digits")
    prepare(data, "digits")  # over what is there
    files = sorted(path.relative_to(data) for path in data.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(other) for path in other.rglob("*") if path.is_file())
    for file in files:
        assert (data / file).read_bytes() == (other / file).read_bytes()
    assert read_pool(data, "digits").digest == read_pool(other, "digits").digest


def test_a_dataset_that_is_not_prepared_names_the_command(tmp_path):
    for read in (read_pool, read_held_out):
        with pytest.raises(FileNotFoundError, match="'digits' is not prepared") as error:
            read(tmp_path, "digits")
        assert shlex.split(str(error.value).split("`")[1]) == [
            *("attrreg", "prepare", "--dataset", "digits", "--data", str(tmp_path))
        ]


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


def empty(path):
    path.write_bytes(b"")


def flip(path):
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(bytes(raw))


def absent(path):
    path.unlink()


def reorder(path):
    np.save(path, np.load(path)[::-1])


def retype(path):
    np.save(path, np.load(path).astype(np.float32))


def pickled(path):
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)


@pytest.mark.parametrize("harm", [cut, empty, flip, absent, reorder, retype, pickled])
@pytest.mark.parametrize("name", ["pool_x.npy", "pool_y.npy", "test_x.npy", "validation_y.npy"])
def test_a_harmed_array_is_refused_with_the_command_that_repairs_it(data, name, harm):
    harm(data / "digits" / "arrays" / name)
    with pytest.raises(ValueError, match=rf"{name.partition('_')[0]} arrays of 'digits'") as error:
        opened(data, name)
    repair = shlex.split(str(error.value).split("`")[1])
    assert command(*repair[1:]).code == 0
    opened(data, name)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"digests": {}}', "null"])
def test_a_broken_description_is_refused_with_the_command_that_repairs_it(data, text):
    path = data / "digits" / "dataset.json"
    path.write_text(text)
    for read in (read_pool, read_held_out):
        with pytest.raises(ValueError, match=r"dataset\.json") as error:
            read(data, "digits")
        repair = shlex.split(str(error.value).split("`")[1])
        assert repair[:2] == ["attrreg", "prepare"]
    assert command(*repair[1:]).code == 0
    read_pool(data, "digits")


def test_a_description_of_other_arrays_is_refused(data):
    path = data / "digits" / "dataset.json"
    description = json.loads(path.read_text())
    description["digests"]["pool"] = description["digests"]["test"]
    path.write_text(json.dumps(description))
    with pytest.raises(ValueError, match="pool arrays of 'digits'"):
        read_pool(data, "digits")


class TestTrainingSeesOnlyItsPool:
    """Nothing that training opens or holds comes from the held-out splits."""

    def test_the_pool_is_read_without_the_other_arrays(self, data):
        for name in ARRAYS:
            if not name.startswith("pool"):
                (data / "digits" / "arrays" / name).unlink()
        assert len(read_pool(data, "digits").images.y) == 1077
        with pytest.raises(ValueError, match="'digits'"):
            read_held_out(data, "digits")

    def test_no_sample_of_the_pool_is_held_out(self, data):
        pool = read_pool(data, "digits")
        assert {len(pool.images.x), len(pool.images.y)} == {1077}
        assert not set(flat(pool.images)) & set(flat(read_held_out(data, "digits")["test"]))


class TestSourcesThatAreNotWhatTheCatalogueSays:
    """A dataset that changed upstream is refused, and what was prepared before stays."""

    @pytest.mark.parametrize(
        "change",
        [
            lambda x, y: (x[1:], y[1:]),
            lambda x, y: (x[..., :7], y),
            lambda x, y: (x / 255, y),
            lambda x, y: (x, y % 9),
            lambda x, y: (x, y + 1),
            lambda x, y: (x, y - 1),
        ],
        ids=[
            "fewer samples",
            "smaller",
            "scaled",
            "a class less",
            "classes from 1",
            "classes from -1",
        ],
    )
    def test_it_is_refused_and_nothing_is_written(self, data, tmp_path, monkeypatch, change):
        given = source.read(Request())
        other = replace(given, train=Arrays(*change(given.train.x, given.train.y)))
        monkeypatch.setattr(source, "read", lambda request: other)
        for folder in (tmp_path / "new", data):
            with pytest.raises(ValueError, match="the catalogue says"):
                prepare(folder, "digits")
        left = {path.name for path in (tmp_path / "new").rglob("*")}
        assert left <= {"digits", ".prepare.lock"}
        assert len(read_pool(data, "digits").images.y) == 1077

    def test_arrays_may_lie_in_memory_as_they_like(self, tmp_path, monkeypatch):
        given = source.read(Request())
        expected = read_embedded("digits").pool.x
        x, y, _ = given.train
        strided = replace(given, train=Arrays(np.asfortranarray(x), y[::-1][::-1]))
        monkeypatch.setattr(source, "read", lambda request: strided)
        prepare(tmp_path, "digits")
        assert np.array_equal(read_pool(tmp_path, "digits").images.x, expected)

    def test_a_second_dataset_has_a_folder_of_its_own(self, data, monkeypatch):
        monkeypatch.setitem(
            catalogue.DATASETS, "again", replace(catalogue.DATASETS["digits"], title="again")
        )
        prepare(data, "again")
        assert read_pool(data, "again").digest == read_pool(data, "digits").digest
        assert (data / "again" / "dataset.json").is_file()


class TestLargeArrays:
    """What is too large to be read each time is still known by some of its blocks."""

    def test_a_harmed_block_is_seen(self, data, monkeypatch):
        monkeypatch.setattr(sources, "WHOLE", 100)
        assert len(read_pool(data, "digits").images.y) == 1077
        path = data / "digits" / "arrays" / "pool_x.npy"
        raw = bytearray(path.read_bytes())
        raw[-1] ^= 1
        path.write_bytes(bytes(raw))
        with pytest.raises(ValueError, match="pool arrays of 'digits' have digest"):
            read_pool(data, "digits")

    def test_it_depends_on_type_and_shape(self):
        x = np.arange(64, dtype=np.uint8)
        shapes = (x, x.reshape(8, 8), x.view(np.int8), x[:63])
        assert len({sampled_digest(each) for each in shapes}) == len(shapes)


@pytest.mark.parametrize("shape", [(1, 3, 4, 4), (50, 1, 5, 7), (300, 2, 9)])
def test_counted_statistics_are_those_of_the_values(shape):
    x = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    over = tuple(axis for axis in range(x.ndim) if axis != 1)
    mean, deviation = statistics(x)
    assert mean == pytest.approx((x / 255).mean(over), abs=1e-12)
    assert deviation == pytest.approx((x / 255).std(over), abs=1e-12)
