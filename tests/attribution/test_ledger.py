"""Whatever is explained is found again: in the input, or absorbed."""

from contextlib import suppress
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import LAYERWISE, Apply, assert_accounted, logits_of
from torch import nn
from torch.nn import functional as F

from attrreg.attribution import RULES, UnsupportedOperation, ledger, relevance

NETWORKS = ("resnet10-narrow", "resnet18", "vgg")


@pytest.mark.parametrize("rule", LAYERWISE)
@pytest.mark.parametrize("name", NETWORKS)
def test_relevance_and_what_was_absorbed_add_up_to_the_logit(name, rule, make_model, make_batch):
    x, y = make_batch(name)
    assert_accounted(make_model(name), x, y, rule)


@pytest.mark.parametrize("rule", LAYERWISE)
@pytest.mark.parametrize("name", NETWORKS)
def test_without_biases_all_relevance_arrives(name, rule, make_model, make_batch):
    x, y = make_batch(name)
    small = replace(RULES[rule], epsilon=RULES[rule].epsilon and 1e-7)
    result = ledger(make_model(name, biases=False), x, y, small)
    torch.testing.assert_close(
        result.relevance.flatten(1).sum(1), result.explained, rtol=1e-3, atol=1e-6
    )


@pytest.mark.parametrize("rule", LAYERWISE)
def test_any_weights_over_the_classes_are_accounted_for(rule, make_model, make_batch):
    model = make_model("small")
    x, _ = make_batch("small")
    weights = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    result = ledger(model, x, weights, rule)
    torch.testing.assert_close(result.explained, (logits_of(model, x) * weights).sum(1))
    found = result.relevance.flatten(1).sum(1) + result.absorbed
    torch.testing.assert_close(found, result.explained, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("rule", [*LAYERWISE, "gradient", "gradient-x-input"])
def test_every_form_of_target_names_the_same_output(rule, make_model, make_batch):
    model = make_model("small")
    x, y = make_batch("small")
    by_index = relevance(model, x, y, rule)
    one_hot = F.one_hot(y, 4).to(x.dtype)
    assert torch.equal(relevance(model, x, one_hot, rule), by_index)
    assert torch.equal(relevance(model, x, lambda logits: one_hot, rule), by_index)
    rather = lambda logits: F.one_hot(logits.argmin(1), 4).to(logits.dtype)  # noqa: E731
    lowest = relevance(model, x, logits_of(model, x).argmin(1), rule)
    assert torch.equal(relevance(model, x, rather, rule), lowest)


@pytest.mark.parametrize("rule", LAYERWISE)
def test_log_probability_is_explained_by_the_weights_of_its_derivative(
    rule, make_model, make_batch
):
    model = make_model("small")
    x, y = make_batch("small")
    weights = F.one_hot(y, 4) - logits_of(model, x).softmax(1)
    torch.testing.assert_close(
        relevance(model, x, y, rule, output="log-probability"), relevance(model, x, weights, rule)
    )


def test_a_stabiliser_absorbs_more_the_larger_it_is(make_model, make_batch):
    model = make_model("small", biases=False)
    x, y = make_batch("small")
    shares = [
        (result.absorbed / result.explained).mean()
        for epsilon in (0.0, 1e-3, 1e-1, 1.0)
        for result in [ledger(model, x, y, replace(RULES["epsilon"], epsilon=epsilon))]
    ]
    assert abs(shares[0]) < 1e-12
    assert shares == sorted(shares)
    assert 0.1 < shares[-1] < 1


@pytest.mark.parametrize("rule", ["gradient", "gradient-x-input"])
def test_gradients_keep_no_ledger(rule, make_model, make_batch):
    x, y = make_batch("small")
    with pytest.raises(ValueError, match=rule):
        ledger(make_model("small"), x, y, rule)


# Every operation that is supported, between a convolution and a linear layer; no kernel of its own.
OPERATIONS = {
    "avg_pool2d": lambda h: F.avg_pool2d(h, 2),
    "avg_pool2d with padding": lambda h: F.avg_pool2d(h, 3, 2, 1),
    "avg_pool1d": lambda h: F.avg_pool1d(h.flatten(2), 4),
    "adaptive_avg_pool2d": lambda h: F.adaptive_avg_pool2d(h, (3, 2)),
    "adaptive_avg_pool1d": lambda h: F.adaptive_avg_pool1d(h.flatten(2), 5),
    "global average": lambda h: F.adaptive_avg_pool2d(h, 1),
    "max_pool2d": lambda h: F.max_pool2d(h, 3, 2, 1, ceil_mode=True),
    "max_pool2d, method": lambda h: torch.max_pool2d(h, 2),
    "mean": lambda h: h.mean((2, 3), keepdim=True),
    "torch.mean": lambda h: torch.mean(h, dim=[2, 3]),
    "sum": lambda h: h.sum(1),
    "cat": lambda h: torch.cat([h, F.relu(h)], 1),
    "cat by keyword": lambda h: torch.cat(tensors=(h, h), dim=2),
    "pad": lambda h: F.pad(h, (1, 2, 0, 1)),
    "crop": lambda h: F.pad(h, (-1, 0, -1, 0)),
    "dropout": lambda h: F.dropout2d(F.dropout(h, 0.5, training=False), training=False),
    "permute": lambda h: h.permute(0, 2, 3, 1).contiguous(),
    "transpose": lambda h: h.transpose(1, 3),
    "reshape": lambda h: h.permute(0, 2, 3, 1).reshape(len(h), -1),
    "view": lambda h: h.view(len(h), -1, 3),
    "squeeze": lambda h: h.unsqueeze(2).squeeze(2).unsqueeze(-1),
    "expand": lambda h: h.unsqueeze(1).expand(-1, 2, -1, -1, -1),
    "flatten by keyword": lambda h: torch.flatten(input=h, start_dim=1),
    "slice": lambda h: h[:, 1:, ::2],
    "one position": lambda h: h[:, :, 2, 3],
    "some channels": lambda h: h[:, [0, 2, 2]],
    "clone": lambda h: h.clone(),
    "factor": lambda h: 2 * h * torch.linspace(-1, 1, 6),
    "quotient": lambda h: h / 3 / torch.tensor(-2.0),
    "sum of two": lambda h: torch.add(h, F.max_pool2d(h, 3, 1, 1), alpha=-0.5),
    "sum with itself": lambda h: h + h,
    "sum over axes of different size": lambda h: h + h.mean((2, 3), keepdim=True),
}


@pytest.mark.parametrize("rule", LAYERWISE)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_supported_operation_conserves(operation, rule):
    torch.manual_seed(0)
    convolution = nn.Conv2d(2, 5, 3, padding=1)
    model = Apply(
        lambda net, x: net.head(OPERATIONS[operation](F.relu(net.conv(x))).flatten(1)),
        conv=convolution,
        head=nn.LazyLinear(3),
    )
    x, y = torch.randn(2, 2, 6, 6, dtype=torch.float64), torch.tensor([0, 2])
    model(x)  # gives the lazy layer its shape
    result = assert_accounted(model, x, y, rule)
    if rule == "lrp-0":
        expected = relevance(model, x, y, "gradient-x-input")
        torch.testing.assert_close(result.relevance, expected, rtol=1e-10, atol=1e-12)


IMAGES = ["avg_pool2d", "max_pool2d", "global average", "cat", "pad", "crop", "slice", "factor"]
IMAGES += ["quotient", "sum of two", "sum with itself", "clone"]


@pytest.mark.parametrize("operation", IMAGES)
def test_what_is_known_of_signs_spares_work_and_changes_nothing(operation):
    """After a factor of 1 nothing is known of a sign, and z⁺ looks at negative inputs, too."""
    torch.manual_seed(0)
    layers = {"conv": nn.Conv2d(2, 5, 3, padding=1), "deep": nn.LazyConv2d(4, 1)}

    def forward(net, x, factor=None):
        h = OPERATIONS[operation](F.relu(net.conv(x)))
        return net.deep(h if factor is None else factor * h).sum((2, 3))

    x, y = torch.randn(2, 2, 6, 6, dtype=torch.float64), torch.tensor([0, 2])
    knowing = Apply(forward, **layers)
    knowing(x)
    unknowing = Apply(lambda net, x: forward(net, x, 1.0), **layers)
    found, expected = (relevance(model, x, y, "epsilon-plus") for model in (knowing, unknowing))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rule", LAYERWISE)
@pytest.mark.parametrize("name", ["resnet10-narrow", "vgg"])
def test_a_map_does_not_depend_on_the_rest_of_the_batch(name, rule, make_model, make_batch):
    model = make_model(name)
    x, y = make_batch(name, n=4)
    together = relevance(model, x, y, rule)
    alone = torch.cat([relevance(model, x[i : i + 1], y[i : i + 1], rule) for i in range(4)])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-12)
    reversed_batch = relevance(model, x.flip(0), y.flip(0), rule).flip(0)
    torch.testing.assert_close(together, reversed_batch, rtol=1e-9, atol=1e-12)


def _positions_first(net, x):
    h = F.relu(net.conv(x)).flatten(2).permute(2, 0, 1)  # (positions, n, channels)
    return net.head(F.relu(net.mix(h)).mean(0))


def _positions_as_samples(net, x):
    h = F.relu(net.conv(x)).flatten(2).transpose(1, 2).reshape(-1, 5)  # (n · positions, channels)
    return net.head(F.relu(net.mix(h)).view(len(x), -1, 6).mean(1))


@pytest.mark.parametrize("rule", LAYERWISE)
@pytest.mark.parametrize("forward", [_positions_first, _positions_as_samples])
def test_samples_stay_apart_where_a_linear_layer_has_them_on_another_axis(forward, rule):
    torch.manual_seed(1)
    layers = {"conv": nn.Conv2d(2, 5, 3), "mix": nn.Linear(5, 6), "head": nn.Linear(6, 3)}
    model = Apply(forward, **layers)
    x, y = torch.randn(3, 2, 6, 6, dtype=torch.float64), torch.tensor([0, 1, 2])
    with suppress(UnsupportedOperation):  # to refuse by name is right, too
        alone = relevance(model, x[:1], y[:1], rule)
        torch.testing.assert_close(relevance(model, x, y, rule)[:1], alone, rtol=1e-9, atol=1e-12)
        assert_accounted(model, x, y, rule)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rule", LAYERWISE)
@pytest.mark.parametrize("value", [0.0, 1.0, -2.0])
def test_constant_inputs_are_explained(value, rule, dtype, make_model):
    model = make_model("resnet10-narrow", dtype=dtype)
    x = torch.full((1, 1, 8, 8), value, dtype=dtype)
    tolerance = 1e-10 if dtype == torch.float64 else 1e-4
    result = assert_accounted(model, x, torch.tensor([3]), rule, tolerance)
    assert result.relevance.shape == x.shape
    assert result.relevance.dtype == dtype
    assert result.relevance.isfinite().all()


@pytest.mark.parametrize("rule", LAYERWISE)
@pytest.mark.parametrize("name", NETWORKS)
def test_single_precision_gives_the_same_map(name, rule, make_model, make_batch):
    x, y = make_batch(name, n=2)
    fine = relevance(make_model(name), x, y, rule)
    coarse = relevance(make_model(name, dtype=torch.float32), x.float(), y, rule)
    assert coarse.dtype == torch.float32
    error = (coarse - fine).flatten(1).norm(dim=1) / fine.flatten(1).norm(dim=1)
    assert error.max() < 1e-3


@settings(max_examples=12, deadline=None)
@given(exponent=st.integers(-6, 6), rule=st.sampled_from(LAYERWISE))
def test_without_biases_scaled_inputs_have_scaled_maps(exponent, rule):
    """The stabiliser is relative to the layer, so nothing in the engine has a scale of its own."""
    torch.manual_seed(2)
    model = Apply(
        lambda net, x: net.head(F.relu(net.deep(F.relu(net.conv(x)))).flatten(1)),
        conv=nn.Conv2d(1, 4, 3, bias=False),
        deep=nn.Conv2d(4, 4, 3, bias=False),
        head=nn.Linear(16, 3, bias=False),
    )
    x, y = torch.randn(2, 1, 6, 6, dtype=torch.float64), torch.tensor([0, 1])
    factor = 10.0**exponent
    scaled = relevance(model, factor * x, y, rule) / factor
    torch.testing.assert_close(scaled, relevance(model, x, y, rule), rtol=1e-8, atol=1e-10)
