"""What is measured is right by hand, the same for all methods, and changes no model."""

import copy
from typing import get_args

import pytest
import torch
from experiments import planned, prepare_data
from small_evaluation import CPU, EVERYTHING, LITTLE, constant, saying, shrink, subject_of
from torch import nn

from attrreg.data.prepare import prepare
from attrreg.data.sources import read_pool
from attrreg.data.subsets import draw_subsets
from attrreg.evaluation import calibration
from attrreg.evaluation.localization import mass
from attrreg.evaluation.map_measures import localized
from attrreg.evaluation.measures import (
    MEASURES,
    calibrated,
    diversity,
    margin,
    occluded,
    predicted,
    training,
)
from attrreg.evaluation.predict import predict
from attrreg.evaluation.subject import HeldOut
from attrreg.protocol import Measure
from attrreg.training.runs import build_model, subset_of

GRID = {"grid.methods": ["baseline", "sgt"], "grid.seeds": [0, 1]}
RUNS = {(run.method, run.seed): run for run in planned(GRID).runs}
RUN = RUNS["baseline", 0]
RANDOM = ("random-pixels", "random-block", "grid-patches")
FILLS = {"orders": RANDOM, "fractions": (0.0, 0.3, 0.7), "beside": ("blur", "mean", "noise")}
NOISY = {"name": "noisy", "base": "digits", "subset": {"label_noise": 0.5}}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def held_out(data):
    return HeldOut.on(CPU, data, RUN.source)


@pytest.fixture(scope="module")
def perfect(held_out):
    """A model that is right about every test sample, and sure of it."""
    return saying(*held_out.splits["test"])


def numbers(found):
    """Return the metrics as plain numbers."""
    return {name: float(value) for name, value in found[0].items()}


def same(one, two):
    """Whether two findings are equal in every number, NaN included."""
    return one.keys() == two.keys() and all(
        value == pytest.approx(two[name], nan_ok=True) for name, value in one.items()
    )


class TestKnown:
    """Models whose scores follow from what they say."""

    def test_the_perfect_model(self, data, perfect):
        subject = subject_of(data, RUN, perfect, perfect, orders=RANDOM)
        found = numbers(predicted(subject)) | numbers(calibrated(subject))
        for name in ("accuracy", "top5", "balanced-accuracy"):
            assert found[name] == 1
        for name in ("nll", "brier", "ece", "ece-mass", "ece-classwise", "mce"):
            assert found[name] == pytest.approx(0, abs=1e-6), name
        occlusion = numbers(occluded(subject))
        for order in RANDOM:
            assert occlusion[f"occlusion-{order}"] == occlusion[f"occlusion-area-{order}"] < 1
        assert numbers(margin(subject)) == {"lowest-margin-accuracy": 1}

    def test_the_model_that_is_never_right_has_no_relative_occlusion(self, data, held_out):
        x, y = held_out.splits["test"]
        subject = subject_of(data, RUN, saying(x, (y + 1) % 10), orders=RANDOM)
        assert numbers(predicted(subject))["accuracy"] == 0
        found = numbers(occluded(subject))
        for order in RANDOM:
            assert found[f"occlusion-{order}"] != found[f"occlusion-{order}"]  # NaN
            assert 0 <= found[f"occlusion-area-{order}"] < 0.5

    def test_the_model_that_always_says_the_same(self, data, held_out):
        scores = torch.linspace(1, 0, 10)
        subject = subject_of(data, RUN, constant(scores), orders=RANDOM, beside=("mean", "zero"))
        y = held_out.splits["test"][1]
        share = (y == 0).double().mean().item()
        chances = scores.double().softmax(0)
        found = numbers(predicted(subject))
        assert found["accuracy"] == pytest.approx(share)
        assert found["balanced-accuracy"] == pytest.approx(0.1)
        assert found["top5"] == pytest.approx((y < 5).double().mean().item())
        found = numbers(calibrated(subject))
        assert found["nll"] == pytest.approx(-chances[y].log().mean().item())
        assert found["ece"] == pytest.approx(abs(chances[0].item() - share))
        brier = (chances.square().sum() + 1 - 2 * chances[y]).mean().item()
        assert found["brier"] == pytest.approx(brier)
        for name, value in numbers(occluded(subject)).items():
            if "nll" in name:
                assert value == pytest.approx(-chances[y].log().mean().item())
            else:
                assert value == pytest.approx(share if "area" in name else 1), name

    def test_classes_are_told_one_by_one(self, data, held_out):
        subject = subject_of(data, RUN, constant([*[0.0] * 3, 1.0, *[0.0] * 6]))
        rows = predicted(subject)[1]["classes"]
        counts = torch.bincount(held_out.splits["test"][1]).tolist()
        assert [row["count"] for row in rows] == counts
        assert [row["accuracy"] for row in rows] == [0, 0, 0, 1, 0, 0, 0, 0, 0, 0]


class TestTemperature:
    """It is fitted on what the run held back, or else on the validation split; never on the test's.

    What the temperature scales is the test split.
    """

    def test_without_selection_it_is_that_of_the_validation_split(self, data, held_out):
        model = saying(*(each[:200] for each in held_out.splits["test"]), sure=9.0)
        found = numbers(calibrated(subject_of(data, RUN, model)))
        x, y = held_out.splits["validation"]
        expected = calibration.temperature(predict(model, x), y)
        assert found["temperature"] == pytest.approx(float(expected))
        assert found["temperature"] != pytest.approx(1)

    @pytest.mark.parametrize("selection", [{"name": "best"}, {"name": "last", "held_back": 0.2}])
    def test_with_samples_that_were_held_back_it_is_theirs(self, data, held_out, selection):
        [run, *_] = planned(GRID | {"recipe.selection": selection}).runs
        pool = read_pool(data, "digits").images
        kept = subset_of(run, read_pool(data, "digits"), data).indices[16:20]
        x = held_out.normalised(torch.tensor(pool.x[kept]))
        y = torch.tensor(pool.y[kept])
        model = saying(x, torch.tensor([*y[:3], (y[3] + 1) % 10]), sure=9.0)
        found = numbers(calibrated(subject_of(data, run, model)))
        expected = calibration.temperature(predict(model, x), y)
        assert found["temperature"] == pytest.approx(float(expected))
        other = numbers(calibrated(subject_of(data, RUN, model)))
        assert found["temperature"] != pytest.approx(other["temperature"])

    def test_scores_after_scaling_are_those_of_scaled_logits(self, data, held_out):
        x, y = held_out.splits["test"]
        model = saying(x[:200], y[:200], sure=9.0)
        metrics, tables = calibrated(subject_of(data, RUN, model, bins=7))
        logits = calibration.scaled(predict(model, x), metrics["temperature"])
        assert float(metrics["nll-scaled"]) == pytest.approx(float(calibration.nll(logits, y)))
        assert float(metrics["ece-scaled"]) == pytest.approx(float(calibration.ece(logits, y, 7)))
        rows = tables["reliability"]
        assert [row["scaled"] for row in rows] == [False] * 7 + [True] * 7
        assert [row["bin"] for row in rows] == [*range(7), *range(7)]
        assert {sum(row["count"] for row in rows if row["scaled"] == each) for each in (0, 1)} == {
            len(y)
        }


class TestOcclusion:
    """Areas of curves, relative to the whole inputs, under masks that all methods share."""

    def test_it_is_the_area_divided_by_the_accuracy(self, data, perfect, held_out):
        x, y = held_out.splits["test"]
        model = saying(x[:150], y[:150])
        subject = subject_of(data, RUN, model, **FILLS)
        metrics, tables = occluded(subject)
        accuracy = numbers(predicted(subject))["accuracy"]
        assert 0.3 < accuracy < 1
        for order in RANDOM:
            for fill, suffix in (("blur", ""), ("mean", "@mean"), ("noise", "@noise")):
                rows = [
                    row for row in tables["curves"] if (row["order"], row["fill"]) == (order, fill)
                ]
                assert [row["fraction"] for row in rows] == [0.0, 0.3, 0.7]
                assert rows[0]["accuracy"] == pytest.approx(accuracy)
                for name, column in (("area", "accuracy"), ("nll", "nll")):
                    first, middle, last = (row[column] for row in rows)
                    area = ((first + middle) * 0.3 + (middle + last) * 0.4) / 2 / 0.7
                    found = float(metrics[f"occlusion-{name}-{order}{suffix}"])
                    assert found == pytest.approx(area)
                    if name == "area":
                        relative = float(metrics[f"occlusion-{order}{suffix}"])
                        assert relative == pytest.approx(area / accuracy)
        assert not any("@blur" in name for name in metrics)

    def test_methods_of_one_seed_share_every_random_number_and_seeds_do_not(self, data, perfect):
        by_run = {
            key: numbers(occluded(subject_of(data, run, perfect, **FILLS)))
            for key, run in RUNS.items()
        }
        assert by_run["baseline", 0] == by_run["sgt", 0]
        assert by_run["baseline", 1] == by_run["sgt", 1]
        assert by_run["baseline", 0] != by_run["baseline", 1]

    def test_the_neutral_order_is_that_of_the_other_model(self, data):
        """It is the same for all methods; each model's own order is not."""
        own, other = (build_model(RUNS["baseline", seed], CPU) for seed in (0, 1))
        orders = tuple(
            f"{neutral}{which}-relevant-first"
            for neutral in ("", "neutral-")
            for which in ("most", "least")
        )
        settings = {"orders": orders, "fractions": (0.0, 0.2, 0.4, 0.6)}
        apart = numbers(occluded(subject_of(data, RUN, own, other, **settings)))
        alike = numbers(occluded(subject_of(data, RUN, own, own, **settings)))
        for which in ("most", "least"):
            name = f"occlusion-nll-{{}}{which}-relevant-first"
            assert apart[name.format("")] == alike[name.format("")]
            assert alike[name.format("neutral-")] == alike[name.format("")]
            assert apart[name.format("neutral-")] != apart[name.format("")]

    def test_without_a_neutral_model_its_orders_are_absent_and_no_others(self, data, perfect):
        orders = ("random-pixels", "neutral-most-relevant-first")
        subject = subject_of(data, RUN, perfect, orders=orders)
        metrics, tables = occluded(subject)
        assert not any("neutral" in name for name in metrics)
        assert {row["order"] for row in tables["curves"]} == {"random-pixels"}
        assert margin(subject) == ({}, {})


class TestTraining:
    """The accuracy on the samples that were trained on, with the labels that were given."""

    def test_wrong_labels_that_were_given_count_as_right(self, data):
        [run, *_] = planned(GRID | {"grid.datasets": [NOISY]}).runs
        pool = read_pool(data, run.source)
        draw_subsets(data, run.source, 0, pool.images.y)
        subset = subset_of(run, pool, data)
        truth = torch.tensor(pool.images.y[subset.indices])
        given = torch.tensor(subset.labels)
        assert 0 < (given != truth).sum() < 20
        x = HeldOut.on(CPU, data, run.source).normalised(
            torch.tensor(pool.images.x[subset.indices])
        )
        fitted = numbers(training(subject_of(data, run, saying(x, given))))
        assert fitted["train-accuracy"] == 1
        right = numbers(training(subject_of(data, run, saying(x, truth))))
        agreement = float((given == truth).double().mean())
        assert right["train-accuracy"] == pytest.approx(agreement)

    def test_the_gap_is_to_the_test_split(self, data, held_out):
        subject = subject_of(data, RUN, constant([1.0, *[0.0] * 9]))
        found = numbers(training(subject))
        share = (held_out.splits["test"][1] == 0).double().mean().item()
        assert found["train-accuracy"] == pytest.approx(0.1)  # two of twenty, of every class
        assert found["generalisation-gap"] == pytest.approx(0.1 - share)

    @pytest.mark.parametrize(("profile", "counted"), [("standard", 5), ("full", 20)])
    def test_in_full_all_samples_are_counted(self, data, profile, counted):
        labels = subset_of(RUN, read_pool(data, "digits"), data).labels[:counted]
        scores = [float(each == labels[0]) for each in range(10)]
        settings = {"profile": profile, "samples": 5}
        found = numbers(training(subject_of(data, RUN, constant(scores), **settings)))
        assert found["train-accuracy"] == pytest.approx((labels == labels[0]).mean())

    def test_what_was_held_back_is_not_counted(self, data):
        selection = {"recipe.selection": {"name": "last", "held_back": 0.5}}
        [run, *_] = planned(GRID | selection).runs
        labels = subset_of(run, read_pool(data, "digits"), data).labels
        first = int(labels[0])
        scores = [float(each == first) for each in range(10)]
        found = numbers(training(subject_of(data, run, constant(scores))))
        assert found["train-accuracy"] == pytest.approx((labels[:10] == first).mean())


class TestMargin:
    """The third of the test samples that the neutral model is least sure of."""

    def test_it_is_a_third_by_the_margin_of_the_label(self, data, held_out):
        x, y = held_out.splits["test"]
        neutral = saying(x[:100], y[:100], sure=5.0)
        model = saying(x[:250], y[:250])
        logits = predict(neutral, x)
        margins = []
        for row, label in zip(logits.tolist(), y.tolist(), strict=True):
            rivals = [value for place, value in enumerate(row) if place != label]
            margins.append(row[label] - max(rivals))
        hard = sorted(range(len(y)), key=margins.__getitem__)[: len(y) // 3]
        right = predict(model, x).argmax(1) == y
        expected = float(right[hard].double().mean())
        found = numbers(margin(subject_of(data, RUN, model, neutral)))
        assert found == {"lowest-margin-accuracy": pytest.approx(expected)}
        assert expected != pytest.approx(float(right.double().mean()))


def test_a_neutral_model_that_has_diverged_is_not_taken_for_one_that_knows(data):
    """Its margins and maps are no numbers: any order by them would be that of the samples."""
    broken = build_model(RUN, CPU)
    with torch.no_grad():
        for parameter in broken.parameters():
            parameter.mul_(torch.nan)
    orders = ("neutral-most-relevant-first",)
    subject = subject_of(data, RUN, None, broken, orders=orders)
    for measure in (margin, occluded):
        try:
            is_left_out = measure(subject)[0] == {}
        except ValueError as error:
            is_left_out = "NaN" in str(error)
        assert is_left_out, measure


class TestDiversity:
    """Compared with the weights before training."""

    def test_initial_weights_have_changed_nothing(self, data):
        found = numbers(diversity(subject_of(data, RUN, build_model(RUN, CPU))))
        assert found["filter-similarity-change"] == pytest.approx(0, abs=1e-12)
        assert found["feature-rank"] == pytest.approx(1)

    def test_filters_that_become_alike_raise_it_and_leave_fewer_features(self, data):
        model = build_model(RUN, CPU)
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, nn.Conv2d):
                    module.weight += 3 * module.weight[:1].clone()
        found = numbers(diversity(subject_of(data, RUN, model)))
        assert found["filter-similarity-change"] > 0.5
        assert found["feature-rank"] < 0.9


class TestLocalization:
    """Only where there are regions."""

    def test_without_regions_nothing_is_measured(self, data, perfect):
        assert localized(subject_of(data, RUN, perfect)) == ({}, {})

    def test_it_is_that_of_the_maps_on_the_sample(self, tmp_path, monkeypatch):
        shrink(monkeypatch)
        prepare(tmp_path, "shapes")
        [run, *_] = planned({"grid.datasets": ["shapes"]}).runs
        subject = subject_of(tmp_path, run, samples=11, maps=("gradient", "lrp-0"))
        metrics, tables = localized(subject)
        x, region = subject.held_out.splits["test"][0], subject.held_out.region
        for name in ("gradient", "lrp-0"):
            maps = subject.maps(name, x[subject.sample])
            expected = mass(maps, region[subject.sample]).nanmean()
            assert float(metrics[f"mass-{name}"]) == pytest.approx(float(expected))
        outside = 1 - float(metrics["mass-gradient"])
        assert float(metrics["gradient-outside"]) == pytest.approx(outside)
        assert len(tables["localization"]) == 8
        assert all(0 < row["chance"] <= 1 for row in tables["localization"])


class TestSample:
    """What needs many passes is made on some test samples, the same for every run."""

    def test_it_is_the_same_for_all_methods_and_seeds(self, data):
        samples = [subject_of(data, run).sample for run in RUNS.values()]
        assert len(samples[0].unique()) == 20
        assert all(torch.equal(samples[0], each) for each in samples)

    def test_a_larger_one_holds_every_smaller_one(self, data):
        small, large = (subject_of(data, RUN, samples=n).sample for n in (5, 50))
        assert set(small.tolist()) < set(large.tolist())

    @pytest.mark.parametrize("settings", [{"profile": "full"}, {"samples": 10**6}])
    def test_all_are_taken_in_full_and_where_there_are_no_more(self, data, settings):
        assert subject_of(data, RUN, **settings).sample.tolist() == list(range(360))


def test_no_measure_changes_the_model_or_its_mode(tmp_path, monkeypatch):
    shrink(monkeypatch)
    prepare(tmp_path, "shapes")
    runs = planned({"grid.datasets": ["shapes"]}).runs
    run = next(run for run in runs if run.composition.perturbation)
    draw_subsets(tmp_path, "shapes", 0, read_pool(tmp_path, "shapes").images.y)
    models = [build_model(run, CPU).train() for _ in range(2)]
    before = copy.deepcopy(models[0].state_dict())
    subject = subject_of(tmp_path, run, *models, **(EVERYTHING | {"samples": 8}))
    assert MEASURES.keys() == set(get_args(Measure))
    for measure in (predicted, calibrated, occluded, *MEASURES.values()):
        assert measure(subject)[0], measure
    for model in models:
        assert all(map(torch.equal, before.values(), model.state_dict().values()))
        assert all(module.training for module in model.modules())
        assert all(each.grad is None and each.requires_grad for each in model.parameters())


def test_the_same_twice_is_the_same(data):
    """Nothing is read from random numbers that others draw, too."""
    settings = LITTLE | {"orders": RANDOM, "beside": ("noise", "range")}
    torch.manual_seed(1)
    first = numbers(occluded(subject_of(data, RUN, **settings)))
    torch.manual_seed(2)
    assert same(first, numbers(occluded(subject_of(data, RUN, **settings))))
