import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attrreg.features import on_features, over_channels, resolve_axes
from attrreg.perturbation import Block, Drop, ReplaceLowest, Scale


@st.composite
def inputs(draw):
    """A tensor with up to three axes beside the batch, and some of them as feature axes."""
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    axes = draw(st.sets(st.integers(1, len(shape)), min_size=1))
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x, tuple(axes)


@given(case=inputs())
def test_channels_are_summed_and_spread_again(case):
    x, axes = case
    features = on_features(x, resolve_axes(x, axes))
    assert features.shape == (2, *(x.shape[axis] for axis in sorted(axes)))
    torch.testing.assert_close(features.flatten(1).sum(1), x.flatten(1).sum(1))
    spread = over_channels(features, x, resolve_axes(x, axes))
    channels = [axis for axis in range(1, x.ndim) if axis not in axes]
    expected = x.sum(channels, keepdim=True) if channels else x
    torch.testing.assert_close(spread, expected)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3, 4), (2, 3, 4, 5, 6)])
def test_all_axes_after_the_channels_are_features_unless_said_otherwise(shape):
    assert resolve_axes(torch.zeros(shape), None) == tuple(range(2, len(shape)))


def test_axes_ascend_in_whatever_order_they_are_given():
    assert resolve_axes(torch.zeros(2, 3, 4, 5), (3, 1)) == (1, 3)


@pytest.mark.parametrize("axes", [(0,), (4,), (-1,), (), (0, 2), (2, 2)])
def test_axes_that_do_not_exist_are_refused_with_those_that_do(axes):
    with pytest.raises(ValueError, match=r"feature axes.*\(2, 3, 4, 5\).*between 1 and 3"):
        resolve_axes(torch.zeros(2, 3, 4, 5), axes)


def test_a_table_has_no_channels_and_needs_its_axis_named():
    with pytest.raises(ValueError, match=r"feature axes.*\(2, 3\)"):
        resolve_axes(torch.zeros(2, 3), None)
    assert resolve_axes(torch.zeros(2, 3), (1,)) == (1,)


# Shape of the input, feature axes as given, and what those are.
MODALITIES = {
    "image": ((6, 2, 8, 7), None, (2, 3)),
    "image, channels last": ((6, 8, 7, 2), (1, 2), (1, 2)),
    "series": ((6, 3, 40), None, (2,)),
    "embedded text": ((6, 40, 5), (1,), (1,)),
    "time and channel": ((6, 30, 4), (2, 1), (1, 2)),
    "cloud": ((6, 6, 50), None, (2,)),
    "table": ((6, 20), (1,), (1,)),
}
EVERY = [
    Drop(p=1, alpha=0.5, beta=0.5),
    Block(p=1),
    Block(p=1, patches=3, centres=4, placement="clipped"),
    ReplaceLowest(),
    Scale(p=1),
]


@pytest.mark.parametrize("fill", ["mean", "zero", "noise", "range", "blur", "other"])
@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("part", EVERY, ids=lambda part: part.name)
def test_every_perturbation_takes_every_modality(part, modality, fill, seeded):
    shape, given_axes, axes = MODALITIES[modality]
    x = torch.randn(shape, generator=seeded(0))
    relevance = torch.rand(6, *(shape[axis] for axis in axes), generator=seeded(1))
    if "fill" in type(part).model_fields:
        part = part.model_copy(update={"fill": fill})
    before = x.clone()
    perturbed = part(x, relevance, seeded(2), given_axes)
    assert torch.equal(x, before)
    assert perturbed.x.shape == x.shape
    assert perturbed.x.dtype == x.dtype
    assert perturbed.x.isfinite().all()
    assert perturbed.changed.shape == relevance.shape
    assert perturbed.changed.any()
    # Nothing outside of what is said to be changed differs, in any channel.
    kept = ~over_channels(perturbed.changed, x, axes).expand(shape)
    assert torch.equal(perturbed.x[kept], x[kept])
    assert not torch.equal(perturbed.x, x)


@pytest.mark.parametrize("modality", [key for key in MODALITIES if key != "image"])
def test_the_place_of_the_channels_does_not_matter(modality, seeded):
    """An image with its channels last gives what the same image with its channels first gives."""
    shape, given_axes, axes = MODALITIES[modality]
    x = torch.randn(shape, generator=seeded(0), dtype=torch.float64)
    relevance = torch.rand(6, *(shape[axis] for axis in axes), generator=seeded(1)).double()
    channels = [axis for axis in range(1, x.ndim) if axis not in axes]
    order = (0, *channels, *axes)
    first = x.permute(order) if channels else x[:, None]
    for part in (Drop(p=1), Block(p=1), ReplaceLowest(fill="mean"), Scale(p=1)):
        found = part(x, relevance, seeded(2), given_axes)
        expected = part(first, relevance, seeded(2))
        assert torch.equal(found.changed, expected.changed)
        moved = found.x.permute(order) if channels else found.x[:, None]
        torch.testing.assert_close(moved, expected.x)


def test_blocks_on_three_axes_are_refused_with_what_works():
    x, relevance = torch.zeros(2, 1, 4, 4, 4), torch.rand(2, 4, 4, 4)
    with pytest.raises(ValueError, match=r"one or two feature axes, found 3.*'drop'"):
        Block(p=1)(x, relevance)
    assert Drop(p=1)(x + relevance[:, None], relevance).changed.any()
