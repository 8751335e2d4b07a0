"""How far an experiment is: read from what its runs left, and from what working shards report.

Torch-free. A shard writes a small file now and then; nobody has to be asked.
"""

import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attrreg.cells import Run
from attrreg.files import read_json, write_json
from attrreg.plan import Plan, estimated_seconds
from attrreg.records import read_record

__all__ = ["Survey", "reporter", "survey"]

INTERVAL = 0.5  # seconds between two reports of one shard
SILENT = 60.0  # seconds after which a shard that said nothing is taken to be gone
EVALUATION = 0.25  # the evaluation of a run, relative to a plain training of it


@dataclass(frozen=True)
class Survey:
    """The state of an experiment.

    Parameters
    ----------
    trained, evaluated, failed, total
        Numbers of runs.
    failures
        Per failed run its name, stage and error.
    working
        What each working shard last said: stage, run, step, steps, and since when.
    done
        Share of the estimated work, from 0 to 1.
    """

    trained: int
    evaluated: int
    failed: int
    total: int
    failures: tuple[tuple[str, str, str], ...]
    working: tuple[dict[str, Any], ...]
    done: float


def survey(plan: Plan, folder: Path) -> Survey:
    """Look at an experiment's folder and say how far it is; nothing is changed."""
    counts: Counter[str] = Counter()
    failures = []
    work = total = 0.0
    protocol = plan.experiment.evaluation.model_dump(mode="json")
    working = _working(folder)
    steps = {each["run"]: each["step"] / each["steps"] for each in working if each["steps"]}
    for run in plan.runs:
        seconds = estimated_seconds(run)
        total += seconds * (1 + EVALUATION)
        state = _state(folder / "runs" / run.path, run.intent)
        if state == "failed":
            counts["failed"] += 1
            failures.append((run.name, "training", _error(folder / "runs" / run.path)))
            work += seconds * (1 + EVALUATION)
        elif state == "finished":
            counts["trained"] += 1
            work += seconds
            scores = _state(folder / "scores" / run.path, run.scores_intent(protocol))
            if scores == "failed":
                counts["failed"] += 1
                failures.append((run.name, "evaluation", _error(folder / "scores" / run.path)))
            counts["evaluated"] += scores == "finished"
            work += seconds * EVALUATION * (scores != "missing")
        else:
            work += seconds * steps.get(run.name, 0.0)
    return Survey(
        counts["trained"],
        counts["evaluated"],
        counts["failed"],
        len(plan.runs),
        tuple(failures),
        tuple(working),
        work / total if total else 1.0,
    )


def reporter(folder: Path, shard: str, stage: str) -> Callable[[Run, int, int], None]:
    """Return a function that notes what a shard is doing, at most twice a second."""
    path = folder / "progress" / f"{stage}--{shard}.json"
    last = 0.0

    def report(run: Run, step: int, steps: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < INTERVAL:
            return
        last = now
        said = {"stage": stage, "shard": shard, "run": run.name, "step": step, "steps": steps}
        write_json(path, {**said, "pid": os.getpid(), "time": time.time()})

    return report


def _working(folder: Path) -> list[dict[str, Any]]:
    said = []
    for path in sorted((folder / "progress").glob("*.json")):
        try:
            each = read_json(path)
        except (FileNotFoundError, ValueError):
            continue  # it ended between the listing and the reading
        if time.time() - each["time"] < SILENT and _is_alive(each["pid"]):
            said.append(each)
    return said


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _state(place: Path, intent: str) -> str:
    record = read_record(place)
    if record is None or record.get("intent") != intent:
        return "missing"
    return str(record["status"])


def _error(place: Path) -> str:
    record = read_record(place) or {}
    return f"{record.get('error')}: {record.get('message')}"
