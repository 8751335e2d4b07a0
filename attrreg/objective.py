"""Objectives: what is minimised, given the clean and the perturbed batch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attrreg import parameters
from attrreg.state import eager

__all__ = ["Consistency", "CrossEntropy", "Loss", "Mixture"]

Forward = Callable[[Tensor], Tensor]


class Loss(NamedTuple):
    """What to minimise, and what it is made of.

    ``total`` is a 0-d tensor with a graph; ``parts`` are detached 0-d tensors, to be summed up and
    looked at later. ``accuracy`` among them is of the batch whose logits entered the loss first.
    """

    total: Tensor
    parts: dict[str, Tensor]


class CrossEntropy(parameters.CrossEntropy):
    """Cross-entropy on one of the two batches."""

    def __call__(self, forward: Forward, x: Tensor, perturbed: Tensor | None, y: Tensor) -> Loss:
        """Return the loss; `perturbed` is None where there is no perturbation."""
        with _dropping(forward, self.dropout):
            logits = _single(forward(_given(perturbed) if self.on == "perturbed" else x))
        loss = F.cross_entropy(logits, y, label_smoothing=self.label_smoothing)
        return Loss(loss, {"accuracy": _accuracy(logits, y)})


class Consistency(parameters.Consistency):
    """Cross-entropy on x plus weight · KL(f(x) ‖ f(x̃)) (Ismail et al., arXiv 2111.14338, eq. 1)."""

    def __call__(self, forward: Forward, x: Tensor, perturbed: Tensor | None, y: Tensor) -> Loss:
        """Return the loss; `perturbed` is None where there is no perturbation."""
        perturbed = _given(perturbed)
        can_be_joined = self.passes == "auto" and getattr(forward, "can_be_joined", False)
        if self.passes == "concatenated" or can_be_joined:
            clean_logits, perturbed_logits = _single(forward(torch.cat([x, perturbed]))).chunk(2)
        else:
            clean_logits, perturbed_logits = _single(forward(x)), _single(forward(perturbed))
        entropy = F.cross_entropy(clean_logits, y)
        clean = clean_logits.detach() if self.detach_clean else clean_logits
        divergence = F.kl_div(
            perturbed_logits.log_softmax(1),
            clean.log_softmax(1),
            reduction="batchmean",
            log_target=True,
        )
        parts = {
            "accuracy": _accuracy(clean_logits, y),
            "cross_entropy": entropy.detach(),
            "divergence": divergence.detach(),
        }
        return Loss(entropy + self.weight * divergence, parts)


class Mixture(parameters.Mixture):
    """(1 − q) · cross-entropy on x + q · cross-entropy on x′; a share of 0 makes no pass."""

    def __call__(self, forward: Forward, x: Tensor, perturbed: Tensor | None, y: Tensor) -> Loss:
        """Return the loss; `perturbed` is None where there is no perturbation."""
        share = self.perturbed_share
        weighted = [
            (weight, _single(forward(batch)))
            for weight, batch in ((1 - share, x), (share, _given(perturbed)))
            if weight > 0
        ]
        losses = [weight * F.cross_entropy(logits, y) for weight, logits in weighted]
        return Loss(torch.stack(losses).sum(), {"accuracy": _accuracy(weighted[0][1], y)})


@contextmanager
def _dropping(forward: Forward, share: float) -> Iterator[None]:
    """Drop inputs of the last linear layer, in the training mode of that layer."""
    if share == 0:
        yield
        return
    model: nn.Module = forward.model  # type: ignore[attr-defined]
    layers = [each for each in model.modules() if isinstance(each, nn.Linear)]
    if not layers:
        raise ValueError(
            f"dropout acts before the last linear layer, but {type(model).__name__} has none: set "
            "the objective's dropout to 0"
        )

    def drop(layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (F.dropout(inputs[0], share, layer.training), *inputs[1:])

    hook = layers[-1].register_forward_pre_hook(drop)
    try:
        with eager(model):  # compiled code does not look for hooks again
            yield
    finally:
        hook.remove()


def _single(logits: Tensor) -> Tensor:
    """Return logits in single precision at least: losses of half precision are mostly rounding."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def _accuracy(logits: Tensor, y: Tensor) -> Tensor:
    return (logits.detach().argmax(1) == y).float().mean()


def _given(perturbed: Tensor | None) -> Tensor:
    if perturbed is None:
        raise ValueError("this objective needs a perturbed batch: give the method a perturbation")
    return perturbed
