"""One thread per process, and the small networks that several tests share."""

import copy
import functools
import gc
import signal

import pytest
import timm
import torch
from torch import nn

from attrreg import models

torch.set_num_threads(1)

# The longest file, and one that does not wait for what the first begins with.
FIRST = ("test_failures.py", "test_killed.py")


def randomise_norms(model):
    """Give every batch norm weights of both signs, shifts, and statistics of their own.

    timm starts the last one of a residual block at zero, where half of a network is silent.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            with torch.no_grad():
                module.weight.uniform_(0.5, 1.5)
                module.weight[::4].neg_()
                module.bias.normal_(0, 0.3)
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2)
    return model


def _resnet10_narrow():
    return models.create("resnet10-narrow", num_classes=10, in_chans=1, image_size=8)


def _resnet18():
    model = timm.create_model("resnet18", num_classes=5, in_chans=3)
    model.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    model.maxpool = nn.Identity()
    return model


def _vgg():
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True)),
        nn.MaxPool2d(2),
        *(nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True)),
        *(nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.5)),
        *(nn.Linear(72, 16), nn.ReLU(inplace=True), nn.Linear(16, 4)),
    )


def _small():
    return nn.Sequential(
        *(nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()),
        *(nn.Conv2d(6, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)),
    )


def _plain():
    return nn.Sequential(
        *(nn.Conv2d(2, 6, 3, padding=1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 4)),
    )


# By name: how it is built, and the shape of one sample.
NETWORKS = {
    "resnet10-narrow": (_resnet10_narrow, (1, 8, 8)),
    "resnet18": (_resnet18, (3, 32, 32)),
    "vgg": (_vgg, (3, 12, 12)),
    "small": (_small, (2, 8, 8)),
    "plain": (_plain, (2, 8, 8)),
}


@functools.cache
def _built(name):
    torch.manual_seed(sorted(NETWORKS).index(name))
    return randomise_norms(NETWORKS[name][0]())


@pytest.fixture
def make_model():
    """Return a function from a name in `NETWORKS` to a fresh copy of that network.

    With ``biases=False`` nothing is added anywhere: no bias, no shift, no running mean.
    """

    def make(name, biases=True, dtype=torch.float64):
        model = copy.deepcopy(_built(name)).to(dtype)
        with torch.no_grad():
            for key, values in () if biases else model.state_dict().items():
                if key.endswith((".bias", ".running_mean")):
                    values.zero_()
        return model

    return make


@pytest.fixture
def make_batch():
    """Return a function from a name in `NETWORKS` to inputs that fit it, and labels."""

    def make(name, n=3, dtype=torch.float64, seed=0):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(n, *NETWORKS[name][1], generator=generator, dtype=dtype)
        return x, torch.randint(0, 4, (n,), generator=generator)

    return make


@pytest.fixture
def seeded():
    """Return a function from a seed to a generator of random numbers."""
    return lambda seed: torch.Generator().manual_seed(seed)


def pytest_configure():
    """Let interrupts through to the processes of tests, also below a shell that ignores them."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """Run whole experiments first: they take longest, and workers share files in this order."""
    items.sort(key=lambda item: ("workflow" not in item.path.parts, item.path.name not in FIRST))


def pytest_collection_finish():
    """Spare the garbage collector modules and tests: they stay, and are most of what there is."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure():
    """Give back to the garbage collector what it was spared, or libraries complain of leaks."""
    gc.unfreeze()
