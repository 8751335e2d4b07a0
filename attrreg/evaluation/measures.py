"""What is measured of a trained model: each function gives metrics by name, and rows of tables."""

import torch
from torch import Tensor

from attrreg.evaluation import (
    accuracy,
    calibration,
    calibration_bias,
    map_measures,
    occlusion,
)
from attrreg.evaluation.diversity import (
    effective_rank,
    filter_similarity,
    penultimate,
    similarity_change,
)
from attrreg.evaluation.faithfulness import deletion
from attrreg.evaluation.leak_measure import leak
from attrreg.evaluation.map_measures import Found, Rows
from attrreg.evaluation.predict import predict
from attrreg.evaluation.shift import accuracies_under
from attrreg.evaluation.subject import Subject
from attrreg.evaluation.zero_shot import score_sets
from attrreg.features import resolve_axes
from attrreg.perturbation import fill_values

__all__ = ["MEASURES", "Found", "calibrated", "occluded", "on_other_sets", "predicted"]


def predicted(subject: Subject) -> Found:
    """Return what the predictions themselves say, and the accuracy of every class."""
    logits, labels = subject.logits, subject.held_out.splits["test"][1]
    metrics = {
        "accuracy": accuracy.top_k(logits, labels),
        "top5": accuracy.top_k(logits, labels, 5),
        "balanced-accuracy": accuracy.balanced(logits, labels),
    }
    by_class = accuracy.per_class(logits, labels).tolist()
    counts = torch.bincount(labels, minlength=logits.shape[1]).tolist()
    names = subject.held_out.pool.class_names or range(len(counts))
    rows = [
        {"class": name, "count": count, "accuracy": value}
        for name, count, value in zip(names, counts, by_class, strict=True)
    ]
    return metrics, {"classes": rows}


def calibrated(subject: Subject) -> Found:
    """Return calibration as it is and after temperature scaling, and both reliability diagrams.

    What the temperature is fitted on is the regime (`Subject.calibration`), which stands in the
    table.
    """
    labels, bins = subject.held_out.splits["test"][1], subject.settings.bins
    regime, *fitted_on = subject.calibration
    temperature = calibration.temperature(*fitted_on)
    metrics, rows = {"temperature": temperature}, []
    for suffix, scale in (("", 1.0), ("-scaled", float(temperature))):
        logits = calibration.scaled(subject.logits, scale)
        found = _calibration(logits, labels, bins)
        metrics |= {f"{name}{suffix}": value for name, value in found.items()}
        diagram = calibration.reliability(logits, labels, bins)
        columns = {name: values.tolist() for name, values in vars(diagram).items()}
        rows += [
            {"regime": regime, "scaled": suffix != "", "bin": number}
            | dict(zip(columns, row, strict=True))
            for number, row in enumerate(zip(*columns.values(), strict=True))
        ]
    return metrics, {"reliability": rows}


def _calibration(logits: Tensor, labels: Tensor, bins: int) -> dict[str, Tensor]:
    parts = calibration.brier_decomposition(logits, labels, bins)
    return {
        "nll": calibration.nll(logits, labels),
        "brier": calibration.brier(logits, labels),
        "brier-reliability": parts.reliability,
        "brier-resolution": parts.resolution,
        "ece": calibration.ece(logits, labels, bins),
        "ece-debiased": calibration_bias.debiased_ece(logits, labels, bins),
        "ece-mass": calibration.ece(logits, labels, bins, "mass"),
        "ece-classwise": calibration.classwise_ece(logits, labels, bins),
        "mce": calibration.mce(logits, labels, bins),
        "ece-expected": calibration_bias.expected_ece(logits, bins),
        "ece-mass-expected": calibration_bias.expected_ece(logits, bins, "mass"),
        "ece-classwise-expected": calibration_bias.expected_classwise_ece(logits, bins),
        "mce-expected": calibration_bias.expected_mce(logits, bins),
    }


def occluded(subject: Subject) -> Found:
    """Return areas under accuracy while features are replaced, and the curves.

    ``occlusion-<order>`` is the area divided by the accuracy of the whole inputs, NaN where that is
    0; ``occlusion-area-<order>`` is not divided; ``occlusion-nll-<order>`` is the area under the
    NLL. Fills beside the headline are named ``@<fill>``.
    """
    settings, (x, y) = subject.settings, subject.held_out.splits["test"]
    axes = resolve_axes(x, None)
    clean = accuracy.top_k(subject.logits, y).cpu()
    metrics: dict[str, Tensor] = {}
    rows: Rows = []
    for order in settings.orders:
        places = _places(subject, order, x, axes)
        if places is None:
            continue
        for fill in settings.all_fills:
            filled = fill_values(fill, x, axes, subject.generator("fill", fill))
            curve = deletion(subject.model, x, y, places, filled, settings.fractions)
            suffix = "" if fill == settings.fill else f"@{fill}"
            area = occlusion.area_under(curve.fractions, curve.accuracy)
            metrics |= {
                f"occlusion-{order}{suffix}": torch.where(clean > 0, area / clean, torch.nan),
                f"occlusion-area-{order}{suffix}": area,
                f"occlusion-nll-{order}{suffix}": occlusion.area_under(curve.fractions, curve.nll),
            }
            rows += [
                {"order": order, "fill": fill, "fraction": share, "accuracy": right, "nll": nll}
                for share, right, nll in zip(
                    *(each.tolist() for each in (curve.fractions, curve.accuracy, curve.nll)),
                    strict=True,
                )
            ]
    return metrics, {"curves": rows}


def _places(subject: Subject, order: str, x: Tensor, axes: tuple[int, ...]) -> Tensor | None:
    """Return the place of every feature in an order, None where the neutral map is missing."""
    generator = subject.generator(order)
    if order == "random-pixels":
        return occlusion.random_pixels(x, generator, axes)
    if order == "random-block":
        return occlusion.random_block(x, generator, axes)
    if order == "grid-patches":
        return occlusion.grid_patches(x, generator, axes)
    maps = subject.neutral_map if order.startswith("neutral-") else subject.own_map
    if maps is None:
        return None
    if order.endswith("most-relevant-first"):
        return occlusion.most_relevant_first(maps)
    return occlusion.least_relevant_first(maps)


def training(subject: Subject) -> Found:
    """Return the accuracy on the training samples with the labels that were given."""
    trained_on, _ = subject.trained_on
    count = len(trained_on)
    if subject.settings.profile == "standard":
        count = min(count, subject.settings.samples)
    x, y = trained_on.batch(torch.arange(count))
    fitted = (predict(subject.model, x).argmax(1) == y).double().mean().cpu()
    test = accuracy.top_k(subject.logits, subject.held_out.splits["test"][1]).cpu()
    return {"train-accuracy": fitted, "generalisation-gap": fitted - test}, {}


def margin(subject: Subject) -> Found:
    """Return the accuracy on the third of the test samples where the neutral run is least sure.

    Least sure is the smallest logit of the label minus the strongest other one.
    """
    logits, y = subject.neutral_logits, subject.held_out.splits["test"][1]
    if logits is None:
        return {}, {}
    own = logits.gather(1, y[:, None]).squeeze(1)
    others = logits.scatter(1, y[:, None], -torch.inf).amax(1)
    hard = (own - others).argsort(stable=True)[: max(1, len(y) // 3)]
    right = (subject.logits[hard].argmax(1) == y[hard]).double().mean()
    return {"lowest-margin-accuracy": right}, {}


def diversity(subject: Subject) -> Found:
    """Return how filters and features differ from those before training.

    ``filter-similarity-change`` is the change of the layers' mean |cosine|, a share of that before
    training, in the geometric mean over layers: below 0, filters are more diverse than they were;
    ``feature-rank`` the effective rank of the features of the sample ÷ that before training.
    """
    initial, (x, _) = subject.initial(), subject.sampled()
    change = similarity_change(filter_similarity(initial), filter_similarity(subject.model))
    ranks = [effective_rank(penultimate(model, x)) for model in (subject.model, initial)]
    return {
        "filter-similarity-change": torch.expm1(change.log_ratio),
        "feature-rank": ranks[0] / ranks[1],
    }, {}


def shifted(subject: Subject) -> Found:
    """Return the accuracy on corrupted images, the mean over five severities; images only."""
    if subject.run.source.entry.modality != "image":
        return {}, {}
    held_out = subject.held_out
    x, y = held_out.pixels[subject.sample], held_out.splits["test"][1][subject.sample]
    found = accuracies_under(subject.model, x, y, held_out.normalised, seed=subject.run.seed)
    rows = [
        {"corruption": kind, "severity": number, "accuracy": value}
        for kind, values in found.items()
        for number, value in enumerate(values.tolist(), start=1)
    ]
    return {f"shift-{kind}": values.mean() for kind, values in found.items()}, {"shift": rows}


def on_other_sets(subject: Subject) -> Found:
    """Return what is measured on test sets that nothing is trained on; see `score_sets`."""
    held_out, bins = subject.held_out, subject.settings.bins
    sets = subject.sets
    metrics, rows = score_sets(sets, subject.model, held_out.normalised, subject.logits, bins)
    return metrics, {"zero_shot": rows}


MEASURES = {
    "training": training,
    "margin": margin,
    "diversity": diversity,
    "localization": map_measures.localized,
    "faithfulness": map_measures.faithful,
    "accuracy-drop": map_measures.dropped,
    "erasure": map_measures.erased,
    "sensitivity": map_measures.sensitive,
    "shift": shifted,
    "leak": leak,
}
