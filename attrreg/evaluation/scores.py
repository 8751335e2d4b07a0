"""The scores of a run: predictions, metrics, curves and maps, in a directory of their own."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from attrreg.attribution.parts import LRP
from attrreg.cells import Run, architecture
from attrreg.data.device import input_bounds, normalise
from attrreg.data.sources import read_held_out, read_pool
from attrreg.evaluation import calibration, occlusion
from attrreg.evaluation.predict import predict
from attrreg.features import resolve_axes
from attrreg.files import write_rows
from attrreg.method import build
from attrreg.parameters import chain
from attrreg.protocol import Evaluation
from attrreg.provenance import digest, stream_seed
from attrreg.records import Outcome, read_record, record_work
from attrreg.state import State
from attrreg.training.checkpoint import load_weights, save_tensors
from attrreg.training.runs import build_model
from attrreg.variant import Variant

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
) -> dict[Run, Outcome]:
    """Evaluate every finished run of a shard that has no scores yet; say what became of each.

    A run that failed, or is not there, has no scores and no entry.
    """
    sources = {run.dataset: run.source for run in runs}
    held_outs = {name: HeldOut.on(device, data, each) for name, each in sources.items()}
    outcomes: dict[Run, Outcome] = {}
    for done, run in enumerate(runs, start=1):
        trained = results / "runs" / run.path
        record = read_record(trained)
        if record is None or record["status"] != "finished":
            continue
        held_out = held_outs[run.dataset]

        def work(
            place: Path, run: Run = run, held_out: HeldOut = held_out, trained: Path = trained
        ) -> dict[str, Any]:
            model = build_model(replace(run, options=architecture(run.options)), device)
            load_weights(model, trained / "weights.safetensors")
            return _evaluate(run, model, held_out, settings, place)

        intent = run.scores_intent(settings.model_dump(mode="json"))
        outcomes[run] = record_work(
            results / "scores" / run.path,
            digest([record["digest"], intent, device.type]),
            {**run.key, "run": record["digest"], "intent": intent},
            work,
            retry_failed,
        )
        report(run, done, len(runs))
    return outcomes


class HeldOut(NamedTuple):
    """The splits that training never sees, on the device and as models see them."""

    splits: dict[str, tuple[Tensor, Tensor]]  # name: inputs float32, labels int64
    mean: Tensor  # (channels, 1, …), of x / 255 over the pool
    deviation: Tensor
    bounds: tuple[tuple[float, ...], tuple[float, ...]]  # of the inputs, per channel
    region: Tensor | None  # of the test split, (n, *features) bool

    @classmethod
    def on(cls, device: torch.device, data: Path, dataset: Variant) -> "HeldOut":
        """Open the splits of a dataset."""
        pool = read_pool(data, dataset)
        mean, deviation = (
            torch.from_numpy(each).to(device) for each in (pool.mean, pool.deviation)
        )
        found = read_held_out(data, dataset)
        splits = {
            name: (
                normalise(torch.tensor(images.x, device=device), mean, deviation),
                torch.tensor(images.y, device=device),
            )
            for name, images in found.items()
        }
        known = found["test"].region
        region = None if known is None else torch.tensor(known, device=device)
        bounds = input_bounds(mean, deviation)
        on_channels = (-1, *[1] * (pool.images.x.ndim - 2))
        return cls(splits, mean.view(on_channels), deviation.view(on_channels), bounds, region)

    def shown(self, x: Tensor) -> Tensor:
        """Return inputs as images in [0, 1], on the CPU."""
        return (x * self.deviation + self.mean).clamp(0, 1).cpu().contiguous()


def _evaluate(
    run: Run,
    model: nn.Module,
    held_out: HeldOut,
    settings: Evaluation,
    place: Path,
) -> dict[str, Any]:
    predictions: dict[str, Tensor] = {}
    for name, (x, y) in held_out.splits.items():
        predictions[f"{name}/logits"] = predict(model, x).cpu()
        predictions[f"{name}/labels"] = y.cpu()
    logits, labels = predictions["test/logits"], predictions["test/labels"]
    metrics = {
        "accuracy": (logits.argmax(1) == labels).double().mean(),
        "nll": calibration.nll(logits, labels),
        "brier": calibration.brier(logits, labels),
        "ece": calibration.ece(logits, labels, bins=settings.bins),
    }
    curves = _curves(run, model, held_out, settings)
    metrics |= {f"occlusion-{order}": each.area for order, each in curves.items()}
    save_tensors(predictions, place / "predictions.safetensors")
    write_rows(
        place / "metrics.csv",
        [{"metric": name, "value": float(value)} for name, value in metrics.items()],
    )
    write_rows(
        place / "curves.csv",
        [
            {"order": order, "fill": settings.fill, "fraction": fraction, "accuracy": accuracy}
            for order, each in curves.items()
            for fraction, accuracy in zip(
                each.fractions.tolist(), each.accuracy.tolist(), strict=True
            )
        ],
    )
    bins = calibration.reliability(logits, labels, bins=settings.bins)
    columns = {name: values.tolist() for name, values in vars(bins).items()}
    write_rows(
        place / "reliability.csv",
        [
            {"bin": number, **dict(zip(columns, row, strict=True))}
            for number, row in enumerate(zip(*columns.values(), strict=True))
        ],
    )
    save_tensors(_gallery(run, model, held_out, settings), place / "maps.safetensors")
    return {}


def _curves(
    run: Run, model: nn.Module, held_out: HeldOut, settings: Evaluation
) -> dict[str, occlusion.Curve]:
    """Return a curve per order; at one seed every method meets the same random orders."""
    x, y = held_out.splits["test"]
    axes = resolve_axes(x, None)
    curves: dict[str, occlusion.Curve] = {}
    for name in settings.orders:
        generator = torch.Generator(x.device).manual_seed(
            stream_seed("occlusion", run.dataset, name, run.seed)
        )
        if name == "random-pixels":
            order = occlusion.random_pixels(x, generator, axes)
        elif name == "random-block":
            order = occlusion.random_block(x, generator, axes)
        else:
            own = LRP(rule=settings.rule, explained="prediction")
            known = State(bounds=held_out.bounds)
            maps = torch.cat([own(model, part, part, known) for part in x.split(256)])
            order = occlusion.most_relevant_first(maps)
        curves[name] = occlusion.curve(
            model,
            x,
            y,
            order=order,
            fill=settings.fill,
            fractions=settings.fractions,
            generator=generator,
        )
    return curves


def _gallery(
    run: Run, model: nn.Module, held_out: HeldOut, settings: Evaluation
) -> dict[str, Tensor]:
    """Return a few test samples, the maps of their labels, and what the method does to them.

    The samples are the first of the test split, the same for every run. The method's coin is set
    to always, so that there is something to see.
    """
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
