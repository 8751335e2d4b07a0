"""Effects of models and of maps, against least squares; areas, against sums by hand."""

import itertools

import numpy as np
import pandas as pd
import pytest

from attrreg.crossing import FEWEST, areas, crossed_metrics, effects

METHODS = ("sgt", "baseline", "challenger", "reldrop-block")
FRACTIONS = (0.0, 0.2, 0.5, 0.9)
PLACE = ["dataset", "model", "train_size", "seed"]
BOTH = {"occlusion-crossed", "srg-crossed"}


def random(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def fitted(pairs):
    """Return the means of rows and columns of an additive layout, fitted without the diagonal."""
    count = len(pairs)
    places = [(i, j) for i, j in itertools.product(range(count), repeat=2) if i != j]
    design = np.zeros((len(places), 1 + 2 * count))
    for at, (i, j) in enumerate(places):
        design[at, [0, 1 + i, 1 + count + j]] = 1
    wanted = np.array([pairs[place] for place in places])
    found = np.linalg.lstsq(design, wanted, rcond=None)[0]
    layout = found[0] + found[1 : 1 + count, None] + found[None, 1 + count :]
    return layout.mean(1), layout.mean(0)


def curves(heights, seed=0, dataset="digits", model="resnet", size=50, fractions=FRACTIONS):
    """Return flat curves: by (method, map_of) the heights (most, least) of both."""
    return pd.DataFrame(
        [
            (dataset, model, method, size, seed, other, first, fraction, height)
            for (method, other), both in heights.items()
            for first, height in zip(("most", "least"), both, strict=True)
            for fraction in fractions
        ],
        columns=[*PLACE[:2], "method", *PLACE[2:], "map_of", "first", "fraction", "accuracy"],
    )


def heights(seed=0, methods=METHODS):
    """Return random heights of every pair."""
    generator = np.random.default_rng(seed)
    return {pair: generator.random(2) for pair in itertools.product(methods, repeat=2)}


def matrix(values, methods, part):
    return np.array([[part(values[one, two]) for two in methods] for one in methods])


def expected(values, methods=METHODS):
    """Return by metric and method what least squares find."""
    most = fitted(matrix(values, methods, lambda both: both[0]))[0]
    gain = fitted(matrix(values, methods, lambda both: both[1] - both[0]))[1]
    return {
        ("occlusion-crossed", name): value for name, value in zip(methods, most, strict=True)
    } | {("srg-crossed", name): value for name, value in zip(methods, gain, strict=True)}


def found_in(metrics):
    """Return by metric and method the values of one place."""
    assert metrics.set_index([*PLACE, "method", "metric"]).index.is_unique
    return metrics.set_index(["metric", "method"])["value"].to_dict()


class TestEffects:
    """The means of rows and columns as they would be without a gap."""

    @pytest.mark.parametrize("count", range(FEWEST, 9))
    @pytest.mark.parametrize("seed", range(3))
    def test_they_are_those_of_least_squares(self, count, seed):
        pairs = random((count, count), seed)
        for found, wanted in zip(effects(pairs), fitted(pairs), strict=True):
            np.testing.assert_allclose(found, wanted, atol=1e-12)

    @pytest.mark.parametrize("count", [3, 4, 7])
    @pytest.mark.parametrize("own", [np.nan, np.inf, 1e6])
    def test_of_an_additive_layout_they_are_exact_whatever_the_diagonal(self, count, own):
        by_row, by_column = random(count, 1), random(count, 2)
        pairs = by_row[:, None] + by_column
        np.fill_diagonal(pairs, own)
        rows, columns = effects(pairs)
        np.testing.assert_allclose(rows, by_row + by_column.mean(), atol=1e-12)
        np.testing.assert_allclose(columns, by_column + by_row.mean(), atol=1e-12)

    def test_equal_models_are_equal_though_their_plain_means_are_not(self):
        """The plain mean of the model that has the worst map never meets that map."""
        pairs = np.tile([0.2, 0.5, 0.8, 0.9], (4, 1))
        plain = (pairs.sum(1) - pairs.diagonal()) / 3
        assert np.ptp(plain) > 0.2
        rows, columns = effects(pairs)
        np.testing.assert_allclose(rows, 0.6)
        np.testing.assert_allclose(columns, [0.2, 0.5, 0.8, 0.9])

    @pytest.mark.parametrize("count", [3, 5])
    def test_their_mean_is_that_of_all_pairs(self, count):
        pairs = random((count, count))
        mean = pairs[~np.eye(count, dtype=bool)].mean()
        for found in effects(pairs):
            assert found.mean() == pytest.approx(mean)

    def test_a_shift_of_one_model_shifts_its_effect_and_no_other_model(self):
        pairs = random((5, 5))
        (rows, columns), shift = effects(pairs), np.array([0, 0, 2.0, 0, 0])
        shifted = effects(pairs + shift[:, None])
        np.testing.assert_allclose(shifted[0], rows + shift)
        np.testing.assert_allclose(shifted[1], columns + 2.0 / 5)

    def test_a_shift_and_a_scale_of_all_pairs_are_those_of_the_effects(self):
        pairs = random((4, 4))
        for found, wanted in zip(effects(3 * pairs - 1), effects(pairs), strict=True):
            np.testing.assert_allclose(found, 3 * wanted - 1)

    def test_models_and_maps_change_places_with_the_matrix(self):
        pairs, order = random((5, 5)), [3, 0, 4, 1, 2]
        rows, columns = effects(pairs)
        for found, wanted in zip(effects(pairs.T), (columns, rows), strict=True):
            np.testing.assert_allclose(found, wanted)
        for found, wanted in zip(
            effects(pairs[np.ix_(order, order)]), (rows, columns), strict=True
        ):
            np.testing.assert_allclose(found, wanted[order])

    @pytest.mark.parametrize("count", range(FEWEST))
    def test_of_fewer_than_three_there_are_none(self, count):
        for found in effects(random((count, count))):
            assert found.shape == (count,)
            assert np.isnan(found).all()

    @pytest.mark.parametrize("missing", [np.nan, np.inf, -np.inf])
    def test_without_one_of_the_pairs_there_are_none(self, missing):
        pairs = random((4, 4))
        pairs[2, 0] = missing
        for found in effects(pairs):
            assert found.shape == (4,)
            assert np.isnan(found).all()

    def test_the_matrix_is_left_as_it_was(self):
        pairs = random((3, 3))
        before = pairs.copy()
        effects(pairs)
        assert np.array_equal(pairs, before)


class TestAreas:
    """Of every pair of curves of a run."""

    @staticmethod
    def bent(seed=3):
        """Return curves without any pattern."""
        cross = curves(heights(methods=METHODS[:2]), seed)
        return cross.assign(accuracy=np.random.default_rng(5).random(len(cross)))

    @staticmethod
    def by_hand(cross, method, other, first):
        here = cross[(cross["method"] == method) & (cross["map_of"] == other)]
        here = here[here["first"] == first].sort_values("fraction")
        x, y = here["fraction"].tolist(), here["accuracy"].tolist()
        parts = [(x[k + 1] - x[k]) * (y[k] + y[k + 1]) / 2 for k in range(len(x) - 1)]
        return sum(parts) / (x[-1] - x[0])

    def test_they_are_those_by_hand_in_any_order_of_the_rows(self):
        cross = self.bent()
        for some in (cross, cross.sort_values(["accuracy"])):
            found = areas(some).set_index(["method", "map_of"])
            assert len(found) == 4
            for pair, row in found.iterrows():
                most, least = (self.by_hand(cross, *pair, first) for first in ("most", "least"))
                assert row["most"] == pytest.approx(most)
                assert row["least"] == pytest.approx(least)
                assert row["gain"] == pytest.approx(least - most)
                assert row[PLACE].tolist() == ["digits", "resnet", 50, 3]

    def test_places_have_fractions_of_their_own(self):
        parts = [
            curves(heights(1), dataset="digits"),
            curves(heights(2), dataset="mnist", fractions=(0.1, 0.3)),
            curves(heights(3), size=20, fractions=(0.0, 0.4, 0.8)),
        ]
        found = areas(pd.concat(parts))
        assert len(found) == 3 * len(METHODS) ** 2
        assert found[["most", "least", "gain"]].notna().all(axis=None)

    @pytest.mark.parametrize("how", ["nan", "infinite", "no number", "without its row"])
    def test_of_a_curve_that_is_not_whole_there_is_none(self, how):
        cross = self.bent()
        broken = (cross["method"] == "sgt") & (cross["map_of"] == "baseline")
        broken &= (cross["first"] == "least") & (cross["fraction"] == 0.5)
        assert broken.sum() == 1
        if how == "without its row":
            cross = cross[~broken]
        else:
            instead = {"nan": np.nan, "infinite": np.inf, "no number": "—"}[how]
            cross["accuracy"] = cross["accuracy"].astype(object).mask(broken, instead)
        found = areas(cross).set_index(["method", "map_of"])
        row = found.loc[("sgt", "baseline")]
        assert row[["most", "least", "gain"]].notna().tolist() == [True, False, False]
        assert found.drop(index=("sgt", "baseline"))["gain"].notna().all()

    def test_one_fraction_has_no_area(self):
        found = areas(curves(heights(), fractions=(0.5,)))
        assert len(found) == len(METHODS) ** 2
        assert found[["most", "least", "gain"]].isna().all(axis=None)

    def test_without_rows_there_are_none(self):
        found = areas(curves({}))
        assert len(found) == 0
        assert {"most", "least", "gain", "map_of", "method", *PLACE} <= set(found.columns)


class TestMetrics:
    """Robustness of a model, faithfulness of a map: one of each per run."""

    def test_they_are_the_effects_on_the_areas(self):
        values = heights()
        metrics = crossed_metrics(curves(values))
        assert list(metrics.columns) == [*PLACE, "method", "metric", "value"]
        assert found_in(metrics) == pytest.approx(expected(values))
        assert len(metrics) == 2 * len(METHODS)

    def test_robust_models_and_faithful_maps_come_apart(self):
        """One model lasts longer under every map, one map tells more on every model."""
        values = {
            (model, by): (
                0.5 + 0.2 * (model == "sgt") - 0.1 * (by == "challenger"),
                0.6 + 0.2 * (model == "sgt") + 0.1 * (by == "challenger"),
            )
            for model, by in itertools.product(METHODS, repeat=2)
        }
        for name in METHODS:  # what a model does under its own map tells nothing
            values[name, name] = (0.0, 1.0)
        found = found_in(crossed_metrics(curves(values)))
        for name in METHODS:
            robust, faithful = found["occlusion-crossed", name], found["srg-crossed", name]
            assert robust == pytest.approx(0.475 + 0.2 * (name == "sgt"))
            assert faithful == pytest.approx(0.1 + 0.2 * (name == "challenger"))

    def test_every_place_and_seed_has_effects_of_its_own(self):
        places = [
            {"seed": 0},
            {"seed": 4},
            {"size": 200},
            {"dataset": "mnist", "fractions": (0.1, 0.2)},
            {"model": "vit"},
        ]
        parts = [curves(heights(at), **place) for at, place in enumerate(places)]
        shuffled = pd.concat(parts).sample(frac=1, random_state=0)
        metrics = crossed_metrics(shuffled)
        assert len(metrics) == 2 * len(METHODS) * len(places)
        for at, part in enumerate(parts):
            own = metrics.merge(part[PLACE].drop_duplicates(), on=PLACE)
            assert found_in(own) == pytest.approx(expected(heights(at)))

    @pytest.mark.parametrize("missing", ["the pair", "its values", "the run", "the map"])
    def test_where_a_pair_is_missing_there_are_no_rows_and_elsewhere_there_are(self, missing):
        lacking, whole = curves(heights(0), seed=0), curves(heights(1), seed=1)
        model, by = lacking["method"] == "sgt", lacking["map_of"] == "baseline"
        if missing == "its values":
            lacking["accuracy"] = lacking["accuracy"].mask(model & by)
        else:
            gone = {"the pair": model & by, "the run": model, "the map": by}[missing]
            lacking = lacking[~gone]
        metrics = crossed_metrics(pd.concat([lacking, whole]))
        assert set(metrics["seed"]) == {1}
        assert found_in(metrics) == pytest.approx(expected(heights(1)))

    def test_a_pair_of_a_model_with_its_own_map_is_not_missed(self):
        cross = curves(heights())
        without = cross[(cross["method"] != "sgt") | (cross["map_of"] != "sgt")]
        assert found_in(crossed_metrics(without)) == pytest.approx(expected(heights()))

    def test_without_the_curve_of_the_least_relevant_first_robustness_is_there(self):
        cross = curves(heights())
        lost = (cross["method"] == "sgt") & (cross["map_of"] == "baseline")
        metrics = crossed_metrics(cross[~(lost & (cross["first"] == "least"))])
        assert set(metrics["metric"]) == {"occlusion-crossed"}
        assert len(metrics) == len(METHODS)

    @pytest.mark.parametrize("count", [0, 1, 2])
    def test_of_fewer_than_three_methods_there_are_none(self, count):
        metrics = crossed_metrics(curves(heights(methods=METHODS[:count])))
        assert len(metrics) == 0
        assert list(metrics.columns) == [*PLACE, "method", "metric", "value"]

    def test_three_are_enough(self):
        metrics = crossed_metrics(curves(heights(methods=METHODS[:3])))
        assert set(metrics["metric"]) == BOTH
        wanted = expected(heights(methods=METHODS[:3]), METHODS[:3])
        assert found_in(metrics) == pytest.approx(wanted)
