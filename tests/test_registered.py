"""Whatever stands in a registry, built in or from a plugin, keeps the contract of its kind."""

import numpy as np
import pytest
import torch
from torch import nn

from attrreg import catalogue, method, models
from attrreg.data.prepare import prepare, read_embedded
from attrreg.data.sources import SPLITS, read_held_out, read_pool

EMBEDDED = [name for name, entry in catalogue.DATASETS.items() if not entry.archives]
SHAPES = {"image": (3, 32, 32), "series": (3, 64), "points": (3, 32), "text": (8, 16)}
SMALLER = {"mnist-cnn": (1, 28, 28)}
HEAVY = 5e9  # operations per sample above which one step is no small test


def network(channels):
    """A small network that any method can look into."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(channels, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()),
        nn.Linear(32, 3),
    )


@pytest.mark.parametrize("name", EMBEDDED)
def test_a_dataset_is_what_its_entry_says(name, tmp_path):
    entry = catalogue.dataset(name)
    prepare(tmp_path, name)
    pool = read_pool(tmp_path, name)
    splits = {"pool": pool.images, **read_held_out(tmp_path, name)}
    assert len(pool.class_names) == entry.classes
    for split in SPLITS:
        x, y, region = splits[split]
        assert x.shape == (getattr(entry, split), *entry.shape)
        assert (x.dtype, y.dtype) == (np.uint8, np.int64)
        assert set(y.tolist()) == set(range(entry.classes))
        assert (region is not None) == entry.regions
        if region is not None:
            assert region.shape == (len(x), *entry.shape[1:])
            assert 0 < region.mean() < 1


@pytest.mark.parametrize("name", EMBEDDED)
def test_a_dataset_is_the_same_each_time(name):
    for one, other in zip(read_embedded(name), read_embedded(name), strict=True):
        assert np.array_equal(one.x, other.x)
        assert np.array_equal(one.y, other.y)


@pytest.mark.parametrize("name", catalogue.MODELS)
@pytest.mark.parametrize("trained_by", ["baseline", "reldrop-block"])
def test_a_model_makes_a_step_of_training(name, trained_by):
    entry = catalogue.model(name)
    if entry.flops > HEAVY and trained_by != "baseline":
        pytest.skip(f"{name} needs {entry.flops:.1e} operations per sample; once is enough")
    shape = SMALLER.get(name, SHAPES[entry.modality])
    torch.manual_seed(0)
    model = models.create(name, num_classes=3, in_chans=shape[0], image_size=shape[1])
    x, y = torch.randn(2, *shape), torch.tensor([0, 2])
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    before = [each.detach().clone() for each in model.parameters()]
    for _ in range(2):  # timm starts the last norm of a residual block at zero
        loss = method.create(trained_by).loss(model.train(), x, y).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert loss.isfinite()
    assert model(x).shape == (2, 3)
    moved = [not torch.equal(*each) for each in zip(before, model.parameters(), strict=True)]
    assert sum(moved) > 0.8 * len(moved)


@pytest.mark.parametrize("name", catalogue.PRESETS)
def test_a_method_gives_a_loss_with_a_gradient(name):
    model, y = network(2), torch.tensor([0, 1, 2, 1])
    x = torch.randn(4, 2, 8, 8)
    kept = x.clone()
    loss = method.create(name).loss(model, x, y, generator=torch.Generator().manual_seed(0))
    loss.total.backward()
    assert loss.total.ndim == 0
    assert loss.total.isfinite()
    assert all(each.grad is not None and each.grad.isfinite().all() for each in model.parameters())
    assert torch.equal(x, kept)
