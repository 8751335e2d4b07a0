"""The models of the catalogue, as narrow as their options allow, and the inputs that they take."""

import pkgutil
from importlib import import_module

import torch

from attrreg import catalogue, models
from attrreg.models import known

# Not those of plugins, of which nobody knows how to make them narrow.
OURS = sorted(
    {"resnet10-narrow"}.union(
        *(
            import_module(f"{known.__name__}.{each.name}").MODELS
            for each in pkgutil.iter_modules(known.__path__)
        )
    )
)
RESIDUAL = {"layers": (1, 1, 1), "channels": (8, 12, 16)}
NARROW = {
    "resnet10-narrow": {"channels": (8, 8, 12, 16)},
    "preact-resnet18": {"layers": (1, 1, 1, 1), "channels": (8, 8, 12, 16), "stem_channels": 8},
    "wrn-28-10": {**RESIDUAL, "stem_channels": 6},
    "wrn-40-2": {**RESIDUAL, "layers": (1, 2, 1), "stem_channels": 8},
    "densenet-bc-100-12": {"depth": 16, "growth_rate": 4},
    "vgg11-small": {"stages": ((6,), (8,), (8, 12))},
    "vgg16-small": {"stages": ((6, 6), (8, 8), (8, 12), (12,))},
    "convnext-atto-small": {"depths": (1, 1, 1, 1), "dims": (8, 8, 12, 16), "ls_init_value": 0.1},
    "vit-tiny-patch4": {"embed_dim": 24, "depth": 2, "num_heads": 3},
    "mnist-cnn": {"widths": (4, 6), "hidden": 12},
    "cnn-series": {"widths": (6, 8, 8)},
}
CLASSES = 4


def shape(name, channels=3, size=16):
    """Return the shape of a sample for a model."""
    series = catalogue.model(name).modality == "series"
    return (channels, size) if series else (channels, size, size)


def build(name, size=16, channels=3, **more):
    """Return a narrow model of that name, the same in every call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return models.create(
            name,
            num_classes=CLASSES,
            in_chans=channels,
            image_size=size,
            **NARROW.get(name, {}),
            **more,
        )


def batch(name, n=2, size=16, channels=3, dtype=torch.float32):
    """Return inputs that fit, and labels."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, *shape(name, channels, size), generator=generator, dtype=dtype)
    return x, torch.arange(n) % CLASSES
