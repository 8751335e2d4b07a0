"""The leak of the label as a measure of an evaluation: of every run whose method perturbs."""

from math import ceil, nan
from typing import Any

import torch
from torch import Tensor

from attrreg import catalogue, parameters
from attrreg.data.sources import read_held_out
from attrreg.evaluation.leak_masks import always
from attrreg.evaluation.leak_probe import BATCH, STEPS, Reading
from attrreg.evaluation.leak_readings import (
    DRAWS,
    IMAGES,
    READINGS,
    Images,
    held_out_places,
    learning_places,
    readings,
)
from attrreg.evaluation.subject import Subject

__all__ = ["leak"]

NAMES = dict(zip(READINGS, ("leak-channel", "leak-image", "leak-label"), strict=True))
COLUMNS = ("accuracy", "low", "high", "chance")
PER_CLASS = 2  # images that must be left in the pool
PASSES, FEWEST = 13, 75  # of the probe over its masks, and its steps at the least


def leak(subject: Subject) -> tuple[dict[str, Tensor], dict[str, list[dict[str, Any]]]]:
    """Return how much of a class the run's masks give away, above chance, and each reading.

    The masks are those of the run's model and method, its coin set to always. The probe learns from
    pool images that follow the run's own in the order of its seed, and is tested on the validation
    split: of both at most `samples` images, or 2,000 under the profile ``full``. The test split has
    no part in it.

    ``leak-channel`` is the channel from label to mask (a random class is told and read),
    ``leak-image`` what the image alone shows (a random class is told, the true one read) and
    ``leak-label`` both (the label is told, the true class read); see `attrreg.evaluation.leak`.

    Nothing is measured of a method that does not perturb. Where the pool has fewer than two images
    per class left, the metrics are absent as well, and the table has rows without numbers.

    On one core, of 8×8 images and resnet10-narrow, 100 images cost about 2 s where masks are cheap
    and 4 s where maps are made by LRP, 500 images 8 to 18 s, all of them under ``full`` 15 to 30 s.
    """
    run, settings = subject.run, subject.settings
    if run.composition.perturbation is None:
        return {}, {}
    left = len(subject.held_out.pool.images.y) - run.train_size
    if left < PER_CLASS * run.source.entry.classes:
        return {}, {"leak": [_row(pair, None, left) for pair in READINGS]}
    # an interval needs two images
    at_most = max(2, settings.samples) if settings.profile == "standard" else IMAGES
    learn, held_out = _unseen(subject, at_most), _validation(subject, at_most)
    parts = parameters.chain(run.composition.attribution)
    looks_back = any(isinstance(part, parameters.Untrained) for part in parts)
    found = readings(
        run,
        always(run.composition),
        subject.model,
        learn,
        held_out,
        subject.held_out.pool,
        untrained=subject.initial().requires_grad_(False).eval() if looks_back else None,
        steps=_steps(len(learn.y)),
    )
    metrics = {NAMES[pair]: each.accuracy - each.chance for pair, each in found.items()}
    return metrics, {"leak": [_row(pair, each, len(learn.y)) for pair, each in found.items()]}


def _steps(images: int) -> int:
    """Return the length of a probe's training: from 877 images on that of ``attrreg leak``.

    Of fewer images a longer training reads hardly more, since the probe learns them by heart.
    """
    return min(STEPS, max(FEWEST, ceil(PASSES * images * DRAWS / BATCH)))


def _unseen(subject: Subject, at_most: int) -> Images:
    """Return pool images that the run was not trained on."""
    pool = subject.held_out.pool
    places = learning_places(subject.run, pool, subject.data, at_most)
    return Images.on(subject.held_out.mean.device, pool, pool.images, places)


def _validation(subject: Subject, at_most: int) -> Images:
    """Return a balanced part of the validation split, with regions where the method needs them."""
    run = subject.run
    x, y = subject.held_out.splits["validation"]
    places = held_out_places(run, y.cpu().numpy(), at_most)
    region = None
    if catalogue.needs_regions(run.composition):
        known = read_held_out(subject.data, run.source, ["validation"])["validation"].region
        region = None if known is None else torch.from_numpy(known[places]).to(y.device)
    there = torch.from_numpy(places).to(y.device)
    return Images(x[there], y[there], region)


def _row(pair: tuple[str, str], reading: Reading | None, learned_from: int) -> dict[str, Any]:
    told, read = pair
    numbers = {name: nan if reading is None else float(getattr(reading, name)) for name in COLUMNS}
    counts = {
        name: 0 if reading is None else getattr(reading, name) for name in ("masks", "images")
    }
    return {"told": told, "read": read, **numbers, **counts, "learning_images": learned_from}
