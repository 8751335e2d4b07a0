"""The engine against autograd, finite differences, and zennit where zennit is right.

zennit's canonizers know torchvision's networks, not timm's. Its stabilisers are absolute, or any
function of a layer's output.
"""

from dataclasses import replace

import pytest
import torch
import torchvision
from networks import EVERY
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F
from zennit.canonizers import SequentialMergeBatchNorm
from zennit.composites import EpsilonPlus, EpsilonPlusFlat, LayerMapComposite, layer_map_base
from zennit.rules import Epsilon
from zennit.torchvision import ResNetCanonizer, VGGCanonizer

from attrreg.attribution import RULES, relevance

TINY = 1e-12


@pytest.mark.parametrize("name", ["resnet10-narrow", "resnet18", "vgg", "small", "plain"])
def test_lrp_0_is_gradient_times_input(name, make_model, make_batch):
    model = make_model(name)
    x, y = make_batch(name)
    expected = relevance(model, x, y, "gradient-x-input")
    torch.testing.assert_close(relevance(model, x, y, "lrp-0"), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("output", ["logit", "log-probability"])
def test_gradient_is_what_autograd_says(output, make_model, make_batch):
    model = make_model("vgg")
    x, y = make_batch("vgg")
    leaf = x.clone().requires_grad_()
    logits = model.eval()(leaf)
    explained = logits if output == "logit" else logits.log_softmax(1)
    expected = torch.autograd.grad(explained[range(3), y].sum(), leaf)[0]
    found = relevance(model, x, y, "gradient", output)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(relevance(model, x, y, "gradient-x-input", output), expected * x)


def test_weighted_log_probabilities_have_the_gradient_of_their_sum(make_model, make_batch):
    model = make_model("vgg")
    x, _ = make_batch("vgg")
    weights = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    expected = relevance(model, x, weights, "gradient-x-input", "log-probability")
    found = relevance(model, x, weights, "lrp-0", "log-probability")
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


def _norms_with_statistics(model):
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            with torch.no_grad():
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 2)
    return model.double().eval()


def _sequential():
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(8 * 9, 16), nn.ReLU(), nn.Linear(16, 5)),
    )


def _vgg():
    model = torchvision.models.vgg11_bn(num_classes=5)
    model.avgpool, model.classifier = nn.Identity(), nn.Linear(512, 5)  # the rest is 10⁸ weights
    return model


REFERENCES = {
    "resnet18": (lambda: torchvision.models.resnet18(num_classes=5), ResNetCanonizer, 64),
    "vgg11_bn": (_vgg, VGGCanonizer, 32),
    "sequential": (_sequential, SequentialMergeBatchNorm, 32),
}


@pytest.fixture(scope="module", params=REFERENCES)
def reference(request):
    """A network, the canonizer that zennit needs for it, inputs and labels."""
    torch.manual_seed(1)
    build, canonizer, size = REFERENCES[request.param]
    model = _norms_with_statistics(build())
    x = torch.randn(2, 3, size, size, dtype=torch.float64)
    return model, canonizer, x, torch.tensor([0, 3])


def _epsilon(stabiliser, canonizer):
    layers = [(nn.Conv2d, Epsilon(stabiliser)), (nn.Linear, Epsilon(stabiliser))]
    return LayerMapComposite(layers + layer_map_base(TINY), canonizers=[canonizer()])


def _by_zennit(composite, model, x, y):
    with composite.context(model) as prepared:
        leaf = x.clone().requires_grad_()
        logits = prepared(leaf)
        seed = logits.detach() * F.one_hot(y, logits.shape[1])
        return torch.autograd.grad(logits, leaf, seed)[0]


def assert_same_map(found, expected):
    """Ask for a correlation of 1 in each image, and for the same scale."""
    for ours, theirs in zip(found.flatten(1), expected.flatten(1), strict=True):
        assert torch.corrcoef(torch.stack([ours, theirs]))[0, 1] > 0.99999
    assert (found - expected).norm() < 1e-3 * expected.norm()


def test_epsilon_agrees_with_zennit(reference):
    model, canonizer, x, y = reference
    found = relevance(model, x, y, replace(RULES["epsilon"], epsilon=TINY))
    assert_same_map(found, _by_zennit(_epsilon(TINY, canonizer), model, x, y))


def test_a_relative_stabiliser_agrees_with_zennit(reference):
    model, canonizer, x, y = reference

    def stabilise(z):
        scale = z.abs().flatten(1).mean(1).view(-1, *[1] * (z.ndim - 1))
        return z + 0.05 * scale * torch.where(z < 0, -1, 1)

    found = relevance(model, x, y, replace(RULES["epsilon"], epsilon=0.05))
    expected = _by_zennit(_epsilon(stabilise, canonizer), model, x, y)
    assert_same_map(found, expected)
    without = relevance(model, x, y, "lrp-0")
    assert (found - without).norm() > 0.01 * without.norm()


@pytest.mark.parametrize(
    ("rule", "composite"), [("epsilon-plus", EpsilonPlus), ("epsilon-plus-flat", EpsilonPlusFlat)]
)
def test_plus_and_flat_agree_with_zennit(rule, composite, reference):
    model, canonizer, x, y = reference
    prepared = composite(epsilon=TINY, stabilizer=TINY, canonizers=[canonizer()])
    found = relevance(model, x, y, replace(RULES[rule], epsilon=TINY))
    assert_same_map(found, _by_zennit(prepared, model, x, y))


@pytest.mark.parametrize("output", ["logit", "log-probability"])
@pytest.mark.parametrize("rule", ["gradient", "gradient-x-input"])
def test_a_loss_on_a_map_has_the_right_parameter_gradients(rule, output):
    torch.manual_seed(2)
    layers = [nn.Conv2d(1, 3, 3), nn.Softplus(), nn.Conv2d(3, 3, 3), nn.Tanh(), nn.Flatten()]
    model = nn.Sequential(*layers, nn.Linear(12, 4)).double()
    x, y = torch.randn(3, 1, 6, 6, dtype=torch.float64), torch.tensor([0, 1, 3])

    def loss(parameters):
        def with_parameters(batch):
            return functional_call(model, parameters, batch)

        wrapped = _Wrapped(with_parameters)
        return relevance(wrapped, x, y, rule, output, create_graph=True).abs().pow(1.5).sum()

    parameters = {name: value.detach() for name, value in model.named_parameters()}
    leaves = {name: value.clone().requires_grad_() for name, value in parameters.items()}
    gradients = torch.autograd.grad(loss(leaves), list(leaves.values()), allow_unused=True)
    for (name, value), gradient in zip(parameters.items(), gradients, strict=True):
        direction, step = torch.randn_like(value), 1e-5
        ahead = loss(parameters | {name: value + step * direction})
        behind = loss(parameters | {name: value - step * direction})
        slope = ((ahead - behind) / (2 * step)).item()
        along = 0.0 if gradient is None else (gradient * direction).sum().item()
        assert along == pytest.approx(slope, rel=1e-5, abs=1e-6), name


class _Wrapped(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize("rule", EVERY)
def test_a_map_carries_no_graph_unless_asked(rule, make_model, make_batch):
    x, y = make_batch("small")
    leaf = x.requires_grad_()
    assert not relevance(make_model("small"), leaf, y, rule).requires_grad
    assert leaf.grad is None


def test_a_map_with_a_graph_reaches_the_input_too(make_batch):
    model = nn.Sequential(nn.Flatten(), nn.Linear(128, 4), nn.Tanh(), nn.Linear(4, 4)).double()
    x, y = make_batch("small")
    leaf = x.requires_grad_()
    map_ = relevance(model, leaf, y, "gradient", create_graph=True)
    assert torch.autograd.grad(map_.square().sum(), leaf)[0].abs().sum() > 0
