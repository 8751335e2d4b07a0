"""Optimisers and learning rates, from their settings."""

import bisect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from attrreg.models.depth import layer_numbers
from attrreg.recipe import SGD, AdamW, Schedule

__all__ = ["learning_rate_factor", "make_optimizer", "set_learning_rate"]


NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)


def make_optimizer(model: nn.Module, settings: SGD | AdamW) -> torch.optim.Optimizer:
    """Return the optimiser of a model's parameters, its updates fused where torch can.

    On a GPU the learning rate is a tensor there, so that steps can be captured in a graph. Under
    layer decay every layer has groups of its own, whose ``factor`` multiplies the learning rate.

    Raises
    ------
    ValueError
        Nothing of the model is trained, or it does not say what its layers are.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise ValueError(f"{type(model).__name__} has no parameter that is trained: free some")
    device = trained[0].device
    rate: Any = settings.learning_rate
    if device.type == "cuda":
        rate = torch.tensor(rate, device=device)
    options: dict[str, Any] = {"lr": rate, "weight_decay": settings.weight_decay, "fused": True}
    groups: list[dict[str, Any]] = [{"params": trained}]
    if settings.layer_decay != 1:
        groups = _layers(model, settings.layer_decay)
    if settings.decay == "weights":
        groups = _set_apart(model, groups)
    for group in groups:
        if "factor" in group:  # of its own, also where it is a tensor
            group["lr"] = rate * group["factor"]
    if isinstance(settings, SGD):
        return torch.optim.SGD(
            groups, momentum=settings.momentum, nesterov=settings.nesterov, **options
        )
    return torch.optim.AdamW(groups, betas=settings.betas, **options)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of the next step, without waiting for the device.

    A group that has a ``factor`` gets that share of it.
    """
    for group in optimizer.param_groups:
        own = rate * group.get("factor", 1.0)
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(own)
        else:
            group["lr"] = own


def _layers(model: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Return a group for what is trained of each layer, the rate of the last being whole."""
    numbers = layer_numbers(model)
    layers: dict[int, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            layers.setdefault(numbers[name], []).append(parameter)
    last = max(numbers.values())
    return [
        {"params": parameters, "factor": decay ** (last - number)}
        for number, parameters in sorted(layers.items())
    ]


def _set_apart(model: nn.Module, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return each group as two: what decays, and norms and biases, which do not."""
    spared = {
        parameter
        for module in model.modules()
        for parameter in module.parameters(recurse=False)
        if parameter.ndim <= 1 or isinstance(module, NORMS)
    }
    return [
        part
        for group in groups
        for part in (
            {**group, "params": [each for each in group["params"] if each not in spared]},
            {
                **group,
                "params": [each for each in group["params"] if each in spared],
                "weight_decay": 0.0,
            },
        )
    ]


def learning_rate_factor(schedule: Schedule, steps: int) -> Callable[[int], float]:
    """Return the share of the learning rate at each step, counted from 0."""
    warm = schedule.warm_up_steps

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / (warm + 1)
        if schedule.name == "constant":
            return 1.0
        if schedule.name == "step":
            return schedule.factor ** bisect.bisect_right(schedule.milestones, step / steps)
        progress = min(1.0, (step - warm) / max(1, steps - warm))
        return schedule.final + (1 - schedule.final) * (1 + math.cos(math.pi * progress)) / 2

    return factor
