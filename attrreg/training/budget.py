"""Lengths that are measured: how many steps of one method cost as much as those of another."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock
import torch

from attrreg.files import read_json, write_json
from attrreg.provenance import environment
from attrreg.training.engine import Training

__all__ = ["STEPS", "cost_ratio", "measure"]

WARM_UP = 5
PAIRS = 25  # steps of either kind, taken in turn
STEPS = WARM_UP + PAIRS


def cost_ratio(
    path: Path, digest: str, prepare: Callable[[], tuple[Training, Training]]
) -> dict[str, Any]:
    """Return what a step costs in steps of another method, measured once and then kept.

    Parameters
    ----------
    path
        The file that keeps it, beside the runs.
    digest
        What stands for both methods, the model, the data and the device.
    prepare
        Makes a training of the costly method and one of the other.

    Returns
    -------
    dict
        ``ratio``, rounded to two digits, and what it was measured on.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(path.parent / f".{path.name}.lock"):
        try:
            known: dict[str, Any] = read_json(path)
        except (FileNotFoundError, ValueError):
            known = {}
        if known.get("digest") == digest:
            return known
        ratio = round(measure(*prepare()), 2)
        found = {"digest": digest, "ratio": ratio, "pairs": PAIRS, "environment": environment()}
        write_json(path, found)
    return found


def measure(costly: Training, other: Training) -> float:
    """Return the median of the ratios of two methods' steps, taken in turn; both are used up."""
    steps = [costly.stepwise(), other.stepwise()]
    ratios = []
    for pair in range(STEPS):
        seconds = [0.0, 0.0]
        for place in (pair % 2, 1 - pair % 2):
            _wait(costly)
            begun = time.perf_counter()
            next(steps[place])
            _wait(costly)
            seconds[place] = time.perf_counter() - begun
        if pair >= WARM_UP:
            ratios.append(seconds[0] / seconds[1])
    return statistics.median(ratios)


def _wait(training: Training) -> None:
    if training.data.y.is_cuda:
        torch.cuda.synchronize(training.data.y.device)
