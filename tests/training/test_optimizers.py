"""Optimisers are torch's own, what decays is what was asked for, and rates are as scheduled."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from small_training import network, streams, training_set
from timm.optim import param_groups_layer_decay
from torch import nn
from torch.optim import lr_scheduler

from attrreg import models
from attrreg.method import Method
from attrreg.recipe import SGD, AdamW, Recipe, Schedule
from attrreg.training.engine import Training
from attrreg.training.optimizers import learning_rate_factor, make_optimizer, set_learning_rate

RATES = (0.1, 0.02, 0.3, 0.05, 0.05, 0.2, 0.01)
SETTINGS = {
    "plain sgd": SGD(learning_rate=0.1, momentum=0.0, weight_decay=0.0),
    "sgd": SGD(learning_rate=0.1, momentum=0.9, weight_decay=0.01),
    "nesterov": SGD(learning_rate=0.1, momentum=0.8, nesterov=True, weight_decay=0.01),
    "adamw": AdamW(learning_rate=0.1, betas=(0.8, 0.95), weight_decay=0.1),
    "adamw without decay": AdamW(learning_rate=0.1, weight_decay=0.0),
}
WEIGHTS = {"0.weight", "6.weight"}  # of `network`, all but its norms and biases


def plain(parameters, settings, rate):
    """Return the optimiser that the settings name, by torch's own words and without fusion."""
    options = {"lr": rate, "weight_decay": settings.weight_decay, "fused": False, "foreach": False}
    if settings.name == "adamw":
        return torch.optim.AdamW(parameters, betas=settings.betas, **options)
    return torch.optim.SGD(
        parameters, momentum=settings.momentum, nesterov=settings.nesterov, **options
    )


def gradients(model, seed):
    """Give every parameter a random gradient."""
    generator = torch.Generator().manual_seed(seed)
    for each in model.parameters():
        each.grad = torch.randn(each.shape, generator=generator, dtype=each.dtype)


def assert_close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", SETTINGS)
def test_steps_are_those_of_torch(name):
    model, reference = network().double(), network().double()
    ours = make_optimizer(model, SETTINGS[name])
    theirs = plain(reference.parameters(), SETTINGS[name], RATES[0])
    before = [each.detach().clone() for each in model.parameters()]
    for step, rate in enumerate(RATES):
        gradients(model, step)
        gradients(reference, step)
        set_learning_rate(ours, rate)
        theirs.param_groups[0]["lr"] = rate
        ours.step()
        theirs.step()
        for one, two in zip(model.parameters(), reference.parameters(), strict=True):
            assert_close(one, two)
    assert not any(map(torch.equal, model.parameters(), before))


class TestDecay:
    """What decays, without gradients: then nothing else moves a weight."""

    def decayed(self, settings, steps=3):
        """Return by name the shares of the first value that are left of each parameter."""
        model = network().double()
        with torch.no_grad():
            for each in model.parameters():
                each.fill_(2)
        optimizer = make_optimizer(model, settings)
        for _ in range(steps):
            for each in model.parameters():
                each.grad = torch.zeros_like(each)
            optimizer.step()
        return {name: each.detach() / 2 for name, each in model.named_parameters()}

    @pytest.mark.parametrize("decay", ["all", "weights"])
    def test_of_sgd_by_hand(self, decay):
        rate, momentum, shrink = 0.1, 0.5, 0.3
        found = self.decayed(
            SGD(learning_rate=rate, momentum=momentum, weight_decay=shrink, decay=decay)
        )
        left, velocity = 1.0, 0.0
        for _ in range(3):
            velocity = momentum * velocity + shrink * left
            left -= rate * velocity
        for name, share in found.items():
            expected = left if decay == "all" or name in WEIGHTS else 1.0
            assert_close(share, torch.full_like(share, expected))

    @pytest.mark.parametrize("decay", ["all", "weights"])
    def test_of_adamw_by_hand(self, decay):
        found = self.decayed(AdamW(learning_rate=0.1, weight_decay=0.3, decay=decay))
        for name, share in found.items():
            expected = (1 - 0.1 * 0.3) ** 3 if decay == "all" or name in WEIGHTS else 1.0
            assert_close(share, torch.full_like(share, expected))

    @pytest.mark.parametrize("settings_", [SGD(decay="weights"), AdamW(decay="weights")])
    def test_norms_and_biases_move_as_without_any_decay(self, settings_):
        model, reference = network().double(), network().double()
        ours = make_optimizer(model, settings_)
        without = settings_.model_copy(update={"weight_decay": 0.0})
        theirs = plain(reference.parameters(), without, settings_.learning_rate)
        for step in range(4):
            gradients(model, step)
            gradients(reference, step)
            ours.step()
            theirs.step()
        pairs = zip(model.named_parameters(), reference.parameters(), strict=True)
        for (name, one), two in pairs:
            if name in WEIGHTS:
                assert not torch.allclose(one, two, rtol=1e-9)
            else:
                assert_close(one, two)

    def test_a_model_with_nothing_but_weights_trains(self):
        model = nn.Linear(3, 2, bias=False).double()
        before = model.weight.detach().clone()
        optimizer = make_optimizer(model, SGD(learning_rate=0.5, momentum=0.0, decay="weights"))
        model.weight.grad = torch.ones_like(model.weight)
        optimizer.step()
        assert_close(model.weight.detach(), before * (1 - 0.5 * 5e-4) - 0.5)

    @pytest.mark.parametrize("decay", ["all", "weights"])
    def test_frozen_parameters_do_not_move(self, decay):
        model = network()
        model[0].requires_grad_(False)
        before = model[0].weight.clone()
        optimizer = make_optimizer(model, SGD(weight_decay=0.5, decay=decay))
        for each in model.parameters():
            each.grad = torch.ones_like(each)
        optimizer.step()
        assert torch.equal(model[0].weight, before)
        held = [each for group in optimizer.param_groups for each in group["params"]]
        assert len(held) == len(list(model.parameters())) - 2


def layered(name="resnet10-narrow"):
    """Return a model that says what its layers are, in double precision."""
    torch.manual_seed(0)
    return models.create(name, num_classes=3, in_chans=1, image_size=16).double()


class TestLayerDecay:
    """The nearer a layer is to the input, the smaller are its steps."""

    @pytest.mark.parametrize("decay", ["all", "weights"])
    @pytest.mark.parametrize(
        "name", ["resnet10-narrow", "wrn-40-2", "vit-tiny-patch4", "mobilenetv3-small"]
    )
    def test_shares_of_the_rate_are_those_of_timm(self, name, decay):
        model = layered(name)
        optimizer = make_optimizer(model, SGD(layer_decay=0.7, decay=decay))
        expected = {
            parameter: group["lr_scale"]
            for group in param_groups_layer_decay(model, layer_decay=0.7)
            for parameter in group["params"]
        }
        found = {
            parameter: group["factor"]
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
        assert found.keys() == expected.keys()
        assert all(found[each] == pytest.approx(expected[each]) for each in found)
        assert len(set(found.values())) > 3

    @pytest.mark.parametrize("tensor", [False, True])
    def test_steps_are_as_long_as_the_layer_has_it(self, tensor):
        model = layered()
        before = {name: each.detach().clone() for name, each in model.named_parameters()}
        optimizer = make_optimizer(
            model, SGD(learning_rate=7.0, momentum=0.0, weight_decay=0.0, layer_decay=0.5)
        )
        if tensor:  # as on a GPU
            for group in optimizer.param_groups:
                group["lr"] = torch.tensor(group["lr"], dtype=torch.float64)
        for each in model.parameters():
            each.grad = torch.ones_like(each)
        set_learning_rate(optimizer, 0.1)
        optimizer.step()
        layers = ["conv1.", "layer1.", "layer2.", "layer3.", "layer4.", "fc."]
        for name, each in model.named_parameters():
            layer = layers.index(name.partition(".")[0] + ".") if name[:2] != "bn" else 0
            assert_close(
                before[name] - each.detach(), torch.full_like(each, 0.1 * 0.5 ** (5 - layer))
            )

    def test_rates_at_the_start_are_shares_of_the_first(self):
        optimizer = make_optimizer(layered(), AdamW(learning_rate=0.2, layer_decay=0.5))
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(
            [0.2 * 0.5**place for place in (5, 4, 3, 2, 1, 0)]
        )

    @pytest.mark.parametrize("settings_", [SGD(decay="weights"), AdamW()])
    def test_of_one_leaves_the_groups_as_they_are_without_it(self, settings_):
        model = layered()
        groups = make_optimizer(model, settings_.model_copy(update={"layer_decay": 1})).param_groups
        assert len(groups) == (2 if settings_.decay == "weights" else 1)
        assert not any("factor" in group for group in groups)
        found = {each for group in groups for each in group["params"]}
        assert found == set(model.parameters())

    def test_spares_norms_and_biases_from_weight_decay_in_every_layer(self):
        model = layered()
        settings_ = SGD(layer_decay=0.5, decay="weights", weight_decay=0.1)
        for group in make_optimizer(model, settings_).param_groups:
            assert {each.ndim > 1 for each in group["params"]} <= {group["weight_decay"] > 0}

    def test_of_a_frozen_backbone_leaves_the_classifier_its_whole_rate(self):
        model = models.create(
            "resnet10-narrow", num_classes=3, in_chans=1, image_size=8, frozen="backbone"
        )
        [group] = make_optimizer(model, SGD(layer_decay=0.5)).param_groups
        assert group["factor"] == 1
        assert len(group["params"]) == 2

    def test_follows_the_schedule_in_a_training(self):
        model = models.create("resnet10-narrow", num_classes=10, in_chans=1, image_size=8)
        optimizer = SGD(learning_rate=0.1, layer_decay=0.5)
        recipe = Recipe(steps=5, batch_size=8, optimizer=optimizer)
        training = Training(model, Method(), training_set(), recipe, streams())
        used = []
        training.optimizer.register_step_pre_hook(
            lambda each, *_: used.append([group["lr"] for group in each.param_groups])
        )
        training.run()
        factor = learning_rate_factor(recipe.schedule, 5)
        for step, rates in enumerate(used):
            whole = 0.1 * factor(step)
            assert rates == pytest.approx([whole * 0.5**place for place in (5, 4, 3, 2, 1, 0)])

    def test_needs_a_model_that_says_what_its_layers_are(self):
        with pytest.raises(ValueError, match=r"Sequential does not say .* group_matcher"):
            make_optimizer(network(), SGD(layer_decay=0.9))

    @pytest.mark.parametrize("found", [0, 1.1, float("nan")])
    def test_is_a_share(self, found):
        with pytest.raises(ValidationError, match="layer_decay"):
            SGD(layer_decay=found)


def test_a_model_of_which_nothing_is_trained_is_refused():
    with pytest.raises(ValueError, match="Sequential has no parameter that is trained"):
        make_optimizer(network().requires_grad_(False), SGD())


class TestRate:
    """The share of the learning rate, against torch's own schedulers."""

    @staticmethod
    def of_torch(steps, make):
        """Return the rates of a scheduler over all steps, where the whole rate is 1."""
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
        scheduler, rates = make(optimizer), []
        for _ in range(steps):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        return rates

    @staticmethod
    def ours(steps, **schedule):
        factor = learning_rate_factor(Schedule(**schedule), steps)
        return [factor(step) for step in range(steps)]

    @pytest.mark.parametrize("final", [0.0, 0.3, 1.0])
    def test_cosine_is_that_of_torch(self, final):
        expected = self.of_torch(
            30, lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 30, eta_min=final)
        )
        assert self.ours(30, name="cosine", final=final) == pytest.approx(expected, abs=1e-12)

    @pytest.mark.parametrize("warm", [1, 5])
    def test_warm_up_and_cosine_are_those_of_torch(self, warm):
        def make(optimizer):
            rising = lr_scheduler.LinearLR(optimizer, 1 / (warm + 1), 1.0, warm)
            falling = lr_scheduler.CosineAnnealingLR(optimizer, 30 - warm, eta_min=0.1)
            return lr_scheduler.SequentialLR(optimizer, [rising, falling], [warm])

        found = self.ours(30, name="cosine", warm_up_steps=warm, final=0.1)
        assert found == pytest.approx(self.of_torch(30, make), abs=1e-12)

    @pytest.mark.parametrize("per_epoch", [1, 3, 7])
    def test_four_milestones_in_100_epochs_are_a_step_every_20_of_them(self, per_epoch):
        by_epoch = self.of_torch(
            100, lambda optimizer: lr_scheduler.StepLR(optimizer, step_size=20, gamma=0.7)
        )
        found = self.ours(100 * per_epoch, name="step", milestones=(0.2, 0.4, 0.6, 0.8), factor=0.7)
        assert found == pytest.approx([rate for rate in by_epoch for _ in range(per_epoch)])

    @pytest.mark.parametrize(
        ("steps", "shares"), [(40, (0.5, 0.75)), (10, (0.1, 0.3, 0.7)), (7, (0.5,))]
    )
    def test_milestones_are_those_of_torch(self, steps, shares):
        places = [-int(-share * steps // 1) for share in shares]  # the first step not before them
        expected = self.of_torch(
            steps, lambda optimizer: lr_scheduler.MultiStepLR(optimizer, places, gamma=0.1)
        )
        assert self.ours(steps, name="step", milestones=shares) == pytest.approx(expected)

    @settings(deadline=None)
    @given(
        st.integers(1, 3000),
        st.sets(st.integers(1, 999), min_size=1, max_size=5),
        st.integers(0, 10),
    )
    def test_no_milestone_is_missed_by_rounding(self, steps, thousandths, warm):
        written = [f"0.{each:03d}" for each in sorted(thousandths)]
        schedule = Schedule(
            name="step", milestones=tuple(map(float, written)), factor=0.5, warm_up_steps=warm
        )
        factor = learning_rate_factor(schedule, steps)
        for step in {round(Fraction(each) * steps) + near for each in written for near in (-1, 0)}:
            if warm <= step < steps:
                passed = sum(Fraction(step, steps) >= Fraction(each) for each in written)
                assert factor(step) == 0.5**passed

    @pytest.mark.parametrize("name", ["constant", "cosine", "step"])
    def test_warm_up_rises_in_equal_steps_and_leaves_the_rest_alone(self, name):
        found = self.ours(20, name=name, warm_up_steps=3)
        assert found[:3] == [1 / 4, 2 / 4, 3 / 4]
        if name == "cosine":
            assert found[3:] == self.ours(17, name=name)
        else:
            assert found[3:] == self.ours(20, name=name)[3:]

    def test_a_rate_on_the_device_is_filled_in_place(self):
        model = network()
        for settings_ in (SGD(decay="weights"), AdamW()):
            optimizer = make_optimizer(model, settings_)
            rates = [torch.tensor(7.0) for _ in optimizer.param_groups]
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
            set_learning_rate(optimizer, 0.25)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                assert group["lr"] is rate
                assert rate == 0.25


@pytest.mark.parametrize(
    "schedule",
    [
        Schedule(name="constant"),
        Schedule(name="cosine", warm_up_steps=2),
        Schedule(name="step", milestones=(0.25, 0.5), factor=0.3, warm_up_steps=1),
    ],
    ids=lambda schedule: schedule.name,
)
@pytest.mark.parametrize(
    "optimizer",
    [SGD(learning_rate=0.01), AdamW(learning_rate=0.01, decay="weights")],
    ids=lambda optimizer: optimizer.name,
)
def test_the_rates_in_the_history_are_those_of_the_steps(schedule, optimizer):
    recipe = Recipe(steps=13, batch_size=8, schedule=schedule, optimizer=optimizer)
    training = Training(network(), Method(), training_set(), recipe, streams())
    used = []
    training.optimizer.register_step_pre_hook(
        lambda each, *_: used.append({group["lr"] for group in each.param_groups})
    )
    training.run()
    factor = learning_rate_factor(schedule, 13)
    assert used == [{0.01 * factor(step)} for step in range(13)]  # every group has the same
    assert [row["step"] for row in training.history] == [3, 5, 8, 10, 13]
    for row in training.history:
        assert {row["learning_rate"]} == used[row["step"] - 1]


@pytest.mark.parametrize("found", [(0.5, 0.5), (0.75, 0.5)])
def test_milestones_that_do_not_rise_are_refused(found):
    with pytest.raises(ValidationError, match="milestones must rise"):
        Schedule(name="step", milestones=found)


def test_nesterov_without_momentum_is_refused():
    with pytest.raises(ValidationError, match="nesterov needs momentum above 0, found 0"):
        SGD(nesterov=True, momentum=0.0)
