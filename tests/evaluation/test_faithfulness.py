"""Deletion curves against a plain loop, and models whose gain and drop are known."""

import copy
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from attrreg.evaluation.faithfulness import (
    accuracy_drop,
    deletion,
    lowest_first,
    responses,
    symmetric_relevance_gain,
    top_left,
)
from attrreg.evaluation.occlusion import curve, random_pixels
from attrreg.perturbation import fill_values

# shape of a batch, and its feature axes
INPUTS = {
    "images": ((7, 3, 4, 5), (2, 3)),
    "one sample": ((1, 2, 3, 3), (2, 3)),
    "tokens": ((5, 9, 4), (1,)),
    "times and channels": ((5, 4, 3), (1, 2)),
}
FRACTIONS = (0.0, 0.2, 0.45, 1.0)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def network(shape, classes=3):
    torch.manual_seed(1)
    size = torch.Size(shape[1:]).numel()
    return nn.Sequential(
        *(nn.Flatten(), nn.BatchNorm1d(size), nn.Dropout(0.5), nn.Linear(size, classes))
    )


def batch(shape):
    x = torch.randn(shape, generator=generator())
    return x, torch.randint(0, 3, (shape[0],), generator=generator(1))


class Sum(nn.Module):
    """Two classes, whose logits are plus and minus the sum of the input."""

    def forward(self, x):
        total = x.flatten(1).sum(1)
        return torch.stack([total, -total], 1)


def by_loop(model, x, y, explained, order, axes, fraction, kept, present):
    """Return correct, nll and probability, sample by sample and feature by feature, fill 0."""
    found = []
    for number in range(len(x)):
        there = [tuple(place) for place in present[number].nonzero().tolist()]
        there.sort(key=lambda place: int(order[number][place]))
        count = round(fraction * len(there))
        sample = x[number].clone()
        for place in there[count:] if kept else there[:count]:
            index = [slice(None)] * sample.ndim
            for axis, where in zip(axes, place, strict=True):
                index[axis - 1] = where
            sample[tuple(index)] = 0
        logits = model(sample[None])[0].double()
        probability = logits.softmax(0)
        nll = F.cross_entropy(logits, y[number])
        found.append([float(logits.argmax() == y[number]), nll, probability[explained[number]]])
    return torch.tensor(found, dtype=torch.float64).T


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("some", [False, True], ids=["all there", "some there"])
def test_responses_are_those_of_a_plain_loop(kind, kept, some):
    shape, axes = INPUTS[kind]
    model, (x, y) = network(shape).eval(), batch(shape)
    order = random_pixels(x, generator(2), axes)
    explained = (y + 1) % 3
    present = torch.rand(order.shape, generator=generator(3)) < 0.6 if some else None
    options = {"kept": kept, "explained": explained, "present": present, "axes": axes}
    found = responses(model, x, y, order, "zero", FRACTIONS, **options, batch_size=2)
    there = torch.ones_like(order, dtype=torch.bool) if present is None else present
    with torch.no_grad():
        for place, fraction in enumerate(FRACTIONS):
            expected = by_loop(model, x, y, explained, order, axes, fraction, kept, there)
            for values, wanted in zip(found, expected, strict=True):
                torch.testing.assert_close(values[:, place], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fill", ["mean", "zero", "blur", "other", "noise"])
def test_an_occlusion_curve_is_that_of_a_plain_loop_over_masks(fill):
    """It rests on a deletion, whose batches meet the same values of a random fill."""
    shape = (30, 2, 8, 8)
    model, (x, y) = network(shape), batch(shape)
    order = random_pixels(x, generator(2), (2, 3))
    fractions = (0, 0.1, 0.33, 0.5, 0.9)
    filled = fill_values(fill, x, (2, 3), generator(4))
    expected = []
    for fraction in fractions:
        gone = (order < round(fraction * 64)).unsqueeze(1)
        with torch.no_grad():
            predicted = copy.deepcopy(model).eval()(x * ~gone + filled * gone).argmax(1)
        expected.append(float((predicted == y).double().mean()))
    found = curve(model, x, y, order=order, fill=fill, fractions=fractions, generator=generator(4))
    parts = deletion(model, x, y, order, fill, fractions, generator=generator(4), batch_size=7)
    assert found.accuracy.tolist() == pytest.approx(expected, abs=1e-12)
    assert parts.accuracy.tolist() == pytest.approx(expected, abs=1e-12)
    steps = zip(pairwise(fractions), pairwise(expected), strict=True)
    area = sum((end - start) * (left + right) / 2 for (start, end), (left, right) in steps) / 0.9
    assert float(found.area) == pytest.approx(area, abs=1e-12)


def test_the_model_and_all_randomness_are_left_as_they_were():
    shape = (6, 2, 3, 3)
    model, (x, y) = network(shape).train(), batch(shape)
    model[1].eval()
    model[3].weight.grad = torch.ones_like(model[3].weight)
    state, kept = copy.deepcopy(model.state_dict()), x.clone()
    random = torch.get_rng_state()
    symmetric_relevance_gain(model, x, y, x.sum(1), ["noise"])
    accuracy_drop(model, x, y, {"sum": x.sum(1)})
    assert [module.training for module in model] == [True, False, True, True]
    assert all(map(torch.equal, state.values(), model.state_dict().values()))
    assert torch.equal(model[3].weight.grad, torch.ones_like(model[3].weight))
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(x, kept)


class TestGain:
    """LeRF area − MoRF area, of models whose relevance is known."""

    def test_by_hand(self):
        """All is decided by the first of four features, +1 against three of −0.1."""
        x = torch.tensor([[[1.0, -0.1, -0.1, -0.1]]])
        y = torch.tensor([0])
        fractions = (0, 0.25, 0.5, 0.75)
        found = symmetric_relevance_gain(Sum(), x, y, x[:, 0], ["zero"], fractions)["zero"]
        assert found.most_first.accuracy.tolist() == [1, 0, 0, 0]
        assert found.least_first.accuracy.tolist() == [1, 1, 1, 1]
        assert found.accuracy.item() == pytest.approx(1 - 1 / 6)
        sums = torch.tensor([[0.7, -0.3, -0.2, -0.1], [0.7, 0.8, 0.9, 1.0]], dtype=torch.float64)
        most, least = torch.sigmoid(2 * sums)
        torch.testing.assert_close(found.most_first.probability, most, atol=1e-7, rtol=0)
        torch.testing.assert_close(found.least_first.probability, least, atol=1e-7, rtol=0)
        torch.testing.assert_close(found.least_first.nll, -least.log(), atol=1e-6, rtol=0)
        gain = torch.trapezoid(least - most, dx=0.25) / 0.75
        assert found.probability.item() == pytest.approx(gain.item(), abs=1e-7)

    def test_the_reversed_map_has_the_opposite_gain(self):
        model, (x, y) = network((20, 2, 4, 4)), batch((20, 2, 4, 4))
        relevance = torch.randn((20, 4, 4), generator=generator(3))
        gains = [
            symmetric_relevance_gain(model, x, y, sign * relevance, ["mean"])["mean"]
            for sign in (1, -1)
        ]
        for name in ("accuracy", "probability"):
            first, second = (getattr(each, name).item() for each in gains)
            assert first == pytest.approx(-second, abs=1e-12)

    @pytest.mark.parametrize("fill", ["mean", "noise", "range", "blur", "other"])
    def test_a_constant_map_has_none_whatever_the_fill(self, fill):
        model, (x, y) = network((20, 2, 8, 8)), batch((20, 2, 8, 8))
        found = symmetric_relevance_gain(model, x, y, torch.zeros(20, 8, 8), [fill])[fill]
        assert found.accuracy.item() == 0
        assert found.probability.item() == 0
        assert len(set(found.most_first.probability.tolist())) > 3

    def test_a_random_map_has_none_on_average(self):
        x = torch.randn((400, 1, 4, 4), generator=generator())
        y = (x.sum((1, 2, 3)) < 0).long()
        relevance = torch.randn((400, 4, 4), generator=generator(1))
        found = symmetric_relevance_gain(Sum(), x, y, relevance, ["zero"])["zero"]
        assert abs(found.probability.item()) < 0.04
        own = symmetric_relevance_gain(Sum(), x, y, (1 - 2 * y).view(-1, 1, 1) * x[:, 0], ["zero"])
        assert own["zero"].probability.item() > 0.5

    def test_every_fill_is_returned_and_reproduced(self):
        model, (x, y) = network((9, 2, 4, 4)), batch((9, 2, 4, 4))
        fills = ("zero", "noise", "range")
        first, again, other = (
            symmetric_relevance_gain(model, x, y, x.sum(1), fills, generator=generator(seed))
            for seed in (1, 1, 2)
        )
        assert tuple(first) == fills
        assert torch.equal(first["noise"].probability, again["noise"].probability)
        assert not torch.equal(first["noise"].probability, other["noise"].probability)
        assert torch.equal(first["zero"].probability, other["zero"].probability)


class TestDrop:
    """The accuracy that is left when the most salient features are removed."""

    def test_the_top_left_feature_takes_the_place_of_what_is_removed(self):
        """Sums of four become four times the first one, feature by feature."""
        x = torch.tensor([[[[1.0, -4.0], [2.0, -3.0]]]])
        found = accuracy_drop(
            Sum(), x, torch.tensor([1]), {"size": x[:, 0]}, (0.0, 0.25, 0.5, 0.75)
        )["size"]
        # −4 → −4+5 = 1 → 5 → 4
        assert found.accuracy.tolist() == [1, 0, 0, 0]
        sums = torch.tensor([-4.0, 1.0, 5.0, 4.0], dtype=torch.float64)
        torch.testing.assert_close(found.probability, torch.sigmoid(-2 * sums), atol=1e-7, rtol=0)

    def test_magnitude_counts(self):
        model, (x, y) = network((20, 2, 4, 4)), batch((20, 2, 4, 4))
        values = torch.randn((20, 4, 4), generator=generator(3))
        found = accuracy_drop(model, x, y, {"signed": values, "size": values.abs()})
        assert torch.equal(found["signed"].nll, found["size"].nll)
        order = values.abs().flatten(1).argsort(1, descending=True).argsort(1).view(20, 4, 4)
        expected = deletion(model, x, y, order, x[:, :, :1, :1])
        assert torch.equal(found["size"].nll, expected.nll)

    @pytest.mark.parametrize("kind", INPUTS)
    def test_the_first_feature_of_every_channel(self, kind):
        shape, axes = INPUTS[kind]
        x = batch(shape)[0]
        index = [0 if axis in axes else slice(None) for axis in range(x.ndim)]
        index[0] = slice(None)
        expected = x[tuple(index)].reshape(len(x), -1)
        assert torch.equal(top_left(x, axes).flatten(1), expected)
        assert top_left(x, axes).expand_as(x).shape == x.shape


class TestOrder:
    """Ascending, with ties in random order."""

    def test_distinct_values_have_one_order(self):
        values = torch.randn((5, 3, 4), generator=generator())
        found = lowest_first(values, generator(1))
        expected = values.flatten(1).argsort(1).argsort(1).view_as(found)
        assert torch.equal(found, expected)

    def test_ties_are_broken_at_random_and_alike_for_the_same_state(self):
        values = torch.tensor([[2.0, 1.0, 1.0, 0.0]]).expand(4000, 4)
        found = lowest_first(values, generator(1))
        assert found[:, 0].eq(3).all()
        assert found[:, 3].eq(0).all()
        assert (found[:, 1] == 1).double().mean().item() == pytest.approx(0.5, abs=0.04)
        opposite = lowest_first(-values, generator(1))
        assert torch.equal(opposite[:, 1] < opposite[:, 2], found[:, 1] < found[:, 2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"order": torch.zeros(4, 3, 3)}, r"order has shape \(4, 3, 3\), expected \(4, 4, 4\), as"),
        ({"y": torch.zeros(3)}, r"y has shape \(3,\), expected \(4,\)"),
        ({"explained": torch.zeros(4, 1)}, r"explained has shape \(4, 1\), expected \(4,\)"),
        ({"present": torch.zeros(4, 3) > 0}, r"present has shape \(4, 3\), expected \(4, 4, 4\)"),
        ({"fractions": ()}, r"fractions are \[\]: give shares"),
        ({"fractions": (0, 50)}, r"fractions are \[0, 50\]: give shares of the features, 0 to 1"),
    ],
)
def test_wrong_input_is_named(change, message):
    x, y = batch((4, 1, 4, 4))
    given = {"order": torch.zeros((4, 4, 4), dtype=torch.int64), "y": y} | change
    with pytest.raises(ValueError, match=message):
        deletion(network(x.shape), x, **given)


def test_a_model_that_returns_nan_is_refused():
    x, y = batch((4, 1, 4, 4))
    x[1, 0, 2, 2] = torch.nan
    order = torch.arange(16).view(1, 4, 4).expand(4, 4, 4)
    with pytest.raises(ValueError, match="for 1 of 4 samples are NaN or infinite"):
        deletion(Sum(), x, y.clamp(max=1), order, "zero")
