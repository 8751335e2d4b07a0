"""Each rule against its definition, written out for every pair of an input and a unit."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Apply, batch_norm
from torch import nn
from torch.func import jacrev
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from attrreg.attribution import RULES, Rule, UnsupportedOperation, relevance

EPSILON = 0.05
GAMMA, LOW, HIGH = 0.7, -5.0, 6.0
ONE_LAYER = {
    "epsilon": Rule("e", epsilon=EPSILON),
    "plus": Rule("p", convolution="plus", epsilon=EPSILON),
    "gamma": Rule("g", convolution="gamma", gamma=GAMMA),
    "alpha-beta": Rule("ab", convolution="alpha-beta", alpha=3, beta=2),
    "flat": Rule("f", convolution="plus", first="flat", epsilon=EPSILON),
    "z-box": Rule("z", convolution="plus", first="z-box", low=LOW, high=HIGH),
}


def by_definition(layer, x, weights, rule):
    """Relevance of the input of one affine layer whose outputs are explained by `weights`."""
    maps = []
    for sample, weight in zip(x, weights, strict=True):
        z = layer(sample[None]).flatten()
        slopes = jacrev(lambda s: layer(s[None]).flatten())(sample).flatten(1)  # (units, inputs)
        contributions = slopes * sample.flatten()
        bias = layer(torch.zeros_like(sample)[None]).flatten()
        lone = contributions / (z + z.sign() * EPSILON * z.abs().mean())[:, None]
        if rule == "flat":
            taps = (slopes != 0).to(z.dtype)
            shares = taps / taps.sum(1, keepdim=True)
        elif rule == "z-box":
            bounds = LOW * slopes.clamp_min(0) + HIGH * slopes.clamp_max(0)
            shares = (contributions - bounds) / (contributions - bounds).sum(1, keepdim=True)
        elif rule == "gamma":
            more = 1 + GAMMA * (contributions * z[:, None] > 0).to(z.dtype)
            of_bias = (1 + GAMMA * (bias * z > 0).to(z.dtype)) * bias
            total = (more * contributions).sum(1) + of_bias
            shares = more * contributions / total[:, None]
        elif rule == "alpha-beta":
            positive, negative = contributions.clamp_min(0), contributions.clamp_max(0)
            above = positive.sum(1, keepdim=True) + bias.clamp_min(0)[:, None]
            below = negative.sum(1, keepdim=True) + bias.clamp_max(0)[:, None]
            shares = 3 * positive / above - 2 * negative / below
            shares = torch.where(below == 0, positive / above, shares)
            shares = torch.where(above == 0, negative / below, shares)
        elif rule == "plus":
            positive = contributions.clamp_min(0)
            total = positive.sum(1) + bias.clamp_min(0)
            shares = torch.where(total[:, None] > 0, positive / total[:, None], lone)
        else:
            shares = lone
        maps.append(((z * weight) @ shares).view_as(sample))
    return torch.stack(maps)


def explained(layer, x, rule, seed=0):
    """Return (the map of the engine, the map by definition) of one layer."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(layer, nn.Flatten()).double().eval()
    with torch.no_grad():
        logits = model(x)
        weights = torch.randn(logits.shape, generator=generator, dtype=x.dtype)
        expected = by_definition(layer, x, weights, rule)
    return relevance(model, x, weights, ONE_LAYER[rule]), expected


@settings(max_examples=100, deadline=None)
@given(
    rule=st.sampled_from(list(ONE_LAYER)),
    groups=st.sampled_from([1, 2]),
    kernel=st.sampled_from([1, 2, (3, 1), 3]),
    stride=st.sampled_from([1, 2, (1, 2)]),
    dilation=st.sampled_from([1, 2]),
    padded=st.booleans(),
    bias=st.booleans(),
    normed=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_convolutions(rule, groups, kernel, stride, dilation, padded, bias, normed, seed):
    torch.manual_seed(seed)
    padding = 1 if padded and kernel == 3 else 0
    shape = (2, 4, kernel, stride, padding, dilation, groups, bias)
    layer = nn.Conv2d(*shape).double()
    x = torch.randn(2, 2, 5, 6, dtype=torch.float64)
    if normed:
        norm = batch_norm(nn.BatchNorm2d, [1.0, -2.0, 0.5, 3.0], [0.3, -0.2, 0.0, 1.0])
        layer = nn.Sequential(layer, norm)
    found, expected = explained(layer, x, rule, seed)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("rule", ONE_LAYER)
def test_convolutions_over_one_axis_and_padding_by_name(rule, padding):
    torch.manual_seed(3)
    x = torch.randn(2, 2, 9, dtype=torch.float64)
    found, expected = explained(nn.Conv1d(2, 3, 3, padding=padding).double(), x, rule)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("rule", ["epsilon", "plus"])
def test_linear_layers_get_epsilon_also_with_more_axes(rule):
    torch.manual_seed(4)
    x = torch.randn(2, 3, 5, dtype=torch.float64)
    layer = nn.Linear(5, 4).double()
    weights = torch.randn(2, 12, dtype=torch.float64)
    model = nn.Sequential(layer, nn.Flatten())
    found = relevance(model, x, weights, ONE_LAYER[rule])
    expected = by_definition(layer, x.flatten(0, 1), weights.view(6, 4), "epsilon")
    torch.testing.assert_close(found, expected.view_as(x), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("rule", ["epsilon", "plus"])
def test_lone_batch_norms_get_epsilon(rule):
    norm = batch_norm(nn.BatchNorm2d, [1.0, -2.0], [0.3, 1.0])
    x = torch.randn(2, 2, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found, expected = explained(norm, x, rule)[0], explained(norm, x, "epsilon")[1]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("rule", ["epsilon", "epsilon-plus", "epsilon-plus-flat"])
def test_a_folded_network_has_the_same_map(rule):
    torch.manual_seed(5)
    parts = [nn.Conv2d(2, 4, 3, bias=False), nn.Conv2d(4, 4, 3, groups=2)]
    norms = [
        batch_norm(nn.BatchNorm2d, [1.0, -2.0, 0.5, 3.0], [0.3, -0.2, 0.0, 1.0]) for _ in parts
    ]
    head = nn.Linear(16, 3)
    rest = [nn.ReLU(), nn.Flatten(), head]
    model = nn.Sequential(parts[0], norms[0], nn.ReLU(), parts[1], norms[1], *rest).double().eval()
    fused = [fuse_conv_bn_eval(part, norm) for part, norm in zip(parts, norms, strict=True)]
    folded = nn.Sequential(fused[0], nn.ReLU(), fused[1], *rest).eval()
    x, y = torch.randn(2, 2, 6, 6, dtype=torch.float64), torch.tensor([0, 2])
    found, expected = relevance(model, x, y, rule), relevance(folded, x, y, rule)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


def _pad(net, x):
    return net.head(F.relu(net.conv(F.pad(x, (1, 1, 1, 1)))).flatten(1))


def _clone(net, x):
    return net.head(F.relu(F.conv2d(x.clone(), net.conv.weight, net.conv.bias, 1, 1)).flatten(1))


def _transpose(net, x):
    weight = net.conv.weight.transpose(2, 3)
    h = F.conv2d(x.transpose(2, 3), weight, net.conv.bias, 1, 1).transpose(2, 3)
    return net.head(F.relu(h).flatten(1))


@pytest.mark.parametrize("forward", [_pad, _clone, _transpose])
def test_flat_is_not_dropped_where_the_input_is_rearranged_first(forward):
    """The same network, written differently, has the same map or is refused; never another one."""
    torch.manual_seed(6)
    layers = {"conv": nn.Conv2d(2, 3, 3), "head": nn.Linear(48, 3)}
    model = Apply(forward, **layers)
    plain = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), layers["head"])
    plain[0].load_state_dict(layers["conv"].state_dict())
    x, y = torch.randn(2, 2, 4, 4, dtype=torch.float64), torch.tensor([0, 2])
    expected = relevance(plain.double(), x, y, "epsilon-plus-flat")
    try:
        found = relevance(model, x, y, "epsilon-plus-flat")
    except UnsupportedOperation:
        return
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


def test_flat_spreads_over_linear_layers_too():
    flattened = nn.Sequential(nn.Flatten(), nn.Linear(8, 3)).double()
    x, y = torch.randn(2, 2, 2, 2, dtype=torch.float64), torch.tensor([0, 2])
    found = relevance(flattened, x, y, "epsilon-plus-flat")
    logits = flattened(x).detach().gather(1, y[:, None])
    torch.testing.assert_close(found.flatten(1), (logits / 8).expand(2, 8))


@pytest.mark.parametrize("before", [nn.ReLU(), nn.MaxPool2d(2), nn.LayerNorm(2)])
@pytest.mark.parametrize("rule", ["epsilon-plus-flat", "z-box"])
def test_a_rule_for_the_first_layer_refuses_a_network_where_none_reads_the_input(rule, before):
    network = nn.Sequential(before, nn.Flatten(), nn.LazyLinear(3)).double()
    x = torch.randn(2, 2, 2, 2, dtype=torch.float64)
    network(x)  # gives the lazy layer its shape
    with pytest.raises(UnsupportedOperation, match=rf"{rule}.*reads the\s+input"):
        relevance(network, x, torch.tensor([0, 2]), replace(RULES[rule], low=-9.0, high=9.0))


WAYS_IN = {
    "normalised inside": lambda x: (x - MEAN) / DEVIATION,
    "scaled by minus one": lambda x: -1.0 * x,
    "shifted": lambda x: x + 0.25,
    "padded": lambda x: F.pad(x, (1, 0, 2, 0)),
    "enlarged": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "averaged": lambda x: F.avg_pool2d(x, 2, 1),
}
MEAN = torch.tensor([0.3, -0.2], dtype=torch.float64).view(2, 1, 1)
DEVIATION = torch.tensor([0.5, 2.0], dtype=torch.float64).view(2, 1, 1)


def _matrix(function, x):
    """Return the matrix of an affine function of one image, (outputs, inputs)."""
    leaf = x.clone().requires_grad_()
    outputs = function(leaf).flatten()
    rows = [torch.autograd.grad(each, leaf, retain_graph=True)[0].flatten() for each in outputs]
    return torch.stack(rows)


@pytest.mark.parametrize("way", WAYS_IN)
@pytest.mark.parametrize("rule", ["flat", "z-box"])
def test_a_first_layer_is_the_same_linear_map_with_what_stands_before_it(way, rule):
    """The contributions of an input go through both; a unit's share is by their product."""
    torch.manual_seed(7)
    layer = nn.Conv2d(2, 3, 2).double()
    model = Apply(lambda net, x: net.layer(WAYS_IN[way](x)).flatten(1), layer=layer)
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64)
    weights = torch.randn(model(x).shape, dtype=torch.float64)
    found = relevance(model, x, weights, ONE_LAYER[rule])
    inside, outer = _matrix(WAYS_IN[way], x), _matrix(layer, WAYS_IN[way](x))
    if rule == "z-box":
        low, high = LOW * inside, HIGH * inside
        low, high = torch.minimum(low, high), torch.maximum(low, high)
        above = (
            (outer @ inside) * x.flatten() - outer.clamp_min(0) @ low - outer.clamp_max(0) @ high
        )
    else:  # a factor does not count, the weights of an average do
        moves = inside if way in ("padded", "enlarged", "averaged") else (inside != 0).double()
        above = (outer != 0).double() @ moves
    shares = (above / above.sum(1, keepdim=True)).nan_to_num(0)  # a unit may see only padding
    expected = ((model(x).flatten() * weights.flatten()) @ shares).view_as(x)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-9, atol=1e-11)
