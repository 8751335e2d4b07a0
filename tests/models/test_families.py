"""The models of the catalogue: what their papers say, at every size of image, and they train."""

import re
from pathlib import Path

import pytest
import torch
from narrow import CLASSES, NARROW, OURS, batch, build, shape
from torch import nn
from torch.nn import functional as F

from attrreg import catalogue, method, models
from attrreg.models.depth import layer_numbers
from attrreg.models.heads import classifier_modules, classifier_parameters
from attrreg.models.stems import first_convolution

IMAGES = [name for name in OURS if catalogue.model(name).modality == "image"]
COUNTED = {"mnist-cnn": (1, 28, 28), "cnn-series": (3, 128)}
# In millions, as the papers have them.
PUBLISHED = {
    "wrn-28-10": 36.5,
    "wrn-40-2": 2.2,
    "densenet-bc-100-12": 0.8,
    "preact-resnet18": 11.2,
    "mobilenetv2_100": 3.4,
}


def meta(name, size, channels=3, classes=10):
    """Return a model without memory."""
    with torch.device("meta"):
        return models.create(name, num_classes=classes, in_chans=channels, image_size=size)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_as_many_as_published(name):
    size, classes = (224, 1000) if name in catalogue.timm_names() else (32, 10)
    found = models.counts(meta(name, size, classes=classes), (3, size, size))
    assert found.parameters / 1e6 == pytest.approx(PUBLISHED[name], abs=0.11)


@pytest.mark.parametrize("name", [name for name in OURS if catalogue.MODELS[name].parameters])
def test_declared_counts_are_what_is_counted(name):
    entry, given = catalogue.MODELS[name], COUNTED.get(name, (3, 32, 32))
    found = models.counts(meta(name, given[1], given[0]), given)
    assert found == (entry.parameters, entry.flops)


def test_the_table_of_the_documentation_has_every_model_and_what_is_counted():
    text = (Path(__file__).resolve().parents[2] / "docs" / "models.md").read_text()
    row = r"^\| `([\w-]+)` \| .* \| ([\d.]+) M \| ([\d.]+) G \| [\d.]+ \|$"
    rows = {name: counted for name, *counted in re.findall(row, text, re.MULTILINE)}
    assert rows.keys() == set(OURS)
    for name, (parameters, flops) in rows.items():
        given = COUNTED.get(name, (3, 32, 32))
        found = models.counts(meta(name, given[1], given[0]), given)
        assert found.parameters / 1e6 == pytest.approx(float(parameters), rel=0.05), name
        assert found.flops / 1e9 == pytest.approx(float(flops), rel=0.05), name


@pytest.mark.parametrize("name", OURS)
def test_images_of_the_usual_sizes_give_logits(name):
    for channels, size in ((1, 8), (1, 28), (3, 32), (3, 64), (3, 96)):
        model = meta(name, size, channels)
        x = torch.zeros(2, *shape(name, channels, size), device="meta")
        assert model.eval()(x).shape == (2, 10)


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("size", [32, 64])
def test_the_first_layer_looks_at_every_pixel_of_small_images(name, size):
    model, sizes = meta(name, size), []
    _, stem = first_convolution(model)
    stem.register_forward_hook(lambda *args: sizes.append(args[-1].shape[-1]))
    model.eval()(torch.zeros(1, 3, size, size, device="meta"))
    places = {"vit-tiny-patch4": size // 4, "mnist-cnn": size - 2}
    assert sizes == [places.get(name, size)]


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("trained_by", ["baseline", "dropout", "reldrop-block"])
def test_two_steps_move_all_of_every_family(name, trained_by):
    """In the first, what lies behind a branch that starts at zero stays where it is."""
    model = build(name).train()
    x, y = batch(name, n=4)
    before = {key: each.detach().clone() for key, each in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        optimizer.zero_grad()
        loss = method.create(trained_by).loss(model, x, y, generator=generator).total
        assert loss.isfinite()
        loss.backward()
        optimizer.step()
    still = [key for key, each in model.named_parameters() if torch.equal(each, before[key])]
    assert not still


@pytest.mark.parametrize("name", NARROW)
def test_options_make_a_family_narrower(name):
    given = COUNTED.get(name, (3, 32, 32))
    narrow = build(name, size=given[1], channels=given[0])
    assert models.counts(narrow, given).parameters < 0.5 * sum(
        each.numel() for each in meta(name, given[1], given[0]).parameters()
    )


@pytest.mark.parametrize("name", OURS)
def test_the_classifier_is_one_linear_layer(name):
    """Relevance rules, and dropout before the classifier, look for one."""
    [head] = classifier_modules(build(name))
    assert isinstance(head, nn.Linear)
    assert head.out_features == CLASSES


@pytest.mark.parametrize("name", OURS)
def test_layers_are_counted_from_the_input_to_the_classifier(name):
    model = build(name)
    numbers = layer_numbers(model)
    assert numbers.keys() == dict(model.named_parameters()).keys()
    assert sorted(set(numbers.values())) == list(range(max(numbers.values()) + 1))
    first, *_ = (key for key, each in model.named_parameters() if each.ndim > 2)
    assert numbers[first] == 0
    assert all(numbers[key] == max(numbers.values()) > 1 for key in classifier_parameters(model))


class TestStructure:
    """The same function as in the papers, computed step by step from the weights."""

    @staticmethod
    def norm(x, weights, name):
        parts = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(weights[f"{name}.{part}"] for part in parts))

    def lively(self, name):
        model = build(name).double()
        generator = torch.Generator().manual_seed(2)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for each in (module.weight, module.bias, module.running_mean):
                    each.data.normal_(0, 1, generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
        return model.eval(), model.state_dict()

    def assert_same(self, model, found, x):
        with torch.no_grad():
            torch.testing.assert_close(model(x), found, rtol=1e-10, atol=1e-12)

    @pytest.mark.parametrize("name", ["wrn-28-10", "wrn-40-2", "preact-resnet18"])
    def test_of_residual_networks_with_norms_first(self, name):
        model, weights = self.lively(name)
        x, _ = batch(name, dtype=torch.float64)
        h = F.conv2d(x, weights["stem.conv.weight"], padding=1)
        for stage, blocks in enumerate(NARROW[name]["layers"]):
            for block in range(blocks):
                at = f"stages.{stage}.blocks.{block}"
                stride = 2 if stage and not block else 1
                before = F.relu(self.norm(h, weights, f"{at}.norm1"))
                branch = F.conv2d(before, weights[f"{at}.conv1.weight"], None, stride, 1)
                branch = F.relu(self.norm(branch, weights, f"{at}.norm2"))
                branch = F.conv2d(branch, weights[f"{at}.conv2.weight"], padding=1)
                shortcut = weights.get(f"{at}.downsample.conv.weight")
                h = branch + (h if shortcut is None else F.conv2d(before, shortcut, None, stride))
        features = F.relu(self.norm(h, weights, "norm")).mean((2, 3))
        found = F.linear(features, weights["head.fc.weight"], weights["head.fc.bias"])
        self.assert_same(model, found, x)

    def test_of_densenet_bc(self):
        model, weights = self.lively("densenet-bc-100-12")
        x, _ = batch("densenet-bc-100-12", dtype=torch.float64)
        h = F.conv2d(x, weights["features.conv0.weight"], padding=1)
        for block in (1, 2, 3):
            for layer in (1, 2):
                at = f"features.denseblock{block}.denselayer{layer}"
                new = F.relu(self.norm(h, weights, f"{at}.norm1"))
                new = F.conv2d(new, weights[f"{at}.conv1.weight"])
                new = F.relu(self.norm(new, weights, f"{at}.norm2"))
                h = torch.cat([h, F.conv2d(new, weights[f"{at}.conv2.weight"], padding=1)], 1)
            if block < 3:
                at = f"features.transition{block}"
                h = F.relu(self.norm(h, weights, f"{at}.norm"))
                h = F.avg_pool2d(F.conv2d(h, weights[f"{at}.conv.weight"]), 2)
        features = F.relu(self.norm(h, weights, "features.norm5")).mean((2, 3))
        found = F.linear(features, weights["classifier.weight"], weights["classifier.bias"])
        self.assert_same(model, found, x)

    def test_of_vgg(self):
        model, weights = self.lively("vgg11-small")
        x, _ = batch("vgg11-small", dtype=torch.float64)
        h, place = x, 0
        for stage in NARROW["vgg11-small"]["stages"]:
            for _ in stage:
                at = f"features.{place}"
                h = F.conv2d(h, weights[f"{at}.weight"], weights[f"{at}.bias"], padding=1)
                h = F.relu(self.norm(h, weights, f"features.{place + 1}"))
                place += 3
            h, place = F.max_pool2d(h, 2), place + 1
        found = F.linear(h.mean((2, 3)), weights["head.fc.weight"], weights["head.fc.bias"])
        self.assert_same(model, found, x)


def test_dropout_of_the_digits_network_is_a_quarter_and_a_half():
    model = models.create("mnist-cnn", num_classes=10, in_chans=1, image_size=28)
    assert [each.p for each in model.modules() if isinstance(each, nn.Dropout)] == [0.25, 0.5]


@pytest.mark.parametrize(
    ("name", "size", "options", "said"),
    [
        ("mnist-cnn", 7, {}, "takes images of 8 pixels or more, found 7"),
        ("mnist-cnn", 8, {"widths": (1, 2, 3)}, "widths are .* give 2"),
        ("cnn-series", 8, {"kernels": (3,)}, "kernels are .* give 3"),
        ("densenet-bc-100-12", 32, {"depth": 99}, "depth is 99: give 4 and a multiple of 6"),
    ],
)
def test_what_a_network_cannot_be_is_said(name, size, options, said):
    with pytest.raises(ValueError, match=said):
        models.create(name, num_classes=10, in_chans=1, image_size=size, **options)


class TestCounts:
    """Multiplications and additions of what is counted, one by one."""

    def test_of_two_convolutions_and_two_linear_layers_by_hand(self):
        model = models.create("mnist-cnn", num_classes=10, in_chans=1, image_size=28)
        first, second = 26**2 * 32 * 9, 24**2 * 64 * 9 * 32
        linear = 12 * 12 * 64 * 128 + 128 * 10
        assert models.counts(model, (1, 28, 28)).flops == 2 * (first + second + linear)

    def test_attention_counts(self):
        model = build("vit-tiny-patch4")
        width, tokens, depth = 24, 17, 2
        layers = tokens * width * (3 + 1 + 4 + 4) * width
        attention = 2 * tokens**2 * width
        patches, head = 16 * 3 * 16 * width, width * CLASSES
        expected = 2 * (depth * (layers + attention) + patches + head)
        assert models.counts(model, (3, 16, 16)).flops == expected

    def test_leave_the_model_as_it_was(self):
        model = build("mobilenetv2-small").train()
        model.conv_stem.eval()
        before = {name: each.clone() for name, each in model.state_dict().items()}
        models.counts(model, (3, 16, 16))
        assert not model.conv_stem.training
        assert model.bn1.training
        assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())
        assert not any(module._forward_hooks for module in model.modules())
