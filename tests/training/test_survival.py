"""A training that is killed and taken up again ends as if nothing had happened, bit for bit."""

import functools
import json
import logging
import multiprocessing
import os
import random
import re
import signal
import time

import pytest
import torch
from experiments import command, planned, prepare_data, written
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from attrreg.execution import Execution
from attrreg.interruption import Interrupted, listening
from attrreg.records import read_record
from attrreg.training import runs as training
from attrreg.training.runs import train_shard

CPU = torch.device("cpu")
STEPS = 24
STORING = Execution(checkpoint_seconds=0)
SMALL = {
    "recipe.steps": STEPS,
    "recipe.batch_size": 8,
    "recipe.augmentation": {"crop_padding": 1, "flip": True},
    "grid.seeds": [0, 1],
}
CACHED = {"name": "cached", "every": 3, "of": "lrp"}
FAMILIES = {
    "baseline": "baseline",
    "random-erasing": "random-erasing",
    "reldrop": {
        "name": "reldrop",
        "preset": "reldrop-block",
        "attribution": {"name": "swapped-within-class", "of": CACHED},
    },
    "sgt": "sgt-shared/untrained",
    "challenger": "challenger",
}
OPTIMIZERS = {"baseline": {"name": "adamw", "decay": "weights"}}
SELECTION = {"name": "best", "every": 5}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare_data(tmp_path_factory.mktemp("data"))


def run_of(family, **changes):
    changed = SMALL | {"grid.methods": ["baseline", FAMILIES[family]]} | changes
    if family == "baseline":
        changed["grid.methods"] = ["baseline", "sgt"]
    if family in OPTIMIZERS:
        changed["recipe.optimizer"] = OPTIMIZERS[family]
        changed["recipe.selection"] = SELECTION
    wanted = FAMILIES[family] if isinstance(FAMILIES[family], str) else family
    return next(run for run in planned(changed).runs if run.method == wanted)


def stored(folder, run):
    place = folder / "runs" / run.path
    return place.parent / f".{place.name}.checkpoint.safetensors"


def outcome(folder, run):
    place = folder / "runs" / run.path
    assert not stored(folder, run).exists()
    assert not list(place.parent.glob(".*.partial*"))
    return load_file(place / "weights.safetensors"), (place / "history.csv").read_text()


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """Return a function from a run to its outcome when nothing interrupts it."""

    @functools.cache
    def trained(run):
        folder = tmp_path_factory.mktemp("whole")
        train_shard([run], folder, data, CPU)
        return outcome(folder, run)

    return trained


def assert_same(found, expected):
    assert found[1] == expected[1]
    assert found[0].keys() == expected[0].keys()
    for name, tensor in expected[0].items():
        assert torch.equal(found[0][name], tensor), name


def killed_at(folder, data, run, step):
    """Train in a process of its own until that many steps are done, and kill it then."""
    forked = multiprocessing.get_context("fork")
    reached = forked.Value("i", 0, lock=False)

    def work():
        def report(run, step, steps):
            reached.value = step

        train_shard([run], folder, data, CPU, report=report, execution=STORING)

    process = forked.Process(target=work)
    process.start()
    while reached.value < step and process.is_alive():
        time.sleep(0.0005)
    time.sleep(random.random() * 0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    return reached.value


@pytest.mark.parametrize("family", FAMILIES)
def test_killed_at_random_moments_it_ends_bit_equal(family, data, whole, tmp_path):
    run = run_of(family)
    moments = sorted(random.Random(family).sample(range(2, STEPS - 2), 4))
    for moment in moments:
        killed_at(tmp_path / "killed", data, run, moment)
        assert stored(tmp_path / "killed", run).exists()
    train_shard([run], tmp_path / "killed", data, CPU)
    record = read_record(tmp_path / "killed" / "runs" / run.path)
    assert moments[-1] - 1 <= record["resumed_at"] < STEPS  # killed while storing, perhaps
    assert_same(outcome(tmp_path / "killed", run), whole(run))


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_a_signal_stores_and_leaves(name, data, whole, tmp_path):
    run = run_of("challenger")

    def report(run, step, steps):
        if step == 7:
            signal.raise_signal(getattr(signal, name))

    before = signal.getsignal(getattr(signal, name))
    with pytest.raises(Interrupted, match=rf"{name}: .*stored at step 7 of {STEPS}"):
        train_shard([run], tmp_path / "asked", data, CPU, report=report)
    assert signal.getsignal(getattr(signal, name)) is before
    assert read_record(tmp_path / "asked" / "runs" / run.path) is None
    train_shard([run], tmp_path / "asked", data, CPU)
    assert read_record(tmp_path / "asked" / "runs" / run.path)["resumed_at"] == 7
    assert_same(outcome(tmp_path / "asked", run), whole(run))


def test_a_second_signal_does_what_it_always_does():
    with listening() as asked:
        signal.raise_signal(signal.SIGTERM)
        assert asked() == "SIGTERM"
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_signal_in_the_last_step_lets_the_run_end_and_stops_before_the_next(data, tmp_path):
    first, second = (
        run
        for run in planned(SMALL | {"grid.methods": ["baseline", "sgt"]}).runs
        if run.method == "baseline"
    )

    def report(run, step, steps):
        if step == steps:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted, match=f"SIGTERM: stopped before {second.name}"):
        train_shard([first, second], tmp_path, data, CPU, report=report)
    assert read_record(tmp_path / "runs" / first.path)["status"] == "finished"
    assert read_record(tmp_path / "runs" / second.path) is None


def left_behind(folder, data, run, step=5):
    """Return the checkpoint of a training that was asked to stop."""

    def report(run, done, steps):
        if done == step:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted):
        train_shard([run], folder, data, CPU, report=report)
    return stored(folder, run)


@pytest.mark.parametrize("harm", ["cut", "empty", "text", "other run", "no facts", "fewer"])
def test_a_checkpoint_that_cannot_be_used_is_refused_by_name(harm, data, whole, tmp_path, caplog):
    run = run_of("challenger")
    path = left_behind(tmp_path / "harmed", data, run)
    if harm == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif harm == "empty":
        path.write_bytes(b"")
    elif harm == "text":
        path.write_text("this is no checkpoint")
    elif harm == "no facts":
        save_file(load_file(path), path)
    elif harm == "other run":
        other = run_of("challenger", **{"recipe.steps": STEPS + 1})
        left_behind(tmp_path / "other", data, other).replace(path)
    else:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata()
        tensors = load_file(path)
        del tensors["random/perturbation"]
        save_file(tensors, path, facts)
    with caplog.at_level(logging.WARNING):
        train_shard([run], tmp_path / "harmed", data, CPU)
    assert f"{path} is no checkpoint of this training" in caplog.text
    assert "starts anew" in caplog.text
    assert read_record(tmp_path / "harmed" / "runs" / run.path)["resumed_at"] == 0
    assert_same(outcome(tmp_path / "harmed", run), whole(run))


def test_nothing_in_a_checkpoint_is_executed(data, tmp_path):
    path = left_behind(tmp_path, data, run_of("baseline"))
    with safe_open(path, framework="pt") as file:
        facts = json.loads(file.metadata()["facts"])
    assert facts["step"] == 5
    assert facts["digest"]


def test_a_full_disk_is_said_and_leaves_the_older_checkpoint(data, tmp_path, monkeypatch):
    run = run_of("challenger")
    path = left_behind(tmp_path, data, run)
    older = path.read_bytes()

    def full(tensors, path, facts=None):
        path.write_bytes(b"some of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("attrreg.training.checkpoint.save_tensors", full)
    with pytest.raises(OSError, match="No space"):
        train_shard([run], tmp_path, data, CPU, execution=STORING)
    assert path.read_bytes() == older
    assert [each.name for each in path.parent.glob(".*.partial*")] == []


def test_a_failed_run_leaves_no_checkpoint(data, tmp_path, monkeypatch):
    run = run_of("challenger")
    path = left_behind(tmp_path, data, run)
    monkeypatch.setattr(training, "build_model", lambda *_: 1 / 0)
    assert set(train_shard([run], tmp_path, data, CPU).values()) == {"failed"}
    assert not path.exists()


def test_the_command_leaves_with_a_code_of_its_own(data, tmp_path, monkeypatch):
    def asked(run, step, steps):
        if step == 4:
            signal.raise_signal(signal.SIGUSR1)

    monkeypatch.setattr("attrreg.progress.reporter", lambda *_: asked)
    config = written(tmp_path, SMALL)
    arguments = ("train", "--config", config, "--results", tmp_path, "--data", data)
    answer = command(*arguments)
    assert answer.code == 75
    assert "SIGUSR1" in answer.err
    assert f"stored at step 4 of {STEPS} and goes on from there" in answer.err
    assert "Traceback" not in answer.err
    monkeypatch.setattr("attrreg.progress.reporter", lambda *_: lambda *at: None)
    assert command(*arguments).code == 0


def test_a_long_training_says_how_far_it_is(data, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(training, "TELLING", 0)
    run = run_of("challenger")
    with caplog.at_level(logging.INFO):
        train_shard([run], tmp_path, data, CPU)
    assert re.search(
        rf"{run.name}: epoch 2, step \d+ of {STEPS}, loss [\d.]+, until about \d\d:\d\d:\d\d",
        caplog.text,
    )
