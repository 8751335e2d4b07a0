"""The training loop: nothing happens between two steps but the step."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attrreg.data.device import TrainingSet, batch_indices, draw_movement, input_bounds
from attrreg.method import Method
from attrreg.recipe import SGD, Recipe, Schedule
from attrreg.state import State

__all__ = ["Diverged", "Streams", "learning_rate_factor", "train"]


class Diverged(RuntimeError):
    """The loss of a training became infinite or NaN."""


@dataclass(frozen=True)
class Streams:
    """One random stream per purpose, so that one method's extra draws never shift another's.

    ``order`` is drawn on the CPU, the others on the device of the training set. ``dropout`` is a
    seed, since dropout draws from torch's own generator.
    """

    order: torch.Generator
    augmentation: torch.Generator
    perturbation: torch.Generator
    attribution: torch.Generator
    dropout: int

    @classmethod
    def seeded(cls, seed_of: Callable[[str], int], device: torch.device) -> "Streams":
        """Make the streams from a function that gives each name its seed."""

        def stream(name: str, where: torch.device) -> torch.Generator:
            return torch.Generator(where).manual_seed(seed_of(name))

        return cls(
            stream("order", torch.device("cpu")),
            stream("augmentation", device),
            stream("perturbation", device),
            stream("attribution", device),
            seed_of("dropout"),
        )


def train(
    model: nn.Module,
    method: Method,
    data: TrainingSet,
    recipe: Recipe,
    streams: Streams,
    on_step: Callable[[int, int], None] = lambda step, steps: None,
) -> list[dict[str, float]]:
    """Train a model in place.

    Parameters
    ----------
    model
        On the device of the data.
    method
        Gives the loss of each minibatch.
    data
        The training set, and nothing else of the dataset.
    recipe
        Length, batches, optimiser, schedule, augmentation.
    streams
        All randomness.
    on_step
        Called after every step with (steps done, steps in all); must not look at the device.

    Returns
    -------
    list of dict
        The history: a row per pass over the training set, with ``epoch`` and ``step`` reached,
        ``learning_rate``, and the means of ``loss`` and its parts over the steps of the row. The
        parts are accumulated on the device and read once per row.

    Raises
    ------
    Diverged
        The mean loss of a row is not finite.
    """
    n, steps = len(data.y), recipe.total_steps(len(data.y))
    optimizer = _optimizer(model, recipe)
    factor = learning_rate_factor(recipe.schedule, steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    history: list[dict[str, float]] = []
    sums: dict[str, Tensor] = {}
    first, completed = 0, 0
    memory: dict[Any, Any] = {}
    bounds = input_bounds(data.mean, data.deviation)
    torch.manual_seed(streams.dropout)
    model.train()
    batches = list(batch_indices(n, recipe.batch_size, steps, streams.order))
    order = torch.stack([indices for indices, _ in batches]).to(data.y.device)
    for step, (indices, (known, epoch)) in enumerate(zip(order, batches, strict=True), start=1):
        x, y = data.batch(indices)
        movement = draw_movement(x, recipe.augmentation, streams.augmentation)
        x = movement.apply(x)
        state = State(
            generator=streams.attribution,
            indices=known,
            size=n,
            epoch=completed,
            last_epoch=(step * len(known) - 1) // n,
            augmentation=movement,
            region=data.region_of(indices, movement),
            bounds=bounds,
            memory=memory,
        )
        loss = method.loss(model, x, y, generator=streams.perturbation, state=state)
        optimizer.zero_grad(set_to_none=True)
        loss.total.backward()
        rate = schedule.get_last_lr()[0]
        optimizer.step()
        schedule.step()
        for name, value in {"loss": loss.total.detach(), **loss.parts}.items():
            sums[name] = sums[name] + value if name in sums else value
        on_step(step, steps)
        if epoch > completed or step == steps:
            row = _read(sums, step - first)
            if not math.isfinite(row["loss"]):
                raise Diverged(
                    f"the mean loss of steps {first + 1} to {step} is {row['loss']}: lower the "
                    "learning rate, or look at the perturbation"
                )
            history.append({"epoch": epoch, "step": step, "learning_rate": float(rate), **row})
            sums, first, completed = {}, step, epoch
    return history


def learning_rate_factor(schedule: Schedule, steps: int) -> Callable[[int], float]:
    """Return the share of the learning rate at each step, counted from 0."""
    warm = schedule.warm_up_steps

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / (warm + 1)
        if schedule.name == "constant":
            return 1.0
        progress = min(1.0, (step - warm) / max(1, steps - warm))
        return schedule.final + (1 - schedule.final) * (1 + math.cos(math.pi * progress)) / 2

    return factor


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    settings = recipe.optimizer
    if isinstance(settings, SGD):
        return torch.optim.SGD(
            model.parameters(),
            lr=settings.learning_rate,
            momentum=settings.momentum,
            nesterov=settings.nesterov,
            weight_decay=settings.weight_decay,
        )
    return torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )


def _read(sums: dict[str, Tensor], count: int) -> dict[str, float]:
    """Bring the sums to the host in one transfer and return means."""
    values = torch.stack(list(sums.values())).double().cpu() / count
    return dict(zip(sums, values.tolist(), strict=True))
