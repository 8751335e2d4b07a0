"""What is measured of the maps of a trained model: metrics by name, and rows of tables."""

import logging
from typing import Any

import torch
from torch import Tensor

from attrreg.attribution import UnsupportedOperation
from attrreg.evaluation import occlusion
from attrreg.evaluation.erasure import Erasure, erasure, relative_erasure
from attrreg.evaluation.faithfulness import (
    Deletion,
    RelevanceGain,
    accuracy_drop,
    symmetric_relevance_gain,
)
from attrreg.evaluation.localization import average, localization
from attrreg.evaluation.map_quality import gini, gradient_cosine, max_sensitivity
from attrreg.evaluation.predict import predict
from attrreg.evaluation.saliency import SALIENCIES
from attrreg.evaluation.subject import Subject

__all__ = ["crossed", "dropped", "erased", "faithful", "localized", "sensitive"]

Rows = list[dict[str, Any]]
Found = tuple[dict[str, Tensor], dict[str, Rows]]  # metrics, and rows by table

CHANCE = 3  # random maps that an erasure is compared with
RADIUS = 0.02  # of the cube of the sensitivity, as a share of the range of the inputs
DRAWS = 10  # in it
log = logging.getLogger(__name__)


def localized(subject: Subject) -> Found:
    """Return where positive relevance lies, against the region, the middle of the input and chance.

    Without regions nothing is measured.
    """
    if subject.held_out.region is None:
        return {}, {}
    region = subject.held_out.region[subject.sample]
    metrics: dict[str, Tensor] = {}
    rows: Rows = []
    for name, maps in subject.sample_maps.items():
        for score, found in localization(maps, region).items():
            means = [average(each) for each in found]
            metrics[f"{score}-{name}"] = means[0].mean
            if (score, name) == ("mass", "gradient"):
                metrics["gradient-outside"] = 1 - means[0].mean
            rows.append(
                {"map": name, "score": score, "value": float(means[0].mean)}
                | {"centre": float(means[1].mean), "chance": float(means[2].mean)}
                | {"undefined": means[0].undefined}
            )
    return metrics, {"localization": rows}


def faithful(subject: Subject) -> Found:
    """Return how much longer the model lasts if the least relevant features go first (SRG)."""
    (x, y), settings = subject.sampled(), subject.settings
    metrics: dict[str, Tensor] = {}
    rows: Rows = []
    for name, maps in subject.sample_maps.items():
        generator = subject.generator("faithfulness", name)
        gains = symmetric_relevance_gain(
            subject.model, x, y, maps, settings.fills, settings.fractions, generator=generator
        )
        metrics[f"sparseness-{name}"] = average(gini(maps)).mean
        for place, (fill, gain) in enumerate(gains.items()):
            metrics[f"srg-{name}" + (f"@{fill}" if place else "")] = gain.accuracy
            rows += [{"map": name, "fill": fill} | row for row in _both_curves(gain)]
    predictions = predict(subject.model, x).argmax(1)
    cosine = average(gradient_cosine(subject.model, x, predictions))
    return metrics | {"gradient-cosine": cosine.mean}, {"faithfulness": rows}


def dropped(subject: Subject) -> Found:
    """Return how much accuracy is lost as saliency guided training is judged, by every saliency.

    The mean loss over the fractions, of the features of largest magnitude, replaced by the
    top-left one; ``random`` is what any loss must be compared with. NaN for a saliency that cannot
    be made of this model (DeepLIFT has no rule for some nonlinearities); the log says why.
    """
    (x, y), settings = subject.sampled(), subject.settings
    saliencies = {}
    for name in SALIENCIES:
        try:
            saliencies[name] = subject.maps(name, x)
        except UnsupportedOperation as error:
            log.warning("accuracy-drop without %s: %s", name, error)
    generator = subject.generator("accuracy-drop")
    drops = accuracy_drop(subject.model, x, y, saliencies, settings.fractions, generator=generator)
    clean = (subject.logits[subject.sample].argmax(1) == y).double().mean().cpu()
    metrics = {f"accuracy-drop-{name}": torch.tensor(torch.nan) for name in SALIENCIES}
    metrics |= {f"accuracy-drop-{name}": clean - _area(each) for name, each in drops.items()}
    rows = [{"map": name} | row for name, each in drops.items() for row in _curve(each)]
    return metrics, {"accuracy_drop": rows}


def erased(subject: Subject) -> Found:
    """Return comprehensiveness and sufficiency, beyond random maps, as shares of the whole loss.

    The headline fill takes the place of features; the table has the losses of probability, too.
    """
    (x, _), settings = subject.sampled(), subject.settings
    if not settings.maps:
        return {}, {}

    def of(maps: Tensor) -> Erasure:
        generator = subject.generator("erasure")  # the same fill for every map
        return erasure(subject.model, x, maps, settings.fill, generator=generator)

    shuffled = subject.generator("erasure", "chance")
    shape = subject.sample_maps[settings.maps[0]].shape
    by_chance = [of(torch.rand(shape, generator=shuffled, device=x.device)) for _ in range(CHANCE)]
    metrics: dict[str, Tensor] = {}
    rows: Rows = []
    for name, maps in subject.sample_maps.items():
        found = of(maps)
        for score, relative in relative_erasure(found, by_chance)._asdict().items():
            chance = torch.stack([getattr(each, score).mean() for each in by_chance]).mean()
            metrics[f"{score}-{name}"] = relative
            rows.append(
                {"map": name, "score": score, "value": float(getattr(found, score).mean())}
                | {"chance": float(chance), "empty": float(found.empty.mean())}
                | {"relative": float(relative)}
            )
    return metrics, {"erasure": rows}


def sensitive(subject: Subject) -> Found:
    """Return how far maps move, as a share of their size, while inputs move by 2 % of their range.

    The class that is explained is that of the unmoved input; randomness of the maps is held.
    """
    x, _ = subject.sampled()
    explained = predict(subject.model, x).argmax(1)
    low, high = (torch.tensor(each) for each in subject.held_out.bounds)
    radius = RADIUS * float((high - low).mean())
    metrics = {}
    for name in subject.settings.maps:
        found = max_sensitivity(
            lambda at, name=name: subject.maps(name, at, explained=explained),  # type: ignore[misc]
            x,
            radius,
            DRAWS,
            generator=subject.generator("sensitivity"),
        )
        metrics[f"max-sensitivity-{name}"] = average(found).mean
    return metrics, {}


def crossed(subject: Subject) -> Found:
    """Return how a model lasts under the maps of other methods, and they under its own.

    ``occlusion-crossed`` is the mean area under the accuracy of this model, most relevant first by
    the maps of the others, divided by its clean accuracy: robustness without its own map.
    ``srg-crossed`` is the mean gain of this model's map on the models of the others: faithfulness
    without its own robustness. Both are missing unless all the others were trained.
    """
    if subject.others is None:
        return {}, {}
    (x, y), settings, own = subject.sampled(), subject.settings, subject.run.method
    models = {own: subject.model} | {
        name: each for name, each in subject.others.items() if each is not None
    }
    maps = {name: subject.maps(settings.rule, x, each) for name, each in models.items()}

    def gain(model: str, by: str) -> RelevanceGain:
        generator = subject.generator("crossed")
        return symmetric_relevance_gain(
            *(models[model], x, y, maps[by]),
            *((settings.fill,), settings.fractions),
            generator=generator,
        )[settings.fill]

    under = {by: gain(own, by) for by in models}
    rows = [{"map_of": by} | row for by, each in under.items() for row in _both_curves(each)]
    others = [name for name in models if name != own]
    if len(models) < len(settings.crossed):
        return {}, {"cross": rows}
    clean = (subject.logits[subject.sample].argmax(1) == y).double().mean().cpu()
    area = torch.stack([_area(under[by].most_first) for by in others]).mean()
    metrics = {
        "occlusion-crossed": torch.where(clean > 0, area / clean, torch.nan),
        "srg-crossed": torch.stack([gain(name, own).accuracy for name in others]).mean(),
    }
    return metrics, {"cross": rows}


def _area(curve: Deletion) -> Tensor:
    return occlusion.area_under(curve.fractions, curve.accuracy)


def _both_curves(gain: RelevanceGain) -> Rows:
    curves = {"most": gain.most_first, "least": gain.least_first}
    return [{"first": first} | row for first, curve in curves.items() for row in _curve(curve)]


def _curve(curve: Deletion) -> Rows:
    pairs = zip(curve.fractions.tolist(), curve.accuracy.tolist(), strict=True)
    return [{"fraction": share, "accuracy": right} for share, right in pairs]
