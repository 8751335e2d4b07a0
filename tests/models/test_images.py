"""Image models: timm's own, but for a stem that small images survive."""

import pytest
import timm
import torch
from torch import nn

from attrreg import models

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


@pytest.mark.parametrize("small", [True, False])
def test_whether_the_stem_is_small_can_be_chosen(small):
    name, size = ("mobilenetv2_100", 64) if small else ("resnet18", 32)
    original = timm.create_model(name, num_classes=3, in_chans=3)
    model = models.create(name, num_classes=3, in_chans=3, image_size=size, small_stem=small)
    stem, before = first_convolution(model), first_convolution(original)
    assert (stem.kernel_size, stem.padding) == (before.kernel_size, before.padding)
    assert (before.stride, stem.stride) == ((2, 2), (1, 1) if small else (2, 2))
    assert count(model, nn.MaxPool2d) == count(original, nn.MaxPool2d)


def test_a_stem_that_is_asked_to_be_small_stays_where_images_are_large():
    model = models.create("mobilenetv2-small", num_classes=3, in_chans=3, image_size=65)
    assert first_convolution(model).stride == (2, 2)


@pytest.mark.parametrize("name", ["convnext_atto", "vit_tiny_patch16_224"])
def test_a_stem_that_cuts_patches_cannot_be_made_small_and_says_what_to_do(name):
    with pytest.raises(ValueError, match=r"begins with .*: remove it .* set patch_size"):
        models.create(name, num_classes=3, in_chans=3, image_size=32, small_stem=True)


def test_what_is_built_for_one_size_is_built_for_that_of_the_images():
    size = {"num_classes": 3, "in_chans": 1, "image_size": 48}
    model = models.create("test_vit", **size)
    assert model.eval()(torch.zeros(1, 1, 48, 48)).shape == (1, 3)
    larger = models.create("test_vit", **size, img_size=64)
    assert larger.eval()(torch.zeros(1, 1, 64, 64)).shape == (1, 3)


@pytest.mark.parametrize(
    "option",
    ["checkpoint_path", "pretrained_cfg_overlay", "features_only", "cache_dir"],
)
def test_options_that_could_read_any_file_or_change_what_a_model_returns_are_refused(option):
    with pytest.raises(ValueError, match=f"'resnet18' takes no option '{option}'"):
        models.create("resnet18", num_classes=3, in_chans=3, image_size=32, **{option: "x.pth"})


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18", {"widths": (1, 2)}),
        ("mnist-cnn", {"channels": (1, 2)}),
        ("test_vit", {"num_heads": 5}),
    ],
)
def test_options_that_a_model_does_not_have_are_named_with_it(name, options):
    with pytest.raises(
        ValueError, match=rf"{name}' cannot be built .* options {{'{'|'.join(options)}"
    ):
        models.create(name, num_classes=3, in_chans=3, image_size=32, **options)


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


@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn", "mobilenet_v3_small", "vit_b_32"])
def test_models_of_torchvision_take_any_channels(name):
    size = 224 if name.startswith("vit") else 64
    channels = 3 if name.startswith("vit") else 2
    with torch.device("meta"):
        model = models.create(
            f"torchvision:{name}", num_classes=5, in_chans=channels, image_size=size
        )
        assert model.eval()(torch.zeros(2, channels, size, size)).shape == (2, 5)
    stem = first_convolution(model)
    assert stem.in_channels == channels
    assert (stem.kernel_size == (3, 3)) or name == "vit_b_32"
