"""Methods as a whole: one generic test over everything that has a name, and fair controls."""

import copy

import pydantic
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from attrreg import catalogue, method, parameters
from attrreg.attribution.parts import LRP, Gradient
from attrreg.objective import CrossEntropy
from attrreg.perturbation import Block, Drop
from attrreg.state import SharedPass, State

UNGUIDED = ("baseline", "label-smoothing", "dropout")
NAMES = method.names()
PERTURBING = [name for name in NAMES if method.create(name).perturbation is not None]
CONTROLLED = [(name.rpartition("/")[0], name) for name in NAMES if "/" in name]


@pytest.fixture
def case(make_model, make_batch):
    """A network with batch norm in training mode, its inputs and labels."""
    return (make_model("small").train(), *make_batch("small", n=8))


def known(x, **more):
    """What a loop knows beside the batch, all that any method may ask for."""
    region = torch.rand(len(x), 8, 8, generator=torch.Generator().manual_seed(7)) > 0.7
    return State(**({"memory": {}, "indices": torch.arange(len(x)), "region": region} | more))


def loss(name_or_method, case, seeds=(1, 2), **overrides):
    """The loss under streams of its own for the perturbation and for the attribution."""
    chosen = name_or_method
    if isinstance(chosen, str):
        chosen = method.create(chosen, **overrides)
    perturbation, attribution = (torch.Generator().manual_seed(seed) for seed in seeds)
    state = known(case[1], generator=attribution)
    return chosen.loss(*case, generator=perturbation, state=state)


# --- everything that has a name -------------------------------------------------------------------


def test_the_published_names_exist():
    presets = "random-erasing reldrop-pixel reldrop-block reldrop-patch sgt sgt-shared challenger"
    assert {"baseline", *presets.split()} <= set(NAMES)
    guided = [name for name in presets.split() if name != "random-erasing"]
    ladder = ["scrambled", "swapped", "swapped-within-class"]
    beside = ["random-class", "reversed", "untrained", "uniform", "oracle"]
    controls = {f"{name}/{control}" for name in guided for control in ladder + beside}
    assert controls <= set(NAMES)
    assert len(NAMES) == len(set(NAMES))


@pytest.mark.parametrize("name", NAMES)
def test_every_method_gives_a_loss_with_the_gradients_of_the_baseline(name, case):
    model = case[0]
    loss("baseline", case).total.backward()
    expected = {key for key, value in model.named_parameters() if value.grad is not None}
    model.zero_grad()
    found = loss(name, case)
    assert found.total.shape == ()
    assert found.total.isfinite()
    found.total.backward()
    gradients = {key: value.grad for key, value in model.named_parameters()}
    assert {key for key, value in gradients.items() if value is not None} == expected
    assert all(value.isfinite().all() and value.any() for value in gradients.values())
    for value in found.parts.values():
        assert value.shape == ()
        assert value.isfinite()
        assert not value.requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_every_method_is_determined_by_its_streams(name, case):
    model = case[0]
    twin = copy.deepcopy(model)
    before = torch.get_rng_state()
    first = loss(name, case)
    if name == "dropout":  # it draws from torch's own stream, as the dropout of a model does
        torch.set_rng_state(before)
    second = loss(name, (twin, *case[1:]))
    assert torch.equal(torch.get_rng_state(), before) == (name != "dropout")
    torch.set_rng_state(before)
    assert torch.equal(first.total, second.total)
    assert first.parts == second.parts
    different = loss(name, (copy.deepcopy(model), *case[1:]), seeds=(3, 4))
    assert (different.total == first.total) == (name in UNGUIDED)


@pytest.mark.parametrize("name", NAMES)
def test_every_method_leaves_its_arguments_and_flags(name, case):
    model, x, y = case
    for place, module in enumerate(model.modules()):
        module.training = place % 2 == 0
    flags = [module.training for module in model.modules()]
    leaf, labels = x.clone().requires_grad_(), y.clone()
    parameters_before = copy.deepcopy(list(model.parameters()))
    loss(name, (model, leaf, labels)).total.backward()
    assert torch.equal(leaf, x)
    assert torch.equal(labels, y)
    assert leaf.requires_grad
    assert leaf.grad is None
    assert [module.training for module in model.modules()] == flags
    for value, before in zip(model.parameters(), parameters_before, strict=True):
        assert torch.equal(value, before)


@pytest.mark.parametrize("name", NAMES)
def test_a_map_moves_no_running_statistics(name, case):
    """Each training-mode pass counts once in a batch norm; a map in evaluation mode does not."""
    model = case[0]
    passes = 2 if name.startswith("sgt") else 1
    loss(name, case)
    assert model[1].num_batches_tracked == passes


@pytest.mark.parametrize("name", NAMES)
def test_passes_are_not_made_twice(name, case):
    """A clean pass that both the map and the objective need in the same mode is made once."""
    model, seen = case[0], []
    model.register_forward_hook(lambda module, inputs, logits: seen.append(module.training))
    loss(name, case)
    base, _, control = name.partition("/")
    training = 2 if base.startswith("sgt") else 1
    evaluation = 0 if base in (*UNGUIDED, "random-erasing", "sgt-shared") else 1
    if control == "untrained" or (control == "random-class" and base != "sgt-shared"):
        evaluation += 1  # the own map, and another
    assert (seen.count(True), seen.count(False)) == (training, evaluation)


@pytest.mark.parametrize("name", NAMES)
def test_every_method_drops_into_a_training_loop(name, make_model, make_batch):
    torch.manual_seed(0)
    model, (x, y) = make_model("small").train(), make_batch("small", n=16)
    chosen, optimiser = method.create(name), torch.optim.Adam(model.parameters(), lr=0.01)
    before = F.cross_entropy(model(x), y).item()
    needs = name.endswith(("/untrained", "/oracle"))
    state = known(x) if needs else None
    for _ in range(25):
        optimiser.zero_grad()
        chosen.loss(model, x, y, state=state).total.backward()
        optimiser.step()
    assert F.cross_entropy(model(x), y).item() < before


@pytest.mark.parametrize("name", NAMES)
def test_single_samples_single_precision_and_constant_inputs(name, make_model):
    model = make_model("resnet10-narrow", dtype=torch.float32).eval()
    for x in (torch.randn(1, 1, 8, 8), torch.zeros(1, 1, 8, 8), torch.ones(3, 1, 8, 8)):
        y = torch.arange(len(x))
        found = loss(name, (model, x, y))
        assert found.total.isfinite()
        assert found.total.dtype == torch.float32
        assert all(value.isfinite() for value in found.parts.values())


@pytest.mark.parametrize("name", PERTURBING)
def test_realised_area_and_energy_are_recorded(name, case):
    model, x, y = case[0].eval(), *case[1:]
    found = loss(name, (model, x, y)).parts
    streams = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    leaf = x.clone().requires_grad_()
    state = known(x, generator=streams[1], forward=SharedPass(model, leaf))
    made = method.create(name).perturb(model, leaf, y, generator=streams[0], state=state)[1]
    torch.testing.assert_close(found["masked_area"], made.changed.double().mean())
    energy = (made.x - x).square().sum() / x.square().sum()
    torch.testing.assert_close(found["energy"], energy.detach())


# --- what the papers write ------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in PERTURBING if "shared" not in name])
def test_the_loss_is_the_equation_and_nothing_is_differentiated_through_the_input(name, case):
    model, x, y = copy.deepcopy(case[0]).eval(), *case[1:]
    streams = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    state = known(x, generator=streams[1])
    chosen = method.create(name)
    perturbed = chosen.perturb(model, x, y, generator=streams[0], state=state)[1].x
    assert not perturbed.requires_grad
    expected = F.cross_entropy(model(perturbed), y)
    if name.startswith("sgt"):
        clean, other = model(x).log_softmax(1), model(perturbed).log_softmax(1)
        divergence = (clean.exp() * (clean - other)).sum(1).mean()
        expected = F.cross_entropy(model(x), y) + divergence
    found = loss(name, (model, x, y)).total
    torch.testing.assert_close(found, expected)
    ours = torch.autograd.grad(found, list(model.parameters()))
    theirs = torch.autograd.grad(expected, list(model.parameters()))
    for gradient, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(gradient, wanted)


@pytest.mark.parametrize("control", ["", *(f"/{name}" for name in catalogue.CONTROLS)])
def test_sgt_shared_equals_sgt_where_the_modes_do_not_differ(control, make_model, make_batch):
    case = (make_model("plain").train(), *make_batch("plain", n=8))
    shared, own = loss(f"sgt-shared{control}", case), loss(f"sgt{control}", case)
    torch.testing.assert_close(shared.total, own.total)
    ours = torch.autograd.grad(shared.total, list(case[0].parameters()))
    theirs = torch.autograd.grad(own.total, list(case[0].parameters()))
    for gradient, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(gradient, wanted)


def test_sgt_replaces_what_has_the_lowest_gradient_of_the_log_probability(case):
    model, x, y = case
    relevance, perturbed = method.create("sgt").perturb(model, x, y)
    leaf = x.clone().requires_grad_()
    log_probability = model.eval()(leaf).log_softmax(1)[range(8), y].sum()
    expected = torch.autograd.grad(log_probability, leaf)[0].sum(1)
    torch.testing.assert_close(relevance, expected)
    threshold = relevance.flatten(1).median(1).values.view(-1, 1, 1)
    assert torch.equal(perturbed.changed, relevance <= threshold)


@pytest.mark.parametrize("name", ["reldrop-pixel", "reldrop-block", "reldrop-patch", "challenger"])
def test_reldrop_and_challenger_explain_the_label_by_lrp(name, case):
    model, x, y = case
    relevance = method.create(name).perturb(model, x, y)[0]
    expected = LRP(rule="epsilon-plus-flat")(model, x, y)
    assert torch.equal(relevance, expected)
    other = method.create(name).perturb(model, x, (y + 1) % 4)[0]
    assert not torch.allclose(other, expected)


def test_a_block_covers_the_most_relevant_pixel(case):
    chosen = method.create("reldrop-block", perturbation={"p": 1.0})
    relevance, perturbed = chosen.perturb(*case)
    top = relevance.flatten(1).argmax(1)
    assert perturbed.changed.flatten(1)[range(8), top].all()


def test_random_erasing_does_not_look_at_the_model(case):
    first = method.create("random-erasing")
    streams = [torch.Generator().manual_seed(5) for _ in range(2)]
    x, y = case[1:]
    one = first.perturb(case[0], x, y, generator=streams[0], state=State(generator=streams[0]))[1]
    two = first.perturb(
        nn.Identity(), x, 0 * y, generator=streams[1], state=State(generator=streams[1])
    )[1]
    assert torch.equal(one.x, two.x)


def test_a_baseline_has_nothing_to_perturb(case):
    with pytest.raises(ValueError, match="does not perturb"):
        method.create("baseline").perturb(*case)


# --- guided methods and their controls ------------------------------------------------------------


def batches(name, control, case, steps=6):
    """Area, energy and touched samples of a method and its control, with the same seeds."""
    rows = []
    for chosen in (method.create(name), method.create(control)):
        streams = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
        memory, row = {}, []
        for step in range(steps):
            x = (case[1].roll(step, -1) * (1 + step)).requires_grad_()
            forward = SharedPass(case[0], x)
            state = known(x, generator=streams[1], memory=memory, forward=forward)
            made = chosen.perturb(case[0], x, case[2], generator=streams[0], state=state)[1]
            energy = (made.x.detach() - x.detach()).square().sum()
            row.append((made.changed.sum().item(), energy, made.changed.flatten(1).any(1)))
        rows.append(row)
    return rows


@pytest.mark.parametrize(("name", "control"), CONTROLLED)
def test_a_control_changes_as_much_as_the_method_batch_by_batch(
    name, control, make_model, make_batch
):
    # So many samples that some map of a sample that is changed has a positive value: Challenger
    # cannot spend its energy under maps that have none.
    case = (make_model("small").train(), *make_batch("small", n=24))
    guided, altered = batches(name, control, case)
    areas = [[area for area, *_ in row] for row in (guided, altered)]
    assert sum(areas[0]) > 0
    if name == "challenger":  # changes smoothly: what counts is the energy
        energies = [torch.stack([energy for _, energy, _ in row]) for row in (guided, altered)]
        torch.testing.assert_close(*energies)
    else:
        assert areas[0] == areas[1]
        for (*_, first), (*_, second) in zip(guided, altered, strict=True):
            assert torch.equal(first, second)  # the coin falls alike for each sample


@pytest.mark.parametrize(("name", "control"), CONTROLLED)
def test_a_control_differs_from_its_method(name, control, case):
    model, x, y = case
    chosen, state = method.create(control), known(x, generator=torch.Generator().manual_seed(1))
    chosen.loss(model, x, y, state=state)  # the first step, in which nothing has been learned
    nn.init.normal_(model[0].weight)
    losses = []
    for each in (method.create(name), chosen):
        generator = torch.Generator().manual_seed(0)
        losses.append(each.loss(model, x, y, generator=generator, state=state).total)
    assert losses[0] != losses[1]


@pytest.mark.parametrize("control", catalogue.CONTROLS)
def test_a_control_is_fair_with_one_generator_as_in_anybodys_own_loop(control, case):
    areas, state = [], known(case[1])
    for name in ("reldrop-block", f"reldrop-block/{control}"):
        chosen, generator = method.create(name), torch.Generator().manual_seed(1)
        parts = [chosen.loss(*case, generator=generator, state=state).parts for _ in range(5)]
        areas.append([part["masked_area"].item() for part in parts])
    assert areas[0] == areas[1]


def test_a_swapped_single_sample_gets_the_map_of_the_previous_step(case):
    model, x, y = case[0].eval(), *case[1:]
    chosen = method.create("reldrop-block/swapped")
    state = State(generator=torch.Generator().manual_seed(0), memory={})
    maps = [chosen.perturb(model, x[i : i + 1], y[i : i + 1], state=state)[0] for i in range(3)]
    own = LRP()(model, x, y)
    torch.testing.assert_close(maps[1][0], own[0])
    torch.testing.assert_close(maps[2][0], own[1])
    torch.testing.assert_close(maps[0].sort().values.sum(), own[0].sum())


# --- composing ------------------------------------------------------------------------------------


def test_parameters_are_replaced_and_the_others_kept():
    changed = method.create("reldrop-patch", perturbation={"p": 0.9, "fill": "zero"}).perturbation
    preset = method.create("reldrop-patch").perturbation
    assert changed == preset.model_copy(update={"p": 0.9, "fill": "zero"})
    assert method.create("sgt", objective={"weight": 3}).objective.weight == 3


@pytest.mark.parametrize(
    "part", [Drop(p=0.25), parameters.Drop(p=0.25), {"name": "drop", "p": 0.25}]
)
def test_a_part_is_replaced_by_an_object_or_a_description(part):
    assert method.create("reldrop-block", perturbation=part).perturbation == Drop(p=0.25)


@pytest.mark.parametrize(
    "attribution",
    [
        *("gradient", "lrp", "uniform", "gradient-x-input", "integrated-gradients"),
        {"name": "smoothgrad", "samples": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("perturbation", ["drop", "block", "replace-lowest", "scale"])
@pytest.mark.parametrize("objective", [CrossEntropy(on="perturbed"), "consistency", "mixture"])
def test_every_combination_is_a_method(attribution, perturbation, objective, case):
    composition = parameters.Composition(
        attribution=attribution, perturbation=perturbation, objective=objective
    )
    found = loss(method.build(composition), case)
    found.total.backward()
    assert found.total.isfinite()


def test_a_method_can_be_put_together_by_hand(case):
    chosen = method.Method(Gradient(sign="absolute"), Block(p=1.0), CrossEntropy(on="perturbed"))
    assert loss(chosen, case).parts["masked_area"] > 0
    torch.testing.assert_close(
        loss(method.Method(), case).total, F.cross_entropy(case[0](case[1]), case[2])
    )


WRONG = {
    r"perturbation\.block\.strenght": {"perturbation": {"strenght": 1}},
    r"perturbation\.block\.p\n.*less than or equal to 1": {"perturbation": {"p": 2}},
    r"perturbation\.block\.p\n.*finite": {"perturbation": {"p": float("nan")}},
    r"'area' must be a range": {"perturbation": {"area": (0.4, 0.1)}},
    r"patches need as many distinct centres": {"perturbation": {"patches": 3}},
    r"'blok'.*'drop', 'block'": {"perturbation": "blok"},
    r"'mean', 'zero', 'noise', 'range', 'blur' or 'other'": {"perturbation": {"fill": "grey"}},
    r"rule\n.*'epsilon-plus-flat'": {"attribution": {"rule": "lrp"}},
    r"needs an attribution": {"attribution": None},
    r"no effect on cross-entropy on the clean batch": {"objective": "cross-entropy"},
    r"needs a perturbed input": {"perturbation": None},
    r"pertubation": {"pertubation": {"p": 1}},
    r"(?m)^p$": {"p": 0.5},
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_overrides_are_refused_by_name_and_range(message):
    with pytest.raises(pydantic.ValidationError, match=message):
        method.create("reldrop-block", **WRONG[message])


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [("reldrop-blok", "reldrop-block"), ("sgt/swaped", "sgt/swapped"), ("chalenger", "challenger")],
)
def test_an_unknown_method_gives_the_nearest_match(wrong, meant):
    with pytest.raises(KeyError, match=f"'{wrong}'.*did you mean '{meant}'"):
        method.create(wrong)


@pytest.mark.parametrize("name", ["baseline/swapped", "random-erasing/scrambled", "", "sgt/"])
def test_names_that_mean_nothing_are_refused(name):
    with pytest.raises(KeyError, match="unknown method"):
        method.create(name)


def test_a_shared_pass_is_made_once_for_the_same_tensor(case):
    model, x, _ = case
    seen = []
    model.register_forward_hook(lambda *_: seen.append(1))
    forward = SharedPass(model, x)
    assert forward(x) is forward(x)
    assert len(seen) == 1
    assert forward(x.clone()) is not forward(x)
    assert len(seen) == 2


@pytest.mark.parametrize("name", catalogue.PRESETS)
def test_reconstructions_are_called_so(name):
    label = catalogue.label(name)
    assert ("reconstruction" in label) == (name == "challenger")
