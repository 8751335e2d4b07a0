"""Sparseness, sensitivity and smoothness of maps, against captum and known cases."""

import copy
import math

import captum.metrics
import numpy as np
import pytest
import torch
from torch import nn

from attrreg.attribution import Rule, relevance
from attrreg.attribution.parts import LRP, Gradient, GradientTimesInput
from attrreg.evaluation.map_quality import gini, gradient_cosine, hoyer, max_sensitivity
from attrreg.state import State

NO_STATE = State()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def lorenz(values):
    """Return the Gini index as twice the area between the Lorenz curve and equality."""
    sizes = np.sort(np.abs(values))
    curve = np.concatenate([[0], np.cumsum(sizes) / sizes.sum()])
    return 1 - 2 * np.trapezoid(curve, dx=1 / len(sizes))


def of(part, model, y, state=NO_STATE):
    """Return the maps of a part as a function of the inputs alone."""
    return lambda x: part(model, x, y, state)


def test_sparseness_is_that_of_its_definitions():
    maps = torch.randn((6, 5, 7), generator=generator())
    maps[1] = maps[1] ** 5
    flat = maps.flatten(1).double().numpy()
    np.testing.assert_allclose(gini(maps), [lorenz(each) for each in flat], atol=1e-12)
    ratio = np.abs(flat).sum(1) / np.sqrt((flat**2).sum(1))
    np.testing.assert_allclose(hoyer(maps), (35**0.5 - ratio) / (35**0.5 - 1), atol=1e-12)
    assert gini(maps)[1] > gini(maps)[0]


def test_sparseness_of_known_maps():
    d = 16
    one = torch.zeros(d)
    one[3] = -2.0
    half = torch.arange(d) % 2 * 3.0
    maps = torch.stack([torch.ones(d), one, half, torch.zeros(d)]).view(4, 4, 4)
    np.testing.assert_allclose(gini(maps), [0, 1 - 1 / d, 0.5, math.nan], atol=1e-15)
    between = (4 - math.sqrt(8)) / 3
    np.testing.assert_allclose(hoyer(maps), [0, 1, between, math.nan], atol=1e-15)


@pytest.mark.parametrize("score", [gini, hoyer])
@pytest.mark.parametrize("scale", [-3.0, 1e-30, 1e30])
def test_the_scale_and_sign_of_a_map_do_not_matter(score, scale):
    maps = torch.randn((4, 3, 3), generator=generator(), dtype=torch.float64)
    torch.testing.assert_close(score(scale * maps), score(maps))
    assert score(maps.half()).dtype == torch.float64


def test_with_a_single_feature_hoyers_sparseness_is_not_defined():
    assert hoyer(torch.ones(2, 1)).isnan().all()
    assert gini(torch.ones(2, 1)).tolist() == [0, 0]


def test_sensitivity_is_that_of_captum(make_model, make_batch):
    """With the same perturbations."""
    model, (x, y) = make_model("small"), make_batch("small", n=4)
    random = generator(7)
    deltas = [2 * torch.rand(x.shape, generator=random, dtype=x.dtype) - 1 for _ in range(3)]

    def perturb(inputs, radius):
        """Captum repeats every sample three times."""
        return inputs + radius * torch.stack(deltas, 1).flatten(0, 1)

    def explain(inputs, target):
        """Captum gives a tensor, or a tuple of one, and takes a tuple."""
        (inputs,) = inputs if isinstance(inputs, tuple) else (inputs,)
        return (relevance(model, inputs, target, "gradient").sum(1),)

    expected = captum.metrics.sensitivity_max(
        explain, x, perturb, perturb_radius=0.1, n_perturb_samples=3, target=y
    )
    found = max_sensitivity(of(Gradient(), model, y), x, 0.1, 3, generator=generator(7))
    torch.testing.assert_close(found, expected.double(), rtol=1e-6, atol=1e-9)


def test_the_gradient_of_a_linear_model_is_not_sensitive_and_its_product_is():
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, 3)).double()
    x = torch.randn((5, 2, 2, 2), generator=generator(), dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 0, 1])
    assert max_sensitivity(of(Gradient(), model, y), x, 0.5).tolist() == pytest.approx([0] * 5)
    few, many = (
        max_sensitivity(of(GradientTimesInput(), model, y), x, 0.5, draws) for draws in (1, 20)
    )
    assert (few > 0).all()
    assert (many >= few).all()
    assert (many > few).any()
    doubled = max_sensitivity(of(GradientTimesInput(), model, y), x, 1.0, 20)
    torch.testing.assert_close(doubled, 2 * many)


def test_the_sensitivity_of_a_map_of_zeros_is_not_defined():
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, 3))
    x = torch.zeros(2, 2, 2, 2)
    found = max_sensitivity(of(GradientTimesInput(), model, torch.tensor([0, 1])), x, 0.1)
    assert found.isnan().all()


def test_the_state_reaches_the_part_and_the_model_is_left_as_it_was(make_model, make_batch):
    model, (x, y) = make_model("small").train(), make_batch("small")
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    state = State(bounds=((-5.0, -5.0), (5.0, 5.0)))
    found = max_sensitivity(of(LRP(rule="z-box"), model, y, state), x, 0.1, 2)
    gradient_cosine(model, x, y)
    assert found.isfinite().all()
    assert all(module.training for module in model.modules())
    assert all(map(torch.equal, before.values(), model.state_dict().values()))
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("radius", [0, -1.0, math.nan, math.inf])
def test_a_wrong_radius_is_named(radius):
    x, y = torch.zeros(2, 1, 2, 2), torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"radius is .*: a finite number > 0"):
        max_sensitivity(of(Gradient(), nn.Identity(), y), x, radius)
    with pytest.raises(ValueError, match="draws is 0"):
        max_sensitivity(of(Gradient(), nn.Identity(), y), x, 0.1, 0)


def test_the_cosine_is_that_of_both_maps(make_model, make_batch):
    model, (x, y) = make_model("small"), make_batch("small", n=5)
    plain = relevance(model, x, y, "gradient").flatten(1)
    rule = Rule("smoothgrad", backward="smoothgrad", samples=4, noise=0.3)
    smooth = relevance(model, x, y, rule).flatten(1)
    expected = torch.nn.functional.cosine_similarity(plain, smooth)
    found = gradient_cosine(model, x, y, samples=4, noise=0.3, batch_size=2)
    torch.testing.assert_close(found, expected)
    assert (found < 0.999).all()


def test_the_cosine_of_a_linear_model_is_one_and_of_a_silent_one_not_defined():
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, 3))
    x = torch.randn((4, 2, 2, 2), generator=generator())
    y = torch.tensor([0, 1, 2, 0])
    torch.testing.assert_close(gradient_cosine(model, x, y), torch.ones(4, dtype=torch.float64))
    model[1].weight.data.zero_()
    assert gradient_cosine(model, x, y).isnan().all()
