"""Every law of subsets gives what it says at every size, and keeps it apart from other laws."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from attrreg.data.subsets import (
    balanced_order,
    draw_subsets,
    noisy_labels,
    proportional_order,
    read_subset,
    subset_path,
    tail_weights,
)
from attrreg.provenance import stream_seed
from attrreg.variant import Variant

LABELS = st.lists(st.integers(0, 6), min_size=1, max_size=60).map(
    lambda each: np.array(each, dtype=np.int64)
)
SEEDS = st.integers(0, 2**32)


class TestProportions:
    """Every prefix has the whole numbers around the shares of the classes."""

    WEIGHTS = st.lists(st.integers(1, 1000), min_size=7, max_size=7)

    @settings(deadline=None)
    @given(LABELS, WEIGHTS, SEEDS)
    def test_an_order_is_a_permutation(self, labels, weights, seed):
        order = proportional_order(labels, weights, np.random.default_rng(seed))
        assert order.dtype == np.int64
        assert sorted(order.tolist()) == list(range(len(labels)))

    @settings(deadline=None)
    @given(LABELS, WEIGHTS, SEEDS)
    def test_each_class_has_its_share_until_one_has_run_out(self, labels, weights, seed):
        order = proportional_order(labels, weights, np.random.default_rng(seed))
        present, available = np.unique(labels, return_counts=True)
        whole = sum(weights[each] for each in present)
        for n, taken in enumerate(prefix_counts(labels, order, present)):
            for count, label in zip(taken.tolist(), present.tolist(), strict=True):
                assert -whole < count * whole - n * weights[label] < whole
            if (taken == available).any():
                break

    @settings(deadline=None)
    @given(LABELS, WEIGHTS, SEEDS)
    def test_the_others_keep_their_proportions_when_a_class_has_run_out(
        self, labels, weights, seed
    ):
        order = proportional_order(labels, weights, np.random.default_rng(seed))
        present, available = np.unique(labels, return_counts=True)
        weight = np.array(weights)[present]
        for taken in prefix_counts(labels, order, present):
            # some number of rounds has every remaining class within one sample of its share
            least, most = (taken - 1) / weight, (taken + 1) / weight
            assert least.max() < most[taken < available].min(initial=np.inf)

    @settings(deadline=None)
    @given(LABELS, SEEDS)
    def test_the_proportions_of_the_pool_hold_to_the_end(self, labels, seed):
        counts = np.bincount(labels).tolist()
        order = proportional_order(labels, counts, np.random.default_rng(seed))
        present, available = np.unique(labels, return_counts=True)
        for n, taken in enumerate(prefix_counts(labels, order, present)):
            assert (np.abs(taken * len(labels) - n * available) < len(labels)).all()

    @settings(deadline=None)
    @given(LABELS, SEEDS)
    def test_equal_weights_are_balance(self, labels, seed):
        order = proportional_order(labels, [3] * 7, np.random.default_rng(seed))
        present, available = np.unique(labels, return_counts=True)
        for taken in prefix_counts(labels, order, present):
            behind = taken < taken.max() - 1
            assert (taken[behind] == available[behind]).all()

    def test_an_empty_pool_has_an_empty_order(self):
        order = proportional_order(np.empty(0, dtype=np.int64), [], np.random.default_rng(0))
        assert (order.shape, order.dtype) == ((0,), np.int64)

    def test_chance_decides_between_equal_classes_and_between_samples(self):
        labels, draws = np.repeat(np.arange(4), 5), 2000
        first = [
            proportional_order(labels, [1] * 4, np.random.default_rng(seed))[0]
            for seed in range(draws)
        ]
        assert chisquare(np.bincount(first, minlength=20)).pvalue > 1e-4


def prefix_counts(labels, order, present):
    """Return how many of each class stand in every prefix, from the empty one on."""
    is_class = labels[order][:, None] == present
    return np.concatenate([np.zeros((1, len(present)), dtype=np.int64), is_class.cumsum(0)])


class TestTail:
    """Weights fall geometrically, and which class is rare is drawn."""

    @settings(deadline=None)
    @given(LABELS, st.floats(1, 1e4), SEEDS)
    def test_the_weights_fall_by_equal_factors(self, labels, imbalance, seed):
        present = np.unique(labels)
        weights = tail_weights(labels, imbalance, np.random.default_rng(seed))
        assert all(weights[each] == 0 for each in range(len(weights)) if each not in present)
        falling = np.sort(np.array(weights)[present])[::-1].astype(float)
        expected = np.geomspace(1, 1 / imbalance if len(present) > 1 else 1, len(present))
        np.testing.assert_allclose(falling / falling[0], expected, rtol=1e-6)

    def test_the_rare_classes_depend_on_chance_and_not_on_the_number(self):
        labels, ranks = np.arange(5), []
        for seed in range(20):
            mild, strong = (
                np.argsort(tail_weights(labels, each, np.random.default_rng(seed))).tolist()
                for each in (2, 100)
            )
            assert mild == strong
            ranks.append(tuple(mild))
        assert len(set(ranks)) > 10


class TestNoise:
    """A share of the labels is wrong, always the same ones."""

    MANY = np.random.default_rng(5).integers(0, 6, 20_000)

    @staticmethod
    def noisy(share, labels=MANY):
        return noisy_labels(labels, share, np.random.default_rng(3))

    @pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
    def test_the_share_is_what_is_asked_for(self, share):
        wrong = (self.noisy(share) != self.MANY).mean()
        assert abs(wrong - share) <= 5 * np.sqrt(share * (1 - share) / len(self.MANY))

    def test_every_other_class_is_equally_likely(self):
        given_labels = self.noisy(0.999)
        for label in range(6):
            found = np.bincount(given_labels[label == self.MANY], minlength=6)
            assert chisquare(np.delete(found, label)).pvalue > 1e-4

    @settings(deadline=None)
    @given(LABELS, st.floats(0, 0.999), st.floats(0, 0.999), SEEDS)
    def test_a_higher_share_keeps_every_wrong_label(self, labels, one, other, seed):
        labels = np.append(labels, labels[0] + 1)  # two classes at least
        low, high = sorted((one, other))
        few, many = (
            noisy_labels(labels, share, np.random.default_rng(seed)) for share in (low, high)
        )
        wrong = few != labels
        assert np.array_equal(many[wrong], few[wrong])
        assert np.isin(many, labels).all()

    def test_classes_without_samples_are_never_given(self):
        labels = np.array([2, 5, 9] * 200)
        assert set(self.noisy(0.5, labels).tolist()) == {2, 5, 9}

    def test_of_a_single_class_it_is_refused(self):
        with pytest.raises(ValueError, match=r"noise 0\.2.*only 4"):
            self.noisy(0.2, np.full(9, 4))


LAWS = {
    "balanced": {},
    "natural": {"order": "natural"},
    "imbalance8": {"imbalance": 8},
    "noise0.3": {"label_noise": 0.3},
    "natural-imbalance3.5-noise0.2": {"order": "natural", "imbalance": 3.5, "label_noise": 0.2},
}
SKEWED = np.random.default_rng(1).permutation(np.repeat(np.arange(4), [150, 75, 50, 25]))


def by_law(name):
    return Variant.of("digits", **LAWS[name])


def drawn(folder, law, seed=0, labels=SKEWED, size=None):
    """Draw the subsets of a law and read one."""
    path = draw_subsets(folder, by_law(law), seed, labels)
    assert path == subset_path(folder, by_law(law), seed)
    return read_subset(folder, by_law(law), seed, len(labels) if size is None else size, labels)


class TestLaws:
    """Subsets of every law are drawn, stored and read alike."""

    @pytest.mark.parametrize("law", LAWS)
    def test_subsets_are_nested_with_their_labels(self, tmp_path, law):
        whole = drawn(tmp_path, law)
        assert sorted(whole.indices.tolist()) == list(range(len(SKEWED)))
        for size in (0, 1, 7, 50, 300):
            indices, labels = read_subset(tmp_path, by_law(law), 0, size, SKEWED)
            assert (indices.dtype, labels.dtype) == (np.int64, np.int64)
            assert np.array_equal(indices, whole.indices[:size])
            assert np.array_equal(labels, whole.labels[:size])

    @pytest.mark.parametrize("law", LAWS)
    def test_drawing_again_changes_no_byte(self, tmp_path, law):
        drawn(tmp_path, law)
        before = subset_path(tmp_path, by_law(law), 0).read_bytes()
        drawn(tmp_path, law)
        assert subset_path(tmp_path, by_law(law), 0).read_bytes() == before

    @pytest.mark.parametrize("law", LAWS)
    def test_the_first_of_many_seeds_differ(self, tmp_path, law):
        found = {tuple(drawn(tmp_path, law, seed, size=20).indices) for seed in range(5)}
        assert len(found) == 5

    @pytest.mark.parametrize("law", LAWS)
    def test_a_pool_without_samples_has_an_empty_subset(self, tmp_path, law):
        indices, labels = drawn(tmp_path, law, labels=np.empty(0, dtype=np.int64))
        assert len(indices) == len(labels) == 0

    def test_the_default_is_the_balanced_order_of_its_stream(self, tmp_path):
        generator = np.random.default_rng(stream_seed("subset", "digits", 4))
        expected = balanced_order(SKEWED, generator)
        assert np.array_equal(drawn(tmp_path, "balanced", seed=4).indices, expected)

    def test_without_noise_labels_are_those_of_the_pool(self, tmp_path):
        for law in ("balanced", "natural", "imbalance8"):
            indices, labels = drawn(tmp_path, law)
            assert np.array_equal(labels, SKEWED[indices])

    def test_noise_changes_labels_and_leaves_the_order(self, tmp_path):
        clean, noisy = drawn(tmp_path, "balanced"), drawn(tmp_path, "noise0.3")
        assert np.array_equal(clean.indices, noisy.indices)
        wrong = (clean.labels != noisy.labels).mean()
        assert abs(wrong - 0.3) < 5 * np.sqrt(0.3 * 0.7 / len(SKEWED))

    def test_a_sample_has_the_same_wrong_label_under_every_law(self, tmp_path):
        strong, mild = drawn(tmp_path, "noise0.3"), drawn(tmp_path, "natural-imbalance3.5-noise0.2")
        given_labels = {}
        for subset in (strong, mild):
            pairs = zip(subset.indices.tolist(), subset.labels.tolist(), strict=True)
            given_labels[len(given_labels)] = dict(pairs)
        wrong = [at for at, label in given_labels[1].items() if label != SKEWED[at]]
        assert wrong
        assert all(given_labels[0][at] == given_labels[1][at] for at in wrong)

    def test_natural_subsets_have_the_proportions_of_the_pool(self, tmp_path):
        indices = drawn(tmp_path, "natural", size=60).indices
        assert np.bincount(SKEWED[indices]).tolist() == [30, 15, 10, 5]

    def test_a_long_tail_has_the_ratio_that_is_asked_for(self, tmp_path):
        rarest = set()
        for seed in range(6):
            indices = drawn(tmp_path, "imbalance8", seed, np.repeat(np.arange(4), 100), 150).indices
            counts = np.bincount(indices // 100, minlength=4)
            assert np.sort(counts)[::-1].tolist() == [80, 40, 20, 10]
            rarest.add(int(counts.argmin()))
        assert len(rarest) > 1

    def test_a_law_is_of_the_pool_and_not_of_how_it_is_shown(self, tmp_path):
        shown = Variant.of("shapes", {"image_size": 24}), Variant.of("shapes", {"cue": 0.5})
        found = []
        for variant in shown:
            draw_subsets(tmp_path, variant, 0, SKEWED)
            found.append(read_subset(tmp_path, variant, 0, 99, SKEWED).indices)
        assert np.array_equal(*found)
        assert len({subset_path(tmp_path, variant, 0) for variant in shown}) == 2

    def test_noise_with_a_single_class_is_refused_and_nothing_is_written(self, tmp_path):
        with pytest.raises(ValueError, match="needs another class"):
            draw_subsets(tmp_path, by_law("noise0.3"), 0, np.zeros(9, dtype=np.int64))
        assert list(tmp_path.rglob("*")) == []

    def test_a_single_class_has_a_long_tail_of_itself(self, tmp_path):
        indices, labels = drawn(tmp_path, "imbalance8", labels=np.full(9, 3))
        assert sorted(indices.tolist()) == list(range(9))
        assert set(labels.tolist()) == {3}

    @pytest.mark.parametrize("law", [each for each in LAWS if each != "balanced"])
    def test_the_order_of_another_law_is_not_taken_for_it(self, tmp_path, law):
        path = draw_subsets(tmp_path, by_law(law), 0, SKEWED)
        for other in (each for each in LAWS if each != law):
            path.write_bytes(draw_subsets(tmp_path, by_law(other), 0, SKEWED).read_bytes())
            with pytest.raises(ValueError, match=rf"s0\.json.*--law {law}"):
                read_subset(tmp_path, by_law(law), 0, 10, SKEWED)

    @pytest.mark.parametrize("key", ["order", "given"])
    def test_a_changed_order_or_label_is_found(self, tmp_path, key):
        path = draw_subsets(tmp_path, by_law("noise0.3"), 0, SKEWED)
        record = json.loads(path.read_text())
        record[key][:2] = [record[key][1], record[key][0] + 1]
        path.write_text(json.dumps(record))
        with pytest.raises(ValueError, match=r"was changed.*attrreg subset"):
            read_subset(tmp_path, by_law("noise0.3"), 0, 10, SKEWED)
