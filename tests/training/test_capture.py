"""Captured steps end as eager ones do.

There is no CUDA graph here: a fake stands in for the recorder alone, and "replays" by doing the
work again on the same inputs. What the host decides is to it what it was when it recorded, as in a
graph. That a graph can be recorded of a step, and gives the same numbers, only a GPU can show.
"""

import dataclasses
import gc
import logging
import weakref

import pytest
import torch
from experiments import planned, prepare_data
from small_training import CPU, assert_same_weights, network, streams, training_set

from attrreg import method
from attrreg.method import Method
from attrreg.recipe import SGD, AdamW, Augmentation, Recipe, Schedule, Selection
from attrreg.training import engine, runs
from attrreg.training.capture import WARM_UP, Captured
from attrreg.training.checkpoint import load_checkpoint, save_checkpoint
from attrreg.training.engine import Training
from attrreg.training.runs import build_model

RECIPE = Recipe(
    steps=14,
    batch_size=8,
    optimizer=SGD(learning_rate=0.1, nesterov=True),
    schedule=Schedule(name="cosine", warm_up_steps=2),
    augmentation=Augmentation(crop_padding=1, flip=True),
)
PRESETS = [name for name in method.names() if "/" not in name]
CONTROLS = ["scrambled", "swapped", "reversed", "uniform", "oracle"]
CACHED = {"name": "cached", "every": 2, "of": "lrp"}


class Tape:
    """Stands in for the recorder: what it returns runs the recorded work again."""

    def __init__(self, error=None):
        self.error, self.recorded, self.replays, self.generators = error, 0, 0, None

    def __call__(self, work, generators):
        self.recorded += 1
        self.generators = list(generators)
        if self.error is not None:
            for each in generators:  # it fails after part of the step
                torch.rand(5, generator=each)
            raise self.error

        def replay():
            self.replays += 1
            work()

        return replay


class Graph(Tape):
    """A tape to which nothing changes that the host decides, as to a CUDA graph.

    A replay adds to the sums and reads the rates that lay there when it was recorded.
    """

    def __init__(self, training):
        super().__init__()
        self.training = training

    def known(self):
        training = self.training
        rates = [group["lr"] for group in training.optimizer.param_groups]
        return training.step, training._at, training.sums, rates

    def tell(self, step, at, sums, rates):
        training = self.training
        training.step, training._at, training.sums = step, at, sums
        for group, rate in zip(training.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    def __call__(self, work, generators):
        replay = super().__call__(work, generators)
        step, at, sums, rates = self.known()
        then = step, at, dict(sums), rates

        def replay_then():
            now = self.known()
            self.tell(*then)
            try:
                replay()
            finally:
                self.tell(*now)

        return replay_then


def rates_on_the_device(training):
    """Keep the learning rates in tensors, as on a GPU, where a graph reads them."""
    for group in training.optimizer.param_groups:
        group["lr"] = torch.tensor(group["lr"])
    return training


def training_of(chosen, recipe=RECIPE, data=None, **others):
    chosen = method.create(chosen) if isinstance(chosen, str) else chosen
    training = Training(
        network(), chosen, data or training_set(), recipe, streams(), capture=False, **others
    )
    return rates_on_the_device(training)


def captured(training, make_tape=Graph):
    """Let the steps of a training be captured as `Training` does on a GPU; return the tape."""
    tape = make_tape(training)
    generators = list(training.streams.drawn.values())
    training._work = Captured(training._compute, generators, training._against_capture, tape)
    return tape


def states(generators):
    return [each.get_state() for each in generators]


class TestCaptured:
    """A step of its own, without a training."""

    def test_three_steps_warm_up_and_the_rest_are_replayed(self):
        done, tape = [], Tape()
        step = Captured(lambda x: done.append(x.clone()), [], record=tape)
        for number in range(8):
            step(torch.tensor([number]))
            assert (tape.recorded, tape.replays) == (number >= 3, max(0, number - 2))
            assert step.said == ("captured" if number >= 3 else "too short to be captured")
        assert WARM_UP == 3
        assert [each.item() for each in done] == list(range(8))  # every step once

    def test_replays_read_where_the_recorded_inputs_lay(self):
        places = []
        step = Captured(
            lambda *inputs: places.append(
                [None if each is None else each.data_ptr() for each in inputs]
            ),
            [],
            record=Tape(),
        )
        kept = [(torch.tensor([float(number)]), None) for number in range(8)]
        for inputs in kept:
            step(*inputs)
        own = [inputs[0].data_ptr() for inputs in kept]
        assert [place[0] for place in places[:3]] == own[:3]
        [there] = {place[0] for place in places[3:]}
        assert there not in own  # a copy, so that no batch is written over
        assert [inputs[0].item() for inputs in kept] == list(range(8))
        assert {place[1] for place in places} == {None}

    def test_the_recorder_gets_the_generators(self):
        tape, generators = Tape(), [torch.Generator(), torch.Generator()]
        step = Captured(lambda x: None, generators, record=tape)
        for _ in range(4):
            step(torch.zeros(1))
        assert tape.generators == generators

    def test_what_is_against_it_is_asked_for_once_and_after_the_warm_up(self):
        done, asked, tape = [], [], Tape()

        def against():
            asked.append(len(done))
            return "of the moon"

        step = Captured(done.append, [], against, tape)
        for _ in range(8):
            step(torch.zeros(1))
        assert asked == [3]
        assert step.said == "eager: of the moon"
        assert len(done) == 8
        assert tape.recorded == 0

    @pytest.mark.parametrize("error", [ValueError("wrong"), KeyboardInterrupt()], ids=repr)
    def test_what_is_no_refusal_to_record_is_raised(self, error):
        step = Captured(lambda x: None, [], record=Tape(error))
        for _ in range(3):
            step(torch.zeros(1))
        with pytest.raises(type(error)):
            step(torch.zeros(1))

    def test_a_recorder_that_fails_is_asked_once_and_said(self, caplog):
        done, tape = [], Tape(RuntimeError("operation not permitted\nand a long trace"))
        generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
        before = states(generators)
        step = Captured(lambda x: done.append(x.item()), generators, record=tape)
        with caplog.at_level(logging.INFO, "attrreg.training.capture"):
            for number in range(8):
                step(torch.tensor([number]))
        assert tape.recorded == 1
        assert done == list(range(8))
        assert all(map(torch.equal, states(generators), before))
        [said] = caplog.messages
        assert said == "steps are not captured in a CUDA graph: operation not permitted"
        assert step.said == "eager: operation not permitted"


class TestTraining:
    """A whole training with captured steps is the eager one, bit for bit."""

    @staticmethod
    def assert_same(one, two):
        assert_same_weights(one.model.state_dict(), two.model.state_dict())
        assert one.history == two.history
        drawn = states(one.streams.drawn.values())
        assert all(map(torch.equal, drawn, states(two.streams.drawn.values())))

    def compared(self, chosen, recipe=RECIPE, **others):
        """Train eagerly and captured, and return the tape."""
        eager = training_of(chosen, recipe, **others)
        eager.run()
        after = torch.get_rng_state()
        replayed = training_of(chosen, recipe, **others)
        tape = captured(replayed)
        replayed.run()
        assert torch.equal(torch.get_rng_state(), after)
        self.assert_same(replayed, eager)
        return tape

    @pytest.mark.parametrize("name", PRESETS)
    def test_every_preset(self, name):
        tape = self.compared(name)
        assert (tape.recorded, tape.replays) == (1, RECIPE.steps - WARM_UP)

    @pytest.mark.parametrize("control", CONTROLS)
    @pytest.mark.parametrize("name", ["sgt", "reldrop-block"])
    def test_controls_that_keep_nothing(self, name, control):
        assert self.compared(f"{name}/{control}").replays == RECIPE.steps - WARM_UP

    @pytest.mark.parametrize("precision", ["bfloat16", "tf32"])
    def test_other_precisions(self, precision):
        assert self.compared("sgt", precision=precision).replays > 0

    def test_another_optimiser_and_schedule(self):
        changes = {
            "optimizer": AdamW(decay="weights"),
            "schedule": Schedule(name="step", milestones=(0.3, 0.6)),
        }
        assert self.compared("sgt", RECIPE.model_copy(update=changes)).replays > 0

    def test_selection_between_replays(self):
        recipe = RECIPE.model_copy(update={"selection": Selection(name="best", every=2)})
        data, held_back = training_set().split(16)
        tape = self.compared("sgt", recipe, data=data, held_back=held_back)
        assert tape.replays == RECIPE.steps - WARM_UP

    def test_a_set_that_streams(self):
        tape = self.compared("reldrop-block", data=training_set(streamed=True))
        assert tape.replays == RECIPE.steps - WARM_UP

    def test_a_training_shorter_than_the_warm_up(self):
        tape = self.compared("sgt", RECIPE.model_copy(update={"steps": 3}))
        assert tape.recorded == 0

    def test_it_says_how_its_steps_were_taken(self):
        training = training_of("sgt")
        assert training.capture == "eager: no GPU"
        captured(training)
        assert training.capture == "too short to be captured"
        training.run()
        assert training.capture == "captured"

    def test_a_training_that_is_taken_up_again(self, tmp_path):
        whole = training_of("sgt")
        captured(whole)
        whole.run()
        first = training_of("sgt")
        captured(first)

        class Enough(Exception):
            pass

        def stop(training):
            if training.step == 7:
                save_checkpoint(training, tmp_path / "stored", "digest")
                raise Enough

        with pytest.raises(Enough):
            first.run(stop)
        second = training_of("sgt")
        tape = captured(second)
        load_checkpoint(second, tmp_path / "stored", "digest")
        second.run()
        assert tape.replays == RECIPE.steps - 7 - WARM_UP
        self.assert_same(second, whole)

    def test_a_recorder_that_fails_changes_nothing(self, caplog):
        eager = training_of("challenger")
        eager.run()
        failing = training_of("challenger")
        error = RuntimeError("capture is not possible: no stream")
        tape = captured(failing, lambda _: Tape(error))
        with caplog.at_level(logging.INFO, "attrreg.training.capture"):
            failing.run()
        assert (tape.recorded, tape.replays) == (1, 0)
        self.assert_same(failing, eager)
        assert "not captured in a CUDA graph: capture is not possible: no stream" in caplog.text


class TestWhatIsKept:
    """What a part of a method keeps between steps is kept by the host: no graph would know it."""

    @pytest.mark.parametrize(
        ("name", "kept"),
        [
            ("reldrop-block/swapped-within-class", "swapped-within-class"),
            ("sgt/swapped-within-class", "swapped-within-class"),
            ("cached", "cached"),
            ("swapped cached", "cached"),
        ],
    )
    def test_such_steps_are_eager_and_the_log_says_why(self, name, kept, caplog):
        attributions = {"cached": CACHED, "swapped cached": {"name": "swapped", "of": CACHED}}

        def chosen():
            if name in attributions:
                return method.create("reldrop-block", attribution=attributions[name])
            return method.create(name)

        eager = training_of(chosen())
        eager.run()
        tried = training_of(chosen())
        tape = captured(tried)
        with caplog.at_level(logging.INFO, "attrreg.training.capture"):
            tried.run()
        assert (tape.recorded, tape.replays) == (0, 0)
        TestTraining.assert_same(tried, eager)
        [said] = caplog.messages
        assert said.startswith("steps are not captured in a CUDA graph: a part of the method keeps")
        assert f'"{kept}"' in said
        assert tried.capture == said.replace("steps are not captured in a CUDA graph", "eager")

    @pytest.mark.parametrize("name", ["sgt", "reldrop-block"])
    @pytest.mark.parametrize("control", ["untrained", "random-class"])
    def test_a_copy_that_never_changes_and_an_empty_place_are_no_obstacle(self, name, control):
        """These two make room for what a map inside them may keep, and mostly it keeps nothing."""
        tape = TestTraining().compared(f"{name}/{control}")
        assert tape.replays == RECIPE.steps - WARM_UP

    @pytest.mark.parametrize("control", ["untrained", "random-class"])
    def test_unless_a_map_inside_is_kept(self, control):
        chosen = method.create("reldrop-block", attribution={"name": control, "of": CACHED})
        training = training_of(chosen)
        tape = captured(training)
        training.run()
        assert tape.recorded == 0


def test_nothing_is_captured_on_a_cpu_or_unasked():
    for capture in (True, False):
        training = Training(network(), Method(), training_set(), RECIPE, streams(), capture=capture)
        assert not isinstance(training._work, Captured)


class OnGPU:
    """Labels that say they lie on a GPU."""

    is_cuda = True

    def __len__(self):
        return 20


def test_a_training_is_captured_where_its_data_lie_on_a_gpu(monkeypatch):
    made, given = [], []
    monkeypatch.setattr(engine, "Captured", lambda *given: made.append(given))
    monkeypatch.setattr(Training, "_compute", lambda self, *inputs: given.append((self, *inputs)))
    monkeypatch.setattr(Training, "_against_capture", lambda self: self.steps)
    data = dataclasses.replace(training_set(), y=OnGPU())
    training = Training(network(), Method(), data, RECIPE, streams())
    [(work, generators, against)] = made
    work("x", "y", None)
    assert given == [(training, "x", "y", None)]
    assert against() == training.steps
    assert generators == list(training.streams.drawn.values())
    Training(network(), Method(), data, RECIPE, streams(), capture=False)
    assert len(made) == 1


def test_a_run_is_freed_before_the_next_one_of_its_shard_begins(tmp_path, monkeypatch):
    """Both together would be the peak memory of the second, and might not fit."""
    data, models, alive = prepare_data(tmp_path / "data"), [], []

    def built(run, device):
        alive.append([each() is not None for each in models])
        model = build_model(run, device)
        models.append(weakref.ref(model))
        return model

    monkeypatch.setattr(runs, "build_model", built)
    some = [run for run in planned().runs if run.method == "baseline"]
    gc.collect()
    gc.disable()  # what is in a cycle waits for it, perhaps for long
    try:
        runs.train_shard(some, tmp_path, data, CPU)
    finally:
        gc.enable()
    assert alive == [[], [False]]
