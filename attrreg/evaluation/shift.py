"""Shifts: accuracy on corrupted images, on a part of the classes, and what the model does not know.

Corruptions have the spirit of ImageNet-C (Hendrycks and Dietterich, ICLR 2019), whose strengths are
made for 224 pixels; the strengths in `SEVERITIES` are ours and hold for images of any size. They
must not be compared with published numbers.
"""

import io
import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from attrreg.evaluation.checks import checked_logits
from attrreg.evaluation.predict import BATCH, predict

__all__ = [
    "SEVERITIES",
    "Detection",
    "accuracies_under",
    "accuracy_under",
    "class_mapped",
    "corrupt",
    "detection",
]

# From weak to strong. noise: deviation, as a share of the range 0 to 255. blur: deviation in
# pixels, divided by the root of the shorter side, so that 8 pixels still change and 224 can still
# be read. contrast: what is left of it. jpeg: quality.
SEVERITIES: dict[str, tuple[float, ...]] = {
    "noise": (0.04, 0.08, 0.12, 0.18, 0.26),
    "blur": (0.12, 0.18, 0.25, 0.35, 0.5),
    "contrast": (0.7, 0.5, 0.35, 0.22, 0.12),
    "jpeg": (70, 45, 25, 12, 5),
}
REACH = 3  # deviations of the blur


class Detection(NamedTuple):
    """How well confidence tells known from unknown samples, () float64 each.

    ``auroc``: .5 is chance. ``aupr_known`` and ``aupr_unknown``: average precision where the known,
    or the unknown ones, are to be found; chance is their share.
    """

    auroc: Tensor
    aupr_known: Tensor
    aupr_unknown: Tensor


def corrupt(
    x: Tensor, kind: str, severity: int, generator: torch.Generator | None = None
) -> Tensor:
    """Return corrupted images, uint8 like x.

    Parameters
    ----------
    x
        (n, channels, height, width) uint8.
    kind
        A name in `SEVERITIES`. ``noise``: Gaussian, per pixel and channel. ``blur``: Gaussian.
        ``contrast``: towards the mean of each channel. ``jpeg``: through the format and back, three
        channels as colour (with halved chroma), any other number one by one.
    severity
        From 1 to 5.
    generator
        Of the noise, on the CPU, and drawn from image by image, so that batches may be of any size;
        None: one of seed 0.

    Raises
    ------
    ValueError
        An argument is not as described.
    """
    if x.ndim != 4 or x.dtype != torch.uint8:
        raise ValueError(
            f"x has shape {tuple(x.shape)} and dtype {x.dtype}: (n, channels, height, width) uint8 "
            "is allowed"
        )
    if kind not in SEVERITIES:
        raise ValueError(f"unknown corruption {kind!r}: known are {', '.join(SEVERITIES)}")
    levels = SEVERITIES[kind]
    if severity not in range(1, len(levels) + 1):
        raise ValueError(f"severity is {severity!r}: a whole number from 1 to 5 is allowed")
    level = levels[severity - 1]
    if kind == "jpeg":
        return _compress(x, int(level))
    if kind == "noise":
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        drawn = [torch.randn(x.shape[1:], generator=generator) for _ in range(len(x))]
        noise = torch.stack(drawn).to(x.device) if drawn else torch.zeros_like(x, dtype=torch.float)
        changed = x + 255 * level * noise
    elif kind == "blur":
        changed = _blur(x.double(), level * math.sqrt(min(x.shape[2:])))
    else:
        mean = x.float().mean((2, 3), keepdim=True)
        changed = mean + level * (x - mean)
    return changed.round().clamp(0, 255).to(torch.uint8)


def accuracy_under(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    normalise: Callable[[Tensor], Tensor],
    kind: str,
    severity: int,
    *,
    generator: torch.Generator | None = None,
    batch_size: int = BATCH,
) -> Tensor:
    """Return the accuracy on corrupted images, () float64; the model is left as it is.

    Parameters
    ----------
    model
        Maps normalised images to logits.
    x, y
        Images (n, channels, height, width) uint8, and labels (n,) int64.
    normalise
        From uint8 images to what the model sees, as in `attrreg.data.device.normalise`.
    kind, severity, generator
        As in `corrupt`; the same state of the generator gives every model the same images.
    batch_size
        Images that are corrupted and seen at once; bounds the memory, not the result.

    Raises
    ------
    ValueError
        As in `corrupt`; logits that are not finite, or other than one label per image.
    """
    if len(x) == 0 or y.shape != x.shape[:1]:
        raise ValueError(
            f"y has shape {tuple(y.shape)} for {len(x)} images: give at least one image, and one "
            "label for each"
        )
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    right = torch.zeros((), dtype=torch.float64, device=x.device)
    for images, labels in zip(x.split(batch_size), y.split(batch_size), strict=True):
        inputs = normalise(corrupt(images, kind, severity, generator))
        logits = checked_logits(predict(model, inputs, batch_size))
        right += (logits.argmax(1) == labels).sum()
    return right / len(x)


def accuracies_under(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    normalise: Callable[[Tensor], Tensor],
    kinds: Iterable[str] = tuple(SEVERITIES),
    *,
    seed: int = 0,
    batch_size: int = BATCH,
) -> dict[str, Tensor]:
    """Return by kind of corruption the accuracy at each severity, (5,) float64.

    With the same seed every model meets the same images. Parameters and errors are those of
    `accuracy_under`.
    """

    def accuracy(kind: str, severity: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return accuracy_under(
            model, x, y, normalise, kind, severity, generator=generator, batch_size=batch_size
        )

    return {
        kind: torch.stack([accuracy(kind, severity) for severity in (1, 2, 3, 4, 5)])
        for kind in kinds
    }


def class_mapped(logits: Tensor, classes: Sequence[int]) -> Tensor:
    """Return the logits of some of the classes, (n, len(classes)), in this order.

    For test sets with a part of the classes, such as ImageNet-A and -R with 200 of 1000: label i of
    the set is class ``classes[i]`` of the model, and the others are not open to the prediction.
    Every score of predictions takes the result.

    Raises
    ------
    ValueError
        Fewer than two classes, one twice, or one that the logits do not have.
    """
    if logits.ndim != 2:
        raise ValueError(f"logits have shape {tuple(logits.shape)}: (n, classes) is allowed")
    chosen = list(classes)
    known = all(0 <= each < logits.shape[1] for each in chosen)
    if len(chosen) < 2 or len(set(chosen)) < len(chosen) or not known:
        raise ValueError(
            f"classes are {len(chosen)} numbers, {len(set(chosen))} of them distinct, from "
            f"{min(chosen, default=None)} to {max(chosen, default=None)}: at least two distinct "
            f"ones from 0 to {logits.shape[1] - 1} are allowed"
        )
    return logits[:, chosen]


def detection(known: Tensor, unknown: Tensor) -> Detection:
    """Tell samples of known classes from others by the largest softmax probability.

    Parameters
    ----------
    known, unknown
        Logits (n, classes) and (m, classes), floating and finite.

    Raises
    ------
    ValueError
        Logits are not as described.

    References
    ----------
    Hendrycks and Gimpel, A baseline for detecting misclassified and out-of-distribution examples in
    neural networks, ICLR 2017.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    confidences = [checked_logits(each).softmax(1).amax(1).cpu() for each in (known, unknown)]
    score = torch.cat(confidences).numpy()
    is_known = np.arange(len(score)) < len(known)
    found = (
        roc_auc_score(is_known, score),
        average_precision_score(is_known, score),
        average_precision_score(~is_known, -score),
    )
    return Detection(*(torch.tensor(float(each), dtype=torch.float64) for each in found))


def _blur(x: Tensor, deviation: float) -> Tensor:
    """Blur floating images by a Gaussian, with their borders continued."""
    reach = max(math.ceil(REACH * deviation), 1)
    place = torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device)
    kernel = (-(place / deviation).square() / 2).exp()
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    images = x.flatten(0, 1).unsqueeze(1)
    images = F.conv2d(F.pad(images, (reach, reach, 0, 0), "replicate"), kernel)
    images = F.conv2d(F.pad(images, (0, 0, reach, reach), "replicate"), kernel.transpose(2, 3))
    return images.view_as(x)


def _compress(x: Tensor, quality: int) -> Tensor:
    """Write images as JPEG of a quality, and read them again."""
    colour = x.shape[1] == 3
    single = x if colour else x.flatten(0, 1).unsqueeze(1)
    pixels = single.permute(0, 2, 3, 1).cpu().contiguous().numpy()
    read = []
    for each in pixels:
        with io.BytesIO() as file:
            Image.fromarray(each if colour else each[..., 0]).save(file, "JPEG", quality=quality)
            with Image.open(file) as image:
                read.append(np.asarray(image).reshape(each.shape))
    if not read:
        return x.clone()
    found = torch.from_numpy(np.stack(read)).permute(0, 3, 1, 2)
    return found.reshape(x.shape).to(x.device)
