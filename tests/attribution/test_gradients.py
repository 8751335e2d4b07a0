"""Attributions made of gradients, against plain autograd, finite differences, captum, by hand."""

import weakref
from dataclasses import replace

import captum.attr
import numpy
import pytest
import scipy.stats
import torch
from networks import Apply
from torch import nn
from torch.func import functional_call, stack_module_state
from torch.nn import functional as F

from attrreg.attribution import RULES, UnsupportedOperation, relevance
from attrreg.attribution.explained import weights

GRADIENTS = ("gradient", "gradient-x-input", "smoothgrad", "integrated-gradients")
OUTPUTS = ("logit", "log-probability")


def few(name):
    """That rule with few copies and nodes."""
    return replace(RULES[name], samples=3, steps=3)


def by_autograd(model, x, target, output="logit"):
    """The derivative of the explained output, in evaluation mode."""
    leaf = x.detach().clone().requires_grad_()
    logits = model.eval()(leaf)
    explained = logits if output == "logit" else logits.log_softmax(1)
    return torch.autograd.grad((explained * weights(logits.detach(), target)).sum(), leaf)[0]


def doubles(*values):
    return torch.tensor(values, dtype=torch.float64)


def as_logits(function):
    """A model whose only logit is the sum over channels and places of a function of the input."""
    return Apply(lambda net, x: function(x).flatten(1).sum(1, keepdim=True))


SQUARES = as_logits(lambda x: x.square() / 2)  # its gradient is x
CUBES = as_logits(lambda x: x**3 / 3)  # its gradient is x²


def smooth():
    torch.manual_seed(2)
    layers = [nn.Conv2d(1, 2, 3), nn.Softplus(), nn.Conv2d(2, 2, 3), nn.Tanh(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(2, 3)).double()


def smooth_batch(n=2):
    generator = torch.Generator().manual_seed(4)
    return torch.randn(n, 1, 5, 5, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("output", OUTPUTS)
def test_a_gradient_is_the_slope_that_small_steps_find(output):
    model, x = smooth(), smooth_batch()
    target = torch.randn(2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def explained(x):
        logits = model(x)
        chosen = logits if output == "logit" else logits.log_softmax(1)
        return (chosen * target).sum(1)

    found = relevance(model, x, target, "gradient", output)
    step = 1e-5
    for place in range(25):
        direction = F.one_hot(torch.tensor(place), 25).double().view(1, 1, 5, 5)
        slopes = (explained(x + step * direction) - explained(x - step * direction)) / (2 * step)
        torch.testing.assert_close(found.flatten(1)[:, place], slopes, rtol=1e-6, atol=1e-9)
    product = relevance(model, x, target, "gradient-x-input", output)
    torch.testing.assert_close(product, x * found, rtol=1e-15, atol=0)


@pytest.mark.parametrize("output", OUTPUTS)
def test_smoothgrad_is_the_mean_gradient_at_its_noisy_copies(output, make_model, make_batch):
    model, (x, y) = make_model("vgg"), make_batch("vgg")
    rule = replace(RULES["smoothgrad"], samples=4, noise=0.3, seed=7)
    noise = numpy.random.default_rng(7).standard_normal((4, *x.shape[1:]))
    gradients = torch.zeros_like(x)
    for sample in range(len(x)):
        extent = x[sample].max() - x[sample].min()
        copies = x[sample] + 0.3 * extent * torch.from_numpy(noise)
        found = by_autograd(model, copies, y[sample].expand(4), output)
        gradients[sample] = found.mean(0)
    torch.testing.assert_close(relevance(model, x, y, rule, output), gradients)


def test_the_noise_of_smoothgrad_is_standard_normal_in_units_of_each_samples_extent():
    x = torch.rand(2, 2, 30, 30, dtype=torch.float64) * doubles(1, 50).view(2, 1, 1, 1)
    rule = replace(RULES["smoothgrad"], samples=1, noise=0.2)
    target = torch.zeros(2, dtype=torch.int64)
    noise = relevance(SQUARES, x, target, rule) - x  # as the gradient is where it is taken
    extent = x.flatten(1).max(1).values - x.flatten(1).min(1).values
    drawn = noise / (0.2 * extent.view(2, 1, 1, 1))
    torch.testing.assert_close(drawn[0], drawn[1], rtol=1e-9, atol=1e-9)
    assert scipy.stats.kstest(drawn[0].flatten().numpy(), "norm").pvalue > 0.01
    again = relevance(SQUARES, x, target, replace(rule, seed=1)) - x
    assert not torch.allclose(again, noise)


def test_smoothgrad_without_noise_is_the_gradient(make_model, make_batch):
    model, (x, y) = make_model("small"), make_batch("small")
    found = relevance(model, x, y, replace(RULES["smoothgrad"], noise=0.0))
    torch.testing.assert_close(found, by_autograd(model, x, y), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("rule", GRADIENTS)
def test_a_map_does_not_depend_on_the_batch(rule, make_model, make_batch):
    model, (x, y) = make_model("small"), make_batch("small")
    together = relevance(model, x, y, rule)
    for sample in range(3):
        alone = relevance(model, x[sample : sample + 1], y[sample : sample + 1], rule)
        torch.testing.assert_close(together[sample : sample + 1], alone, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("rule", ["smoothgrad", "integrated-gradients"])
def test_no_random_stream_moves_and_a_map_is_the_same_again(rule, make_model, make_batch):
    model, (x, y) = make_model("small"), make_batch("small")
    first = relevance(model, x, y, few(rule))
    before = torch.get_rng_state(), str(numpy.random.get_state())
    torch.testing.assert_close(relevance(model, x, y, few(rule)), first, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert str(numpy.random.get_state()) == before[1]


@pytest.mark.parametrize("baseline", [0.0, -1.5, (0.5, 2.0)])
def test_integrated_gradients_of_a_cubic_are_exact_with_two_nodes(baseline):
    x = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rule = replace(RULES["integrated-gradients"], steps=2, baseline=baseline)
    start = doubles(baseline).view(1, -1, 1)
    found = relevance(CUBES, x, torch.zeros(3, dtype=torch.int64), rule)
    torch.testing.assert_close(found, (x**3 - start**3) / 3, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("output", OUTPUTS)
def test_integrated_gradients_add_up_to_the_difference_from_the_baseline(output):
    model, x, y = smooth(), smooth_batch(), torch.tensor([0, 2])
    rule = replace(RULES["integrated-gradients"], baseline=-0.5)
    found = relevance(model, x, y, rule, output)
    ends = [model(x), model(torch.full_like(x, -0.5))]
    ends = ends if output == "logit" else [end.log_softmax(1) for end in ends]
    expected = (ends[0] - ends[1])[range(2), y]
    torch.testing.assert_close(found.flatten(1).sum(1), expected, rtol=1e-10, atol=1e-12)


# captum rounds the weights of its nodes to single precision
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-4)], ids=str
)
@pytest.mark.parametrize("name", ["vgg", "resnet10-narrow"])
def test_maps_agree_with_captum(name, dtype, tolerance, make_model, make_batch):
    model, (x, y) = make_model(name, dtype=dtype).eval(), make_batch(name, dtype=dtype)
    rule = replace(RULES["integrated-gradients"], steps=7, baseline=0.25)
    leaf = x.clone().requires_grad_()
    path = captum.attr.IntegratedGradients(model).attribute(leaf, 0.25, y, n_steps=7)
    pairs = [
        (rule, path),
        ("gradient", captum.attr.Saliency(model).attribute(leaf, y, abs=False)),
        ("gradient-x-input", captum.attr.InputXGradient(model).attribute(leaf, y)),
    ]
    for ours, theirs in pairs:
        found = relevance(model, x, y, ours)
        assert found.dtype == dtype
        assert (found - theirs).norm() <= tolerance * theirs.norm()


@pytest.mark.parametrize("rule", GRADIENTS)
def test_the_output_is_chosen_once_at_the_input(rule):
    def forward(net, x):
        return torch.stack([x.square().sum(1), x.sum(1) / 10 + 2], 1)

    model, x, seen = Apply(forward), doubles([2], [2.5]), []

    def prediction(logits):
        seen.append(logits)
        return logits.argmax(1)

    found = relevance(model, x, prediction, rule)
    (logits,) = seen
    assert torch.equal(logits, model(x))
    assert not logits.requires_grad
    assert logits.argmax(1).tolist() == [0, 0]
    assert model(x / 2).argmax(1).tolist() == [1, 1]  # choosing there would differ
    expected = relevance(model, x, torch.tensor([0, 0]), rule)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("rule", GRADIENTS)
def test_only_one_graph_is_held_at_a_time(rule, make_batch):
    alive = []

    def forward(net, x):
        assert [reference() for reference in alive] == [None] * len(alive)
        h = F.relu(net.conv(x))
        alive.append(weakref.ref(h))
        return net.head(h.flatten(1))

    model = Apply(forward, conv=nn.Conv2d(2, 3, 3), head=nn.Linear(108, 4))
    x, y = make_batch("small")
    relevance(model, x, y, few(rule))
    assert len(alive) == (1 if rule.startswith("gradient") else 4)


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("rule", GRADIENTS)
def test_a_map_with_a_graph_has_the_slopes_that_small_steps_find(rule, output):
    model, x, y = smooth(), smooth_batch(), torch.tensor([0, 2])
    parameters = {name: value.detach() for name, value in model.named_parameters()}

    def map_of(x, *values):
        net = WithParameters(model, dict(zip(parameters, values, strict=True)))
        return relevance(net, x, y, few(rule), output, create_graph=True)

    leaves = [value.clone().requires_grad_() for value in (x, *parameters.values())]
    torch.testing.assert_close(map_of(*leaves), relevance(model, x, y, few(rule), output))
    assert torch.autograd.gradcheck(map_of, leaves, atol=1e-8, fast_mode=True)


@pytest.mark.parametrize("rule", GRADIENTS)
def test_a_map_carries_a_graph_only_when_asked(rule):
    model, y = smooth(), torch.tensor([0, 2])
    leaf = smooth_batch().requires_grad_()
    plain = relevance(model, leaf, y, few(rule))
    assert not plain.requires_grad
    for x in (leaf, leaf.detach()):
        kept = relevance(model, x, y, few(rule), create_graph=True)
        assert kept.requires_grad
        torch.testing.assert_close(kept.detach(), plain, rtol=0, atol=0)
    with torch.no_grad():
        assert relevance(model, leaf, y, few(rule), create_graph=True).requires_grad
    assert leaf.grad is None
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 5, 5), (1, 3), (4, 1), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("rule", GRADIENTS)
def test_a_map_is_like_its_input(rule, shape, dtype):
    size = torch.Size(shape[1:]).numel()
    model = nn.Sequential(nn.Flatten(), nn.Linear(size, 3), nn.Tanh()).to(dtype)
    x = torch.randn(shape, dtype=dtype)
    found = relevance(model, x, torch.zeros(len(x), dtype=torch.int64), rule)
    assert (found.shape, found.dtype, found.device) == (x.shape, x.dtype, x.device)
    assert found.isfinite().all()
    assert found.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("rule", GRADIENTS)
def test_autocast_changes_no_bit_of_a_map(rule, dtype, make_model, make_batch):
    model, (x, y) = make_model("vgg", dtype=torch.float32), make_batch("vgg", dtype=torch.float32)
    model.eval()
    expected = relevance(model, x, y, few(rule))
    with torch.autocast("cpu", dtype):
        assert model(x).dtype == dtype  # so that it could have changed something
        found = relevance(model, x, y, few(rule))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


class WithParameters(nn.Module):
    """A model with other parameters and buffers than its own."""

    def __init__(self, model, state):
        super().__init__()
        self.model, self.state = model, state

    def forward(self, x):
        return functional_call(self.model, self.state, x)


@pytest.fixture
def ensemble(make_model):
    """Three networks of one kind, their tensors stacked, and an empty network of that kind."""
    models = [make_model("vgg").eval() for _ in range(3)]
    for place, model in enumerate(models):
        for value in [*model.parameters(), model[1].running_mean]:
            noise = torch.Generator().manual_seed(place)
            value.data += 0.1 * torch.randn(value.shape, generator=noise, dtype=value.dtype)
    parameters, buffers = stack_module_state(models)
    return models, parameters, buffers, make_model("vgg").to("meta")


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("rule", GRADIENTS)
def test_vmap_explains_many_models_at_once(rule, output, ensemble, make_batch):
    models, parameters, buffers, empty = ensemble
    x, y = make_batch("vgg")

    def one(parameters, buffers):
        net = WithParameters(empty, parameters | buffers)
        return relevance(net, x, y, few(rule), output)

    stream = torch.get_rng_state()
    found = torch.func.vmap(one)(parameters, buffers)
    expected = torch.stack([relevance(model, x, y, few(rule), output) for model in models])
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)
    assert not found.requires_grad
    assert torch.equal(torch.get_rng_state(), stream)


@pytest.mark.parametrize("rule", GRADIENTS)
def test_vmap_takes_inputs_and_targets_of_each_models_own(rule, ensemble, make_batch):
    models, parameters, buffers, empty = ensemble
    batches = [make_batch("vgg", seed=seed) for seed in range(3)]

    def one(parameters, buffers, x, y):
        net = WithParameters(empty, parameters | buffers)
        return relevance(net, x, y, few(rule), create_graph=True)

    x, y = (torch.stack(values) for values in zip(*batches, strict=True))
    found = torch.func.vmap(one)(parameters, buffers, x, y)
    pairs = zip(models, batches, strict=True)
    expected = torch.stack(
        [relevance(net, *batch, few(rule), "logit", True) for net, batch in pairs]
    )
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)
    slopes = torch.autograd.grad(found.square().sum(), parameters["0.weight"])[0]
    leaves = [model[0].weight for model in models]
    alone = torch.stack(torch.autograd.grad(expected.square().sum(), leaves))
    torch.testing.assert_close(slopes, alone, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("rule", GRADIENTS)
def test_torch_func_differentiates_a_map_by_parameters_and_input(rule):
    model, x, y = smooth(), smooth_batch(), torch.tensor([0, 2])

    def loss(parameters, x):
        net = WithParameters(model, parameters)
        return relevance(net, x, y, few(rule), create_graph=True).square().sum()

    parameters = {name: value.detach() for name, value in model.named_parameters()}
    found, of_x = torch.func.grad(loss, argnums=(0, 1))(parameters, x)
    leaves = {name: value.clone().requires_grad_() for name, value in parameters.items()}
    inputs = [*leaves.values(), x.clone().requires_grad_()]
    expected = torch.autograd.grad(loss(leaves, inputs[-1]), inputs, materialize_grads=True)
    for ours, theirs in zip([*found.values(), of_x], expected, strict=True):
        torch.testing.assert_close(ours, theirs)

    def without(parameters):
        net = WithParameters(model, parameters)
        return relevance(net, x, y, few(rule)).square().sum()

    for ours in torch.func.grad(without)(parameters).values():
        assert not ours.any()


@pytest.mark.parametrize("rule", GRADIENTS)
def test_a_map_made_within_vmap_is_differentiable_by_the_input(rule):
    model, y = smooth(), torch.tensor([0, 2])

    def one(x):
        return relevance(model, x, y, few(rule), create_graph=True)

    pair = torch.stack([smooth_batch(), smooth_batch() + 1]).requires_grad_()
    found = torch.autograd.grad(torch.func.vmap(one)(pair).square().sum(), pair)[0]
    expected = torch.autograd.grad(sum(one(x).square().sum() for x in pair), pair)[0]
    torch.testing.assert_close(found, expected)
    by_func = torch.func.grad(lambda pair: torch.func.vmap(one)(pair).square().sum())
    torch.testing.assert_close(by_func(pair.detach()), expected)


@pytest.mark.parametrize("within", [lambda function: function, torch.func.vmap], ids=["", "vmap"])
@pytest.mark.parametrize("rule", GRADIENTS)
def test_an_output_that_does_not_depend_on_the_input_is_an_error(rule, within):
    weight = nn.Parameter(torch.zeros(2, 3))
    x, y = torch.randn(2, 4, 5), torch.tensor([0, 1])
    for logits in (weight, weight.detach()):
        model = Apply(lambda net, x, logits=logits: logits + 0)
        with pytest.raises(UnsupportedOperation, match="does not depend on its input"):
            within(lambda x, model=model: relevance(model, x, y, few(rule)))(x.expand(2, 2, 4, 5))


@pytest.mark.parametrize("rule", GRADIENTS)
def test_a_model_without_logits_and_a_target_that_does_not_fit_are_errors(rule):
    x, y = torch.randn(2, 3), torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"the model returned \(2, 3, 1\) for 2 samples"):
        relevance(nn.Unflatten(1, (3, 1)), x, y, few(rule))
    with pytest.raises(ValueError, match=r"target has shape \(5,\)"):
        relevance(nn.Identity(), x, torch.zeros(5, dtype=torch.int64), few(rule))
    with pytest.raises(ValueError, match="class indices from 0 to 7"):
        relevance(nn.Identity(), x, torch.tensor([0, 7]), few(rule))


def test_a_baseline_that_does_not_fit_the_channels_is_an_error():
    rule = replace(RULES["integrated-gradients"], baseline=(0.0, 1.0))
    target = torch.zeros(2, dtype=torch.int64)
    for channels in (1, 3):
        with pytest.raises(ValueError, match="baseline has 2 numbers"):
            relevance(SQUARES, torch.randn(2, channels, 4), target, rule)
