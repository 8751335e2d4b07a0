"""torchvision's classifiers, for inputs of any number of channels and with the small stem."""

from typing import Any

import torchvision
from torch import nn

from attrreg.models.stems import first_convolution, fit_stem

__all__ = ["build"]


def build(
    num_classes: int, in_chans: int, image_size: int, architecture: str, **options: Any
) -> nn.Module:
    """Build a model of torchvision with random weights.

    Parameters
    ----------
    num_classes, in_chans, image_size
        As in `attrreg.models.create`; the stem is fitted to small images as timm's are.
    architecture
        One of torchvision's names.
    options
        Passed on to torchvision.
    """
    model: nn.Module = torchvision.models.get_model(
        architecture, weights=None, num_classes=num_classes, **options
    )
    path, stem = first_convolution(model) or ("", None)
    if stem is not None and stem.in_channels != in_chans:
        kernel: Any = stem.kernel_size
        new = nn.Conv2d(
            in_chans,
            stem.out_channels,
            kernel,
            stem.stride,  # type: ignore[arg-type]
            stem.padding,  # type: ignore[arg-type]
            bias=stem.bias is not None,
        )
        model.set_submodule(path, new)
    fit_stem(model, image_size)
    return model
