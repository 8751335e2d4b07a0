"""Occlusion curves against a plain loop over samples, and the orders in which features go."""

import copy
from itertools import pairwise

import pytest
import torch
from torch import nn

from attrreg.evaluation.occlusion import (
    area_under,
    curve,
    grid_patches,
    least_relevant_first,
    most_relevant_first,
    random_block,
    random_pixels,
)
from attrreg.evaluation.predict import predict

# shape of a batch, and its feature axes
INPUTS = {
    "images": ((7, 3, 4, 5), (2, 3)),
    "one channel": ((6, 1, 4, 4), (2, 3)),
    "one sample": ((1, 2, 3, 3), (2, 3)),
    "series": ((5, 2, 9), (2,)),
    "tokens": ((5, 9, 4), (1,)),
    "times and channels": ((5, 4, 3), (1, 2)),
}
FRACTIONS = (0.0, 0.2, 0.45, 0.9)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def network(shape, classes=3):
    torch.manual_seed(1)
    size = torch.Size(shape[1:]).numel()
    return nn.Sequential(
        nn.Flatten(), nn.BatchNorm1d(size), nn.Dropout(0.5), nn.Linear(size, classes)
    )


def batch(shape):
    x = torch.randn(shape, generator=generator())
    return x, torch.randint(0, 3, (shape[0],), generator=generator(1))


def plain_curve(model, x, y, order, fill, fractions, axes):
    """Return accuracies, made with nothing but loops."""
    model = copy.deepcopy(model).eval()
    features = [range(x.shape[axis]) for axis in axes]
    accuracies = []
    for fraction in fractions:
        hits = 0
        for number in range(len(x)):
            sample = x[number].clone()
            for place in torch.cartesian_prod(*map(torch.tensor, map(list, features))).view(
                -1, len(axes)
            ):
                if order[number][tuple(place)] < round(fraction * order[number].numel()):
                    for channel in channels(x, axes):
                        at = index(place, channel, x, axes)
                        sample[at] = fill(x, at, axes)
            hits += int(model(sample[None]).argmax() == y[number])
        accuracies.append(hits / len(x))
    return torch.tensor(accuracies, dtype=torch.float64)


def channels(x, axes):
    """Return every place on the axes of a sample that are no feature axes."""
    others = [axis for axis in range(1, x.ndim) if axis not in axes]
    return (
        torch.cartesian_prod(*[torch.arange(x.shape[axis]) for axis in others]).view(
            -1, len(others)
        )
        if others
        else torch.empty(1, 0, dtype=torch.int64)
    )


def index(place, channel, x, axes):
    """Put feature and channel places together to an index into a sample."""
    feature, other = iter(place.tolist()), iter(channel.tolist())
    return tuple(next(feature) if axis in axes else next(other) for axis in range(1, x.ndim))


def zero(x, at, axes):
    return 0.0


def mean(x, at, axes):
    """Return the mean of a place's channel over the batch and all features."""
    chosen = tuple(slice(None) if axis in axes else at[axis - 1] for axis in range(1, x.ndim))
    return x[(slice(None), *chosen)].mean()


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("fill", [zero, mean], ids=["zero", "mean"])
def test_a_curve_is_that_of_a_plain_loop(kind, fill):
    shape, axes = INPUTS[kind]
    model, (x, y) = network(shape), batch(shape)
    order = random_pixels(x, generator(2), axes)
    found = curve(model, x, y, order=order, fill=fill.__name__, fractions=FRACTIONS, axes=axes)
    expected = plain_curve(model, x, y, order, fill, FRACTIONS, axes)
    assert torch.equal(found.accuracy, expected)
    assert found.fractions.tolist() == list(FRACTIONS)
    trapezoids = [
        (high - low) * (before + after) / 2
        for low, high, before, after in zip(
            FRACTIONS, FRACTIONS[1:], expected.tolist(), expected.tolist()[1:], strict=False
        )
    ]
    assert float(found.area) == pytest.approx(sum(trapezoids) / 0.9)


def test_the_smallest_places_go_first():
    """Only the first feature tells the classes apart, so all is decided when it goes."""
    x, y = torch.tensor([[[1.0, 5.0, 5.0, 5.0]], [[-1.0, 5.0, 5.0, 5.0]]]), torch.tensor([0, 1])

    class First(nn.Module):
        def forward(self, x):
            return torch.stack([x[:, 0, 0], -x[:, 0, 0] - 0.5], 1)

    for place, expected in ((0, [1.0, 0.5, 0.5, 0.5]), (2, [1.0, 1.0, 1.0, 0.5])):
        order = torch.tensor([1, 2, 3]).repeat(2, 1)
        order = torch.cat([torch.full((2, 1), place), order - (order <= place).long()], 1)
        found = curve(First(), x, y, order=order, fill="zero", fractions=(0, 0.25, 0.5, 0.75))
        assert found.accuracy.tolist() == expected


@pytest.mark.parametrize("fractions", [(0.0, 0.9), (0.1, 0.15, 0.7), (0.0, 0.5, 0.6, 0.99)])
def test_the_area_of_a_constant_curve_is_the_constant(fractions):
    x, y = batch((8, 1, 4, 4))

    class Constant(nn.Module):
        def forward(self, x):
            return torch.tensor([[0.0, 1.0, 0.0]]).expand(len(x), 3)

    order = random_pixels(x, generator(), (2, 3))
    found = curve(Constant(), x, y, order=order, fractions=fractions)
    share = float((y == 1).double().mean())
    assert found.accuracy.tolist() == [share] * len(fractions)
    assert float(found.area) == pytest.approx(share, abs=1e-12)


def test_the_area_of_a_straight_line_is_its_middle():
    places = torch.tensor([0.2, 0.3, 0.8], dtype=torch.float64)
    assert float(area_under(places, 1 - places)) == pytest.approx(0.5)


def test_the_model_is_left_as_it_was():
    shape = (6, 2, 3, 3)
    model, (x, y) = network(shape).train(), batch(shape)
    model[1].eval()
    model[3].weight.grad = torch.ones_like(model[3].weight)
    state, kept = copy.deepcopy(model.state_dict()), x.clone()
    torch.manual_seed(4)
    random = torch.get_rng_state()
    curve(model, x, y, order=random_pixels(x, generator(), (2, 3)))
    assert [module.training for module in model] == [True, False, True, True]
    assert all(map(torch.equal, state.values(), model.state_dict().values()))
    assert torch.equal(model[3].weight.grad, torch.ones_like(model[3].weight))
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(x, kept)


def test_random_fills_come_from_the_generator():
    shape = (40, 1, 4, 4)
    model, (x, y) = network(shape), batch(shape)
    order = random_pixels(x, generator(), (2, 3))
    first, again, other = (
        curve(model, x, y, order=order, fill="noise", generator=generator(seed)).accuracy
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("shape", [(3, 4, 4), (4, 4, 3), (4, 16), (4,), (4, 1, 4, 4)])
def test_an_order_that_does_not_fit_is_refused(shape):
    x, y = batch((4, 1, 4, 4))
    with pytest.raises(ValueError, match=r"order has shape .* expected \(4, 4, 4\)"):
        curve(network(x.shape), x, y, order=torch.zeros(shape, dtype=torch.int64))


class TestOrders:
    """Every order is a permutation of the features of each sample."""

    @pytest.mark.parametrize("kind", INPUTS)
    @pytest.mark.parametrize("make", [random_pixels, random_block, grid_patches])
    def test_random_orders(self, kind, make):
        shape, axes = INPUTS[kind]
        x = batch(shape)[0]
        first, again, other = (make(x, generator(seed), axes) for seed in (1, 1, 2))
        assert first.shape == (len(x), *(x.shape[axis] for axis in axes))
        size = first[0].numel()
        assert torch.equal(first.flatten(1).sort(1).values, torch.arange(size).expand(len(x), -1))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        assert len({tuple(each.flatten().tolist()) for each in first}) == len(x)

    @pytest.mark.parametrize("make", [random_pixels, random_block, grid_patches])
    def test_every_feature_is_first_equally_often(self, make):
        x = torch.zeros(8000, 1, 4, 4)
        first = (make(x, generator(), (2, 3)) == 0).double().mean(0)
        assert (first - 1 / 16).abs().max() < 5 * (1 / 16 * 15 / 16 / 8000) ** 0.5

    @pytest.mark.parametrize("shape", [(8, 8), (6, 6), (4, 8), (9,), (1, 5), (7, 8), (5, 8)])
    def test_a_block_grows_by_distance_from_its_first_feature(self, shape):
        x = torch.zeros(50, 1, *shape)
        axes = tuple(range(2, 2 + len(shape)))
        for order in random_block(x, generator(), axes):
            centre = (order == 0).nonzero()[0]
            places = (order >= 0).nonzero()
            # in exact arithmetic: distances times the product of the sizes
            whole = torch.tensor(shape).prod()
            scale = torch.tensor([int(whole) // size for size in shape])
            distance = ((places - centre).abs() * scale).amax(1)
            by_order = distance[order[tuple(places.T)].argsort()]
            assert (by_order.diff() >= 0).all()

    def test_a_block_is_connected_at_every_size(self):
        for order in random_block(torch.zeros(20, 1, 6, 6), generator(), (2, 3)):
            for size in range(1, 37):
                assert connected((order < size).tolist())

    @pytest.mark.parametrize("shape", [(8, 8), (7, 5), (4, 4), (2, 9), (13,), (3,), (4, 8, 5)])
    @pytest.mark.parametrize("cells", [1, 2, 4])
    def test_a_grid_goes_cell_after_cell(self, shape, cells):
        x = torch.zeros(20, 2, *shape)
        orders = grid_patches(x, generator(), tuple(range(2, 2 + len(shape))), cells)
        parts = [(torch.arange(size) * cells).div(size, rounding_mode="floor") for size in shape]
        for each, size in zip(parts, shape, strict=True):  # cells are as equal as can be
            counts = torch.bincount(each, minlength=cells)
            assert counts.sum() == size
            assert counts.max() - counts.min() <= 1
        places = torch.stack(torch.meshgrid(*parts, indexing="ij"), -1).flatten(0, -2)
        for order in orders:
            visited = [tuple(places[at].tolist()) for at in order.flatten().argsort()]
            changes = [one for one, two in pairwise(visited) if one != two]
            assert len(changes) + 1 == len(set(visited))  # none is left before it is whole

    def test_cells_and_what_is_in_them_come_in_a_random_order(self):
        orders = grid_patches(torch.zeros(50, 1, 8, 8), generator(), (2, 3))
        first = {tuple((order == 0).nonzero()[0].tolist()) for order in orders}
        cells = {(row // 2, column // 2) for row, column in first}
        assert len(cells) > 10
        assert len({(row % 2, column % 2) for row, column in first}) == 4

    def test_ascending_relevance_is_descending_relevance_reversed(self):
        relevance = torch.randn((6, 5, 4), generator=generator())
        assert len(relevance.unique()) == relevance.numel()
        most, least = most_relevant_first(relevance), least_relevant_first(relevance)
        assert torch.equal(least, 19 - most)

    def test_descending_relevance(self):
        relevance = torch.randn((5, 4, 4), generator=generator())
        order = most_relevant_first(relevance)
        for values, places in zip(relevance.flatten(1), order.flatten(1), strict=True):
            expected = [int((values > value).sum()) for value in values]
            assert places.tolist() == expected

    def test_ties_are_broken_somehow(self):
        relevance = torch.tensor([[[1.0, 1.0], [2.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]])
        order = most_relevant_first(relevance).flatten(1)
        assert order[0, 2] == 0
        assert order.sort(1).values.tolist() == [[0, 1, 2, 3]] * 2


def connected(mask):
    """Whether the chosen features hang together, corners included."""
    waiting = {(row, column) for row in range(6) for column in range(6) if mask[row][column]}
    edge = [waiting.pop()]
    while edge:
        row, column = edge.pop()
        near = {(row + down, column + right) for down in (-1, 0, 1) for right in (-1, 0, 1)}
        edge.extend(near & waiting)
        waiting -= near
    return not waiting


class TestPredict:
    """Logits in evaluation mode, whatever the size of the batches."""

    def test_batches_bound_the_memory_and_not_the_result(self, make_model, make_batch):
        model, (x, _) = make_model("small"), make_batch("small", n=11)
        expected = copy.deepcopy(model).eval()(x)
        for size in (1, 3, 11, 256):
            torch.testing.assert_close(predict(model, x, size), expected)

    def test_no_graph_is_made_and_the_mode_is_kept(self, make_model, make_batch):
        model, (x, _) = make_model("small").train(), make_batch("small")
        before = copy.deepcopy(model.state_dict())
        assert not predict(model, x).requires_grad
        assert model.training
        assert all(map(torch.equal, before.values(), model.state_dict().values()))
