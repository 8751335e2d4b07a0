"""Methods are paired: the same weights, batches and augmentation, and no look at the test split."""

import functools
import gc
import sys
import types
from typing import NamedTuple

import numpy as np
import pytest
import torch
from experiments import planned, prepare_data
from small_training import CPU, Watched, assert_same_weights, network, snapshot, streams
from small_training import training_set as small_set

from attrreg import method
from attrreg.data.device import normalise
from attrreg.data.sources import read_held_out, read_pool
from attrreg.method import build
from attrreg.provenance import array_digest
from attrreg.recipe import Augmentation, Recipe
from attrreg.records import read_record
from attrreg.training import runs as training_runs
from attrreg.training.engine import Training
from attrreg.training.runs import train_shard

PRESETS = [name for name in method.names() if "/" not in name]
STEPS = 5
CHANGES = {
    "grid.methods": PRESETS,
    "recipe.steps": STEPS,
    "recipe.batch_size": 8,
    "recipe.augmentation": {"crop_padding": 1, "flip": True},
}


class Given(NamedTuple):
    """What a method was given in a step, and the weights of the model before it."""

    x: torch.Tensor
    y: torch.Tensor
    indices: torch.Tensor
    offsets: torch.Tensor
    flipped: torch.Tensor
    weights: dict


class Made(NamedTuple):
    """The runs of all presets at one seed, by method."""

    records: dict
    given: dict
    found: dict  # shapes of the arrays that hold the pool, and the test split
    opened: list


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def held_out(data):
    return read_held_out(data, "digits", ["test"])["test"]


SEARCHES = {}  # by what is looked for; global, so that what looks for it does not hold it


@pytest.fixture(scope="module")
def made(data, held_out, tmp_path_factory):
    """Make a run of every preset, where nobody may open what is held out."""
    runs = {run.method: run for run in planned(CHANGES).runs if run.seed == 0}
    names, folder = iter(runs), tmp_path_factory.mktemp("results")
    given, found, opened = {}, {}, []
    SEARCHES["test"] = finder(held_out, data)
    SEARCHES["pool"] = finder(read_pool(data, "digits").images, data)
    load = np.load

    def search(name, *roots):
        for what, is_one in SEARCHES.items():
            found.setdefault(name, {}).setdefault(what, []).extend(held(is_one, *roots))

    def refused(*_, **__):
        raise AssertionError("training has opened what is held out")

    def spied_load(path, *others, **options):
        opened.append(path.name)
        return load(path, *others, **options)

    def spied_build(composition):
        name, chosen = next(names), build(composition)
        assert composition == runs[name].composition
        seen = given[name] = []

        def look(model, x, y, generator, state):
            if len(seen) in (0, STEPS - 1):
                search(name, chosen, model, x, y, generator, state)
            moved = state.augmentation
            kept = [each.clone() for each in (x, y, state.indices, moved.offsets, moved.flipped)]
            seen.append(Given(*kept, snapshot(model)))

        return Watched(chosen, look)

    class Spied(Training):
        def __init__(self, *arguments):
            search([*given][-1], *arguments)
            super().__init__(*arguments)

        def run(self, after_step):
            search([*given][-1], self, after_step)
            super().run(after_step)

    with pytest.MonkeyPatch.context() as patch:
        for name, module in list(sys.modules.items()):
            if name.startswith("attrreg.") and hasattr(module, "read_held_out"):
                patch.setattr(module, "read_held_out", refused)
        patch.setattr(np, "load", spied_load)
        patch.setattr(training_runs, "build", spied_build)
        patch.setattr(training_runs, "Training", Spied)
        assert set(train_shard(list(runs.values()), folder, data, CPU).values()) == {"made"}
    SEARCHES.clear()
    records = {name: read_record(folder / "runs" / run.path) for name, run in runs.items()}
    return Made(records, given, found, opened)


def finder(split, data):
    """Return a function that says whether an array holds images or labels of a split.

    Images are found as they lie on the disk and as models see them, row by row of an array.
    """
    pool = read_pool(data, "digits")
    statistics = (torch.from_numpy(each) for each in (pool.mean, pool.deviation))
    shown = normalise(torch.from_numpy(np.array(split.x)), *statistics).numpy()
    rows = {row.tobytes() for images in (split.x, shown) for row in images}
    pixels, labels = split.x[0].size, split.y

    def holds_labels(array):
        if array.dtype != labels.dtype or array.size < len(labels):
            return False
        windows = np.lib.stride_tricks.sliding_window_view(array.ravel(), len(labels))
        return bool((windows == labels).all(1).any())

    def is_one(array):
        whole = array.size // pixels
        if array.dtype in (np.uint8, np.float32) and whole:
            images = array.ravel()[: whole * pixels].reshape(whole, pixels)
            return any(row.tobytes() in rows for row in images)
        return holds_labels(array)

    return is_one


def reachable(*roots):
    """Yield every object that code can reach from some others, other than by a module's globals."""
    waiting, seen = list(roots), {}
    while waiting:
        value = waiting.pop()
        if id(value) in seen or isinstance(value, types.ModuleType | type | types.FrameType):
            continue
        seen[id(value)] = value  # kept, so that no other object gets its id
        yield value
        if isinstance(value, types.FunctionType):
            waiting += [value.__closure__, value.__defaults__, value.__kwdefaults__, value.__dict__]
        elif isinstance(value, types.GeneratorType):
            waiting += value.gi_frame.f_locals.values() if value.gi_frame else ()
        elif isinstance(value, torch.Tensor):
            waiting += [value.__dict__, value.grad if value.is_leaf else None]
        elif isinstance(value, np.ndarray):
            waiting.append(value.base)
        else:
            waiting += gc.get_referents(value)


def held(is_one, *roots):
    """Return the shapes of the arrays and tensors in reach that hold what is looked for."""
    arrays = (
        each.detach().numpy() if isinstance(each, torch.Tensor) else each
        for each in reachable(*roots)
        if isinstance(each, torch.Tensor | np.ndarray)
    )
    return [array.shape for array in arrays if is_one(array)]


class TestPaired:
    """At one (dataset, train_size, seed) presets differ in nothing but themselves."""

    def test_they_start_from_identical_weights(self, made):
        assert set(made.records) == set(PRESETS)
        [said] = {record["initial_weights"] for record in made.records.values()}
        first = made.given["baseline"][0].weights
        assert said == array_digest(*(each.numpy() for each in first.values()))
        for seen in made.given.values():
            assert_same_weights(seen[0].weights, first)

    def test_they_see_identical_batches_in_identical_order(self, made):
        for seen in made.given.values():
            assert len(seen) == STEPS
            for one, two in zip(seen, made.given["baseline"], strict=True):
                for name in ("indices", "y", "x"):
                    assert torch.equal(getattr(one, name), getattr(two, name)), name

    def test_they_are_augmented_identically(self, made):
        for seen in made.given.values():
            for one, two in zip(seen, made.given["baseline"], strict=True):
                assert torch.equal(one.offsets, two.offsets)
                assert torch.equal(one.flipped, two.flipped)
        offsets = torch.cat([each.offsets for each in made.given["baseline"]], 1)
        flipped = torch.cat([each.flipped for each in made.given["baseline"]])
        assert offsets.unique().tolist() == [0, 1, 2]
        assert flipped.unique().tolist() == [False, True]

    def test_they_do_not_stay_identical(self, made):
        last = {name: seen[-1].weights["conv1.weight"] for name, seen in made.given.items()}
        names = list(last)
        for place, one in enumerate(names):
            for two in names[place + 1 :]:
                assert not torch.equal(last[one], last[two]), (one, two)

    def test_sizes_share_their_weights_and_seeds_do_not(self, data, tmp_path):
        plan = planned({"grid.train_sizes": [20, 30], "recipe.steps": 1})
        runs = [run for run in plan.runs if run.method == "baseline"]
        train_shard(runs, tmp_path, data, CPU)
        said = {}
        for run in runs:
            record = read_record(tmp_path / "runs" / run.path)
            said.setdefault(run.seed, set()).add(record["initial_weights"])
        assert [len(each) for each in said.values()] == [1, 1]
        assert said[0] != said[1]


class TestStreams:
    """More draws from one stream shift no other."""

    class Greedy:
        """A method that draws more than its parts do from one stream, and notes all of them."""

        def __init__(self, name, stream, draws):
            self.method, self.stream, self.draws = method.create(name), stream, draws
            self.before, self.given = [], []

        def loss(self, model, x, y, *, generator, state):
            own = {
                "perturbation": generator,
                "attribution": state.generator,
                "dropout": torch.default_generator,
            }
            self.before.append({name: each.get_state() for name, each in own.items()})
            moved = state.augmentation
            self.given.append((x, y, state.indices, moved.offsets, moved.flipped))
            torch.rand(self.draws, generator=own[self.stream])
            return self.method.loss(model, x, y, generator=generator, state=state)

    def trained(self, name, stream, draws):
        recipe = Recipe(steps=6, batch_size=8, augmentation=Augmentation(crop_padding=1, flip=True))
        greedy = self.Greedy(name, stream, draws)
        training = Training(network(), greedy, small_set(), recipe, streams())
        training.run()
        return greedy, training

    @pytest.mark.parametrize("stream", ["attribution", "perturbation", "dropout"])
    @pytest.mark.parametrize("name", ["reldrop-block", "sgt/swapped", "challenger/random-class"])
    def test_all_others_are_where_they_would_be(self, name, stream):
        (plain, _), (greedy, _) = self.trained(name, stream, 0), self.trained(name, stream, 7)
        for one, two in zip(plain.given, greedy.given, strict=True):
            assert all(map(torch.equal, one, two))
        for one, two in zip(plain.before[1:], greedy.before[1:], strict=True):
            same = {each for each in one if torch.equal(one[each], two[each])}
            assert same == {"attribution", "perturbation", "dropout"} - {stream}

    def test_draws_that_nobody_uses_change_no_weight(self):
        """The map of this method is not random, so its stream may be anywhere."""
        (_, plain), (_, greedy) = (self.trained("sgt", "attribution", each) for each in (0, 7))
        assert_same_weights(plain.model.state_dict(), greedy.model.state_dict())
        assert plain.history == greedy.history

    def test_every_stream_has_a_seed_of_its_own(self, data, tmp_path, monkeypatch):
        asked = []
        seed_of = training_runs.stream_seed

        def spied(name, *keys):
            asked.append((name, keys, seed_of(name, *keys)))
            return asked[-1][-1]

        monkeypatch.setattr(training_runs, "stream_seed", spied)
        for run in planned(CHANGES | {"grid.methods": ["baseline", "sgt"]}).runs:
            train_shard([run], tmp_path, data, CPU)
        seeds = {(name, keys): seed for name, keys, seed in asked}
        assert len(set(seeds.values())) == len(seeds)  # and none depends on the method
        assert {name for name, _ in seeds} == {
            *("order", "augmentation", "perturbation", "attribution", "dropout", "initialisation")
        }
        assert len(seeds) == 2 * 6  # of two seeds


class TestHeldOut:
    """The test split is in no object that training code can reach."""

    def test_it_is_in_nothing_that_methods_and_trainings_receive(self, made):
        assert set(made.found) == set(PRESETS)
        for found in made.found.values():
            assert found["test"] == []
            assert {(1077, 1, 8, 8), (1077,), (20, 1, 8, 8)} <= set(found["pool"])

    def test_no_file_but_those_of_the_pool_is_opened(self, made):
        assert set(made.opened) == {"pool_x.npy", "pool_y.npy"}

    @pytest.mark.parametrize(
        "hidden",
        [
            lambda test: test,
            lambda test: {"memory": [(test.x,)]},
            lambda test: torch.from_numpy(np.array(test.x[7:9])),
            lambda test: functools.partial(print, test.x[3]),
            lambda test: lambda: test.x,
            lambda test: (each for each in [test.x]),
            lambda test: types.SimpleNamespace(part=types.SimpleNamespace(y=test.y)),
            lambda test: np.concatenate([np.zeros(5, np.int64), test.y]),
            lambda test: Watched(None, lambda *_, kept=test.x: kept).look,
        ],
    )
    def test_the_search_finds_it_where_it_is_hidden(self, hidden, data, held_out):
        is_test = finder(held_out, data)
        assert held(is_test, hidden(held_out))
        model = network()
        assert held(is_test, model) == []
        model.somewhere = hidden(held_out)
        assert held(is_test, model)

    def test_images_as_the_model_sees_them_are_found_too(self, data, held_out):
        pool, is_test = read_pool(data, "digits"), finder(held_out, data)
        arrays = (
            torch.from_numpy(np.array(each)) for each in (held_out.x, pool.mean, pool.deviation)
        )
        assert held(is_test, normalise(*arrays)[:2])
