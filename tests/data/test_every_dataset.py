"""Every listed dataset, from small archives in its true format on a real server to its arrays."""

import json
from dataclasses import replace

import numpy as np
import pytest
from http_server import Server
from small_archives import BUILDERS, FOLDER_BUILDERS, build

from attrreg import catalogue
from attrreg.data.images import decode
from attrreg.data.prepare import prepare, summary
from attrreg.data.sources import SPLITS, read_held_out, read_pool
from attrreg.data.subsets import draw_subsets, read_subset
from attrreg.variant import Variant

FETCHED = [name for name, entry in catalogue.DATASETS.items() if entry.archives]


@pytest.fixture
def served(request, tmp_path, monkeypatch):
    """A dataset whose entry leads to a server on the loopback, and what must be read of it."""
    name = request.param
    small = build(name, tmp_path / "made", np.random.default_rng(0))
    with Server({key: path.read_bytes() for key, path in small.files.items()}) as server:
        archives = tuple(
            replace(each, urls=(server.url(each.name),)) for each in small.entry.archives
        )
        monkeypatch.setitem(catalogue.DATASETS, name, replace(small.entry, archives=archives))
        yield name, small, server


def opened(data, variant):
    """Return the three splits as they are read."""
    return {"pool": read_pool(data, variant).images, **read_held_out(data, variant)}


def as_prepared(part, shape):
    """Return the images of a part as they must lie in the arrays."""
    if isinstance(part.x, np.ndarray):
        return part.x
    size, channels = shape[1], shape[0]
    return np.stack([decode(each, size, "crop", channels, "an image") for each in part.x])


def bytes_of(images, labels):
    """Return each sample with its label, in an order that does not depend on theirs."""
    return sorted(x.tobytes() + y.tobytes() for x, y in zip(images, labels, strict=True))


def test_every_dataset_has_a_small_archive():
    assert set(FETCHED) == set(BUILDERS)
    assert set(FOLDER_BUILDERS) | {"folder", "parquet", "arrays"} == set(catalogue.SOURCES)


@pytest.mark.parametrize("served", FETCHED, indirect=True)
class TestFetched:
    """From the server to arrays, subsets and back."""

    def test_what_is_served_is_what_is_read(self, served, tmp_path):
        name, small, _ = served
        prepare(tmp_path / "data", name)
        found, shape = opened(tmp_path / "data", name), small.entry.shape
        assert read_pool(tmp_path / "data", name).class_names == small.class_names
        for split in SPLITS:
            x, _, region = found[split]
            assert x.shape == (getattr(small.entry, split), *shape)
            assert (region is not None) == small.entry.regions
        drawn = [each for each in SPLITS[1:] if getattr(small, each) is None]
        parts = {"train": ["pool", *drawn], **{each: [each] for each in SPLITS[1:]}}
        for name_of_part, splits in parts.items():
            part = getattr(small, name_of_part)
            if part is None:
                continue
            images = np.concatenate([found[each].x for each in splits])
            labels = np.concatenate([found[each].y for each in splits])
            assert bytes_of(images, labels) == bytes_of(as_prepared(part, shape), part.y)

    def test_again_nothing_is_fetched_and_all_is_the_same(self, served, tmp_path):
        name, _, server = served
        prepare(tmp_path, name)
        asked, before = len(server.seen), (tmp_path / name / "dataset.json").read_bytes()
        prepare(tmp_path, name)
        assert len(server.seen) == asked
        assert (tmp_path / name / "dataset.json").read_bytes() == before
        left = [path.name for path in (tmp_path / name).iterdir() if "partial" in path.name]
        assert left == []

    def test_archives_that_are_brought_need_no_server(self, served, tmp_path):
        name, small, server = served
        prepare(tmp_path, name, given=list(small.files.values()), offline=True)
        assert server.seen == []
        assert summary(tmp_path / name / "dataset.json")

    def test_a_subset_has_every_class(self, served, tmp_path):
        name, small, _ = served
        prepare(tmp_path, name)
        labels = read_pool(tmp_path, name).images.y
        draw_subsets(tmp_path, name, 0, labels)
        subset = read_subset(tmp_path, name, 0, small.entry.classes, labels)
        assert sorted(subset.labels) == list(range(small.entry.classes))

    def test_an_archive_with_other_bytes_is_refused_and_nothing_is_prepared(self, served, tmp_path):
        name, _, server = served
        server.files = {key: content[:-1] + b"?" for key, content in server.files.items()}
        with pytest.raises(RuntimeError, match="md5"):
            prepare(tmp_path, name)
        assert not (tmp_path / name / "dataset.json").exists()
        assert not [path for path in (tmp_path / "downloads").rglob("*.gz") if path.is_file()]


@pytest.mark.parametrize("prefix", FOLDER_BUILDERS)
def test_a_local_folder_is_read(prefix, tmp_path):
    small = build(prefix, tmp_path / "made", np.random.default_rng(0))
    variant = Variant.of(f"{prefix}:{small.entry.place}", {"image_size": 16})
    described = prepare(tmp_path / "data", variant)
    found = read_held_out(tmp_path / "data", variant)
    if variant.entry.pool:
        found["pool"] = read_pool(tmp_path / "data", variant).images
    else:
        with pytest.raises(ValueError, match="for tests only"):
            read_pool(tmp_path / "data", variant)
    for split, (x, y, region) in found.items():
        assert x.shape == (getattr(variant.entry, split), 3, 16, 16)
        assert len(y) == len(x)
        assert (region is not None) == variant.entry.regions
    assert json.loads(described.read_text())["dataset"] == variant.base


@pytest.mark.parametrize("served", ["oxford-pets"], indirect=True)
def test_options_make_another_dataset_of_the_same_archives(served, tmp_path):
    name, _, server = served
    small = Variant.of(name, {"image_size": 20, "channels": 1})
    prepare(tmp_path, name)
    asked = len(server.seen)
    prepare(tmp_path, small)
    assert len(server.seen) == asked
    assert small.key != name
    assert read_pool(tmp_path, small).images.x.shape[1:] == (1, 20, 20)
    assert read_pool(tmp_path, name).images.x.shape[1:] == (3, 224, 224)
    region = read_pool(tmp_path, small).images.region
    assert region.shape[1:] == (20, 20)
    assert 0 < region.mean() < 1
