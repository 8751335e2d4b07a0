"""Killed at the worst moments, an experiment goes on and ends with the same tables."""

import contextlib
import os
import signal
import time

import pytest

# Waits in every step: shards that are left alone still train when the next ones come.
LONG = ("attrreg/training/engine.py", "self.step += 1", "self.step += 1; time.sleep(0.15)")


def wait_for(condition, seconds=90.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("what the test waits for did not happen")


def working(project):
    return list(project.folder.glob("runs/*/*/*/*/.s*.partial"))


@pytest.fixture(scope="module")
def expected(finished):
    """The tables of an experiment that nobody interrupted."""
    return finished.tables()


@contextlib.contextmanager
def launched(project):
    """Launch the experiment of a project."""
    process = project.start()
    yield process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()


def ends_as_if_nothing_had_happened(project, expected):
    answer = project.launch()
    assert answer.returncode == 0, answer.stdout
    assert project.tables() == expected
    assert working(project) == []
    assert project.planned_jobs() == {}


def kill_group_with_the_next(project, find):
    """Launch, and kill the whole group as soon as something of a kind has come."""
    before = set(find(project))
    with launched(project) as process:
        wait_for(lambda: set(find(project)) - before)
        os.killpg(process.pid, signal.SIGKILL)


def test_it_is_interrupted_then_killed_at_work_then_killed_between_two_runs(blank, expected):
    project = blank()
    with launched(project) as process:
        wait_for(lambda: working(project))
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "goes on" in output
    kill_group_with_the_next(project, working)
    kill_group_with_the_next(project, lambda each: each.run_times())
    kept = project.run_times()
    ends_as_if_nothing_had_happened(project, expected)
    assert {run: project.run_times()[run] for run in kept} == kept


def test_the_launcher_alone_is_killed_and_an_orphan_goes_on(blank, expected):
    project = blank()
    with launched(project) as process:
        wait_for(lambda: working(project))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        ends_as_if_nothing_had_happened(project, expected)


def test_snakemake_alone_is_killed_and_its_shards_go_on(blank, expected):
    project = blank()
    project.edit(*LONG)
    with launched(project) as process:
        wait_for(lambda: working(project))
        children = f"/proc/{process.pid}/task/{process.pid}/children"
        with open(children) as file:
            snakemake = int(file.read().split()[0])
        os.kill(snakemake, signal.SIGKILL)
        process.wait()
        assert process.returncode == 1
        ends_as_if_nothing_had_happened(project, expected)
