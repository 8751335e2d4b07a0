"""Subsets are nested, as balanced as the pool allows, drawn once per seed, and never mixed up."""

import shlex

import numpy as np
import pytest
from experiments import command, prepare_data
from hypothesis import given, settings
from hypothesis import strategies as st

from attrreg.data.sources import read_pool
from attrreg.data.subsets import balanced_order, draw_subsets, read_subset, subset_path
from attrreg.variant import Variant

LABELS = st.lists(st.integers(0, 6), min_size=1, max_size=60).map(
    lambda each: np.array(each, dtype=np.int64)
)
SEEDS = st.integers(0, 2**32)


@settings(deadline=None)
@given(LABELS, SEEDS)
def test_an_order_is_a_permutation(labels, seed):
    order = balanced_order(labels, np.random.default_rng(seed))
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(len(labels)))


def test_an_empty_pool_has_an_empty_order():
    order = balanced_order(np.empty(0, dtype=np.int64), np.random.default_rng(0))
    assert (order.shape, order.dtype) == ((0,), np.int64)


@settings(deadline=None)
@given(LABELS, SEEDS)
def test_an_order_is_that_of_rounds_counted_by_hand(labels, seed):
    generator = np.random.default_rng(seed)
    shuffled, within = generator.permutation(len(labels)), generator.random(len(labels))
    rounds, keys = {}, []
    for sample, key in zip(shuffled.tolist(), within.tolist(), strict=True):
        rounds[labels[sample]] = rounds.get(labels[sample], -1) + 1
        keys.append((rounds[labels[sample]], key, sample))
    order = balanced_order(labels, np.random.default_rng(seed))
    assert order.tolist() == [sample for _, _, sample in sorted(keys)]


@settings(deadline=None)
@given(LABELS, SEEDS)
def test_every_prefix_is_balanced_as_far_as_the_pool_allows(labels, seed):
    order = balanced_order(labels, np.random.default_rng(seed))
    present, available = np.unique(labels, return_counts=True)
    for n in range(1, len(labels) + 1):
        taken = np.array([(labels[order[:n]] == each).sum() for each in present])
        # a class stands behind another by more than one only where it has run out
        behind = taken < taken.max() - 1
        assert (taken[behind] == available[behind]).all()


@settings(deadline=None)
@given(st.integers(1, 8), st.integers(1, 8), SEEDS)
def test_equal_classes_have_the_floor_or_one_more(classes, each, seed):
    labels = np.repeat(np.arange(classes), each)
    order = balanced_order(labels, np.random.default_rng(seed))
    for n in range(len(labels) + 1):
        counts = np.bincount(labels[order[:n]], minlength=classes)
        assert set(counts.tolist()) <= {n // classes, -(-n // classes)}


def test_the_same_seed_gives_the_same_order_and_another_another():
    labels = np.arange(100) % 10
    first, again, other = (
        balanced_order(labels, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_every_sample_and_every_remainder_is_equally_likely():
    labels = np.repeat(np.arange(4), 5)
    chosen, remainders, draws = np.zeros(20), np.zeros(4), 4000
    for seed in range(draws):
        order = balanced_order(labels, np.random.default_rng(seed))[:5]  # one class gives two
        chosen[order] += 1
        remainders[np.bincount(labels[order], minlength=4) == 2] += 1
    # five of twenty, and one class of four: five standard errors around a quarter
    spread = 5 * np.sqrt(0.25 * 0.75 / draws)
    assert np.abs(chosen / draws - 0.25).max() < spread
    assert np.abs(remainders / draws - 0.25).max() < spread
    assert remainders.sum() == draws


def test_the_order_of_the_classes_is_drawn_anew_in_every_round():
    labels = np.repeat(np.arange(4), [2, 5, 9, 20])
    again, leading, draws = 0, np.zeros(4), 4000
    for seed in range(draws):
        found = labels[balanced_order(labels, np.random.default_rng(seed))]
        again += found[0] == found[4]  # the first classes of the first two rounds
        leading[found[0]] += 1
    spread = 5 * np.sqrt(0.25 * 0.75 / draws)
    assert abs(again / draws - 0.25) < spread
    assert np.abs(leading / draws - 0.25).max() < spread  # whatever the sizes of the classes


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare_data(tmp_path_factory.mktemp("data"), seeds=range(3))


@pytest.fixture
def labels(data):
    return read_pool(data, "digits").images.y


def test_subsets_are_nested(data, labels):
    whole = read_subset(data, "digits", 0, len(labels), labels).indices
    for size in (10, 50, 200, 1077):
        indices, given_labels = read_subset(data, "digits", 0, size, labels)
        assert np.array_equal(indices, whole[:size])
        assert np.array_equal(given_labels, labels[indices])


def test_seeds_have_subsets_of_their_own(data, labels):
    found = [read_subset(data, "digits", seed, 50, labels).indices for seed in range(3)]
    assert len(set(map(tuple, found))) == 3


def test_drawing_again_changes_no_byte(data, labels):
    path = subset_path(data, "digits", 0)
    before = path.read_bytes()
    assert draw_subsets(data, "digits", 0, labels) == path
    assert path.read_bytes() == before


def test_a_subset_is_refused_for_other_labels(data, labels):
    other = labels.copy()
    other[:2] = other[:2][::-1] if other[0] != other[1] else (other[0] + 1) % 10
    with pytest.raises(ValueError, match=r"s0\.json.*other labels.*attrreg subset"):
        read_subset(data, "digits", 0, 50, other)


def test_a_subset_larger_than_the_order_is_refused(data, labels):
    with pytest.raises(ValueError, match=r"1077.*1078"):
        read_subset(data, "digits", 0, 1078, labels)


BROKEN = {
    "absent": None,
    "empty": "",
    "cut short": '{"dataset": "digits", "order": [1, 2',
    "another value": "[]",
    "without its order": '{"dataset": "digits", "seed": 0, "labels": "0123456789abcdef"}',
}


@pytest.mark.parametrize("law", [{}, {"order": "natural", "imbalance": 3.5, "label_noise": 0.2}])
@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_order_is_refused_with_the_command_that_repairs_it(
    data, labels, monkeypatch, tmp_path, case, law
):
    monkeypatch.chdir(tmp_path)  # where no folder has its default name
    seed, variant = 7, Variant.of("digits", **law)
    path = draw_subsets(data, variant, seed, labels)
    expected = read_subset(data, variant, seed, 50, labels)
    if BROKEN[case] is None:
        path.unlink()
    else:
        path.write_text(BROKEN[case])
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        read_subset(data, variant, seed, 50, labels)
    assert str(path) in str(error.value)
    repair = shlex.split(str(error.value).split("`")[1])
    assert command(*repair[1:]).code == 0
    for before, after in zip(expected, read_subset(data, variant, seed, 50, labels), strict=True):
        assert np.array_equal(before, after)


def test_the_order_of_another_seed_is_not_taken_for_it(data, labels, tmp_path):
    path = subset_path(tmp_path, "digits", 0)
    path.parent.mkdir(parents=True)
    path.write_bytes(subset_path(data, "digits", 1).read_bytes())
    with pytest.raises(ValueError, match=r"s0\.json"):
        read_subset(tmp_path, "digits", 0, 50, labels)
