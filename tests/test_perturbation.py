import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from attrreg.perturbation import Block, Drop, ReplaceLowest, Scale, box_depth, fill_values, rank

MANY = 4000
SIGMAS = 5  # of a Monte-Carlo error: one false alarm in 1.7 million


def images(n, channels=1, size=8, seed=0):
    """Standard normal images."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, channels, size, size, generator=generator)


def frequency_error(share, n):
    """The largest deviation of a frequency from its probability that chance explains."""
    return SIGMAS * (share * (1 - share) / n) ** 0.5 + 1e-9


# --- Drop -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.0, 0.2, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
def test_drop_probability(alpha, beta, seeded):
    """P(drop) = clip((α + β − 1 + (1−α)·R̂) / α, 0, 1), R̂ the map scaled to [0, 1]."""
    unit = torch.tensor([0, 0.03, 0.17, 0.31, 0.44, 0.58, 0.69, 0.83, 0.97, 1], dtype=torch.float64)
    relevance = (7 * unit - 3).expand(MANY, 10)
    x = torch.zeros(MANY, 1, 10, dtype=torch.float64)
    dropped = Drop(p=1, alpha=alpha, beta=beta)(x, relevance, seeded(0)).changed.double().mean(0)
    if alpha == 0:
        expected = (unit >= 1 - beta).double()
    else:
        expected = ((alpha + beta - 1 + (1 - alpha) * unit) / alpha).clamp(0, 1)
    assert ((dropped - expected).abs() <= frequency_error(expected, MANY)).all()


def test_drop_takes_all_channels_and_leaves_the_rest(seeded):
    x = images(50, channels=3)
    found = Drop(p=1, fill="zero")(x, torch.rand(50, 8, 8, generator=seeded(1)), seeded(2))
    mask = found.changed[:, None].expand_as(x)
    assert (found.x[mask] == 0).all()
    assert torch.equal(found.x[~mask], x[~mask])
    assert 0 < mask.double().mean() < 1


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_a_rate_with_ranks_drops_exactly_that_share(alpha, rate, seeded):
    part = Drop(p=1, alpha=alpha, normalisation="rank", rate=rate)
    relevance = torch.randn(40, 10, 10, generator=seeded(0))
    changed = part(images(40, size=10), relevance, seeded(1)).changed
    assert (changed.flatten(1).sum(1) == round(100 * rate)).all()
    if alpha == 0:  # the most relevant ones, whatever the scale of the map
        kept = relevance.masked_fill(changed, torch.inf).flatten(1)
        dropped = relevance.masked_fill(~changed, torch.inf).flatten(1)
        assert (dropped.amin(1) >= kept.masked_fill(kept.isinf(), -torch.inf).amax(1)).all()


def test_rank_normalisation_ignores_the_scale_of_a_map(seeded):
    relevance = torch.randn(30, 8, 8, generator=seeded(0))
    part = Drop(p=1, normalisation="rank")
    first = part(images(30), relevance, seeded(1)).changed
    assert torch.equal(part(images(30), relevance.exp() * 1e3, seeded(1)).changed, first)


@pytest.mark.parametrize("value", [0.0, -3.0, 1e30])
def test_drop_on_a_constant_map_drops_as_for_no_relevance(value, seeded):
    part = Drop(p=1, alpha=0.8, beta=0.5)  # P = (α + β − 1) / α = 3/8 at R̂ = 0
    x = images(400)
    found = part(x, torch.full((400, 8, 8), value), seeded(0))
    assert found.x.isfinite().all()
    assert abs(found.changed.double().mean() - 0.375) <= frequency_error(0.375, 400 * 64)


PARTS = [
    Drop(p=1),
    Drop(p=1, normalisation="rank", rate=0.5),
    Block(p=1),
    Block(p=1, patches=3, centres=5),
    ReplaceLowest(),
    Scale(p=1),
]


@pytest.mark.parametrize("fill", ["mean", "zero", "noise", "range", "blur", "other"])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 3, 4, 4), (3, 1, 1, 6), (2, 1, 2, 2)])
@pytest.mark.parametrize("values", ["ties", "zeros", "negative"])
@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_single_features_samples_and_channels_ties_and_constants(part, values, shape, fill, seeded):
    x = torch.ones(shape)
    relevance = {"ties": 1.0, "zeros": 0.0, "negative": -1.0}[values] * torch.ones(shape)[:, 0]
    if values == "ties":
        relevance.flatten(1)[:, ::2] = 0
    if "fill" in type(part).model_fields:
        part = part.model_copy(update={"fill": fill})
    found = part(x, relevance, seeded(0))
    assert found.x.isfinite().all()
    assert found.x.shape == x.shape
    assert found.changed.shape == relevance.shape


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_the_coin_of_each_sample_has_frequency_p(part, seeded):
    n, p = 3000, 0.3
    tossed = part.model_copy(update={"p": p})
    touched = tossed(images(n), torch.rand(n, 8, 8) + 0.1, seeded(0)).changed.flatten(1).any(1)
    assert abs(touched.double().mean() - p) <= frequency_error(p, n)
    assert (touched[1:] != touched[:-1]).double().mean() > 0.3  # neighbours are independent


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_the_coin_of_a_batch_is_one_for_all(part, seeded):
    repeats, p = 400, 0.3
    tossed = part.model_copy(update={"p": p, "coin": "batch"})
    generator, relevance = seeded(0), torch.rand(5, 8, 8, generator=seeded(1)) + 0.1
    touched = torch.stack(
        [tossed(images(5), relevance, generator).changed.flatten(1).any(1) for _ in range(repeats)]
    )
    assert (touched == touched[:, :1]).all()
    assert abs(touched[:, 0].double().mean() - p) <= frequency_error(p, repeats)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_randomness_comes_from_the_generator_alone_and_nothing_else_is_touched(part, seeded):
    x, relevance = images(6, channels=2), torch.randn(6, 8, 8)
    leaf, before = x.clone().requires_grad_(), torch.get_rng_state()
    kept = relevance.clone()
    first, second = part(leaf, relevance, seeded(3)), part(leaf, relevance, seeded(3))
    assert torch.equal(first.x, second.x)
    assert not torch.equal(first.x, part(leaf, relevance, seeded(4)).x)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(leaf, x)
    assert torch.equal(relevance, kept)
    assert not first.x.requires_grad


# --- Block ----------------------------------------------------------------------------------------


@given(
    shape=st.lists(st.integers(1, 12), min_size=1, max_size=2),
    inside=st.booleans(),
    data=st.data(),
)
def test_boxes(shape, inside, data):
    centre = [data.draw(st.integers(0, size - 1)) for size in shape]
    extent = [data.draw(st.integers(1, size)) for size in shape]
    extents = torch.tensor([[extent]], dtype=torch.float32)
    mask = box_depth(torch.tensor([[centre]]), extents, shape, inside)[0, 0] < 1
    assert mask[tuple(centre)]
    places = mask.nonzero()
    spans = places.amax(0) - places.amin(0) + 1
    assert mask.sum() == spans.prod()  # a box without holes
    if inside:
        assert spans.tolist() == extent
    else:  # what of the box around the centre lies inside
        starts = torch.tensor(centre) - torch.tensor(extent) // 2
        ends = torch.minimum(starts + torch.tensor(extent), torch.tensor(shape))
        assert spans.tolist() == (ends - starts.clamp_min(0)).tolist()


def erased(part, relevance, seed=0):
    """Where a part changes an image."""
    generator = torch.Generator().manual_seed(seed)
    return part(torch.zeros(len(relevance), 1, *relevance.shape[1:]), relevance, generator).changed


def rounding(height, width):
    """How far rounding both sides of a box can move its share of the features."""
    return 0.5 / height + 0.5 / width + 0.25 / (height * width)


@pytest.mark.parametrize("shape", [(32, 32), (24, 40), (8, 8)])
def test_areas_lie_in_the_drawn_range(shape):
    shares = erased(Block(p=1), torch.rand(MANY, *shape)).double().mean((1, 2))
    assert shares.min() >= 0.02 - rounding(*shape)
    assert shares.max() <= 0.4 + rounding(*shape)


@settings(max_examples=25, deadline=None)
@given(height=st.integers(4, 40), width=st.integers(4, 40), share=st.floats(0.1, 1))
@example(height=4, width=40, share=0.3)
def test_areas_lie_in_the_drawn_range_whatever_the_shape(height, width, share):
    """A series of few channels, or a large area, leaves no room for some aspects."""
    part = Block(p=1, area=(share, share))
    shares = erased(part, torch.rand(64, height, width)).double().mean((1, 2))
    assert (shares - share).abs().max() <= rounding(height, width)


def test_areas_are_uniform_and_aspects_log_uniform():
    n = 2000
    changed = erased(Block(p=1, area=(0.05, 0.15)), torch.rand(n, 64, 64))
    shares = changed.double().mean((1, 2))
    assert abs(shares.mean() - 0.1) < SIGMAS * 0.1 / (12 * n) ** 0.5 + 1e-3
    height, width = changed.any(2).sum(1).double(), changed.any(1).sum(1).double()
    logs = (height / width).log()
    assert logs.abs().max() <= 1.21 + 0.1
    assert abs(logs.mean()) < SIGMAS * 2.41 / (12 * n) ** 0.5 + 1e-2
    assert abs(logs.std() - 2.41 / 12**0.5) < 0.05


def test_the_aspect_is_height_by_width():
    changed = erased(Block(p=1, area=(0.1, 0.1), aspect=(2, 3)), torch.rand(200, 50, 50))
    aspect = changed.any(2).sum(1) / changed.any(1).sum(1)
    assert aspect.min() > 1.8
    assert aspect.max() < 3.3


def test_one_axis_needs_no_aspect():
    lengths = erased(Block(p=1), torch.rand(MANY, 200)).sum(1)
    assert lengths.min() >= 4
    assert lengths.max() <= 80
    assert abs(lengths.double().mean() - 42) < SIGMAS * 76 / (12 * MANY) ** 0.5 + 0.5


def _peak(row, column, n=500, size=16):
    relevance = torch.rand(n, size, size, generator=torch.Generator().manual_seed(1))
    relevance[:, row, column] = 2
    return relevance


@pytest.mark.parametrize("corner", [(0, 0), (0, 15), (15, 0), (15, 15), (0, 7)])
def test_inside_keeps_the_area_and_clipped_loses_it_at_the_border(corner):
    inside, clipped = Block(p=1), Block(p=1, placement="clipped")
    middle = erased(inside, _peak(8, 8)).flatten(1).sum(1)
    assert torch.equal(erased(inside, _peak(*corner)).flatten(1).sum(1), middle)
    cut = erased(clipped, _peak(*corner)).flatten(1).sum(1)
    assert (cut <= middle).all()
    assert cut.sum() < 0.8 * middle.sum()


@pytest.mark.parametrize("placement", ["inside", "clipped"])
@pytest.mark.parametrize("peak", [(0, 0), (3, 15), (8, 8), (15, 15)])
def test_the_most_relevant_feature_is_erased(placement, peak):
    assert erased(Block(p=1, placement=placement), _peak(*peak))[:, peak[0], peak[1]].all()


@pytest.mark.parametrize(("patches", "centres"), [(1, 1), (1, 4), (3, 4), (5, 5)])
def test_patches_are_centred_on_distinct_features_among_the_most_relevant(patches, centres):
    relevance = torch.rand(MANY, 6, 6, generator=torch.Generator().manual_seed(2))
    tiny = Block(p=1, patches=patches, centres=centres, area=(1e-6, 1e-6))  # one feature each
    changed = erased(tiny, relevance).flatten(1)
    assert (changed.sum(1) == patches).all()
    place = (rank(-relevance) < centres).flatten(1)
    assert not changed[~place].any()
    share = patches / centres  # each of them equally often
    by_rank = changed.gather(1, rank(-relevance).flatten(1).argsort(1)[:, :centres])
    error = (by_rank.double().mean(0) - share).abs()
    assert error.max() <= frequency_error(share, MANY)


def test_patches_share_the_area():
    part = Block(p=1, patches=4, centres=4, area=(0.25, 0.25), aspect=(1, 1))
    relevance = torch.zeros(1, 32, 32)
    relevance[0, [4, 4, 28, 28], [4, 28, 4, 28]] = 1  # far from each other
    assert erased(part, relevance).sum() == 4 * 8 * 8


# --- ReplaceLowest, ranks and fills ---------------------------------------------------------------


@given(
    values=arrays("float32", (2, 7), elements=st.integers(-3, 3).map(float)),
)
def test_ranks_order_the_features_and_break_ties_by_position(values):
    ranks = rank(torch.from_numpy(values)).tolist()
    for row, places in zip(values.tolist(), ranks, strict=True):
        assert sorted(places) == list(range(7))
        ordered = sorted(range(7), key=lambda i: (row[i], i))
        assert [places[i] for i in ordered] == list(range(7))


@pytest.mark.parametrize("fraction", [0.1, 0.5, 1.0])
def test_the_lowest_features_are_replaced(fraction, seeded):
    relevance = torch.randn(20, 8, 8, generator=seeded(0))
    changed = ReplaceLowest(fraction=fraction)(images(20), relevance, seeded(1)).changed
    assert (changed.flatten(1).sum(1) == round(64 * fraction)).all()
    highest = relevance.masked_fill(~changed, -torch.inf).flatten(1).amax(1)
    lowest_kept = relevance.masked_fill(changed, torch.inf).flatten(1).amin(1)
    assert (highest <= lowest_kept).all()


def test_fills(seeded):
    x = images(2000, channels=2, size=4) * torch.tensor([1.0, 5]).view(2, 1, 1) + 3
    shape = x.shape

    def filled(fill, seed=0):
        return fill_values(fill, x, (2, 3), seeded(seed)).expand(shape)

    means = x.mean((0, 2, 3)).view(1, 2, 1, 1)
    torch.testing.assert_close(filled("mean"), means.expand(shape))
    assert (filled("zero") == 0).all()

    noise = filled("noise")
    torch.testing.assert_close(noise.mean((0, 2, 3)), means.flatten(), atol=0.15, rtol=0)
    torch.testing.assert_close(noise.std((0, 2, 3)), x.std((0, 2, 3)), rtol=0.03, atol=0)
    assert not torch.equal(noise, filled("noise", 1))

    low, high = x.flatten(1).amin(1).view(-1, 1, 1, 1), x.flatten(1).amax(1).view(-1, 1, 1, 1)
    unit = (filled("range") - low) / (high - low)
    assert -1e-5 <= unit.min() < 0.01
    assert 0.99 < unit.max() <= 1 + 1e-5
    assert abs(unit.mean() - 0.5) < frequency_error(0.5, unit.numel())

    other = filled("other")
    owners = (other.flatten(1)[:, None] == x.flatten(1)[None, :50]).all(2)[:100]
    assert owners.any(1).sum() >= 49  # somebody's pixels,
    assert not owners.diagonal().any()  # never one's own


def test_a_blur_averages_neighbours_and_keeps_constants():
    x = images(3, channels=2, size=12)
    blurred = fill_values("blur", x, (2, 3))
    low, high = x.flatten(2).amin(2), x.flatten(2).amax(2)
    assert (blurred.flatten(2) >= low[..., None]).all()
    assert (blurred.flatten(2) <= high[..., None]).all()
    assert blurred.var() < 0.5 * x.var()
    torch.testing.assert_close(
        fill_values("blur", torch.ones(1, 1, 5, 9), (2, 3)).sum().item(), 45.0
    )
    mirrored = fill_values("blur", x.flip(3), (2, 3)).flip(3)
    torch.testing.assert_close(mirrored, blurred)
    rows = fill_values("blur", x, (2,))  # along one axis only
    torch.testing.assert_close(rows[..., 3], fill_values("blur", x[..., 3], (2,)))


def test_an_unknown_fill_is_refused_with_those_known():
    with pytest.raises(ValueError, match=r"'grey'.*mean, zero, noise, range, blur, other"):
        fill_values("grey", images(1), (2, 3))


# --- Scale ----------------------------------------------------------------------------------------

MODES = ["attenuate", "reverse", "amplify", "noise"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["positive", "signed"])
@pytest.mark.parametrize("value", [0.0, -2.0])
def test_without_positive_relevance_nothing_changes(mode, kind, value, seeded):
    relevance = torch.full((4, 8, 8), value)
    if value and kind == "signed":
        relevance = relevance * 0
    found = Scale(p=1, mode=mode, relevance=kind)(images(4), relevance, seeded(0))
    assert torch.equal(found.x, images(4))
    assert not found.changed.any()


@pytest.mark.parametrize("mode", MODES)
def test_strength_zero_leaves_the_input(mode, seeded):
    relevance = torch.rand(4, 8, 8, generator=seeded(0))
    found = Scale(p=1, strength=0, mode=mode)(images(4), relevance, seeded(1))
    assert torch.equal(found.x, images(4))


@pytest.mark.parametrize("kind", ["positive", "signed"])
@pytest.mark.parametrize("mode", MODES)
def test_changes_are_as_written(mode, kind, seeded):
    """x′ = x + s·g with one s ~ U(0, strength) per sample, r divided by its largest magnitude."""
    n = 800
    x, relevance = (
        images(n, channels=2).double(),
        torch.randn(n, 8, 8, generator=seeded(0)).double(),
    )
    found = Scale(p=1, strength=3, mode=mode, relevance=kind)(x, 1e4 * relevance, seeded(1))
    r = relevance.clamp_min(0) if kind == "positive" else relevance
    r = (r / r.abs().flatten(1).amax(1).view(-1, 1, 1))[:, None]
    if mode == "noise":
        ratio = ((found.x - x) / torch.where(r == 0, torch.inf, r)).flatten(1)
        deviations = ratio.norm(dim=1) / (r != 0).expand_as(x).flatten(1).sum(1).sqrt()
        assert abs(deviations.mean() - 1.5) < 0.15
    else:
        direction = {"attenuate": -r * x, "reverse": -r, "amplify": r}[mode].expand_as(x)
        change = (found.x - x).flatten(1)
        unit = direction.flatten(1)
        strength = (change * unit).sum(1) / unit.square().sum(1)
        torch.testing.assert_close(change, strength[:, None] * unit)
        assert 0 <= strength.min() < 0.05
        assert 2.95 < strength.max() <= 3
        assert abs(strength.mean() - 1.5) < SIGMAS * 3 / (12 * n) ** 0.5
    assert torch.equal(found.changed, ((found.x - x) != 0).any(1))


def test_a_control_does_not_keep_the_number_of_pixels_that_its_own_map_drops():
    """How many pixels a map drops tells something about the sample."""
    own = torch.stack([torch.linspace(0, 1, 100) ** power for power in (1, 2, 4, 8)]).view(
        4, 10, 10
    )
    control = own.flip(0).flip(-1)
    x = torch.zeros(4, 1, 10, 10)
    drop = Drop(p=1.0, alpha=0.0)
    guided = drop(x, own, torch.Generator().manual_seed(0)).changed.flatten(1).sum(1)
    altered = drop(x, control, torch.Generator().manual_seed(0), None, own).changed
    found = altered.flatten(1).sum(1)
    assert len(set(guided.tolist())) == 4
    assert sorted(found.tolist()) == sorted(guided.tolist())
    assert not (found == guided).any()


@pytest.mark.parametrize("seed", range(5))
def test_numbers_are_exchanged_among_the_samples_that_are_acted_on(seed):
    own = torch.stack([torch.linspace(0, 1, 100) ** power for power in range(1, 9)]).view(8, 10, 10)
    x, drop = torch.zeros(8, 1, 10, 10), Drop(p=0.5, alpha=0.0, fill="range")
    streams = [torch.Generator().manual_seed(seed) for _ in range(2)]
    guided = drop(x, own, streams[0]).changed.flatten(1).sum(1)
    found = drop(x, own.flip(-1), streams[1], None, own).changed.flatten(1).sum(1)
    assert sorted(found.tolist()) == sorted(guided.tolist())
