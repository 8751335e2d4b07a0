"""A run from its description to its directory, and a shard of them one after another."""

import logging
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attrreg import catalogue, models
from attrreg.cells import Run
from attrreg.data.device import TrainingSet
from attrreg.data.sources import Pool, read_pool
from attrreg.data.subsets import read_subset
from attrreg.execution import Execution
from attrreg.files import remove_partial, write_rows
from attrreg.interruption import Interrupted, listening
from attrreg.machine import (
    Precision,
    choose_precision,
    free_memory,
    use_deterministic,
)
from attrreg.method import build
from attrreg.provenance import array_digest, digest, stream_seed
from attrreg.records import Outcome, record_work
from attrreg.training.checkpoint import load_checkpoint, save_checkpoint, save_weights
from attrreg.training.engine import Streams, Training

__all__ = ["build_model", "train_shard"]

Report = Callable[[Run, int, int], None]
EXECUTION = Execution()
log = logging.getLogger(__name__)


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
    execution: Execution = EXECUTION,
) -> dict[Run, Outcome]:
    """Make every run of a shard that does not exist yet, and say what became of each.

    A run that fails is recorded and the others go on. One that was killed goes on where it was
    last stored.

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
    execution
        How often to store, whether to stream; ``device`` in it is not looked at.

    Raises
    ------
    Interrupted
        A signal asked to stop; what was trained is stored.
    """
    pools = {name: read_pool(data, name) for name in {run.dataset for run in runs}}
    outcomes: dict[Run, Outcome] = {}
    with listening() as asked_to_stop:
        for run in runs:
            pool = pools[run.dataset]
            subset = read_subset(data, run.dataset, run.seed, run.train_size, pool.images.y)
            precision = choose_precision(run.recipe.precision, device)
            head = {
                **run.key,
                "intent": run.intent,
                "composition": run.composition.model_dump(mode="json"),
                "recipe": run.recipe.model_dump(mode="json"),
                "device": device.type,
                "precision": precision,
                "subset": array_digest(subset),
            }
            wanted = digest([run.intent, pool.digest, head["subset"], device.type, precision])
            place = results / "runs" / run.path
            work = _Work(run, device, precision, execution, report, asked_to_stop)
            stored = place.parent / f".{place.name}.checkpoint.safetensors"

            def make(
                directory: Path,
                work: "_Work" = work,
                pool: Pool = pool,
                subset: np.ndarray = subset,
                keeper: tuple[Path, str] = (stored, wanted),
            ) -> dict[str, Any]:
                return work.make(pool, subset, directory, *keeper)

            outcomes[run] = record_work(place, wanted, head, make, retry_failed)
            stored.unlink(missing_ok=True)
            if device.type == "cuda":
                torch.cuda.empty_cache()
    return outcomes


@dataclass(frozen=True)
class _Work:
    """The training of one run."""

    run: Run
    device: torch.device
    precision: Precision
    execution: Execution
    report: Report
    asked_to_stop: Callable[[], str]

    def make(
        self, pool: Pool, subset: np.ndarray, place: Path, stored: Path, digest: str
    ) -> dict[str, Any]:
        """Train, write history and weights, and return what the record says of them."""
        use_deterministic(self.execution.deterministic, self.precision)
        remove_partial(stored)
        training, initial = self._prepared(pool, subset)
        if stored.exists():
            try:
                load_checkpoint(training, stored, digest)
            except ValueError as error:
                log.warning("%s; the training starts anew", error)
                training, initial = self._prepared(pool, subset)
            else:
                log.info("%s goes on at step %d", self.run.name, training.step)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        resumed, last = training.step, time.monotonic()

        def after_step(training: Training) -> None:
            nonlocal last
            self.report(self.run, training.step, training.steps)
            asked = self.asked_to_stop()
            is_due = time.monotonic() - last >= self.execution.checkpoint_seconds
            if training.step < training.steps and (asked or is_due):
                save_checkpoint(training, stored, digest)
                last = time.monotonic()
            if asked:
                raise Interrupted(
                    f"{asked}: {self.run.name} is stored at step {training.step} of "
                    f"{training.steps} and goes on from there when it is started again"
                )

        training.run(after_step)
        write_rows(place / "history.csv", training.history)
        save_weights(training.model, place / "weights.safetensors")
        return {
            "steps": training.steps,
            "parameters": sum(each.numel() for each in training.model.parameters()),
            "initial_weights": initial,
            "resumed_at": resumed,
            "cost": {
                "training_seconds": training.seconds,
                "seconds_per_step": training.seconds / training.steps,
                "peak_memory_mb": _peak_memory(self.device),
                **_step_means(training.history, ("masked_area", "energy")),
            },
        }

    def _prepared(self, pool: Pool, subset: np.ndarray) -> tuple[Training, str]:
        """Return the training before its first step, and the digest of its initial weights."""
        run, images = self.run, pool.images.x[subset]
        whole = TrainingSet.on(
            self.device,
            images,
            pool.images.y[subset],
            pool.mean,
            pool.deviation,
            streams=images.nbytes > self.execution.resident_share * free_memory(self.device),
        )
        kept = run.recipe.selection.kept(len(whole))
        trained_on, held_back = whole.split(kept) if kept < len(whole) else (whole, None)
        model = build_model(run, self.device)
        initial = array_digest(*(each.cpu().numpy() for each in model.state_dict().values()))
        streams = Streams.seeded(
            lambda name: stream_seed(name, run.dataset, run.train_size, run.seed), self.device
        )
        training = Training(
            model,
            build(run.composition),
            trained_on,
            run.recipe,
            streams,
            self.precision,
            held_back,
            self.execution.capture,
        )
        return training, initial


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
