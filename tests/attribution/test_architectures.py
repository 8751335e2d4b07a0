"""Every architecture of the supported list, under every rule that conserves."""

import contextlib
import random
from dataclasses import replace

import numpy
import pytest
import torch
from architectures import ARCHITECTURES, CLASSES, Recurrent, inputs, make
from torch import nn
from torch.nn import functional as F

from attrreg.attribution import RULES, Rule, UnsupportedOperation, ledger, relevance

BOUNDED = replace(RULES["z-box"], low=-3.0, high=3.0)
CONSERVING = {rule.name: rule for rule in RULES.values() if rule.conserves} | {"z-box": BOUNDED}
NORM_FIRST = ("encoder-tokens-first",)  # no affine layer of theirs reads the input
WITH_ATTENTION = [name for name, architecture in ARCHITECTURES.items() if architecture.attention]
WITHOUT_ATTENTION = [name for name in ARCHITECTURES if name not in WITH_ATTENTION]
# One of each kind, for what takes longer.
FEW = ("resnet26d", "mobilenetv3_small_100", "vit_tiny_patch16_224", "lstm", "temporal", "encoder")


def _explained(name, biases=True):
    """Return (a network, one sample, its label, its logit)."""
    model = make(name, biases)
    x, y = inputs(name, n=1)
    with torch.no_grad():
        logit = model(x)[0, y[0]]
    assert logit.isfinite()
    assert logit != 0
    return model, x, y, logit


@pytest.fixture(scope="module")
def name(request):
    """The name of an architecture; tests of one follow each other, so that it is built once."""
    return request.param


@pytest.fixture(scope="module")
def network(name):
    return _explained(name)


@pytest.fixture(scope="module")
def bare_network(name):
    return _explained(name, biases=False)


def over(names):
    return pytest.mark.parametrize("name", names, indirect=True)


def over_pairs(test):
    return pytest.mark.parametrize("rule", CONSERVING)(over(ARCHITECTURES)(test))


def _rule(name, rule):
    """Return a rule; what it does to the first layer is left out where none reads the input."""
    rule = CONSERVING.get(rule, RULES[rule])
    return replace(rule, first=None) if name in NORM_FIRST and rule.first else rule


def test_the_rules_that_conserve_are_these():
    names = ["lrp-0", "epsilon", "epsilon-plus", "epsilon-plus-flat"]
    assert sorted(CONSERVING) == sorted([*names, "gamma", "alpha2-beta1", "z-box"])


@over_pairs
def test_relevance_and_what_was_absorbed_add_up_to_the_networks_own_logit(name, network, rule):
    model, x, y, logit = network
    result = ledger(model, x, y, _rule(name, rule))
    scale = logit.abs().clamp_min(1)
    assert result.relevance.shape == x.shape
    assert result.relevance.isfinite().all()
    assert (result.explained - logit).abs() <= 1e-12 * scale
    assert (result.relevance.sum() + result.absorbed - logit).abs() <= 1e-10 * scale


@over_pairs
def test_without_anything_added_all_relevance_arrives(name, bare_network, rule):
    model, x, y, logit = bare_network
    rule = _rule(name, rule)
    small = replace(rule, epsilon=rule.epsilon and 1e-9)
    assert (relevance(model, x, y, small).sum() - logit).abs() <= 1e-6 * logit.abs()


@over(NORM_FIRST)
@pytest.mark.parametrize("rule", ["epsilon-plus-flat", "z-box"])
def test_a_first_layer_behind_a_normalisation_is_refused_by_the_name_of_the_rule(network, rule):
    model, x, y, _ = network
    with pytest.raises(UnsupportedOperation, match=f"{rule}.*Encoder"):
        relevance(model, x, y, CONSERVING[rule])


@over(ARCHITECTURES)
def test_lrp_0_is_gradient_times_input_with_gates_and_brackets_held(network, monkeypatch):
    model, x, y, logit = network
    leaf = x.clone().requires_grad_()
    with monkeypatch.context() as patch:
        held = _held_logits(model, leaf, patch)[0, y[0]]
    assert (held - logit).abs() <= 1e-10 * logit.abs().clamp_min(1)
    (gradient,) = torch.autograd.grad(held, leaf)
    expected = gradient * x
    error = relevance(model, x, y, "lrp-0") - expected
    assert error.norm() <= 1e-9 * expected.norm()


def _held_logits(model, x, patch):
    """The logits, computed by operations whose derivative holds what LRP holds."""
    for module in model.modules():
        if getattr(module, "activation", None) is F.gelu:
            patch.setattr(module, "activation", _bracketed(F.gelu))
    for name in ("silu", "gelu", "hardswish", "hardtanh"):
        patch.setattr(F, name, _bracketed(getattr(F, name)))
    patch.setattr(F, "hardsigmoid", _gate(F.hardsigmoid))
    patch.setattr(F, "layer_norm", _held_layer_norm)
    patch.setattr(F, "scaled_dot_product_attention", _held_attention)
    for name in ("sigmoid", "softmax"):
        for place in (torch, torch.Tensor):
            patch.setattr(place, name, _gate(getattr(place, name)))
    recurrent = getattr(model, "recurrent", None) or getattr(model, "cell", None)
    return model(x) if recurrent is None else model.head(_held_recurrence(recurrent, x))


def _bracketed(function):
    return lambda x, *rest, **options: x * (function(x.clone(), *rest, **options) / x).detach()


def _gate(function):
    return lambda x, *rest, **options: function(x.clone(), *rest, **options).detach()


def _held_layer_norm(x, shape, weight=None, bias=None, eps=1e-5):
    axes = tuple(range(-len(shape), 0))
    deviation = (x.var(axes, correction=0, keepdim=True) + eps).sqrt().detach()
    return (x - x.mean(axes, keepdim=True)) / deviation * weight + bias


def _held_attention(query, key, value, attn_mask=None, *_, **__):
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    if attn_mask is not None:
        hidden = attn_mask.dtype == torch.bool
        scores = scores.masked_fill(~attn_mask, -torch.inf) if hidden else scores + attn_mask
    weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
    return weights.detach() @ value


def _held_recurrence(recurrent, x, state=False):
    """The last output of a recurrent layer, or its last states, a step at a time."""
    if isinstance(recurrent, nn.LSTMCell):
        weights = [recurrent.weight_ih, recurrent.weight_hh, recurrent.bias_ih, recurrent.bias_hh]
        return torch.stack(_steps(_lstm_step, x, weights), 1)[:, -1]
    step = {"LSTM": _lstm_step, "GRU": _gru_step, "RNN_TANH": _rnn_step}[recurrent.mode]
    for layer in range(recurrent.num_layers):
        ahead, *back = (
            [
                getattr(recurrent, f"{kind}_l{layer}{end}")
                for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            ]
            for end in (["", "_reverse"] if recurrent.bidirectional else [""])
        )
        h = torch.stack(_steps(step, x, ahead), 1)
        if back:
            behind = torch.stack(_steps(step, x.flip(1), *back), 1).flip(1)
            last = torch.cat([h[:, -1], behind[:, 0]], 1)
            h = torch.cat([h, behind], 2)
        x = h
    return last if state and recurrent.bidirectional else x[:, -1]


def _steps(step, x, weights):
    width = weights[1].shape[1]
    state = (x.new_zeros(len(x), width), x.new_zeros(len(x), width))
    outputs = []
    for now in x.unbind(1):
        state = step(now, state, *weights)
        outputs.append(state[0])
    return outputs


def _lstm_step(x, state, w_x, w_h, b_x, b_h):
    h, c = state
    i, f, g, o = (x @ w_x.T + b_x + h @ w_h.T + b_h).chunk(4, 1)
    c = f.sigmoid() * c + i.sigmoid() * _bracketed(torch.tanh)(g)
    return o.sigmoid() * _bracketed(torch.tanh)(c), c


def _gru_step(x, state, w_x, w_h, b_x, b_h):
    h, unused = state
    from_x, from_h = (x @ w_x.T + b_x).chunk(3, 1), (h @ w_h.T + b_h).chunk(3, 1)
    r, z = (from_x[0] + from_h[0]).sigmoid(), (from_x[1] + from_h[1]).sigmoid()
    n = _bracketed(torch.tanh)(from_x[2] + r * from_h[2])
    return (1 - z) * n + z * h, unused


def _rnn_step(x, state, w_x, w_h, b_x, b_h):
    h, unused = state
    return _bracketed(torch.tanh)(x @ w_x.T + b_x + h @ w_h.T + b_h), unused


FORMS = [
    (kind, options)
    for kind in (nn.LSTM, nn.GRU, nn.RNN)
    for options in (
        {"num_layers": 1},
        {"num_layers": 3, "dropout": 0.5},
        {"num_layers": 2, "bidirectional": True},
        {"num_layers": 1, "bidirectional": True},
    )
]


@pytest.mark.parametrize("read", ["outputs", "state"])
@pytest.mark.parametrize(("kind", "options"), FORMS)
def test_recurrent_layers_of_every_form_are_what_their_steps_are(kind, options, read, monkeypatch):
    torch.manual_seed(0)
    model = Recurrent(kind(6, 4, batch_first=True, **options)).double().eval()
    if read == "state":
        model.forward = lambda x: model.head(_last_state(model.recurrent, x))
    x, y = inputs("lstm")
    leaf = x.clone().requires_grad_()
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "sigmoid", _gate(torch.Tensor.sigmoid))
        held = model.head(_held_recurrence(model.recurrent, leaf, state=read == "state"))
    torch.testing.assert_close(held, model(x))
    (gradient,) = torch.autograd.grad(held[range(2), y].sum(), leaf)
    found = relevance(model, x, y, "lrp-0")
    torch.testing.assert_close(found, gradient * x, rtol=1e-9, atol=1e-12)


def _last_state(recurrent, x):
    """The state of the last layer at its last step, of both directions side by side."""
    state = recurrent(x)[1]
    state = state[0] if isinstance(recurrent, nn.LSTM) else state
    return torch.cat(list(state[-2:] if recurrent.bidirectional else state[-1:]), 1)


@over(WITHOUT_ATTENTION)
def test_attention_aware_is_epsilon_where_there_is_no_attention(network):
    model, x, y, _ = network
    assert torch.equal(relevance(model, x, y, "attention-aware"), relevance(model, x, y, "epsilon"))


@over(WITH_ATTENTION)
def test_attention_aware_does_not_conserve_where_there_is_attention_and_says_so(bare_network):
    model, x, y, logit = bare_network
    assert not RULES["attention-aware"].conserves
    rule = Rule("exact", attention="shared", epsilon=0.0)
    assert not rule.conserves
    map_ = relevance(model, x, y, rule)
    assert map_.isfinite().all()
    assert (map_.sum() - logit).abs() > 1e-3 * logit.abs()


@over(ARCHITECTURES)
def test_magnitudes_stay_those_of_the_gradient(network):
    """A residual sum counted twice gives a factor of 2 per block: 256 and more in these nets."""
    model, x, y, _ = network
    gradient = relevance(model, x, y, "gradient-x-input").abs().sum()
    for rule in ("lrp-0", "epsilon", "epsilon-plus", "gamma"):
        assert relevance(model, x, y, rule).abs().sum() <= 3 * gradient, rule


@pytest.mark.parametrize("biases", [True, False])
def test_plus_adds_no_magnitude_in_convolutions_and_pooling(biases):
    """Its shares are positive and add up to 1 at most, where a unit has a positive contribution."""
    model = make("cnn", biases)
    x, y = inputs("cnn", n=1)
    place = [isinstance(layer, nn.Flatten) for layer in model].index(True)
    h = model[:place](x).detach()
    later = relevance(model[place:], h, y, "epsilon").abs().sum()
    assert relevance(model, x, y, "epsilon-plus").abs().sum() <= later * (1 + 1e-9)


@over(FEW)
@pytest.mark.parametrize("rule", [*CONSERVING, "attention-aware"])
def test_a_sample_has_the_same_map_alone_and_in_a_batch(name, network, rule):
    rule, model = _rule(name, rule), network[0]
    x, y = inputs(name, n=3, seed=1)
    x[1] *= 100 if rule.first != "z-box" else 0.01  # a neighbour of another scale
    together = relevance(model, x, y, rule)
    for i in range(3):
        alone = relevance(model, x[i : i + 1], y[i : i + 1], rule)[0]
        assert (together[i] - alone).norm() <= 1e-8 * alone.norm()


def _bits(value):
    return None if value is None else value.detach().clone().numpy().tobytes()


def _trace(model, x):
    """All that an attribution must leave as it is."""
    return {
        "state": {name: _bits(value) for name, value in model.state_dict().items()},
        "gradients": {name: _bits(value.grad) for name, value in model.named_parameters()},
        "asked for": [value.requires_grad for value in model.parameters()],
        "training": [module.training for module in model.modules()],
        "attributes": [sorted(vars(module)) for module in model.modules()],
        "random": (_bits(torch.get_rng_state()), random.getstate(), str(numpy.random.get_state())),
        "input": (_bits(x), x.requires_grad, x.grad),
        "modes": (torch.is_grad_enabled(), torch.backends.mha.get_fastpath_enabled()),
    }


def _differences(before, after):
    return [key for key in before if before[key] != after[key]]


def _lively(model, x, y):
    """Mixed training flags, gradients of an earlier loss, a frozen parameter."""
    F.cross_entropy(model(x), y).backward()
    for place, module in enumerate(model.modules()):
        module.training = place % 3 != 1
    next(model.parameters()).requires_grad_(False)


@over([*FEW, "gru", "points"])
def test_attribution_leaves_no_trace(name):
    model = make(name)
    x, y = inputs(name)
    _lively(model, x, y)
    rules = [rule for rule in CONSERVING.values() if not (name in NORM_FIRST and rule.first)]
    before = _trace(model, x)
    for rule in (*rules, RULES["attention-aware"]):
        relevance(model, x, y, rule)
        assert _differences(before, _trace(model, x)) == [], rule.name
    ledger(model, x, y, "lrp-0")
    assert _differences(before, _trace(model, x)) == []


@over(FEW)
def test_the_network_computes_bit_for_bit_what_it_did(name):
    model = make(name)
    x, y = inputs(name)
    logits = _bits(model(x))
    relevance(model, x, y, "epsilon-plus")
    assert _bits(model(x)) == logits


@over(FEW)
@pytest.mark.parametrize("error", [ArithmeticError, KeyboardInterrupt])
def test_an_error_or_interrupt_inside_the_network_leaves_no_trace(name, error):
    model = make(name)
    x, y = inputs(name)
    _lively(model, x, y)

    def stop(module, arguments):
        raise error("stopped")

    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    handle = last.register_forward_pre_hook(stop)
    before = _trace(model, x)
    for explain in (relevance, ledger):
        with pytest.raises(error, match="stopped"):
            explain(model, x, y, "epsilon-plus")
        assert _differences(before, _trace(model, x)) == []
    handle.remove()
    model.eval()
    expected = make(name)
    torch.testing.assert_close(
        relevance(model, x, y, "epsilon-plus"), relevance(expected, x, y, "epsilon-plus")
    )


@over(["cnn", "lstm", "encoder", "points", "mobilenetv3_small_100"])
def test_training_takes_the_same_course_with_attribution_in_between(name):
    weights = []
    for explained in (False, True):
        model = make(name).train()
        torch.manual_seed(0)  # for dropout
        optimiser = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
        x, y = inputs(name, n=4)
        for _ in range(3):
            if explained:
                relevance(model, x, y, "epsilon-plus")
            optimiser.zero_grad()
            F.cross_entropy(model(x), y).backward()
            if explained:
                relevance(model, x, y, "lrp-0")
            optimiser.step()
            if explained:
                ledger(model, x, y, "epsilon")
        weights.append({key: _bits(value) for key, value in model.state_dict().items()})
    untouched = {key: _bits(value) for key, value in make(name).state_dict().items()}
    assert weights[0] == weights[1]
    assert weights[0] != untouched


@over(["cnn", "lstm", "encoder"])
def test_an_optimiser_step_between_two_calls_is_seen_by_the_second(name):
    model = make(name)
    x, y = inputs(name)
    first = relevance(model, x, y, "epsilon-plus")
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    F.cross_entropy(model(x), y).backward()
    optimiser.step()
    stepped = make(name)
    stepped.load_state_dict(model.state_dict())
    second = relevance(model, x, y, "epsilon-plus")
    assert torch.equal(second, relevance(stepped, x, y, "epsilon-plus"))
    assert not torch.equal(second, first)


@over(ARCHITECTURES)
@pytest.mark.parametrize("rule", ["lrp-0", "epsilon-plus"])
def test_single_precision_gives_the_same_map(name, network, rule):
    found, expected = _in_both_precisions(name, network, CONSERVING[rule])
    assert torch.corrcoef(torch.stack([found.flatten(), expected.flatten()]))[0, 1] >= 0.999
    assert (found - expected).norm() <= 1e-4 * expected.norm()


OTHERS = ("epsilon", "epsilon-plus-flat", "gamma", "alpha2-beta1", "z-box")


@over([*FEW, "convnext_atto"])
@pytest.mark.parametrize("rule", OTHERS)
def test_single_precision_gives_the_same_map_under_other_rules(name, network, rule):
    found, expected = _in_both_precisions(name, network, _rule(name, rule))
    assert (found - expected).norm() <= 1e-3 * expected.norm()


def _in_both_precisions(name, network, rule):
    model, x, y, _ = network
    found = relevance(make(name, dtype=torch.float32), x.float(), y, rule)
    assert found.dtype == torch.float32
    return found.double(), relevance(model, x, y, rule)


@over([*FEW, "convnext_atto", "gru"])
@pytest.mark.parametrize("rule", ["lrp-0", "epsilon-plus"])
def test_autocast_changes_nothing(name, rule):
    model = make(name, dtype=torch.float32)
    x, y = inputs(name, dtype=torch.float32)
    expected = relevance(model, x, y, rule)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = relevance(model, x, y, rule)
        assert model(x).dtype == torch.bfloat16  # it is still on afterwards
    assert found.dtype == torch.float32
    assert _bits(found) == _bits(expected)


class Padded(nn.Module):
    """An encoder around the padding mask of one batch."""

    def __init__(self, encoder, mask):
        super().__init__()
        self.encoder, self.head = encoder.encoder, encoder.head
        self.register_buffer("mask", mask)

    def forward(self, x):
        return self.head(self.encoder(x, src_key_padding_mask=self.mask)[:, 0])


def _padded(rows):
    lengths = torch.tensor([7, 10, 4])[rows]
    return Padded(make("encoder"), torch.arange(10) >= lengths[:, None]).eval()


@pytest.mark.parametrize("rule", ["lrp-0", "epsilon", "attention-aware"])
def test_each_sample_has_its_own_padding(rule):
    x, y = inputs("encoder", n=3)
    together = relevance(_padded([0, 1, 2]), x, y, rule)
    for i, length in enumerate([7, 10, 4]):
        alone = relevance(_padded([i]), x[i : i + 1], y[i : i + 1], rule)[0]
        assert (together[i] - alone).norm() <= 1e-9 * alone.norm()
        assert (alone[length:] == 0).all()
        assert (alone[:length] != 0).any()


class Counting(Padded):
    """An encoder that hides one token more of each further sample of a batch."""

    def forward(self, x):
        self.mask = torch.arange(10) >= 9 - torch.arange(len(x))[:, None]
        return super().forward(x)


@pytest.mark.parametrize("kind", [Padded, Counting])
def test_a_ledger_explains_the_logits_of_the_batch_or_is_refused(kind):
    """A network need not treat a sample in a batch as it does the sample alone."""
    x, y = inputs("encoder", n=3)
    model = kind(make("encoder"), torch.arange(10) >= torch.tensor([7, 10, 4])[:, None]).eval()
    with torch.no_grad():
        logits = model(x).gather(1, y[:, None])[:, 0]
    with contextlib.suppress(ValueError, UnsupportedOperation):
        torch.testing.assert_close(ledger(model, x, y, "lrp-0").explained, logits)


def test_there_are_as_many_logits_as_classes():
    for name in ("cnn", "encoder", "points"):
        x, _ = inputs(name)
        assert make(name)(x).shape == (2, CLASSES)
