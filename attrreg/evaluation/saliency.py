"""The saliency maps by which saliency guided training is judged, as magnitudes on the features.

=====================  =========================================================================
gradient               |∂S/∂x|, summed over channels
smoothgrad-squared     the mean of (∂S/∂x)² at noisy copies, summed over channels
integrated-gradients   x times the mean of ∂S/∂x between 0 and x
deeplift               DeepLIFT's rescale rule against 0
gradient-shap          the mean of (x − b) ∂S/∂x at random places between x and random samples b
deep-shap              the mean of DeepLIFT's rescale rule against every sample b
random                 independent uniform numbers
=====================  =========================================================================

S is the explained logit; b are the background samples. Of the four in the middle the channels are
summed first and the magnitude taken then, as in the published code. That draws its baselines from
U(0, 1); here they are 0, the channel mean of images, and samples.

References
----------
Ismail et al., arXiv 2111.14338; Hooker et al., A benchmark for interpretability methods, NeurIPS
2019 (SmoothGrad²); Shrikumar et al., Learning important features through propagating activation
differences, ICML 2017 (DeepLIFT); Lundberg and Lee, A unified approach to interpreting model
predictions, NeurIPS 2017 (GradientSHAP and DeepSHAP).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from attrreg.attribution import relevance
from attrreg.evaluation.checks import check_whole
from attrreg.evaluation.deeplift import deeplift
from attrreg.evaluation.faithfulness import seeded
from attrreg.features import on_features, resolve_axes

__all__ = ["SALIENCIES", "saliency"]

SALIENCIES = (
    *("gradient", "smoothgrad-squared", "integrated-gradients", "deeplift"),
    *("gradient-shap", "deep-shap", "random"),
)
BATCH = 64  # samples; bounds the memory, not the result
NOISE = 0.15  # deviation of the copies, as a share of each sample's range


def saliency(
    name: str,
    model: nn.Module,
    x: Tensor,
    explained: Tensor,
    *,
    background: Tensor | None = None,
    samples: int = 16,
    generator: torch.Generator | None = None,
    axes: tuple[int, ...] | None = None,
    batch_size: int = BATCH,
) -> Tensor:
    """Return the saliency of each feature, (n, *features), not below 0.

    Parameters
    ----------
    name
        One of `SALIENCIES`.
    model
        Maps x to logits (n, classes); it runs in evaluation mode and is left as it is.
    x, explained
        Inputs (n, …) and the class whose logit is explained, (n,) int64.
    background
        (m, …), samples of the kind of x; for ``gradient-shap`` and ``deep-shap`` only. The time of
        the latter grows with m.
    samples
        Noisy copies of ``smoothgrad-squared`` and random places of ``gradient-shap``.
    generator
        Their randomness, and that of ``random``, on the device of x; None: one of seed 0.
    axes
        Feature axes of x; None: all after the channel axis 1.
    batch_size
        Samples that are explained at once; bounds the memory, not the result.

    Raises
    ------
    ValueError
        Unknown name, no samples asked for, or a background that is missing or does not fit.
    UnsupportedOperation
        For ``deeplift`` and ``deep-shap``: the model holds a nonlinearity that has no rescale rule,
        see `attrreg.evaluation.deeplift`.
    """
    if name not in SALIENCIES:
        raise ValueError(f"unknown saliency {name!r}: known are {', '.join(SALIENCIES)}")
    check_whole(samples, "samples")
    if name.endswith("-shap"):
        _check_background(name, x, background)
    axes = resolve_axes(x, axes)
    generator = seeded(generator, x)
    if name == "random":
        shape = (len(x), *(x.shape[axis] for axis in axes))
        return torch.rand(shape, generator=generator, dtype=x.dtype, device=x.device)

    def slope(at: Tensor, rule: str = "gradient") -> Tensor:
        pairs = zip(at.split(batch_size), explained.split(batch_size), strict=True)
        return torch.cat([relevance(model, part, classes, rule) for part, classes in pairs])

    if name == "gradient":
        return on_features(slope(x).abs(), axes)
    if name == "smoothgrad-squared":
        return on_features(_squared(slope, x, samples, generator), axes)
    if name == "integrated-gradients":
        signed = slope(x, "integrated-gradients")
    elif name == "gradient-shap" and background is not None:
        signed = _expected(slope, x, background, samples, generator)
    else:
        zero = torch.zeros_like(x[:1])
        baselines = background if name == "deep-shap" and background is not None else zero
        pairs = list(zip(x.split(batch_size), explained.split(batch_size), strict=True))
        signed = torch.zeros_like(x)
        for baseline in baselines:
            maps = [deeplift(model, part, classes, baseline) for part, classes in pairs]
            signed += torch.cat(maps) / len(baselines)
    return on_features(signed, axes).abs()


def _squared(
    slope: Callable[[Tensor], Tensor], x: Tensor, samples: int, generator: torch.Generator
) -> Tensor:
    """Return SmoothGrad², shaped like x."""
    every = tuple(range(1, x.ndim))
    extent = x.amax(every, keepdim=True) - x.amin(every, keepdim=True)
    total = torch.zeros_like(x)
    for _ in range(samples):
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        total += slope(x + NOISE * extent * noise).square() / samples
    return total


def _expected(
    slope: Callable[[Tensor], Tensor],
    x: Tensor,
    background: Tensor,
    samples: int,
    generator: torch.Generator,
) -> Tensor:
    """Return GradientSHAP without noise (expected gradients), shaped like x."""
    total = torch.zeros_like(x)
    for _ in range(samples):
        which = torch.randint(len(background), (len(x),), generator=generator, device=x.device)
        place = torch.rand(len(x), generator=generator, dtype=x.dtype, device=x.device)
        start = background[which]
        way = x - start
        total += way * slope(start + place.view(-1, *[1] * (x.ndim - 1)) * way) / samples
    return total


def _check_background(name: str, x: Tensor, background: Tensor | None) -> None:
    if background is None:
        raise ValueError(f"saliency {name!r} needs background samples, found none: give background")
    if len(background) == 0 or background.shape[1:] != x.shape[1:]:
        raise ValueError(
            f"background has shape {tuple(background.shape)}: at least one sample of shape "
            f"{tuple(x.shape[1:])} is allowed"
        )
