"""The three readings of a method's masks, for a model that exists; `leak` says what they tell."""

from collections.abc import Callable
from functools import partial
from itertools import count, groupby
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from attrreg.cells import Run
from attrreg.data.device import input_bounds, normalise
from attrreg.data.samples import Arrays
from attrreg.data.sources import Pool
from attrreg.data.subsets import balanced_order, read_subset
from attrreg.evaluation.leak_masks import draw_masks
from attrreg.evaluation.leak_probe import STEPS, Reading, probe
from attrreg.method import build
from attrreg.parameters import Composition
from attrreg.provenance import stream_seed

__all__ = ["READINGS", "Images", "held_out_places", "learning_places", "readings"]

IMAGES = 2000  # to learn from, and to read, at most; bounds the time
DRAWS = 8  # masks per image
RANDOM, LABEL = "random class", "label"
GIVEN, TRUE = "explained class", "true class"
FROM_IMAGE = (RANDOM, TRUE)
READINGS = ((RANDOM, GIVEN), FROM_IMAGE, (LABEL, TRUE))  # told to explain, and read

Report = Callable[[str, int, int], None]


class Images(NamedTuple):
    """Some images as the model sees them.

    ``x`` (n, …) floating point, ``y`` (n,) int64, ``region`` (n, *features) bool or None.
    """

    x: Tensor
    y: Tensor
    region: Tensor | None = None

    @classmethod
    def on(cls, device: torch.device, pool: Pool, images: Arrays, places: np.ndarray) -> "Images":
        """Copy the images at some places to a device."""
        x, y, mean, deviation = (
            torch.from_numpy(np.array(each)).to(device)
            for each in (images.x[places], images.y[places], pool.mean, pool.deviation)
        )
        region = None if images.region is None else torch.from_numpy(images.region[places])
        return cls(normalise(x, mean, deviation), y, None if region is None else region.to(device))


def learning_places(run: Run, pool: Pool, data: Path, at_most: int) -> np.ndarray:
    """Return where the images lie that follow the run's own in the order of its seed.

    `at_most` that many, and none of those that the run held back: they are its own, too.
    """
    labels = pool.images.y
    needed = min(len(labels), run.train_size + at_most)
    return read_subset(data, run.source, run.seed, needed, labels).indices[run.train_size :]


def held_out_places(run: Run, labels: np.ndarray, at_most: int) -> np.ndarray:
    """Return where in the validation split a balanced part of it lies, `at_most` that many."""
    return balanced_order(labels, np.random.default_rng(_seed(run, "held-out")))[:at_most]


def readings(
    run: Run,
    composition: Composition,
    model: nn.Module,
    learn: Images,
    held_out: Images,
    pool: Pool,
    *,
    untrained: nn.Module | None = None,
    draws: int = DRAWS,
    steps: int = STEPS,
    report: Report = lambda stage, done, total: None,
) -> dict[tuple[str, str], Reading]:
    """Return what a probe reads from the masks of a method, by what is told and what is read.

    All random numbers are the same for all methods at one place of the grid.

    Parameters
    ----------
    run
        The place of the model in the grid, and the size of its batches.
    composition
        The method whose masks are read; it need not be the one that trained the model.
    model
        Maps inputs to logits; it is left as it is.
    learn, held_out
        The images of which the probe learns, and those on whose masks it is tested.
    pool
        What the inputs were normalised by.
    untrained
        The model before training, where the method asks for it.
    draws
        Masks per image, each with a class, an area and noise of its own.
    steps
        Length of each probe's training.
    report
        Called now and then with the stage, and how much of it is done.
    """
    method, parts = build(composition), {"learn": learn, "held-out": held_out}
    told = {name: _classes(run, name, each.y, draws) for name, each in parts.items()}
    bounds = input_bounds(*(torch.from_numpy(each) for each in (pool.mean, pool.deviation)))
    groups = torch.arange(len(held_out.y), device=held_out.y.device).repeat(draws)
    stages = {"masks": count(1), "probe": count(1)}
    found: dict[tuple[str, str], Reading] = {}
    for explained, reads in groupby(READINGS, itemgetter(0)):
        masks = {
            name: draw_masks(
                method,
                model,
                images.x,
                told[name][explained],
                seed=_seed(run, f"masks-{name}-{explained}"),
                batch_size=run.recipe.batch_size,
                bounds=bounds,
                untrained=untrained,
                region=images.region,
                report=partial(report, f"masks {next(stages['masks'])} of 4"),
            ).flatten(0, 1)
            for name, images in parts.items()
        }
        for _, read in reads:
            wanted = RANDOM if read == GIVEN else LABEL
            found[explained, read] = probe(
                masks["learn"],
                told["learn"][wanted].flatten(),
                masks["held-out"],
                told["held-out"][wanted].flatten(),
                groups,
                n_classes=run.source.entry.classes,
                seed=_seed(run, f"probe-{explained}-{read}"),
                steps=steps,
                chance=1 / run.source.entry.classes if read == GIVEN else None,
                report=partial(report, f"probe {next(stages['probe'])} of {len(READINGS)}"),
            )
    return found


def _classes(run: Run, name: str, y: Tensor, draws: int) -> dict[str, Tensor]:
    """Return what a method is told, (draws, n) each: classes drawn apart from the image, labels."""
    generator = torch.Generator().manual_seed(_seed(run, f"classes-{name}"))
    drawn = torch.randint(run.source.entry.classes, (draws, len(y)), generator=generator)
    return {RANDOM: drawn.to(y.device), LABEL: y.expand(draws, -1)}


def _seed(run: Run, name: str) -> int:
    """Return a seed that is the same for all methods at one place of the grid."""
    return stream_seed(f"leak-{name}", run.dataset, run.train_size, run.seed)
