"""γ, z-box and α2β1 against zennit, on networks that its canonizers know.

zennit's stabilisers are absolute; tiny ones make it exact. ε, z⁺ and flat: test_references.
"""

from dataclasses import replace

import pytest
import torch
from architectures import make
from torch import nn
from torch.nn import functional as F
from zennit.canonizers import SequentialMergeBatchNorm
from zennit.composites import EpsilonAlpha2Beta1, EpsilonGammaBox
from zennit.torchvision import ResNetCanonizer, VGGCanonizer

from attrreg.attribution import RULES, Rule, relevance

TINY = 1e-12
LOW, HIGH = -3.0, 2.5
GAMMA_BOX = Rule("γ", convolution="gamma", first="z-box", low=LOW, high=HIGH, epsilon=TINY)
ALPHA_BETA = replace(RULES["alpha2-beta1"], epsilon=TINY)


def _strided():
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 5, stride=2, padding=2), nn.BatchNorm2d(6), nn.ReLU()),
        *(nn.Conv2d(6, 8, 3, groups=2, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 8, 3, padding=2, dilation=2), nn.ReLU(), nn.AdaptiveAvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(32, 5)),
    )


def _deep():
    layers = []
    for _ in range(4):
        layers += [nn.LazyConv2d(8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*layers, nn.MaxPool2d(4), nn.Flatten(), nn.LazyLinear(5))


def _lively(model, x):
    """The network with its shapes, and its norms' weights and statistics drawn at random."""
    model = model.double().eval()
    model(x)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.weight[::4].neg_()
                module.bias.normal_(0, 0.3)
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2)
    return model


REFERENCES = {
    "resnet18": (lambda x: make("torchvision-resnet18"), ResNetCanonizer, 64),
    "vgg11_bn": (lambda x: make("torchvision-vgg11_bn"), VGGCanonizer, 64),
    "cnn": (lambda x: make("cnn"), SequentialMergeBatchNorm, 28),
    "strided": (lambda x: _lively(_strided(), x), SequentialMergeBatchNorm, 20),
    "deep": (lambda x: _lively(_deep(), x), SequentialMergeBatchNorm, 12),
}


@pytest.fixture(scope="module", params=REFERENCES)
def reference(request):
    """A network, the canonizer that zennit needs for it, inputs and labels."""
    build, canonizer, size = REFERENCES[request.param]
    torch.manual_seed(7)
    x = torch.randn(2, 3, size, size, dtype=torch.float64).clamp(LOW, HIGH)
    model = build(x)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # zennit folds it, and then adds ε again
            module.running_var += module.eps
            module.eps = 0.0
    return model, canonizer, x, torch.tensor([0, 3])


def _by_zennit(composite, model, x, y):
    with composite.context(model) as prepared:
        leaf = x.clone().requires_grad_()
        logits = prepared(leaf)
        seed = logits.detach() * F.one_hot(y, logits.shape[1])
        return torch.autograd.grad(logits, leaf, seed)[0]


def assert_same_map(found, expected, tolerance):
    """Ask for a correlation of 1 in each image, for the same sum, and for the same scale."""
    for ours, theirs in zip(found.flatten(1), expected.flatten(1), strict=True):
        assert torch.corrcoef(torch.stack([ours, theirs]))[0, 1] > 0.999
        size = theirs.abs().sum()
        assert (ours.sum() - theirs.sum()).abs() <= tolerance * size
        assert (ours - theirs).abs().sum() <= tolerance * size


def test_gamma_and_z_box_agree_with_zennit(reference):
    model, canonizer, x, y = reference
    composite = EpsilonGammaBox(
        torch.full((1, 3, 1, 1), LOW, dtype=torch.float64),
        torch.full((1, 3, 1, 1), HIGH, dtype=torch.float64),
        *(TINY, 0.25, TINY),
        canonizers=[canonizer()],
    )
    assert_same_map(
        relevance(model, x, y, GAMMA_BOX), _by_zennit(composite, model, x, y), tolerance=1e-6
    )


def test_alpha_beta_agrees_with_zennit(reference, request):
    """A unit with contributions of one sign only gives them α = 2 in zennit, and 1 here.

    The grouped convolutions of two networks have such units.
    """
    model, canonizer, x, y = reference
    grouped = any(getattr(module, "groups", 1) > 1 for module in model.modules())
    composite = EpsilonAlpha2Beta1(epsilon=TINY, stabilizer=TINY, canonizers=[canonizer()])
    found = relevance(model, x, y, ALPHA_BETA)
    expected = _by_zennit(composite, model, x, y)
    assert_same_map(found, expected, tolerance=0.02 if grouped else 1e-6)
