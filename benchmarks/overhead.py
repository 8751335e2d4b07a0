"""Seconds of start-up, imports and bookkeeping, and their share of a cell that works for a minute.

python benchmarks/overhead.py [--model resnet18] [--method reldrop-block] [--repeats 10]

Processes are those of the workflow, one after the other and in turn: `attrreg train` on runs of a
single step, `attrreg evaluate` where nothing is trained yet. What a further run costs is the
difference between many runs in a process and few. Parts are calls in this process; all but the
checkpoint are in the rows of processes already. A cell shares its processes with as many as
``execution.shard_seconds`` joins by default.
"""

import argparse
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import yaml
from timing import RESULTS, median_interval, write

from attrreg.cells import Run
from attrreg.config import read_experiment
from attrreg.data.device import TrainingSet
from attrreg.data.prepare import prepare
from attrreg.data.sources import read_pool
from attrreg.data.subsets import draw_subsets
from attrreg.execution import Execution
from attrreg.machine import use_threads
from attrreg.method import build
from attrreg.plan import make_plan
from attrreg.provenance import stream_seed
from attrreg.records import record_work
from attrreg.training.checkpoint import save_checkpoint, save_weights
from attrreg.training.engine import Streams, Training
from attrreg.training.runs import build_model

DATASET, TRAIN_SIZE = "digits", 200
FEW, MANY = 2, 8  # runs of a process
CELL_RUNS, CELL_SECONDS = 3, 60.0
CELLS = max(1.0, Execution().shard_seconds / CELL_SECONDS)  # that share a process
SHARE = 0.05  # of the work, at the most
EMPTY, IMPORTS, EVALUATION = "empty process", "imports of a training", "evaluation of nothing"
RECORD, FURTHER = "part: record of a run", "a further run"
CELL = f"a cell of {CELL_SECONDS:.0f} s in {CELL_RUNS} runs"
CPU = torch.device("cpu")


def main() -> None:
    arguments = _arguments()
    use_threads(threads=1)
    with TemporaryDirectory() as name:
        folder = Path(name)
        configs = {runs: _write_experiment(folder, arguments, runs) for runs in (FEW, MANY)}
        run = make_plan(read_experiment(configs[FEW])).runs[0]
        prepare(folder / "data", DATASET)
        labels = read_pool(folder / "data", DATASET).images.y
        for seed in range(MANY):
            draw_subsets(folder / "data", DATASET, seed, labels)
        times = _in_turn(_processes(folder, configs), arguments.repeats)
        times |= _in_turn(_parts(folder, run), arguments.repeats)
    few = times[_training(FEW)]
    further = times[FURTHER] = (times[_training(MANY)] - few) / (MANY - FEW)
    # cells are trained by one process and evaluated by another, which records their runs as well
    processes = few - FEW * further + times[EVALUATION]
    times[CELL] = processes / CELLS + CELL_RUNS * (further + times[RECORD])
    rows = [_row(what, *taken) for what, taken in times.items()]
    for row in rows:
        row |= {"model": arguments.model, "method": arguments.method}
        verdict = f"  budget {row['budget']} {'met' if row['met'] else 'MISSED'}"
        print(
            f"{row['what']:<32} {row['seconds']:7.3f} s  [{row['low']:.3f}, {row['high']:.3f}]"
            f"  of a CPU {row['cpu_seconds']:7.3f}" + (verdict if row["budget"] else "")
        )
    write(arguments.results / f"overhead-{arguments.model}-cpu.csv", rows, CPU)


def _row(what: str, seconds: np.ndarray, cpu_seconds: np.ndarray) -> dict[str, Any]:
    low, high = median_interval(seconds)
    budget = SHARE * CELL_SECONDS if what == CELL else None
    return {
        "what": what,
        "seconds": round(float(np.median(seconds)), 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "cpu_seconds": round(float(np.median(cpu_seconds)), 4),
        "repeats": len(seconds),
        "budget": budget,
        "met": budget and low <= budget,
    }


def _in_turn(work: dict[str, Callable[[], object]], repeats: int) -> dict[str, np.ndarray]:
    """Return the wall-clock and the CPU seconds that each took, (2, repeats)."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in work}
    for _ in range(repeats):
        for name, run in work.items():
            begun, used = time.perf_counter(), _cpu_seconds()
            run()
            times[name].append((time.perf_counter() - begun, _cpu_seconds() - used))
    return {name: np.array(seconds).T for name, seconds in times.items()}


def _cpu_seconds() -> float:
    """Return the CPU seconds of this process and of those that it has waited for."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def _training(runs: int) -> str:
    return f"training of {runs} runs of a step"


def _write_experiment(folder: Path, arguments: argparse.Namespace, runs: int) -> Path:
    experiment = {
        "name": f"overhead-{runs}",
        "grid": {
            "datasets": [DATASET],
            "models": [arguments.model],
            "methods": [arguments.method],
            "train_sizes": [TRAIN_SIZE],
            "seeds": runs,
        },
        "recipe": {"steps": 1},
        "statistics": {"references": [arguments.method]},
    }
    path = folder / f"{runs}.yaml"
    path.write_text(yaml.safe_dump(experiment))
    return path


def _processes(folder: Path, configs: dict[int, Path]) -> dict[str, Callable[[], object]]:
    results = folder / "results"

    def python(*arguments: str | Path) -> None:
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)

    def attrreg(command: str, runs: int) -> None:
        shutil.rmtree(results, ignore_errors=True)
        shard = make_plan(read_experiment(configs[runs])).shards[0].name
        places = ("--results", results, "--data", folder / "data")
        python("-m", "attrreg", command, "--config", configs[runs], "--shard", shard, *places)

    return {
        EMPTY: lambda: python("-c", "pass"),
        IMPORTS: lambda: python("-c", "import attrreg.cli, attrreg.training.runs"),
        _training(FEW): lambda: attrreg("train", FEW),
        _training(MANY): lambda: attrreg("train", MANY),
        EVALUATION: lambda: attrreg("evaluate", FEW),
    }


def _parts(folder: Path, run: Run) -> dict[str, Callable[[], object]]:
    """Return calls that a run makes beside its steps."""
    pool = read_pool(folder / "data", run.dataset)
    subset = slice(run.train_size)
    number = count()

    def made() -> Training:
        data = TrainingSet.on(CPU, pool.images.take(subset), pool.mean, pool.deviation)
        streams = Streams.seeded(lambda name: stream_seed(name, 0), CPU)
        return Training(build_model(run, CPU), build(run.composition), data, run.recipe, streams)

    training = made()
    training.run()
    part = folder / "part"
    part.mkdir()
    return {
        "part: reading the pool": lambda: read_pool(folder / "data", run.dataset),
        "part: model and training": made,
        "part: weights": lambda: save_weights(training.model, part / "weights.safetensors"),
        RECORD: lambda: record_work(part / f"run-{next(number)}", "", {}, lambda directory: {}),
        "part: checkpoint": lambda: save_checkpoint(training, part / "checkpoint.safetensors", ""),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet10-narrow")
    parser.add_argument("--method", default="reldrop-block")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the table goes")
    return parser.parse_args()


if __name__ == "__main__":
    main()
