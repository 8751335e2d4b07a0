"""A set that streams gives the same bits as one that lies on the device, and leaves no thread."""

import dataclasses
import gc
import math
import threading
import time

import numpy as np
import pytest
import torch
from experiments import planned, prepare_data
from safetensors.torch import load_file
from small_training import (
    CPU,
    Watched,
    assert_same_weights,
    network,
    snapshot,
    streams,
    training_set,
)

from attrreg import method
from attrreg.data import device
from attrreg.data.device import TrainingSet, batch_indices
from attrreg.data.samples import Arrays
from attrreg.execution import Execution
from attrreg.interruption import Interrupted
from attrreg.method import Method
from attrreg.objective import Loss
from attrreg.recipe import SGD, Augmentation, Recipe, Selection
from attrreg.records import read_record
from attrreg.training import engine
from attrreg.training import runs as training_runs
from attrreg.training.engine import Diverged, Training
from attrreg.training.runs import train_shard

RECIPE = Recipe(steps=11, batch_size=8, augmentation=Augmentation(crop_padding=1, flip=True))


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    assert threads() == []
    yield
    gc.collect()  # what a test holds may hold a training
    assert threads() == []


def threads():
    """Return the names of all threads that fetch batches."""
    return [each.name for each in threading.enumerate() if each.name == "batches"]


def trained(streamed, chosen, recipe=RECIPE):
    """Return weights and history of a training."""
    training = Training(network(), chosen, training_set(streamed=streamed), recipe, streams())
    training.run()
    return snapshot(training.model), training.history


def order_of(n=20, batch_size=8, steps=11, seed=1):
    """Return an order as the loop makes it."""
    return batch_indices(n, batch_size, steps, torch.Generator().manual_seed(seed))


def settled(found, seconds=0.2):
    """Return what a function returns once it has not changed for a while."""
    before, since = found(), time.monotonic()
    while time.monotonic() - since < seconds:
        time.sleep(0.01)
        if found() != before:
            before, since = found(), time.monotonic()
    return before


class TestSameBits:
    """It depends on nothing but the samples what comes out."""

    @pytest.mark.parametrize(
        "name", ["baseline", "reldrop-block", "sgt", "sgt/oracle", "reldrop-block/oracle"]
    )
    def test_weights_and_history(self, name):
        found, expected = (trained(streamed, method.create(name)) for streamed in (True, False))
        assert_same_weights(found[0], expected[0])
        assert found[1] == expected[1]

    def test_selection_and_a_set_that_is_smaller_than_a_batch(self):
        def selected(streamed):
            recipe = RECIPE.model_copy(update={"selection": Selection(name="best", every=2)})
            parts = training_set(9, streamed).split(7)
            training = Training(
                network(), method.create("sgt"), parts[0], recipe, streams(), held_back=parts[1]
            )
            training.run()
            return snapshot(training.model), training.history

        found, expected = selected(True), selected(False)
        assert_same_weights(found[0], expected[0])
        assert found[1] == expected[1]

    def test_every_batch(self):
        pairs = zip(
            training_set(streamed=True).batches(order_of()),
            training_set().batches(order_of()),
            strict=True,
        )
        for number, (found, expected) in enumerate(pairs, 1):
            for name in ("x", "y", "region", "indices"):
                assert torch.equal(getattr(found, name), getattr(expected, name))
            assert found.passes == expected.passes == number * 8 // 20
        assert number == 11

    def test_two_streams_of_one_set_do_not_disturb_each_other(self):
        data = training_set(streamed=True)
        together = zip(data.batches(order_of(seed=1)), data.batches(order_of(seed=2)), strict=True)
        apart = zip(
            training_set().batches(order_of(seed=1)),
            training_set().batches(order_of(seed=2)),
            strict=True,
        )
        for found, expected in zip(together, apart, strict=True):
            for one, two in zip(found, expected, strict=True):
                assert torch.equal(one.x, two.x)

    def test_images_are_used_where_they_are(self):
        x, y = np.zeros((4, 1, 2, 2), np.uint8), np.arange(4)
        streamed, resident = (
            TrainingSet.on(CPU, Arrays(x, y), np.zeros(1), np.ones(1), streams=each)
            for each in (True, False)
        )
        assert np.shares_memory(streamed.x.numpy(), x)
        assert not np.shares_memory(resident.x.numpy(), x)
        assert (streamed.streams, resident.streams) == (True, False)
        for part in streamed.split(3):
            assert part.streams
            assert np.shares_memory(part.x.numpy(), x)


class TestRuns:
    """A share of no memory lets every set stream; no run is another one for it."""

    @pytest.fixture
    def both(self, tmp_path, monkeypatch):
        """Return a function that makes a run in both ways: weights, history, digest of each."""
        data = prepare_data(tmp_path / "data", seeds=[0])
        streaming = []

        class Spied(Training):
            def __init__(self, model, method, data, *others):
                streaming.append(data.streams)
                super().__init__(model, method, data, *others)

        monkeypatch.setattr(training_runs, "Training", Spied)

        def made(name):
            changes = {
                "grid.methods": ["baseline", name],
                "recipe.steps": 6,
                "recipe.augmentation": {"crop_padding": 1, "flip": True},
            }
            run = next(run for run in planned(changes).runs if run.method == name)
            for share in (0, 1):
                folder = tmp_path / str(share)
                execution = Execution(resident_share=share)
                assert train_shard([run], folder, data, CPU, execution=execution)[run] == "made"
                assert streaming.pop() == (share == 0)
                place = folder / "runs" / run.path
                history = (place / "history.csv").read_text()
                weights = load_file(place / "weights.safetensors")
                yield weights, history, read_record(place)["digest"]

        return made

    @pytest.mark.parametrize("name", ["reldrop-block", "sgt"])
    def test_weights_history_and_digest(self, name, both):
        found, expected = both(name)
        assert_same_weights(found[0], expected[0])
        assert found[1:] == expected[1:]


class TestErrors:
    """What goes wrong beside the loop is raised in it."""

    @pytest.mark.parametrize("error", [OSError("no disk"), KeyboardInterrupt()], ids=repr)
    @pytest.mark.parametrize("at", [0, 3])
    def test_an_error_of_the_order_is_raised_where_its_batch_is_used(self, error, at):
        def order():
            for number, each in enumerate(order_of()):
                if number == at:
                    raise error
                yield each

        batches = training_set(streamed=True).batches(order())
        for _ in range(at):
            next(batches)
        with pytest.raises(type(error)) as caught:
            next(batches)
        assert caught.value is error
        assert threads() == []
        assert next(batches, None) is None  # and not once more

    def test_an_error_of_the_fetching_thread_ends_the_training(self):
        data = training_set(streamed=True)
        cut = dataclasses.replace(data, x=data.x[:5])
        training = Training(network(), Method(), cut, RECIPE, streams())
        with pytest.raises(IndexError):
            training.run()

    def test_and_is_the_failure_of_its_run(self, tmp_path, monkeypatch):
        data = prepare_data(tmp_path / "data", seeds=[0])

        def broken(n, *others):
            yield torch.arange(3), 0
            yield torch.tensor([n]), 0

        monkeypatch.setattr(engine, "batch_indices", broken)
        run = planned().runs[0]
        execution = Execution(resident_share=0)
        assert train_shard([run], tmp_path, data, CPU, execution=execution)[run] == "failed"
        assert read_record(tmp_path / "runs" / run.path)["error"] == "IndexError"


class TestEnd:
    """However a training ends, its thread ends with it."""

    def training(self, look=lambda *given: None, chosen=None, **changes):
        recipe = RECIPE.model_copy(update={"steps": 100} | changes)
        watched = Watched(chosen or Method(), look)
        return Training(network(), watched, training_set(streamed=True), recipe, streams())

    def test_at_its_last_step(self):
        during = []
        training = self.training(lambda *given: during.append(len(threads())))
        training.run()
        assert set(during[:80]) == {1}
        assert threads() == []

    def test_when_the_loss_is_not_finite(self):
        class Broken:
            def loss(self, model, x, y, *, generator, state):
                return Loss(model(x).sum() * math.nan, {})

        with pytest.raises(Diverged) as caught:  # which may be kept for long, and be looked at
            self.training(chosen=Broken()).run()
        assert "lower the learning rate" in str(caught.value)
        assert threads() == []

    def test_when_weights_grow_without_bound(self):
        with pytest.raises(Diverged) as caught:
            self.training(optimizer=SGD(learning_rate=1e30)).run()
        assert "mean loss" in str(caught.value)
        assert threads() == []

    def test_when_a_method_fails(self):
        def fail(*given):
            raise ZeroDivisionError("in the method")

        with pytest.raises(ZeroDivisionError) as caught:
            self.training(fail).run()
        assert caught.value.args == ("in the method",)
        assert threads() == []

    def test_when_it_is_asked_to_stop(self):
        def ask(training):
            if training.step == 5:
                raise Interrupted("SIGTERM")

        training = self.training()
        with pytest.raises(Interrupted) as caught:
            training.run(ask)
        assert caught.value.args == ("SIGTERM",)
        assert training.step == 5
        assert threads() == []

    def test_when_nobody_takes_the_batches(self):
        batches = training_set(streamed=True).batches(order_of(steps=1000))
        next(batches)
        assert threads() == ["batches"]
        batches.close()
        assert threads() == []


class TestOrder:
    """The thread reads ahead, by so much and no further than the order goes."""

    class Order:
        """An order of so many batches that counts what is read of it."""

        def __init__(self, steps):
            self.steps, self.read = steps, 0

        def __iter__(self):
            return self

        def __next__(self):
            if self.read == self.steps:
                raise StopIteration
            self.read += 1
            return torch.tensor([self.read - 1]), 0

    def test_it_waits_a_few_batches_ahead(self):
        order = self.Order(100)
        batches = training_set(100, streamed=True).batches(order)
        for taken in range(1, 4):
            assert next(batches).indices.tolist() == [taken - 1]
            ahead = settled(lambda: order.read) - taken
            assert 1 <= ahead <= device.AHEAD + 1  # those that wait, and one in the hand
        batches.close()
        assert order.read < 12

    @pytest.mark.parametrize("steps", [0, 1, device.AHEAD, device.AHEAD + 3])
    @pytest.mark.parametrize("streamed", [True, False])
    def test_it_ends_where_the_order_ends(self, streamed, steps):
        order = self.Order(steps)
        found = [batch.indices.tolist() for batch in training_set(streamed=streamed).batches(order)]
        assert found == [[each] for each in range(steps)]
        assert order.read == steps

    @pytest.mark.parametrize("streamed", [True, False])
    def test_a_training_draws_as_many_batches_as_it_has_steps(self, streamed, monkeypatch):
        drawn = []

        def spied(*given):
            for each in batch_indices(*given):
                drawn.append(each)
                yield each

        monkeypatch.setattr(engine, "batch_indices", spied)
        trained(streamed, Method())
        assert len(drawn) == RECIPE.steps

    def test_a_training_that_goes_on_begins_with_its_own_next_batch(self):
        """Beginning anew at a later step it gets what a whole training gets there."""
        seen = {}
        for streamed, begun in ((False, 0), (True, 4)):
            indices = seen[begun] = []
            training = Training(
                network(),
                Watched(Method(), lambda *given, to=indices: to.append(given[-1].indices)),
                training_set(streamed=streamed),
                RECIPE,
                streams(),
            )
            training.step = begun
            training.run()
        assert len(seen[4]) == 7
        assert all(map(torch.equal, seen[0][4:], seen[4]))
