"""The loop: reproducible to the bit, as long as asked, at the learning rates of the recipe."""

import copy
import dataclasses
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from attrreg import method
from attrreg.data.device import TrainingSet
from attrreg.method import Method
from attrreg.objective import Loss
from attrreg.recipe import SGD, AdamW, Augmentation, Recipe, Schedule
from attrreg.training.engine import Diverged, Streams, train
from attrreg.training.optimizers import learning_rate_factor

CPU = torch.device("cpu")


def streams(seed=0):
    return Streams.seeded(lambda name: seed * 100 + len(name), CPU)


def training_set(n=20, channels=1):
    generator = torch.Generator().manual_seed(3)
    x = torch.randint(0, 256, (n, channels, 8, 8), generator=generator, dtype=torch.uint8)
    y = torch.arange(n) % 10
    region = (torch.rand(n, 8, 8, generator=generator) > 0.7).float()
    mean, deviation = torch.full((channels,), 0.5), torch.full((channels,), 0.3)
    return TrainingSet(x, y, mean, deviation, region)


class Spy:
    """A method whose loss is the sum of the weights, so that every gradient is 1."""

    def __init__(self, losses=None):
        self.indices, self.epochs, self.x, self.losses = [], [], [], losses
        self.states = []

    def loss(self, model, x, y, *, generator, state):
        self.indices.append(state.indices)
        self.epochs.append(state.epoch)
        self.states.append(state)
        self.x.append(x)
        total = sum(parameter.sum() for parameter in model.parameters())
        if self.losses is not None:
            total = total * 0 + self.losses[len(self.indices) - 1]
        return Loss(total, {"accuracy": torch.tensor(float(len(self.indices)))})


def linear():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 1, bias=False))


def weights(model):
    return model.state_dict().values()


class TestReproducible:
    """The same streams give the same weights; other streams give others."""

    @pytest.mark.parametrize("name", method.names())
    def test_to_the_bit_for_every_method(self, name, make_model):
        recipe = Recipe(steps=3, batch_size=8, augmentation=Augmentation(crop_padding=1, flip=True))
        first, again = (make_model("resnet10-narrow", dtype=torch.float32) for _ in range(2))
        histories = []
        for model in (first, again):
            torch.rand(7)  # torch's own generator is somewhere else each time
            data = training_set()
            histories.append(train(model, method.create(name), data, recipe, streams()))
        assert all(map(torch.equal, weights(first), weights(again)))
        assert histories[0] == histories[1]

    def test_dropout_has_a_stream_of_its_own(self):
        def trained(seed_of):
            torch.manual_seed(0)
            model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10))
            recipe = Recipe(steps=2, batch_size=8)
            train(model, Method(), training_set(), recipe, Streams.seeded(seed_of, CPU))
            return model[2].weight

        first, again = trained(len), trained(len)
        other = trained(lambda name: 99 if name == "dropout" else len(name))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    @pytest.mark.parametrize("stream", ["order", "augmentation", "perturbation"])
    def test_every_stream_counts(self, stream, make_model):
        recipe = Recipe(steps=2, batch_size=8, augmentation=Augmentation(crop_padding=1))

        def trained(seed_of):
            model = make_model("resnet10-narrow", dtype=torch.float32)
            own = Streams.seeded(seed_of, CPU)
            train(model, method.create("random-erasing"), training_set(), recipe, own)
            return list(weights(model))

        other = trained(lambda name: 99 if name == stream else len(name))
        assert not all(map(torch.equal, trained(len), other))

    def test_draws_of_a_method_shift_no_batch(self):
        spies = []
        for draws in (0, 5):
            spy = Spy()

            class Drawing(Spy):
                def loss(self, model, x, y, *, generator, state, spy=spy, draws=draws):
                    torch.rand(draws, generator=generator)
                    torch.rand(draws, generator=state.generator)
                    torch.rand(draws)
                    return spy.loss(model, x, y, generator=generator, state=state)

            recipe = Recipe(steps=5, batch_size=8, augmentation=Augmentation(flip=True))
            train(linear(), Drawing(), training_set(), recipe, streams())
            spies.append(spy)
        assert all(map(torch.equal, spies[0].indices, spies[1].indices))
        assert all(map(torch.equal, spies[0].x, spies[1].x))


class TestLength:
    """Steps are steps; epochs are passes over the set."""

    @pytest.mark.parametrize(
        ("n", "batch_size", "epochs"), [(20, 10, 3), (25, 10, 2), (12, 32, 4), (10, 4, 2)]
    )
    def test_epochs_use_every_sample_so_often(self, n, batch_size, epochs):
        spy, recipe = Spy(), Recipe(epochs=epochs, batch_size=batch_size)
        train(linear(), spy, training_set(n), recipe, streams())
        used = torch.bincount(torch.cat(spy.indices), minlength=n)
        assert set(used.tolist()) == {epochs}

    def test_steps_are_counted_whatever_the_size(self):
        for n in (5, 20, 100):
            spy = Spy()
            train(linear(), spy, training_set(n), Recipe(steps=7, batch_size=16), streams())
            assert len(spy.indices) == 7

    def test_parts_are_told_how_many_passes_are_completed(self):
        spy = Spy()
        train(linear(), spy, training_set(8), Recipe(steps=6, batch_size=4), streams())
        assert spy.epochs == [0, 0, 1, 1, 2, 2]

    @settings(deadline=None)
    @given(st.integers(1, 12), st.integers(1, 12))
    def test_parts_are_told_into_which_pass_a_batch_reaches(self, n, batch_size):
        spy, batch = Spy(), min(n, batch_size)
        train(linear(), spy, training_set(n), Recipe(steps=9, batch_size=batch_size), streams())
        for step, state in enumerate(spy.states):
            assert state.last_epoch == (step * batch + batch - 1) // n
            assert state.epoch in (state.last_epoch, state.last_epoch - 1)

    def test_progress_is_said_after_every_step(self):
        said = []
        recipe = Recipe(steps=3, batch_size=4)
        train(linear(), Spy(), training_set(), recipe, streams(), lambda *at: said.append(at))
        assert said == [(1, 3), (2, 3), (3, 3)]


class TestState:
    """What the loop tells the parts of a method."""

    def told(self, data, steps=5, **augmentation):
        spy, recipe = (
            Spy(),
            Recipe(steps=steps, batch_size=8, augmentation=Augmentation(**augmentation)),
        )
        train(linear(), spy, data, recipe, streams())
        return spy

    def test_samples_are_known_on_the_cpu_and_by_the_size_of_the_set(self):
        data = training_set()
        spy = self.told(data)
        for state, x in zip(spy.states, spy.x, strict=True):
            assert state.indices.device == CPU
            assert torch.equal(x, data.batch(state.indices)[0])
            assert state.size == 20

    def test_bounds_hold_every_input(self):
        data = training_set(channels=2)
        spy = self.told(data, crop_padding=2, flip=True)
        low, high = (torch.tensor(each).view(-1, 1, 1) for each in spy.states[0].bounds)
        assert low.flatten().tolist() == pytest.approx([-0.5 / 0.3] * 2)
        assert high.flatten().tolist() == pytest.approx([0.5 / 0.3] * 2)
        for state, x in zip(spy.states, spy.x, strict=True):
            assert state.bounds is spy.states[0].bounds
            assert ((low <= x) & (x <= high)).all()

    def test_images_and_regions_are_moved_together(self):
        data = training_set()
        spy = self.told(data, crop_padding=1, flip=True)
        for state, x in zip(spy.states, spy.x, strict=True):
            clean = data.batch(state.indices)[0]
            assert torch.equal(x, state.augmentation.apply(clean))
            regions = data.region[state.indices]
            inside = state.augmentation.apply(torch.ones_like(clean))[:, 0]
            expected = state.augmentation.apply_to_maps(regions) * inside
            assert torch.equal(state.region, expected)

    def test_a_set_without_regions_has_none(self):
        spy = self.told(dataclasses.replace(training_set(), region=None))
        assert {state.region for state in spy.states} == {None}

    def test_the_oracle_does_not_train_without_regions(self):
        data = dataclasses.replace(training_set(), region=None)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        with pytest.raises(ValueError, match="'oracle' needs"):
            train(model, method.create("sgt/oracle"), data, Recipe(steps=1), streams())

    def test_one_memory_lasts_for_the_whole_training(self):
        states = self.told(training_set()).states
        assert all(state.memory is states[0].memory for state in states)
        assert self.told(training_set()).states[0].memory is not states[0].memory


class TestHistory:
    """A row per pass, and one for what is left."""

    def test_rows_hold_what_was_reached_and_means(self):
        losses = [1.0, 3.0, 5.0, 8.0, 2.0]
        recipe = Recipe(steps=5, batch_size=4)
        rows = train(linear(), Spy(losses), training_set(8), recipe, streams())
        assert [(row["epoch"], row["step"]) for row in rows] == [(1, 2), (2, 4), (2, 5)]
        assert [row["loss"] for row in rows] == [2.0, 6.5, 2.0]
        assert [row["accuracy"] for row in rows] == [1.5, 3.5, 5.0]

    def test_the_last_row_is_not_written_twice(self):
        rows = train(linear(), Spy(), training_set(8), Recipe(steps=4, batch_size=4), streams())
        assert [row["step"] for row in rows] == [2, 4]

    def test_a_batch_as_large_as_the_set_gives_a_row_per_step(self):
        rows = train(linear(), Spy(), training_set(8), Recipe(steps=3, batch_size=99), streams())
        assert [(row["epoch"], row["step"]) for row in rows] == [(1, 1), (2, 2), (3, 3)]


class TestLearningRate:
    """Warm-up, decay and constant; the scheduler really advances."""

    def test_a_constant_rate_is_constant(self):
        factor = learning_rate_factor(Schedule(name="constant"), 10)
        assert [factor(step) for step in range(10)] == [1.0] * 10

    @pytest.mark.parametrize("final", [0.0, 0.1, 1.0])
    @pytest.mark.parametrize("warm", [0, 1, 4])
    def test_cosine_begins_at_the_top_and_ends_at_the_end(self, warm, final):
        steps = warm + 16
        factor = learning_rate_factor(
            Schedule(name="cosine", warm_up_steps=warm, final=final), steps
        )
        assert factor(warm) == 1.0
        assert factor(steps) == pytest.approx(final)
        assert factor(warm + 8) == pytest.approx((1 + final) / 2)
        falling = [factor(step) for step in range(warm, steps)]
        assert falling == sorted(falling, reverse=True)

    @pytest.mark.parametrize("name", ["constant", "cosine"])
    def test_warm_up_rises_in_equal_steps_to_the_whole_rate(self, name):
        factor = learning_rate_factor(Schedule(name=name, warm_up_steps=4), 20)
        rising = [factor(step) for step in range(5)]
        assert rising[0] > 0
        assert rising[4] == 1.0
        gaps = [after - before for before, after in itertools.pairwise(rising)]
        assert gaps == pytest.approx([gaps[0]] * 4)

    @pytest.mark.parametrize("steps", [1, 2, 5])
    def test_a_warm_up_longer_than_the_training_is_all_there_is(self, steps):
        factor = learning_rate_factor(Schedule(warm_up_steps=10), steps)
        assert all(0 < factor(step) < 1 for step in range(steps))

    @pytest.mark.parametrize(
        "schedule",
        [Schedule(name="constant"), Schedule(), Schedule(warm_up_steps=3, final=0.2)],
        ids=["constant", "cosine", "warm-up"],
    )
    def test_the_weights_move_by_the_scheduled_rates(self, schedule):
        model, steps, rate = linear(), 8, 0.25
        before = copy.deepcopy(model)
        recipe = Recipe(
            steps=steps,
            batch_size=8,
            schedule=schedule,
            optimizer=SGD(learning_rate=rate, momentum=0.0, weight_decay=0.0),
        )
        rows = train(model, Spy(), training_set(8), recipe, streams())
        factor = learning_rate_factor(schedule, steps)
        rates = [rate * factor(step) for step in range(steps)]
        assert [row["learning_rate"] for row in rows] == pytest.approx(rates)
        moved = before[1].weight - model[1].weight
        torch.testing.assert_close(moved, torch.full_like(moved, sum(rates)))

    def test_the_optimiser_of_the_recipe_is_used(self):
        model = linear()
        before = model[1].weight.detach().clone()
        recipe = Recipe(
            steps=1,
            batch_size=4,
            schedule=Schedule(name="constant"),
            optimizer=AdamW(learning_rate=0.125, weight_decay=0.5),
        )
        train(model, Spy(), training_set(), recipe, streams())
        # the first step of Adam has length one, after a decay of rate × weight_decay
        expected = before * (1 - 0.125 * 0.5) - 0.125
        torch.testing.assert_close(model[1].weight, expected)


class TestDivergence:
    """A loss that is not finite ends the training with the place where it was seen."""

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    @pytest.mark.parametrize("at", [0, 2, 4])
    def test_it_raises(self, value, at):
        losses = [1.0] * 5
        losses[at] = value
        with pytest.raises(Diverged, match="steps"):
            train(linear(), Spy(losses), training_set(8), Recipe(steps=5, batch_size=4), streams())

    def test_a_rate_that_is_too_large_is_noticed(self, make_model):
        recipe = Recipe(steps=6, batch_size=8, optimizer=SGD(learning_rate=1e30))
        with pytest.raises(Diverged, match="learning rate"):
            train(
                make_model("resnet10-narrow", dtype=torch.float32),
                Method(),
                training_set(),
                recipe,
                streams(),
            )


def test_the_model_is_trained_in_training_mode():
    modes = []

    class Mode(Spy):
        def loss(self, model, *arguments, **options):
            modes.append(model.training)
            return super().loss(model, *arguments, **options)

    model = linear().eval()
    train(model, Mode(), training_set(), Recipe(steps=2, batch_size=4), streams())
    assert modes == [True, True]
