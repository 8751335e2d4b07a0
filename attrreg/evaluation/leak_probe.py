"""The probe: a small network that reads a class from masks, and how sure its accuracy is."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

from attrreg.data.device import batch_indices
from attrreg.provenance import stream_seed
from attrreg.recipe import Schedule
from attrreg.training.optimizers import learning_rate_factor

__all__ = ["Reading", "interval", "probe"]

LEVEL = 0.95
STEPS, BATCH, RATE, WIDTH, DROPOUT = 700, 128, 2e-3, 256, 0.25
PLACES = 8  # per axis; what the probe tells apart of a larger mask, beside its texture


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
