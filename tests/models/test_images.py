"""Image models: timm's own, but for a stem that small images survive."""

import pytest
import timm
import torch
from torch import nn

from attrreg import catalogue, models

NARROW = {"layers": (1, 1, 1, 1), "channels": (8, 8, 8, 8)}


def first_convolution(model):
    """The convolution that reads the image."""
    return next(module for module in model.modules() if isinstance(module, nn.Conv2d))


def count(model, kind):
    """How many modules are of a kind."""
    return sum(isinstance(module, kind) for module in model.modules())


def settings(model):
    """Names, kinds and shapes of everything in a model."""
    return [repr(module) for module in model.modules()], {
        name: value.shape for name, value in model.state_dict().items()
    }


@pytest.mark.parametrize(
    ("name", "image_size"),
    [
        *(("resnet18", 32), ("resnet18", 64), ("resnet50", 64)),
        *(("resnetblur18", 64), ("legacy_seresnet18", 64), ("densenet121", 64)),
    ],
)
def test_a_plain_stem_becomes_small_and_its_pooling_goes(name, image_size):
    original = timm.create_model(name, num_classes=3, in_chans=2)
    stem = first_convolution(original)
    assert (stem.kernel_size, stem.stride) == ((7, 7), (2, 2))
    model = models.create(name, num_classes=3, in_chans=2, image_size=image_size)
    small = first_convolution(model)
    assert (small.kernel_size, small.stride, small.padding) == ((3, 3), (1, 1), (1, 1))
    assert (small.in_channels, small.out_channels) == (2, stem.out_channels)
    assert (small.bias is None) == (stem.bias is None)
    assert count(model, nn.MaxPool2d) == count(original, nn.MaxPool2d) - 1


def test_a_small_stem_sees_every_pixel():
    """The first stage works at the resolution of the image."""
    model = models.create("resnet18", num_classes=3, in_chans=1, image_size=32, **NARROW)
    sizes = []
    model.layer1.register_forward_hook(lambda *args: sizes.append(args[-1].shape[-2:]))
    assert model.eval()(torch.zeros(2, 1, 32, 32)).shape == (2, 3)
    assert sizes == [(32, 32)]


@pytest.mark.parametrize("image_size", [65, 96, 224])
def test_large_images_keep_the_stem(image_size):
    model = models.create("resnet18", num_classes=3, in_chans=1, image_size=image_size, **NARROW)
    original = timm.create_model("resnet18", num_classes=3, in_chans=1, **NARROW)
    assert settings(model) == settings(original)


@pytest.mark.parametrize("name", ["resnet18d", "mobilenetv3_small_050", "convnext_atto"])
def test_other_stems_stay(name):
    model = models.create(name, num_classes=3, in_chans=3, image_size=32)
    assert settings(model) == settings(timm.create_model(name, num_classes=3, in_chans=3))


@pytest.mark.parametrize("name", catalogue.MODELS)
@pytest.mark.parametrize(("in_chans", "image_size"), [(1, 8), (3, 32)])
def test_models_of_the_catalogue_give_logits(name, in_chans, image_size):
    model = models.create(name, num_classes=7, in_chans=in_chans, image_size=image_size)
    x = torch.randn(2, in_chans, image_size, image_size)
    logits = model(x)
    assert logits.shape == (2, 7)
    logits.sum().backward()
    assert all(value.grad is not None for value in model.parameters())


def test_options_pass_through_and_win_over_the_catalogue():
    size = {"num_classes": 3, "in_chans": 1, "image_size": 8}
    model = models.create("resnet10-narrow", **size, channels=(8, 8, 8, 8), drop_rate=0.25)
    assert model.layer4[0].conv1.out_channels == 8
    assert len(model.layer1) == 1
    assert model.drop_rate == 0.25


def test_the_same_seed_gives_the_same_weights():
    def weights():
        torch.manual_seed(3)
        model = models.create("resnet10-narrow", num_classes=10, in_chans=1, image_size=8)
        return model.state_dict()

    first, second = weights(), weights()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("wrong", "meant"), [("resnet81", "resnet18"), ("resnet10_narrow", "resnet10-narrow")]
)
def test_an_unknown_name_gives_the_nearest_match(wrong, meant):
    with pytest.raises(KeyError, match=f"'{wrong}'.*did you mean '{meant}'"):
        models.create(wrong, num_classes=3, in_chans=1, image_size=32)
