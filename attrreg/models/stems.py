"""Stems that small images survive."""

from torch import nn

__all__ = ["SMALL_IMAGE", "first_convolution", "fit_stem", "use_small_stem"]

SMALL_IMAGE = 64  # pixels; up to here a 7×7 stride-2 stem would throw most of the image away


def fit_stem(model: nn.Module, image_size: int, small: bool | None = None) -> tuple[str, ...]:
    """Fit the stem of a model to its images, and return the names of the parameters that are new.

    Parameters
    ----------
    model
        As it was built; changed in place.
    image_size
        Height and width of the input in pixels. Above 64 nothing is done.
    small
        None: only a plain 7×7 stride-2 stem is replaced. True: any other first convolution with
        overlapping windows works at stride 1, with the weights that it has. False: no stem is
        changed.

    Raises
    ------
    ValueError
        ``small`` is True, and the stem cannot be made smaller.
    """
    if small is False or image_size > SMALL_IMAGE:
        return ()
    new = use_small_stem(model)
    if small and not new:
        _use_every_pixel(model)
    return new


def use_small_stem(model: nn.Module) -> tuple[str, ...]:
    """Replace a plain 7×7 stride-2 stem by 3×3 stride 1, and drop the max-pool behind it.

    Returns the names of the parameters that are new; none where the stem is another one.
    """
    modules = list(model.named_modules())
    convolutions = [place for place, (_, each) in enumerate(modules) if isinstance(each, nn.Conv2d)]
    first, second = (*convolutions, len(modules), len(modules))[:2]
    if first == len(modules):
        return ()
    path, stem = modules[first]
    if not isinstance(stem, nn.Conv2d) or (stem.kernel_size, stem.stride) != ((7, 7), (2, 2)):
        return ()
    small = nn.Conv2d(stem.in_channels, stem.out_channels, 3, 1, 1, bias=stem.bias is not None)
    nn.init.kaiming_normal_(small.weight, mode="fan_out", nonlinearity="relu")
    model.set_submodule(path, small)
    for pooling, module in modules[first:second]:
        if isinstance(module, nn.MaxPool2d):
            model.set_submodule(_whole_pooling(model, pooling), nn.Identity())
            break
    return tuple(f"{path}.{name}" for name, _ in small.named_parameters())


def first_convolution(model: nn.Module) -> tuple[str, nn.Conv2d] | None:
    """Return the path and the convolution that reads the image, None if there is none."""
    found = ((path, each) for path, each in model.named_modules() if isinstance(each, nn.Conv2d))
    return next(found, None)


def _use_every_pixel(model: nn.Module) -> None:
    path, stem = first_convolution(model) or ("", None)
    if stem is None or stem.stride == (1, 1) or stem.kernel_size <= stem.stride:
        kind = "no convolution" if stem is None else f"{path}: {stem}"
        raise ValueError(
            f"small_stem: true makes a stem of overlapping windows work at stride 1, "
            f"{type(model).__name__} begins with {kind}: remove it (where the stem cuts patches, "
            "set patch_size)"
        )
    stem.stride = (1, 1)


def _whole_pooling(model: nn.Module, path: str) -> str:
    """Return the path of a pooling with the blur that may stand beside it in a Sequential."""
    parent = path.rpartition(".")[0]
    beside = model.get_submodule(parent)
    is_pooling = isinstance(beside, nn.Sequential) and not list(beside.parameters())
    return parent if parent and is_pooling else path
