"""Networks written as functions, and what is asked of every explanation of them."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from attrreg.attribution import RULES, UnsupportedOperation, ledger, relevance

LAYERWISE = ("lrp-0", "epsilon", "epsilon-plus", "epsilon-plus-flat", "gamma", "alpha2-beta1")
# every rule, with bounds that fit all inputs of these tests
EVERY = [
    pytest.param(replace(rule, low=-9.0, high=9.0) if rule.first == "z-box" else rule, id=name)
    for name, rule in RULES.items()
]


class Apply(nn.Module):
    """A network whose forward pass is a function of (its layers, x)."""

    def __init__(self, function, **layers):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.double()

    def forward(self, x):
        return self.function(self, x)


def linear(weight, bias=None):
    """A linear layer with these numbers."""
    weight = torch.tensor(weight, dtype=torch.float64)
    layer = nn.Linear(*reversed(weight.shape), bias=bias is not None, dtype=torch.float64)
    return _set(layer, weight, bias)


def pointwise(weight, bias=None):
    """A 1×1 convolution with these numbers."""
    weight = torch.tensor(weight, dtype=torch.float64)[..., None, None]
    shape = reversed(weight.shape[:2])
    layer = nn.Conv2d(*shape, 1, bias=bias is not None, dtype=torch.float64)
    return _set(layer, weight, bias)


def batch_norm(layer, scale, shift):
    """Let a batch norm compute scale · x + shift, by way of all its four tensors."""
    scale, shift = torch.tensor(scale).double(), torch.tensor(shift).double()
    layer = layer(len(scale), eps=0).double()
    with torch.no_grad():
        layer.running_mean.fill_(0.5)
        layer.running_var.fill_(4)
        layer.weight.copy_(2 * scale)
        layer.bias.copy_(shift + 0.5 * scale)
    return layer.eval()


def pixel(*values):
    """One image of one pixel, with these channels."""
    return torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1)


def logits_of(model, x):
    """The logits in evaluation mode, whatever the model does to its input."""
    with torch.no_grad():
        return model.eval()(x.clone())


def assert_accounted(model, x, y, rule, tolerance=1e-10):
    """Ask for the model's own logits, and for relevance that adds up to them."""
    result = ledger(model, x, y, rule)
    expected = logits_of(model, x).gather(1, y[:, None])[:, 0]
    scale = expected.abs().clamp_min(1)
    assert (result.explained - expected).abs().div(scale).max() <= tolerance
    missing = result.relevance.flatten(1).sum(1) + result.absorbed - result.explained
    assert missing.abs().div(scale).max() <= tolerance
    return result


def assert_right_or_refused(model, x, y, rule):
    """Ask for a right map, or for none.

    On networks of ReLU, pooling and affine layers LRP-0 is the gradient times the input, which
    autograd computes without looking at operations.
    """
    try:
        assert_accounted(model, x, y, rule)
    except UnsupportedOperation:
        return
    expected = relevance(model, x, y, "gradient-x-input")
    torch.testing.assert_close(relevance(model, x, y, "lrp-0"), expected, rtol=1e-9, atol=1e-12)


def _set(layer, weight, bias):
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(torch.tensor(bias))
    return layer
