"""DeepLIFT against captum, by hand, and by what its map adds up to."""

import copy

import captum.attr
import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from attrreg.attribution import UnsupportedOperation
from attrreg.evaluation.deeplift import deeplift


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def adds_up(model, x, y, baseline):
    """Check that maps sum up to the difference of the logits."""
    found = deeplift(model, x, y, baseline)
    model = copy.deepcopy(model).eval()
    with torch.no_grad():
        logits, start = model(x.clone()), model(baseline.expand_as(x).clone())
    wanted = (logits - start).gather(1, y.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(found.flatten(1).sum(1), wanted, rtol=1e-4, atol=1e-6)
    return found


@pytest.mark.filterwarnings("ignore:Setting", "ignore:Input Tensor")
@pytest.mark.parametrize("act", [nn.ReLU, nn.LeakyReLU, nn.ELU, nn.Tanh, nn.Sigmoid, nn.Softplus])
def test_maps_are_those_of_captum(act):
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), act(), nn.Dropout(0.5)),
        *(nn.Conv2d(4, 4, 3, stride=2), act(), nn.AdaptiveAvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(16, 8), act(), nn.Linear(8, 3)),
    ).double()
    model[1].running_mean.normal_()
    x = torch.randn((5, 2, 7, 7), generator=generator(), dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 0, 1])
    for baseline in (torch.zeros_like(x[:1]), x[:1] + 0.5, x.roll(1, 0)):
        found = adds_up(model, x, y, baseline)
        reference = captum.attr.DeepLift(copy.deepcopy(model).eval())
        expected = reference.attribute(x, baseline, target=y).detach()
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-10)


@pytest.mark.filterwarnings("ignore:Setting", "ignore:Input Tensor")
def test_a_first_pool_without_overlap_is_that_of_captum():
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.MaxPool2d(2), nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    ).double()
    x = torch.randn((5, 2, 8, 8), generator=generator(), dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 0, 1])
    baseline = torch.randn((1, 2, 8, 8), generator=generator(1), dtype=torch.float64)
    expected = captum.attr.DeepLift(model).attribute(x, baseline, target=y).detach()
    torch.testing.assert_close(adds_up(model, x, y, baseline), expected, rtol=1e-6, atol=1e-10)


def test_by_hand():
    """One unit that is off at the baseline, and one that is off at the input."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2, bias=False))
    model[0].weight.data = torch.tensor([[1.0, 1.0], [-1.0, 0.0]])
    model[2].weight.data = torch.tensor([[1.0, 10.0], [0.0, 1.0]])
    x, baseline = torch.tensor([[3.0, 1.0]]), torch.tensor([[-2.0, 0.0]])
    # z: 4 from −2, so 4/6; −3 from 2, so 2/5
    expected = torch.tensor([[5 * 4 / 6 - 10 * 5 * 2 / 5, 4 / 6]])
    found = deeplift(model, x, torch.tensor([0]), baseline)
    torch.testing.assert_close(found, expected)


def test_a_pool_gives_to_the_winner_of_the_larger_one_by_hand():
    class Pooled(nn.Module):
        def forward(self, x):
            pooled = F.max_pool1d(x, 3, 1)  # windows that overlap
            return torch.cat([pooled.sum(2), -pooled.sum(2)], 1)

    x = torch.tensor([[[0.0, 9.0, 1.0, 0.0]], [[0.0, 0.0, 1.0, 0.0]]])
    baseline = torch.tensor([[[5.0, 1.0, 0.0, 2.0]]])
    found = deeplift(Pooled(), x, torch.tensor([0, 0]), baseline)
    # 9 against 5 and 9 against 2, both to the 9; 1 against 5 and 1 against 2 to the 5 and the 2
    expected = torch.tensor([[[0.0, 11, 0, 0]], [[-4.0, 0, 0, -1]]])
    torch.testing.assert_close(found, expected)


class Functional(nn.Module):
    """Nonlinearities that no hook can see, in place and used twice."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(16, 3)
        self.twice = nn.ReLU(inplace=True)

    def forward(self, x):
        x -= 0.3
        x = F.max_pool2d(self.twice(self.first(x)), 3, 2, 1)
        x = F.relu_(x - 0.1) + F.gelu(x) + torch.tanh(x) + x.clamp(min=0.2)
        return self.last(F.adaptive_max_pool2d(self.twice(x - 0.2), 2).flatten(1))


def test_functions_are_seen_and_modules_may_be_used_twice():
    x, y = torch.randn((4, 1, 8, 8), generator=generator()), torch.tensor([0, 1, 2, 0])
    adds_up(Functional(), x, y, torch.zeros_like(x[:1]))
    adds_up(Functional(), x, y, x.roll(1, 0))


@pytest.mark.parametrize("name", ["resnet10-narrow", "resnet18", "vgg", "small", "plain"])
def test_maps_of_common_networks_add_up(name, make_model, make_batch):
    model, (x, y) = make_model(name), make_batch(name)
    adds_up(model, x, y, torch.zeros_like(x[:1]))


@pytest.mark.parametrize("build", [torchvision.models.resnet18, torchvision.models.vgg11_bn])
def test_maps_of_torchvisions_networks_add_up(build):
    torch.manual_seed(0)
    with torch.device("meta"):
        model = build(num_classes=3)
    if hasattr(model, "classifier"):  # a head of 10⁸ weights
        model.avgpool, model.classifier = nn.Identity(), nn.Linear(512, 3)
    model = model.to_empty(device="cpu").double()
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    x = torch.randn((2, 3, 32, 32), generator=generator(), dtype=torch.float64)
    adds_up(model, x, torch.tensor([0, 2]), torch.zeros_like(x[:1]))


@pytest.mark.parametrize(
    ("name", "options"), [("vit_tiny_patch16_224", {"img_size": 32}), ("convnext_atto", {})]
)
def test_a_map_that_does_not_add_up_is_refused(name, options):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3, **options)
    x = torch.randn((2, 3, 32, 32), generator=generator())
    with pytest.raises(UnsupportedOperation, match="misses the difference of the logits"):
        deeplift(model, x, torch.tensor([0, 2]), torch.zeros_like(x[:1]))


def test_no_trace_is_left(make_model, make_batch):
    model, (x, y) = make_model("vgg").train(), make_batch("vgg")
    before, random, kept = copy.deepcopy(model.state_dict()), torch.get_rng_state(), x.clone()
    assert not deeplift(model, x, y, x[:1]).requires_grad
    assert not x.requires_grad
    assert torch.equal(x, kept)
    assert all(module.training for module in model.modules())
    assert all(map(torch.equal, before.values(), model.state_dict().values()))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)


def test_the_baseline_itself_has_no_relevance(make_model, make_batch):
    model, (x, y) = make_model("vgg"), make_batch("vgg")
    assert not deeplift(model, x, y, x).any()
