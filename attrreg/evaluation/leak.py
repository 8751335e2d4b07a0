"""The leak of the label: what a network reads that sees only the masks of a method.

A map of the true label makes what is done to the input a channel from label to input. Its width is
measured by a probe, a small network that sees masks and nothing else. It learns from the masks of
images that neither it is tested on nor the model was trained on, and reads those of the validation
split; the test split has no part in this. Three numbers belong together:

==============  ===============  ===================================================================
told to         read             what it says
explain
==============  ===============  ===================================================================
a random class  that class       the channel from label to mask, and nothing else: the class is
                                 drawn apart from the image
a random class  the true class   what of the image shows in the mask; no leak of the label
the label       the true class   both together, as in training
==============  ===============  ===================================================================

A probe that fails proves little: another network may read more. So each number is a lower bound, up
to its interval.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attrreg import catalogue, parameters
from attrreg.cells import Run
from attrreg.data.device import TrainingSet
from attrreg.data.sources import Pool, read_held_out, read_pool
from attrreg.evaluation.leak_masks import always, draw_masks
from attrreg.evaluation.leak_probe import Reading, interval, probe
from attrreg.evaluation.leak_readings import (
    DRAWS,
    FROM_IMAGE,
    GIVEN,
    IMAGES,
    LABEL,
    RANDOM,
    READINGS,
    TRUE,
    Images,
    Report,
    held_out_places,
    learning_places,
    readings,
)
from attrreg.method import build
from attrreg.provenance import stream_seed
from attrreg.recipe import Recipe, Schedule
from attrreg.training.engine import Streams, train
from attrreg.training.runs import build_model, subset_of

__all__ = [
    "READINGS",
    "Question",
    "Reading",
    "answer",
    "draw_masks",
    "interval",
    "probe",
    "sentences",
    "table",
]


@dataclass(frozen=True)
class Question:
    """What is asked: the masks of which method, and of which model.

    Parameters
    ----------
    method
        A preset, or "<preset>/<control>", that perturbs its input.
    dataset, model, train_size, seed
        The model's place in a grid; it is the very model that an experiment with this recipe has
        there.
    steps
        Length of its training; the rest of the recipe is the demo's.
    trained_by
        The method it is trained by; empty: by `method`. One and the same for several methods shows
        what their masks give away of the same model.
    draws
        Masks per image, each with a class, an area and noise of its own.
    """

    method: str
    dataset: str
    model: str = "resnet10-narrow"
    train_size: int = 200
    seed: int = 0
    steps: int = 300
    trained_by: str = ""
    draws: int = DRAWS

    def run(self) -> Run:
        """Return the run that trains the model.

        Raises
        ------
        KeyError
            An unknown name; the message gives the nearest match.
        """
        catalogue.model(self.model)
        return Run(
            self.dataset,
            self.model,
            self.trained_by or self.method,
            self.train_size,
            self.seed,
            self.model,
            {},
            catalogue.preset(self.trained_by or self.method),
            Recipe(steps=self.steps, schedule=Schedule(warm_up_steps=20)),
        )

    def composition(self) -> parameters.Composition:
        """Return the parts of the method, with the coin set to always.

        Raises
        ------
        KeyError
            An unknown name; the message gives the nearest match.
        ValueError
            The method leaves its input as it is.
        """
        composition = catalogue.preset(self.method)
        if composition.perturbation is None:
            raise ValueError(
                f"method {self.method!r} changes no input, so it has no masks to read from: give a "
                "method that perturbs, such as reldrop-block"
            )
        return always(composition)


def answer(
    question: Question,
    data: Path,
    device: torch.device,
    report: Report = lambda stage, done, total: None,
) -> list[dict[str, Any]]:
    """Train the model, draw masks, and return what the probe reads: a row per number.

    The masks that the probe learns from are those of the images that follow the model's own in the
    order of the seed, the masks that it is tested on those of the validation split; of both at most
    2,000 images.

    Parameters
    ----------
    question
        Which method and model.
    data
        The folder of prepared datasets.
    device
        Where to compute.
    report
        Called now and then with the stage, and how much of it is done.

    Raises
    ------
    ValueError
        The method has no masks, or the pool has no images left for the probe.
    FileNotFoundError
        The dataset is not prepared, or the order of its subsets not drawn.
    """
    run, composition = question.run(), question.composition()
    entry = run.source.entry
    if not entry.classes <= question.train_size <= entry.pool - entry.classes:
        raise ValueError(
            f"train size {question.train_size} does not suit a pool of {entry.pool} images of "
            f"{entry.classes} classes, of which the probe needs some that the model has not seen: "
            f"give {entry.classes} to {entry.pool - entry.classes}"
        )
    pool = read_pool(data, question.dataset)
    others = learning_places(run, pool, data, IMAGES)
    validation = read_held_out(data, question.dataset, ["validation"])["validation"]
    tested = held_out_places(run, validation.y, IMAGES)
    model, untrained = _trained(run, pool, data, device, report)
    found = readings(
        run,
        composition,
        model,
        Images.on(device, pool, pool.images, others),
        Images.on(device, pool, validation, tested),
        pool,
        untrained=untrained,
        draws=question.draws,
        report=report,
    )
    return [
        _row(question, explained, read, reading, len(others))
        for (explained, read), reading in found.items()
    ]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the numbers of `answer` for a reader."""
    first = rows[0]
    lines = [
        f"{first['dataset']}: what a probe reads from the masks of {first['method']}",
        f"model {first['model']} trained by {first['trained_by']} on {first['train_size']} images "
        f"for {first['steps']} steps, seed {first['seed']}",
        f"the probe learned from {first['learning_images']} other images and reads "
        f"{first['images']} of the validation split, {first['draws']} masks of each",
        f"it sees {first['seen']}",
        "",
        f"{'told to explain':<17}{'read':<17}{'accuracy':>8}{'95 % interval':>18}{'chance':>9}",
    ]
    for row in rows:
        between = f"{100 * row['low']:.1f} … {100 * row['high']:.1f} %"
        lines.append(
            f"{row['explained']:<17}{row['read']:<17}{_percent(row['accuracy']):>8}{between:>18}"
            f"{_percent(row['chance']):>9}"
        )
    lines.append("interval: Korn and Graubard's, by image; chance: uniform, or the largest class")
    return "\n".join(lines)


def sentences(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return what the numbers of `answer` say, in words: a sentence per row, and a note if due."""
    said = [_sentence(row) for row in rows]
    method = rows[0]["method"]
    attribution = parameters.chain(catalogue.preset(method).attribution)
    if any(isinstance(part, parameters.Uniform | parameters.UniformMap) for part in attribution):
        said.append(
            f"note: the maps of {method} look at nothing, so they tell no class; what is read "
            "above chance is read from how much is changed, or is chance itself, as in 1 of 40 rows"
        )
    elif any(isinstance(part, parameters.RandomClass) for part in attribution):
        said.append(
            f"note: {method} explains a class that it draws itself, whatever it is told; what is "
            "read of the true class is read from the image"
        )
    return said


def _sentence(row: dict[str, Any]) -> str:
    aside = (
        " with a random class explained" if (row["explained"], row["read"]) == FROM_IMAGE else ""
    )
    if row["low"] <= row["chance"]:
        above = max(0.0, 100 * (row["high"] - row["chance"]))
        return (
            f"no leak found at this precision: this probe reads the {row['read']}{aside} at most "
            f"{above:.1f} points above chance"
        )
    meaning = {
        (RANDOM, GIVEN): "the label can pass through the mask",
        FROM_IMAGE: "that much the image alone shows, and it is no leak of the label",
        (LABEL, TRUE): "label and image together, as in training",
    }[row["explained"], row["read"]]
    return (
        f"the masks tell the {row['read']}{aside}: {_percent(row['accuracy'])}, chance is "
        f"{_percent(row['chance'])}; {meaning}"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _row(
    question: Question, explained: str, read: str, reading: Reading, learning_images: int
) -> dict[str, Any]:
    return {
        "dataset": question.dataset,
        "model": question.model,
        "method": question.method,
        "train_size": question.train_size,
        "seed": question.seed,
        "steps": question.steps,
        "trained_by": question.trained_by or question.method,
        "draws": question.draws,
        "explained": explained,
        "read": read,
        "seen": _seen(question.composition().perturbation),
        "accuracy": float(reading.accuracy),
        "low": float(reading.low),
        "high": float(reading.high),
        "chance": float(reading.chance),
        "masks": reading.masks,
        "images": reading.images,
        "learning_images": learning_images,
    }


def _seen(perturbation: Any) -> str:
    is_mask = isinstance(perturbation, parameters.Masking)
    return "which features are changed" if is_mask else "how much each feature is changed"


def _trained(
    run: Run, pool: Pool, data: Path, device: torch.device, report: Report
) -> tuple[nn.Module, nn.Module]:
    """Return the run's model after training, and a copy from before."""
    own = pool.images.take(subset_of(run, pool, data).indices)
    training = TrainingSet.on(device, own, pool.mean, pool.deviation)
    model, untrained = build_model(run, device), build_model(run, device)
    streams = Streams.seeded(
        lambda name: stream_seed(name, run.dataset, run.train_size, run.seed), device
    )
    train(
        model,
        build(run.composition),
        training,
        run.recipe,
        streams,
        partial(report, "training the model"),
    )
    return model, untrained.requires_grad_(False).eval()
