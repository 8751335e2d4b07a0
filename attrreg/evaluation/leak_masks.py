"""What a method does to the features of some images, drawn as in training."""

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from attrreg import catalogue, parameters
from attrreg.features import on_features, resolve_axes
from attrreg.method import Method
from attrreg.provenance import stream_seed
from attrreg.state import State

__all__ = ["always", "draw_masks"]


def always(composition: parameters.Composition) -> parameters.Composition:
    """Return a method that perturbs its input, with the coin set to always."""
    return catalogue.override(composition, {"perturbation": {"p": 1.0}})


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
    region: Tensor | None = None,
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
    region
        (n, *features) bool, the ground-truth region of each image, which a control asks for.
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
                    region=None if region is None else region[chosen],
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


def _relative_change(x: Tensor, changed: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Return ‖x̃ − x‖ ÷ ‖x‖ over the channels of each feature, 0 where x is 0."""
    size, change = (on_features(each.square(), axes).sqrt() for each in (x, changed - x))
    return torch.where(size > 0, change / size, 0)
