"""Calibration: does a model's confidence agree with how often it is right?

All functions take logits and labels, compute in float64, and return 0-d float64 tensors on the
device of the logits. The confidence of a sample is the largest softmax probability; the prediction
is the first class with the largest logit.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from scipy.optimize import brentq
from torch import Tensor

from attrreg.evaluation.checks import check_whole, checked_logits, checked_predictions

__all__ = [
    "BrierParts",
    "Reliability",
    "brier",
    "brier_decomposition",
    "classwise_ece",
    "ece",
    "in_bins",
    "mce",
    "nll",
    "reliability",
    "rmsce",
    "scaled",
    "temperature",
]

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
    logits, labels = checked_predictions(logits, labels)
    confidence = logits.softmax(dim=1).amax(dim=1)
    correct = (logits.argmax(dim=1) == labels).double()
    return _diagram(confidence, correct, bins, scheme)


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


def rmsce(logits: Tensor, labels: Tensor, bins: int = 15, scheme: str = "width") -> Tensor:
    """Return the root of the mean squared (accuracy − confidence), bins weighted by count.

    Empty bins do not count. Parameters, errors and source are those of `reliability`.
    """
    gap, weight = _gaps(reliability(logits, labels, bins, scheme))
    return (gap.square() * weight).sum().sqrt()


def classwise_ece(logits: Tensor, labels: Tensor, bins: int = 15, scheme: str = "width") -> Tensor:
    """Return the mean over classes of the ECE of that class's probability.

    In each bin of a class's probability its mean is compared with the share of samples that have
    the class, whatever is predicted. Classes that no sample has count too. Parameters and errors
    are those of `reliability`.

    References
    ----------
    Kull et al., Beyond temperature scaling, NeurIPS 2019, equation 2.
    """
    logits, labels = checked_predictions(logits, labels)
    total = torch.zeros((), dtype=torch.float64, device=logits.device)
    for number, probability in enumerate(logits.softmax(dim=1).unbind(1)):
        gap, weight = _gaps(_diagram(probability, (labels == number).double(), bins, scheme))
        total += (gap * weight).sum()
    return total / logits.shape[1]


class BrierParts(NamedTuple):
    """Parts of the Brier score, 0-d: reliability − resolution + uncertainty + within."""

    reliability: Tensor
    resolution: Tensor
    uncertainty: Tensor
    within: Tensor


def brier_decomposition(
    logits: Tensor, labels: Tensor, bins: int = 15, scheme: str = "width"
) -> BrierParts:
    """Return the parts of `brier`: classwise binning, every part summed over the classes.

    With p the probability of a class, o whether the label is this class, p̄ and ō their means in a
    bin, and bins weighted by count:

    * reliability is the mean of (p̄ − ō)²: 0 where calibrated, smaller is better;
    * resolution is the mean of (ō − mean o)²: larger is better;
    * uncertainty is mean o · (1 − mean o), of the labels alone;
    * within is what binning leaves: the mean of (p − p̄)² − 2 (p − p̄)(o − ō), 0 where all p of a bin
      are equal. Below 0, p is of use inside bins too.

    Reliability and resolution are biased upward in small samples: compare only at equal n and bins.
    Parameters and errors are those of `reliability`.

    References
    ----------
    Murphy, A new vector partition of the probability score, 1973; Stephenson et al., Two extra
    components in the Brier score decomposition, 2008 (the parts within bins).
    """
    logits, labels = checked_predictions(logits, labels)
    parts = torch.zeros(4, dtype=torch.float64, device=logits.device)
    for number, p in enumerate(logits.softmax(dim=1).unbind(1)):
        o = (labels == number).double()
        index, _, _ = in_bins(p, bins, scheme)
        count = torch.bincount(index, minlength=bins)
        p_mean, o_mean = ((torch.bincount(index, each, bins) / count)[index] for each in (p, o))
        p_rest, o_rest, base = p - p_mean, o - o_mean, o.mean()
        parts += torch.stack(
            [
                (p_mean - o_mean).square().mean(),
                (o_mean - base).square().mean(),
                base * (1 - base),
                (p_rest.square() - 2 * p_rest * o_rest).mean(),
            ]
        )
    return BrierParts(*parts)


def brier(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the Brier score, summed over classes: from 0 (perfect) to 2 (surely wrong).

    Parameters and errors are those of `reliability`.

    References
    ----------
    Brier, Verification of forecasts expressed in terms of probability, 1950.
    """
    logits, labels = checked_predictions(logits, labels)
    target = torch.nn.functional.one_hot(labels, logits.shape[1])
    return (logits.softmax(dim=1) - target).square().sum(dim=1).mean()


def nll(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean negative log-likelihood of the labels, in nats.

    Parameters and errors are those of `reliability`.
    """
    logits, labels = checked_predictions(logits, labels)
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
    logits, labels = checked_predictions(logits, labels)
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


def scaled(logits: Tensor, temperature: Tensor | float) -> Tensor:
    """Return logits ÷ temperature, float64: what every score here takes after scaling.

    Raises
    ------
    ValueError
        If logits are not as in `reliability`, or the temperature is no single finite number > 0.
    """
    logits = checked_logits(logits)
    found = torch.as_tensor(temperature, dtype=torch.float64, device=logits.device)
    if found.numel() != 1 or not 0 < float(found) < math.inf:
        raise ValueError(f"temperature is {temperature}: a finite number > 0 is allowed")
    return logits / found.view(())


def in_bins(values: Tensor, bins: int, scheme: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return the bin of each value in [0, 1], and the bins' edges; see `reliability`.

    Returns
    -------
    tuple of Tensor
        (n,) int64; (bins,) and (bins,) float64.
    """
    check_whole(bins, "bins")
    if scheme not in _SCHEMES:
        raise ValueError(f"unknown scheme {scheme!r}: known are {', '.join(_SCHEMES)}")
    return _SCHEMES[scheme](values, bins)


def _diagram(confidence: Tensor, correct: Tensor, bins: int, scheme: str) -> Reliability:
    index, low, high = in_bins(confidence, bins, scheme)
    count = torch.bincount(index, minlength=bins)
    return Reliability(
        low=low,
        high=high,
        count=count,
        confidence=torch.bincount(index, confidence, minlength=bins) / count,
        accuracy=torch.bincount(index, correct, minlength=bins) / count,
    )


def _by_width(confidence: Tensor, bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return each sample's bin, and the bins' edges."""
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64, device=confidence.device)
    index = torch.bucketize(confidence.contiguous(), edges[1:-1].contiguous(), right=True)
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


_SCHEMES = {"width": _by_width, "mass": _by_mass}


def _gaps(diagram: Reliability) -> tuple[Tensor, Tensor]:
    """Return |accuracy − confidence| and the share of samples, of the bins that are not empty."""
    filled = diagram.count > 0
    gap = (diagram.accuracy - diagram.confidence).abs()[filled]
    return gap, diagram.count[filled] / diagram.count.sum().double()
