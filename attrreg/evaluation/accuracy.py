"""Accuracy: how often a model is right, over all samples and class by class.

All functions take logits and labels, and return float64 on the device of the logits. The prediction
is the first class with the largest logit. Parameters and errors are those of
`attrreg.evaluation.checks.checked_predictions`.
"""

import torch
from torch import Tensor

from attrreg.evaluation.checks import check_whole, checked_predictions

__all__ = ["balanced", "per_class", "top_k"]


def top_k(logits: Tensor, labels: Tensor, k: int = 1) -> Tensor:
    """Return the share of samples, (), whose label is among the k classes of largest logit.

    Of equal logits the class of smaller number comes first, as in the prediction. With k classes
    or fewer every sample counts as right.

    Raises
    ------
    ValueError
        k is no whole number of at least 1.
    """
    logits, labels = checked_predictions(logits, labels)
    check_whole(k, "k")
    label = labels.unsqueeze(1)
    own = logits.gather(1, label)
    earlier = torch.arange(logits.shape[1], device=logits.device) < label
    ahead = (logits > own) | ((logits == own) & earlier)
    return (ahead.sum(1) < k).double().mean()


def per_class(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the share of right predictions among the samples of each class, (classes,).

    NaN for a class that no sample has.
    """
    logits, labels = checked_predictions(logits, labels)
    classes = logits.shape[1]
    right = labels[logits.argmax(1) == labels]
    count = torch.bincount(labels, minlength=classes)
    return torch.bincount(right, minlength=classes).double() / count


def balanced(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean of `per_class`, (), over the classes that some sample has."""
    return per_class(logits, labels).nanmean()
