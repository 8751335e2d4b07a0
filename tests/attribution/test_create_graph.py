"""Losses on a map: their gradients against finite differences of the map itself."""

import copy
from dataclasses import replace

import pytest
import torch
from networks import Apply, batch_norm
from torch import nn
from torch.nn import functional as F

from attrreg.attribution import RULES, UnsupportedOperation, relevance

DIFFERENTIABLE = {
    "gradient": RULES["gradient"],
    "gradient-x-input": RULES["gradient-x-input"],
    "smoothgrad": replace(RULES["smoothgrad"], samples=2),
    "integrated-gradients": replace(RULES["integrated-gradients"], steps=3),
    "lrp-0": RULES["lrp-0"],
    "epsilon": replace(RULES["epsilon"], epsilon=0.1),  # large enough for its slope to be seen
}
REFUSED = [name for name in RULES if name not in DIFFERENTIABLE]


def _mlp():
    layers = (nn.Flatten(), nn.Linear(32, 6), nn.ReLU(), nn.Linear(6, 5), nn.Tanh())
    return nn.Sequential(*layers, nn.Linear(5, 3))


def _normed():
    norms = [batch_norm(nn.BatchNorm2d, [1.0, -0.7, 0.5], [0.2, 0.1, -0.3]) for _ in range(2)]
    return nn.Sequential(
        *(nn.Conv2d(2, 3, 3, padding=1), norms[0], nn.ReLU()),
        *(nn.Conv2d(3, 3, 3, stride=2, bias=False), norms[1], nn.Softplus()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3)),
    )


def _smooth():
    layers = (nn.Conv2d(2, 4, 3), nn.SiLU(), nn.Flatten(2), nn.LayerNorm(4), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(16, 5), nn.GELU(), nn.LayerNorm(5), nn.Linear(5, 3))


def _attend(net, x):
    tokens = x.flatten(2).transpose(1, 2)  # 16 tokens of two channels
    query, key, value = net.mix(tokens).chunk(3, 2)
    weights = (query @ key.transpose(1, 2) / 2).softmax(2)
    return net.head(tokens.mean(1) + net.out(weights @ value).mean(1))


def _multi_head(net, x):
    tokens = net.embed(x.flatten(2).transpose(1, 2))
    return net.head(net.norm(tokens + net.mix(tokens, tokens, tokens)[0]).mean(1))


def _squeeze(net, x):
    h = F.silu(net.conv(x))
    return net.head((h * torch.sigmoid(net.gate(h.mean((2, 3), keepdim=True)))).flatten(1))


def _pooled(net, x):
    return net.head(F.max_pool2d(F.elu(net.conv(x)), 2).flatten(1))


def _recur(net, x):
    return net.head(net.rnn(x.flatten(2).transpose(1, 2))[0][:, -1])


NETWORKS = {
    "mlp": _mlp,
    "conv + batch norm": _normed,
    "silu + layer norm": _smooth,
    "attention": lambda: Apply(
        _attend, mix=nn.Linear(2, 9), out=nn.Linear(3, 2), head=nn.Linear(2, 3)
    ),
    "multi-head attention": lambda: Apply(
        _multi_head,
        embed=nn.Linear(2, 4),
        mix=nn.MultiheadAttention(4, 2, batch_first=True),
        norm=nn.LayerNorm(4),
        head=nn.Linear(4, 3),
    ),
    "lstm": lambda: Apply(_recur, rnn=nn.LSTM(2, 3, batch_first=True), head=nn.Linear(3, 3)),
    "gru": lambda: Apply(_recur, rnn=nn.GRU(2, 3, batch_first=True), head=nn.Linear(3, 3)),
    "squeeze and excitation": lambda: Apply(
        _squeeze, conv=nn.Conv2d(2, 4, 3), gate=nn.Conv2d(4, 4, 1), head=nn.Linear(16, 3)
    ),
    "max-pool": lambda: Apply(_pooled, conv=nn.Conv2d(2, 4, 3, padding=1), head=nn.Linear(16, 3)),
}


@pytest.fixture(params=NETWORKS)
def case(request):
    """A network in evaluation mode, a batch, and labels."""
    torch.manual_seed(sorted(NETWORKS).index(request.param))
    model = NETWORKS[request.param]().double().eval()
    return model, torch.randn(2, 2, 4, 4, dtype=torch.float64), torch.tensor([0, 2])


def _loss(map_):
    """A loss that has no symmetry: no two values of the map enter alike."""
    factors = torch.linspace(-1, 2, map_.numel(), dtype=map_.dtype).view(map_.shape)
    return (factors * map_).sum() + (factors.cos() * map_.square()).sum()


def _slope(evaluate, tensor, direction, step=1e-6):
    """The central difference of a loss as a tensor moves along a direction."""
    values = []
    with torch.no_grad():
        for sign in (1, -1):
            tensor.add_(direction, alpha=sign * step)
            values.append(evaluate().item())
            tensor.sub_(direction, alpha=sign * step)
    return (values[0] - values[1]) / (2 * step)


@pytest.mark.parametrize("output", ["logit", "log-probability"])
@pytest.mark.parametrize("rule", DIFFERENTIABLE)
def test_parameter_gradients_are_finite_differences_of_the_map(case, rule, output):
    model, x, y = case
    rule = DIFFERENTIABLE[rule]
    parameters = dict(model.named_parameters())
    loss = _loss(relevance(model, x, y, rule, output, create_graph=True))
    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    size = max(gradient.abs().max() for gradient in gradients if gradient is not None).item()
    generator = torch.Generator().manual_seed(0)
    for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        slope = _slope(lambda: _loss(relevance(model, x, y, rule, output)), parameter, direction)
        along = 0.0 if gradient is None else (gradient * direction).sum().item()
        assert along == pytest.approx(slope, rel=1e-4, abs=1e-6 * size), name


@pytest.mark.parametrize("rule", DIFFERENTIABLE)
def test_the_gradient_reaches_the_input(case, rule):
    model, x, y = case
    rule = DIFFERENTIABLE[rule]
    leaf = x.clone().requires_grad_()
    loss = _loss(relevance(model, leaf, y, rule, create_graph=True))
    (gradient,) = torch.autograd.grad(loss, leaf)
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        direction = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        slope = _slope(lambda: _loss(relevance(model, x, y, rule)), x, direction)
        along = (gradient * direction).sum().item()
        assert along == pytest.approx(slope, rel=1e-4, abs=1e-6 * gradient.abs().max().item())


@pytest.mark.parametrize("output", ["logit", "log-probability"])
@pytest.mark.parametrize("rule", DIFFERENTIABLE)
def test_the_map_is_that_without_a_graph(case, rule, output):
    model, x, y = case
    rule = DIFFERENTIABLE[rule]
    found = relevance(model, x, y, rule, output, create_graph=True)
    expected = relevance(model, x, y, rule, output)
    assert found.requires_grad
    assert not expected.requires_grad
    torch.testing.assert_close(found.detach(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rule", REFUSED)
def test_rules_without_a_graph_are_refused_by_name(rule):
    model = _normed().double().eval()
    rule = replace(RULES[rule], low=-9.0, high=9.0) if rule == "z-box" else RULES[rule]
    x = torch.randn(2, 2, 4, 4, dtype=torch.float64)
    with pytest.raises((ValueError, UnsupportedOperation), match=rule.name) as caught:
        relevance(model, x, torch.tensor([0, 1]), rule, create_graph=True)
    assert "create_graph" in str(caught.value)
    assert "gradient" in str(caught.value)  # what works instead


@pytest.mark.parametrize("rule", DIFFERENTIABLE)
def test_a_graph_leaves_no_gradients_behind(case, rule):
    model, x, y = case
    model.train()
    before = [value.clone() for value in model.state_dict().values()]
    map_ = relevance(model, x, y, DIFFERENTIABLE[rule], create_graph=True)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(module.training for module in model.modules())
    _loss(map_).backward()
    assert any(parameter.grad is not None for parameter in model.parameters())
    for value, kept in zip(model.state_dict().values(), before, strict=True):
        assert torch.equal(value, kept)


@pytest.mark.parametrize("rule", DIFFERENTIABLE)
def test_a_training_step_with_a_penalty_on_the_map_lowers_it(case, rule):
    """The penalty is what the map puts on the left half, beside the cross-entropy."""
    model, x, y = case
    rule = DIFFERENTIABLE[rule]

    def penalty(net, create_graph=False):
        return relevance(net, x, y, rule, create_graph=create_graph)[..., :2].square().sum()

    def after_a_step(weight):
        net = copy.deepcopy(model)
        loss = F.cross_entropy(net(x), y) + weight * penalty(net, create_graph=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1e-3)
        torch.optim.SGD(net.parameters(), lr=1.0).step()
        return penalty(net).item()

    before = penalty(model).item()
    weighed = after_a_step(100 / before)
    assert weighed < before
    assert weighed < after_a_step(0.0)
