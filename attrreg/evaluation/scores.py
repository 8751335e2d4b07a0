"""The scores of a run: predictions, metrics, curves and maps, in a directory of their own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attrreg.attribution.parts import LRP
from attrreg.cells import Run, architecture
from attrreg.evaluation import map_measures
from attrreg.evaluation.measures import (
    MEASURES,
    Found,
    calibrated,
    occluded,
    on_other_sets,
    predicted,
)
from attrreg.evaluation.predict import predict
from attrreg.evaluation.subject import HeldOut, Subject
from attrreg.evaluation.zero_shot import open_sets
from attrreg.files import write_rows
from attrreg.method import build
from attrreg.parameters import chain
from attrreg.protocol import Evaluation
from attrreg.provenance import digest, stream_seed
from attrreg.records import Outcome, read_record, record_work
from attrreg.state import State
from attrreg.training.checkpoint import load_weights, save_tensors
from attrreg.training.runs import build_model

__all__ = ["evaluate_shard"]

Report = Callable[[Run, int, int], None]


def evaluate_shard(
    runs: Sequence[Run],
    results: Path,
    data: Path,
    settings: Evaluation,
    device: torch.device,
    retry_failed: bool = False,
    report: Report = lambda run, done, total: None,
    neutral: Mapping[Run, Run] | None = None,
    crossed: Mapping[Run, Mapping[str, Run]] | None = None,
) -> dict[Run, Outcome]:
    """Evaluate every finished run of a shard that has no scores yet; say what became of each.

    A run that failed, or is not there, has no scores and no entry.

    Parameters
    ----------
    runs
        The shard.
    results
        The folder of the experiment; scores lie in ``scores`` below it.
    data
        The folder of prepared datasets.
    settings
        The protocol.
    device
        Where to evaluate.
    retry_failed
        Try runs again whose evaluation failed before.
    report
        Called after every run with the run, the runs done, and the runs in all.
    neutral
        By run the one whose map is shared by all methods. Where that is not trained, what needs it
        is not measured; it is when the run is evaluated again after that.
    crossed
        By run and method the runs whose maps and models it is crossed with.
    """
    sources = {run.dataset: run.source for run in runs}
    held_outs = {name: HeldOut.on(device, data, each) for name, each in sources.items()}
    sets = {
        name: open_sets(data, each, held_outs[name].pool.class_names, settings)
        for name, each in sources.items()
    }
    outcomes: dict[Run, Outcome] = {}
    for done, run in enumerate(runs, start=1):
        record = _finished(results, run)
        if record is None:
            continue
        beside = _Beside(results, device, (neutral or {}).get(run), (crossed or {}).get(run))

        def work(place: Path, run: Run = run, beside: _Beside = beside) -> dict[str, Any]:
            subject = Subject(
                run,
                _trained(run, results, device),
                held_outs[run.dataset],
                settings,
                data,
                beside.model(beside.neutral),
                tuple(partial(_fold, each, results, device) for each in run.folds),
                beside.others(),
                sets[run.dataset],
            )
            return _evaluate(subject, place)

        intent = run.scores_intent(settings.model_dump(mode="json"))
        shared = beside.neutral
        outcomes[run] = record_work(
            results / "scores" / run.path,
            digest(
                [record["digest"], intent, device.type, beside.digests(run)]
                + [each.digest for each in sets[run.dataset]]
            ),
            {
                **run.key,
                "run": record["digest"],
                "intent": intent,
                "neutral": shared.name if shared and _finished(results, shared) else None,
            },
            work,
            retry_failed,
        )
        report(run, done, len(runs))
    return outcomes


@dataclass(frozen=True)
class _Beside:
    """The other runs that an evaluation looks at."""

    results: Path
    device: torch.device
    neutral: Run | None
    crossed: Mapping[str, Run] | None

    def digests(self, run: Run) -> list[str]:
        """Return what stands for them all; empty for one that was not trained."""
        all_of_them = (self.neutral, *run.folds, *(self.crossed or {}).values())
        records = [each and _finished(self.results, each) for each in all_of_them]
        return [each["digest"] if each else "" for each in records]

    def others(self) -> dict[str, Callable[[], nn.Module | None]] | None:
        """Return what loads the models it is crossed with; None for a run that takes no part."""
        if self.crossed is None:
            return None
        return {name: partial(self.model, run) for name, run in self.crossed.items()}

    def model(self, run: Run | None) -> nn.Module | None:
        """Return the model of a run; None for one that was not trained."""
        if run is None or _finished(self.results, run) is None:
            return None
        return _trained(run, self.results, self.device)


def _finished(results: Path, run: Run) -> dict[str, Any] | None:
    """Return the record of a run that was trained to its end, or None."""
    record = read_record(results / "runs" / run.path)
    return record if record is not None and record["status"] == "finished" else None


def _fold(run: Run, results: Path, device: torch.device) -> nn.Module:
    """Return a model of a cross-fitting, or raise if it is not there."""
    if _finished(results, run) is None:
        record = read_record(results / "runs" / run.path)
        why = record["message"] if record else "it is missing"
        raise ValueError(
            f"cross-fitting: the model that leaves out fold {run.fold} was not trained: {why}"
        )
    return _trained(run, results, device)


def _trained(run: Run, results: Path, device: torch.device) -> nn.Module:
    model = build_model(replace(run, options=architecture(run.options)), device)
    load_weights(model, results / "runs" / run.path / "weights.safetensors")
    return model


def _evaluate(subject: Subject, place: Path) -> dict[str, Any]:
    """Measure everything that the protocol asks for, and write it."""
    wanted = [predicted, calibrated, occluded, on_other_sets]
    wanted += [MEASURES[name] for name in subject.settings.measures]
    wanted.append(map_measures.crossed)
    metrics: dict[str, Tensor] = {}
    tables: dict[str, list[dict[str, Any]]] = {}
    for measure in wanted:
        found: Found = measure(subject)
        metrics |= found[0]
        tables |= {name: rows for name, rows in found[1].items() if rows}
    predictions = {
        "test/logits": subject.logits.cpu(),
        "test/labels": subject.held_out.splits["test"][1].cpu(),
    }
    save_tensors(predictions, place / "predictions.safetensors")
    rows = [{"metric": name, "value": float(value)} for name, value in metrics.items()]
    for name, content in {"metrics": rows, **tables}.items():
        write_rows(place / f"{name}.csv", content)
    save_tensors(_gallery(subject), place / "maps.safetensors")
    return {}


def _gallery(subject: Subject) -> dict[str, Tensor]:
    """Return a few test samples, the maps of their labels, and what the method does to them.

    The samples are the first of the test split, the same for every run. The method's coin is set
    to always, so that there is something to see.
    """
    run, model, held_out, settings = (
        *(subject.run, subject.model),
        *(subject.held_out, subject.settings),
    )
    x, y = (each[: settings.gallery] for each in held_out.splits["test"])
    maps = {
        "inputs": held_out.shown(x),
        "labels": y.cpu(),
        "predictions": predict(model, x).argmax(1).cpu(),
        "relevance": LRP(rule=settings.rule)(model, x, y, State(bounds=held_out.bounds)).cpu(),
    }
    composition = run.composition
    if composition.perturbation is not None:
        always = composition.perturbation.model_copy(update={"p": 1.0})
        method = build(composition.model_copy(update={"perturbation": always}))
        seed = stream_seed("gallery", run.dataset, run.seed)
        streams = [torch.Generator(x.device).manual_seed(seed + each) for each in range(2)]
        clean = x.clone().requires_grad_()
        names = [part.name for part in chain(composition.attribution)]
        state = State(
            generator=streams[0],
            indices=torch.arange(len(x)),
            size=len(x),
            bounds=held_out.bounds,
            region=None if held_out.region is None else held_out.region[: len(x)],
            memory={"untrained": build_model(run, x.device)} if "untrained" in names else {},
            forward=model,
        )
        perturbed = method.perturb(model, clean, y, generator=streams[1], state=state)[1]
        maps["perturbed"] = held_out.shown(perturbed.x)
    return maps
