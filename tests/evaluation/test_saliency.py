"""Saliency maps against captum and against what is known of linear models."""

import copy

import captum.attr
import numpy as np
import pytest
import torch
from torch import nn

from attrreg.attribution import relevance
from attrreg.evaluation.faithfulness import accuracy_drop
from attrreg.evaluation.saliency import SALIENCIES, saliency


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def not_in_place(model):
    """What captum asks for."""
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    return model.eval()


def some(name, make_model, make_batch):
    """Return a model, inputs, classes and background samples."""
    return make_model(name), *make_batch(name, n=5), make_batch(name, n=4, seed=1)[0]


@pytest.mark.filterwarnings("ignore:Setting", "ignore:Input Tensor")
@pytest.mark.parametrize("name", ["deeplift", "deep-shap"])
def test_deeplift_is_that_of_captum(name, make_model, make_batch):
    model, x, y, background = some("small", make_model, make_batch)
    found = saliency(name, model, x, y, background=background, batch_size=2)
    reference = not_in_place(copy.deepcopy(model))
    if name == "deeplift":
        expected = captum.attr.DeepLift(reference).attribute(x, target=y)
    else:
        expected = captum.attr.DeepLiftShap(reference).attribute(x, background, target=y)
    torch.testing.assert_close(found, expected.detach().sum(1).abs(), rtol=1e-6, atol=1e-9)


@pytest.mark.filterwarnings("ignore:Input Tensor")
@pytest.mark.parametrize("name", ["gradient", "integrated-gradients"])
def test_the_others_without_draws_are_those_of_captum(name, make_model, make_batch):
    model, x, y, _ = some("small", make_model, make_batch)
    found = saliency(name, model, x, y, batch_size=2)
    reference = not_in_place(copy.deepcopy(model))
    if name == "gradient":
        expected = captum.attr.Saliency(reference).attribute(x, target=y).sum(1)
    else:
        method = captum.attr.IntegratedGradients(reference)
        expected = method.attribute(x, target=y, n_steps=200).sum(1).abs()
    torch.testing.assert_close(found, expected.detach(), rtol=0.02, atol=1e-3)


def test_those_with_draws_come_near_to_captums(make_model, make_batch):
    model, x, y, background = some("small", make_model, make_batch)
    reference = not_in_place(copy.deepcopy(model))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        np.random.seed(0)
        shap = captum.attr.GradientShap(reference)
        wanted = {
            "gradient-shap": shap.attribute(x, background, n_samples=600, target=y).sum(1).abs(),
        }
    squared = [
        relevance(model, x + 0.15 * extent(x) * torch.randn_like(x), y, "gradient").square()
        for _ in range(600)
    ]
    wanted["smoothgrad-squared"] = torch.stack(squared).mean(0).sum(1)
    for name, expected in wanted.items():
        found = saliency(name, model, x, y, background=background, samples=600)
        gap = (found - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)
        assert gap.max() < 0.15


def extent(x):
    flat = x.flatten(1)
    return (flat.amax(1) - flat.amin(1)).view(-1, 1, 1, 1)


def test_maps_of_a_linear_model_by_hand():
    weights = torch.tensor([[1.0, -2.0, 3.0, -4.0], [0.0, 1.0, 0.0, 1.0]])
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
    model[1].weight.data = weights
    x = torch.tensor([[[[1.0, 2.0]], [[-1.0, 0.5]]], [[[0.0, 1.0]], [[1.0, 1.0]]]])
    y = torch.tensor([0, 1])
    background = torch.ones(1, 2, 1, 2)
    gradient = weights[y].view_as(x)
    expected = {
        "gradient": gradient.abs().sum(1),
        "smoothgrad-squared": gradient.square().sum(1),
        "integrated-gradients": (x * gradient).sum(1).abs(),
        "deeplift": (x * gradient).sum(1).abs(),
        "gradient-shap": ((x - 1) * gradient).sum(1).abs(),
        "deep-shap": ((x - 1) * gradient).sum(1).abs(),
    }
    assert {*expected, "random"} == set(SALIENCIES)
    for name, wanted in expected.items():
        found = saliency(name, model, x, y, background=background)
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SALIENCIES)
def test_every_map_goes_into_the_protocol_and_leaves_no_trace(name, make_model, make_batch):
    model, x, y, background = some("small", make_model, make_batch)
    model.train()
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    numbers = np.random.get_state()[1].copy()
    found = saliency(name, model, x, y, background=background, generator=generator(3))
    assert found.shape == (5, 8, 8)
    assert (found >= 0).all()
    assert found.isfinite().all()
    assert not found.requires_grad
    assert all(module.training for module in model.modules())
    assert all(map(torch.equal, before.values(), model.state_dict().values()))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())
    assert torch.equal(torch.get_rng_state(), random)
    assert (np.random.get_state()[1] == numbers).all()
    drop = accuracy_drop(model, x, y, {name: found})[name]
    assert drop.accuracy.shape == (10,)


@pytest.mark.parametrize("name", ["smoothgrad-squared", "gradient-shap", "random"])
def test_draws_are_those_of_the_generator_whatever_the_batch(name, make_model, make_batch):
    model, x, y, background = some("small", make_model, make_batch)
    first, again, other = (
        saliency(
            name, model, x, y, background=background, generator=generator(seed), batch_size=size
        )
        for seed, size in ((1, 2), (1, 5), (2, 5))
    )
    torch.testing.assert_close(first, again)
    assert not torch.allclose(first, other)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("deepshap", {}, "unknown saliency 'deepshap': known are gradient, "),
        ("deep-shap", {}, "saliency 'deep-shap' needs background samples, found none"),
        ("gradient-shap", {"background": torch.zeros(0, 1, 4, 4)}, r"background has shape \(0, "),
        ("deep-shap", {"background": torch.zeros(2, 4, 4)}, r"background has shape \(2, 4, 4\)"),
        ("smoothgrad-squared", {"samples": 0}, "samples is 0"),
    ],
)
def test_wrong_input_is_named(name, options, message):
    x, y = torch.zeros(2, 1, 4, 4), torch.tensor([0, 1])
    with pytest.raises(ValueError, match=message):
        saliency(name, nn.Identity(), x, y, **options)
