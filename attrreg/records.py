"""A piece of work and the directory that records it: made once, under a lock, whole or not at all.

The directory stands in its place when the work has ended, finished or failed, and ``record.json``
in it says which, with the digest of all that decided the result. So a process that was killed, or
an orphan that still works, spoils nothing, and what is there is not made again.
"""

import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import filelock

from attrreg.files import new_directory, read_json, remove_partial, write_json
from attrreg.provenance import environment

__all__ = ["RECORD", "Outcome", "read_record", "record_work"]

RECORD = "run.json"
Outcome = Literal["made", "kept", "failed", "failed before"]


def record_work(
    place: Path,
    digest: str,
    head: dict[str, Any],
    work: Callable[[Path], dict[str, Any]],
    retry_failed: bool = False,
) -> Outcome:
    """Do a piece of work unless it is recorded with the same digest; return what became of it.

    Parameters
    ----------
    place
        The directory to make.
    digest
        What stands for everything that decides the result.
    head
        What the record says besides.
    work
        Fills an empty directory and returns what the record says of the result. If it raises, the
        record says how it failed; OSError (a full disk) is no result and passes through.
    retry_failed
        Do work again that failed before with the same digest.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(place.parent / f".{place.name}.lock"):
        remove_partial(place)
        known = read_record(place)
        if known is not None and known["digest"] == digest:
            if known["status"] == "finished":
                return "kept"
            if not retry_failed:
                return "failed before"
        with new_directory(place) as directory:
            record = {**head, "digest": digest, "environment": environment()}
            record |= _attempt(work, directory)
            write_json(directory / RECORD, record)
    return "made" if record["status"] == "finished" else "failed"


def read_record(place: Path) -> dict[str, Any] | None:
    """Return the record of a directory, or None where there is none that can be read whole."""
    try:
        record = read_json(place / RECORD)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return record if isinstance(record, dict) and {"digest", "status"} <= record.keys() else None


def _attempt(work: Callable[[Path], dict[str, Any]], directory: Path) -> dict[str, Any]:
    started, wall, cpu = time.time(), time.perf_counter(), time.process_time()
    try:
        result = {"status": "finished", **work(directory)}
    except OSError:
        raise
    except Exception as error:  # the failure is the result; siblings go on
        result = {
            "status": "failed",
            "error": type(error).__name__,
            "message": str(error),
            "traceback": traceback.format_exc(),
        }
    cost = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    return result | {"started": started, "cost": cost | result.get("cost", {})}
