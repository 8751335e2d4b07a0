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

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

from attrreg import catalogue, parameters
from attrreg.cells import Run
from attrreg.data.device import TrainingSet, batch_indices, input_bounds, normalise
from attrreg.data.samples import Arrays
from attrreg.data.sources import Pool, read_held_out, read_pool
from attrreg.data.subsets import balanced_order, read_subset
from attrreg.features import on_features, resolve_axes
from attrreg.method import Method, build
from attrreg.provenance import stream_seed
from attrreg.recipe import Recipe, Schedule
from attrreg.state import State
from attrreg.training.engine import Streams, train
from attrreg.training.optimizers import learning_rate_factor
from attrreg.training.runs import build_model

__all__ = ["Question", "Reading", "answer", "draw_masks", "interval", "probe", "sentences", "table"]

LEVEL = 0.95
IMAGES = 2000  # to learn from, and to read, at most; bounds the time
STEPS, BATCH, RATE, WIDTH, DROPOUT = 700, 128, 2e-3, 256, 0.25  # of the probe
PLACES = 8  # per axis; what the probe tells apart of a larger mask, beside its texture
RANDOM, LABEL = "random class", "label"
GIVEN, TRUE = "explained class", "true class"
FROM_IMAGE = (RANDOM, TRUE)
READINGS = ((RANDOM, GIVEN), FROM_IMAGE, (LABEL, TRUE))

Report = Callable[[str, int, int], None]


class Reading(NamedTuple):
    """How well a class is read from masks; the tensors are 0-d float64 on the CPU.

    ``low`` and ``high`` are the ends of the 95 % interval of ``accuracy``; ``chance`` is what is
    right without looking.
    """

    accuracy: Tensor
    low: Tensor
    high: Tensor
    chance: Tensor
    masks: int
    images: int


def probe(
    masks: Tensor,
    classes: Tensor,
    held_out_masks: Tensor,
    held_out_classes: Tensor,
    groups: Tensor,
    *,
    n_classes: int,
    seed: int,
    steps: int = STEPS,
    chance: float | None = None,
    report: Callable[[int, int], None] = lambda step, steps: None,
) -> Reading:
    """Train a small network to read a class from masks, and test it once on held-out masks.

    On two feature axes it is a convolutional network, otherwise one of linear layers. Its recipe
    and its number of steps are fixed: nothing is chosen by what it reads on held-out masks.

    Parameters
    ----------
    masks
        (n, *features), bool or floating: what was done to each feature.
    classes
        (n,) int64, from 0 to n_classes − 1: what is to be read.
    held_out_masks, held_out_classes
        The same of other images, (m, *features) and (m,).
    groups
        (m,) int64: which image each held-out mask belongs to. Masks of one image are not
        independent, and the interval respects it.
    n_classes
        Number of classes.
    seed
        Of initial weights, order and dropout. On a CPU the same seed gives the same reading.
    steps
        Length of the probe's training.
    chance
        What is right without looking; None: the share of the most frequent held-out class.
    report
        Called after every step with steps done and steps in all.

    Returns
    -------
    Reading
        Accuracy on the held-out masks, its interval (`interval`), and chance.

    Raises
    ------
    ValueError
        Shapes that do not fit, or fewer than two held-out images.
    """
    _check(masks, classes, held_out_masks, held_out_classes, groups)
    device, shape = masks.device, masks.shape[1:]
    centre = masks.float().mean(0)
    spread = (masks.float() - centre).square().mean().sqrt()
    spread = torch.where(spread > 0, spread, 1)
    order = torch.Generator().manual_seed(stream_seed("leak-order", seed))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed("leak-probe", seed))
        reader = _network(shape, n_classes).to(device)
        optimizer = torch.optim.AdamW(reader.parameters(), lr=RATE)
        factor = learning_rate_factor(Schedule(), steps)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        for step, (indices, _) in enumerate(batch_indices(len(masks), BATCH, steps, order), 1):
            chosen = indices.to(device)
            logits = reader((masks[chosen].float() - centre) / spread)
            loss = F.cross_entropy(logits, classes[chosen])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            report(step, steps)
    reader.eval()
    with torch.no_grad():
        read = torch.cat(
            [
                reader((part.float() - centre) / spread).argmax(1)
                for part in held_out_masks.split(1024)
            ]
        )
    hits = (read == held_out_classes).cpu()
    low, high = interval(hits, groups.cpu())
    if chance is None:
        chance = int(held_out_classes.bincount().max()) / len(held_out_classes)
    return Reading(
        hits.double().mean(),
        low,
        high,
        torch.tensor(chance, dtype=torch.float64),
        len(hits),
        len(groups.unique()),
    )


def interval(hits: Tensor, groups: Tensor, level: float = LEVEL) -> tuple[Tensor, Tensor]:
    """Return the interval of a share whose single draws come in groups.

    Korn and Graubard's: the exact binomial interval (Clopper and Pearson) of as many independent
    draws as would have the variance that is found between groups, with their correction for few
    groups. Where all draws agree no variance can be found, and each group counts as one draw.

    Parameters
    ----------
    hits
        (m,) bool.
    groups
        (m,) int64: the group of each draw.
    level
        The coverage, such as 0.95.

    Returns
    -------
    tuple of Tensor
        Low and high, 0-d float64.

    Raises
    ------
    ValueError
        Fewer than two groups.

    References
    ----------
    Korn and Graubard, "Confidence intervals for proportions with small expected number of positive
    counts estimated from survey data", Survey Methodology 24, 1998.
    """
    values = hits.double()
    which, counts = groups.unique(return_inverse=True, return_counts=True)[1:]
    n_draws, n_groups = len(values), len(counts)
    if n_groups < 2:
        raise ValueError(f"found masks of {n_groups} held-out images: give those of 2 or more")
    share = values.mean()
    surplus = torch.zeros(n_groups, dtype=torch.float64).index_add_(0, which, values - share)
    variance = float(surplus.square().sum()) * n_groups / (n_groups - 1) / n_draws**2
    p = float(share)
    tail = (1 - level) / 2
    effective = float(n_groups)
    if 0 < p < 1:
        few = stats.t.ppf(1 - tail, n_draws - 1) / stats.t.ppf(1 - tail, n_groups - 1)
        found = p * (1 - p) / variance if variance > 0 else math.inf
        effective = min(found * few**2, float(n_draws))
    low = stats.beta.ppf(tail, effective * p, effective * (1 - p) + 1) if p > 0 else 0.0
    high = stats.beta.isf(tail, effective * p + 1, effective * (1 - p)) if p < 1 else 1.0
    low_end, high_end = torch.tensor([low, high], dtype=torch.float64)
    return low_end, high_end


def draw_masks(
    method: Method,
    model: nn.Module,
    x: Tensor,
    classes: Tensor,
    *,
    seed: int,
    batch_size: int,
    bounds: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
    untrained: nn.Module | None = None,
    report: Callable[[int, int], None] = lambda draw, draws: None,
) -> Tensor:
    """Return what a method does to each feature, several times per image.

    Images are met in batches in random order, with the model in training mode, as in training; the
    model is left as it is. A perturbation that erases features gives which those are. One that
    changes them smoothly gives the size of each change relative to the feature, over all channels:
    so r·s for Challenger's default, without anything of the image beside r. In its other modes the
    image shows in the size, and only a class drawn apart from it can be read cleanly.

    Parameters
    ----------
    method
        With a perturbation; its coin is tossed as it says.
    model
        Maps x to logits.
    x
        (n, …) floating point, as the model sees it.
    classes
        (draws, n) int64: what the method is told is the label.
    seed
        Of order, attribution, perturbation and dropout.
    batch_size
        Images per batch, at most; controls swap maps within one.
    bounds, untrained
        What some attributions need: see `attrreg.state.State`, and the model before training.
    report
        Called after every draw with draws done and draws in all.

    Returns
    -------
    Tensor
        (draws, n, *features), bool or floating.

    Raises
    ------
    ValueError
        The method has no perturbation.
    """
    model = copy.deepcopy(model).train()
    axes = resolve_axes(x, None)
    on_device = [
        torch.Generator(x.device).manual_seed(stream_seed(f"leak-{name}", seed))
        for name in ("attribution", "perturbation")
    ]
    order = torch.Generator().manual_seed(stream_seed("leak-batches", seed))
    drawn = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed("leak-dropout", seed))
        for number, told in enumerate(classes, start=1):
            places = torch.randperm(len(x), generator=order)
            memory = {} if untrained is None else {"untrained": untrained}
            parts = []
            for indices in places.tensor_split(math.ceil(len(x) / batch_size)):
                chosen = indices.to(x.device)
                clean = x[chosen].requires_grad_()
                state = State(
                    generator=on_device[0],
                    indices=indices,
                    size=len(x),
                    bounds=bounds,
                    memory=memory,
                    forward=model,
                )
                perturbed = method.perturb(
                    model, clean, told[chosen], generator=on_device[1], state=state
                )[1]
                if isinstance(method.perturbation, parameters.Masking):
                    parts.append(perturbed.changed)
                else:
                    parts.append(_relative_change(clean.detach(), perturbed.x, axes))
            drawn.append(torch.cat(parts)[places.argsort().to(x.device)])
            report(number, len(classes))
    return torch.stack(drawn)


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
    draws: int = 8

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
        return catalogue.override(composition, {"perturbation": {"p": 1.0}})


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
    needed = min(entry.pool, question.train_size + IMAGES)
    order = read_subset(data, run.source, question.seed, needed, pool.images.y).indices
    model, untrained = _trained(run, pool, order[: question.train_size], device, report)
    read_by = {
        "learn": _on(device, pool, pool.images, order[question.train_size :]),
        "held-out": _held_out(question, pool, data, device),
    }
    mean, deviation = (torch.from_numpy(each) for each in (pool.mean, pool.deviation))
    told: dict[str, dict[str, Tensor]] = {}
    masks: dict[tuple[str, str], Tensor] = {}
    for name, (x, y) in read_by.items():
        generator = torch.Generator().manual_seed(_seed(question, f"classes-{name}"))
        drawn = torch.randint(entry.classes, (question.draws, len(y)), generator=generator)
        told[name] = {RANDOM: drawn.to(device), LABEL: y.expand(question.draws, -1)}
        for explained, classes in told[name].items():
            masks[name, explained] = draw_masks(
                build(composition),
                model,
                x,
                classes,
                seed=_seed(question, f"masks-{name}-{explained}"),
                batch_size=run.recipe.batch_size,
                bounds=input_bounds(mean, deviation),
                untrained=untrained,
                report=partial(report, f"masks {len(masks) + 1} of 4"),
            )
    rows: list[dict[str, Any]] = []
    images = torch.arange(len(read_by["held-out"][1]), device=device).repeat(question.draws)
    for explained, read in READINGS:
        wanted = RANDOM if read == GIVEN else LABEL
        reading = probe(
            masks["learn", explained].flatten(0, 1),
            told["learn"][wanted].flatten(),
            masks["held-out", explained].flatten(0, 1),
            told["held-out"][wanted].flatten(),
            images,
            n_classes=entry.classes,
            seed=_seed(question, f"probe-{explained}-{read}"),
            chance=1 / entry.classes if read == GIVEN else None,
            report=partial(report, f"probe {len(rows) + 1} of {len(READINGS)}"),
        )
        rows.append(_row(question, explained, read, reading, len(read_by["learn"][1])))
    return rows


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
    run: Run, pool: Pool, subset: np.ndarray, device: torch.device, report: Report
) -> tuple[nn.Module, nn.Module]:
    """Return the run's model after training, and a copy from before."""
    training = TrainingSet.on(device, pool.images.take(subset), pool.mean, pool.deviation)
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


def _on(
    device: torch.device, pool: Pool, images: Arrays, chosen: np.ndarray
) -> tuple[Tensor, Tensor]:
    """Return some images as the model sees them, and their labels."""
    x, y, mean, deviation = (
        torch.from_numpy(np.array(each)).to(device)
        for each in (images.x[chosen], images.y[chosen], pool.mean, pool.deviation)
    )
    return normalise(x, mean, deviation), y


def _held_out(
    question: Question, pool: Pool, data: Path, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return the validation split, or a balanced part of it."""
    images = read_held_out(data, question.dataset, ["validation"])["validation"]
    generator = np.random.default_rng(_seed(question, "held-out"))
    return _on(device, pool, images, balanced_order(images.y, generator)[:IMAGES])


def _seed(question: Question, name: str) -> int:
    """Return a seed that is the same for all methods at one place of the grid."""
    return stream_seed(f"leak-{name}", question.dataset, question.train_size, question.seed)


def _relative_change(x: Tensor, changed: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Return ‖x̃ − x‖ ÷ ‖x‖ over the channels of each feature, 0 where x is 0."""
    size, change = (on_features(each.square(), axes).sqrt() for each in (x, changed - x))
    return torch.where(size > 0, change / size, 0)


def _network(shape: torch.Size, n_classes: int) -> nn.Sequential:
    def head(width: int) -> list[nn.Module]:
        return [
            *(nn.Dropout(DROPOUT), nn.Linear(width, WIDTH), nn.ReLU()),
            *(nn.Dropout(DROPOUT), nn.Linear(WIDTH, n_classes)),
        ]

    if len(shape) != 2:
        flat = nn.Linear(shape.numel(), WIDTH)
        return nn.Sequential(nn.Flatten(), flat, nn.ReLU(), *head(WIDTH))
    places = tuple(min(PLACES, math.ceil(size / 2)) for size in shape)
    return nn.Sequential(
        nn.Unflatten(1, (1, shape[0])),
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(places), nn.Flatten()),
        *head(32 * math.prod(places)),
    )


def _check(
    masks: Tensor,
    classes: Tensor,
    held_out_masks: Tensor,
    held_out_classes: Tensor,
    groups: Tensor,
) -> None:
    found = [
        tuple(each.shape) for each in (masks, classes, held_out_masks, held_out_classes, groups)
    ]
    n, m, features = len(masks), len(held_out_masks), tuple(masks.shape[1:])
    if found != [(n, *features), (n,), (m, *features), (m,), (m,)] or not features or n == 0:
        raise ValueError(
            f"masks, classes, held-out masks, held-out classes and groups have shapes {found}: "
            "give (n, *features), (n,), (m, *features), (m,), (m,) with n of at least 1"
        )
