"""What maps themselves are like: sparse, stable, smooth.

Every function returns one float64 number per sample, (n,), NaN where it is not defined.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from attrreg.attribution import relevance
from attrreg.attribution.explained import Output
from attrreg.attribution.rules import RULES
from attrreg.evaluation.checks import check_whole
from attrreg.evaluation.faithfulness import seeded

__all__ = ["gini", "gradient_cosine", "hoyer", "max_sensitivity"]

BATCH = 64  # samples; bounds the memory, not the result


def gini(values: Tensor) -> Tensor:
    """Return the Gini index of the magnitudes: 0 where all are equal, 1 − 1/d for one of d.

    NaN for a map of zeros.

    Parameters
    ----------
    values
        (n, *features).

    References
    ----------
    Hurley and Rickard, Comparing measures of sparsity, 2009; Chalasani et al., Concise explanations
    of neural networks using adversarial training, ICML 2020.
    """
    sizes = values.detach().double().flatten(1).abs().sort(1).values
    d = sizes.shape[1]
    rising = 2 * torch.arange(1, d + 1, dtype=torch.float64, device=sizes.device) - d - 1
    return (sizes * rising).sum(1) / (d * sizes.sum(1))


def hoyer(values: Tensor) -> Tensor:
    """Return Hoyer's sparseness, (√d − ‖R‖₁/‖R‖₂)/(√d − 1): 0 all equal, 1 a single feature.

    NaN for a map of zeros, and with a single feature in all (d = 1).

    Parameters
    ----------
    values
        (n, *features).

    References
    ----------
    Hoyer, Non-negative matrix factorization with sparseness constraints, JMLR 2004.
    """
    sizes = _unit(values).abs()
    root = math.sqrt(sizes.shape[1])
    if root == 1:
        return torch.full_like(sizes[:, 0], torch.nan)
    return (root - sizes.sum(1) / sizes.square().sum(1).sqrt()) / (root - 1)


def max_sensitivity(
    maps: Callable[[Tensor], Tensor],
    x: Tensor,
    radius: float,
    draws: int = 10,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the largest ‖R(x + δ) − R(x)‖₂ / ‖R(x)‖₂ over random δ in a cube, (n,).

    Divided by the size of the map, as otherwise it is that of the model's outputs which counts. A
    lower bound of what is possible in the cube, which rises with the draws. NaN where R(x) is 0.

    Parameters
    ----------
    maps
        Gives R, (n, …), of inputs like x: of the same class wherever x moves, and with the same
        randomness.
    x
        Inputs (n, …).
    radius
        δ is uniform in [−radius, radius] in every entry, in units of x; > 0.
    draws
        How many δ, at least 1.
    generator
        Of δ, on the device of x; None: one of seed 0.

    Raises
    ------
    ValueError
        Radius or draws are not as described.

    References
    ----------
    Yeh et al., On the (in)fidelity and sensitivity of explanations, NeurIPS 2019, definition 2.
    """
    check_whole(draws, "draws")
    if not 0 < radius < math.inf:
        raise ValueError(f"radius is {radius!r}: a finite number > 0, in units of x, is allowed")
    generator = seeded(generator, x)
    clean = maps(x).detach().double().flatten(1)
    largest = torch.zeros_like(clean[:, 0])
    for _ in range(draws):
        unit = torch.rand(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        moved = maps(x + radius * (2 * unit - 1)).detach().double().flatten(1)
        largest = torch.maximum(largest, (moved - clean).norm(dim=1))
    size = clean.norm(dim=1)
    return torch.where(size > 0, largest / size, torch.nan)


def gradient_cosine(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    samples: int = 16,
    noise: float = 0.15,
    *,
    output: Output = "logit",
    batch_size: int = BATCH,
) -> Tensor:
    """Return the cosine between the gradient and SmoothGrad, (n,): 1 where nothing is noise.

    NaN where one of them is 0. The channels are not summed.

    Parameters
    ----------
    model
        Maps x to logits; it is left as it is.
    x, y
        Inputs (n, …) and the explained class, (n,) int64.
    samples, noise
        Of SmoothGrad: copies, and their deviation as a share of each sample's range; see
        `attrreg.attribution.rules.Rule`.
    output
        ``logit``, or ``log-probability``.
    batch_size
        Samples that are explained at once; bounds the memory, not the result.
    """
    smooth = replace(RULES["smoothgrad"], samples=samples, noise=noise)
    cosines = []
    for part, classes in zip(x.split(batch_size), y.split(batch_size), strict=True):
        plain, mean = (
            _unit(relevance(model, part, classes, rule, output))
            for rule in (RULES["gradient"], smooth)
        )
        cosines.append((plain * mean).sum(1))
    return torch.cat(cosines)


def _unit(values: Tensor) -> Tensor:
    """Return flattened maps of length 1, (n, features) float64; NaN for maps of zeros."""
    flat = values.detach().double().flatten(1)
    flat = flat / flat.abs().amax(1, keepdim=True)  # so that no square is too small or too large
    return flat / flat.norm(dim=1, keepdim=True)
