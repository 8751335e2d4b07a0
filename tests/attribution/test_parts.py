"""Attributions as parts of a method: every switch does what its name says."""

from dataclasses import fields, replace
from typing import get_args

import pydantic
import pytest
import torch
from networks import logits_of
from torch import nn

from attrreg import parameters
from attrreg.attribution import RULES, relevance
from attrreg.attribution.parts import (
    LRP,
    Gradient,
    GradientTimesInput,
    IntegratedGradients,
    SmoothGrad,
)
from attrreg.state import SharedPass, State
from attrreg.uniform import Uniform

GUIDED = [
    *(LRP(), LRP(rule="epsilon"), LRP(rule="gamma", gamma=0.5, epsilon=0.01)),
    *(Gradient(), GradientTimesInput(), SmoothGrad(samples=3, noise=0.5)),
    IntegratedGradients(steps=5),
]


PARAMETERS = ("epsilon", "gamma", "samples", "noise", "steps")


@pytest.fixture
def case(make_model, make_batch):
    """A network in training mode, inputs with two channels, labels."""
    return (make_model("small"), *make_batch("small", n=5))


def shaped_like_x(part, model, x, target):
    """The map before it is brought to the feature axes."""
    rule = RULES[getattr(part, "rule", part.name)]
    own = {name: value for name, value in dict(part).items() if name in PARAMETERS}
    own = {name: value for name, value in own.items() if value is not None}
    return relevance(model, x, target, replace(rule, **own))


@pytest.mark.parametrize("part", GUIDED, ids=lambda part: part.name)
def test_maps_are_summed_over_channels(part, case):
    model, x, y = case
    expected = shaped_like_x(part, model, x, y)
    torch.testing.assert_close(part(model, x, y), expected.sum(1))
    by_rows = part(model, x, y, State(feature_axes=(2,)))
    torch.testing.assert_close(by_rows, expected.sum((1, 3)))
    absolute = part.model_copy(update={"channels": "absolute-sum"})
    torch.testing.assert_close(absolute(model, x, y), expected.abs().sum(1))


@pytest.mark.parametrize("part", GUIDED, ids=lambda part: part.name)
def test_signs(part, case):
    model, x, y = case
    signed = part(model, x, y)
    assert signed.min() < 0 < signed.max()
    positive = part.model_copy(update={"sign": "positive"})
    assert torch.equal(positive(model, x, y), signed.clamp_min(0))
    absolute = part.model_copy(update={"sign": "absolute"})
    assert torch.equal(absolute(model, x, y), signed.abs())


@pytest.mark.parametrize("part", GUIDED, ids=lambda part: part.name)
def test_the_explained_class(part, case):
    model, x, y = case
    logits = logits_of(model, x)
    predicted = part.model_copy(update={"explained": "prediction"})
    torch.testing.assert_close(predicted(model, x, y), part(model, x, logits.argmax(1)))
    assert torch.equal(predicted(model, x, y), predicted(model, x, (y + 1) % 4))

    others = logits.scatter(1, y[:, None], -torch.inf)
    weights = nn.functional.one_hot(y, 4) - nn.functional.one_hot(others.argmax(1), 4)
    margin = part.model_copy(update={"explained": "margin"})
    expected = shaped_like_x(part, model, x, weights.to(x.dtype)).sum(1)
    torch.testing.assert_close(margin(model, x, y), expected)


@pytest.mark.parametrize(
    "part", [LRP(rule="lrp-0"), Gradient(), GradientTimesInput()], ids=lambda part: part.name
)
def test_the_margin_of_a_linear_map_is_a_difference_of_maps(part, case):
    model, x, y = case
    others = logits_of(model, x).scatter(1, y[:, None], -torch.inf).argmax(1)
    margin = part.model_copy(update={"explained": "margin"})
    expected = part(model, x, y) - part(model, x, others)
    torch.testing.assert_close(margin(model, x, y), expected)


def test_a_random_class_is_every_class_equally_often_and_drawn_from_the_given_stream(seeded):
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 4, bias=False)).double()
    x, y = torch.ones(4000, 1, 4, 4, dtype=torch.float64), torch.zeros(4000, dtype=torch.int64)
    part = Gradient(explained="random")
    before = torch.get_rng_state()
    maps = part(model, x, y, State(generator=seeded(0)))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(maps, part(model, x, y, State(generator=seeded(0))))
    rows = model[1].weight.detach().view(4, 1, 4, 4)
    drawn = (maps[:, None] == rows[None, :, 0]).all(3).all(2)
    assert (drawn.sum(1) == 1).all()
    counts = drawn.sum(0).double()
    assert (counts - 1000).abs().max() < 5 * (4000 * 0.25 * 0.75) ** 0.5


AT_THE_INPUT = [part for part in GUIDED if part.name not in ("smoothgrad", "integrated-gradients")]


@pytest.mark.parametrize("part", GUIDED, ids=lambda part: part.name)
def test_the_log_probability_is_another_output(part, case):
    model, x, y = case
    other = part.model_copy(update={"output": "log-probability"})
    assert not torch.allclose(other(model, x, y), part(model, x, y))


@pytest.mark.parametrize("part", AT_THE_INPUT, ids=lambda part: part.name)
def test_the_log_probability_is_explained_by_its_derivative(part, case):
    model, x, y = case
    other = part.model_copy(update={"output": "log-probability"})
    weights = nn.functional.one_hot(y, 4) - logits_of(model, x).softmax(1)
    expected = shaped_like_x(part, model, x, weights).sum(1)
    torch.testing.assert_close(other(model, x, y), expected)


@pytest.mark.parametrize("part", [*GUIDED, Uniform()], ids=lambda part: part.name)
@pytest.mark.parametrize("axes", [None, (1,), (2, 3), (3,), (1, 2, 3), (2, 1)])
def test_maps_lie_on_the_feature_axes_and_carry_no_graph(part, axes, case):
    model, x, y = case
    found = part(model, x, y, State(feature_axes=axes))
    assert found.shape == (5, *(x.shape[axis] for axis in sorted(axes or (2, 3))))
    assert found.dtype == x.dtype
    assert not found.requires_grad


def test_uniform_maps_are_independent_of_everything_but_their_stream(case, seeded):
    model, x, y = case
    uniform = Uniform()
    before = torch.get_rng_state()
    found = uniform(model, x, y, State(generator=seeded(1)))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(uniform(nn.Identity(), -x, y * 0, State(generator=seeded(1))), found)
    many = uniform(model, x.new_zeros(500, 2, 8, 8), y, State(generator=seeded(2)))
    assert many.min() >= 0
    assert many.max() < 1
    assert abs(many.mean().item() - 0.5) < 5 * (1 / 12 / many.numel()) ** 0.5
    assert abs(many.var().item() - 1 / 12) < 0.002


@pytest.mark.parametrize("output", ["logit", "log-probability"])
def test_the_training_pass_gives_the_gradient_of_the_training_pass(output, make_model, make_batch):
    part = Gradient(forward_pass="training", output=output)
    x, y = make_batch("plain", n=5)
    model = make_model("plain")  # the same in both modes
    leaf = x.clone().requires_grad_()
    state = State(forward=SharedPass(model, leaf))
    expected = Gradient(output=output)(model, x, y)
    torch.testing.assert_close(part(model, leaf, y, state), expected)
    state.forward(leaf).sum().backward()  # the pass is still good for a loss
    assert model[0].weight.grad.abs().sum() > 0


def test_the_training_pass_needs_a_pass_to_share(case):
    model, x, y = case
    with pytest.raises(ValueError, match=r"forward_pass.*Method\.loss"):
        Gradient(forward_pass="training")(model, x, y)


class TestRules:
    """Every layer-wise rule can be named, with parameters that it uses."""

    BOUNDS = ((-4.0, -5.0), (4.0, 5.0))

    def test_all_layer_wise_rules_can_be_named(self):
        named = get_args(parameters.LRP.model_fields["rule"].annotation)
        assert set(named) == {name for name, rule in RULES.items() if rule.backward == "layers"}
        assert len(set(named)) == len(named)

    @pytest.mark.parametrize("rule", get_args(parameters.RuleName))
    def test_a_rule_is_the_rule_of_that_name(self, rule, case):
        model, x, y = case
        found = LRP(rule=rule)(model, x, y, State(bounds=self.BOUNDS))
        known = RULES[rule]
        if rule == "z-box":
            known = replace(known, low=self.BOUNDS[0], high=self.BOUNDS[1])
        assert torch.equal(found, relevance(model, x, y, known).sum(1))

    def test_z_box_depends_on_the_bounds_and_refuses_to_do_without(self, case):
        model, x, y = case
        part = LRP(rule="z-box")
        first, second = (part(model, x, y, State(bounds=((-b, -b), (b, b)))) for b in (4.0, 9.0))
        assert not torch.allclose(first, second)
        with pytest.raises(ValueError, match=r"'z-box' needs.*found none.*bounds"):
            part(model, x, y)

    @pytest.mark.parametrize(
        ("wrong", "said"),
        [
            ({"rule": "epsilon", "gamma": 0.1}, "'gamma' has no effect under rule 'epsilon'"),
            ({"rule": "lrp-0", "epsilon": 0.1}, "'epsilon' has no effect under rule 'lrp-0'"),
            ({"rule": "gamma", "gamma": -0.1}, "greater than or equal to 0"),
            ({"epsilon": float("inf")}, "finite"),
        ],
    )
    def test_parameters_that_a_rule_does_not_use_are_refused(self, wrong, said):
        with pytest.raises(pydantic.ValidationError, match=said):
            LRP(**wrong)

    @pytest.mark.parametrize("name", ["epsilon", "gamma"])
    def test_a_parameter_changes_every_map_it_is_accepted_for(self, name, case):
        model, x, y = case
        for rule in get_args(parameters.RuleName):
            try:
                changed = LRP(rule=rule, **{name: 0.9})
            except pydantic.ValidationError:
                continue
            known = State(bounds=self.BOUNDS)
            assert not torch.allclose(
                changed(model, x, y, known), LRP(rule=rule)(model, x, y, known)
            )

    def test_defaults_are_those_of_the_rules(self):
        rule = {field.name: field.default for field in fields(RULES["smoothgrad"])}
        assert (SmoothGrad().samples, SmoothGrad().noise) == (rule["samples"], rule["noise"])
        assert IntegratedGradients().steps == rule["steps"]
