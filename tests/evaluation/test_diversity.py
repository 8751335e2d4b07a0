"""Similarity of filters and effective rank, against plain loops and known cases."""

import copy
import math

import numpy as np
import pytest
import timm
import torch
from sklearn.metrics.pairwise import cosine_similarity
from torch import nn

from attrreg.evaluation.diversity import (
    effective_rank,
    filter_similarity,
    mean_absolute_cosine,
    penultimate,
    random_cosine,
    similarity_change,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def expected_cosine(filters):
    """Return the mean |cosine| of all pairs, by scikit-learn."""
    cosines = np.abs(cosine_similarity(filters))
    return cosines[~np.eye(len(filters), dtype=bool)].mean()


@pytest.mark.parametrize("shape", [(2, 3), (7, 40), (30, 2), (40, 9)])
def test_the_cosine_is_that_of_scikit_learn(shape, monkeypatch):
    filters = torch.randn(shape, generator=generator(), dtype=torch.float64)
    expected = expected_cosine(filters.numpy())
    assert mean_absolute_cosine(filters).item() == pytest.approx(expected, abs=1e-12)
    monkeypatch.setattr("attrreg.evaluation.diversity.ROWS", 8)
    assert mean_absolute_cosine(filters).item() == pytest.approx(expected, abs=1e-12)


def test_cosines_of_known_filters():
    assert mean_absolute_cosine(torch.eye(5)).item() == 0
    assert mean_absolute_cosine(torch.tensor([[1.0, 2], [-2, -4], [3, 6]])).item() == pytest.approx(
        1
    )
    found = mean_absolute_cosine(torch.tensor([[1e-30, 0.0], [1e30, 1e30], [0, 0]]))
    assert found.item() == pytest.approx(math.sqrt(0.5))  # a filter of zeros is in no pair
    assert mean_absolute_cosine(torch.ones(1, 4)).isnan()
    assert mean_absolute_cosine(torch.zeros(3, 4)).isnan()
    with pytest.raises(ValueError, match="weights of 1 of 2 filters are NaN"):
        mean_absolute_cosine(torch.tensor([[1.0], [math.nan]]))


@pytest.mark.parametrize("dimension", [1, 2, 9, 576, 25_088])
def test_random_filters_have_the_random_cosine(dimension):
    found = random_cosine(dimension)
    about = math.sqrt(2 / math.pi / dimension)
    assert found == pytest.approx(about, rel=0.4 / dimension)
    if dimension < 1000:
        filters = torch.randn((600, dimension), generator=generator())
        assert mean_absolute_cosine(filters).item() == pytest.approx(found, rel=0.02)


def test_every_layer_is_there_with_what_makes_one_output():
    torch.manual_seed(0)
    model = nn.ModuleDict(
        {
            "plain": nn.Conv2d(3, 6, 3),
            "grouped": nn.Conv2d(4, 6, 3, groups=2),
            "series": nn.Conv1d(3, 5, 7),
            "transposed": nn.ConvTranspose2d(4, 6, 3, groups=2),
            "linear": nn.Linear(10, 4),
            "norm": nn.BatchNorm2d(3),
            "one filter": nn.Linear(10, 1),
            "one weight": nn.Conv2d(8, 8, 1, groups=8),
        }
    )
    found = filter_similarity(model)
    shapes = {name: (each.filters, each.dimension) for name, each in found.items()}
    assert shapes == {
        "plain": (6, 27),
        "grouped": (6, 18),
        "series": (5, 21),
        "transposed": (6, 18),
        "linear": (4, 10),
    }
    for name in ("plain", "grouped", "series", "linear"):
        expected = expected_cosine(model[name].weight.detach().flatten(1).numpy())
        assert found[name].cosine.item() == pytest.approx(expected, abs=1e-6)
        assert found[name].floor == random_cosine(found[name].dimension)


def test_a_transposed_filter_is_what_makes_one_output():
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False)
    # what an output channel reads, found by the outputs that unit inputs make
    ones = torch.eye(4).view(4, 4, 1, 1)
    with torch.no_grad():
        filters = layer(ones).transpose(0, 1).flatten(1).numpy()
    inside = [row[row != 0] for row in filters]
    assert {len(row) for row in inside} == {18}
    expected = expected_cosine(np.stack(inside))
    found = filter_similarity(nn.Sequential(layer))["0"].cosine.item()
    assert found == pytest.approx(expected, abs=1e-6)


def test_the_change_is_that_of_the_means_over_layers():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Linear(20, 1))
    before = filter_similarity(model)
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(8, 27).view(8, 3, 3, 3) + 0.01 * model[0].weight)
    after = filter_similarity(model)
    change = similarity_change(before, after)
    values = [(float(before[name].cosine), float(after[name].cosine)) for name in ("0", "2")]
    first, last = (sum(each) / 2 for each in zip(*values, strict=True))
    assert [float(each) for each in change[:3]] == pytest.approx([first, last, last - first])
    expected = math.log(values[0][1] / values[0][0]) / 2  # the other layer has not changed
    assert change.log_ratio.item() == pytest.approx(expected)
    assert change.log_ratio < 0
    assert change.layers == 2
    same = similarity_change(before, before)
    assert same.difference.item() == same.log_ratio.item() == 0


def test_layers_without_pairs_do_not_count_in_the_change():
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    before = filter_similarity(model)
    with torch.no_grad():
        model[1].weight.zero_()
    assert similarity_change(before, filter_similarity(model)).layers == 1
    nothing = similarity_change({}, {})
    assert nothing.layers == 0
    assert nothing.difference.isnan()
    with pytest.raises(ValueError, match=r"the layers differ by \['1'\]"):
        similarity_change(before, {"0": before["0"]})


def test_effective_ranks_of_known_features():
    for rank in (1, 3, 8):
        features = torch.zeros(20, 8, dtype=torch.float64)
        features[range(rank), range(rank)] = -2.0
        assert effective_rank(features).item() == pytest.approx(rank)
    features = torch.diag(torch.tensor([3.0, 1.0]))
    expected = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert effective_rank(features).item() == pytest.approx(expected)
    assert effective_rank(torch.zeros(3, 4)).isnan()


def test_the_effective_rank_depends_on_neither_rotation_nor_scale():
    features = torch.randn((30, 6), generator=generator(), dtype=torch.float64) ** 3
    rotation, _ = torch.linalg.qr(torch.randn((6, 6), generator=generator(1)).double())
    expected = effective_rank(features)
    assert 1 < expected < 6
    for same in (features @ rotation, 1e-9 * features, features.T):
        torch.testing.assert_close(effective_rank(same), expected)
    values = np.linalg.svd(features.numpy(), compute_uv=False)
    share = values / values.sum()
    assert expected.item() == pytest.approx(np.exp(-(share * np.log(share)).sum()), abs=1e-12)


@pytest.mark.parametrize("wrong", [torch.zeros(3), torch.zeros(0, 3), torch.tensor([[math.inf]])])
def test_wrong_features_are_named(wrong):
    with pytest.raises(ValueError, match="features have shape"):
        effective_rank(wrong)


@pytest.mark.parametrize("name", ["resnet10-narrow", "resnet18", "vgg", "small"])
def test_the_classifier_makes_logits_of_penultimate_features(name, make_model, make_batch):
    model, (x, _) = make_model(name).train(), make_batch(name, n=5)
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    found = penultimate(model, x, batch_size=2)
    assert all(module.training for module in model.modules())
    assert all(map(torch.equal, before.values(), model.state_dict().values()))
    assert torch.equal(torch.get_rng_state(), random)
    assert not found.requires_grad
    assert not any(module._forward_pre_hooks for module in model.modules())
    model.eval()
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    with torch.no_grad():
        torch.testing.assert_close(linear(found), model(x))


def test_timms_own_way_is_taken_where_there_is_one():
    torch.manual_seed(0)
    model = timm.create_model("mobilenetv3_small_050", num_classes=3).eval()
    x = torch.randn((2, 3, 32, 32), generator=generator())
    found = penultimate(model, x)
    with torch.no_grad():
        expected = model.forward_head(model.forward_features(x), pre_logits=True)
        assert torch.equal(found, expected)
        torch.testing.assert_close(model.classifier(found), model(x))


def test_the_linear_layer_that_is_called_last_counts():
    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.first = nn.Linear(4, 2), nn.Linear(6, 4)

        def forward(self, x):
            return self.last(self.first(x))

    torch.manual_seed(0)
    model, x = Turned(), torch.randn((3, 6), generator=generator())
    with torch.no_grad():
        assert torch.equal(penultimate(model, x), model.first(x))


def test_hooks_are_gone_even_after_an_error():
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(5, 2))
    with pytest.raises(RuntimeError, match="shapes"):
        penultimate(model, torch.zeros(3, 6))
    assert not any(module._forward_pre_hooks for module in model.modules())
    with pytest.raises(ValueError, match="Flatten calls no linear layer, found 0 in it"):
        penultimate(nn.Flatten(), torch.zeros(3, 6))
