"""What every measure of an evaluation costs, in milliseconds per 1,000 samples and in plain passes.

python benchmarks/evaluation.py [--device cuda] [--model resnet18] [--image-size 32]

Each is timed in turn with a plain pass of the same model over the same images, in one process. The
share is that of a whole training, for a test split of 10,000 and the standard profile, which makes
what needs many passes on 500 samples.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timing import RESULTS, against, as_trained, chosen, write

from attrreg import catalogue, method, models
from attrreg.cells import Run
from attrreg.data.device import input_bounds, normalise
from attrreg.data.samples import Arrays
from attrreg.data.sources import Pool
from attrreg.evaluation import leak_measure, map_measures, measures
from attrreg.evaluation.leak_masks import always
from attrreg.evaluation.leak_readings import Images, readings
from attrreg.evaluation.predict import predict
from attrreg.evaluation.subject import HeldOut, Subject
from attrreg.evaluation.zero_shot import OtherSet, score_sets
from attrreg.machine import use_threads
from attrreg.protocol import Evaluation
from attrreg.recipe import Recipe

ORDERS = (
    *("random-pixels", "random-block", "grid-patches"),
    *("most-relevant-first", "neutral-most-relevant-first"),
)
MAPS = ("gradient", "lrp-0", "epsilon-plus-flat", "smoothgrad-squared", "integrated-gradients")
TRAINING = 100 * 5000  # samples that are trained on: 100 epochs of 5,000
TEST, SAMPLE = 10_000, 500
WHOLE = (
    *("predictions and calibration", "another test set", "margin"),
    *(f"occlusion {order}" for order in ORDERS),
)


def main() -> None:
    arguments = _arguments()
    use_threads(threads=1)
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    subject = _subject(arguments.model, arguments.image_size, arguments.samples, device)
    tasks = _tasks(subject)
    x, y = subject.held_out.splits["test"]
    n = len(x)

    def plain() -> None:
        predict(subject.model, x)

    def step() -> None:
        method.create("baseline").loss(subject.model.train(), x, y).total.backward()

    training = against(step, plain, arguments.repeats, device)
    milliseconds = training["milliseconds"] / n * TRAINING
    rows = []
    for name in chosen(arguments.only, tasks):
        row = against(tasks[name], plain, arguments.repeats, device)
        per_thousand = row["milliseconds"] / n * 1000
        of_whole = per_thousand / 1000 * (TEST if name in WHOLE else SAMPLE)
        rows.append(
            {"measure": name, "ms_per_1000": round(per_thousand, 1), "passes": row.pop("ratio")}
            | {"share_of_training": round(of_whole / milliseconds, 4)}
            | {**row, "samples": n, "model": arguments.model, "image_size": arguments.image_size}
        )
        print({key: rows[-1][key] for key in ("measure", "ms_per_1000", "passes")}, flush=True)
    name = f"evaluation-{arguments.model}-{device.type}.csv"
    write(arguments.results / name, rows, device)


def _subject(name: str, size: int, n: int, device: torch.device) -> Subject:
    """Return an untrained model with trained-like norms, and random images with regions."""
    model = models.create(name, num_classes=10, in_chans=3, image_size=size)
    model = as_trained(model).to(device).eval()
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (n, 3, size, size), dtype=np.uint8)
    labels = np.arange(n) % 10
    centre, spread = np.full(3, 0.5, np.float32), np.full(3, 0.25, np.float32)
    pool = Pool(Arrays(pixels, labels), "", centre, spread, tuple("0123456789"))
    mean, deviation = (torch.from_numpy(each).to(device) for each in (centre, spread))
    x = torch.from_numpy(pixels).to(device)
    y = torch.from_numpy(labels).to(device)
    region = torch.zeros(n, size, size, dtype=torch.bool, device=device)
    region[:, size // 4 : size // 2, size // 4 : size // 2] = True
    inputs = normalise(x, mean, deviation)
    held_out = HeldOut(
        {"validation": (inputs, y), "test": (inputs, y)},
        x,
        pool,
        mean.view(-1, 1, 1),
        deviation.view(-1, 1, 1),
        input_bounds(mean, deviation),
        region,
    )
    parts = catalogue.preset("baseline")
    run = Run("shapes", name, "baseline", n, 0, name, {}, parts, Recipe(steps=1))
    settings = Evaluation(orders=ORDERS, profile="full", maps=("gradient",))
    return Subject(run, model, held_out, settings, Path(), model)


def _tasks(subject: Subject) -> dict[str, Callable[[], object]]:
    """Return by name what is timed; nothing that is kept from one call to the next helps."""

    def anew(**settings: Any) -> Subject:
        return replace(subject, settings=subject.settings.model_copy(update=settings))

    def predictions() -> None:
        fresh = anew()
        measures.predicted(fresh)
        measures._calibration(fresh.logits, fresh.held_out.splits["test"][1], 15)

    x = subject.held_out.splits["test"][0]
    tasks: dict[str, Callable[[], object]] = {"predictions and calibration": predictions}
    for order in ORDERS:
        tasks[f"occlusion {order}"] = lambda order=order: measures.occluded(anew(orders=(order,)))
    tasks["margin"] = lambda: measures.margin(anew())
    tasks["localization, gradient"] = lambda: map_measures.localized(anew())
    tasks["faithfulness, gradient, 3 fills"] = lambda: map_measures.faithful(anew())
    tasks["erasure, gradient"] = lambda: map_measures.erased(anew())
    tasks["sensitivity, gradient"] = lambda: map_measures.sensitive(anew())
    tasks["accuracy drop, 6 saliencies and random"] = lambda: map_measures.dropped(anew())
    others = dict.fromkeys("ab", lambda: subject.model)
    tasks["crossed maps, 3 methods"] = lambda: map_measures.crossed(
        replace(anew(crossed=("baseline", "a", "b")), others=others)
    )
    tasks["leak, reldrop-block"] = lambda: _leak(subject)
    tasks["another test set"] = lambda: _another_set(subject)
    tasks["shift"] = lambda: measures.shifted(anew())
    for name in MAPS:
        tasks[f"map {name}"] = lambda name=name: subject.maps(name, x)
    return tasks


def _leak(subject: Subject) -> None:
    x, y = subject.held_out.splits["test"]
    y = y % subject.run.source.entry.classes
    images, parts = Images(x, y, None), always(catalogue.preset("reldrop-block"))
    steps = leak_measure._steps(len(y))
    readings(subject.run, parts, subject.model, images, images, subject.held_out.pool, steps=steps)


def _another_set(subject: Subject) -> None:
    y = subject.held_out.splits["test"][1].cpu()
    pixels, places = subject.held_out.pixels.cpu().numpy(), np.arange(len(y))
    other = OtherSet("other", "zero_shot", pixels, places, y, tuple(range(10)), "")
    score_sets([other], subject.model, subject.held_out.normalised, subject.logits, 15)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="resnet10-narrow")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs="*", help="rows to measure; without it all")
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
