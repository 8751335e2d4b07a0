"""A frozen backbone: nothing of it changes, whatever a training does."""

import copy

import pytest
import torch
from narrow import CLASSES, OURS, batch, build
from torch import nn

from attrreg import catalogue, method, models
from attrreg.data.device import TrainingSet
from attrreg.models.frozen import freeze_backbone
from attrreg.models.heads import classifier_parameters
from attrreg.recipe import SGD, Recipe
from attrreg.state import SharedPass
from attrreg.training.checkpoint import load_weights, save_weights
from attrreg.training.engine import Streams, Training

IMAGES = [name for name in OURS if catalogue.model(name).modality == "image"]
CPU = torch.device("cpu")


def trained(model, trained_by="baseline", steps=3, dropout=0, **recipe):
    """Train a model on random images, and return it."""
    x = torch.randint(
        0, 256, (12, 3, 16, 16), generator=torch.Generator().manual_seed(1), dtype=torch.uint8
    )
    mean, deviation = torch.full((3,), 0.5), torch.full((3,), 0.3)
    data = TrainingSet(x, torch.arange(12) % CLASSES, mean, deviation)
    streams = Streams.seeded(lambda name: dropout if name == "dropout" else len(name), CPU)
    settings = Recipe(steps=steps, batch_size=6, **recipe)
    Training(model, method.create(trained_by), data, settings, streams).run()
    return model


def snapshot(model):
    return {name: each.clone() for name, each in model.state_dict().items()}


@pytest.mark.parametrize("name", OURS)
def test_only_the_classifier_asks_for_gradients(name):
    model = build(name, frozen="backbone")
    heads = {key for key, each in model.named_parameters() if each.requires_grad}
    assert heads == set(classifier_parameters(model))
    assert 0 < len(heads) < len(list(model.parameters()))


@pytest.mark.parametrize("name", IMAGES)
def test_no_training_changes_anything_but_the_classifier(name):
    model = build(name, frozen="backbone")
    before = snapshot(model)
    trained(model)
    heads = set(classifier_parameters(model))
    for key, each in model.state_dict().items():
        assert torch.equal(each, before[key]) != (key in heads), key


@pytest.mark.parametrize("trained_by", ["sgt", "sgt-shared", "reldrop-block", "sgt/untrained"])
def test_methods_that_look_into_the_model_train_a_frozen_one(trained_by):
    model = build("resnet10-narrow", frozen="backbone")
    before = snapshot(model)
    trained(model, trained_by)
    heads = set(classifier_parameters(model))
    for key, each in model.state_dict().items():
        assert torch.equal(each, before[key]) != (key in heads), key


def test_norms_stay_in_evaluation_mode_whatever_is_said_and_the_rest_does_not():
    model = build("mobilenetv2-small", frozen="backbone")
    model.drop = nn.Dropout(0.5)
    for mode in (True, False, True):
        model.train(mode)
        norms = [each for each in model.modules() if isinstance(each, nn.BatchNorm2d)]
        assert norms
        assert not any(each.training for each in norms)
        assert model.drop.training == model.training == mode
    model.requires_grad_(True).train()
    assert not any(each.training for each in norms)


def test_a_copy_is_as_frozen_as_the_model():
    model = build("resnet10-narrow", frozen="backbone")
    copied = copy.deepcopy(model).train()
    kinds = [type(each) for each in model.modules()]
    assert [type(each) for each in copied.modules()] == kinds
    assert not copied.bn1.training
    copied(batch("resnet10-narrow")[0])
    assert torch.equal(copied.bn1.running_mean, model.bn1.running_mean)


def test_a_frozen_norm_is_still_a_norm_and_mixes_no_batches():
    model = build("resnet10-narrow", frozen="backbone").train()
    assert isinstance(model.bn1, nn.BatchNorm2d)
    assert SharedPass(model, torch.zeros(1)).can_be_joined
    assert not SharedPass(build("resnet10-narrow").train(), torch.zeros(1)).can_be_joined


def test_weights_are_written_and_read_as_of_a_model_that_is_not_frozen(tmp_path):
    model = trained(build("resnet10-narrow", frozen="backbone"))
    save_weights(model, tmp_path / "weights.safetensors")
    free = build("resnet10-narrow")
    load_weights(free, tmp_path / "weights.safetensors")
    x, _ = batch("resnet10-narrow")
    assert torch.equal(free.eval()(x), model.eval()(x))


def test_a_model_that_is_not_frozen_is_as_it_ever_was():
    model = build("resnet10-narrow").train()
    assert all(each.requires_grad for each in model.parameters())
    assert all(each.training for each in model.modules())
    assert type(model.bn1).__name__ == "BatchNorm2d"


def test_a_stem_that_was_made_anew_cannot_be_frozen(tmp_path):
    thin = {"layers": (1, 1, 1, 1), "channels": (8, 8, 8, 8)}
    size = {"num_classes": 3, "in_chans": 3}
    plain = models.create("resnet18", image_size=96, **size, **thin)
    save_weights(plain, tmp_path / "plain.safetensors")
    more = {**size, **thin, "weights": tmp_path / "plain.safetensors", "frozen": "backbone"}
    with pytest.raises(ValueError, match=r"leave conv1\.weight untrained .*small_stem: false"):
        models.create("resnet18", image_size=32, **more)
    assert not models.create("resnet18", image_size=96, **more).conv1.weight.requires_grad
    kept = models.create("resnet18", image_size=32, small_stem=False, **more)
    assert not kept.conv1.weight.requires_grad


def test_what_cannot_be_frozen_is_said():
    with pytest.raises(ValueError, match="frozen is 'head': give one of nothing, backbone"):
        build("resnet10-narrow", frozen="head")
    with pytest.raises(ValueError, match="Sequential does not say which part is its classifier"):
        freeze_backbone(nn.Sequential(nn.Linear(2, 2)))


RATES = {"drop_path_rate": 0.5, "drop_rate": 0.3}


class TestDropRates:
    """Randomness inside the model is that of the training's stream for dropout."""

    def test_options_reach_timm(self):
        model = build("resnet10-narrow", drop_path_rate=0.1, drop_rate=0.3)
        paths = [each.drop_prob for each in model.modules() if type(each).__name__ == "DropPath"]
        assert max(paths) == pytest.approx(0.1)
        assert model.drop_rate == 0.3

    @pytest.mark.parametrize("trained_by", ["baseline", "reldrop-block"])
    def test_the_same_stream_gives_the_same_weights_and_another_gives_others(self, trained_by):
        recipe = {"optimizer": SGD(learning_rate=0.1)}
        found = []
        for seed in (4, 4, 5):
            torch.rand(seed)  # what was drawn before does not matter
            model = build("resnet10-narrow", **RATES)
            found.append(snapshot(trained(model, trained_by, dropout=seed, **recipe)))
        same, again, other = found
        assert all(torch.equal(same[key], again[key]) for key in same)
        assert not all(torch.equal(same[key], other[key]) for key in same)

    def test_without_rates_the_stream_does_not_matter(self):
        one, other = (trained(build("resnet10-narrow"), dropout=seed) for seed in (4, 5))
        assert all(map(torch.equal, snapshot(one).values(), snapshot(other).values()))
