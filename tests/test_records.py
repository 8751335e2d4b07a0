"""Work is done once, recorded whole or not at all, and survives failures, siblings and kills."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from experiments import is_finished

from attrreg.records import read_record, record_work


class Work:
    """Writes a file, counts how often it was asked to, and fails as it is told."""

    def __init__(self, error=None, result=None):
        self.calls, self.error, self.result = 0, error, result or {}

    def __call__(self, directory):
        self.calls += 1
        assert list(directory.iterdir()) == []
        (directory / "weights.txt").write_text(f"call {self.calls}")
        if self.error is not None:
            raise self.error
        return self.result


@pytest.fixture
def place(tmp_path):
    return tmp_path / "runs" / "n50" / "s0"


def visible(place):
    """Return what lies beside a place, locks aside."""
    return sorted(path.name for path in place.parent.iterdir() if path.suffix != ".lock")


def test_the_directory_appears_when_the_work_has_ended(place):
    def work(directory):
        (directory / "weights.txt").write_text("half")
        assert not place.exists()
        assert read_record(place) is None
        return {"steps": 3, "cost": {"seconds_per_step": 0.5}}

    assert record_work(place, "d1", {"method": "sgt"}, work) == "made"
    record = read_record(place)
    assert record["status"] == "finished"
    assert is_finished(place)
    assert (record["digest"], record["method"], record["steps"]) == ("d1", "sgt", 3)
    assert record["cost"]["seconds_per_step"] == 0.5
    assert 0 <= record["cost"]["seconds"] < 60
    assert abs(record["started"] - time.time()) < 60
    assert record["environment"]["torch"]
    assert visible(place) == ["s0"]


def test_the_same_digest_is_not_done_again(place):
    work = Work()
    assert record_work(place, "d1", {}, work) == "made"
    before = (place / "run.json").stat().st_mtime_ns
    assert record_work(place, "d1", {}, work) == "kept"
    assert work.calls == 1
    assert (place / "run.json").stat().st_mtime_ns == before


def test_another_digest_replaces_everything(place):
    record_work(place, "d1", {"old": True}, Work(result={"steps": 1}))
    assert record_work(place, "d2", {}, Work()) == "made"
    record = read_record(place)
    assert record["digest"] == "d2"
    assert not {"old", "steps"} & record.keys()


def test_a_failure_is_recorded_with_its_traceback_and_siblings_go_on(place):
    sibling = place.with_name("s1")
    assert record_work(place, "d1", {"method": "sgt"}, Work(FloatingPointError("NaN"))) == "failed"
    assert record_work(sibling, "d1", {}, Work()) == "made"
    record = read_record(place)
    assert (record["status"], record["error"]) == ("failed", "FloatingPointError")
    assert (record["message"], record["method"]) == ("NaN", "sgt")
    assert "Traceback" in record["traceback"]
    assert "raise self.error" in record["traceback"]
    assert not is_finished(place)
    assert is_finished(sibling)


def test_a_failure_is_tried_again_only_when_asked_or_changed(place):
    record_work(place, "d1", {}, Work(ValueError("no")))
    work = Work()
    assert record_work(place, "d1", {}, work) == "failed before"
    assert work.calls == 0
    assert record_work(place, "d1", {}, Work(ValueError("again")), retry_failed=True) == "failed"
    assert read_record(place)["message"] == "again"
    assert record_work(place, "d1", {}, work, retry_failed=True) == "made"
    assert record_work(place, "d1", {}, work, retry_failed=True) == "kept"
    assert work.calls == 1


def test_changed_work_that_failed_before_is_tried_without_being_asked(place):
    record_work(place, "d1", {}, Work(ValueError("no")))
    assert record_work(place, "d2", {}, Work()) == "made"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), OSError("disk full")])
def test_what_is_no_result_passes_through_and_leaves_nothing(place, error):
    with pytest.raises(type(error)):
        record_work(place, "d1", {}, Work(error))
    assert visible(place) == []
    assert record_work(place, "d1", {}, Work()) == "made"


def test_an_interruption_keeps_what_was_there(place):
    record_work(place, "d1", {}, Work())
    with pytest.raises(KeyboardInterrupt):
        record_work(place, "d2", {}, Work(KeyboardInterrupt()))
    assert read_record(place)["digest"] == "d1"
    assert visible(place) == ["s0"]


def test_leftovers_of_killed_writers_are_removed(place):
    for name in (".s0-abc.partial", ".s1-abc.partial"):
        (place.parent / name / "deep").mkdir(parents=True)
    assert record_work(place, "d1", {}, Work()) == "made"
    assert visible(place) == [".s1-abc.partial", "s0"]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "3", '{"digest": "d1"}', '{"status": "finished"}', b"\xff\xfe"]
)
def test_a_record_that_cannot_be_read_whole_is_none(place, content):
    place.mkdir(parents=True)
    raw = content if isinstance(content, bytes) else content.encode()
    (place / "run.json").write_bytes(raw)
    assert read_record(place) is None
    assert not is_finished(place)
    assert record_work(place, "d1", {}, Work()) == "made"
    assert is_finished(place)


def test_a_file_in_the_way_is_no_record(place):
    place.parent.mkdir(parents=True)
    place.write_text("not a directory")
    assert read_record(place) is None


SCRIPT = textwrap.dedent(
    """
    import os, sys, time
    from pathlib import Path
    from attrreg.records import record_work

    place, seconds = Path(sys.argv[1]), float(sys.argv[2])

    def work(directory):
        (directory / "weights.txt").write_text("half")
        with (place.parent.parent / "log.txt").open("a") as log:
            log.write(f"{os.getpid()} begins\\n")
        time.sleep(seconds)
        (directory / "weights.txt").write_text("whole")
        with (place.parent.parent / "log.txt").open("a") as log:
            log.write(f"{os.getpid()} ends\\n")
        return {"by": os.getpid()}

    print(record_work(place, "d1", {}, work))
    """
)


def started(place: Path, seconds: float) -> subprocess.Popen:
    """Start a process of its own that wants the work done."""
    command = [sys.executable, "-c", SCRIPT, str(place), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def wait_for(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)


def test_two_processes_that_want_the_same_work_do_it_once(place):
    processes = [started(place, 0.3) for _ in range(3)]
    said = sorted(process.communicate(timeout=30)[0].strip() for process in processes)
    assert said == ["kept", "kept", "made"]
    log = (place.parent.parent / "log.txt").read_text().split("\n")
    assert len(log) == 3
    assert read_record(place)["by"] == int(log[0].split()[0])


def test_a_killed_process_leaves_nothing_and_the_next_call_succeeds(place):
    process = started(place, 60)
    log = place.parent.parent / "log.txt"
    wait_for(lambda: log.exists() and "begins" in log.read_text())
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)
    assert not place.exists()
    assert record_work(place, "d1", {}, Work()) == "made"
    assert visible(place) == ["s0"]
    assert json.loads((place / "run.json").read_text())["status"] == "finished"


def test_a_process_waits_for_one_that_still_works(place):
    """An orphan of a killed workflow goes on; its successor must not write beside it."""
    orphan = started(place, 0.5)
    log = place.parent.parent / "log.txt"
    wait_for(lambda: log.exists() and "begins" in log.read_text())
    work = Work()
    assert record_work(place, "d1", {}, work) == "kept"
    assert work.calls == 0
    assert orphan.communicate(timeout=30)[0].strip() == "made"
    assert (place / "weights.txt").read_text() == "whole"
