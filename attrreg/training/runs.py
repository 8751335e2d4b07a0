"""A run from its description to its directory, and a shard of them one after another."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from attrreg import models
from attrreg.cells import Run, part_modules
from attrreg.data.device import TrainingSet
from attrreg.data.samples import Arrays
from attrreg.data.sources import Pool, read_pool
from attrreg.data.subsets import Subset, read_subset
from attrreg.execution import Execution
from attrreg.files import path_name, remove_partial, write_rows
from attrreg.interruption import Interrupted, listening
from attrreg.machine import (
    Precision,
    choose_precision,
    free_memory,
    peak_memory,
    reset_peak_memory,
    use_deterministic,
)
from attrreg.method import build
from attrreg.parameters import Composition
from attrreg.provenance import array_digest, digest, file_digest, source_digest, stream_seed
from attrreg.recipe import Recipe
from attrreg.records import Outcome, record_work
from attrreg.training.budget import STEPS, cost_ratio
from attrreg.training.checkpoint import load_checkpoint, save_checkpoint, save_weights
from attrreg.training.engine import Streams, Training

__all__ = [
    "build_model",
    "parts_of",
    "prepare",
    "resident_or_streaming",
    "subset_of",
    "train_shard",
]

Report = Callable[[Run, int, int], None]
EXECUTION = Execution()
TELLING = 10.0  # seconds between two lines of the log, at the least
log = logging.getLogger(__name__)


def build_model(run: Run, device: torch.device) -> torch.nn.Module:
    """Return the run's model with its initial weights, the same for every method and size."""
    channels, *size = run.source.shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed("initialisation", run.dataset, run.model, run.seed))
        model: torch.nn.Module = models.create(
            run.base,
            num_classes=run.source.entry.classes,
            in_chans=channels,
            image_size=size[0],
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
    last stored. The models of a run's cross-fitting are trained before it and lie beside it.

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
    pools = {run.dataset: read_pool(data, run.source) for run in _one_of_each_dataset(runs)}
    outcomes: dict[Run, Outcome] = {}
    with listening() as asked_to_stop:
        for run in runs:
            pool = pools[run.dataset]
            subset = subset_of(run, pool, data)
            parts = (*run.folds, run)  # the run itself last: when it is there, all of it is
            for number, part in enumerate(parts):
                if asked := asked_to_stop():
                    raise Interrupted(
                        f"{asked}: stopped before {part.name}; start it again to go on"
                    )
                work = _Work(part, pool, subset, results, device, execution)
                told = _as_part(report, run, number, len(parts))
                outcomes[run] = work.record(retry_failed, told, asked_to_stop)
                if part is not run and outcomes[run].startswith("failed"):
                    log.warning("%s failed, so its run cannot be evaluated", part.name)
                if device.type == "cuda":
                    torch.cuda.empty_cache()
    return outcomes


def _as_part(report: Report, whole: Run, number: int, parts: int) -> Report:
    """Return a report that counts the steps of the models of a cross-fitting as the run's own."""
    return lambda run, step, steps: report(whole, number * steps + step, parts * steps)


def subset_of(run: Run, pool: Pool, data: Path) -> Subset:
    """Return the training samples of a run, and the labels that it is given."""
    return read_subset(data, run.source, run.seed, run.train_size, pool.images.y)


def _one_of_each_dataset(runs: Sequence[Run]) -> list[Run]:
    return list({run.dataset: run for run in runs}.values())


@dataclass(frozen=True)
class _Work:
    """The training of one run."""

    run: Run
    pool: Pool
    subset: Subset
    results: Path
    device: torch.device
    execution: Execution

    def record(
        self, retry_failed: bool, report: Report, asked_to_stop: Callable[[], str]
    ) -> Outcome:
        """Make the run's directory, unless it is there."""
        run = self.run
        place = self.results / "runs" / run.path
        stored = place.parent / f".{place.name}.checkpoint.safetensors"
        head = {
            **run.key,
            "intent": run.intent,
            "composition": run.composition.model_dump(mode="json"),
            "recipe": run.recipe.model_dump(mode="json"),
            "device": self.device.type,
            "precision": self.precision,
            "source": run.source.identity,
            "made_of": [run.base, run.options],
            "subset": array_digest(*self.subset),
        }
        wanted = [run.intent, self.pool.digest, head["subset"], self.device.type, self.precision]
        try:
            if "weights" in run.options:
                wanted.append(file_digest(Path(run.options["weights"])))
            budget = self.budget()
        except OSError:
            raise
        except Exception as error:  # a run that cannot be measured has failed
            return record_work(place, digest(wanted), head, _raising(error), retry_failed)
        if run.fold is not None:
            head["fold"] = run.fold
        if budget:
            head |= {"budget": budget, "recipe": self.recipe(budget).model_dump(mode="json")}
            wanted.append(budget["ratio"])
        whole = digest(wanted)

        def make(directory: Path) -> dict[str, Any]:
            return self.make(directory, stored, whole, report, asked_to_stop)

        outcome = record_work(place, whole, head, make, retry_failed)
        stored.unlink(missing_ok=True)
        return outcome

    @property
    def precision(self) -> Precision:
        """The precision that the recipe means on this device."""
        return choose_precision(self.run.recipe.precision, self.device)

    def make(
        self,
        place: Path,
        stored: Path,
        digest: str,
        report: Report,
        asked_to_stop: Callable[[], str],
    ) -> dict[str, Any]:
        """Train, write history and weights, and return what the record says of them."""
        remove_partial(stored)
        recipe = self.recipe(self.budget())
        training = self.prepared(self.run.composition, recipe)
        initial = _digest_of(training.model)
        start = models.origin(training.model)
        if stored.exists():
            try:
                load_checkpoint(training, stored, digest)
            except ValueError as error:
                log.warning("%s; the training starts anew", error)
                training = self.prepared(self.run.composition, recipe)
            else:
                log.info("%s goes on at step %d", self.run.name, training.step)
        reset_peak_memory(self.device)
        resumed, last, told = training.step, time.monotonic(), time.monotonic()

        def after_step(training: Training) -> None:
            nonlocal last, told
            report(self.run, training.step, training.steps)
            now, asked = time.monotonic(), asked_to_stop()
            if now - told >= TELLING and training.history[-1:]:
                log.info("%s: %s", self.run.name, _news(training))
                told = now
            is_due = now - last >= self.execution.checkpoint_seconds
            if training.step == training.steps:
                return  # what has ended is recorded first
            if asked or is_due:
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
            "flops": models.counts(training.model, self.run.source.shape).flops,
            "initial_weights": initial,
            "weights_from": start,
            "resumed_at": resumed,
            "capture": training.capture,
            "cost": {
                "training_seconds": training.seconds,
                "device_seconds": training.device_seconds,
                "seconds_per_step": training.seconds / training.steps,
                "peak_memory_mb": peak_memory(self.device),
                **_step_means(training.history, ("masked_area", "energy")),
            },
        }

    def budget(self) -> dict[str, Any]:
        """Return what a step of the matched method costs in steps of this one; {} without one."""
        if self.run.matched is None:
            return {}
        run, (other, _) = self.run, self.run.matched
        batch = min(run.recipe.batch_size, run.train_size)
        whole = replace(self, run=replace(run, fold=None))  # a ratio for the run and its folds
        selection = run.recipe.selection.model_copy(update={"folds": None})
        trial = run.recipe.model_copy(
            update={"steps": STEPS, "epochs": None, "selection": selection}
        )
        modules = {module for each in (run.composition, other) for module in part_modules(each)}
        described = [
            *(each.model_dump(mode="json") for each in (run.composition, other, trial)),
            *(run.base, run.options, run.dataset, batch, self.device.type, self.precision),
            source_digest("attrreg.training.runs", *sorted(modules)),
        ]
        name = f"{path_name(run.method)}--{path_name(run.model)}--{path_name(run.dataset)}--{batch}"
        return cost_ratio(
            self.results / "costs" / f"{name}.json",
            digest(described),
            lambda: (whole.prepared(other, trial), whole.prepared(run.composition, trial)),
        )

    def recipe(self, budget: dict[str, Any]) -> Recipe:
        """Return the recipe, its length measured where the run asks for that."""
        if self.run.matched is None:
            return self.run.recipe
        size, other = self.run.train_size, self.run.matched[1]
        kept = other.selection.kept(size)
        if self.run.fold is not None:
            selection = self.run.recipe.selection
            kept = size - len(selection.fold(self.subset.labels.tolist(), self.run.fold))
        steps = round(budget["ratio"] * other.total_steps(kept))
        return self.run.recipe.model_copy(update={"steps": max(1, steps), "epochs": None})

    def prepared(self, composition: Composition, recipe: Recipe) -> Training:
        """Return a training of the run's model and subset before its first step."""
        run = replace(self.run, composition=composition, recipe=recipe)
        return prepare(run, self.pool, self.subset, self.device, self.execution)


def prepare(
    run: Run, pool: Pool, subset: Subset, device: torch.device, execution: Execution
) -> Training:
    """Return the training of a run on a subset of its pool, before its first step."""
    precision = choose_precision(run.recipe.precision, device)
    use_deterministic(execution.deterministic, precision)
    chosen = pool.images.take(subset.indices)._replace(y=subset.labels)
    whole = resident_or_streaming(device, execution, pool, chosen)
    trained_on, held_back = parts_of(run, whole)
    return Training(
        build_model(run, device),
        build(run.composition),
        trained_on,
        run.recipe,
        Streams.seeded(
            lambda name: stream_seed(name, run.dataset, run.train_size, run.seed), device
        ),
        precision,
        held_back,
        execution.capture,
    )


def parts_of(run: Run, whole: TrainingSet) -> tuple[TrainingSet, TrainingSet | None]:
    """Return the samples that a run is trained on, and those that it holds back.

    A fold of a cross-fitting holds nothing back: what it leaves out chooses nothing in training.
    """
    selection = run.recipe.selection
    if run.fold is not None:
        return whole.without(selection.fold(whole.y.tolist(), run.fold)), None
    kept = selection.kept(len(whole))
    return whole.split(kept) if kept < len(whole) else (whole, None)


def resident_or_streaming(
    device: torch.device, execution: Execution, pool: Pool, samples: Arrays
) -> TrainingSet:
    """Return samples, normalised as the pool, on a device if they leave enough of its memory."""
    streams = samples.x.nbytes > execution.resident_share * free_memory(device)
    return TrainingSet.on(device, samples, pool.mean, pool.deviation, streams=streams)


def _news(training: Training) -> str:
    """Say how far a training is, how it goes, and until when."""
    row = training.history[-1]
    left = training.seconds / training.step * (training.steps - training.step)
    until = time.strftime("%H:%M:%S", time.localtime(time.time() + left))
    return (
        f"epoch {row['epoch']:g}, step {training.step} of {training.steps}, loss {row['loss']:.3f}"
        f", until about {until}"
    )


def _raising(error: Exception) -> Callable[[Path], dict[str, Any]]:
    def work(directory: Path) -> dict[str, Any]:
        raise error

    return work


def _digest_of(model: torch.nn.Module) -> str:
    return array_digest(*(each.cpu().numpy() for each in model.state_dict().values()))


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
