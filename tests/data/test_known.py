"""Every known dataset is read just as published: pixels, labels, names and regions."""

import hashlib
import io
import re
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_archives import BUILDERS, FOLDER_BUILDERS, build
from small_files import members_of, pack

from attrreg import catalogue
from attrreg.data import known
from attrreg.data.images import decode_all
from attrreg.data.samples import Arrays, Encoded, Request
from attrreg.entries import ImageOptions

ROOT = Path(__file__).resolve().parents[2]
SPLITS = ("train", "validation", "test")
FETCHED = {name: entry for name, entry in catalogue.DATASETS.items() if entry.archives}
ARCHIVES = [
    pytest.param(archive, id=f"{name}-{archive.name}")
    for name, entry in FETCHED.items()
    for archive in entry.archives
]
OF_FOLDERS = [
    name for name, path in catalogue.SOURCES.items() if path.startswith(f"{known.__name__}.")
]
# Members of published archives that no reader needs.
UNUSED = re.compile(
    r"readme|coarse_label|unlabeled|fold_indices|attributes|\.mat$|\.xml$|/\._|\.csv$"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a function from a name to its small dataset, made once."""
    found = {}

    def make(name):
        if name not in found:
            found[name] = build(name, tmp_path_factory.mktemp(name), np.random.default_rng(7))
        return found[name]

    return make


def read(small, scratch, files=None):
    """Call the reader of a small dataset."""
    archives = small.files if files is None else files
    scratch.mkdir(parents=True)
    request = Request(small.entry.options(), archives, scratch, Path(small.entry.place))
    return catalogue.load(small.entry.implementation)(request)


def pixels(samples):
    """Return all that a split holds of its images, by place."""
    if isinstance(samples, Arrays):
        return list(samples.x)
    return [samples.read(at) for at in range(len(samples.y))]


def regions(samples):
    """Return the regions of a split, by place."""
    return [np.asarray(samples.mask(at)) for at in range(len(samples.y))]


@pytest.mark.parametrize("name", [*FETCHED, *OF_FOLDERS])
def test_every_known_dataset_can_be_made_small(name):
    assert name in {**BUILDERS, **FOLDER_BUILDERS}


@pytest.mark.parametrize("name", [*BUILDERS, *FOLDER_BUILDERS])
class TestWhatIsRead:
    """All of what was written, and in the order that the format has."""

    def test_it_is_just_what_the_archives_hold(self, name, made, tmp_path):
        small = made(name)
        given = read(small, tmp_path / "scratch")
        assert given.class_names == small.class_names
        for split in SPLITS:
            expected, found = getattr(small, split), getattr(given, split)
            assert (found is None) == (expected is None)
            if expected is None:
                continue
            assert found.y.dtype == np.int64
            assert found.y.tolist() == expected.y.tolist()
            assert len(expected.x) == len(expected.y)
            for one, other in zip(pixels(found), expected.x, strict=True):
                assert np.array_equal(one, other)
            if isinstance(found, Arrays):
                assert found.x.dtype == np.uint8
                assert found.x.shape == expected.x.shape

    def test_its_regions_are_those_of_its_images(self, name, made, tmp_path):
        small = made(name)
        given = read(small, tmp_path / "scratch")
        for split in SPLITS:
            expected, found = getattr(small, split), getattr(given, split)
            if expected is None or expected.region is None:
                assert getattr(found, "mask", None) is None
                continue
            assert small.entry.regions
            shown = regions(found)
            assert {value for each in shown for value in np.unique(each)} == {0, 255}
            for one, other in zip(shown, expected.region, strict=True):
                assert np.array_equal(one == 255, other)

    def test_it_is_the_same_each_time(self, name, made, tmp_path):
        small = made(name)
        one, other = (read(small, tmp_path / each) for each in ("one", "other"))
        assert one.class_names == other.class_names
        for split in SPLITS:
            first, second = getattr(one, split), getattr(other, split)
            if first is None:
                continue
            assert first.y.tolist() == second.y.tolist()
            assert list(getattr(first, "names", [])) == list(getattr(second, "names", []))
            for x, again in zip(pixels(first), pixels(second), strict=True):
                assert np.array_equal(x, again)

    def test_its_counts_are_those_that_its_entry_is_checked_against(self, name, made, tmp_path):
        small = made(name)
        given = read(small, tmp_path / "scratch")
        drawn = {split for split in SPLITS[1:] if getattr(given, split) is None}
        wanted = {split: getattr(small.entry, split) for split in SPLITS[1:]}
        assert len(given.class_names) == small.entry.classes
        assert len(given.train.y) == small.entry.pool + sum(wanted[split] for split in drawn)
        for split in set(wanted) - drawn:
            assert len(getattr(given, split).y) == wanted[split]

    def test_no_image_stands_in_two_splits_or_has_no_name(self, name, made, tmp_path):
        given = read(made(name), tmp_path / "scratch")
        splits = [each for each in (given.train, given.validation, given.test) if each is not None]
        if isinstance(given.train, Encoded):
            names = [
                (each.names[at], each.read(at)) for each in splits for at in range(len(each.y))
            ]
            assert len(set(names)) == len(names)
            assert all(each.count("/") >= 1 for each, _ in names)

    def test_archives_stay_as_they_are_and_nothing_comes_beside_them(self, name, made, tmp_path):
        small = made(name)
        folder = Path(small.entry.place) if small.entry.place else _home(small)
        before = _state(folder)
        read(small, tmp_path / "scratch")
        assert _state(folder) == before
        assert [path.name for path in tmp_path.iterdir()] == ["scratch"]

    def test_it_can_be_decoded_with_its_regions(self, name, made, tmp_path):
        given = read(made(name), tmp_path / "scratch")
        for samples in (given.train, given.test):
            if isinstance(samples, Encoded):
                x = np.zeros((len(samples.y), 3, 8, 8), dtype=np.uint8)
                region = None if samples.mask is None else np.zeros((len(x), 8, 8), dtype=bool)
                decode_all(samples, x, region, ImageOptions(image_size=8), lambda *said: None)
                assert x.any((1, 2, 3)).all()


def _home(small):
    (folder,) = {path.parent for path in small.files.values()}
    return folder


def _state(folder):
    return {
        path: (path.stat().st_mtime_ns, hashlib.md5(path.read_bytes()).digest())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("name", BUILDERS)
def test_small_archives_are_the_same_each_time(name, tmp_path):
    one, other = (build(name, tmp_path / each, np.random.default_rng(3)) for each in ("1", "2"))
    assert one.entry == other.entry  # with the digests of the archives
    assert [path.read_bytes() for path in one.files.values()] == [
        path.read_bytes() for path in other.files.values()
    ]


@pytest.mark.parametrize("name", BUILDERS)
def test_what_no_reader_needs_is_not_missed(name, made, tmp_path):
    small = made(name)
    files = {
        file: pack(tmp_path / file, kept) if (kept := _needed(path)) is not None else path
        for file, path in small.files.items()
    }
    expected, found = read(small, tmp_path / "1"), read(small, tmp_path / "2", files)
    for split in SPLITS:
        if getattr(expected, split) is not None:
            for one, other in zip(
                pixels(getattr(expected, split)), pixels(getattr(found, split)), strict=True
            ):
                assert np.array_equal(one, other)


def _needed(path):
    if path.suffix == ".mat" or path.name.endswith("ubyte.gz"):
        return None
    return {each: raw for each, raw in members_of(path).items() if not UNUSED.search(each)}


@pytest.mark.parametrize(
    ("name", "unused"), [("stl10", "unlabeled_X.bin"), ("cub200", "certainties.txt")]
)
def test_what_no_reader_needs_is_not_unpacked(name, unused, made, tmp_path):
    small = made(name)
    read(small, tmp_path / "scratch")
    assert any(unused in each for path in small.files.values() for each in members_of(path))
    assert not list((tmp_path / "scratch").rglob(unused))


def test_published_oddities_are_among_the_small_ones(made):
    """Else nothing would tell whether they are read well."""
    opened = [Image.open(io.BytesIO(raw)) for raw in made("oxford-pets").train.x]
    assert {"PNG", "JPEG"} == {image.format for image in opened}
    assert any(image.getexif().get(0x0112) == 6 and image.width != image.height for image in opened)
    assert any(not region.any() for region in made("imagenet-s").train.region)
    masks = members_of(made("cub200").files["segmentations.tgz"]).values()
    assert {"L", "LA"} == {Image.open(io.BytesIO(raw)).mode for raw in masks}


class TestWhatEntriesSay:
    """Facts that can be held against each other, and against what torchvision publishes."""

    @staticmethod
    def torchvision():
        folder = Path(find_spec("torchvision").origin).parent / "datasets"
        return "".join(path.read_text() for path in folder.glob("*.py"))

    @pytest.mark.parametrize("archive", ARCHIVES)
    def test_an_archive_is_described_in_full(self, archive):
        assert re.fullmatch(r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", archive.digest)
        assert archive.unpacked > 0
        assert archive.size is None or 0 < archive.size < archive.unpacked
        assert archive.urls
        assert len(set(archive.urls)) == len(archive.urls)
        assert not archive.verified

    @pytest.mark.parametrize("archive", ARCHIVES)
    def test_an_archive_is_fetched_encrypted_or_from_where_torchvision_does(self, archive):
        source = self.torchvision()
        for url in archive.urls:
            assert url.endswith(f"/{archive.name}")
            plain = url.startswith("http://") and url.removesuffix(archive.name).rstrip("/")
            assert url.startswith("https://") or (plain and plain in source)

    @pytest.mark.parametrize("archive", ARCHIVES)
    def test_a_digest_is_torchvisions_where_it_has_the_archive(self, archive):
        other = ("cifar-10-binary", "cifar-100-binary", "CUB_200_2011", "segmentations")
        published = archive.digest.removeprefix("md5:") in self.torchvision()
        assert published == (not archive.name.startswith(other))

    @pytest.mark.parametrize("name", FETCHED)
    def test_a_dataset_is_described_in_full(self, name):
        entry = FETCHED[name]
        assert all([entry.title, entry.source, entry.licence])
        assert len({archive.name for archive in entry.archives}) == len(entry.archives)
        assert min(entry.pool, entry.validation, entry.test) >= entry.classes
        assert entry.implementation.startswith(f"{known.__name__}.")
        assert callable(catalogue.load(entry.implementation))

    def test_no_digest_or_place_stands_for_two_archives(self):
        archives = {archive for entry in FETCHED.values() for archive in entry.archives}
        for told in ("digest", "urls"):
            assert len({getattr(each, told) for each in archives}) == len(archives)


class TestLookingIsLight:
    """To list datasets, or to look at a folder, imports nothing that takes long."""

    HEAVY = "{'numpy', 'PIL', 'scipy', 'torch', 'torchvision', 'timm', 'pandas', 'pyarrow'}"

    def run(self, code):
        tell = f"\nimport sys; print('heavy:', *({self.HEAVY} & set(sys.modules)))"
        answer = subprocess.run(
            [sys.executable, "-c", code + tell],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert answer.returncode == 0, answer.stderr
        return answer.stdout.rpartition("heavy:")[2].split()

    def test_of_known_datasets(self):
        names = [path.stem for path in Path(known.__file__).parent.glob("[!_]*.py")]
        assert len(names) > 10
        assert self.run("\n".join(f"import {known.__name__}.{name}" for name in names)) == []

    def test_at_folders(self, made):
        places = {name: made(name).entry.place for name in FOLDER_BUILDERS}
        paths = {name: catalogue.SOURCES[name] for name in FOLDER_BUILDERS}
        lines = ["from importlib import import_module", "from attrreg.entries import ImageOptions"]
        for name, place in places.items():
            module, _, function = paths[name].partition(":")
            inspect = f"import_module({module!r}).{function}"
            lines.append(f"assert {inspect}({place!r}, ImageOptions()).test > 0")
        assert self.run("\n".join(lines)) == []


def test_every_module_of_known_datasets_lists_some():
    for path in Path(known.__file__).parent.glob("[!_]*.py"):
        module = import_module(f"{known.__name__}.{path.stem}")
        assert getattr(module, "DATASETS", {}) or getattr(module, "SOURCES", {})
