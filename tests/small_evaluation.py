"""Small held-out splits, protocols of little work, and models whose scores are known by hand."""

from dataclasses import replace
from typing import get_args

import torch
from torch import nn

from attrreg import catalogue
from attrreg.data.known import shapes
from attrreg.evaluation.subject import HeldOut, Subject
from attrreg.protocol import Evaluation, Measure, Order
from attrreg.training.runs import build_model

CPU = torch.device("cpu")
LITTLE = {"fractions": (0.0, 0.5), "gallery": 2, "samples": 20}
EVERYTHING = LITTLE | {
    "orders": get_args(Order),
    "beside": ("mean", "noise"),
    "measures": get_args(Measure),
}


def shrink(monkeypatch):
    """Let the drawn datasets have few samples."""
    for name, entry in shapes.DATASETS.items():
        small = replace(entry, pool=200, validation=20, test=30)
        for known in (shapes.DATASETS, catalogue.DATASETS):
            monkeypatch.setitem(known, name, small)


def constant(scores):
    """Return a model that says the same of every image of 8×8 pixels."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, len(scores)))
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.copy_(torch.as_tensor(scores, dtype=torch.float32))
    return model


def linear(weight, bias=0.0):
    """Return a model whose logits are products with weights, (classes, features)."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(weight.shape[1], len(weight)))
    with torch.no_grad():
        model[1].weight.copy_(weight)
        model[1].bias.copy_(torch.as_tensor(bias).expand(len(weight)))
    return model


def saying(x, y, sure=50.0):
    """Return a network that gives these images these classes, nearly with certainty."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 1500), nn.ReLU(), nn.Linear(1500, 10))
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(1500, 64, generator=generator) / 8)
        model[1].bias.copy_(torch.randn(1500, generator=generator))
        features = model[:3](x).double()
        wanted = sure * nn.functional.one_hot(y, 10).double()
        weight = torch.linalg.lstsq(features, wanted, driver="gelsd").solution
        model[3].weight.copy_(weight.T)
        model[3].bias.zero_()
        assert torch.equal(model(x).argmax(1), y)
    return model


def subject_of(data, run, model=None, neutral=None, **settings):
    """Return what an evaluation of a model looks at; without one, of the untrained one."""
    return Subject(
        run,
        build_model(run, CPU) if model is None else model,
        HeldOut.on(CPU, data, run.source),
        Evaluation(**(LITTLE | settings)),
        data,
        neutral,
    )


def looking_at(subject, x, y):
    """Return the same evaluation of other test samples, which are validation samples, too."""
    together = (0, *range(2, x.ndim))
    bounds = (tuple(x.amin(together).tolist()), tuple(x.amax(together).tolist()))
    others = {"splits": {"validation": (x, y), "test": (x, y)}, "region": None, "bounds": bounds}
    return replace(subject, held_out=subject.held_out._replace(**others))
