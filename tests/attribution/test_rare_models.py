"""Models that do unusual things: each has the right map, or is refused; none changes for good."""

import pytest
import torch
from networks import Apply, assert_accounted
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from attrreg.attribution import RULES, UnsupportedOperation, ledger, relevance

CONSERVING = ["lrp-0", "epsilon", "epsilon-plus", "gamma", "alpha2-beta1"]


def _batch():
    torch.manual_seed(3)
    return torch.randn(3, 8, dtype=torch.float64), torch.tensor([0, 1, 2])


def _layers(**layers):
    torch.manual_seed(4)
    return {"first": nn.Linear(8, 8), "head": nn.Linear(8, 4)} | layers


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("rule", ["lrp-0", "epsilon-plus"])
def test_checkpointing_is_refused_by_name(rule, reentrant):
    def forward(net, x):
        inner = lambda h: net.first(h).relu()  # noqa: E731
        return net.head(checkpoint(inner, x, use_reentrant=reentrant))

    x, y = _batch()
    with pytest.raises(UnsupportedOperation, match=r"(?i)checkpoint"):
        relevance(Apply(forward, **_layers()), x, y, rule)


@pytest.mark.parametrize("join", [torch.cat, torch.concat])
@pytest.mark.parametrize("rule", CONSERVING)
def test_signs_are_not_taken_for_granted_where_constants_are_joined(join, rule):
    torch.manual_seed(5)
    x, y = torch.randn(2, 2, 5, 5, dtype=torch.float64), torch.tensor([0, 1])
    negative = -3 * torch.ones(2, 1, 5, 5, dtype=torch.float64)
    layers = {"conv": nn.Conv2d(2, 3, 3, padding=1), "deep": nn.Conv2d(4, 3, 3)}

    def forward(net, x, factor=None):
        h = join([F.relu(net.conv(x)), negative[: len(x)]], dim=1)
        return net.deep(h if factor is None else factor * h).mean((2, 3))

    knowing = Apply(forward, **layers)
    unknowing = Apply(lambda net, x: forward(net, x, 1.0), **layers)
    found, expected = (relevance(model, x, y, rule) for model in (knowing, unknowing))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert_accounted(knowing, x, y, rule)


@pytest.mark.parametrize(
    "forward",
    [
        lambda net, x: net.head(net.first(x).relu() + torch.arange(8)),
        lambda net, x: net.head(torch.cat([net.first(x)[:, :4], torch.ones(len(x), 4).int()], 1)),
        lambda net, x: net.head(torch.where(torch.arange(8) > 3, net.first(x), 2)),
        lambda net, x: net.head(net.first(x).masked_fill(torch.arange(8) > 5, 7.0)),
        lambda net, x: net.head(F.max_pool1d(F.pad(net.first(x), (1, 0), value=-torch.inf), 2, 1)),
    ],
)
@pytest.mark.parametrize("rule", ["lrp-0", "epsilon"])
def test_constants_of_every_kind_keep_their_share(forward, rule):
    x, y = _batch()
    assert_accounted(Apply(forward, **_layers()), x, y, rule)


def test_half_precision_is_close_to_single():
    torch.manual_seed(6)
    layers = [nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 3)]
    model = nn.Sequential(*layers)
    x, y = torch.randn(2, 2, 8, 8), torch.tensor([0, 2])
    for rule in ("epsilon-plus", "epsilon-plus-flat", "gamma", "alpha2-beta1"):
        fine = relevance(model.float(), x, y, rule)
        for dtype, tolerance in ((torch.float16, 0.02), (torch.bfloat16, 0.1)):
            coarse = relevance(model.to(dtype), x.to(dtype), y, rule)
            assert (coarse.float() - fine).norm() <= tolerance * fine.norm()


@pytest.mark.parametrize("rule", ["epsilon-plus-flat", "z-box"])
def test_a_first_layer_that_is_only_a_gate_does_not_count(rule):
    def forward(net, x):
        return net.head(F.relu(x) * torch.sigmoid(net.first(x)))

    x, y = _batch()
    rule = RULES[rule] if rule != "z-box" else RULES[rule].__class__(
        "z-box", first="z-box", low=-9.0, high=9.0
    )  # fmt: skip
    with pytest.raises(UnsupportedOperation, match=r"reads the\s+input"):
        relevance(Apply(forward, **_layers()), x, y, rule)


def test_flat_does_not_count_constants_that_are_joined_with_the_input():
    torch.manual_seed(7)
    layers = {"conv": nn.Conv2d(3, 2, 2), "head": nn.Linear(18, 3)}
    x, y = torch.randn(2, 2, 4, 4, dtype=torch.float64), torch.tensor([0, 1])

    def forward(net, x):
        place = torch.linspace(-1, 1, 4, dtype=x.dtype).expand(len(x), 1, 4, 4)
        return net.head(net.conv(torch.cat([x, place], 1)).flatten(1))

    with pytest.raises(UnsupportedOperation, match="flat"):
        relevance(Apply(forward, **layers), x, y, "epsilon-plus-flat")


def test_a_weight_that_is_overwritten_after_its_use_is_refused():
    def forward(net, x):
        h = F.linear(x, net.first.weight.detach())
        with torch.no_grad():
            net.first.weight.mul_(1.0)
        return net.head(h)

    x, y = _batch()
    with pytest.raises(UnsupportedOperation, match="in place after"):
        relevance(Apply(forward, **_layers()), x, y, "epsilon")


@pytest.mark.parametrize("cast", [lambda h: h.to(torch.int64), lambda h: h.view(torch.int64)])
def test_casts_to_whole_numbers_are_refused(cast):
    x, y = _batch()
    model = Apply(lambda net, x: net.head(cast(net.first(x)).double()), **_layers())
    with pytest.raises(UnsupportedOperation, match="whole numbers"):
        relevance(model, x, y, "lrp-0")


TIED = {
    "transposed": lambda net, x: net.head(
        F.linear(F.linear(x, net.first.weight).relu(), net.first.weight.t())
    ),
    "used twice": lambda net, x: net.head(net.first(net.first(x).relu()).relu()),
}


@pytest.mark.parametrize("tie", TIED)
@pytest.mark.parametrize("normed", [False, True])
def test_tied_weights_have_differentiable_maps(tie, normed):
    layers = _layers()
    if normed:
        nn.utils.parametrizations.weight_norm(layers["first"])
    model, (x, y) = Apply(TIED[tie], **layers), _batch()
    found = relevance(model, x, y, "epsilon", create_graph=True)
    torch.testing.assert_close(found.detach(), relevance(model, x, y, "epsilon"))
    assert found.requires_grad


def test_a_compiled_model_is_explained_as_it_was_written():
    model, (x, y) = nn.Sequential(*_layers().values()).double(), _batch()
    expected = relevance(model, x, y, "epsilon")
    torch.testing.assert_close(relevance(torch.compile(model), x, y, "epsilon"), expected)


def test_a_model_that_switches_autocast_on_is_refused():
    def forward(net, x):
        with torch.autocast("cpu", torch.bfloat16):
            return net.head(net.first(x))

    x, y = _batch()
    model = Apply(forward, **_layers()).float()
    with pytest.raises(UnsupportedOperation, match="autocast"):
        relevance(model, x.float(), y, "lrp-0")


@pytest.mark.parametrize("rule", [*CONSERVING, "gradient", "integrated-gradients"])
def test_no_samples_have_no_map(rule):
    model = Apply(lambda net, x: net.head(F.relu_(net.first(x))), **_layers())
    x, y = _batch()
    assert relevance(model, x[:0], y[:0], rule).shape == (0, 8)


@pytest.mark.parametrize("rule", ["gradient", "lrp-0"])
def test_buffers_and_flags_that_a_model_replaces_come_back(rule):
    class Replacing(Apply):
        def forward(self, x):
            self.seen = x.mean(0)
            self.first.train()
            return self.head(self.first(x))

    model, (x, y) = Replacing(None, **_layers()), _batch()
    model.register_buffer("seen", torch.zeros(8, dtype=x.dtype))
    model.eval()
    before = model.seen
    relevance(model, x, y, rule)
    assert model.seen is before
    assert not model.seen.any()
    assert not any(module.training for module in model.modules())


HAND_WRITTEN = {
    "gelu": (lambda h: h * 0.5 * (1 + torch.erf(h / 2**0.5)), F.gelu),
    "glu": (lambda h: F.glu(torch.cat([h, h], 1)), lambda h: h * torch.sigmoid(h)),
    "squared relu": (lambda h: F.relu(h) ** 2, lambda h: F.relu(h) * _gate(F.relu(h))),
    "mm": (lambda h: torch.mm(h, _matrix()), lambda h: F.linear(h, _matrix().t())),
}


def _gate(h):
    return 0.5 * h.clamp(-1e6, 1e6) + 0.5 * h.clamp(-1e6, 1e6)  # itself, as a gate


def _matrix():
    return torch.linspace(-1, 1, 64, dtype=torch.float64).view(8, 8)


@pytest.mark.parametrize("name", HAND_WRITTEN)
@pytest.mark.parametrize("rule", ["lrp-0", "epsilon", "epsilon-plus"])
def test_two_ways_to_write_a_network_have_the_same_map(name, rule):
    x, y = _batch()
    maps = []
    for way in HAND_WRITTEN[name]:
        model = Apply(lambda net, x, way=way: net.head(way(net.first(x))), **_layers())
        assert_accounted(model, x, y, rule)
        maps.append(relevance(model, x, y, rule))
    torch.testing.assert_close(*maps, rtol=1e-8, atol=1e-11)


def test_the_largest_of_attention_weights_is_a_gate_too():
    def forward(net, x):
        h = net.first(x)
        return net.head(h * h.softmax(1).max(1, keepdim=True).values)

    x, y = _batch()
    assert_accounted(Apply(forward, **_layers()), x, y, "lrp-0")


def test_a_ledger_has_no_graph():
    model, (x, y) = nn.Sequential(*_layers().values()).double(), _batch()
    weights = F.one_hot(y, 4).double().requires_grad_()
    assert not any(each.requires_grad for each in ledger(model, x, weights, "epsilon"))


@pytest.mark.parametrize("rule", [*CONSERVING, "epsilon-plus-flat"])
def test_a_convolution_may_be_read_by_a_batch_norm_and_by_something_else(rule):
    torch.manual_seed(6)
    x, y = torch.randn(2, 2, 6, 6, dtype=torch.float64), torch.tensor([0, 1])
    norm = nn.BatchNorm2d(3)
    nn.init.uniform_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    layers = {"stem": nn.Conv2d(2, 3, 3), "conv": nn.Conv2d(3, 3, 3, padding=1), "norm": norm}

    def shared(net, x):
        made = net.conv(net.stem(x).relu())
        return (net.norm(made).relu() + made).mean((2, 3))

    def repeated(net, x):
        read = net.stem(x).relu()
        return (net.norm(net.conv(read)).relu() + net.conv(read)).mean((2, 3))

    once, twice = Apply(shared, **layers), Apply(repeated, **layers)
    torch.testing.assert_close(relevance(once, x, y, rule), relevance(twice, x, y, rule))
    assert_accounted(once, x, y, rule)


@pytest.mark.parametrize("rule", ["lrp-0", "epsilon-plus", "gamma", "alpha2-beta1"])
@pytest.mark.parametrize("size", [8, 9, 11])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_patches_side_by_side_are_as_any_convolution(dimensions, size, rule):
    torch.manual_seed(7)
    x = torch.randn(2, 3, *[size, 8, 4][:dimensions], dtype=torch.float64)
    layer = getattr(nn, f"Conv{dimensions}d")
    kernel = (4, 2, 2)[:dimensions]
    tiled = nn.Sequential(layer(3, 4, kernel, stride=kernel), nn.ReLU(), nn.Flatten()).double()
    padded = nn.Sequential(layer(3, 4, kernel, stride=kernel, padding=kernel), *tiled[1:]).double()
    padded.load_state_dict(tiled.state_dict())
    middle = tuple(slice(1, 1 + n // k) for n, k in zip(x.shape[2:], kernel, strict=True))
    weights = torch.randn_like(tiled(x))
    with torch.no_grad():
        around = torch.zeros(padded[0](x).shape, dtype=torch.float64)
        around[:, :, *middle] = weights.view_as(around[:, :, *middle])
    expected = relevance(padded, x, around.flatten(1), rule)
    torch.testing.assert_close(relevance(tiled, x, weights, rule), expected)
