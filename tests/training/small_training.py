"""A small network, a small set and streams for it, so that a training takes milliseconds."""

import torch
from torch import nn

from attrreg.data.device import TrainingSet
from attrreg.training.engine import Streams

CPU = torch.device("cpu")


def streams(seed=0, **others):
    """Return random streams; those named get another seed."""
    return Streams.seeded(lambda name: others.get(name, seed * 100 + len(name)), CPU)


def training_set(n=20, streamed=False):
    """Return random images in ten classes, each with a region, of which no two are equal."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randint(0, 256, (n, 1, 8, 8), generator=generator, dtype=torch.uint8)
    region = (torch.rand(n, 8, 8, generator=generator) > 0.7).float()
    mean, deviation = torch.tensor([0.5]), torch.tensor([0.3])
    return TrainingSet(x, torch.arange(n) % 10, mean, deviation, region, streamed)


def network():
    """Return a network with batch norm and dropout, the same in every call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            *(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Dropout(0.2), nn.Linear(96, 10)),
        )


def snapshot(model):
    """Return copies of all parameters and buffers."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same_weights(found, expected):
    """Ask for the same bits in every parameter and buffer."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


class Watched:
    """A method that lets somebody look at what it is given, and works as ever."""

    def __init__(self, method, look):
        self.method, self.look = method, look

    def loss(self, model, x, y, *, generator, state):
        self.look(model, x, y, generator, state)
        return self.method.loss(model, x, y, generator=generator, state=state)
