"""The best weights are kept by what was held back, which is never trained on."""

import csv

import numpy as np
import pytest
import torch
from experiments import planned, prepare_data
from hypothesis import given
from hypothesis import strategies as st
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
from attrreg.data.sources import read_pool
from attrreg.data.subsets import read_subset
from attrreg.method import Method, build
from attrreg.recipe import SGD, Augmentation, Recipe, Schedule, Selection
from attrreg.records import read_record
from attrreg.training import engine
from attrreg.training import runs as training_runs
from attrreg.training.engine import Training
from attrreg.training.runs import train_shard

COLUMNS = ("held_back_accuracy", "held_back_nll")
BEST = Selection(name="best", every=1)
RISKY = {  # so that the last weights are hardly ever the best
    "optimizer": SGD(learning_rate=0.3, momentum=0.5),
    "schedule": Schedule(name="constant"),
    "augmentation": Augmentation(crop_padding=1, flip=True),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare_data(tmp_path_factory.mktemp("data"), seeds=[0])


def selecting(n=40, steps=12, batch_size=8, selection=BEST, chosen=None, **changes):
    """Return a training that holds back what its recipe says."""
    recipe = Recipe(steps=steps, batch_size=batch_size, selection=selection, **(RISKY | changes))
    trained_on, held_back = training_set(n).split(selection.kept(n))
    return Training(
        network(), chosen or Method(), trained_on, recipe, streams(), held_back=held_back
    )


def followed(training):
    """Train, and return the weights at the end of every row."""
    found = []

    def after_step(training):
        if len(training.history) > len(found):
            found.append(snapshot(training.model))

    training.run(after_step)
    return found


def quality(weights, data):
    """Accuracy and negative log-likelihood by definition, in evaluation mode."""
    model = network()
    model.load_state_dict(weights)
    with torch.no_grad():
        logits = model.eval()(data.batch(torch.arange(len(data)))[0]).double()
    logarithms = logits - logits.exp().sum(1, keepdim=True).log()
    right = (logits.argmax(1) == data.y).double().mean()
    return float(right), float(-logarithms[range(len(data)), data.y].mean())


def scripted(monkeypatch, found):
    """Let what is held back be read as these pairs of accuracy and likelihood; return at which."""
    looks, waiting = [], iter(found)

    def read(model, data, autocast):
        looks.append(len(looks))
        return dict(zip(COLUMNS, next(waiting), strict=True))

    monkeypatch.setattr(engine, "_quality", read)
    return looks


class TestWhatIsKept:
    """The weights of the best row, with its running statistics."""

    @pytest.mark.parametrize("name", ["baseline", "sgt"])
    def test_they_are_those_of_the_row_with_the_highest_accuracy(self, name):
        training = selecting(chosen=method.create(name))
        weights = followed(training)
        found = [quality(each, training.held_back) for each in weights]
        for row, (accuracy, nll) in zip(training.history, found, strict=True):
            assert row["held_back_accuracy"] == pytest.approx(accuracy)
            assert row["held_back_nll"] == pytest.approx(nll, rel=1e-4)
        ranks = [(row["held_back_accuracy"], -row["held_back_nll"]) for row in training.history]
        best = ranks.index(max(ranks))
        assert best < len(ranks) - 1  # so that keeping the last ones would be seen
        assert_same_weights(training.model.state_dict(), weights[best])

    @pytest.mark.parametrize(
        ("found", "best"),
        [
            ([(0.5, 1.0), (0.7, 2.0), (0.7, 1.5), (0.6, 0.1)], 2),  # of equals the likelier
            ([(0.5, 1.0), (0.5, 1.0), (0.5, 1.0), (0.5, 1.0)], 0),  # of these the first
            ([(0.0, 9.0), (0.0, 8.0), (0.0, 7.0), (0.0, 8.0)], 2),  # nothing is right
            ([(0.1, 1.0), (0.2, 2.0), (0.3, 3.0), (0.4, 4.0)], 3),
            ([(0.9, 9.0), (0.8, 0.1), (0.7, 0.1), (0.6, 0.1)], 0),
        ],
    )
    def test_ties_go_to_the_lower_likelihood_and_then_to_the_earlier(
        self, found, best, monkeypatch
    ):
        looks = scripted(monkeypatch, found)
        training = selecting(n=10, steps=4, batch_size=8)
        weights = followed(training)
        assert len(looks) == 4
        assert_same_weights(training.model.state_dict(), weights[best])
        assert training.best_rank == (found[best][0], -found[best][1])

    def test_a_row_between_two_looks_is_never_the_best(self, monkeypatch):
        scripted(monkeypatch, [(0.1, 1.0), (0.9, 1.0), (0.2, 1.0)])
        training = selecting(n=10, steps=7, batch_size=8, selection=Selection(name="best", every=3))
        weights = followed(training)  # a row per step; looked at after 1, 4 and 7
        assert_same_weights(training.model.state_dict(), weights[3])


class TestLooks:
    """It is looked at where a pass ends, at most every so many steps, and at the end."""

    @pytest.mark.parametrize(
        ("every", "expected"),
        [
            (1, [2, 4, 6, 8, 10, 11]),
            (2, [2, 4, 6, 8, 10, 11]),
            (3, [2, 6, 10, 11]),
            (50, [2, 11]),
        ],
    )
    def test_the_steps_of_the_looks(self, every, expected, monkeypatch):
        steps = []

        def read(model, data, autocast):
            steps.append(training.step)
            return dict.fromkeys(COLUMNS, float(training.step))

        monkeypatch.setattr(engine, "_quality", read)
        training = selecting(
            n=20, steps=11, batch_size=8, selection=Selection(name="best", every=every)
        )
        training.run()  # on 16 samples, so that a pass is two steps
        assert steps == expected
        for row in training.history:  # and in between rows repeat what was found before
            last = max(step for step in expected if step <= row["step"])
            assert row["held_back_accuracy"] == row["held_back_nll"] == last

    @pytest.mark.parametrize("every", [1, 4, 50])
    @pytest.mark.parametrize("name", ["baseline", "reldrop-block", "sgt"])
    def test_all_rows_have_the_same_columns(self, name, every):
        chosen = method.create(name)
        training = selecting(selection=Selection(name="best", every=every), chosen=chosen)
        training.run()
        first, *others = (list(row) for row in training.history)
        assert first[:3] == ["epoch", "step", "learning_rate"]
        assert first[-2:] == list(COLUMNS)
        assert others == [first] * len(others)

    def test_looking_leaves_the_training_as_it_was(self):
        looked_at = selecting()
        with_looks = followed(looked_at)
        recipe = looked_at.recipe.model_copy(update={"selection": Selection()})
        alone = Training(network(), Method(), training_set(40).split(32)[0], recipe, streams())
        without = followed(alone)
        assert len(with_looks) == len(without)
        for one, two in zip(with_looks, without, strict=True):
            assert_same_weights(one, two)
        kept = [
            {name: value for name, value in row.items() if name not in COLUMNS}
            for row in looked_at.history
        ]
        assert kept == alone.history
        assert all(module.training for module in looked_at.model.modules())

    def test_many_held_back_samples_are_read_in_parts(self, monkeypatch):
        whole = selecting()
        whole.run()
        monkeypatch.setattr(engine, "EVALUATION_BATCH", 3)
        parts = selecting()
        parts.run()
        for one, two in zip(whole.history, parts.history, strict=True):
            assert two == pytest.approx(one, rel=1e-6)


class TestHeldBack:
    """What is held back is in no batch, and is a share of the run's own samples."""

    @pytest.mark.parametrize("name", ["baseline", "reldrop-block", "sgt", "challenger"])
    def test_nothing_that_is_held_back_is_trained_on(self, name):
        seen, states = [], []

        def look(model, x, y, generator, state):
            seen.append(x)
            states.append(state)

        training = selecting(chosen=Watched(method.create(name), look), augmentation=Augmentation())
        held_back = training.held_back.batch(torch.arange(8))[0]
        training.run()
        trained_on = torch.cat(seen).flatten(1)
        assert len(trained_on.unique(dim=0)) == 32
        assert not (trained_on.unsqueeze(1) == held_back.flatten(1)).all(2).any()
        assert {state.size for state in states} == {32}
        assert set(torch.cat([state.indices for state in states]).tolist()) == set(range(32))

    @pytest.mark.parametrize(
        ("n", "share", "kept"),
        [
            *((2, 0.2, 1), (3, 0.2, 2), (5, 0.2, 4), (10, 0.2, 8), (20, 0.2, 16), (101, 0.2, 81)),
            *((2, 0.99, 1), (3, 0.99, 1), (5, 0.99, 1), (2, 0.01, 1), (5, 0.01, 4), (5, 0.5, 3)),
        ],
    )
    def test_the_share_at_small_sizes(self, n, share, kept):
        assert Selection(name="best", held_back=share).kept(n) == kept

    @given(st.integers(2, 2000), st.floats(0.001, 0.999))
    def test_both_parts_have_a_sample_and_the_share_is_as_near_as_can_be(self, n, share):
        kept = Selection(name="best", held_back=share).kept(n)
        assert 1 <= kept <= n - 1
        nearest = min(range(1, n), key=lambda held: abs(held - share * n))
        assert abs(n - kept - share * n) == pytest.approx(abs(nearest - share * n))

    @given(st.integers(1, 2000))
    def test_the_last_weights_cost_no_sample(self, n):
        assert Selection().kept(n) == n

    @given(st.integers(2, 2000), st.floats(0.001, 0.999))
    def test_a_share_that_is_asked_for_costs_the_last_weights_as_much_as_the_best(self, n, share):
        last, best = (Selection(name=name, held_back=share).kept(n) for name in ("last", "best"))
        assert last == best

    @pytest.mark.parametrize(
        "selection", [Selection(name="best"), Selection(name="last", held_back=0.2)]
    )
    def test_one_sample_cannot_be_shared(self, selection):
        """It would be trained on without selection, under a record that says otherwise."""
        with pytest.raises(ValueError, match=f"selection '{selection.name}'"):
            selection.kept(1)

    def test_a_size_that_leaves_a_class_untrained_is_refused(self):
        """Of ten digits, one per class, the two held back are of classes that are never seen."""
        assert planned({"grid.train_sizes": [10]}).runs
        assert planned({"grid.train_sizes": [13], "recipe.selection": {"name": "best"}}).runs
        with pytest.raises(ValueError, match="selection"):
            planned({"grid.train_sizes": [10], "recipe.selection": {"name": "best"}})

    @pytest.mark.parametrize("n", [2, 3, 5])
    def test_the_smallest_sets_train(self, n):
        training = selecting(n=n, steps=3)
        weights = followed(training)
        assert (len(training.data), len(training.held_back)) == (n - 1, 1)
        assert [row["epoch"] for row in training.history] == [1, 2, 3]
        assert any(
            all(map(torch.equal, each.values(), training.model.state_dict().values()))
            for each in weights
        )

    def test_epochs_are_passes_over_what_is_trained_on(self):
        indices = []
        watched = Watched(Method(), lambda *given: indices.append(given[-1].indices))
        trained_on, held_back = training_set(10).split(BEST.kept(10))
        recipe = Recipe(epochs=3, batch_size=4, selection=BEST)
        training = Training(network(), watched, trained_on, recipe, streams(), held_back=held_back)
        training.run()
        assert training.steps == 6
        assert torch.bincount(torch.cat(indices)).tolist() == [3] * 8
        assert [(row["epoch"], row["step"]) for row in training.history] == [(1, 2), (2, 4), (3, 6)]


class TestRun:
    """Selection from the experiment file to the directory of the run."""

    @staticmethod
    def run_of(**changes):
        small = {"recipe.steps": 8, "recipe.batch_size": 8}
        return next(iter(planned(small | changes).runs))

    @staticmethod
    def left(folder, run):
        place = folder / "runs" / run.path
        with (place / "history.csv").open() as file:
            return load_file(place / "weights.safetensors"), list(csv.DictReader(file))

    def test_the_best_of_a_run_is_written_and_its_batches_are_its_own(
        self, data, tmp_path, monkeypatch
    ):
        seen, at_rows, trainings = [], [], []

        def spied(composition):
            def look(model, x, y, generator, state):
                trainings[-1:] = [model]
                seen.append((state.indices.numpy(), y.numpy()))

            return Watched(build(composition), look)

        def report(run, step, steps):
            at_rows.append(snapshot(trainings[0]))

        monkeypatch.setattr(training_runs, "build", spied)
        run = self.run_of(**{"recipe.selection": {"name": "best", "every": 1}})
        train_shard([run], tmp_path, data, CPU, report=report)
        pool = read_pool(data, "digits")
        subset = read_subset(data, "digits", 0, 20, pool.images.y).indices
        for indices, y in seen:
            assert indices.max() < 16
            assert np.array_equal(y, pool.images.y[subset[:16]][indices])
        weights, rows = self.left(tmp_path, run)
        ranks = [(float(row["held_back_accuracy"]), -float(row["held_back_nll"])) for row in rows]
        best = rows[ranks.index(max(ranks))]
        assert_same_weights(weights, at_rows[int(best["step"]) - 1])
        record = read_record(tmp_path / "runs" / run.path)
        assert record["recipe"]["selection"]["name"] == "best"

    def test_to_keep_the_last_is_to_do_nothing(self, data, tmp_path):
        plain, named = self.run_of(), self.run_of(**{"recipe.selection": {"name": "last"}})
        assert plain.intent == named.intent
        train_shard([plain], tmp_path / "plain", data, CPU)
        other = self.run_of(**{"recipe.selection": {"name": "last", "every": 1}})
        train_shard([other], tmp_path / "named", data, CPU)
        found, expected = self.left(tmp_path / "named", other), self.left(tmp_path / "plain", plain)
        assert_same_weights(found[0], expected[0])
        assert found[1] == expected[1]
        assert not set(COLUMNS) & set(found[1][0])

    def test_the_last_weights_are_kept_though_others_were_better_on_what_was_held_back(
        self, monkeypatch
    ):
        """It is held back for the temperature, and is looked at as if weights were selected."""
        scripted(monkeypatch, [(0.9, 0.1), (0.8, 0.2), (0.7, 0.3), (0.6, 0.4)])
        selection = Selection(name="last", held_back=0.2, every=1)
        training = selecting(n=10, steps=4, selection=selection)
        weights = followed(training)
        assert len(weights) == 4
        assert (len(training.data), len(training.held_back)) == (8, 2)
        assert_same_weights(training.model.state_dict(), weights[-1])
        assert [row["held_back_accuracy"] for row in training.history] == [0.9, 0.8, 0.7, 0.6]

    def test_of_the_last_weights_what_is_held_back_is_in_no_batch_and_is_told_of(
        self, data, tmp_path, monkeypatch
    ):
        trainings, seen, at_steps = [], [], []

        def spied(composition):
            def look(model, x, y, generator, state):
                trainings[:] = [model]
                seen.append(state.indices)

            return Watched(build(composition), look)

        def report(run, step, steps):
            at_steps.append(snapshot(trainings[0]))

        monkeypatch.setattr(training_runs, "build", spied)
        held = {"recipe.selection": {"name": "last", "held_back": 0.2, "every": 1}}
        run = self.run_of(**held)
        assert run.intent != self.run_of().intent
        train_shard([run], tmp_path, data, CPU, report=report)
        weights, rows = self.left(tmp_path, run)
        assert_same_weights(weights, at_steps[-1])
        assert set(torch.cat(seen).tolist()) == set(range(16))
        assert set(COLUMNS) < set(rows[0])

    def test_a_length_that_is_matched_counts_what_the_other_is_trained_on(
        self, data, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(training_runs, "cost_ratio", lambda *_: {"ratio": 1.0})
        matched = {"name": "as-long", "preset": "baseline", "budget": {"matched": "sgt"}}
        changes = {
            "grid.methods": ["baseline", "sgt", matched],
            "recipe": {"epochs": 5, "batch_size": 8, "selection": {"name": "best"}},
        }
        runs = {run.method: run for run in planned(changes).runs if run.seed == 0}
        train_shard(list(runs.values()), tmp_path, data, CPU)
        steps = {
            name: read_record(tmp_path / "runs" / run.path)["steps"] for name, run in runs.items()
        }
        assert steps == dict.fromkeys(("baseline", "sgt", "as-long"), 10)  # of 16 samples
