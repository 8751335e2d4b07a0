"""Cached maps: made when they are due, kept per sample, and moved with the augmentation."""

import math

import pydantic
import pytest
import torch
from experiments import is_finished, planned, prepare_data, written
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from attrreg import catalogue, method, parameters
from attrreg.attribution.cached import Cached
from attrreg.attribution.controls import RandomClass, Swapped, Untrained
from attrreg.attribution.parts import LRP, Gradient, GradientTimesInput
from attrreg.config import read_experiment
from attrreg.data.device import Movement, TrainingSet, batch_indices, draw_movement
from attrreg.evaluation.scores import evaluate_shard
from attrreg.plan import relative_cost
from attrreg.recipe import Augmentation, Recipe
from attrreg.state import SharedPass, State
from attrreg.training.engine import Streams, train
from attrreg.training.runs import train_shard

CPU = torch.device("cpu")


class Clock(nn.Module):
    """A model whose gradient is the number of the step: a map says when it was made."""

    def __init__(self):
        super().__init__()
        self.now, self.passes = 0, 0

    def forward(self, x):
        self.passes += 1
        return self.now * x.flatten(1)[:, :1] + 0 * x.flatten(1)


def steps_of(n, batch_size, steps, seed=0):
    """What the training loop says of each step: indices, epoch, epoch of the last sample."""
    completed = 0
    order = torch.Generator().manual_seed(seed)
    for step, (indices, after) in enumerate(batch_indices(n, batch_size, steps, order), start=1):
        yield indices, completed, (step * len(indices) - 1) // n
        completed = after


def state(memory, indices, epoch=0, size=9, **more):
    return State(memory=memory, indices=torch.tensor(indices), epoch=epoch, size=size, **more)


class TestRefresh:
    """A map is as old as `every` epochs at most, and made no more often than that needs."""

    @staticmethod
    def played(n, batch_size, steps, every, seed=0):
        """Return by step the positions in the stream of samples, map ages, and what was made."""
        model, memory, part = Clock(), {}, Cached(of=Gradient(), every=every)
        for step, (indices, epoch, last) in enumerate(steps_of(n, batch_size, steps, seed)):
            model.now, before = step, model.passes
            x = torch.zeros(len(indices), 1, 1, 2)
            known = State(memory=memory, indices=indices, size=n, epoch=epoch, last_epoch=last)
            made_in = part(model, x, torch.zeros(len(indices), dtype=torch.int64), known)
            yield step, indices, made_in[:, 0, 0].long().tolist(), model.passes - before

    @settings(deadline=None)
    @given(st.integers(2, 12), st.integers(1, 12), st.integers(1, 4), st.integers(0, 99))
    def test_against_a_count_of_passes(self, n, batch_size, every, seed):
        batch = min(batch_size, n)
        times = dict.fromkeys(range(n), 0)  # how often each sample was seen
        made_at = {}  # in which step the map of each sample was made
        for step, indices, found, passes in self.played(n, batch, 4 * n // batch, every, seed):
            touched = [times[index] for index in indices.tolist()]
            due = any(
                place // n % every == 0 for place in range(step * batch, step * batch + batch)
            )
            for index in indices.tolist():
                times[index] += 1
                made_at[index] = step if due else made_at[index]
            assert passes == due
            assert found == [made_at[index] for index in indices.tolist()]
            # never older than `every` passes: the step that made it touches a pass that is due
            ages = [seen - made * batch // n for seen, made in zip(touched, found, strict=True)]
            assert max(ages) <= every

    def test_a_kept_map_costs_no_pass_of_the_model(self):
        passes = [passes for *_, passes in self.played(20, 5, 40, every=5)]
        assert passes == ([1] * 4 + [0] * 16) * 2

    def test_a_batch_over_a_seam_is_made_anew_for_the_epoch_it_reaches_into(self):
        passes = [passes for *_, passes in self.played(9, 4, 9, every=2)]
        assert passes == [1, 1, 1, 0, 1, 1, 1, 0, 0]  # the fifth has samples 16 to 19 of 9 · 4

    def test_a_sample_that_never_had_a_map_gets_one(self):
        """In a loop that drops the last batch of an epoch."""
        model, memory, part = Clock(), {}, Cached(of=Gradient(), every=3)
        epochs = [[[0, 1], [2, 3]], [[4, 0], [1, 2]], [[3, 4], [0, 1]]]
        found = []
        for epoch, batches in enumerate(epochs):
            for indices in batches:
                model.now += 1
                known = state(memory, indices, epoch, size=5)
                maps = part(model, torch.zeros(2, 1, 1, 2), torch.tensor([0, 0]), known)
                found.append(maps[:, 0, 0].tolist())
        assert found == [[1, 1], [2, 2], [3, 3], [1, 2], [2, 3], [3, 1]]

    def test_of_a_sample_that_is_in_a_batch_twice_the_first_map_is_kept(self):
        model, memory = nn.Flatten(), {}
        part = Cached(of=GradientTimesInput(), every=2)
        x = torch.arange(1.0, 5).view(4, 1, 1, 1)
        y = torch.zeros(4, dtype=torch.int64)
        part(model, x, y, state(memory, [3, 1, 3, 0]))
        found = part(model, x * 0, y, state(memory, [0, 3, 1, 1], epoch=1))
        assert found.flatten().tolist() == [4, 1, 2, 2]

    def test_a_map_of_the_shared_pass_is_kept_as_well(self, make_model, make_batch):
        model, (x, y) = make_model("plain").train(), make_batch("plain", n=3)
        part, memory = Cached(of=Gradient(forward_pass="training"), every=2), {}
        leaf = x.clone().requires_grad_()
        known = state(memory, [0, 1, 2], forward=SharedPass(model, leaf))
        made = part(model, leaf, y, known)
        torch.testing.assert_close(made, Gradient()(model, x, y))
        kept = part(model, leaf, y, state(memory, [2, 0, 1], epoch=1))
        assert torch.equal(kept, made[[2, 0, 1]])
        assert not kept.requires_grad


class TestEveryEpoch:
    """With a period of one epoch nothing changes."""

    @pytest.mark.parametrize("name", ["reldrop-block", "sgt-shared", "challenger/swapped"])
    def test_to_the_bit(self, name, make_model):
        of = catalogue.preset(name.partition("/")[0]).attribution
        cached = {"name": "cached", "of": of}
        change = {"of": cached} if "/" in name else cached
        generator = torch.Generator().manual_seed(3)
        x = torch.randint(0, 256, (20, 1, 8, 8), generator=generator, dtype=torch.uint8)
        data = TrainingSet(x, torch.arange(20) % 10, torch.tensor([0.5]), torch.tensor([0.3]))
        recipe = Recipe(steps=6, batch_size=8, augmentation=Augmentation(crop_padding=1, flip=True))
        weights = []
        for chosen in (method.create(name), method.create(name, attribution=change)):
            model = make_model("resnet10-narrow", dtype=torch.float32)
            train(model, chosen, data, recipe, Streams.seeded(len, CPU))
            weights.append(model.state_dict().values())
        assert all(map(torch.equal, *weights))


class TestAugmentation:
    """Maps are kept as they lie on the samples and are moved with them."""

    @staticmethod
    def moved(sample, movement, place):
        """Return where each pixel of a moved image comes from: {(row, column): (row, column)}."""
        height, width = sample.shape
        top, left = (0, 0) if movement.offsets is None else movement.offsets[:, place].tolist()
        pad = movement.padding
        origins = {}
        for row in range(height):
            for column in range(width):
                flipped = movement.flipped is not None and bool(movement.flipped[place])
                inside = width - 1 - column if flipped else column
                origins[row, column] = (row + top - pad, inside + left - pad)
        return origins

    @settings(deadline=None, max_examples=30)
    @given(st.integers(0, 2), st.booleans(), st.integers(0, 2**16))
    def test_against_pixel_by_pixel(self, pad, flip, seed):
        """The input is its own map: under the identity, gradient times input is the input."""
        generator, memory = torch.Generator().manual_seed(seed), {}
        part = Cached(of=GradientTimesInput(), every=2)
        pixels = torch.randperm(6 * 12, generator=generator).view(6, 1, 3, 4).double() + 1
        model = nn.Sequential(nn.Flatten(), nn.Linear(12, 1, bias=False)).double()
        nn.init.ones_(model[1].weight)
        known_at = {}
        orders = torch.tensor([[0, 1, 2], [3, 4, 5], [5, 0, 3], [4, 1, 2]])
        for step, indices in enumerate(orders):
            x = pixels[indices]
            movement = draw_movement(x, Augmentation(crop_padding=pad, flip=flip), generator)
            known = State(
                memory=memory, indices=indices, size=6, epoch=step // 2, augmentation=movement
            )
            found = part(model, movement.apply(x), torch.zeros(3, dtype=torch.int64), known)
            for place, index in enumerate(indices.tolist()):
                origins = self.moved(pixels[index, 0], movement, place)
                if step < 2:
                    assert torch.equal(found[place], movement.apply(x)[place, 0])
                    median = found[place].flatten().sort().values[5]
                    values = {origin: found[place][at] for at, origin in origins.items()}
                    known_at[index] = [
                        [values.get((row, column), median) for column in range(4)]
                        for row in range(3)
                    ]
                    continue
                kept = torch.tensor(known_at[index])
                median = kept.flatten().sort().values[5]
                for at, (row, column) in origins.items():
                    inside = 0 <= row < 3 and 0 <= column < 4
                    assert found[place][at] == (kept[row, column] if inside else median)

    def test_what_is_not_known_is_neither_among_the_first_nor_among_the_last(self):
        memory, part = {}, Cached(of=GradientTimesInput(), every=2)
        model = nn.Sequential(nn.Flatten(), nn.Linear(25, 1, bias=False))
        nn.init.ones_(model[1].weight)
        x, y = -torch.arange(1.0, 26).view(1, 1, 5, 5), torch.zeros(1, dtype=torch.int64)
        left, right = (Movement(1, torch.tensor([[1], [at]])) for at in (0, 2))
        part(model, x, y, state(memory, [0], augmentation=left))
        found = part(model, x, y, state(memory, [0], epoch=1, augmentation=right))[0]
        assert found.argmax() == 0
        unknown = found[:, -2:]  # cut off then, or padding now
        assert (unknown == unknown[0, 0]).all()
        assert found.min() < unknown[0, 0] < found.max() < 0


class TestControls:
    """Controls go around it, and keep their own maps apart."""

    def test_a_control_of_kept_maps_masks_the_same_area(self, make_model, make_batch):
        model, (x, y) = make_model("small").train(), make_batch("small", n=8)
        cached = {"name": "cached", "every": 2}
        names = ("", *(f"/{name}" for name in catalogue.CONTROLS))
        areas = {}
        for name in names:
            change = {"of": cached | {"of": "lrp"}} if name else cached
            chosen, memory = method.create(f"reldrop-pixel{name}", attribution=change), {}
            generator = torch.Generator().manual_seed(0)
            areas[name] = []
            for epoch in range(4):
                batch = x * (1 + epoch)
                known = state(memory, range(8), epoch, region=torch.rand(8, 8, 8))
                made = chosen.perturb(model.eval(), batch, y, generator=generator, state=known)[1]
                areas[name].append(made.changed.sum().item())
        assert sum(areas[""]) > 0
        assert all(areas[name] == areas[""] for name in names)

    def test_the_maps_of_another_class_or_model_are_kept_apart(self, make_model, make_batch):
        model, (x, y) = make_model("small"), make_batch("small", n=3)
        cached = Cached(of=LRP(), every=2)
        kept = {}
        for control in (RandomClass(of=cached), Untrained(of=cached), Swapped(of=cached)):
            memory = {}
            first = control.maps(model, x, y, state(memory, [0, 1, 2]))
            changed = make_model("small")
            nn.init.normal_(changed[0].weight)
            second = control.maps(changed, x, y, state(memory, [0, 1, 2], epoch=1))
            assert torch.equal(first[0], LRP()(model, x, y))
            assert torch.equal(first[0], second[0])
            kept[type(control)] = first[1], second[1]
        assert torch.equal(*kept[RandomClass])
        assert not torch.equal(kept[RandomClass][0], LRP()(model, x, y))
        assert torch.equal(*kept[Untrained])
        for own, other in zip(LRP()(model, x, y), kept[Swapped][1], strict=True):
            assert not torch.equal(own, other)

    @pytest.mark.parametrize("inside", ["swapped", "cached"])
    def test_it_goes_inside_a_control_and_only_once(self, inside):
        with pytest.raises(pydantic.ValidationError, match=f"'{inside}'.*inside the control"):
            parameters.Cached(of={"name": inside, "of": "lrp"})


class TestErrors:
    """What is missing is said, and what to pass."""

    @pytest.mark.parametrize(
        ("known", "said"),
        [
            (State(), "lacks indices, size, memory"),
            (State(indices=torch.arange(3), size=9), "lacks memory"),
            (State(indices=torch.arange(3), memory={}), "lacks size"),
            (state({}, [0, 1, 9]), "from 0 to 9.*size is 9"),
            (state({}, [0, -1, 1]), "from -1 to 1"),
            (state({}, [0, 1, 2], epoch=4), "no maps in state.memory in epoch 4"),
            (State(indices=torch.arange(3, device="meta"), size=9, memory={}), "on meta"),
            (state({}, [0, 1]), r"shape \(2,\) on cpu: give \(3,\)"),
        ],
    )
    def test_a_state_that_does_not_do(self, known, said, make_model, make_batch):
        with pytest.raises(ValueError, match=said):
            Cached(of=LRP(), every=2)(make_model("small"), *make_batch("small"), known)

    def test_samples_of_another_shape(self, make_model, make_batch):
        model, (x, y), memory = make_model("small"), make_batch("small"), {}
        part = Cached(of=LRP(), every=2)
        part(model, x, y, state(memory, [0, 1, 2]))
        with pytest.raises(ValueError, match=r"\(9, 8, 8\).*needs \(9, 4, 8\)"):
            part(model, x[:, :, ::2], y, state(memory, [0, 1, 2]))


class TestNames:
    """By name in Python and in an experiment file."""

    def test_by_create(self):
        given = {"name": "cached", "every": 5, "of": {"name": "lrp", "rule": "epsilon"}}
        found = method.create("reldrop-block", attribution=given).attribution
        assert found == Cached(of=parameters.LRP(rule="epsilon"), every=5)
        longer = catalogue.override(
            parameters.Composition(attribution=found), {"attribution": {"every": 7}}
        )
        assert longer.attribution.every == 7
        assert longer.attribution.of == found.of

    def test_of_the_attribution_of_the_preset(self):
        own = catalogue.preset("sgt").attribution
        assert method.create("sgt", attribution="cached").attribution == Cached(of=own)
        every = method.create("sgt", attribution={"name": "cached", "every": 3}).attribution
        assert every == Cached(of=own, every=3)
        assert method.create("sgt", attribution="reversed").attribution.of == own

    def test_a_kept_map_costs_its_share(self):
        def cost(attribution):
            return relative_cost(
                catalogue.override(catalogue.preset("reldrop-block"), {"attribution": attribution})
            )

        plain = cost({"rule": "gamma"}) - 1
        for every in (1, 2, 10):
            cached = {"name": "cached", "every": every, "of": {"name": "lrp", "rule": "gamma"}}
            assert math.isclose(cost(cached) - 1, plain / every)
            assert math.isclose(cost({"name": "swapped", "of": cached}) - 1, plain / every)

    def test_in_an_experiment_from_file_to_scores(self, tmp_path):
        cached = {"name": "cached", "every": 2}
        changes = {
            "grid.methods": [
                "baseline",
                {"name": "cached-block", "preset": "reldrop-block", "attribution": cached},
                {
                    "name": "cached-block/swapped",
                    "preset": "reldrop-block/swapped",
                    "attribution": {"of": {**cached, "of": {"name": "lrp", "rule": "z-box"}}},
                },
                {"name": "cold", "preset": "sgt-shared/untrained"},
            ],
            "recipe.augmentation": {"crop_padding": 1},
            "recipe.steps": 6,
            "evaluation.rule": "z-box",
        }
        compositions = read_experiment(written(tmp_path, changes)).compositions()
        assert compositions["cached-block"].attribution.of == parameters.LRP()
        plan, data = planned(changes), prepare_data(tmp_path / "data")
        runs = [run for run in plan.runs if run.seed == 0]
        train_shard(runs, tmp_path, data, CPU)
        evaluate_shard(runs, tmp_path, data, plan.experiment.evaluation, CPU)
        assert len(runs) == 4
        for run in runs:
            assert is_finished(tmp_path / "runs" / run.path)
            assert is_finished(tmp_path / "scores" / run.path)
