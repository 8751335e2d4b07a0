"""A run from its description to its directory, and a shard of them one after another."""

import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attrreg import catalogue, models
from attrreg.cells import Run
from attrreg.data.device import TrainingSet
from attrreg.data.sources import Pool, read_pool
from attrreg.data.subsets import read_subset
from attrreg.files import write_rows
from attrreg.method import build
from attrreg.provenance import array_digest, digest, stream_seed
from attrreg.records import Outcome, record_work
from attrreg.training.checkpoint import save_weights
from attrreg.training.engine import Streams, train

__all__ = ["build_model", "train_shard"]

Report = Callable[[Run, int, int], None]


def build_model(run: Run, device: torch.device) -> torch.nn.Module:
    """Return the run's model with its initial weights, the same for every method and size."""
    entry = catalogue.dataset(run.dataset)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed("initialisation", run.dataset, run.model, run.seed))
        model: torch.nn.Module = models.create(
            run.base,
            num_classes=entry.classes,
            in_chans=entry.shape[0],
            image_size=entry.shape[1],
            **run.options,
        )
    return model.to(device)


def train_shard(
    runs: Sequence[Run],
    results: Path,
    data: Path,
    device: torch.device,
    retry_failed: bool = False,
    report: Report = lambda run, step, steps: None,
) -> dict[Run, Outcome]:
    """Make every run of a shard that does not exist yet, and say what became of each.

    A run that fails is recorded and the others go on.

    Parameters
    ----------
    runs
        The shard.
    results
        The folder of the experiment; runs lie in ``runs`` below it.
    data
        The folder of prepared datasets.
    device
        Where to train.
    retry_failed
        Try runs again that failed before.
    report
        Called after every step with the run, the steps done, and the steps in all.
    """
    pools = {name: read_pool(data, name) for name in {run.dataset for run in runs}}
    outcomes: dict[Run, Outcome] = {}
    for run in runs:
        pool = pools[run.dataset]
        subset = read_subset(data, run.dataset, run.seed, run.train_size, pool.images.y)
        head = {
            **run.key,
            "intent": run.intent,
            "composition": run.composition.model_dump(mode="json"),
            "recipe": run.recipe.model_dump(mode="json"),
            "device": device.type,
            "subset": array_digest(subset),
        }
        wanted = digest([run.intent, pool.digest, head["subset"], device.type])
        outcomes[run] = record_work(
            results / "runs" / run.path,
            wanted,
            head,
            lambda place, run=run, pool=pool, subset=subset: _train(  # type: ignore[misc]
                run, pool, subset, place, device, report
            ),
            retry_failed,
        )
    return outcomes


def _train(
    run: Run, pool: Pool, subset: np.ndarray, place: Path, device: torch.device, report: Report
) -> dict[str, Any]:
    """Train, write history and weights, and return what the record says of them."""
    training = TrainingSet.on(
        device, pool.images.x[subset], pool.images.y[subset], pool.mean, pool.deviation
    )
    model = build_model(run, device)
    initial = array_digest(*(each.cpu().numpy() for each in model.state_dict().values()))
    streams = Streams.seeded(
        lambda name: stream_seed(name, run.dataset, run.train_size, run.seed), device
    )
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    begun = time.perf_counter()
    history = train(
        model,
        build(run.composition),
        training,
        run.recipe,
        streams,
        lambda step, steps: report(run, step, steps),
    )
    seconds = time.perf_counter() - begun
    steps = int(history[-1]["step"])
    write_rows(place / "history.csv", history)
    save_weights(model, place / "weights.safetensors")
    return {
        "steps": steps,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "initial_weights": initial,
        "cost": {
            "training_seconds": seconds,
            "seconds_per_step": seconds / steps,
            "peak_memory_mb": _peak_memory(device),
            **_step_means(history, ("masked_area", "energy")),
        },
    }


def _peak_memory(device: torch.device) -> float:
    """Return the most memory that was in use, in MiB: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def _step_means(history: list[dict[str, float]], names: Sequence[str]) -> dict[str, float]:
    """Return the step-weighted means of some columns over the whole history, where they exist."""
    starts = [0.0, *(row["step"] for row in history[:-1])]
    total = history[-1]["step"]
    return {
        name: sum(
            row[name] * (row["step"] - start) for row, start in zip(history, starts, strict=True)
        )
        / total
        for name in names
        if name in history[0]
    }
