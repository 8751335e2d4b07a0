"""Killed at the worst moments, an experiment goes on and ends with the same tables."""

import os
import signal
import time

import pytest

LONG = (
    ("recipe: {steps: 12,", "recipe: {steps: 60,"),
    ("[accuracy-by-train-size, reliability, occlusion, gallery]", "[accuracy-by-train-size]"),
)


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
def expected(blank):
    """The tables of an experiment that nobody interrupted."""
    project = blank()
    for change in LONG:
        project.edit("configs/tiny.yaml", *change)
    answer = project.launch()
    assert answer.returncode == 0, answer.stdout
    return project.tables()


@pytest.fixture
def started(blank):
    """An experiment that has just been launched."""
    project = blank()
    for change in LONG:
        project.edit("configs/tiny.yaml", *change)
    process = project.start()
    yield project, process
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


def test_the_whole_group_is_killed(started, expected):
    project, process = started
    wait_for(lambda: working(project))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    ends_as_if_nothing_had_happened(project, expected)


def test_the_whole_group_is_killed_between_two_runs(started, expected):
    project, process = started
    wait_for(lambda: len(project.run_times()) == 1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = project.run_times()
    ends_as_if_nothing_had_happened(project, expected)
    assert {run: project.run_times()[run] for run in kept} == kept


def test_the_launcher_alone_is_killed_and_an_orphan_goes_on(started, expected):
    project, process = started
    wait_for(lambda: working(project))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    ends_as_if_nothing_had_happened(project, expected)


def test_snakemake_alone_is_killed_and_its_shards_go_on(started, expected):
    project, process = started
    wait_for(lambda: working(project))
    children = f"/proc/{process.pid}/task/{process.pid}/children"
    with open(children) as file:
        snakemake = int(file.read().split()[0])
    os.kill(snakemake, signal.SIGKILL)
    process.wait()
    assert process.returncode == 1
    ends_as_if_nothing_had_happened(project, expected)


def test_an_interrupt_ends_it_politely(started, expected):
    project, process = started
    wait_for(lambda: working(project))
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "goes on" in output
    ends_as_if_nothing_had_happened(project, expected)
