"""Calibration errors in small samples: what chance alone shows, and estimates without its share.

The plug-in errors of `attrreg.evaluation.calibration` are biased upward: a bin's accuracy deviates
from its confidence by chance even where the model is perfectly calibrated, and deviations never
cancel. Two ways out, both on the bins of `attrreg.evaluation.calibration.reliability`, whose
parameters and errors are those of the functions here:

* say what chance alone would give at this size and confidence (`expected_ece`, `expected_mce`,
  `expected_classwise_ece`, `calibrated_eces`);
* estimate without the bias: exactly for the squared error (`debiased_square`), and from it
  `debiased_rmsce`; about, for the absolute one (`debiased_ece`).
"""

import math

import torch
from torch import Tensor

from attrreg.evaluation.calibration import in_bins, reliability
from attrreg.evaluation.checks import check_whole, checked_logits

__all__ = [
    "calibrated_eces",
    "debiased_ece",
    "debiased_rmsce",
    "debiased_square",
    "expected_classwise_ece",
    "expected_ece",
    "expected_mce",
]

DRAWS = 1000
NUMBERS = 2**22  # drawn at a time; bounds the memory, not the result


def debiased_square(
    logits: Tensor, labels: Tensor, bins: int = 15, scheme: str = "width"
) -> Tensor:
    """Return the squared calibration error without the share of chance, (); may be below 0.

    Σ weight · [(accuracy − confidence)² − accuracy (1 − accuracy) / (count − 1)]. Means over runs
    are means of this one, since the root's positive part is biased again. A bin with one sample
    says nothing about chance and adds nothing.

    References
    ----------
    Kumar, Liang and Ma, Verified uncertainty calibration, NeurIPS 2019, section 5; the correction
    is that of Bröcker, Estimating reliability and resolution of probability forecasts, 2012.
    """
    diagram = reliability(logits, labels, bins, scheme)
    usable = diagram.count > 1
    count, accuracy = diagram.count[usable].double(), diagram.accuracy[usable]
    square = (accuracy - diagram.confidence[usable]).square()
    chance = accuracy * (1 - accuracy) / (count - 1)
    return ((square - chance) * count).sum() / diagram.count.sum()


def debiased_rmsce(logits: Tensor, labels: Tensor, bins: int = 15, scheme: str = "width") -> Tensor:
    """Return the root of `debiased_square`, (); 0 where that is below 0."""
    return debiased_square(logits, labels, bins, scheme).clamp_min(0).sqrt()


def debiased_ece(logits: Tensor, labels: Tensor, bins: int = 15, scheme: str = "width") -> Tensor:
    """Return the ECE less its bias as a normal approximation sees it, ().

    With g a bin's gap and σ² = accuracy (1 − accuracy) / count, |g| becomes 2|g| − E|g + σz|, z
    standard normal, in closed form: the bias that chance would add once more is taken off once. It
    removes about half of the bias, not all: beside it stand `debiased_rmsce` and `expected_ece`.
    Bins where all samples are right, or all wrong, show no spread and stay as they are, so bins
    need samples: use few, or those of equal mass.

    References
    ----------
    Kumar, Liang and Ma, Verified uncertainty calibration, NeurIPS 2019, appendix (there by draws).
    """
    diagram = reliability(logits, labels, bins, scheme)
    filled = diagram.count > 0
    count, accuracy = diagram.count[filled].double(), diagram.accuracy[filled]
    gap = (accuracy - diagram.confidence[filled]).abs()
    deviation = (accuracy * (1 - accuracy) / count).sqrt()
    again = _folded_normal_mean(gap, deviation)
    return ((2 * gap - again) * count).sum() / diagram.count.sum()


def expected_ece(
    logits: Tensor,
    bins: int = 15,
    scheme: str = "width",
    draws: int = DRAWS,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the mean of `calibrated_eces`, (): the ECE that chance alone would show."""
    return calibrated_eces(logits, bins, scheme, draws, generator).mean()


def calibrated_eces(
    logits: Tensor,
    bins: int = 15,
    scheme: str = "width",
    draws: int = DRAWS,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return ECEs, (draws,), that a calibrated model with these confidences would show.

    In every draw each sample is right with the probability that is its confidence, which is what
    labels drawn from the model's own probabilities come to. The share of draws above a measured ECE
    is a p-value of perfect calibration.

    Parameters
    ----------
    logits, bins, scheme
        As in `attrreg.evaluation.calibration.reliability`.
    draws
        At least 1.
    generator
        On any device; None: one of seed 0 on the CPU.
    """
    confidence = checked_logits(logits).softmax(dim=1).amax(dim=1)
    return _gaps_by_chance(confidence, bins, scheme, draws, generator)[0].sum(1) / len(confidence)


def expected_mce(
    logits: Tensor,
    bins: int = 15,
    scheme: str = "width",
    draws: int = DRAWS,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the mean of the largest calibration errors that chance alone would show, ().

    Parameters and draws are those of `calibrated_eces`.
    """
    confidence = checked_logits(logits).softmax(dim=1).amax(dim=1)
    gaps, count = _gaps_by_chance(confidence, bins, scheme, draws, generator)
    filled = count > 0
    return (gaps[:, filled] / count[filled]).amax(1).mean()


def expected_classwise_ece(
    logits: Tensor,
    bins: int = 15,
    scheme: str = "width",
    draws: int = DRAWS,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the mean classwise ECE that chance alone would show, ().

    In every draw each sample has each class with the probability that the model gives it. The
    classes of a sample are drawn apart from each other, which changes no mean. So many classes need
    fewer draws of each: `draws` are shared by all, at least ten for each. Parameters are those of
    `calibrated_eces`.
    """
    probabilities = checked_logits(logits).softmax(dim=1)
    check_whole(draws, "draws")
    each = max(10, -(-draws // probabilities.shape[1]))
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    errors = [
        _gaps_by_chance(column, bins, scheme, each, generator)[0].sum(1).mean()
        for column in probabilities.unbind(1)
    ]
    return torch.stack(errors).mean() / len(probabilities)


def _gaps_by_chance(
    probability: Tensor, bins: int, scheme: str, draws: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Return |number − expected number| of what has a probability, per draw and bin, and counts."""
    check_whole(draws, "draws")
    index, _, _ = in_bins(probability, bins, scheme)
    bin_of = torch.nn.functional.one_hot(index, bins).double()
    expected = probability @ bin_of
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    n, found = len(probability), []
    for part in torch.arange(draws).split(max(NUMBERS // n, 1)):
        drawn = torch.rand((len(part), n), generator=generator, device=generator.device)
        hits = (drawn.to(probability.device) < probability).double() @ bin_of
        found.append((hits - expected).abs())
    return torch.cat(found), bin_of.sum(0)


def _folded_normal_mean(mean: Tensor, deviation: Tensor) -> Tensor:
    """Return E|mean + deviation · z|, z standard normal; |mean| where the deviation is 0."""
    place = mean / torch.where(deviation > 0, deviation, 1)
    folded = deviation * math.sqrt(2 / math.pi) * torch.exp(-place.square() / 2)
    folded = folded + mean * torch.erf(place / math.sqrt(2))
    return torch.where(deviation > 0, folded, mean.abs())
