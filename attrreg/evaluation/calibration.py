"""Calibration: does a model's confidence agree with how often it is right?

All functions take logits and labels, compute in float64, and return 0-d float64 tensors on the
device of the logits. The confidence of a sample is the largest softmax probability; the prediction
is the first class with the largest logit.
"""

import math
from dataclasses import dataclass

import torch
from scipy.optimize import brentq
from torch import Tensor

__all__ = ["Reliability", "brier", "ece", "mce", "nll", "reliability", "temperature"]

_SCHEMES = ("width", "mass")
_TEMPERATURE_LIMIT = 1e3


@dataclass(frozen=True)
class Reliability:
    """What a reliability diagram shows, one entry per bin, in rising order of confidence.

    Parameters
    ----------
    low, high
        (bins,) float64, the edges; for bins of equal mass the smallest and the largest confidence
        of their samples, NaN where empty.
    count
        (bins,) int64, the number of samples.
    confidence, accuracy
        (bins,) float64, their means in the bin; NaN where it is empty.
    """

    low: Tensor
    high: Tensor
    count: Tensor
    confidence: Tensor
    accuracy: Tensor


def reliability(
    logits: Tensor, labels: Tensor, bins: int = 15, scheme: str = "width"
) -> Reliability:
    """Return count, mean confidence and accuracy per bin of confidence.

    Parameters
    ----------
    logits
        (n, classes) floating, n ≥ 1, classes ≥ 2, finite.
    labels
        (n,) integer, from 0 to classes − 1.
    bins
        The number of bins, at least 1.
    scheme
        ``"width"``: equal widths on [0, 1]; a confidence on an inner edge lies in the upper bin,
        and 1 in the last. ``"mass"``: about n/bins samples each, by rank: bin ⌊rank·bins/n⌋, with
        ranks from 0. Samples of equal confidence share their middle rank and so a bin, whatever
        their order; with many ties, or fewer samples than bins, some bins are larger, others empty.

    Raises
    ------
    ValueError
        If an argument is not as described.

    References
    ----------
    Guo et al., On calibration of modern neural networks, ICML 2017.
    """
    logits, labels = _checked(logits, labels)
    if isinstance(bins, bool) or not isinstance(bins, int) or bins < 1:
        raise ValueError(f"bins is {bins!r}: a whole number of at least 1 is allowed")
    if scheme not in _SCHEMES:
        raise ValueError(f"unknown scheme {scheme!r}: known are {', '.join(_SCHEMES)}")
    confidence = logits.softmax(dim=1).amax(dim=1)
    correct = (logits.argmax(dim=1) == labels).double()
    index, low, high = (_by_width if scheme == "width" else _by_mass)(confidence, bins)
    count = torch.bincount(index, minlength=bins)
    return Reliability(
        low=low,
        high=high,
        count=count,
        confidence=torch.bincount(index, confidence, minlength=bins) / count,
        accuracy=torch.bincount(index, correct, minlength=bins) / count,
    )


def ece(logits: Tensor, labels: Tensor, bins: int = 15, scheme: str = "width") -> Tensor:
    """Return the expected calibration error: mean |accuracy − confidence|, bins weighted by count.

    Empty bins do not count. Biased upward in small samples: compare only at equal n and bins.
    Parameters, errors and source are those of `reliability`.
    """
    gap, weight = _gaps(reliability(logits, labels, bins, scheme))
    return (gap * weight).sum()


def mce(logits: Tensor, labels: Tensor, bins: int = 15, scheme: str = "width") -> Tensor:
    """Return the maximum calibration error: the largest |accuracy − confidence| of any bin.

    Empty bins do not count. Parameters, errors and source are those of `reliability`.
    """
    gap, _ = _gaps(reliability(logits, labels, bins, scheme))
    return gap.max()


def brier(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the Brier score, summed over classes: from 0 (perfect) to 2 (surely wrong).

    Parameters and errors are those of `reliability`.

    References
    ----------
    Brier, Verification of forecasts expressed in terms of probability, 1950.
    """
    logits, labels = _checked(logits, labels)
    target = torch.nn.functional.one_hot(labels, logits.shape[1])
    return (logits.softmax(dim=1) - target).square().sum(dim=1).mean()


def nll(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean negative log-likelihood of the labels, in nats.

    Parameters and errors are those of `reliability`.
    """
    logits, labels = _checked(logits, labels)
    return torch.nn.functional.cross_entropy(logits, labels)


def temperature(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the temperature T that minimises the NLL of logits / T, between 1/1000 and 1000.

    The NLL is convex in 1/T, so its slope has one root, which is bracketed and found to 12 digits.
    There is none where every label has the largest logit (T → 0: 1/1000 is returned) and where the
    logits are no better than chance (T → ∞: 1000). Where every sample's logits are all equal, T
    does not matter and is 1. Fit it on data that is not the test set.

    Parameters and errors are those of `reliability`.

    References
    ----------
    Guo et al., On calibration of modern neural networks, ICML 2017, section 4.2.
    """
    logits, labels = _checked(logits, labels)
    relative = logits - logits.gather(1, labels[:, None])

    def slope(log_inverse: float) -> float:
        """Return d NLL / d (1/T) at T = exp(−log_inverse)."""
        probability = (relative * math.exp(log_inverse)).softmax(dim=1)
        return float((probability * relative).sum(dim=1).mean())

    limit = math.log(_TEMPERATURE_LIMIT)
    if not relative.any():
        log_inverse = 0.0
    elif slope(limit) <= 0:
        log_inverse = limit
    elif slope(-limit) >= 0:
        log_inverse = -limit
    else:
        log_inverse = brentq(slope, -limit, limit, xtol=1e-12)
    return torch.tensor(math.exp(-log_inverse), dtype=torch.float64, device=logits.device)


def _by_width(confidence: Tensor, bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return each sample's bin, and the bins' edges."""
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64, device=confidence.device)
    index = torch.bucketize(confidence, edges[1:-1].contiguous(), right=True)
    return index, edges[:-1], edges[1:]


def _by_mass(confidence: Tensor, bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return each sample's bin, and the smallest and largest confidence of each bin."""
    _, group, size = confidence.unique(return_inverse=True, return_counts=True)
    twice_middle_rank = 2 * size.cumsum(0) - size - 1
    index = (twice_middle_rank * bins // (2 * len(confidence)))[group]
    empty = torch.full((bins,), math.nan, dtype=torch.float64, device=confidence.device)
    low = empty.scatter_reduce(0, index, confidence, "amin", include_self=False)
    high = empty.scatter_reduce(0, index, confidence, "amax", include_self=False)
    return index, low, high


def _gaps(diagram: Reliability) -> tuple[Tensor, Tensor]:
    """Return |accuracy − confidence| and the share of samples, of the bins that are not empty."""
    filled = diagram.count > 0
    gap = (diagram.accuracy - diagram.confidence).abs()[filled]
    return gap, diagram.count[filled] / diagram.count.sum().double()


def _checked(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits as float64 and labels as int64, or say what is wrong with them."""
    shape = tuple(logits.shape)
    if logits.ndim != 2 or shape[0] < 1 or shape[1] < 2:
        raise ValueError(
            f"logits have shape {shape}: (n, classes) with n ≥ 1 and classes ≥ 2 is allowed"
        )
    if not logits.is_floating_point():
        raise ValueError(f"logits have dtype {logits.dtype}: a floating dtype is allowed")
    if tuple(labels.shape) != shape[:1]:
        raise ValueError(
            f"labels have shape {tuple(labels.shape)}: one label per row of logits, so "
            f"({shape[0]},), is allowed"
        )
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"labels have dtype {labels.dtype}: class numbers (int64) are allowed")
    broken = int((~logits.isfinite()).any(dim=1).sum())
    if broken:
        raise ValueError(
            f"logits of {broken} of {shape[0]} samples are NaN or infinite: only finite logits are "
            "allowed; the model has probably diverged"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= shape[1]:
        raise ValueError(
            f"labels lie between {low} and {high}: 0 to {shape[1] - 1} is allowed, one for each "
            "column of the logits"
        )
    return logits.detach().double(), labels.long()
