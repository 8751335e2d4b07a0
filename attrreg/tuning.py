"""The trials of `attrreg tune`: seeded, halved successively, judged on the validation split."""

import csv
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import optuna
import torch
from torch import nn
from torch.nn import functional as F

from attrreg.cells import Run
from attrreg.data.device import TrainingSet
from attrreg.data.sources import Pool, read_held_out, read_pool
from attrreg.data.subsets import Subset, draw_subsets, subset_path
from attrreg.evaluation.predict import BATCH, predict
from attrreg.execution import Execution
from attrreg.files import path_name, remove_partial, write_rows, writing
from attrreg.interruption import Interrupted, listening
from attrreg.machine import choose_precision
from attrreg.provenance import array_digest, digest, source_digest, stream_seed
from attrreg.training.engine import Diverged, Training
from attrreg.training.runs import prepare, resident_or_streaming, subset_of
from attrreg.tuning_settings import Domain, Range, Study, Trial, changed, written

__all__ = ["table_path", "tune"]

Report = Callable[[Run, int, int], None]
STATES = {
    "finished": optuna.trial.TrialState.COMPLETE,
    "pruned": optuna.trial.TrialState.PRUNED,
    "failed": optuna.trial.TrialState.FAIL,
}
COLUMNS = ("number", "state", "steps", "seconds")  # of every table; the others are its study's
log = logging.getLogger(__name__)


def tune(
    studies: Sequence[Study],
    folder: Path,
    data: Path,
    device: torch.device,
    execution: Execution,
    report: Report = lambda run, step, steps: None,
) -> Iterator[tuple[Study, list[Trial]]]:
    """Yield every study with its trials; those that its table has already are not made again.

    Parameters
    ----------
    studies
        Of one dataset, one model, and the same settings.
    folder
        Of the experiment; tables go to ``tuning`` below it.
    data
        The folder of prepared datasets; the orders of the seeds are drawn if they are not there.
    device, execution
        Where and how to train.
    report
        Called after every step with the trial's run, the steps done, and the steps in all.

    Raises
    ------
    Interrupted
        A signal asked to stop; the trials that have ended are stored.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    run, tuning = studies[0].run, studies[0].tuning
    pool = read_pool(data, run.source)
    split = read_held_out(data, run.source, ["validation"])["validation"]
    with listening() as asked_to_stop:
        bench = _Bench(
            pool,
            {seed: _subset(data, pool, replace(run, seed=seed)) for seed in tuning.seeds or ()},
            resident_or_streaming(device, execution, pool, split._replace(x=np.array(split.x))),
            array_digest(split.x, split.y),
            device,
            execution,
            report,
            asked_to_stop,
        )
        for study in studies:
            yield study, _Work(study, bench).trials(table_path(folder, study.run))


def table_path(folder: Path, run: Run) -> Path:
    """Return where the trials of a method lie in the folder of an experiment."""
    dataset, model, method = map(path_name, (run.dataset, run.model, run.method))
    return folder / "tuning" / dataset / model / f"{method}.csv"


@dataclass(frozen=True)
class _Bench:
    """What the trials of all methods have in common."""

    pool: Pool
    subsets: dict[int, Subset]
    validation: TrainingSet
    validation_digest: str
    device: torch.device
    execution: Execution
    report: Report
    asked_to_stop: Callable[[], str]

    def training(self, run: Run) -> Training:
        """Return the training of a run before its first step, as in an experiment."""
        return prepare(run, self.pool, self.subsets[run.seed], self.device, self.execution)

    def score(self, model: nn.Module) -> tuple[float, float]:
        """Return accuracy and negative log-likelihood on the validation split.

        Raises
        ------
        Diverged
            The likelihood is not finite.
        """
        places = torch.arange(len(self.validation), device=self.device).split(BATCH)
        pairs = [(predict(model, x), y) for x, y in map(self.validation.batch, places)]
        logits, y = (torch.cat(each) for each in zip(*pairs, strict=True))
        logits = logits.double()
        hits = (logits.argmax(1) == y).double().mean()
        accuracy, nll = torch.stack([hits, F.cross_entropy(logits, y)]).tolist()
        if not np.isfinite(nll):
            raise Diverged(f"the negative log-likelihood on the validation split is {nll}")
        return accuracy, nll


@dataclass(frozen=True)
class _Work:
    """The trials of one study, and their table."""

    study: Study
    bench: _Bench

    def trials(self, path: Path) -> list[Trial]:
        """Return all trials of the study, after making and storing those that are missing."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(path.parent / f".{path.name}.lock"):
            remove_partial(path)
            done = self.stored(path)
            for number in range(len(done), self.study.tuning.trials):
                done.append(self.trial(number, done))
                self.store(path, done)
        return done

    def trial(self, number: int, before: Sequence[Trial]) -> Trial:
        """Make a trial: its number and those before it decide its values."""
        run, tuning = self.study.run, self.study.tuning
        asked = self.asked(number, before)
        trial = Trial(number, _decoded(asked.params, self.study.domains))
        begun = time.perf_counter()
        try:
            composition, recipe = changed(run.composition, run.recipe, trial.values)
            run = replace(run, composition=composition, recipe=recipe)
            for seed in self.bench.subsets:
                self.train(replace(run, seed=seed), trial)
                if len(trial.scores) in self.study.rungs:
                    asked.report(trial.mean(tuning.metric), len(trial.scores))
                    if asked.should_prune():
                        trial.state = "pruned"
                        break
        except OSError:
            raise
        except Exception as error:  # the failure is the result; other trials go on
            trial.state = "failed"
            trial.message = " ".join(f"{type(error).__name__}: {error}".split())
        trial.seconds = time.perf_counter() - begun
        if self.bench.device.type == "cuda":
            torch.cuda.empty_cache()
        log.info("%s, trial %d of %d: %s", run.method, number + 1, tuning.trials, _news(trial))
        return trial

    def train(self, run: Run, trial: Trial) -> None:
        """Train a run, and add to its trial what that has cost and what it reaches."""
        training, before = self.bench.training(run), trial.steps
        steps = training.steps * len(self.bench.subsets)

        def after_step(training: Training) -> None:
            trial.steps = before + training.step
            self.bench.report(self.study.run, trial.steps, steps)
            if asked := self.bench.asked_to_stop():
                raise Interrupted(
                    f"{asked}: the trials of {run.method} before this one, {trial.number}, are "
                    "stored; started again, the tuning goes on with it"
                )

        training.run(after_step)
        trial.scores.append(self.bench.score(training.model))

    def asked(self, number: int, before: Sequence[Trial]) -> optuna.Trial:
        """Return what optuna says about the next trial.

        Its sampler is seeded anew for every trial and its memory filled from the table, so nothing
        but the table decides how a study that was interrupted goes on. The seed is the same for all
        methods: what is drawn at random for the recipe, is drawn alike for all of them.
        """
        run, tuning, own = self.study.run, self.study.tuning, self.study.own
        seed = stream_seed("tuning", run.dataset, run.model, number)
        study = optuna.create_study(
            direction="maximize" if tuning.metric == "accuracy" else "minimize",
            sampler=optuna.samplers.TPESampler(seed=seed % 2**32),
            pruner=optuna.pruners.SuccessiveHalvingPruner(
                min_resource=1, reduction_factor=tuning.reduction
            ),
        )
        distributions = {
            path: _distribution(domain, own[path]) for path, domain in self.study.domains.items()
        }
        for trial in before:
            study.add_trial(self.remembered(trial, distributions))
        if not before:
            study.enqueue_trial(_encoded(own, self.study.domains))
        return study.ask(distributions)

    def remembered(self, trial: Trial, distributions: dict[str, Any]) -> optuna.trial.FrozenTrial:
        """Return a trial as optuna remembers it, with the rungs under the name its pruner knows."""
        metric = self.study.tuning.metric
        rungs = {
            rung: trial.mean(metric, rung) for rung in self.study.rungs if rung <= len(trial.scores)
        }
        return optuna.trial.create_trial(
            state=STATES[trial.state],
            value=trial.mean(metric) if trial.state == "finished" else None,
            params=_encoded(trial.values, self.study.domains),
            distributions=distributions,
            system_attrs={f"completed_rung_{at}": each for at, each in enumerate(rungs.values())},
            intermediate_values=rungs,
        )

    @cached_property
    def digest(self) -> str:
        """What stands for all that decides a trial but its number and those before it."""
        run, tuning, bench = self.study.run, self.study.tuning, self.bench
        return digest(
            [
                run.intent,
                [bench.pool.digest, bench.validation_digest],
                {seed: array_digest(*subset) for seed, subset in bench.subsets.items()},
                [tuning.reduction, tuning.metric],
                {
                    path: domain.model_dump() if isinstance(domain, Range) else domain
                    for path, domain in self.study.domains.items()
                },
                [bench.device.type, choose_precision(run.recipe.precision, bench.device)],
                source_digest("attrreg.tuning"),
                version("optuna"),
            ]
        )

    def store(self, path: Path, trials: Sequence[Trial]) -> None:
        """Write the table of the study."""
        rows = []
        for trial in trials:
            row: dict[str, Any] = {name: getattr(trial, name) for name in COLUMNS}
            for at, seed in enumerate(self.bench.subsets):
                known = trial.scores[at] if at < len(trial.scores) else (None, None)
                row |= dict(zip(_score_names(seed), known, strict=True))
            row |= {path: written(value) for path, value in trial.values.items()}
            rows.append(row | {"message": trial.message, "digest": self.digest})
        with writing(path) as temporary:
            write_rows(temporary, rows)

    def stored(self, path: Path) -> list[Trial]:
        """Return the trials of a table, as many as are asked for; none of another study's."""
        if not path.is_file():
            return []
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        if any(row.get("digest") != self.digest for row in rows):
            return []
        return [self.read(row) for row in rows[: self.study.tuning.trials]]

    def read(self, row: dict[str, Any]) -> Trial:
        """Return the trial of a row."""
        scores = [[row[name] for name in _score_names(seed)] for seed in self.bench.subsets]
        return Trial(
            int(row["number"]),
            _decoded(row, self.study.domains),
            row["state"],
            int(row["steps"]),
            float(row["seconds"]),
            [(float(accuracy), float(nll)) for accuracy, nll in scores if accuracy],
            row["message"],
        )


def _score_names(seed: int) -> tuple[str, str]:
    return f"accuracy of seed {seed}", f"nll of seed {seed}"


def _distribution(domain: Domain, own: Any) -> optuna.distributions.BaseDistribution:
    if not isinstance(domain, Range):
        return optuna.distributions.CategoricalDistribution([written(each) for each in domain])
    if isinstance(own, int):
        return optuna.distributions.IntDistribution(int(domain.low), int(domain.high), domain.log)
    return optuna.distributions.FloatDistribution(domain.low, domain.high, domain.log)


def _encoded(values: dict[str, Any], domains: dict[str, Domain]) -> dict[str, Any]:
    """Return values as optuna knows them: those of a list as text."""
    return {
        path: values[path] if isinstance(domain, Range) else written(values[path])
        for path, domain in domains.items()
    }


def _decoded(values: dict[str, Any], domains: dict[str, Domain]) -> dict[str, Any]:
    """Return values from what optuna, or a table, has of them."""

    def value(domain: Domain, known: Any) -> Any:
        if not isinstance(domain, Range):
            return {written(each): each for each in domain}[known]
        return json.loads(known) if isinstance(known, str) else known

    return {path: value(domain, values[path]) for path, domain in domains.items()}


def _subset(data: Path, pool: Pool, run: Run) -> Subset:
    if not subset_path(data, run.source, run.seed).is_file():
        draw_subsets(data, run.source, run.seed, pool.images.y)
    return subset_of(run, pool, data)


def _news(trial: Trial) -> str:
    values = ", ".join(f"{path} {written(value)}" for path, value in trial.values.items())
    if trial.state == "failed":
        return f"failed, {trial.message}; {values}"
    found = f"accuracy {trial.mean('accuracy'):.3f}, nll {trial.mean('nll'):.3f}"
    return f"{trial.state}, {found}; {values}"
