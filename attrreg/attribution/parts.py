"""Attributions as parts of a method: from (model, x, y) to relevance on the feature axes."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from attrreg import parameters
from attrreg.attribution import targets
from attrreg.attribution.engine import relevance
from attrreg.attribution.rules import RULES, Rule
from attrreg.features import on_features, resolve_axes
from attrreg.state import State

__all__ = ["LRP", "Gradient", "GradientTimesInput", "IntegratedGradients", "SmoothGrad"]

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
            return _explain(self, RULES["gradient"], model, x, y, state)
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
        return _explain(self, RULES["gradient-x-input"], model, x, y, state)


class SmoothGrad(parameters.SmoothGrad):
    """The mean derivative at noisy copies of the input; the noise is the same in every step."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, state: State = NO_STATE) -> Tensor:
        """Return the mean, (n, *features), in units of the explained output per unit of x."""
        rule = replace(RULES["smoothgrad"], samples=self.samples, noise=self.noise)
        return _explain(self, rule, model, x, y, state)


class IntegratedGradients(parameters.IntegratedGradients):
    """The mean derivative between zero (the channel mean of images) and the input, times it."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, state: State = NO_STATE) -> Tensor:
        """Return the product, (n, *features), in units of the explained output."""
        rule = replace(RULES["integrated-gradients"], steps=self.steps)
        return _explain(self, rule, model, x, y, state)


class LRP(parameters.LRP):
    """Layer-wise relevance propagation; see `attrreg.attribution.relevance`."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, state: State = NO_STATE) -> Tensor:
        """Return relevance, (n, *features), in units of the explained output.

        Raises
        ------
        ValueError
            ``rule: z-box`` without the bounds of the input.
        """
        own: dict[str, Any] = {
            name: value
            for name, value in {"epsilon": self.epsilon, "gamma": self.gamma}.items()
            if value is not None
        }
        if RULES[self.rule].first == "z-box":
            if state.bounds is None:
                raise ValueError(
                    f"rule {self.rule!r} needs the smallest and largest possible input, found "
                    "none: pass State(bounds=(low, high)), one number per channel each"
                )
            own["low"], own["high"] = state.bounds
        return _explain(self, replace(RULES[self.rule], **own), model, x, y, state)


def _explain(
    part: parameters.Explained, rule: Rule, model: nn.Module, x: Tensor, y: Tensor, state: State
) -> Tensor:
    target = _target(part, y, state)
    return _reduce(part, relevance(model, x, target, rule, part.output), x, state)


def _target(part: parameters.Explained, y: Tensor, state: State) -> targets.Target:
    if part.explained == "prediction":
        return targets.prediction()
    if part.explained == "random":
        return targets.random_class(state.generator)
    return targets.margin(y) if part.explained == "margin" else targets.label(y)


def _reduce(part: parameters.Explained, values: Tensor, x: Tensor, state: State) -> Tensor:
    """Bring relevance shaped like x to the feature axes, with the sign that was asked for."""
    axes = resolve_axes(x, state.feature_axes)
    values = on_features(values.abs() if part.channels == "absolute-sum" else values, axes)
    if part.sign == "positive":
        return values.clamp_min(0)
    return values.abs() if part.sign == "absolute" else values
