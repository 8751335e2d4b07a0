"""Feature axes: the axes of an input whose positions are ranked, masked and erased together.

Images have (height, width), series (length) or (time, channel), point clouds (points). Whatever is
neither the batch axis 0 nor a feature axis is a channel.
"""

from torch import Tensor

__all__ = ["on_features", "over_channels", "resolve_axes"]


def resolve_axes(x: Tensor, axes: tuple[int, ...] | None) -> tuple[int, ...]:
    """Return the feature axes of x, ascending; ``None`` means every axis after the channel axis 1.

    Raises
    ------
    ValueError
        An axis does not exist in x, is the batch axis, or none is left.
    """
    resolved = tuple(range(2, x.ndim)) if axes is None else tuple(sorted(axes))
    distinct = len(set(resolved)) == len(resolved)
    if not resolved or not distinct or resolved[0] < 1 or resolved[-1] >= x.ndim:
        raise ValueError(
            f"feature axes {resolved} do not fit an input of shape {tuple(x.shape)}: "
            f"give distinct axes between 1 and {x.ndim - 1}"
        )
    return resolved


def on_features(values: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Sum values shaped like an input over its channels; the result is (n, *features)."""
    channels = [axis for axis in range(1, values.ndim) if axis not in axes]
    return values.sum(channels) if channels else values


def over_channels(values: Tensor, x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Shape values (n, *features) so that they broadcast over the channels of x."""
    for axis in range(1, x.ndim):
        if axis not in axes:
            values = values.unsqueeze(axis)
    return values
