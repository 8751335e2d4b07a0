"""What is measured of the maps of a trained model: metrics by name, and rows of tables."""

import logging
from typing import Any

import torch
from torch import Tensor

from attrreg.attribution import UnsupportedOperation
from attrreg.evaluation.erasure import Erasure, RelativeErasure, erasure, relative_erasure
from attrreg.evaluation.faithfulness import (
    Deletion,
    RelevanceGain,
    accuracy_drop,
    area_under,
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

EMPTY = "zero"  # inputs are normalised, so 0 is the mean of the pool
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
    predictions = subject.sample_logits.argmax(1)
    cosine = average(gradient_cosine(subject.model, x, predictions))
    return metrics | {"gradient-cosine": cosine.mean}, {"faithfulness": rows}


def dropped(subject: Subject) -> Found:
    """Return how much accuracy is lost as saliency guided training is judged, by every saliency.

    The mean loss over the fractions, of the features of largest magnitude, replaced by the
    top-left one. ``accuracy-drop-random`` is that of a random order, which says how fragile the
    model is and nothing of maps; ``accuracy-drop-<saliency>`` is what is lost beyond it. A saliency
    that cannot be made of this model is left out (DeepLIFT has no rule for some nonlinearities);
    the log says why.
    """
    (x, y), settings = subject.sampled(), subject.settings
    saliencies = {}
    for name in SALIENCIES:
        try:
            saliencies[name] = subject.sample_map(name)
        except UnsupportedOperation as error:
            log.warning("%s: no accuracy drop by %s: %s", subject.run.name, name, error)
    generator = subject.generator("accuracy-drop")
    drops = accuracy_drop(subject.model, x, y, saliencies, settings.fractions, generator=generator)
    clean = (subject.sample_logits.argmax(1) == y).double().mean().cpu()
    by_chance = _area(drops["random"])
    metrics = {f"accuracy-drop-{name}": by_chance - _area(each) for name, each in drops.items()}
    metrics["accuracy-drop-random"] = clean - by_chance
    rows = [{"map": name} | row for name, each in drops.items() for row in _curve(each)]
    return metrics, {"accuracy_drop": rows}


def erased(subject: Subject) -> Found:
    """Return comprehensiveness and sufficiency, beyond random maps, as shares of the whole loss.

    Features are emptied: the mean of the pool takes their place, whatever the fill of the protocol,
    since a blurred image is not an empty one. The table has the losses of probability, too.
    """
    (x, _), settings = subject.sampled(), subject.settings
    if not settings.maps:
        return {}, {}

    def of(maps: Tensor) -> Erasure:
        generator = subject.generator("erasure")  # the same ties for every map
        return erasure(subject.model, x, maps, EMPTY, generator=generator)

    shuffled = subject.generator("erasure", "chance")
    shape = subject.sample_maps[settings.maps[0]].shape
    by_chance = [of(torch.rand(shape, generator=shuffled, device=x.device)) for _ in range(CHANCE)]
    chance = {
        score: float(torch.stack([getattr(each, score).mean() for each in by_chance]).mean())
        for score in RelativeErasure._fields
    }
    metrics: dict[str, Tensor] = {}
    rows: Rows = []
    for name, maps in subject.sample_maps.items():
        found = of(maps)
        for score, relative in relative_erasure(found, by_chance)._asdict().items():
            metrics[f"{score}-{name}"] = relative
            rows.append(
                {"map": name, "score": score, "value": float(getattr(found, score).mean())}
                | {"chance": chance[score], "empty": float(found.empty.mean())}
                | {"relative": float(relative)}
            )
    return metrics, {"erasure": rows}


def sensitive(subject: Subject) -> Found:
    """Return how far maps move, as a share of their size, while inputs move by 2 % of their range.

    The class that is explained is that of the unmoved input; randomness of the maps is held.
    """
    x, _ = subject.sampled()
    explained = subject.sample_logits.argmax(1)
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
    """Return how the model lasts in the order of every map that the protocol crosses it with.

    Of the sample, by the rule of the orders, under the headline fill, with the same ties and fill
    for all methods at one place. Robustness and faithfulness follow when the tables of all runs are
    together (`attrreg.crossing`). A model that was not trained, or has diverged, is left
    out; the log names it.
    """
    if subject.others is None:
        return {}, {}
    (x, y), settings = subject.sampled(), subject.settings
    maps = {subject.run.method: subject.maps(settings.rule, x)}
    for name, load in subject.others.items():
        other = load()
        if other is not None and predict(other, x).isfinite().all():
            maps[name] = subject.maps(settings.rule, x, other)
        else:
            why = "it was not trained" if other is None else "its logits are not finite"
            log.warning("%s is not crossed with %s: %s", subject.run.name, name, why)
    rows: Rows = []
    for name, relevance in maps.items():
        gains = symmetric_relevance_gain(
            *(subject.model, x, y, relevance),
            *((settings.fill,), settings.fractions),
            generator=subject.generator("crossed"),
        )
        rows += [{"map_of": name} | row for row in _both_curves(gains[settings.fill])]
    return {}, {"cross": rows}


def _area(curve: Deletion) -> Tensor:
    return area_under(curve.fractions, curve.accuracy)


def _both_curves(gain: RelevanceGain) -> Rows:
    curves = {"most": gain.most_first, "least": gain.least_first}
    return [{"first": first} | row for first, curve in curves.items() for row in _curve(curve)]


def _curve(curve: Deletion) -> Rows:
    pairs = zip(curve.fractions.tolist(), curve.accuracy.tolist(), strict=True)
    return [{"fraction": share, "accuracy": right} for share, right in pairs]
