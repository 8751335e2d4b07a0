"""Models by name: any timm architecture, with a stem that small images survive, and our own."""

from pathlib import Path
from typing import Any, Literal, get_args

from torch import nn

from attrreg.models.building import Blueprint
from attrreg.models.frozen import freeze_backbone
from attrreg.models.stems import SMALL_IMAGE, use_small_stem
from attrreg.models.weights import from_file, from_hub, origin

__all__ = ["SMALL_IMAGE", "Frozen", "create", "use_small_stem"]

Frozen = Literal["nothing", "backbone"]


def create(
    name: str,
    *,
    num_classes: int,
    in_chans: int,
    image_size: int,
    pretrained: bool = False,
    weights: Path | str | None = None,
    frozen: Frozen = "nothing",
    **options: Any,
) -> nn.Module:
    """Build a model.

    Parameters
    ----------
    name
        One of `attrreg.catalogue.MODELS` or any timm name.
    num_classes
        Width of the logits.
    in_chans
        Channels of the input.
    image_size
        Height and width of the input in pixels, or the length of a series. Up to 64 pixels, a plain
        7×7 stride-2 stem becomes 3×3 stride 1 and the max-pool after it goes; other stems stay.
        What timm builds for one size is built for this one.
    pretrained
        Load timm's weights, as safetensors only; `origin` says which.
    weights
        Load these: a safetensors file. A head of another width is made anew.
    frozen
        ``backbone``: only the classifier is trained. Nothing else has gradients, and batch norms
        keep their statistics, in training mode too.
    options
        Passed on to timm or to our implementation, after those of the catalogue. ``small_stem``
        is ours: true makes another strided stem work at stride 1 up to 64 pixels, false leaves
        every stem as it is. ``pretrained_cfg`` names one of timm's weights, as in ``a1_in1k``.

    Returns
    -------
    torch.nn.Module
        Maps (n, in_chans, image_size, image_size), or (n, in_chans, length), to logits
        (n, num_classes).

    Raises
    ------
    KeyError
        Unknown name; the message gives the nearest match.
    ValueError
        Options that the model does not have, or weights that do not fit, with what is wrong.
    FileNotFoundError
        Weights that are neither here nor to be had; the message says how to bring them.
    """
    if frozen not in get_args(Frozen):
        raise ValueError(f"frozen is {frozen!r}: give one of {', '.join(get_args(Frozen))}")
    if pretrained and weights is not None:
        raise ValueError(f"model {name!r} has both pretrained and weights: give one of them")
    plan = Blueprint.of(name, num_classes, in_chans, image_size, options)
    if pretrained:
        model = from_hub(plan)
    elif weights is not None:
        model = from_file(plan, Path(weights))
    else:
        model = plan.build()
        plan.fit(model)
    if frozen == "backbone":
        freeze_backbone(model, new=origin(model)["replaced"])
    return model
