"""Faithfulness: what happens to a prediction when what a map calls relevant is taken away.

Everything rests on `responses`, which replaces features of an input in a given order and returns
what the model says after each share. Texts and series of unlike lengths have features that are not
there (``present``): they are never replaced and do not count.

References
----------
Samek et al., Evaluating the visualization of what a deep neural network has learned, 2017 (MoRF);
Blücher et al., Decoupling pixel flipping and occlusion strategy, 2024 (symmetric relevance gain);
Ismail et al., Improving deep learning interpretability by saliency guided training, 2021, arXiv
2111.14338 (`accuracy_drop`).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from attrreg.attribution.guards import untouched
from attrreg.evaluation.predict import BATCH
from attrreg.features import over_channels, resolve_axes
from attrreg.perturbation import fill_values, rank
from attrreg.state import eager

__all__ = [
    "Deletion",
    "RelevanceGain",
    "Responses",
    "accuracy_drop",
    "deletion",
    "lowest_first",
    "responses",
    "seeded",
    "symmetric_relevance_gain",
    "top_left",
]

FRACTIONS = tuple(tenth / 10 for tenth in range(10))


class Responses(NamedTuple):
    """What a model says after each share, (n, shares) float64 on the CPU.

    ``correct`` is 1 where the label is predicted, ``nll`` in nats of the label, ``probability``
    that of the explained class.
    """

    correct: Tensor
    nll: Tensor
    probability: Tensor


class Deletion(NamedTuple):
    """Means over the samples after each share, (shares,) float64 on the CPU."""

    fractions: Tensor
    accuracy: Tensor
    nll: Tensor
    probability: Tensor


class RelevanceGain(NamedTuple):
    """Both curves of a fill, and the area between them in accuracy and in probability, ()."""

    most_first: Deletion
    least_first: Deletion
    accuracy: Tensor
    probability: Tensor


def responses(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    order: Tensor,
    fill: str | Tensor = "mean",
    fractions: Sequence[float] = FRACTIONS,
    *,
    kept: bool = False,
    at_least: int = 0,
    explained: Tensor | None = None,
    present: Tensor | None = None,
    generator: torch.Generator | None = None,
    axes: tuple[int, ...] | None = None,
    batch_size: int = BATCH,
) -> Responses:
    """Replace the first features of an order, and read the model after each share.

    Parameters
    ----------
    model
        Maps x to logits; it is left as it is.
    x, y
        Inputs (n, …) and labels (n,) int64.
    order
        (n, *features) int64: the place of each feature in its sample, 0 goes first.
    fill
        What takes their place: a name of `attrreg.perturbation.fill_values`, or values that
        broadcast to x.
    fractions
        Shares of the features, from 0 to 1; each is rounded to whole features.
    kept
        Keep the first features of the order and replace all others instead.
    at_least
        Features that every share has at least.
    explained
        Whose probability is followed, (n,) int64; None: y.
    present
        (n, *features) bool: which features there are; None: all.
    generator
        Randomness of the fill, on the device of x; None: one of seed 0.
    axes
        Feature axes of x; None: all after the channel axis 1.
    batch_size
        Samples that the model sees at once; bounds the memory, not the result.

    Raises
    ------
    ValueError
        Shapes that do not fit, shares outside [0, 1], or logits that are not finite.
    """
    axes = resolve_axes(x, axes)
    features = tuple(x.shape[axis] for axis in axes)
    explained = y if explained is None else explained
    _check(x, y, order, explained, present, fractions, features)
    filled = fill
    if isinstance(filled, str):
        filled = fill_values(filled, x, axes, seeded(generator, x))
    filled = filled.expand_as(x)
    if present is None:
        present = torch.ones_like(order, dtype=torch.bool)
    order = rank(torch.where(present, order, order.numel()))  # those that are not there go last
    count = present.flatten(1).sum(1).double()
    shares = torch.tensor(tuple(fractions), dtype=torch.float64, device=x.device)
    numbers = (count[:, None] * shares).round().clamp_min(at_least)
    labels = torch.stack([y, explained], 1)
    split = (each.split(batch_size) for each in (x, filled, order, present, numbers, labels))
    parts = []
    with torch.no_grad(), untouched(model), eager(model):
        for batch in zip(*split, strict=True):
            parts.append(_read(model, kept, axes, *batch))
    whole = torch.cat(parts, 1).cpu()
    broken = int((~whole.isfinite()).any(0).any(1).sum())
    if broken:
        raise ValueError(
            f"the model's logits for {broken} of {len(x)} samples are NaN or infinite: only finite "
            "logits are allowed; the model has probably diverged"
        )
    return Responses(*whole)


def _read(
    model: nn.Module,
    kept: bool,
    axes: tuple[int, ...],
    x: Tensor,
    filled: Tensor,
    order: Tensor,
    present: Tensor,
    numbers: Tensor,
    labels: Tensor,
) -> Tensor:
    """Return the three numbers of `Responses` for one batch, (3, n, shares)."""
    found = []
    for number in numbers.unbind(1):
        first = order < number.view(-1, *[1] * len(axes))
        mask = over_channels((first ^ kept) & present, x, axes)
        logits = model(torch.where(mask, filled, x)).double()
        logs = logits.log_softmax(1).gather(1, labels)
        correct = (logits.argmax(1) == labels[:, 0]).double()
        found.append(torch.stack([correct, -logs[:, 0], logs[:, 1].exp()]))
    return torch.stack(found, 2)


def deletion(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    order: Tensor,
    fill: str | Tensor = "mean",
    fractions: Sequence[float] = FRACTIONS,
    *,
    explained: Tensor | None = None,
    present: Tensor | None = None,
    generator: torch.Generator | None = None,
    axes: tuple[int, ...] | None = None,
    batch_size: int = BATCH,
) -> Deletion:
    """Return accuracy, NLL and the explained class's probability while features go, in one pass.

    Parameters and errors are those of `responses`.
    """
    found = responses(
        model,
        x,
        y,
        order,
        fill,
        fractions,
        explained=explained,
        present=present,
        generator=generator,
        axes=axes,
        batch_size=batch_size,
    )
    shares = torch.tensor(tuple(fractions), dtype=torch.float64)
    return Deletion(shares, *(each.mean(0) for each in found))


def area_under(fractions: Tensor, values: Tensor) -> Tensor:
    """Return the trapezoidal area divided by the range, (): the mean height of the curve."""
    return torch.trapezoid(values, fractions) / (fractions[-1] - fractions[0])


def symmetric_relevance_gain(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    relevance: Tensor,
    fills: Iterable[str] = ("mean",),
    fractions: Sequence[float] = FRACTIONS,
    *,
    explained: Tensor | None = None,
    present: Tensor | None = None,
    generator: torch.Generator | None = None,
    axes: tuple[int, ...] | None = None,
    batch_size: int = BATCH,
) -> dict[str, RelevanceGain]:
    """Return by fill how much longer a model lasts if the least relevant features go first.

    The gain is area (LeRF) − area (MoRF); areas are divided by the range of the fractions. A
    constant map gains 0, and a random one 0 on average: what a fill does to every order cancels.

    Parameters
    ----------
    relevance
        (n, *features), signed. Features of equal relevance go in an order that is random and the
        same in both curves. Both curves see the same values of a random fill.
    fills
        Names of `attrreg.perturbation.fill_values`.
    generator
        Randomness of ties and fills, on the device of x; None: one of seed 0.

    Others, and errors, are those of `responses`.
    """
    generator = seeded(generator, x)
    state = generator.get_state()
    least_first = lowest_first(relevance, generator)
    most_first = lowest_first(-relevance, generator.set_state(state))

    def curve(order: Tensor, filled: Tensor) -> Deletion:
        return deletion(
            model,
            x,
            y,
            order,
            filled,
            fractions,
            explained=explained,
            present=present,
            axes=axes,
            batch_size=batch_size,
        )

    gains = {}
    for fill in fills:
        filled = fill_values(fill, x, resolve_axes(x, axes), generator)
        most, least = curve(most_first, filled), curve(least_first, filled)
        areas = [
            area_under(most.fractions, after - before)
            for before, after in (
                (most.accuracy, least.accuracy),
                (most.probability, least.probability),
            )
        ]
        gains[fill] = RelevanceGain(most, least, *areas)
    return gains


def accuracy_drop(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    saliencies: Mapping[str, Tensor],
    fractions: Sequence[float] = FRACTIONS,
    *,
    generator: torch.Generator | None = None,
    axes: tuple[int, ...] | None = None,
    batch_size: int = BATCH,
) -> dict[str, Deletion]:
    """Remove the most salient features by magnitude, as saliency guided training is judged.

    The model is not trained again, and the sample's own first feature (the top-left pixel) takes
    the place of what is removed.

    Parameters
    ----------
    saliencies
        Maps (n, *features) by name, such as those of `attrreg.evaluation.saliency`; features of
        equal magnitude go in random order.
    generator
        Randomness of ties, on the device of x; None: one of seed 0.

    Others, and errors, are those of `responses`.
    """
    filled = top_left(x, resolve_axes(x, axes))
    generator = seeded(generator, x)
    drops = {}
    for name, saliency in saliencies.items():
        order = lowest_first(-saliency.abs(), generator)
        drops[name] = deletion(
            model, x, y, order, filled, fractions, axes=axes, batch_size=batch_size
        )
    return drops


def top_left(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Return each sample's first feature in every channel, broadcastable to x."""
    for axis in axes:
        x = x.narrow(axis, 0, 1)
    return x


def lowest_first(values: Tensor, generator: torch.Generator) -> Tensor:
    """Return the place of every feature in ascending order of its value; ties in random order.

    Parameters
    ----------
    values
        (n, *features).
    generator
        On the device of the values. The same state breaks the ties of all values alike.

    Returns
    -------
    Tensor
        int64 like values, 0 for the smallest.
    """
    flat = values.flatten(1)
    shuffle = torch.rand(flat.shape, generator=generator, device=flat.device).argsort(1)
    places = rank(flat.gather(1, shuffle))
    return torch.empty_like(places).scatter_(1, shuffle, places).view(values.shape)


def seeded(generator: torch.Generator | None, x: Tensor) -> torch.Generator:
    """Return the generator, or one of seed 0 on the device of x."""
    return torch.Generator(x.device).manual_seed(0) if generator is None else generator


def _check(
    x: Tensor,
    y: Tensor,
    order: Tensor,
    explained: Tensor,
    present: Tensor | None,
    fractions: Sequence[float],
    features: tuple[int, ...],
) -> None:
    expected = (len(x), *features)
    for name, each, shape in (
        ("order", order, expected),
        ("present", present, expected),
        ("y", y, expected[:1]),
        ("explained", explained, expected[:1]),
    ):
        if each is not None and each.shape != shape:
            behind = ", as the map behind it" if name == "order" else ""
            raise ValueError(f"{name} has shape {tuple(each.shape)}, expected {shape}{behind}")
    if len(x) == 0:
        raise ValueError("x has no samples: give at least one")
    if not fractions or not all(0 <= share <= 1 for share in fractions):
        raise ValueError(f"fractions are {list(fractions)}: give shares of the features, 0 to 1")
