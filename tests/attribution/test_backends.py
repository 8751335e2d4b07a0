"""captum's and zennit's maps: as they are by hand, what is known of them, and no trace of them."""

import contextlib
import warnings
from dataclasses import replace

import captum.attr
import numpy
import pytest
import torch
import torchvision
import zennit.composites
from networks import Apply
from test_no_trace import changes, trace
from torch import nn
from torch.nn import functional as F
from zennit.canonizers import SequentialMergeBatchNorm
from zennit.torchvision import ResNetCanonizer, VGGCanonizer

from attrreg.attribution import RULES, Rule, relevance
from attrreg.attribution.backends import OFFERED

CAPTUM = [f"captum:{name}" for name in OFFERED["captum"]]
ZENNIT = [f"zennit:{name}" for name in OFFERED["zennit"]]
BACKENDS = [*CAPTUM, *ZENNIT]
LINEAR = [name for name in BACKENDS if not name.endswith(("GuidedBackprop", "Deconvolution"))]
LOW, HIGH = -3.0, (3.0, 4.0)


def backend(name, **options):
    """The rule of that name, with few steps, and bounds for the composite that needs them."""
    given = {"low": LOW, "high": HIGH, "samples": 3, "steps": 4} | options
    return Rule(name, backward="backend", **given)


def explain(model, x, target, rule, output="logit", create_graph=False):
    """Explain a target by a rule, or by the backend of that name."""
    rule = backend(rule) if isinstance(rule, str) else rule
    return relevance(model, x, target, rule, output, create_graph)


def network(channels=2, bias=True, dtype=torch.float64):
    """A network of modules, each used once; the flattening is none, for captum's LRP."""
    torch.manual_seed(3)
    layers = [
        *(nn.Conv2d(channels, 4, 3, bias=bias), nn.BatchNorm2d(4), nn.ReLU(inplace=True)),
        *(nn.MaxPool2d(2), nn.Conv2d(4, 5, 2, bias=bias), nn.ReLU(inplace=True)),
    ]
    body, head = nn.Sequential(*layers), nn.Linear(20, 3, bias=bias)
    body[1].weight.data.uniform_(0.5, 1.5)
    if bias:
        body[1].bias.data.normal_()
        body[1].running_mean.normal_(0, 0.3)
    model = Apply(lambda net, x: net.head(net.body(x).flatten(1)), body=body, head=head)
    return model.to(dtype)


def batch(n=3, channels=2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(n, channels, 8, 8, generator=generator, dtype=dtype)
    return x, torch.arange(n) % 3


def not_in_place(model):
    """What captum asks for."""
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    return model.eval()


BY_HAND = {
    "Saliency": {"abs": False},
    "InputXGradient": {},
    "IntegratedGradients": {"n_steps": 4, "baselines": 0.25},
    "DeepLift": {"baselines": 0.25},
    "LRP": {},
    "GuidedBackprop": {},
    "Deconvolution": {},
}


@pytest.mark.filterwarnings("ignore:Setting")
@pytest.mark.parametrize("name", BY_HAND)
def test_a_map_is_what_captum_gives_by_hand(name):
    x, y = batch()
    explainer = getattr(captum.attr, name)(not_in_place(network()))
    expected = explainer.attribute(x.clone().requires_grad_(), target=y, **BY_HAND[name])
    found = explain(network(), x, y, backend(f"captum:{name}", baseline=0.25))
    torch.testing.assert_close(found, expected.detach(), rtol=1e-9, atol=1e-12)


def _sequential():
    torch.manual_seed(1)
    return nn.Sequential(
        *(nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True)),
        *(nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 5)),
    )


def _resnet():
    torch.manual_seed(1)
    model = torchvision.models.resnet18(num_classes=5)
    model.conv1 = nn.Conv2d(2, 64, 3, 2, 1, bias=False)
    return model


def _vgg():
    torch.manual_seed(1)
    features = torchvision.models.vgg.make_layers([8, "M", 8, "M", "M"], batch_norm=True)
    features[0] = nn.Conv2d(2, 8, 3, padding=1)
    with torch.device("meta"):  # the head is 10⁸ weights
        model = torchvision.models.VGG(features, init_weights=False)
    model.avgpool, model.classifier = nn.Identity(), nn.Linear(32, 5)
    return model


REFERENCES = {
    "sequential": (_sequential, SequentialMergeBatchNorm, 8),
    "resnet18": (_resnet, ResNetCanonizer, 16),
    "vgg": (_vgg, VGGCanonizer, 16),
    "resnet18 in a sequence": (lambda: nn.Sequential(_resnet()), ResNetCanonizer, 16),
}


@pytest.mark.parametrize("name", OFFERED["zennit"])
@pytest.mark.parametrize("reference", REFERENCES)
def test_a_map_is_what_zennit_gives_by_hand(reference, name):
    build, canonizer, size = REFERENCES[reference]
    model = build().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.weight.data.uniform_(0.5, 1.5)
    x, y = torch.randn(2, 2, size, size), torch.tensor([1, 4])
    found = explain(model, x, y, f"zennit:{name}")
    bounds = {"low": torch.full_like(x, LOW), "high": torch.ones_like(x)}
    bounds["high"] *= torch.tensor(HIGH).view(1, 2, 1, 1)
    options = bounds if name == "EpsilonGammaBox" else {}
    composite = getattr(zennit.composites, name)(canonizers=[canonizer()], **options)
    with composite.context(model) as prepared:
        leaf = x.clone().requires_grad_()
        logits = prepared(leaf)
        chosen = F.one_hot(y, 5).float()
        start = chosen if name == "GuidedBackprop" else logits.detach() * chosen
        (expected,) = torch.autograd.grad(logits, leaf, start)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6 * expected.abs().max().item())
    assert found.abs().sum() > 0


@pytest.mark.parametrize("output", ["logit", "log-probability"])
@pytest.mark.parametrize(
    ("name", "rule"), [("Saliency", "gradient"), ("InputXGradient", "gradient-x-input")]
)
def test_captum_gradients_are_ours(name, rule, output):
    model, (x, _) = network(), batch()
    target = torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = explain(model, x, target, f"captum:{name}", output)
    torch.testing.assert_close(found, relevance(model, x, target, rule, output))


@pytest.mark.parametrize("output", ["logit", "log-probability"])
def test_captum_integrated_gradients_are_ours(output):
    model, (x, y) = network(), batch()
    rule = backend("captum:IntegratedGradients", steps=9, baseline=(0.5, -1.0))
    same = replace(RULES["integrated-gradients"], steps=9, baseline=(0.5, -1.0))
    expected = relevance(model, x, y, same, output)
    found = explain(model, x, y, rule, output)
    # captum rounds the weights of its nodes to single precision
    assert (found - expected).norm() < 1e-6 * expected.norm()


def test_guided_backpropagation_of_both_libraries_is_the_same():
    model, (x, y) = network(), batch()
    found = explain(model, x, y, "zennit:GuidedBackprop")
    expected = explain(model, x, y, "captum:GuidedBackprop")
    # zennit divides by √(1 + eps) once more when it folds a batch norm
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("name", ["plain", "vgg", "small"])
def test_deep_lift_from_zero_is_gradient_times_input_where_nothing_is_added(
    name, make_model, make_batch
):
    """The multiplier of a ReLU, relu(z) ÷ z, is its derivative; LRP-0 is the same product.

    Up to rounding: captum runs input and baseline as one batch. With max pooling, too: the maximum
    stays the input's own where all of the baseline is 0.
    """
    model, (x, y) = make_model(name, biases=False), make_batch(name)
    found = explain(model, x, y, "captum:DeepLift")
    torch.testing.assert_close(
        found, relevance(model, x, y, "gradient-x-input"), rtol=1e-9, atol=1e-14
    )


def test_deep_lift_is_something_else_where_there_are_biases():
    model, (x, y) = network(), batch()
    expected = relevance(model, x, y, "gradient-x-input")
    assert (explain(model, x, y, "captum:DeepLift") - expected).norm() > 0.1 * expected.norm()


@pytest.mark.parametrize("baseline", [0.0, 0.5])
def test_deep_lift_adds_up_to_the_difference_from_the_baseline(baseline):
    model, (x, y) = network(), batch()
    found = explain(model, x, y, backend("captum:DeepLift", baseline=baseline))
    expected = (model.eval()(x) - model(torch.full_like(x, baseline)))[range(3), y]
    torch.testing.assert_close(found.flatten(1).sum(1), expected, rtol=1e-10, atol=1e-12)


def test_gradient_shap_of_a_linear_model_is_the_way_times_the_weights():
    model = nn.Sequential(nn.Flatten(), nn.Linear(128, 3)).double()
    x, y = batch()
    found = explain(model, x, y, backend("captum:GradientShap", baseline=0.5))
    expected = (x - 0.5) * model[1].weight[y].view_as(x)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-10, atol=1e-13)


def test_gradient_shap_depends_on_the_seed_of_the_rule_only():
    model, (x, y) = network(), batch()
    first = explain(model, x, y, "captum:GradientShap")
    numpy.random.seed(1)
    torch.manual_seed(1)
    torch.testing.assert_close(explain(model, x, y, "captum:GradientShap"), first, rtol=0, atol=0)
    other = explain(model, x, y, backend("captum:GradientShap", seed=1))
    assert not torch.allclose(other, first)


@pytest.mark.parametrize("name", LINEAR)
def test_weights_over_the_classes_weigh_the_maps_of_the_classes(name):
    model, (x, _) = network(), batch()
    target = torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    target[0, 1] = 0
    found = explain(model, x, target, name)
    expected = sum(
        target[:, place].view(-1, 1, 1, 1) * explain(model, x, torch.full((3,), place), name)
        for place in range(3)
    )
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    "name", [name for name in BACKENDS if not name.endswith(("IntegratedGradients", "Shap"))]
)
def test_a_log_probability_is_explained_by_its_derivative_at_the_input(name):
    model, (x, y) = network(), batch()
    logits = model.eval()(x).detach()
    derivative = F.one_hot(y, 3) - logits.softmax(1)
    found = explain(model, x, y, name, "log-probability")
    torch.testing.assert_close(found, explain(model, x, derivative, name), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["IntegratedGradients", "DeepLift"])
def test_nothing_is_explained_where_no_class_has_a_weight(name):
    model, (x, _) = network(), batch()
    assert not explain(model, x, torch.zeros(3, 3), f"captum:{name}").any()
    assert not explain(model, x, torch.zeros(3, 3), "captum:LRP").any()


def test_the_target_is_asked_for_once_with_the_logits_at_the_input():
    model, (x, _) = network(), batch()
    for name in BACKENDS:
        seen = []

        def prediction(logits, seen=seen):
            seen.append(logits)
            return logits.argmax(1)

        explain(model, x, prediction, name)
        assert len(seen) == 1
        torch.testing.assert_close(seen[0], model.eval()(x).detach())
        assert not seen[0].requires_grad


CONTEXTS = {
    "gradients on": contextlib.nullcontext,
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
}


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("name", BACKENDS)
def test_nothing_changes_and_maps_carry_no_graph(name, context):
    model, (x, y) = network(), batch()
    for place, module in enumerate(model.modules()):
        module.training = place % 3 == 1
    F.cross_entropy(model(x), y).backward()
    first, *_, last = model.parameters()
    first.requires_grad_(False)
    last.grad = None
    calls = []
    model.head.register_forward_hook(lambda *_: calls.append(1))
    last.register_hook(lambda gradient: gradient)
    x.requires_grad_()
    before = trace(model, x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = explain(model, x, y, name)
    with CONTEXTS[context]():
        found = explain(model, x, y, name)
        sealed = explain(model, x.clone(), y, name)
    assert changes(before, trace(model, x)) == []
    assert not found.requires_grad
    assert not found.is_inference()
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    torch.testing.assert_close(sealed, expected, rtol=0, atol=0)
    model.eval()(x)  # every hook of the libraries is gone


@pytest.mark.parametrize("name", BACKENDS)
def test_nothing_changes_by_an_error_in_the_model(name):
    def forward(net, x):
        if torch.is_grad_enabled():
            raise ArithmeticError("broken")
        return net.head(x.flatten(1))

    model = Apply(forward, head=nn.Linear(128, 3)).train()
    x, y = batch()
    before = trace(model, x)
    with pytest.raises(ArithmeticError, match="broken"), torch.no_grad():
        explain(model, x, y, name)
    assert changes(before, trace(model, x)) == []


@pytest.mark.parametrize("name", BACKENDS)
def test_models_that_draw_or_write_leave_no_trace(name):
    def forward(net, x):
        net.seen.add_(1)
        return net.head((x + 0.01 * torch.randn_like(x)).flatten(1))

    model = Apply(forward, head=nn.Linear(128, 3))
    model.register_buffer("seen", torch.zeros(1))
    x, y = batch()
    before = trace(model, x)
    explain(model, x, y, name)
    assert changes(before, trace(model, x)) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("n", "channels"), [(1, 1), (1, 2), (4, 1)])
@pytest.mark.parametrize("name", BACKENDS)
def test_a_map_is_like_its_input(name, n, channels, dtype):
    model = network(channels, dtype=dtype)
    x, y = batch(n, channels, dtype)
    found = explain(model, x, y, backend(name, high=3.0))
    assert (found.shape, found.dtype, found.device) == (x.shape, x.dtype, x.device)
    assert found.isfinite().all()
    assert found.abs().sum() > 0


@pytest.mark.parametrize("name", BACKENDS)
def test_autocast_changes_no_bit_of_a_map(name):
    model, (x, y) = network(dtype=torch.float32).eval(), batch(dtype=torch.float32)
    expected = explain(model, x, y, name)
    with torch.autocast("cpu", torch.bfloat16):
        assert model(x).dtype == torch.bfloat16  # so that it could have changed something
        found = explain(model, x, y, name)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_zennit_doubles_relevance_at_every_residual_sum_of_timm(make_model, make_batch):
    """Why these maps are for comparison only: four blocks, nothing added anywhere, 16 times."""
    model, (x, y) = make_model("resnet10-narrow", biases=False), make_batch("resnet10-narrow")
    found = explain(model, x, y, "zennit:EpsilonPlus").flatten(1).sum(1)
    explained = model.eval()(x)[range(3), y].detach()
    torch.testing.assert_close(found / explained, torch.full_like(found, 16), rtol=1e-2, atol=0)


def test_captum_refuses_layers_that_it_does_not_know():
    x, y = batch(dtype=torch.float32)
    with pytest.raises(TypeError, match="Flatten"):
        explain(nn.Sequential(nn.Flatten(), nn.Linear(128, 3)), x, y, "captum:LRP")


@pytest.mark.parametrize("name", ["captum:Occlusion", "captum:", "zennit:Saliency", "own:Map"])
def test_an_unknown_name_is_an_error_that_lists_the_known(name):
    x, y = batch()
    with pytest.raises(ValueError, match=r"captum:Saliency, .*zennit:EpsilonPlus, ") as error:
        explain(network(), x, y, name)
    assert repr(name) in str(error.value)


@pytest.mark.parametrize("name", BACKENDS)
def test_a_map_with_a_graph_and_transforms_are_refused(name):
    model, (x, y) = network(), batch()
    with pytest.raises(ValueError, match="create_graph is not available"):
        explain(model, x, y, name, create_graph=True)
    with pytest.raises(ValueError, match="loop over the models"):
        torch.func.vmap(lambda x: explain(model, x, y, name))(x.expand(2, *x.shape))


def test_bounds_that_are_missing_or_do_not_fit_are_errors():
    model, (x, y) = network(), batch()
    for bounds in ({"low": None}, {"high": None}):
        with pytest.raises(ValueError, match="needs the smallest and largest possible input"):
            explain(model, x, y, backend("zennit:EpsilonGammaBox", **bounds))
    with pytest.raises(ValueError, match="low has 3 numbers"):
        explain(model, x, y, backend("zennit:EpsilonGammaBox", low=(1.0, 2.0, 3.0)))
    with pytest.raises(ValueError, match="baseline has 3 numbers"):
        explain(model, x, y, backend("captum:DeepLift", baseline=(1.0, 2.0, 3.0)))


def test_a_model_without_logits_is_an_error():
    x, y = batch()
    with pytest.raises(ValueError, match=r"the model returned \(3, 2, 8, 8\) for 3 samples"):
        explain(nn.Identity(), x, y, "captum:Saliency")
