"""Attributions as parts of a method: from (model, x, y) to relevance on the feature axes."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attrreg import parameters
from attrreg.attribution.engine import relevance
from attrreg.features import on_features, resolve_axes
from attrreg.state import State

__all__ = ["LRP", "Gradient", "GradientTimesInput"]

NO_STATE = State()


class Gradient(parameters.Gradient):
    """The derivative of the explained output by the input."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, state: State = NO_STATE) -> Tensor:
        """Return the derivative, (n, *features), in units of the output per unit of x.

        Raises
        ------
        ValueError
            ``forward_pass: training`` without a shared pass (`attrreg.method.Method.loss` makes
            one).
        """
        if self.forward_pass == "evaluation":
            target = _target(self, y, state)
            return _reduce(self, relevance(model, x, target, "gradient", self.output), x, state)
        if state.forward is None or not x.requires_grad:
            raise ValueError(
                "forward_pass 'training' explains the pass that the objective makes: call it "
                "through Method.loss, or use forward_pass 'evaluation'"
            )
        logits = state.forward(x)
        explained = logits if self.output == "logit" else logits.log_softmax(1)
        weights = _target(self, y, state)(logits.detach())
        gradient = torch.autograd.grad(explained, x, weights, retain_graph=True)[0]
        return _reduce(self, gradient, x, state)


class GradientTimesInput(parameters.GradientTimesInput):
    """The derivative of the explained output times the input."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, state: State = NO_STATE) -> Tensor:
        """Return the product, (n, *features), in units of the explained output."""
        target = _target(self, y, state)
        return _reduce(self, relevance(model, x, target, "gradient-x-input", self.output), x, state)


class LRP(parameters.LRP):
    """Layer-wise relevance propagation; see `attrreg.attribution.relevance`."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, state: State = NO_STATE) -> Tensor:
        """Return relevance, (n, *features), in units of the explained output."""
        target = _target(self, y, state)
        return _reduce(self, relevance(model, x, target, self.rule, self.output), x, state)


def _target(part: parameters.Explained, y: Tensor, state: State) -> Callable[[Tensor], Tensor]:
    """Return the function from logits (n, classes) to the weights of the explained output."""

    def weights(logits: Tensor) -> Tensor:
        classes = logits.shape[1]
        if part.explained == "label":
            return F.one_hot(y, classes).to(logits.dtype)
        if part.explained == "prediction":
            return F.one_hot(logits.argmax(1), classes).to(logits.dtype)
        if part.explained == "random":
            drawn = torch.rand(logits.shape, generator=state.generator, device=logits.device)
            return F.one_hot(drawn.argmax(1), classes).to(logits.dtype)
        label = F.one_hot(y, classes).bool()
        strongest = logits.masked_fill(label, -torch.inf).argmax(1)
        return label.to(logits.dtype) - F.one_hot(strongest, classes).to(logits.dtype)

    return weights


def _reduce(part: parameters.Explained, values: Tensor, x: Tensor, state: State) -> Tensor:
    """Bring relevance shaped like x to the feature axes, with the sign that was asked for."""
    axes = resolve_axes(x, state.feature_axes)
    values = on_features(values.abs() if part.channels == "absolute-sum" else values, axes)
    if part.sign == "positive":
        return values.clamp_min(0)
    return values.abs() if part.sign == "absolute" else values
