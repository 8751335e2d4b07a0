"""What the scores of predictions ask of logits and labels, and how they say that it is missing."""

import torch
from torch import Tensor

__all__ = ["check_whole", "checked_logits", "checked_predictions"]


def checked_predictions(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits as float64 and labels as int64, or say what is wrong with them.

    Parameters
    ----------
    logits
        (n, classes) floating, n ≥ 1, classes ≥ 2, finite.
    labels
        (n,) integer, from 0 to classes − 1.

    Raises
    ------
    ValueError
        If one is not as described.
    """
    _check_shape(logits)
    shape = tuple(logits.shape)
    if tuple(labels.shape) != shape[:1]:
        raise ValueError(
            f"labels have shape {tuple(labels.shape)}: one label per row of logits, so "
            f"({shape[0]},), is allowed"
        )
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"labels have dtype {labels.dtype}: class numbers (int64) are allowed")
    found = checked_logits(logits)
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= shape[1]:
        raise ValueError(
            f"labels lie between {low} and {high}: 0 to {shape[1] - 1} is allowed, one for each "
            "column of the logits"
        )
    return found, labels.long()


def checked_logits(logits: Tensor) -> Tensor:
    """Return logits (n, classes) as float64 without a graph, or raise as `checked_predictions`."""
    _check_shape(logits)
    broken = int((~logits.isfinite()).any(dim=1).sum())
    if broken:
        raise ValueError(
            f"logits of {broken} of {len(logits)} samples are NaN or infinite: only finite logits "
            "are allowed; the model has probably diverged"
        )
    return logits.detach().double()


def check_whole(value: int, name: str) -> None:
    """Raise ValueError unless a parameter is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value!r}: a whole number of at least 1 is allowed")


def _check_shape(logits: Tensor) -> None:
    shape = tuple(logits.shape)
    if logits.ndim != 2 or shape[0] < 1 or shape[1] < 2:
        raise ValueError(
            f"logits have shape {shape}: (n, classes) with n ≥ 1 and classes ≥ 2 is allowed"
        )
    if not logits.is_floating_point():
        raise ValueError(f"logits have dtype {logits.dtype}: a floating dtype is allowed")
