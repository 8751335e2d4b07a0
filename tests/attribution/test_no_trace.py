"""Attribution leaves no trace: not in the model, not in its input, not in any random stream."""

import contextlib
import gc
import random
import weakref
from dataclasses import replace

import numpy
import pytest
import torch
from networks import EVERY, LAYERWISE, Apply
from torch import nn
from torch.nn import functional as F

from attrreg.attribution import UnsupportedOperation, ledger, relevance

HOOKS = [name for name in vars(nn.Module()) if name.endswith("_hooks")]


def bits(tensor):
    """Every bit of a tensor, so that −0 and 0 differ and NaN equals itself."""
    return None if tensor is None else tensor.detach().clone().numpy().tobytes()


def trace(model, *inputs):
    """All that must be equal before and after."""
    return {
        "state": {key: bits(value) for key, value in model.state_dict().items()},
        "grad": {name: bits(value.grad) for name, value in model.named_parameters()},
        "requires_grad": {
            name: value.requires_grad
            for name, value in [*model.named_parameters(), *model.named_buffers()]
        },
        "training": {name: module.training for name, module in model.named_modules()},
        "attributes": {name: sorted(vars(module)) for name, module in model.named_modules()},
        "hooks": [list(getattr(module, hook)) for module in model.modules() for hook in HOOKS],
        "random": (bits(torch.get_rng_state()), random.getstate(), str(numpy.random.get_state())),
        "inputs": [(bits(x), x.requires_grad, bits(x.grad)) for x in inputs],
        "grad mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
    }


def changes(before, after):
    """Name what differs between two traces."""
    return [key for key in before if before[key] != after[key]]


@pytest.fixture(params=["resnet10-narrow", "vgg"])
def case(request, make_model, make_batch):
    """A network with mixed flags, a frozen layer, old gradients, hooks; inputs and labels."""
    model = make_model(request.param)
    x, y = make_batch(request.param)
    for place, module in enumerate(model.modules()):
        module.training = place % 3 == 1
    F.cross_entropy(model(x), y).backward()
    first, *_, last = model.parameters()
    first.requires_grad_(False)
    last.grad = None
    next(model.children()).register_forward_hook(lambda *_: None)
    next(model.children()).register_forward_pre_hook(lambda *_: None)
    last.register_hook(lambda gradient: gradient)
    return model, x.requires_grad_(), y


CONTEXTS = {
    "gradients on": contextlib.nullcontext,
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
}


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("rule", EVERY)
def test_nothing_changes(rule, context, case):
    model, x, y = case
    expected = relevance(model, x, y, rule)
    before = trace(model, x)
    with CONTEXTS[context]():
        found = relevance(model, x, y, rule)
    assert changes(before, trace(model, x)) == []
    assert bits(found) == bits(expected)


@pytest.mark.parametrize("rule", EVERY)
def test_the_model_computes_what_it_did(rule, case):
    model, x, y = case
    logits = model.eval()(x)
    relevance(model, x, y, rule)
    assert bits(model(x)) == bits(logits)
    (again,) = torch.autograd.grad(model(x)[0, 0], x)
    (before,) = torch.autograd.grad(logits[0, 0], x)
    assert bits(again) == bits(before)


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("rule", LAYERWISE)
def test_nothing_changes_by_keeping_accounts(rule, context, case):
    model, x, y = case
    before = trace(model, x)
    with CONTEXTS[context]():
        ledger(model, x, y, rule)
    assert changes(before, trace(model, x)) == []


@pytest.mark.parametrize("rule", EVERY)
def test_inputs_from_inference_mode_are_explained(rule, make_model, make_batch):
    model = make_model("small")
    x, y = make_batch("small")
    expected = relevance(model, x, y, rule)
    with torch.inference_mode():
        sealed = x.clone()
    assert bits(relevance(model, sealed, y, rule)) == bits(expected)


def _breaks(net, x):
    raise ArithmeticError("broken")


def _unknown(net, x):
    return torch.cumsum(x, 1)


def _draws(net, x):
    return x + torch.rand_like(x)


@pytest.mark.parametrize("rule", EVERY)
@pytest.mark.parametrize("context", CONTEXTS)
def test_nothing_changes_by_an_error_in_the_model(rule, context, case):
    model, x, y = case
    broken = nn.Sequential(model, Apply(_breaks)).train()
    model.eval()
    before = trace(broken, x)
    with CONTEXTS[context](), pytest.raises(ArithmeticError, match="broken"):
        relevance(broken, x, y, rule)
    assert changes(before, trace(broken, x)) == []
    F.softmax(x, 1)  # and nothing is intercepted any more


@pytest.mark.parametrize("forward", [_unknown, _draws])
def test_nothing_changes_by_a_refusal(forward, case):
    """What is refused is refused before it runs: it could draw numbers, or change a tensor."""
    model, x, y = case
    refused = nn.Sequential(model, Apply(forward)).train()
    before = trace(refused, x)
    with pytest.raises(UnsupportedOperation):
        relevance(refused, x, y, "epsilon")
    assert changes(before, trace(refused, x)) == []


@pytest.mark.parametrize("rule", ["gradient", "gradient-x-input"])
def test_a_model_that_draws_in_evaluation_mode_does_not_move_the_random_stream(rule, make_batch):
    model = nn.Sequential(nn.Flatten(), nn.Linear(128, 4)).double()
    sampling = Apply(lambda net, x: net.rest(F.dropout(x, training=True)), rest=model)
    x, y = make_batch("small")
    before = trace(sampling, x)
    relevance(sampling, x, y, rule)
    assert changes(before, trace(sampling, x)) == []


class Watcher(nn.Module):
    """Writes what it sees into a buffer, in evaluation mode, too."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(128, 4)
        self.register_buffer("seen", torch.zeros(128))

    def forward(self, x):
        x = x.flatten(1)
        with torch.no_grad():
            self.seen.copy_(x.mean(0))
        return self.head(x)


@pytest.mark.parametrize("rule", ["gradient", "epsilon"])
def test_buffers_that_a_model_writes_in_evaluation_mode_are_restored(rule, make_batch):
    model = Watcher().double()
    x, y = make_batch("small")
    before = trace(model, x)
    with contextlib.suppress(UnsupportedOperation):
        relevance(model, x, y, rule)
    assert changes(before, trace(model, x)) == []


@pytest.mark.parametrize("rule", EVERY)
def test_a_model_that_changes_its_input_in_place_changes_a_copy(rule, make_batch):
    torch.manual_seed(0)
    head = nn.Linear(128, 4)
    in_place = nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), head).double()
    plain = nn.Sequential(nn.ReLU(), nn.Flatten(), head).double()
    x, y = make_batch("small")
    rule = replace(rule, first=None)  # which needs a layer that reads the input
    before = trace(in_place, x)
    found = relevance(in_place, x, y, rule)
    assert changes(before, trace(in_place, x)) == []
    torch.testing.assert_close(found, relevance(plain, x, y, rule))


@pytest.mark.parametrize("rule", EVERY)
def test_activations_are_freed_without_the_garbage_collector(rule, make_batch):
    alive = []

    def forward(net, x):
        h = F.relu(net.conv(x))
        alive.append(weakref.ref(h))
        return net.head(h.flatten(1))

    model = Apply(forward, conv=nn.Conv2d(2, 3, 3), head=nn.Linear(108, 4))
    x, y = make_batch("small")
    gc.collect()
    gc.disable()
    try:
        relevance(model, x, y, rule)
        assert all(reference() is None for reference in alive)
    finally:
        gc.enable()
