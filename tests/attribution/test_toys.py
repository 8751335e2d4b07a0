"""Toys solved by hand, and every rule against its formula, unit by unit.

The reference is slow and plain: it writes a layer out as one row of weights per unit, and shares
each unit's relevance by the formula of the rule. No line of it knows of gradients.
"""

import math
from itertools import product

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Apply, assert_accounted, batch_norm, linear, pixel, pointwise
from torch import nn
from torch.nn import functional as F

from attrreg.attribution import Rule, UnsupportedOperation, ledger, relevance

LOW, HIGH = (-2.5, -3.0), (3.5, 3.0)  # by channel; inputs lie within ±2.4
STABILISER = 0.05
RULES = {
    "lrp-0": Rule("0", epsilon=0.0),
    "epsilon": Rule("e", epsilon=STABILISER),
    "plus": Rule("p", convolution="plus", linear="plus", epsilon=STABILISER),
    "gamma": Rule("g", convolution="gamma", linear="gamma", gamma=0.4, epsilon=STABILISER),
    "alpha-beta": Rule("ab", convolution="alpha-beta", linear="alpha-beta", epsilon=STABILISER),
    "alpha3-beta2": Rule(
        "a3", convolution="alpha-beta", linear="alpha-beta", alpha=3.0, beta=2.0, epsilon=STABILISER
    ),
    "flat": Rule("f", convolution="plus", first="flat", epsilon=STABILISER),
    "z-box": Rule("z", convolution="plus", first="z-box", low=LOW, high=HIGH, epsilon=STABILISER),
}


# ---------------------------------------------------------------- the reference


class Written:
    """A layer written out: for each unit a row of weights, which inputs it sees, and its bias."""

    def __init__(self, layer, shape):
        self.local = not isinstance(layer, nn.Linear)
        self.weights, self.taps = (_convolution if self.local else _matrix)(layer, shape)
        units = len(self.weights)
        bias = numpy.zeros(len(layer.weight)) if layer.bias is None else _numbers(layer.bias)
        self.bias = numpy.repeat(bias, units // len(bias))

    def __call__(self, x):
        return numpy.array([sum(row * x) for row in self.weights]) + self.bias

    def share(self, x, relevance, formula):
        """Return (relevance of the inputs, what the biases and the stabiliser keep)."""
        z = self(x)
        scale = numpy.abs(z).mean()
        found = numpy.zeros_like(x)
        for unit, part in enumerate(relevance):
            shares = formula(x, self.weights[unit], self.taps[unit], self.bias[unit], scale)
            found += part * shares
        return found, relevance.sum() - found.sum()


def _numbers(tensor):
    return tensor.detach().double().numpy()


def _matrix(layer, shape):
    weights = _numbers(layer.weight)
    return weights, numpy.ones_like(weights, dtype=bool)


def _convolution(layer, shape):
    channels, *size = shape
    axes = range(len(size))
    reach = [layer.dilation[a] * (layer.kernel_size[a] - 1) for a in axes]
    places = [(size[a] + 2 * layer.padding[a] - reach[a] - 1) // layer.stride[a] + 1 for a in axes]
    units = list(product(range(layer.out_channels), *map(range, places)))
    rows = numpy.zeros((len(units), *shape))
    taps = numpy.zeros((len(units), *shape), dtype=bool)
    kernel = _numbers(layer.weight)
    width = channels // layer.groups
    for row, seen, (out, *place) in zip(rows, taps, units, strict=True):
        begin = out // (layer.out_channels // layer.groups) * width
        for channel, *tap in product(range(width), *map(range, layer.kernel_size)):
            at = tuple(
                place[a] * layer.stride[a] - layer.padding[a] + tap[a] * layer.dilation[a]
                for a in axes
            )
            if all(0 <= at[a] < size[a] for a in axes):
                row[(begin + channel, *at)] += kernel[(out, channel, *tap)]
                seen[(begin + channel, *at)] = True
    return rows.reshape(len(units), -1), taps.reshape(len(units), -1)


def _epsilon(stabiliser):
    def formula(x, w, taps, b, scale):
        z = (w * x).sum() + b
        return w * x / z * abs(z) / (abs(z) + stabiliser * scale)

    return formula


def _plus(x, w, taps, b, scale):
    positive = numpy.maximum(w * x, 0)
    total = positive.sum() + max(b, 0)
    return positive / total if total > 0 else _epsilon(STABILISER)(x, w, taps, b, scale)


def _gamma(gamma):
    def formula(x, w, taps, b, scale):
        z = (w * x).sum() + b
        favoured = [c * (c * z > 0) for c in (w * x, b)]
        return (w * x + gamma * favoured[0]) / (z + gamma * (favoured[0].sum() + favoured[1]))

    return formula


def _alpha_beta(alpha, beta):
    def formula(x, w, taps, b, scale):
        positive, negative = numpy.maximum(w * x, 0), numpy.minimum(w * x, 0)
        above, below = positive.sum() + max(b, 0), negative.sum() + min(b, 0)
        if below == 0:
            return positive / above
        if above == 0:
            return negative / below
        return alpha * positive / above - beta * negative / below

    return formula


def _flat(x, w, taps, b, scale):
    return taps / max(taps.sum(), 1)  # a unit that sees only padding keeps what it has


def _z_box(low, high):
    def formula(x, w, taps, b, scale):
        parts = w * x - low * numpy.maximum(w, 0) - high * numpy.minimum(w, 0)
        return parts / (parts.sum() or 1)

    return formula


def formula_of(name, shape):
    """Return (the formula of the first layer, of further convolutions, of linear layers)."""
    bounds = [numpy.resize(b, shape[0]).repeat(math.prod(shape[1:])) for b in (LOW, HIGH)]
    exact, stabilised = _epsilon(0.0), _epsilon(STABILISER)
    return {
        "lrp-0": (exact, exact, exact),
        "epsilon": (stabilised, stabilised, stabilised),
        "plus": (_plus, _plus, _plus),
        "gamma": (_gamma(0.4),) * 3,
        "alpha-beta": (_alpha_beta(2, 1),) * 3,
        "alpha3-beta2": (_alpha_beta(3, 2),) * 3,
        "flat": (_flat, _plus, stabilised),
        "z-box": (_z_box(*bounds), _plus, stabilised),
    }[name]


def by_formula(layers, x, weights, name):
    """Return (the map, what was absorbed) of affine layers, each but the last followed by a ReLU.

    `weights` tell how much of each output is explained.
    """
    first, *others = formula_of(name, x.shape)
    written, seen = [], [_numbers(x).flatten()]
    shape = tuple(x.shape)
    for layer in layers:
        written.append(Written(layer, shape))
        if written[-1].local:
            with torch.no_grad():
                shape = tuple(layer(torch.zeros(1, *shape, dtype=torch.float64)).shape[1:])
        seen.append(written[-1](seen[-1]))
        if layer is not layers[-1]:
            seen[-1] = numpy.maximum(seen[-1], 0)
    part, absorbed = seen[-1] * _numbers(weights), 0.0
    for depth in reversed(range(len(layers))):
        formula = first if depth == 0 else others[0 if written[depth].local else 1]
        part, kept = written[depth].share(seen[depth], part, formula)
        absorbed += kept
    return torch.from_numpy(part).view(x.shape), absorbed


def assert_by_formula(layers, x, weights, name):
    """Compare with the engine's map and ledger, sample by sample."""
    steps = []
    for layer in layers:
        if isinstance(layer, nn.Linear) and x.ndim > 2:
            steps.append(nn.Flatten())
        steps += [layer, nn.ReLU()]
    model = nn.Sequential(*steps[:-1], nn.Flatten()).double().eval()
    result = ledger(model, x, weights, RULES[name])
    for i, sample in enumerate(x):
        expected, absorbed = by_formula(layers, sample, weights[i], name)
        torch.testing.assert_close(result.relevance[i], expected, rtol=1e-8, atol=1e-10)
        scale = max(1.0, abs(absorbed))
        assert result.absorbed[i].item() == pytest.approx(absorbed, abs=1e-8 * scale)


def _samples(shape, generator, zeros):
    x = torch.randn(2, *shape, generator=generator, dtype=torch.float64).clamp(-2.4, 2.4)
    return torch.where(torch.rand(x.shape, generator=generator) < 0.2, 0.0, x) if zeros else x


# ---------------------------------------------------------------- every rule by its formula


@settings(max_examples=80, deadline=None)
@given(
    name=st.sampled_from(list(RULES)),
    axes=st.sampled_from([1, 2, 3]),
    groups=st.sampled_from([1, 2]),
    kernel=st.sampled_from([1, 2, 3]),
    stride=st.sampled_from([1, 2]),
    dilation=st.sampled_from([1, 2]),
    padding=st.sampled_from([0, 1]),
    bias=st.booleans(),
    zeros=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_convolutions(name, axes, groups, kernel, stride, dilation, padding, bias, zeros, seed):
    torch.manual_seed(seed)
    shape = (2, *(5, 6, 5)[:axes]) if axes < 3 else (2, 5, 3, 4)
    if kernel == 1:
        padding = 0  # else some units see only padding
    if axes == 3 and kernel == 3:
        dilation = 1
    convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1]
    layer = convolution(2, 4, kernel, stride, padding, dilation, groups, bias).double()
    generator = torch.Generator().manual_seed(seed)
    x = _samples(shape, generator, zeros and bias)
    outputs = layer(x).flatten(1).shape
    weights = torch.randn(outputs, generator=generator, dtype=torch.float64)
    assert_by_formula([layer], x, weights, name)


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(list(RULES)),
    bias=st.booleans(),
    zeros=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_linear_layers(name, bias, zeros, seed):
    torch.manual_seed(seed)
    layer = nn.Linear(2, 5, bias).double()
    generator = torch.Generator().manual_seed(seed)
    x = _samples((2,), generator, zeros and bias)
    weights = torch.randn(2, 5, generator=generator, dtype=torch.float64)
    assert_by_formula([layer], x, weights, name)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", RULES)
def test_a_network_of_convolutions_and_linear_layers(name, seed):
    torch.manual_seed(seed)
    layers = [
        nn.Conv2d(2, 4, 3, padding=1),
        nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2),
        nn.Conv2d(6, 4, 2, dilation=2, bias=False),
        nn.Linear(4, 6),
        nn.Linear(6, 3),
    ]
    layers = [layer.double() for layer in layers]
    x = _samples((2, 5, 6), torch.Generator().manual_seed(seed), False)
    assert_by_formula(layers, x, torch.eye(3, dtype=torch.float64)[:2], name)


@pytest.mark.parametrize("name", ["epsilon", "plus", "gamma", "alpha-beta"])
@pytest.mark.parametrize("tokens_first", [False, True])
def test_linear_layers_on_tokens_have_the_scale_of_their_position(name, tokens_first):
    torch.manual_seed(6)
    layer = nn.Linear(2, 4).double()
    x = _samples((3, 2), torch.Generator().manual_seed(6), False)
    x[:, 1] *= 100

    def forward(net, x):
        h = net.layer(x.transpose(0, 1)).transpose(0, 1) if tokens_first else net.layer(x)
        return h.flatten(1)

    weights = torch.randn(2, 12, dtype=torch.float64)
    found = relevance(Apply(forward, layer=layer), x, weights, RULES[name])
    for i, token in product(range(2), range(3)):
        part = weights[i].view(3, 4)[token]
        expected, _ = by_formula([layer], x[i, token], part, name)
        torch.testing.assert_close(found[i, token], expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", RULES)
def test_a_batch_norm_is_folded_into_the_convolution_it_reads(name):
    torch.manual_seed(4)
    layer = nn.Conv2d(2, 3, 3, padding=1).double()
    scale, shift = [1.5, -0.7, 0.4], [0.3, -0.2, 0.5]
    norm = batch_norm(nn.BatchNorm2d, scale, shift)
    folded = nn.Conv2d(2, 3, 3, padding=1).double()
    with torch.no_grad():
        folded.weight.copy_(layer.weight * torch.tensor(scale).double().view(3, 1, 1, 1))
        folded.bias.copy_(layer.bias * torch.tensor(scale).double() + torch.tensor(shift).double())
    x = _samples((2, 4, 4), torch.Generator().manual_seed(4), False)
    weights = torch.randn(2, 48, dtype=torch.float64)
    found = ledger(nn.Sequential(layer, norm, nn.Flatten()).eval(), x, weights, RULES[name])
    for i, sample in enumerate(x):
        expected, absorbed = by_formula([folded], sample, weights[i], name)
        torch.testing.assert_close(found.relevance[i], expected, rtol=1e-9, atol=1e-10)
        assert found.absorbed[i].item() == pytest.approx(absorbed, abs=1e-9)


# ---------------------------------------------------------------- carried to the first layer


def _patches(x, size=2):
    n, c, h, w = x.shape
    x = x.reshape(n, c, h // size, size, w // size, size).permute(0, 2, 4, 1, 3, 5)
    return x.reshape(n, (h // size) * (w // size), -1)


REARRANGEMENTS = {
    "none": lambda x: x,
    "flatten": lambda x: x.flatten(1),
    "flatten from an axis": lambda x: x.flatten(2),
    "permute": lambda x: x.permute(0, 2, 3, 1),
    "transpose": lambda x: x.transpose(2, 3),
    "movedim": lambda x: torch.movedim(x, 1, -1),
    "pad": lambda x: F.pad(x, (1, 0, 2, 1)),
    "crop by pad": lambda x: F.pad(x, (-1, 1, 0, -1)),
    "patchify": _patches,
    "unfold": lambda x: F.unfold(x, 2, stride=2).transpose(1, 2),
    "overlapping unfold": lambda x: F.unfold(x, 3, padding=1),
    "windows": lambda x: x.unfold(2, 3, 1).flatten(1, 2),
    "roll": lambda x: torch.roll(x, (1, -1), (2, 3)),
    "flip": lambda x: x.flip(3),
    "slice": lambda x: x[:, :, 1:, ::2],
    "one row": lambda x: x[:, :, 2],
    "reversed channels": lambda x: x[:, [1, 0]],
    "pixel_unshuffle": lambda x: F.pixel_unshuffle(x, 2),
    "pixel_shuffle of repeats": lambda x: F.pixel_shuffle(x.repeat(1, 2, 1, 1), 2),
    "chunk and cat": lambda x: torch.cat(list(reversed(x.chunk(2, 2))), 1),
    "split": lambda x: torch.cat(x.split([1, 3], 3), 3),
    "unbind and stack": lambda x: torch.stack(x.unbind(1), -1),
    "select": lambda x: x.select(1, 0),
    "repeat": lambda x: x.repeat(1, 2, 1, 1),
    "expand": lambda x: x.unsqueeze(1).expand(-1, 2, -1, -1, -1),
    "contiguous": lambda x: x.permute(0, 3, 1, 2).contiguous().view(len(x), 4, -1),
    "squeeze": lambda x: x.unsqueeze(-1).squeeze(-1).clone(),
}


def _indices(rearrange, shape):
    """For each rearranged value the number of the input it comes from, or −1 where it is 0."""
    counted = 1 + torch.arange(math.prod(shape), dtype=torch.float64).view(1, *shape)
    return rearrange(counted)[0].long() - 1


def _spread(layer, index, sample, weights, name):
    """The map of a first layer that reads sample[index]."""
    values = torch.cat([sample.flatten(), torch.zeros(1).double()])[index]
    bounds = [
        numpy.append(numpy.resize(b, sample.shape[0]).repeat(sample[0].numel()), 0.0)
        for b in (LOW, HIGH)
    ]
    shape = (1, *index.shape) if isinstance(layer, nn.Conv2d) else (-1, index.shape[-1])
    rows, places = values.reshape(shape), index.reshape(shape)
    found = numpy.zeros(sample.numel() + 1)
    weights = _numbers(weights).reshape(len(rows), -1)
    for row, place, weight in zip(rows, places, weights, strict=True):
        written = Written(layer, tuple(row.shape))
        x, origin = _numbers(row).flatten(), place.flatten().numpy()
        written.taps = written.taps & (origin >= 0)
        box = _z_box(*(bound[origin] for bound in bounds))
        formula = _flat if name == "flat" else box
        part, _ = written.share(x, written(x) * weight, formula)
        numpy.add.at(found, origin, part)
    return torch.from_numpy(found[:-1]).view(sample.shape)


@pytest.mark.parametrize("name", ["flat", "z-box"])
@pytest.mark.parametrize("kind", REARRANGEMENTS)
def test_first_layers_read_a_rearranged_input(kind, name):
    torch.manual_seed(5)
    rearrange = REARRANGEMENTS[kind]
    x = _samples((2, 4, 4), torch.Generator().manual_seed(5), False)
    index = _indices(rearrange, (2, 4, 4))
    layers = [nn.Linear(index.shape[-1], 3)]
    if index.ndim == 3:
        layers.append(nn.Conv2d(index.shape[0], 3, 2, padding=1 if kind == "none" else 0))
    for layer in layers:
        layer.double()
        model = Apply(lambda net, x: net.first(rearrange(x)).flatten(1), first=layer)
        weights = torch.randn(model(x).shape, dtype=torch.float64)
        found = relevance(model, x, weights, RULES[name])
        for i, sample in enumerate(x):
            expected = _spread(layer, index, sample, weights[i], name)
            torch.testing.assert_close(found[i], expected, rtol=1e-9, atol=1e-11)
        assert_accounted(model, x, torch.tensor([0, 2]), RULES[name])


def test_an_average_pool_before_the_first_layer_shares_what_reaches_it():
    # Pooled (2, −1), z = 2·2 + 3·(−1) = 1, logit 8. Flat: 4 and 4, then 2 for each of two pixels.
    # Box [−2, 4]: parts 2·2 + 2·2 = 8 and −3 + 6 = 3, so 8/11 and 3/11 of 8; within a pixel pair
    # in proportion to the pixels' own parts: (2·1 + 4 : 2·3 + 4) = 6 : 10 and (−6 + 6 : 0 + 6).
    model = nn.Sequential(nn.AvgPool1d(2), nn.Flatten(), linear([[2, 3]]), linear([[8]]))
    x = torch.tensor([[[1.0, 3, -2, 0]]], dtype=torch.float64)
    check(model, x, Rule("flat", first="flat", epsilon=0.0), [2, 2, 2, 2])
    box = Rule("box", first="z-box", low=-2.0, high=4.0, epsilon=0.0)
    check(model, x, box, [64 / 11 * 6 / 16, 64 / 11 * 10 / 16, 0, 24 / 11])


# ---------------------------------------------------------------- solved by hand

FIRST = torch.tensor([0])
ZERO = Rule("zero", epsilon=0.0)
PLUS = Rule("plus", convolution="plus", epsilon=0.0)
GAMMA = Rule("gamma", convolution="gamma", gamma=1.0, epsilon=0.0)
ALPHA_BETA = Rule("alpha-beta", convolution="alpha-beta", epsilon=0.0)
SHARED = Rule("shared", attention="shared", epsilon=0.0)


def check(model, x, rule, expected, absorbed=0.0):
    """Ask for these values of relevance, in order, and this amount absorbed."""
    model = model.double().eval()
    result = ledger(model, x, FIRST, rule)
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(result.relevance.flatten(), expected, rtol=1e-10, atol=1e-10)
    assert result.absorbed.item() == pytest.approx(absorbed, abs=1e-10)
    assert_accounted(model, x, FIRST, rule)


def row(*values):
    """One sample of one channel with these values."""
    return torch.tensor(values, dtype=torch.float64).view(1, 1, -1)


def taps(weights, bias=None, padding=0):
    """A convolution over one axis, from one channel to one."""
    layer = nn.Conv1d(1, 1, len(weights), padding=padding, bias=bias is not None).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weights).double().view(1, 1, -1))
        if bias is not None:
            layer.bias.fill_(bias)
    return layer


def reading(layer, *factors):
    """That layer, and a logit that sums its units with these factors."""
    return nn.Sequential(layer, nn.Flatten(), linear([list(factors)]))


def test_gamma_favours_what_has_the_sign_of_the_unit():
    # Contributions 3 and −2, z = 1, logit 8: (3 + 3, −2) / (1 + 3).
    check(reading(pointwise([[3, -1]]), 8), pixel(1, 2), GAMMA, [12, -4])
    # The signs turned round: z = −1 favours the negative contribution.
    check(reading(pointwise([[-3, 1]]), -8), pixel(1, 2), GAMMA, [12, -4])
    # A bias of the unit's sign is favoured, too: z = 2, 6 / 6 and −2 / 6 and 2 / 6 of 6.
    check(reading(pointwise([[3, -1]], [1]), 3), pixel(1, 2), GAMMA, [6, -2], absorbed=2)
    # A bias of the other sign is not: z = 1 + 2 − 1 = 2, total 2 + 3, logit 10.
    check(reading(pointwise([[1, 1]], [-1]), 5), pixel(1, 2), GAMMA, [4, 8], absorbed=-2)


def test_gamma_with_negative_inputs():
    # x = (−1, 2), contributions 3 and −2, z = 1: as if the inputs were positive.
    check(reading(pointwise([[-3, -1]]), 8), pixel(-1, 2), GAMMA, [12, -4])


def test_alpha_beta_splits_by_sign():
    # Contributions 3 and −2, bias 1: z⁺ = 4, z⁻ = −2, logit 4: 2·¾·4, −1·4, and 2·¼·4 absorbed.
    check(reading(pointwise([[3, -1]], [1]), 2), pixel(1, 2), ALPHA_BETA, [6, -4], absorbed=2)
    # The same with negative inputs.
    check(reading(pointwise([[-3, 1]], [1]), 2), pixel(-1, -2), ALPHA_BETA, [6, -4], absorbed=2)


def test_alpha_beta_where_a_sign_is_missing():
    check(reading(pointwise([[3, 0.5]]), 2), pixel(1, 2), ALPHA_BETA, [6, 2])
    check(reading(pointwise([[-3, -0.5]]), -2), pixel(1, 2), ALPHA_BETA, [6, 2])
    # The bias alone is negative: z⁺ = 4, z⁻ = −1, logit 6: 2·¾·6, 2·¼·6, and −6 absorbed.
    check(reading(pointwise([[3, 0.5]], [-1]), 2), pixel(1, 2), ALPHA_BETA, [9, 3], absorbed=-6)
    # The bias alone is positive, and the inputs are empty: it absorbs all.
    check(reading(pointwise([[3, 0.5]], [1]), 2), pixel(0, 0), ALPHA_BETA, [0, 0], absorbed=2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("size", [1e-3, 1e-6, 1e-9, 1e-15])
def test_alpha_beta_sees_a_contribution_however_small(size, dtype):
    # Contributions 1 and −size, bias 1: the smallest negative contribution takes all of β.
    model = reading(pointwise([[1, 1]], [1]), 1).to(dtype)
    x = torch.tensor([1, -size], dtype=dtype).view(1, 2, 1, 1)
    logit = 2 - size
    found = relevance(model, x, FIRST, ALPHA_BETA).flatten()
    assert found.tolist() == pytest.approx([logit, -logit], rel=1e-6)


def test_plus_with_inputs_of_both_signs_in_two_layers():
    # Units: −2 + 6 = 4 and 1 − 3 = −2, the second silent; logit 3·4 = 12, then z⁺ of unit 1: x₂.
    model = nn.Sequential(
        pointwise([[2, 3], [-1, -1.5]]), nn.ReLU(), pointwise([[3, 5]]), nn.Flatten(), linear([[1]])
    )
    check(model, pixel(-1, 2), PLUS, [0, 12])
    check(model, pixel(-1, 2), "lrp-0", [-6, 18])


def test_z_box_with_padding():
    # Weights (1, −2, 3), x = (1, 0), box [−1, 2].
    # Unit 1: −2·1 + 3·0 = −2 from parts −2 + 4 = 2 and 0 + 3 = 3. Unit 2: 1 from 2 and 4.
    rule = Rule("box", convolution="plus", first="z-box", low=-1.0, high=2.0, epsilon=0.0)
    model = reading(taps([1, -2, 3], padding=1), -5, 6)
    check(model, row(1, 0), rule, [4 + 2, 6 + 4])
    # A bias takes no part: units 8 and 11, relevance −40 and 66.
    model = reading(taps([1, -2, 3], 10.0, padding=1), -5, 6)
    check(model, row(1, 0), rule, [-40 * 2 / 5 + 22, -40 * 3 / 5 + 44])


def test_flat_with_padding_and_an_empty_input():
    # Three units of 6 each from 2, 3 and 2 taps inside.
    rule = Rule("flat", convolution="plus", first="flat", epsilon=0.0)
    expected = [3 + 2, 3 + 2 + 3, 2 + 3]
    check(reading(taps([5, -1, 2], 6.0, padding=1), 1, 1, 1), row(0, 0, 0), rule, expected)


def test_overlapping_max_pools_with_ties_give_to_the_first():
    # Windows (1, 3, 3) and (3, 3, 2): both are won by the first 3. Logit 6 + 15.
    model = nn.Sequential(nn.MaxPool1d(3, 1), nn.Flatten(), linear([[2, 5]]))
    check(model, row(1, 3, 3, 2), ZERO, [0, 21, 0, 0])
    # In two dimensions: all of one window equal.
    image = torch.ones(1, 1, 2, 2).double()
    check(nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), linear([[4]])), image, ZERO, [4, 0, 0, 0])


def test_padding_never_wins_a_max_pool():
    # Windows (pad, −1, −3) and (−3, −2, pad): −1 and −2 win. Logit −1 − 4.
    model = nn.Sequential(nn.MaxPool1d(3, 2, padding=1), nn.Flatten(), linear([[1, 2]]))
    check(model, row(-1, -3, -2), ZERO, [-1, 0, -4])


def test_amax_shares_ties_and_max_over_an_axis_does_not():
    head = linear([[4]])
    check(Apply(lambda net, x: net.head(x.amax(2)), head=head), row(3, 1, 3), ZERO, [6, 0, 6])
    found = relevance(
        Apply(lambda net, x: net.head(x.max(2).values), head=head), row(3, 1, 3), FIRST, ZERO
    )
    assert sorted(found.flatten().tolist()) == pytest.approx([0, 0, 12], abs=1e-10)


def test_overlapping_average_pools():
    # Windows (1 + 3)/2 and (3 − 1)/2, factors 4 and 2: each pixel its half, the middle one twice.
    model = nn.Sequential(nn.AvgPool1d(2, 1), nn.Flatten(), linear([[4, 2]]))
    check(model, row(1, 3, -1), ZERO, [2, 6 + 3, -1])


def test_a_residual_sum_under_gamma_and_alpha_beta():
    # Branch 2·1 − 1·2 + 4 = 4 beside the skip 1: sum 5, logit 10: branch 8, skip 2 (channel 1).
    model = Apply(
        lambda net, x: net.head((net.branch(x) + x[:, :1]).flatten(1)),
        branch=pointwise([[2, -1]], [4]),
        head=linear([[2]]),
    )
    # γ = 1: total 4 + 2 + 4 = 10 from 4, −2 and 8.
    check(model, pixel(1, 2), GAMMA, [3.2 + 2, -1.6], absorbed=6.4)
    # z⁺ = 6, z⁻ = −2: 2·8/3, −8, and 2·8·2/3 absorbed.
    check(model, pixel(1, 2), ALPHA_BETA, [16 / 3 + 2, -8], absorbed=32 / 3)


def test_a_squeeze_and_excitation_gate_is_a_constant_factor():
    # Two channels of two pixels; means 2 and −1; gates σ(2·2 + 1) and σ(−1 − (−1) · 2 …).
    def forward(net, x):
        gate = torch.sigmoid(net.gate(x.mean((2, 3), keepdim=True)))
        return net.head((x * gate).flatten(1))

    gate = pointwise([[2, 1], [0, -1]], [-2, 0.5])
    model = Apply(forward, gate=gate, head=linear([[1, 2, 3, 4]]))
    x = torch.tensor([[[[1.0, 3]], [[0, -2]]]], dtype=torch.float64)
    first, second = (1 / (1 + math.exp(-s)) for s in (2 * 2 - 1 - 2, 1 + 0.5))
    check(model, x, "lrp-0", [first * 1, first * 6, 0, second * -8])


def test_a_hard_gate_and_a_gate_in_place():
    def forward(net, x):
        h = x.clone()
        h *= F.hardsigmoid(net.gate(x.mean((2, 3), keepdim=True)))
        return net.head(h.flatten(1))

    model = Apply(forward, gate=pointwise([[1.5]]), head=linear([[1, 2]]))
    x = torch.tensor([[[[1.0, 3]]]], dtype=torch.float64)  # mean 2: the gate is 3/6 + 1/2 = 1
    check(model, x, "lrp-0", [1, 6])
    check(model, -x, "lrp-0", [0, 0])
    check(model, x / 2, "lrp-0", [0.5 * 0.75, 3 * 0.75])


def test_activations_that_start_above_zero_absorb_what_they_start_with():
    for function, start in ((torch.sigmoid, 0.5), (F.hardsigmoid, 0.5), (F.softplus, math.log(2))):
        model = Apply(lambda net, x, f=function: net.head(f(net.first(x))), first=linear([[2, 1]]))
        model.add_module("head", linear([[3]]))
        z = 2 * 0.5 + 1 * -0.25
        logit = 3 * function(torch.tensor(z).double()).item()
        share = (logit - 3 * start) / z
        x = torch.tensor([[0.5, -0.25]], dtype=torch.float64)
        check(model, x, ZERO, [share * 1, share * -0.25], absorbed=3 * start)


def test_a_layer_norm_holds_its_deviation():
    # x = (1, 3): mean 2, deviation 1, (−1, 1) · (2, 3) + (1, 0) = (−1, 3), logit −1 + 6 = 5.
    # Derivative (2, 6) less its mean 4, times x: −2 and 6; the bias absorbs 1.
    norm = nn.LayerNorm(2, eps=0.0).double()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([2.0, 3.0]))
        norm.bias.copy_(torch.tensor([1.0, 0.0]))
    x = torch.tensor([[1.0, 3.0]], dtype=torch.float64)
    check(nn.Sequential(norm, linear([[1, 2]])), x, ZERO, [-2, 6], absorbed=1)


def test_a_root_mean_square_norm_holds_its_root():
    # x = (1, 7): root of the mean square 5; (1/5 · 2, 7/5 · 5) = (0.4, 7), logit 0.8 + 7.
    norm = nn.RMSNorm(2, eps=0.0).double()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([2.0, 5.0]))
    x = torch.tensor([[1.0, 7.0]], dtype=torch.float64)
    check(nn.Sequential(norm, linear([[2, 1]])), x, ZERO, [0.8, 7])


# Tokens 1 and 1 + ln 3: the first looks at them with weights ¼ and ¾.
L = math.log(3)
TOKENS = torch.tensor([[[1.0], [1 + L]]], dtype=torch.float64)
ATTENTION = {
    "written out": lambda net, x: (x @ x.transpose(1, 2)).softmax(2) @ x,
    "bmm": lambda net, x: torch.bmm(F.softmax(torch.bmm(x, x.mT), dim=-1), x),
    "fused": lambda net, x: F.scaled_dot_product_attention(x, x, x),
    "einsum": lambda net, x: torch.einsum(
        "nij,njc->nic", torch.softmax(torch.einsum("nic,njc->nij", x, x), 2), x
    ),
}


def first_token(kind):
    return Apply(lambda net, x: net.head(ATTENTION[kind](net, x).flatten(1)), head=linear([[1, 0]]))


@pytest.mark.parametrize("kind", ATTENTION)
def test_attention_with_its_weights_held(kind):
    check(first_token(kind), TOKENS, ZERO, [1 / 4, 3 / 4 * (1 + L)])


@pytest.mark.parametrize("kind", ATTENTION)
def test_attention_aware_halves_products_and_passes_through_the_softmax(kind):
    # The output is 1 + ¾ L. By score: ¼ (1 − 1 − ¾ L) and ¾ (L − ¾ L), that is ∓ 3/16 L.
    slope = 3 / 16 * L
    # The value has a half of each weight; query and key a quarter of what the scores give.
    query = -slope * 1 + slope * (1 + L)
    expected = [
        1 * (1 / 2 * 1 / 4 + 1 / 4 * (query - slope * 1)),
        (1 + L) * (1 / 2 * 3 / 4 + 1 / 4 * slope * 1),
    ]
    found = relevance(first_token(kind), TOKENS, FIRST, SHARED)
    assert found.flatten().tolist() == pytest.approx(expected, abs=1e-10)


PRODUCTS = {
    "product": lambda net, x: net.left(x) * net.right(x),
    "matmul": lambda net, x: net.left(x).unsqueeze(1) @ net.right(x).unsqueeze(2),
    "einsum": lambda net, x: torch.einsum("nc,nc->n", net.left(x), net.right(x))[:, None],
}


@pytest.mark.parametrize("kind", PRODUCTS)
def test_a_product_of_two_signals_is_halved_or_refused(kind):
    # Left 2 + 2, right 3 − 2, logit 5 · 4: ten for each; left 5 and 5, right 30 and −20.
    model = Apply(
        lambda net, x: net.head(PRODUCTS[kind](net, x).flatten(1)),
        left=linear([[2, 1]]),
        right=linear([[3, -1]]),
        head=linear([[5]]),
    )
    x = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    found = relevance(model, x, FIRST, SHARED)
    assert found.flatten().tolist() == pytest.approx([5 + 30, 5 - 20], abs=1e-10)
    for rule in (ZERO, PLUS, GAMMA):
        with pytest.raises(UnsupportedOperation, match=r"mul|einsum"):
            relevance(model, x, FIRST, rule)


CELL = {
    "weight_ih": [[0.5, -1], [1, 0.3], [0.8, 0.6], [-0.2, 0.7]],
    "weight_hh": [[0.4], [-0.3], [0.9], [0.2]],
    "bias_ih": [0.1, 0.2, -0.3, 0.4],
    "bias_hh": [0.05, -0.1, 0.15, 0.2],
}


def cell_of(kind, ending=""):
    """A recurrent layer of one unit with these numbers, as many as it has gates."""
    layer = kind(2, 1).double()
    with torch.no_grad():
        for name, values in CELL.items():
            parameter = getattr(layer, name + ending)
            parameter.copy_(torch.tensor(values, dtype=torch.float64)[: len(parameter)])
    return layer


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


X = (1.5, -0.5)


def test_one_step_of_an_lstm():
    # All of the logit is the cell's, and all of the cell's is the candidate's.
    candidate = (0.8 * X[0], 0.6 * X[1], -0.3 + 0.15)
    gate = sigmoid(0.5 * X[0] - X[1] + 0.15)
    out = sigmoid(-0.2 * X[0] + 0.7 * X[1] + 0.6)
    logit = 2 * out * math.tanh(gate * math.tanh(sum(candidate)))
    shares = [part / sum(candidate) * logit for part in candidate]
    head, x = linear([[2]]), torch.tensor([X], dtype=torch.float64)
    alone = Apply(lambda net, x: net.head(net.cell(x)[0]), cell=cell_of(nn.LSTMCell), head=head)
    check(alone, x, ZERO, shares[:2], absorbed=shares[2])
    fused = cell_of(nn.LSTM, "_l0")
    check(
        Apply(lambda net, x: net.head(net.rnn(x)[0][-1]), rnn=fused, head=head),
        *(x[None], ZERO, shares[:2], shares[2]),
    )


def test_one_step_of_an_lstm_from_a_state():
    # The state (h, c) is a constant: what comes of it is absorbed, beside the biases.
    h, c = 0.7, -0.4
    inputs = (0.8 * X[0], 0.6 * X[1])
    candidate = sum(inputs) - 0.3 + 0.15 + 0.9 * h
    gate = sigmoid(0.5 * X[0] - X[1] + 0.15 + 0.4 * h)
    forget = sigmoid(X[0] + 0.3 * X[1] + 0.1 - 0.3 * h)
    out = sigmoid(-0.2 * X[0] + 0.7 * X[1] + 0.6 + 0.2 * h)
    now = forget * c + gate * math.tanh(candidate)
    logit = 2 * out * math.tanh(now)
    new = logit * gate * math.tanh(candidate) / now
    shares = [part / candidate * new for part in inputs]

    def forward(net, x):
        state = tuple(torch.full((len(x), 1), value, dtype=x.dtype) for value in (h, c))
        return net.head(net.cell(x, state)[0])

    model = Apply(forward, cell=cell_of(nn.LSTMCell), head=linear([[2]]))
    x = torch.tensor([X], dtype=torch.float64)
    check(model, x, ZERO, shares, absorbed=logit - sum(shares))


def test_one_step_of_a_gated_recurrent_unit():
    # From an empty state: (1 − z) tanh(n), n from the inputs and both biases, one of them gated.
    reset = sigmoid(0.5 * X[0] - X[1] + 0.15)
    update = sigmoid(X[0] + 0.3 * X[1] + 0.1)
    parts = (0.8 * X[0], 0.6 * X[1], -0.3 + reset * 0.15)
    logit = 2 * (1 - update) * math.tanh(sum(parts))
    shares = [part / sum(parts) * logit for part in parts]
    cell, x = cell_of(nn.GRUCell), torch.tensor([X], dtype=torch.float64)
    model = Apply(lambda net, x: net.head(net.cell(x)), cell=cell, head=linear([[2]]))
    check(model, x, ZERO, shares[:2], absorbed=shares[2])


# ---------------------------------------------------------------- one operation between two layers


def bracket(function, start=0.0):
    """The function as start + x · [(f(x) − start) / x], the bracket constant."""
    return lambda net, h: start + h * ((function(net, h.detach()) - start) / h).detach()


def held(function, *others):
    """h times a factor that counts as constant."""
    return lambda net, h: h * function(net, h).detach()


def mask(h):
    """The same true and false values for every sample."""
    return torch.arange(h[0].numel()).view(h.shape[1:]) % 3 == 0


def constant(*shape):
    """Numbers of both signs."""
    return torch.linspace(-1, 1.5, math.prod(shape), dtype=torch.float64).view(shape).cos()


def _normalised(h, axes, net=None):
    deviation = (h.var(axes, correction=0, keepdim=True) + 1e-5).sqrt().detach()
    return (h - h.mean(axes, keepdim=True)) / deviation


ACTIVATIONS = {
    "silu": lambda net, h: F.silu(h),
    "gelu": lambda net, h: F.gelu(h),
    "gelu by tanh": lambda net, h: F.gelu(h, approximate="tanh"),
    "hardswish": lambda net, h: F.hardswish(h),
    "mish": lambda net, h: F.mish(h),
    "relu": lambda net, h: F.relu(h),
    "relu6": lambda net, h: F.relu6(8 * h),
    "hardtanh": lambda net, h: F.hardtanh(h, -0.3, 0.5),
    "elu": lambda net, h: F.elu(h, 1.3),
    "selu": lambda net, h: F.selu(h),
    "celu": lambda net, h: F.celu(h, 0.7),
    "leaky_relu": lambda net, h: F.leaky_relu(h, 0.2),
    "prelu": lambda net, h: F.prelu(h, torch.tensor(0.3).double()),
    "prelu by channel": lambda net, h: F.prelu(h, constant(8)),
    "tanh": lambda net, h: torch.tanh(h),
    "tanh, method": lambda net, h: h.tanh(),
    "sigmoid": lambda net, h: torch.sigmoid(h),
    "sigmoid, method": lambda net, h: h.sigmoid(),
    "hardsigmoid": lambda net, h: F.hardsigmoid(h),
    "softplus": lambda net, h: F.softplus(h),
    "softplus with beta": lambda net, h: F.softplus(h, beta=3.0),
    "softsign": lambda net, h: F.softsign(h),
    "square": lambda net, h: h.square(),
    "power": lambda net, h: h**2,
}
STARTS = {
    "sigmoid": 0.5,
    "sigmoid, method": 0.5,
    "hardsigmoid": 0.5,
    "softplus": math.log(2),
    "softplus with beta": math.log(2) / 3,
}

# Operation, and the same with everything constant that the rules hold; None where that is nothing.
OPERATIONS = {
    **{
        name: (function, bracket(function, STARTS.get(name, 0.0)))
        for name, function in ACTIVATIONS.items()
    },
    "layer_norm": (
        lambda net, h: F.layer_norm(h, (6, 6), constant(6, 6), constant(6, 6) - 1),
        lambda net, h: _normalised(h, (2, 3)) * constant(6, 6) + constant(6, 6) - 1,
    ),
    "layer_norm over channels": (
        lambda net, h: F.layer_norm(h.permute(0, 2, 3, 1), (8,)),
        lambda net, h: _normalised(h, (1,)).permute(0, 2, 3, 1),
    ),
    "group_norm": (
        lambda net, h: F.group_norm(h, 4, constant(8), constant(8) + 1),
        lambda net, h: (
            _normalised(h.unflatten(1, (4, 2)), (2, 3, 4)).flatten(1, 2) * constant(8).view(8, 1, 1)
            + (constant(8) + 1).view(8, 1, 1)
        ),
    ),
    "instance_norm": (
        lambda net, h: F.instance_norm(h, weight=constant(8), bias=constant(8) + 1),
        lambda net, h: (
            _normalised(h, (2, 3)) * constant(8).view(8, 1, 1) + (constant(8) + 1).view(8, 1, 1)
        ),
    ),
    "rms_norm": (
        lambda net, h: F.rms_norm(h, (6,), constant(6), 1e-5),
        held(lambda net, h: (h.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * constant(6)),
    ),
    "rms_norm written out": (
        lambda net, h: h * torch.rsqrt(h.pow(2).mean(1, keepdim=True) + 1e-5),
        held(lambda net, h: (h.square().mean(1, keepdim=True) + 1e-5).rsqrt()),
    ),
    "layer_norm written out": (
        lambda net, h: (
            (h - h.mean(1, keepdim=True)) / torch.sqrt(h.var(1, keepdim=True, correction=0) + 1e-5)
        ),
        lambda net, h: _normalised(h, (1,)),
    ),
    "standardised": (
        lambda net, h: (h - h.mean(1, keepdim=True)) / h.std(1, keepdim=True),
        lambda net, h: (h - h.mean(1, keepdim=True)) / h.std(1, keepdim=True).detach(),
    ),
    "normalize": (
        lambda net, h: F.normalize(h, dim=1),
        held(lambda net, h: 1 / h.norm(dim=1, keepdim=True)),
    ),
    "normalize written out": (
        lambda net, h: h / h.norm(dim=1, keepdim=True),
        held(lambda net, h: 1 / h.norm(dim=1, keepdim=True)),
    ),
    "softmax as a gate": (
        lambda net, h: h * F.softmax(h, 1),
        held(lambda net, h: F.softmax(h, 1)),
    ),
    "softmax as a gate, in front": (
        lambda net, h: h.softmax(1) * h,
        held(lambda net, h: F.softmax(h, 1)),
    ),
    "sigmoid as a gate": (
        lambda net, h: h[:, :4] * torch.sigmoid(h[:, 4:]),
        lambda net, h: h[:, :4] * torch.sigmoid(h[:, 4:]).detach(),
    ),
    "hardsigmoid as a gate": (
        lambda net, h: h * F.hardsigmoid(h.mean((2, 3), keepdim=True)),
        held(lambda net, h: F.hardsigmoid(h.mean((2, 3), keepdim=True))),
    ),
    "tanh with a sigmoid gate": (
        lambda net, h: torch.tanh(h[:, :4]) * torch.sigmoid(h[:, 4:]),
        lambda net, h: (
            h[:, :4] * (torch.tanh(h[:, :4]) / h[:, :4] * torch.sigmoid(h[:, 4:])).detach()
        ),
    ),
    "bmm with attention": (
        lambda net, h: _attend(h, torch.bmm, lambda weights: weights),
        lambda net, h: _attend(h, torch.bmm, torch.Tensor.detach),
    ),
    "matmul with attention": (
        lambda net, h: _attend(h, torch.matmul, lambda weights: weights),
        lambda net, h: _attend(h, torch.matmul, torch.Tensor.detach),
    ),
    "einsum with attention": (
        lambda net, h: _attend(h, _einsum, lambda weights: weights),
        lambda net, h: _attend(h, _einsum, torch.Tensor.detach),
    ),
    "fused attention": (
        lambda net, h: F.scaled_dot_product_attention(*h.flatten(2).mT.split((3, 3, 2), 2)),
        lambda net, h: _attend(h, torch.bmm, torch.Tensor.detach, 3**-0.5),
    ),
    "attention that looks back only": (
        lambda net, h: F.scaled_dot_product_attention(
            *h.flatten(2).mT.split((3, 3, 2), 2), is_causal=True
        ),
        lambda net, h: _attend(h, torch.bmm, torch.Tensor.detach, 3**-0.5, causal=True),
    ),
    **{
        name: (function, None)
        for name, function in {
            "chunk": lambda net, h: torch.cat(list(h.chunk(3, 2))[::-1], 2),
            "split": lambda net, h: torch.cat(torch.split(h, [3, 5], 1)[::-1], 1),
            "split evenly": lambda net, h: h.split(4, 1)[1],
            "tensor_split": lambda net, h: torch.tensor_split(h, 3, 1)[1],
            "unbind": lambda net, h: h.unbind(1)[0] - h.unbind(1)[3],
            "unpacked": lambda net, h: sum(part for part in h.unbind(2)),
            "stack": lambda net, h: torch.stack([h, F.relu(h)], 2),
            "roll": lambda net, h: torch.roll(h, (1, 2), (1, 3)),
            "flip": lambda net, h: h.flip(1, 2),
            "repeat": lambda net, h: h.repeat(1, 2, 1, 1),
            "tile": lambda net, h: h.tile((1, 2, 1, 1)),
            "repeat_interleave": lambda net, h: h.repeat_interleave(2, 1),
            "where": lambda net, h: torch.where(mask(h), h, F.relu(h)),
            "where with a constant": lambda net, h: torch.where(mask(h), h, 0.5),
            "masked_fill": lambda net, h: h.masked_fill(mask(h), 0.0),
            "masked_fill with a constant": lambda net, h: h.masked_fill(mask(h), -1.5),
            "addcmul": lambda net, h: torch.addcmul(h, F.relu(h), constant(6, 6), value=0.5),
            "sub": lambda net, h: h - 0.3 * F.relu(h),
            "torch.sub": lambda net, h: torch.sub(h, F.relu(h), alpha=2),
            "sub of a constant": lambda net, h: h - constant(6, 6),
            "rsub": lambda net, h: 1.5 - h,
            "torch.rsub": lambda net, h: torch.rsub(h, F.relu(h)),
            "add of a constant": lambda net, h: constant(8, 1, 1) + h + 1,
            "neg": lambda net, h: -h + torch.neg(F.relu(h)),
            "interpolate": lambda net, h: F.interpolate(h, scale_factor=2),
            "interpolate bilinearly": lambda net, h: F.interpolate(
                h, size=(9, 4), mode="bilinear", align_corners=False
            ),
            "interpolate bicubically": lambda net, h: F.interpolate(h, size=(9, 8), mode="bicubic"),
            "upsample": lambda net, h: nn.Upsample(scale_factor=2, mode="nearest")(h),
            "unfold": lambda net, h: F.unfold(h, 3, padding=1, stride=2),
            "unfold, method": lambda net, h: h.unfold(2, 3, 2),
            "fold": lambda net, h: F.fold(h.flatten(2), (7, 7), 2),
            "pixel_shuffle": lambda net, h: F.pixel_shuffle(h, 2),
            "pixel_unshuffle": lambda net, h: F.pixel_unshuffle(h, 2),
            "channel_shuffle": lambda net, h: F.channel_shuffle(h, 4),
            "amax": lambda net, h: h.amax((2, 3)),
            "amax of one axis": lambda net, h: torch.amax(h, dim=1, keepdim=True),
            "max": lambda net, h: h.max(dim=2).values,
            "torch.max": lambda net, h: torch.max(h, 1, keepdim=True)[0],
            "max_pool1d": lambda net, h: F.max_pool1d(h.flatten(2), 3, 2, 1),
            "max_pool3d": lambda net, h: F.max_pool3d(h.unsqueeze(1), 2),
            "avg_pool3d": lambda net, h: F.avg_pool3d(h.unsqueeze(1), 2, padding=1),
            "adaptive_max_pool2d": lambda net, h: F.adaptive_max_pool2d(h, (4, 1)),
            "adaptive_max_pool1d": lambda net, h: F.adaptive_max_pool1d(h.flatten(2), 5),
            "adaptive_avg_pool3d": lambda net, h: F.adaptive_avg_pool3d(h.unsqueeze(1), (3, 2, 4)),
            "adaptive_max_pool, module": lambda net, h: nn.AdaptiveMaxPool2d(2)(h),
            "einsum": lambda net, h: torch.einsum("nchw,cd->ndhw", h, constant(8, 5)),
            "einsum, constant first": lambda net, h: torch.einsum(
                "dc,nchw->ndhw", constant(5, 8), h
            ),
            "matmul": lambda net, h: h @ constant(6, 4),
            "matmul, constant first": lambda net, h: torch.matmul(constant(3, 6), h),
            "bmm": lambda net, h: torch.bmm(h[:, 0], constant(6, 4).expand(len(h), -1, -1)),
            "conv3d": lambda net, h: F.conv3d(
                h.unsqueeze(1), constant(2, 1, 3, 3, 3), constant(2), padding=1
            ),
            "conv1d": lambda net, h: F.conv1d(h.flatten(2), constant(4, 2, 5), groups=4, stride=3),
            "linear": lambda net, h: F.linear(h, constant(4, 6), constant(4)),
            "batch_norm": lambda net, h: F.batch_norm(
                F.relu(h), constant(8), constant(8).square() + 1, constant(8), constant(8) - 1
            ),
            "unflatten": lambda net, h: h.unflatten(1, (2, 4)).sum(1),
            "narrow": lambda net, h: h.narrow(1, 2, 3),
            "index_select": lambda net, h: h.index_select(1, torch.tensor([0, 3, 3])),
            "gather": lambda net, h: h.gather(1, torch.tensor([[[[5]]]]).expand(len(h), 2, 6, 6)),
            "swapaxes": lambda net, h: h.swapaxes(1, 2).movedim(3, 1).contiguous(),
            "as another": lambda net, h: h.view_as(h).reshape_as(h).type_as(h).to(h.dtype).double(),
            "expand_as": lambda net, h: h / 2 + h.mean(1, keepdim=True).expand_as(h),
        }.items()
    },
}


def _attend(h, multiply, hold, scale=1.0, causal=False):
    query, key, value = h.flatten(2).mT.split((3, 3, 2), 2)
    scores = multiply(query, key.transpose(1, 2)) * scale
    if causal:
        scores = scores.masked_fill(torch.ones(36, 36).triu(1).bool(), -math.inf)
    return multiply(hold(F.softmax(scores, -1)), value)


def _einsum(left, right):
    return torch.einsum("nij,njk->nik", left, right)


def _augmented(h):
    mean = h.mean(1, True)
    h += mean
    h -= 0.5
    h *= -2
    h /= 3
    return h


IN_PLACE = {
    "relu_": (lambda h: h.relu_(), F.relu),
    "relu": (lambda h: F.relu(h, inplace=True), F.relu),
    "silu": (lambda h: F.silu(h, inplace=True), F.silu),
    "hardswish": (lambda h: F.hardswish(h, inplace=True), F.hardswish),
    "mish": (lambda h: F.mish(h, inplace=True), F.mish),
    "relu6": (lambda h: F.relu6(h, inplace=True), F.relu6),
    "hardtanh": (lambda h: F.hardtanh(h, -0.3, 0.5, True), lambda h: F.hardtanh(h, -0.3, 0.5)),
    "elu": (lambda h: F.elu(h, inplace=True), F.elu),
    "selu": (lambda h: F.selu(h, inplace=True), F.selu),
    "celu": (lambda h: F.celu(h, inplace=True), F.celu),
    "leaky_relu": (lambda h: F.leaky_relu(h, 0.2, inplace=True), lambda h: F.leaky_relu(h, 0.2)),
    "tanh_": (lambda h: h.tanh_(), torch.tanh),
    "sigmoid_": (lambda h: h.sigmoid_(), torch.sigmoid),
    "hardsigmoid": (lambda h: F.hardsigmoid(h, inplace=True), F.hardsigmoid),
    "mul_": (lambda h: h.mul_(-2), lambda h: -2 * h),
    "div_": (lambda h: h.div_(-2), lambda h: -h / 2),
    "add_": (lambda h: h.add_(h.mean(1, True), alpha=2), lambda h: h + 2 * h.mean(1, True)),
    "add_ of a constant": (lambda h: h.add_(1.5), lambda h: h + 1.5),
    "sub_": (lambda h: h.sub_(h.mean(1, True)), lambda h: h - h.mean(1, True)),
    "a gate": (
        lambda h: h.mul_(h.mean((2, 3), keepdim=True).sigmoid_()),
        lambda h: h * h.mean((2, 3), keepdim=True).sigmoid(),
    ),
    "augmented": (_augmented, lambda h: -2 * (h + h.mean(1, True) - 0.5) / 3),
    "softmax as a gate": (lambda h: h.mul_(h.softmax(1)), lambda h: h * h.softmax(1)),
}


def between(operation, seed=0):
    """A network with this operation between a convolution and a linear layer, and a batch."""
    torch.manual_seed(seed)
    convolution = nn.Conv2d(2, 8, 3, padding=1)
    model = Apply(
        lambda net, x: net.head(operation(net, net.first(x)).flatten(1)),
        first=convolution,
        head=nn.LazyLinear(3),
    )
    x = torch.randn(2, 2, 6, 6, dtype=torch.float64).clamp(-2.4, 2.4)
    model(x.clone())  # gives the lazy layer its shape
    return model, x, torch.tensor([0, 2])


CONSERVING = [name for name in RULES if name != "alpha3-beta2"]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_conserves_under_every_rule(operation):
    model, x, y = between(OPERATIONS[operation][0])
    for rule in CONSERVING:
        assert_accounted(model, x, y, RULES[rule])


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_passes_relevance_on_as_its_linear_part_does(operation):
    """With all that is constant held, LRP-0 is the gradient times the input."""
    function, linear_part = OPERATIONS[operation]
    model, x, y = between(function)
    twin, *_ = between(linear_part or function)
    twin.load_state_dict(model.state_dict())
    leaf = x.clone().requires_grad_()
    logits = twin(leaf)
    torch.testing.assert_close(logits, model(x), rtol=1e-9, atol=1e-10)
    (gradient,) = torch.autograd.grad(logits[range(2), y].sum(), leaf)
    torch.testing.assert_close(relevance(model, x, y, "lrp-0"), gradient * x, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("operation", IN_PLACE)
def test_in_place_and_out_of_place_are_one(operation):
    there, elsewhere = IN_PLACE[operation]
    model, x, y = between(lambda net, h: there(h))
    twin, *_ = between(lambda net, h: elsewhere(h))
    for rule in CONSERVING:
        expected = relevance(twin, x, y, RULES[rule])
        found = assert_accounted(model, x, y, RULES[rule]).relevance
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


def _lower():
    return torch.ones(8, 8, dtype=torch.float64).tril()


def _written_into(h):
    h[:, 0] = 0
    return h


RARE = {
    "neg_": (lambda h: h.neg_(), lambda h: -h),
    "masked_fill_": (lambda h: h.masked_fill_(mask(h), 0), lambda h: h.masked_fill(mask(h), 0)),
    "addcmul_": (
        lambda h: h.addcmul_(h.mean(1, True), constant(6, 6)),
        lambda h: torch.addcmul(h, h.mean(1, True), constant(6, 6)),
    ),
    "where": (
        lambda h: h.where(mask(h), torch.zeros_like(h)),
        lambda h: torch.where(mask(h), h, torch.zeros_like(h)),
    ),
    "zero_": (lambda h: h * 2 + h.clone().zero_(), lambda h: h * 2),
    "copy_": (lambda h: torch.zeros_like(h).copy_(h), lambda h: h.clone()),
    "written into": (_written_into, lambda h: torch.cat([h[:, :1] * 0, h[:, 1:]], 1)),
    "clamp_": (lambda h: h.clamp_(0, 0.5), lambda h: F.hardtanh(h, 0.0, 0.5)),
    "clamp": (lambda h: h.clamp(-0.2, 0.5), lambda h: F.hardtanh(h, -0.2, 0.5)),
    "clamp_min": (lambda h: h.clamp_min(0), F.relu),
    "maximum": (lambda h: torch.maximum(h, -0.2 * h), lambda h: F.leaky_relu(h, -0.2)),
    "glu": (lambda h: F.glu(h, 1), lambda h: h[:, :4] * torch.sigmoid(h[:, 4:])),
    "logsigmoid": (lambda h: -F.logsigmoid(-h), F.softplus),
    "abs": (lambda h: h.abs(), lambda h: F.leaky_relu(h, -1.0)),
    "exp": (lambda h: h.exp(), None),
    "cumsum": (lambda h: h.cumsum(1), lambda h: torch.einsum("nchw,dc->ndhw", h, _lower())),
    "diff": (lambda h: h.diff(dim=1), lambda h: h[:, 1:] - h[:, :-1]),
    "linalg": (lambda h: torch.linalg.vecdot(h, h.detach(), dim=1), None),
    "prod": (lambda h: h.prod(1), None),
    "min": (lambda h: h.min(1).values, lambda h: -((-h).max(1).values)),
    "topk": (lambda h: h.topk(1, 1).values, lambda h: h.amax(1, True)),
    "sort": (lambda h: h.sort(1).values[:, -1], lambda h: h.amax(1)),
    "median": (lambda h: h.median(1).values, None),
    "logsumexp": (lambda h: h.logsumexp(1), None),
    "log_softmax": (lambda h: h.log_softmax(1), None),
    "softmax alone": (lambda h: h.softmax(1), None),
    "take": (lambda h: h.take_along_dim(torch.tensor([[[[1]]]]), 1), lambda h: h[:, 1:2, :1, :1]),
    "lerp": (lambda h: h.lerp(F.relu(h), 0.3), lambda h: 0.7 * h + 0.3 * F.relu(h)),
    "threshold": (lambda h: F.threshold(h, 0.1, 0.0), None),
    "hardshrink": (F.hardshrink, None),
    "tanhshrink": (F.tanhshrink, None),
    "local_response_norm": (lambda h: F.local_response_norm(h, 3), None),
    "outer": (lambda h: torch.einsum("nchw,nchw->nhw", h, h), None),
    "to_sparse": (lambda h: h.to_sparse().to_dense(), lambda h: h.clone()),
    "as_strided": (lambda h: h.as_strided(h.shape, h.stride()), lambda h: h.clone()),
    "numpy": (lambda h: h + torch.from_numpy(h.detach().numpy()), None),
    "data": (lambda h: h + h.data, None),
    "item": (lambda h: h * h.mean().item(), None),
    "comparison": (lambda h: h * (h > 0), F.relu),
}


@pytest.mark.parametrize("operation", RARE)
def test_rarer_operations_are_right_or_refused(operation):
    there, elsewhere = RARE[operation]
    model, x, y = between(lambda net, h: there(h))
    for rule in CONSERVING:
        try:
            found = assert_accounted(model, x, y, RULES[rule]).relevance
        except UnsupportedOperation:
            continue
        except ValueError as error:
            assert "batch" in str(error)  # noqa: PT017
            continue
        assert elsewhere is not None, "what is no signal times a constant was explained"
        twin, *_ = between(lambda net, h: elsewhere(h))
        expected = relevance(twin, x, y, RULES[rule])
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_of_exactly_zero_is_explained(name):
    """The bracket f(x)/x has a limit where x is 0."""
    model, x, y = between(ACTIVATIONS[name])
    with torch.no_grad():
        model.first.weight[::2] = 0
        model.first.bias[::2] = 0
    for rule in ("lrp-0", "epsilon", "flat"):
        assert assert_accounted(model, x, y, RULES[rule]).relevance.isfinite().all()
    assert assert_accounted(model, 0 * x, y, RULES["lrp-0"]).relevance.isfinite().all()


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("size", [1e-200, 1e-9, 1e9])
def test_an_activation_of_tiny_and_of_huge_values_is_explained(name, size):
    model, x, y = between(ACTIVATIONS[name])
    with torch.no_grad():
        model.first.bias.zero_()
    assert assert_accounted(model, size * x, y, RULES["lrp-0"]).relevance.isfinite().all()
