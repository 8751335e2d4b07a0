"""Drawn samples: the region is exactly where the class lies, and a cue is exactly as strong."""

import time
from itertools import pairwise

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.stats import chi2_contingency

from attrreg.data.known.shapes import (
    DATASETS,
    SeriesOptions,
    ShapesOptions,
    read_series,
    read_shapes,
)
from attrreg.data.prepare import prepare
from attrreg.data.samples import Request
from attrreg.data.sources import read_held_out, read_pool
from attrreg.data.synthesis import (
    SHAPES,
    TURN,
    WAVEFORMS,
    draw_series,
    draw_shapes,
    labels_and_styles,
)

NAMES = list(DATASETS)
READ = {"shapes": read_shapes, "shapes-series": read_series}
CLASSES = {"shapes": SHAPES, "shapes-series": WAVEFORMS}


def read(name, **options):
    """Read a dataset as `prepare` does."""
    return READ[name](Request(DATASETS[name].options(**options)))


def splits(given):
    return {"pool": given.train, "validation": given.validation, "test": given.test}


def streams(seed=0):
    """Return random streams that are the same at every call."""
    return lambda purpose: np.random.default_rng([seed, *purpose.encode()])


def drawn(name, y, style, noise=0.05, size=None, seed=0):
    """Draw samples of chosen classes on chosen backgrounds; all else is the same each time."""
    draw = draw_shapes if name == "shapes" else draw_series
    return draw(y, style, size or DATASETS[name].shape[-1], noise, streams(seed))


def at_random(name, n, seed):
    return np.random.default_rng(seed).integers(0, len(CLASSES[name]), n)


@pytest.fixture(scope="module", params=NAMES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def plain(name):
    return read(name)


@pytest.fixture(scope="module")
def cued(name):
    return read(name, cue=1)


def test_every_split_is_what_the_catalogue_says(name, plain):
    entry = DATASETS[name]
    assert plain.class_names == tuple(CLASSES[name])
    for split, arrays in splits(plain).items():
        size = getattr(entry, split)
        assert (arrays.x.shape, arrays.x.dtype) == ((size, *entry.shape), np.uint8)
        assert (arrays.y.shape, arrays.y.dtype) == ((size,), np.int64)
        assert (arrays.region.shape, arrays.region.dtype) == ((size, *entry.shape[1:]), np.bool_)


def test_the_classes_are_as_equally_frequent_as_can_be(name, plain):
    for arrays in splits(plain).values():
        counts = np.bincount(arrays.y, minlength=len(CLASSES[name]))
        assert counts.max() - counts.min() <= 1


def test_no_sample_stands_twice_in_any_split(plain):
    samples = [each.tobytes() for arrays in splits(plain).values() for each in arrays.x]
    assert len(set(samples)) == len(samples)


def test_drawing_again_gives_every_byte_again_and_takes_less_than_three_seconds(name, plain):
    start = time.process_time()
    again = read(name)
    assert time.process_time() - start < 3
    for one, other in zip(splits(plain).values(), splits(again).values(), strict=True):
        for before, after in zip(one, other, strict=True):
            assert np.array_equal(before, after)


def test_prepared_arrays_have_the_regions(name, plain, tmp_path):
    prepare(tmp_path, name)
    found = {"pool": read_pool(tmp_path, name).images, **read_held_out(tmp_path, name)}
    for split, arrays in splits(plain).items():
        assert np.array_equal(found[split].x, arrays.x)
        assert np.array_equal(found[split].region, arrays.region)


class TestRegion:
    """It has all that the class changes, and nothing that the background changes."""

    def test_no_background_changes_a_pixel_inside_or_the_region(self, name):
        y = at_random(name, 200, 1)
        one, other = (drawn(name, y, at_random(name, 200, seed)) for seed in (2, 3))
        inside = np.broadcast_to(one.region[:, None], one.x.shape)
        assert np.array_equal(one.region, other.region)
        assert np.array_equal(one.x[inside], other.x[inside])
        assert (one.x[~inside] != other.x[~inside]).mean() > 0.5

    def test_a_pixel_that_no_background_changes_is_inside(self, name):
        y = at_random(name, 200, 1)
        classes = len(CLASSES[name])
        every = np.stack([drawn(name, y, np.full(200, each), 0).x for each in range(classes)])
        changed = (every != every[0]).any((0, 2))
        region = drawn(name, y, np.zeros(200, dtype=np.int64)).region
        # a background may happen to be the same under every style, at a single point
        assert (changed != ~region).mean() < 0.001
        assert not (changed & region).any()

    def test_no_class_changes_a_pixel_outside(self, name):
        style = at_random(name, 200, 1)
        one, other = (drawn(name, at_random(name, 200, seed), style) for seed in (2, 3))
        outside = np.broadcast_to(~(one.region | other.region)[:, None], one.x.shape)
        assert np.array_equal(one.x[outside], other.x[outside])
        assert (one.x[~outside] != other.x[~outside]).mean() > 0.3

    def test_every_sample_has_one_and_more_outside(self, plain):
        for arrays in splits(plain).values():
            share = arrays.region.reshape(len(arrays.y), -1).mean(1)
            assert share.min() > 0.02
            assert share.max() < 0.6

    def test_an_interval_is_in_one_piece(self):
        region = read("shapes-series").train.region.astype(int)
        starts = (np.diff(region, axis=1, prepend=0) == 1).sum(1)
        assert set(starts.tolist()) == {1}

    @pytest.mark.parametrize("size", [12, 16, 64])
    def test_it_has_the_area_of_the_shape(self, size):
        grid = np.linspace(-1, 1, 401)
        for label, outline in enumerate(SHAPES.values()):
            area = (outline(*np.meshgrid(grid, grid)) < 0).mean()
            bold = 1.2 if size == 64 else 2.0  # a pixel that is touched counts whole
            regions = drawn("shapes", np.full(100, label), np.zeros(100, int), size=size).region
            found = regions.mean((1, 2)) / area
            # the smallest and the largest half size are 0.24 and 0.36 of the side
            assert 0.48**2 * 0.9 < found.min() < found.max() < 0.72**2 * bold

    def test_every_shape_fits_into_its_frame_however_it_is_turned(self):
        turns = np.linspace(-TURN, TURN, 21)[:, None]
        border = np.linspace(-1, 1, 201)
        for side in (-1.0, 1.0):
            for u, v in ((border, np.full(201, side)), (np.full(201, side), border)):
                right = np.cos(turns) * u + np.sin(turns) * v
                down = np.cos(turns) * v - np.sin(turns) * u
                for outline in SHAPES.values():
                    assert outline(right, down).min() > -0.01


class TestCue:
    """The style of the background is that of the class as often as the cue says."""

    @pytest.mark.parametrize("cue", [0.0, 0.3, 0.9])
    def test_its_frequency(self, cue):
        n, classes = 20_000, 8
        y, style = labels_and_styles(n, classes, cue, streams())
        expected = cue + (1 - cue) / classes
        assert abs((style == y).mean() - expected) < 5 * np.sqrt(expected * (1 - expected) / n)
        assert set(style.tolist()) == set(range(classes))

    def test_none_leaves_the_style_independent_of_the_class(self):
        y, style = labels_and_styles(20_000, 8, 0.0, streams())
        table = np.zeros((8, 8))
        np.add.at(table, (y, style), 1)
        assert chi2_contingency(table).pvalue > 1e-4

    def test_the_whole_one_leaves_nothing_else(self):
        y, style = labels_and_styles(2000, 6, 1.0, streams())
        assert np.array_equal(y, style)

    def test_a_stronger_one_keeps_the_true_styles_of_a_weaker_one(self):
        found = [labels_and_styles(2000, 6, cue, streams()) for cue in (0.0, 0.2, 0.7, 1.0)]
        for (y, weaker), (again, stronger) in pairwise(found):
            assert np.array_equal(y, again)
            changed = weaker != stronger
            assert changed.any()
            assert np.array_equal(stronger[changed], y[changed])

    def test_it_changes_pool_and_validation_outside_the_regions_and_nothing_else(self, plain, cued):
        for split, one in splits(plain).items():
            other = splits(cued)[split]
            inside = np.broadcast_to(one.region[:, None], one.x.shape)
            assert np.array_equal(one.y, other.y)
            assert np.array_equal(one.region, other.region)
            assert np.array_equal(one.x[inside], other.x[inside])
            assert np.array_equal(one.x, other.x) == (split == "test")

    def test_that_of_the_test_split_changes_the_test_split_only(self, name, plain):
        cued_test = read(name, test_cue=1)
        assert np.array_equal(plain.train.x, cued_test.train.x)
        assert np.array_equal(plain.validation.x, cued_test.validation.x)
        assert not np.array_equal(plain.test.x, cued_test.test.x)


def background(arrays):
    """Return the mean value per channel outside the region, (n, channels)."""
    outside = ~arrays.region[:, None]
    axes = tuple(range(2, arrays.x.ndim))
    return (arrays.x * outside).sum(axes) / outside.sum(axes)


def foreground(arrays):
    """Return the object alone, brought to one place and one contrast."""
    return np.stack([_patch(x, region) for x, region in zip(arrays.x, arrays.region, strict=True)])


def _patch(x, region):
    grey = x.mean(0)
    if region.ndim == 2:
        rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
        at = np.ix_(
            *(np.linspace(each[0], each[-1], 12).round().astype(int) for each in (rows, columns))
        )
        return region[at].ravel().astype(float)
    places = np.flatnonzero(region)
    wave = np.interp(np.linspace(places[0], places[-1], 48), places, grey[places])
    spectrum = np.abs(np.fft.rfft(wave - wave.mean()))
    return spectrum / np.linalg.norm(spectrum)


def nearest_mean(features, y):
    """Return how often the nearest class mean of one half is right about the other half."""
    half = len(y) // 2
    means = np.stack([features[:half][y[:half] == each].mean(0) for each in np.unique(y)])
    distance = ((features[half:, None] - means) ** 2).sum(-1)
    return (distance.argmin(1) == y[half:]).mean()


class TestWhatTellsTheClass:
    """Without a cue the object alone, with the whole cue the background, too."""

    def test_without_a_cue_the_background_does_not(self, name, plain):
        chance = 1 / len(CLASSES[name])
        for arrays in splits(plain).values():
            spread = 5 * np.sqrt(chance * (1 - chance) / (len(arrays.y) / 2))
            assert abs(nearest_mean(background(arrays), arrays.y) - chance) < spread

    def test_with_the_whole_cue_the_background_does(self, name, cued):
        chance = 1 / len(CLASSES[name])
        for split in (cued.train, cued.validation):
            assert nearest_mean(background(split), split.y) > 3 * chance
        assert nearest_mean(background(cued.test), cued.test.y) < 1.5 * chance

    def test_the_object_does(self, name, plain):
        test = plain.test
        assert nearest_mean(foreground(test), test.y) > 3 / len(CLASSES[name])


class TestOptions:
    """They change the shape, and are refused out of range."""

    @pytest.mark.parametrize(
        ("name", "options"), [("shapes", {"image_size": 12}), ("shapes-series", {"length": 200})]
    )
    def test_the_shape_is_as_they_say(self, name, options):
        entry = DATASETS[name]
        wanted = entry.options(**options).shape(entry.shape)
        assert wanted != entry.shape
        arrays = read(name, **options).train
        assert arrays.x.shape[1:] == wanted
        assert arrays.region.shape[1:] == wanted[1:]

    def test_noise_has_the_deviation_that_is_asked_for(self, name):
        y = style = np.zeros(200, dtype=np.int64)
        quiet, noisy = (drawn(name, y, style, noise=each).x for each in (0, 0.05))
        free = (quiet > 64) & (quiet < 191)  # where nothing is cut off
        difference = (noisy[free].astype(float) - quiet[free]) / 255
        assert abs(difference.mean()) < 0.005
        assert abs(difference.std() / 0.05 - 1) < 0.1

    @pytest.mark.parametrize(
        ("kind", "options"),
        [
            (ShapesOptions, {"image_size": 11}),
            (ShapesOptions, {"image_size": 65}),
            (ShapesOptions, {"length": 128}),
            (SeriesOptions, {"length": 95}),
            (SeriesOptions, {"image_size": 16}),
            *(
                (kind, {key: value})
                for kind in (ShapesOptions, SeriesOptions)
                for key, value in (
                    ("cue", 1.1),
                    ("cue", -0.1),
                    ("cue", float("nan")),
                    ("test_cue", 2),
                    ("noise", 0.6),
                    ("noise", float("inf")),
                )
            ),
        ],
    )
    def test_others_are_refused_by_name(self, kind, options):
        with pytest.raises(ValidationError, match=next(iter(options))):
            kind(**options)
