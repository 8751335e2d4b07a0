"""Controls: maps that keep all but one thing."""

import copy
from dataclasses import replace

import pydantic
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attrreg import method, parameters
from attrreg.attribution.controls import (
    Oracle,
    RandomClass,
    Reversed,
    Scrambled,
    Swapped,
    SwappedWithinClass,
    UniformMap,
    Untrained,
)
from attrreg.attribution.parts import LRP, Gradient, GradientTimesInput
from attrreg.state import SharedPass, State
from attrreg.uniform import Uniform

NOBODY = torch.nn.Identity()
CONTROLS = [
    *(Swapped, SwappedWithinClass, Scrambled, RandomClass, Reversed, Untrained, UniformMap),
    Oracle,
]


def stream(seed, **known):
    """A state with a random stream and a memory of its own."""
    return State(generator=torch.Generator().manual_seed(seed), **({"memory": {}} | known))


def maps(n, *shape):
    """Maps without two equal values."""
    return torch.arange(n * torch.Size(shape).numel(), dtype=torch.float32).view(n, *shape)


def altered(control, own, state, y=None):
    """What a control that does not ask the model makes of maps."""
    part = control(of=Uniform())
    y = torch.zeros(len(own), dtype=torch.int64) if y is None else torch.tensor(y)
    return part.alter(own, NOBODY, own, y, state)


def owners(found, *known):
    """The row of the known maps that each map is; −1 for none."""
    equal = (found[:, None] == torch.cat(known)).flatten(2).all(2)
    return [row.nonzero().flatten().tolist()[0] if row.any() else -1 for row in equal]


# --- swapped --------------------------------------------------------------------------------------


@given(n=st.integers(2, 9), seed=st.integers(0, 2**16))
def test_swapped_gives_every_map_to_another_sample(n, seed):
    own = maps(n, 2, 3)
    swapped = altered(Swapped, own, stream(seed))
    assert all(not torch.equal(swapped[i], own[i]) for i in range(n))
    assert torch.equal(swapped.sort(0).values, own)  # and every map is used once


def test_swapped_reaches_every_other_sample():
    own = maps(4, 3)
    found = torch.stack([altered(Swapped, own, stream(seed))[0] for seed in range(200)])
    shares = (found[:, None] == own).all(2).double().mean(0)
    assert shares[0] == 0
    assert (shares[1:] - 1 / 3).abs().max() < 5 * (2 / 9 / 200) ** 0.5


def test_swapped_of_one_sample_gives_the_previous_one():
    state = stream(0)
    steps = [maps(1, 4, 4) + 100 * step for step in range(3)]
    found = [altered(Swapped, step, state) for step in steps]
    # The first has no other: its values stay, their places do not.
    assert torch.equal(found[0].flatten().sort().values, steps[0].flatten())
    assert not torch.equal(found[0], steps[0])
    assert torch.equal(found[1], steps[0])
    assert torch.equal(found[2], steps[1])


@pytest.mark.parametrize("memories", [[{}, {}], [None, None]])
def test_the_loop_owns_the_memory(memories):
    altered(Swapped, maps(1, 4, 4), stream(0, memory=memories[0]))
    fresh = altered(Swapped, maps(1, 4, 4) + 100, stream(0, memory=memories[1]))
    assert fresh.min() >= 100


def test_two_controls_do_not_share_what_they_keep():
    state = stream(0)
    twice = Swapped(of=Swapped(of=GradientTimesInput()))
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2, bias=False)).double()
    batches = torch.randn(4, 1, 1, 4, 4, dtype=torch.float64)
    y = torch.tensor([0])
    found = [twice(model, x, y, state) for x in batches]
    own = [GradientTimesInput()(model, x, y) for x in batches]
    assert torch.equal(found[2], own[0])  # each of the two is one step late
    assert torch.equal(found[3], own[1])


# --- swapped within the class ---------------------------------------------------------------------


@given(y=st.lists(st.integers(0, 3), min_size=2, max_size=9), seed=st.integers(0, 2**16))
def test_swapped_within_the_class_gives_another_map_of_the_class_where_there_is_one(y, seed):
    own = maps(len(y), 2, 3)
    found = owners(altered(SwappedWithinClass, own, stream(seed), y), own)
    for sample, owner in enumerate(found):
        assert owner not in (-1, sample)
        assert y[owner] == y[sample] or y.count(y[sample]) == 1


def test_swapped_within_the_class_reaches_all_others_of_the_class_equally_often():
    own, y = maps(6, 3), [0, 0, 1, 0, 1, 0]
    taken = [owners(altered(SwappedWithinClass, own, stream(s), y), own)[0] for s in range(300)]
    shares = torch.bincount(torch.tensor(taken), minlength=6) / 300
    assert shares[[0, 2, 4]].tolist() == [0, 0, 0]
    assert (shares[[1, 3, 5]] - 1 / 3).abs().max() < 5 * (2 / 9 / 300) ** 0.5


def steps_within_class(batches, **known):
    """Owners of the maps in a sequence of batches (labels, indices); one more number per map."""
    state, seen, found = stream(0, **known), [], []
    for step, (y, samples) in enumerate(batches):
        own = maps(len(y), 3) + 1000 * step
        seen.append(own)
        now = replace(state, indices=None if samples is None else torch.tensor(samples))
        found.append(owners(altered(SwappedWithinClass, own, now, y), *seen))
    return found


def test_swapped_within_the_class_looks_into_the_previous_batch():
    found = steps_within_class([([0, 1], [0, 1]), ([0, 1], [2, 3])])
    assert found == [[1, 0], [0, 1]]
    # one sample at a time: the first is scrambled, and a lone class takes any other sample
    assert steps_within_class([([0], [0]), ([0], [1]), ([1], [2])]) == [[-1], [0], [1]]


def test_swapped_within_the_class_takes_no_earlier_map_of_the_same_sample():
    assert steps_within_class([([0], [5]), ([0], [5])]) == [[-1], [-1]]
    assert steps_within_class([([0, 1], [0, 1]), ([0, 1], [0, 1])])[1] not in ([0, 1], [2, 3])
    twice = steps_within_class([([0, 0, 0], [7, 7, 8])])[0]  # a batch over a seam
    assert twice[:2] == [2, 2]


def test_without_indices_or_memory_the_previous_batch_is_left_alone():
    assert steps_within_class([([0, 1], None), ([0, 1], None)])[1] == [3, 2]
    batches = [([0, 1], [0, 1]), ([0, 1], [2, 3])]
    assert steps_within_class(batches, memory=None)[1] == [3, 2]


# --- scrambled, reversed, uniform -----------------------------------------------------------------


@given(n=st.integers(1, 5), seed=st.integers(0, 2**16), ties=st.booleans())
def test_scrambled_keeps_the_values_of_each_map(n, seed, ties):
    own = maps(n, 3, 4) // (5 if ties else 1)
    scrambled = altered(Scrambled, own, stream(seed))
    assert scrambled.shape == own.shape
    before, after = own.flatten(1).sort(1).values, scrambled.flatten(1).sort(1).values
    assert torch.equal(before, after)


def test_scrambled_puts_every_value_everywhere_equally_often_and_each_sample_on_its_own():
    own = maps(1, 5).expand(4000, 5)
    scrambled = altered(Scrambled, own, stream(1))
    frequencies = (scrambled[:, None, :] == own[0, None, :, None]).double().mean(0).squeeze()
    assert (frequencies - 0.2).abs().max() < 5 * (0.16 / 4000) ** 0.5


def test_reversed_puts_the_least_relevant_first():
    own = maps(3, 2, 5)
    order = altered(Reversed, own, stream(0)).flatten(1).argsort(1)
    assert torch.equal(order, own.flatten(1).argsort(1).flip(1))


def test_uniform_maps_do_not_depend_on_the_own_ones():
    found = altered(UniformMap, maps(500, 4, 5).double(), stream(2))
    assert found.dtype == torch.float64
    assert torch.equal(found, altered(UniformMap, -maps(500, 4, 5).double(), stream(2)))
    assert 0 <= found.min() < found.max() < 1
    assert abs(found.mean() - 0.5) < 5 * (1 / 12 / found.numel()) ** 0.5
    assert abs(found.var() - 1 / 12) < 0.002


# --- random class ---------------------------------------------------------------------------------


def test_a_random_class_is_explained_by_the_same_attribution(make_model, make_batch):
    model, (x, y) = make_model("small"), make_batch("small", n=40)
    control = RandomClass(of=LRP(rule="epsilon", sign="positive"))
    own, found = control.maps(model, x, y, stream(3))
    assert torch.equal(own, control.of(model, x, y))
    classes = torch.stack([control.of(model, x, y * 0 + label) for label in range(4)])
    explained = torch.isclose(classes, found).flatten(2).all(2)
    assert explained.any(0).all()
    assert explained.any(1).all()  # every class is drawn, the label as well
    assert not torch.equal(control(model, x, y, stream(4)), found)


def test_a_random_class_is_explained_in_the_shared_pass(make_model, make_batch):
    model, (x, y) = make_model("plain").train(), make_batch("plain", n=40)
    leaf, seen = x.requires_grad_(), []
    model.register_forward_hook(lambda *_: seen.append(1))
    part = Gradient(forward_pass="training")
    state = stream(0, forward=SharedPass(model, leaf))
    own, found = RandomClass(of=part).maps(model, leaf, y, state)
    assert seen == [1]
    assert torch.equal(own, part(model, leaf, y, state))
    classes = torch.stack([part(model, leaf, y * 0 + label, state) for label in range(4)])
    assert torch.isclose(classes, found).flatten(2).all(2).any(0).all()


@pytest.mark.parametrize("of", ["uniform", {"name": "swapped", "of": "uniform"}])
def test_a_random_class_needs_something_that_explains_one(of):
    with pytest.raises(pydantic.ValidationError, match="'uniform' explains none"):
        parameters.RandomClass(of=of)


# --- untrained ------------------------------------------------------------------------------------


def bits(model):
    """Everything in a model that training or attribution could move."""
    return {
        "state": {key: value.clone() for key, value in model.state_dict().items()},
        "flags": [module.training for module in model.modules()],
        "needs": [value.requires_grad for value in model.parameters()],
        "grads": [
            None if value.grad is None else value.grad.clone() for value in model.parameters()
        ],
    }


def equal(first, second):
    """Whether two models have the same bits."""
    tensors = all(map(torch.equal, first["state"].values(), second["state"].values()))
    return tensors and all(first[key] == second[key] for key in ("flags", "needs"))


def test_untrained_maps_are_those_of_the_model_at_the_first_step(make_model, make_batch):
    model, (x, y) = make_model("small").train(), make_batch("small", n=6)
    first = copy.deepcopy(model)
    chosen, state = method.create("reldrop-pixel/untrained"), stream(0)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
    for step in range(4):
        batch = x.roll(step, -1)
        own, found = chosen.attribution.maps(model, batch, y, state)
        assert torch.equal(found, LRP()(first, batch, y))
        assert torch.equal(own, found) == (step == 0)
        optimiser.zero_grad()
        chosen.loss(model, batch, y, state=state).total.backward()
        optimiser.step()


def test_the_untrained_copy_is_a_model_of_its_own(make_model, make_batch):
    model, (x, y) = make_model("small").train(), make_batch("small", n=6)
    model(x).sum().backward()
    before, state = bits(model), stream(0)
    Untrained(of=LRP())(model, x, y, state)
    assert equal(before, bits(model))
    made = state.memory["untrained"]
    own = {value.data_ptr() for value in model.state_dict().values()}
    assert not own & {value.data_ptr() for value in made.state_dict().values()}
    assert not any(module.training for module in made.modules())
    assert not any(value.requires_grad for value in made.parameters())
    kept = bits(made)
    Untrained(of=LRP())(model, x, y, state)
    assert equal(kept, bits(made))


def test_the_copy_is_taken_before_a_shared_pass_moves_running_statistics(make_model, make_batch):
    model, (x, y) = make_model("small").train(), make_batch("small", n=6)
    first, leaf = copy.deepcopy(model), x.requires_grad_()
    part = Gradient(forward_pass="training")
    state = stream(0, forward=SharedPass(model, leaf))
    own, found = Untrained(of=part).maps(model, leaf, y, state)
    assert not torch.equal(model[1].running_mean, first[1].running_mean)
    assert torch.equal(found, Gradient()(first, x, y))
    torch.testing.assert_close(own, part(model, leaf, y, state))


def test_a_loop_may_give_the_untrained_model(make_model, make_batch):
    model, (x, y) = make_model("small"), make_batch("small", n=3)
    given = copy.deepcopy(model)
    torch.nn.init.normal_(given[0].weight)
    nested = Swapped(of=RandomClass(of=Untrained(of=LRP())))
    for control in (Untrained(of=LRP()), Untrained(of=nested)):
        state = stream(0, memory={"untrained": given}, epoch=3)
        own, _ = control.maps(model, x, y, state)
        assert torch.equal(own, LRP()(model, x, y))
        assert state.memory["untrained"] is given
    state = stream(1, memory={"untrained": given}, epoch=3)
    found = RandomClass(of=Untrained(of=LRP()))(model, x, y, state)
    classes = torch.stack([LRP()(given, x, y * 0 + label) for label in range(4)])
    assert torch.isclose(classes, found).flatten(2).all(2).any(0).all()


@pytest.mark.parametrize(
    ("known", "said"),
    [({"memory": None}, "no memory"), ({"memory": {}, "epoch": 2}, "without it in epoch 2")],
)
def test_an_untrained_copy_has_to_be_kept(known, said, make_model, make_batch):
    with pytest.raises(ValueError, match=f"'untrained'.*{said}.*State"):
        Untrained(of=LRP())(make_model("small"), *make_batch("small"), stream(0, **known))


# --- oracle ---------------------------------------------------------------------------------------


def test_the_oracle_keeps_the_order_of_the_region():
    region = torch.tensor([[0.0, 1, 2, 1, 0, 0], [5, 5, 5, 5, 5, 4], [0, 0, 0, 0, 0, 0]])
    found = altered(Oracle, maps(3, 6).double(), stream(0, region=region))
    assert found.dtype == torch.float64
    for values, wanted in zip(found, region, strict=True):
        order = values.argsort(descending=True)
        assert torch.equal(wanted[order], wanted.sort(descending=True).values)
    assert (found - region).abs().max() < 5 / 1000 + 1e-12


def test_the_oracle_puts_equal_features_in_random_order():
    region = torch.zeros(3000, 6)
    region[:, 2:] = 1
    first = altered(Oracle, maps(3000, 6), stream(0, region=region.bool())).argmax(1)
    counts = torch.bincount(first, minlength=6)
    assert counts[:2].tolist() == [0, 0]
    assert (counts[2:] - 750).abs().max() < 5 * (3000 * 0.25 * 0.75) ** 0.5


@pytest.mark.parametrize(
    ("region", "said"), [(None, "found None"), (torch.ones(3, 5), r"found \(3, 5\).*\(3, 6\)")]
)
def test_the_oracle_needs_a_region(region, said):
    with pytest.raises(ValueError, match=f"'oracle'.*{said}"):
        altered(Oracle, maps(3, 6), stream(0, region=region))


# --- all of them ----------------------------------------------------------------------------------


def known(x, **more):
    """A state that every control can do with."""
    region = torch.rand(len(x), *x.shape[2:], generator=torch.Generator().manual_seed(9))
    return stream(3, indices=torch.arange(len(x)), region=region, **more)


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("attribution", [LRP(), Gradient(sign="absolute")])
def test_a_control_knows_the_own_maps(control, attribution, make_model, make_batch):
    model, (x, y) = make_model("small"), make_batch("small", n=4)
    part = control(of=attribution)
    own, found = part.maps(model, x, y, known(x))
    assert torch.equal(own, attribution(model, x, y))
    assert (found.shape, found.dtype) == (own.shape, own.dtype)
    assert not found.requires_grad
    assert torch.equal(part(model, x, y, known(x)), found)
    assert torch.equal(own, found) == (control is Untrained)  # nothing has been learned yet


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("n", [1, 3])
def test_controls_draw_from_the_given_stream_only(control, n, make_model, make_batch):
    model, (x, y) = make_model("small"), make_batch("small", n=n)
    before, part = torch.get_rng_state(), control(of=Gradient())
    first = part(model, x, y, known(x))
    assert torch.equal(part(model, x, y, known(x)), first)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("control", CONTROLS)
def test_a_control_of_a_control_compares_with_the_attribution_inside(
    control, make_model, make_batch
):
    model, (x, y) = make_model("small"), make_batch("small", n=3)
    for both in (control(of=Scrambled(of=LRP())), Scrambled(of=control(of=LRP()))):
        own, found = both.maps(model, x, y, known(x))
        assert torch.equal(own, LRP()(model, x, y))
        assert not torch.equal(own, found)


def test_controls_can_be_stacked(make_model, make_batch):
    model, (x, y) = make_model("small"), make_batch("small", n=3)
    both = Swapped(of=Scrambled(of=LRP()))(model, x, y, stream(5))
    own = LRP()(model, x, y)
    for row in both.flatten(1).sort(1).values:
        distances = (own.flatten(1).sort(1).values - row).abs().amax(1)
        assert distances.min() == 0
