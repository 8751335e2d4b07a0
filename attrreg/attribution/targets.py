"""Targets: which output of the model is explained.

Each function returns one that maps detached logits (n, classes) to weights of the same shape and
dtype: Σ weights · output is explained. None of them makes the host wait for a GPU.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from attrreg.attribution.explained import weights

__all__ = ["Target", "label", "margin", "prediction", "random_class"]

Target = Callable[[Tensor], Tensor]


def label(y: Tensor) -> Target:
    """Explain the label.

    Parameters
    ----------
    y
        Labels (n,) int64.

    Raises
    ------
    ValueError
        When it meets the logits: y is not one label per sample, or (seen on a CPU only) holds a
        class that the model does not have.
    """
    return lambda logits: weights(logits, y)


def prediction() -> Target:
    """Explain the class with the largest logit, the first of several."""
    return lambda logits: _one_hot(logits.argmax(1), logits)


def random_class(generator: torch.Generator | None = None) -> Target:
    """Explain a class drawn for each sample; all are equally likely, the label among them.

    Parameters
    ----------
    generator
        Random numbers, on the device of the logits; None: torch's own.
    """

    def drawn(logits: Tensor) -> Tensor:
        keys = torch.rand(logits.shape, generator=generator, device=logits.device)
        return _one_hot(keys.argmax(1), logits)

    return drawn


def margin(y: Tensor) -> Target:
    """Explain by how much the label is ahead: its logit minus the largest other one.

    With one class only there is no other, and the label's logit is explained alone.

    Parameters
    ----------
    y
        Labels (n,) int64; errors as for `label`.
    """

    def ahead(logits: Tensor) -> Tensor:
        own = weights(logits, y)
        if logits.shape[1] == 1:
            return own
        strongest = logits.masked_fill(own > 0, -torch.inf).argmax(1)
        return own - _one_hot(strongest, logits)

    return ahead


def _one_hot(classes: Tensor, logits: Tensor) -> Tensor:
    return F.one_hot(classes, logits.shape[1]).to(logits.dtype)
