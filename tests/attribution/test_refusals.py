"""What has no rule is refused by name; nothing falls through in silence."""

import pytest
import torch
from networks import LAYERWISE, Apply, logits_of
from torch import nn
from torch.nn import functional as F

from attrreg.attribution import RULES, Rule, UnsupportedOperation, relevance


class Gated(nn.Module):
    """A product of two tensors that both depend on the input."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return self.left(x) * self.right(x)


class Batchwise(nn.Module):
    """A batch norm that takes statistics of the batch in every mode."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(4, track_running_stats=False)

    def forward(self, x):
        return self.norm(x)


def around(middle):
    """A network with `middle` as its module '2'."""
    torch.manual_seed(0)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)]
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), middle, *head).double()


def batch():
    """Two images and their labels."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 1, 6, 6, generator=generator, dtype=torch.float64)
    return x, torch.tensor([0, 2])


# By what must be found in the message: the operation, and the module that calls it.
REFUSED = {
    "softmax.*'2'": nn.Softmax(1),
    "mul.*'2'": Gated(),
    "batch_norm.*'2.norm'": Batchwise(),
    "cumsum.*'2.1'": nn.Sequential(nn.Identity(), Apply(lambda net, x: torch.cumsum(x, 1))),
    "topk.*'2'": Apply(lambda net, x: x.topk(4, 1)[0]),
    "local_response_norm.*'2'|div.*'2'": nn.LocalResponseNorm(2),
    "conv_transpose2d.*'2'": nn.ConvTranspose2d(4, 4, 1),
    "max_pool2d.*'2'": Apply(lambda net, x: F.max_pool2d(x, 2, return_indices=True)[0]),
    "div.*'2'": Apply(lambda net, x: torch.div(x, 0.1, rounding_mode="floor")),
    "div.*'2'  ": Apply(lambda net, x: x / x.sum()),
    "exp.*'2'": Apply(lambda net, x: x.exp()),
    "detach.*'2'": Apply(lambda net, x: x * x.detach()),
    "linear.*'2'": Apply(lambda net, x: F.linear(x, x[0, 0])),
    "conv2d.*'2'": Apply(lambda net, x: F.conv2d(x, x[:1, :, :1, :1].expand(4, -1, -1, -1))),
    "dropout.*'2'": Apply(lambda net, x: F.dropout(x, 0.5, training=True)),
}


@pytest.mark.parametrize("message", REFUSED)
@pytest.mark.parametrize("rule", ["lrp-0", "epsilon-plus-flat"])
def test_refused_by_operation_and_module(rule, message):
    x, y = batch()
    with pytest.raises(UnsupportedOperation, match=message.strip()) as caught:
        relevance(around(REFUSED[message]), x, y, rule)
    assert "gradient-x-input" in str(caught.value)  # what works instead


@pytest.mark.parametrize("message", [key for key in REFUSED if "detach" not in key])
def test_gradients_of_these_models_are_explained(message):
    x, y = batch()
    model = around(REFUSED[message]).eval()
    leaf = x.clone().requires_grad_()
    torch.manual_seed(1)
    expected = torch.autograd.grad(model(leaf)[range(2), y].sum(), leaf)[0]
    torch.manual_seed(1)
    torch.testing.assert_close(relevance(model, x, y, "gradient"), expected)
    torch.manual_seed(1)
    torch.testing.assert_close(relevance(model, x, y, "gradient-x-input"), expected * x)


def test_the_outermost_model_is_named_where_no_module_is_inside():
    x, y = batch()
    with pytest.raises(UnsupportedOperation, match=r"cumsum.*Apply"):
        relevance(Apply(lambda net, x: torch.cumsum(x, 1).flatten(1)), x, y)


def test_dropout_and_identity_are_no_obstacle_in_evaluation_mode():
    x, y = batch()
    quiet = nn.Sequential(nn.Dropout(0.5), nn.Identity(), nn.Dropout2d(0.5))
    model = around(quiet).train()
    expected = relevance(around(nn.Identity()), x, y)
    torch.testing.assert_close(relevance(model, x, y), expected)


class Hidden(torch.autograd.Function):
    """Out of sight of the interception: x²/2 with a gradient of its own."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.mul(x, 0.5) * 1.0

    @staticmethod
    def backward(ctx, gradient):
        return 3 * gradient


class Relu(Hidden):
    """The same, under a name that autograd uses for something else."""


class Clone(Hidden):
    """The same, under another such name."""


HIDING_PLACES = {
    "after a convolution": lambda net, x: net.head(F.relu(net.hide(net.conv(x))).mean((2, 3))),
    "after a ReLU": lambda net, x: net.head(net.hide(F.relu(net.conv(x))).mean((2, 3))),
    "at the end": lambda net, x: net.hide(net.head(F.relu(net.conv(x)).mean((2, 3)))),
    "on a branch": lambda net, x: net.head(_joined(net, F.relu(net.conv(x))).mean((2, 3))),
    "on a branch of a convolution": lambda net, x: net.head(_joined(net, net.conv(x)).mean((2, 3))),
    "as a gate": lambda net, x: net.head(_gated(net, F.relu(net.conv(x))).mean((2, 3))),
}


def _joined(net, h):
    joined = torch.cat([F.relu(h), net.hide(h)], 1)
    return joined[:, :4] + joined[:, 4:]


def _gated(net, h):
    return h * net.hide(h)


class Hiding(Apply):
    """A network that calls a function the interception cannot look into."""

    def __init__(self, function, hidden):
        super().__init__(function, conv=nn.Conv2d(1, 4, 3), head=nn.Linear(4, 4))
        self.hide = hidden


@pytest.mark.parametrize("place", HIDING_PLACES)
@pytest.mark.parametrize("function", [Hidden, Relu, Clone])
def test_custom_functions_do_not_pass_unseen(function, place):
    x, y = batch()
    model = Hiding(HIDING_PLACES[place], function.apply)
    with pytest.raises(UnsupportedOperation):
        relevance(model, x, y, "epsilon-plus")


def test_a_custom_function_is_named():
    x, y = batch()
    model = Hiding(HIDING_PLACES["after a ReLU"], Hidden.apply)
    with pytest.raises(UnsupportedOperation, match="Hidden"):
        relevance(model, x, y, "epsilon-plus")


def _square(x):
    return x * x


def _sigmoid(x):
    return torch.sigmoid(x)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("place", HIDING_PLACES)
@pytest.mark.parametrize("function", [_square, _sigmoid])
def test_scripted_functions_do_not_pass_unseen(function, place):
    x, y = batch()
    model = Hiding(HIDING_PLACES[place], torch.jit.script(function))
    with pytest.raises(UnsupportedOperation):
        relevance(model, x, y, "epsilon-plus")


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_scripted_operation_is_named_and_not_the_innocent_layer_after_it():
    x, y = batch()
    model = Hiding(HIDING_PLACES["after a ReLU"], torch.jit.script(_sigmoid))
    with pytest.raises(UnsupportedOperation, match=r"(?i)sigmoid"):
        relevance(model, x, y, "epsilon-plus")


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("rule", ["gradient", "gradient-x-input"])
def test_gradients_see_through_scripted_functions(rule):
    x, y = batch()
    place = HIDING_PLACES["as a gate"]
    scripted, plain = Hiding(place, torch.jit.script(_sigmoid)), Hiding(place, _sigmoid)
    plain.load_state_dict(scripted.state_dict())
    torch.testing.assert_close(relevance(scripted, x, y, rule), relevance(plain, x, y, rule))


def test_a_model_that_ignores_its_input_is_refused():
    x, y = batch()
    constant = Apply(lambda net, x: net.head.bias.expand(len(x), -1), head=nn.Linear(2, 3))
    with pytest.raises(UnsupportedOperation, match="input"):
        relevance(constant, x, y, "epsilon")


@pytest.mark.parametrize("rule", ["gradient", "epsilon"])
@pytest.mark.parametrize(
    "target",
    [
        torch.zeros(3, dtype=torch.int64),
        torch.zeros(2, 1, dtype=torch.int64),
        torch.zeros(2, 3, dtype=torch.int64),
        torch.zeros(2),
        torch.zeros(3),
        torch.zeros(2, 4),
        torch.zeros(2, dtype=torch.int32),
        torch.zeros(2, dtype=torch.bool),
        torch.tensor([0, 3]),
        torch.tensor([-1, 0]),
        lambda logits: logits[:, 0],
    ],
    ids=lambda target: str(target) if isinstance(target, torch.Tensor) else "function",
)
def test_a_target_that_does_not_fit_is_refused_with_what_would(target, rule):
    x, _ = batch()
    with pytest.raises(ValueError, match=r"target .*class"):
        relevance(around(nn.Identity()), x, target, rule)


@pytest.mark.parametrize("rule", RULES)
def test_names_that_do_not_exist_are_refused_with_those_that_do(rule):
    x, y = batch()
    model = around(nn.Identity())
    with pytest.raises(ValueError, match=f"'lrp'.*{rule}"):
        relevance(model, x, y, "lrp")
    with pytest.raises(ValueError, match=r"'softmax'.*logit.*log-probability"):
        relevance(model, x, y, rule, output="softmax")


@pytest.mark.parametrize("rule", [*LAYERWISE[2:], "z-box", "attention-aware"])
def test_a_graph_of_a_layerwise_map_is_refused_with_what_has_one(rule):
    x, y = batch()
    with pytest.raises(ValueError, match=rf"create_graph.*{rule}.*gradient"):
        relevance(around(nn.Identity()), x, y, rule, create_graph=True)


@pytest.mark.parametrize("rule", ["gradient", "epsilon"])
@pytest.mark.parametrize(
    "forward", [lambda net, x: x, lambda net, x: (x.flatten(1), x), lambda net, x: x.flatten(0, 1)]
)
def test_models_without_logits_are_refused(forward, rule):
    x, y = batch()
    model = Apply(forward)
    with pytest.raises(ValueError, match=r"\(n, classes\)"):
        relevance(model, torch.cat([x, x], 1), y, rule)


def test_a_rule_of_ones_own_is_as_good_as_a_name():
    x, y = batch()
    model = around(nn.Identity())
    own = Rule("own", convolution="plus", first="flat")
    assert torch.equal(relevance(model, x, y, own), relevance(model, x, y, "epsilon-plus-flat"))
    assert torch.equal(relevance(model, x, y), relevance(model, x, y, "epsilon-plus-flat"))
    assert not torch.equal(relevance(model, x, y, own), logits_of(model, x)[:, :1, None, None])


@pytest.mark.parametrize("rule", ["lrp-0", "epsilon-plus-flat", "attention-aware"])
def test_layerwise_rules_say_that_they_do_not_run_inside_vmap(rule):
    x, y = batch()
    model = around(nn.Identity())
    with pytest.raises(ValueError, match=rf"{rule}.*torch\.func.*gradient"):
        torch.func.vmap(lambda each: relevance(model, each, y, rule))(torch.stack([x, x]))
