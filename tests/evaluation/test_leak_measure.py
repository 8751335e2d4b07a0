"""The measure of the leak reads what a run's masks give away, and never sees the test split."""

import dataclasses
import math

import pandas as pd
import pytest
import torch
from experiments import planned, prepare_data
from small_evaluation import CPU, shrink, subject_of
from torch import nn

from attrreg.columns import TABLES
from attrreg.data.prepare import prepare
from attrreg.data.sources import read_pool
from attrreg.data.subsets import draw_subsets, read_subset
from attrreg.evaluation import leak, leak_measure, leak_readings
from attrreg.evaluation.leak_measure import leak as measured
from attrreg.evaluation.leak_probe import STEPS, probe
from attrreg.evaluation.scores import evaluate_shard
from attrreg.protocol import Evaluation
from attrreg.tables import collect
from attrreg.training.runs import train_shard

NAMES = ("leak-channel", "leak-image", "leak-label")


def run_of(method, changes=None, seed=0):
    """Return a run of the tiny experiment, changed."""
    runs = planned({"grid.methods": list({"baseline", method})} | (changes or {})).runs
    [run] = [each for each in runs if (each.method, each.seed) == (method, seed)]
    return run


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def few_steps(monkeypatch):
    """Shorten the training of probes."""

    def short(*masks, **options):
        return probe(*masks, **options | {"steps": 3})

    monkeypatch.setattr(leak_readings, "probe", short)


@pytest.fixture
def drawn(monkeypatch, few_steps):
    """Of which images and classes masks are asked for; they are not drawn."""
    seen = []

    def instead(method, model, x, classes, **options):
        seen.append((x, classes, options))
        return torch.zeros(*classes.shape, 2)

    monkeypatch.setattr(leak_readings, "draw_masks", instead)
    return seen


def telling():
    """Return a model whose gradient lies, whatever it sees, where the class says."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with torch.no_grad():
        model[1].bias.zero_()
        weight = 1e-3 * torch.rand(10, 64, generator=torch.Generator().manual_seed(0))
        for each in range(10):
            weight[each, 6 * each : 6 * each + 6] = 0.05
        model[1].weight.copy_(weight)
    return model


def numbers(found):
    return {name: float(value) for name, value in found[0].items()}


class Untouchable(dict):
    """Splits of which the test split cannot be had."""

    def __getitem__(self, name):
        assert name != "test", "the test split was read"
        return super().__getitem__(name)


def without_test(subject, monkeypatch):
    """Return the subject with all that is known of its test split taken away."""
    held_out = subject.held_out._replace(pixels=None, region=None)
    splits = Untouchable(held_out.splits)

    def guarded(folder, dataset, splits=("validation", "test")):
        assert "test" not in splits, "the test split was opened"
        return read_held_out(folder, dataset, splits)

    read_held_out = leak_measure.read_held_out
    monkeypatch.setattr(leak_measure, "read_held_out", guarded)
    return dataclasses.replace(subject, held_out=held_out._replace(splits=splits))


class TestReading:
    """What masks tell by construction is read, and nothing where they are drawn blindly."""

    def test_masks_that_follow_the_label_are_read(self, data):
        metrics, tables = measured(subject_of(data, run_of("sgt"), telling(), samples=60))
        assert list(metrics) == list(NAMES)
        assert metrics["leak-channel"] > 0.5
        assert metrics["leak-label"] > 0.5
        for row, value in zip(tables["leak"], metrics.values(), strict=True):
            assert row["low"] <= row["accuracy"] <= row["high"]
            assert float(value) == row["accuracy"] - row["chance"]
            assert (row["masks"], row["images"], row["learning_images"]) == (480, 60, 60)

    def test_a_class_that_the_method_draws_itself_closes_the_channel(self, data):
        subject = subject_of(data, run_of("sgt/random-class"), telling(), samples=60)
        [channel, *_] = measured(subject)[1]["leak"]
        assert channel["low"] <= channel["chance"] <= channel["high"]

    @pytest.mark.parametrize("method", ["random-erasing", "reldrop-block/uniform"])
    def test_masks_that_look_at_nothing_are_read_at_chance(self, data, method):
        metrics, tables = measured(subject_of(data, run_of(method), telling(), samples=60))
        for row in tables["leak"]:
            assert row["low"] <= row["chance"] <= row["high"]
            assert row["high"] - row["low"] < 0.1
        assert all(abs(value) < 0.05 for value in metrics.values())

    @pytest.mark.parametrize("method", ["baseline", "label-smoothing", "dropout"])
    def test_of_a_method_without_a_perturbation_nothing_is_measured(self, data, method, drawn):
        assert measured(subject_of(data, run_of(method))) == ({}, {})
        assert drawn == []


class TestRun:
    """It is that of the command, for the model that a run has left."""

    def test_it_agrees_with_the_answer_of_the_command(self, data, tmp_path, monkeypatch, few_steps):
        monkeypatch.setattr(leak, "IMAGES", 30)
        question = leak.Question("reldrop-block", "digits", train_size=20, steps=2)
        run, protocol = question.run(), Evaluation(measures=("leak",), samples=30)
        train_shard([run], tmp_path, data, CPU)
        assert evaluate_shard([run], tmp_path, data, protocol, CPU) == {run: "made"}
        collect([run], tmp_path)
        rows = pd.read_csv(tmp_path / "tables" / "leak.csv")
        assert list(rows.columns) == TABLES["leak"]
        expected = pd.DataFrame(leak.answer(question, data, CPU))
        expected = expected.rename(columns={"explained": "told"})[TABLES["leak"]]
        pd.testing.assert_frame_equal(rows, expected, check_exact=True)
        metrics = pd.read_csv(tmp_path / "tables" / "metrics.csv").set_index("metric").value
        assert set(metrics.index) == set(protocol.metrics())
        above = expected.accuracy - expected.chance
        assert metrics[list(NAMES)].tolist() == pytest.approx(above.tolist())

    def test_a_run_that_leaves_no_images_is_evaluated_without_it(self, data, tmp_path):
        run = run_of("random-erasing", {"grid.train_sizes": [1058], "recipe.steps": 1})
        protocol = Evaluation(measures=("leak",), samples=20)
        train_shard([run], tmp_path, data, CPU)
        assert evaluate_shard([run], tmp_path, data, protocol, CPU) == {run: "made"}
        counts = collect([run], tmp_path)
        assert (counts["leak"], counts["failures"]) == (3, 0)
        rows = pd.read_csv(tmp_path / "tables" / "leak.csv")
        assert rows[["accuracy", "low", "high", "chance"]].isna().all(axis=None)
        assert rows.learning_images.tolist() == [19] * 3
        assert rows[["masks", "images"]].eq(0).all(axis=None)
        metrics = pd.read_csv(tmp_path / "tables" / "metrics.csv").metric
        assert not set(NAMES) & set(metrics)


class TestImages:
    """The probe learns from images that are not the run's, and is tested on others."""

    @pytest.mark.parametrize(("profile", "counts"), [("standard", (40, 40)), ("full", (1057, 360))])
    def test_they_follow_the_run_s_own_up_to_a_number(self, data, drawn, profile, counts):
        subject = subject_of(data, run_of("sgt"), samples=40, profile=profile)
        measured(subject)
        pool, (x, _) = read_pool(data, "digits"), subject.held_out.splits["validation"]
        order = read_subset(data, "digits", 0, 20 + counts[0], pool.images.y).indices
        theirs = subject.held_out.normalised(torch.from_numpy(pool.images.x[order[20:]]))
        for number, (found, classes, _) in enumerate(drawn):
            if number % 2 == 0:
                assert torch.equal(found, theirs)
            assert classes.shape == (8, counts[number % 2])
        tested = {each.numpy().tobytes() for each in drawn[1][0]}
        assert tested <= {each.numpy().tobytes() for each in x}
        assert torch.equal(drawn[1][0], drawn[3][0])

    def test_what_a_run_has_held_back_is_its_own(self, data, drawn):
        for changes in ({}, {"recipe.selection": {"name": "best"}}):
            measured(subject_of(data, run_of("sgt", changes)))
        assert torch.equal(drawn[0][0], drawn[4][0])

    def test_random_numbers_are_shared_by_methods_and_not_by_seeds(self, data, drawn):
        for run in (run_of("sgt"), run_of("random-erasing"), run_of("sgt", seed=1)):
            measured(subject_of(data, run))
        one, other, again = drawn[:4], drawn[4:8], drawn[8:]
        for (x, classes, options), (same_x, same, same_options) in zip(one, other, strict=True):
            assert torch.equal(x, same_x)
            assert torch.equal(classes, same)
            assert options["seed"] == same_options["seed"]
        assert not torch.equal(one[0][1], again[0][1])
        assert not {call[2]["seed"] for call in one} & {call[2]["seed"] for call in again}

    @pytest.mark.parametrize("size", [1058, 1077])
    def test_where_few_are_left_nothing_is_measured(self, data, drawn, size):
        run = dataclasses.replace(run_of("sgt"), train_size=size)
        metrics, tables = measured(subject_of(data, run))
        assert metrics == {}
        assert [(row["told"], row["read"]) for row in tables["leak"]] == list(leak.READINGS)
        for row in tables["leak"]:
            assert all(math.isnan(row[name]) for name in ("accuracy", "low", "high", "chance"))
            assert (row["masks"], row["images"], row["learning_images"]) == (0, 0, 1077 - size)
        assert drawn == []

    def test_a_sample_of_one_is_made_two_so_that_there_is_an_interval(self, data, few_steps):
        subject = subject_of(data, run_of("random-erasing"), telling(), samples=1)
        assert {row["images"] for row in measured(subject)[1]["leak"]} == {2}

    def test_two_of_every_class_are_enough(self, data, few_steps):
        run = dataclasses.replace(run_of("random-erasing"), train_size=1057)
        metrics, tables = measured(subject_of(data, run, telling()))
        assert list(metrics) == list(NAMES)
        assert {row["learning_images"] for row in tables["leak"]} == {20}


class TestTestSplit:
    """It has no part in it."""

    @pytest.mark.parametrize("method", ["sgt", "random-erasing"])
    def test_it_is_never_read(self, data, method, monkeypatch, few_steps):
        subject = subject_of(data, run_of(method), telling())
        whole = numbers(measured(subject))
        assert numbers(measured(without_test(subject, monkeypatch))) == whole

    def test_not_even_for_its_regions(self, tmp_path, monkeypatch, few_steps):
        shrink(monkeypatch)
        prepare(tmp_path, "shapes")
        run = run_of("sgt/oracle", {"grid.datasets": ["shapes"]})
        draw_subsets(tmp_path, "shapes", 0, read_pool(tmp_path, "shapes").images.y)
        metrics, tables = measured(without_test(subject_of(tmp_path, run), monkeypatch))
        assert list(metrics) == list(NAMES)
        assert {row["images"] for row in tables["leak"]} == {20}


def test_the_model_is_left_as_it_is(data, few_steps):
    model = telling().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    stream = torch.get_rng_state()
    first = measured(subject_of(data, run_of("sgt"), model))
    assert measured(subject_of(data, run_of("sgt"), model)) == first
    assert torch.equal(torch.get_rng_state(), stream)
    assert not model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(each.grad is None and each.requires_grad for each in model.parameters())


def test_the_untrained_control_is_asked_with_the_model_before_training(data, drawn):
    subject = subject_of(data, run_of("sgt/untrained"), telling())
    measured(subject)
    expected = subject.initial().state_dict()
    for _, _, options in drawn:
        found = options["untrained"].state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in found.items())


def test_a_probe_of_few_images_is_trained_shortly_and_of_many_as_that_of_the_command():
    steps = [leak_measure._steps(images) for images in (1, 100, 500, 877, 2000)]
    assert steps == sorted(steps)
    assert 0 < steps[0] < steps[2] < steps[3] == steps[4] == STEPS
