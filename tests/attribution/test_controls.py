"""Controls: uninformative maps that keep all but one thing."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attrreg.attribution.controls import Scrambled, Swapped
from attrreg.attribution.parts import LRP, Gradient
from attrreg.state import State
from attrreg.uniform import Uniform

NOBODY = torch.nn.Identity()


def stream(seed):
    """A state with a random stream of its own."""
    return State(generator=torch.Generator().manual_seed(seed))


def maps(n, *shape):
    """Maps without two equal values."""
    return torch.arange(n * torch.Size(shape).numel(), dtype=torch.float32).view(n, *shape)


@given(n=st.integers(2, 9), seed=st.integers(0, 2**16))
def test_swapped_gives_every_map_to_another_sample(n, seed):
    own = maps(n, 2, 3)
    swapped = Swapped(of=Uniform()).alter(own, stream(seed))
    assert all(not torch.equal(swapped[i], own[i]) for i in range(n))
    assert torch.equal(swapped.sort(0).values, own)  # and every map is used once


def test_swapped_reaches_every_other_sample():
    own = maps(4, 3)
    found = torch.stack([Swapped(of=Uniform()).alter(own, stream(seed))[0] for seed in range(200)])
    owners = (found[:, None] == own).all(2).double().mean(0)
    assert owners[0] == 0
    assert (owners[1:] - 1 / 3).abs().max() < 5 * (2 / 9 / 200) ** 0.5


def test_swapped_of_one_sample_gives_the_previous_one():
    state = stream(0)
    control = Swapped(of=Uniform())
    steps = [maps(1, 4, 4) + 100 * step for step in range(3)]
    found = [control.alter(step, state) for step in steps]
    # The first has no other: its values stay, their places do not.
    assert torch.equal(found[0].flatten().sort().values, steps[0].flatten())
    assert not torch.equal(found[0], steps[0])
    assert torch.equal(found[1], steps[0])
    assert torch.equal(found[2], steps[1])


def test_the_loop_owns_the_memory():
    control = Swapped(of=Uniform())
    control.alter(maps(1, 4, 4), stream(0))
    fresh = control.alter(maps(1, 4, 4) + 100, stream(0))
    assert fresh.min() >= 100


@given(n=st.integers(1, 5), seed=st.integers(0, 2**16), ties=st.booleans())
def test_scrambled_keeps_the_values_of_each_map(n, seed, ties):
    own = maps(n, 3, 4) // (5 if ties else 1)
    scrambled = Scrambled(of=Uniform()).alter(own, stream(seed))
    assert scrambled.shape == own.shape
    before, after = own.flatten(1).sort(1).values, scrambled.flatten(1).sort(1).values
    assert torch.equal(before, after)


def test_scrambled_puts_every_value_everywhere_equally_often_and_each_sample_on_its_own():
    own = maps(1, 5).expand(4000, 5)
    scrambled = Scrambled(of=Uniform()).alter(own, stream(1))
    frequencies = (scrambled[:, None, :] == own[0, None, :, None]).double().mean(0).squeeze()
    assert (frequencies - 0.2).abs().max() < 5 * (0.16 / 4000) ** 0.5


@pytest.mark.parametrize("control", [Swapped, Scrambled])
@pytest.mark.parametrize("attribution", [LRP(), Gradient(sign="absolute")])
def test_a_control_alters_the_maps_of_its_attribution(control, attribution, make_model, make_batch):
    model = make_model("small")
    x, y = make_batch("small", n=4)
    own = attribution(model, x, y)
    part = control(of=attribution)
    assert torch.equal(part(model, x, y, stream(3)), part.alter(own, stream(3)))
    assert not torch.equal(part(model, x, y, stream(3)), own)


@pytest.mark.parametrize("control", [Swapped, Scrambled])
@pytest.mark.parametrize("n", [1, 3])
def test_controls_draw_from_the_given_stream_only(control, n):
    before = torch.get_rng_state()
    first = control(of=Uniform()).alter(maps(n, 3, 3), stream(4))
    assert torch.equal(control(of=Uniform()).alter(maps(n, 3, 3), stream(4)), first)
    assert torch.equal(torch.get_rng_state(), before)


def test_controls_can_be_stacked(make_model, make_batch):
    model = make_model("small")
    x, y = make_batch("small", n=3)
    both = Swapped(of=Scrambled(of=LRP()))(model, x, y, stream(5))
    own = LRP()(model, x, y)
    for row in both.flatten(1).sort(1).values:
        distances = (own.flatten(1).sort(1).values - row).abs().amax(1)
        assert distances.min() == 0
