"""Image models: any timm architecture, with a stem that small images survive."""

from typing import Any

import timm
from torch import nn

from attrreg import catalogue

__all__ = ["create", "use_small_stem"]

SMALL_IMAGE = 64  # pixels; up to here a 7×7 stride-2 stem would throw most of the image away


def create(
    name: str,
    *,
    num_classes: int,
    in_chans: int,
    image_size: int,
    pretrained: bool = False,
    **options: Any,
) -> nn.Module:
    """Build an image model.

    Parameters
    ----------
    name
        One of `attrreg.catalogue.MODELS` or any timm name.
    num_classes
        Width of the logits.
    in_chans
        Channels of the input.
    image_size
        Height and width of the input in pixels. Up to 64, a plain 7×7 stride-2 stem becomes 3×3
        stride 1 and the max-pool after it goes; other stems stay.
    pretrained
        Load timm's weights.
    options
        Passed on to timm, after those of the catalogue.

    Returns
    -------
    torch.nn.Module
        Maps (n, in_chans, image_size, image_size) to logits (n, num_classes).

    Raises
    ------
    KeyError
        Unknown name; the message gives the nearest match.
    """
    entry = catalogue.model(name)
    model = timm.create_model(
        entry.timm,
        pretrained=pretrained,
        num_classes=num_classes,
        in_chans=in_chans,
        **(entry.options | options),
    )
    if image_size <= SMALL_IMAGE:
        use_small_stem(model)
    return model


def use_small_stem(model: nn.Module) -> None:
    """Replace a plain 7×7 stride-2 stem by 3×3 stride 1, and drop the max-pool behind it."""
    modules = list(model.named_modules())
    convolutions = [place for place, (_, each) in enumerate(modules) if isinstance(each, nn.Conv2d)]
    first, second = (*convolutions, len(modules), len(modules))[:2]
    if first == len(modules):
        return
    path, stem = modules[first]
    if not isinstance(stem, nn.Conv2d) or (stem.kernel_size, stem.stride) != ((7, 7), (2, 2)):
        return
    small = nn.Conv2d(stem.in_channels, stem.out_channels, 3, 1, 1, bias=stem.bias is not None)
    nn.init.kaiming_normal_(small.weight, mode="fan_out", nonlinearity="relu")
    model.set_submodule(path, small)
    for path, module in modules[first:second]:
        if isinstance(module, nn.MaxPool2d):
            model.set_submodule(_whole_pooling(model, path), nn.Identity())
            return


def _whole_pooling(model: nn.Module, path: str) -> str:
    """Return the path of a pooling with the blur that may stand beside it in a Sequential."""
    parent = path.rpartition(".")[0]
    beside = model.get_submodule(parent)
    is_pooling = isinstance(beside, nn.Sequential) and not list(beside.parameters())
    return parent if parent and is_pooling else path
