"""Synthetic tables of a small experiment, with one failed cell and one failed run."""

from pathlib import Path

import numpy
import pandas
from safetensors.numpy import save_file

from attrreg.figures import MethodLabel

METHODS = [
    MethodLabel("baseline", "Baseline", False, False),
    MethodLabel("random-erasing", "Random erasing", False, False),
    MethodLabel("reldrop-block", "RelDrop block", False, False),
    MethodLabel("reldrop-block/swapped", "RelDrop block, swapped map (control)", False, True),
    MethodLabel("sgt", "Saliency Guided Training", False, False),
    MethodLabel("challenger", "Challenger (reconstruction)", True, False),
]
RUN = ["dataset", "model", "method", "train_size", "seed"]
FAILED = [("sgt", 50, 0), ("sgt", 50, 1), ("sgt", 50, 2), ("challenger", 200, 1)]
ORDERS = {
    "random-pixels": 1.0,
    "random-block": 1.6,
    "most-relevant-first": 3.2,
    "neutral-most-relevant-first": 2.6,
    "grid-patches": 1.3,
    "least-relevant-first": 0.7,
}
MAPS = [
    (name, fill, first)
    for name in ("gradient", "lrp-0")
    for fill in ("blur", "mean")
    for first in ("most", "least")
]
SALIENCIES = {"gradient": 2.1, "smoothgrad-squared": 2.6, "random": 1.4}
METRICS = (
    *("accuracy", "nll", "nll-scaled", "brier", "ece-debiased", "ece"),
    *("occlusion-random-pixels", "occlusion-random-block", "occlusion-most-relevant-first"),
)
MESSAGE = "the loss became NaN at step 17; lower the learning rate"


def make_tables(
    methods=METHODS,
    sizes=(50, 200),
    seeds=(0, 1, 2),
    failed=FAILED,
    pairs=(("digits", "resnet-small"),),
):
    """Return the tables of an experiment by file name."""
    generator = numpy.random.default_rng(7)
    runs = [
        (*pair, method.name, size, seed)
        for pair in pairs
        for method in methods
        for size in sizes
        for seed in seeds
    ]
    lost = [run for run in runs if run[2:] in failed]
    done = [run for run in runs if run not in lost]
    place = {method.name: number for number, method in enumerate(methods)}
    metrics, curves, bins, maps, drops, cross = [], [], [], [], [], []
    for run in done:
        _, _, name, size, seed = run
        skill = 0.97 - 1.9 / numpy.sqrt(size) * (1 - 0.12 * numpy.sin(place[name] + 1))
        skill += generator.normal(0, 0.008) + 0.006 * seed
        skill = float(numpy.clip(skill, 0.2, 0.995))
        rows = _bins(generator, skill, 0.05 + 0.02 * (place[name] % 4))
        ece = float(numpy.nansum(rows["count"] * abs(rows["confidence"] - rows["accuracy"])))
        ece /= float(rows["count"].sum())
        after = _bins(generator, 0.9 * skill, 0.01)
        for scaled, each in ((False, rows), (True, after)):
            bins.append(each.assign(scaled=scaled, **dict(zip(RUN, run, strict=True))))
        fractions = numpy.round(numpy.arange(10) / 10, 1)
        for order, speed in ORDERS.items():
            drop = numpy.exp(-speed * (1 + 0.15 * place[name] % 0.5) * fractions**1.3)
            accuracy = 0.1 + (skill - 0.1) * drop + generator.normal(0, 0.006, 10)
            curves += [
                (*run, order, "channel-mean", f, a, 1.3 - a)
                for f, a in zip(fractions, numpy.clip(accuracy, 0, 1), strict=True)
            ]
            metrics.append((*run, f"occlusion-{order}", float(numpy.mean(accuracy)) / skill))
        for explained, fill, first in MAPS:
            speed = {"most": 3.0, "least": 0.8}[first] + 0.2 * place[name]
            accuracy = 0.1 + (skill - 0.1) * numpy.exp(-speed * fractions**1.3)
            maps += [
                (*run, explained, fill, first, f, a)
                for f, a in zip(fractions, accuracy, strict=True)
            ]
        few = fractions[::3]
        for saliency, speed in SALIENCIES.items():
            accuracy = 0.1 + (skill - 0.1) * numpy.exp(-speed * (1 + 0.1 * place[name]) * few)
            drops += [(*run, saliency, f, a) for f, a in zip(few, accuracy, strict=True)]
        for other in [each for each in methods if (*run[:2], each.name, size, seed) in done]:
            for first, sign in (("most", 1), ("least", -1)):
                speed = (1.4 + 0.1 * place[name]) * (1 + sign * (0.3 + 0.05 * place[other.name]))
                accuracy = 0.1 + (skill - 0.1) * numpy.exp(-speed * few)
                cross += [
                    (*run, other.name, first, f, a) for f, a in zip(few, accuracy, strict=True)
                ]
        metrics += [
            (*run, "accuracy", skill),
            (*run, "ece", ece),
            (*run, "ece-debiased", 0.8 * ece),
            (*run, "ece-expected", 0.02 + 0.004 * place[name]),
            (*run, "nll", -1.2 * numpy.log(skill)),
            (*run, "brier", 1.4 * (1 - skill)),
        ]
    reliability = pandas.concat(bins) if bins else pandas.DataFrame(columns=[*RUN, *_BINS])
    failures = [(*run, "train", "NonFiniteLossError", MESSAGE) for run in lost]
    return {
        "metrics.csv": pandas.DataFrame(metrics, columns=[*RUN, "metric", "value"]),
        "curves.csv": pandas.DataFrame(
            curves, columns=[*RUN, "order", "fill", "fraction", "accuracy", "nll"]
        ),
        "faithfulness.csv": pandas.DataFrame(
            maps, columns=[*RUN, "map", "fill", "first", "fraction", "accuracy"]
        ),
        "accuracy_drop.csv": pandas.DataFrame(drops, columns=[*RUN, "map", "fraction", "accuracy"]),
        "cross.csv": pandas.DataFrame(
            cross, columns=[*RUN, "map_of", "first", "fraction", "accuracy"]
        ),
        "reliability.csv": reliability[[*RUN, *_BINS]],
        "failures.csv": pandas.DataFrame(failures, columns=[*RUN, "stage", "error", "message"]),
        "tests.csv": _tests(methods, sizes, {run[2:] for run in done}, generator),
        "gallery.safetensors": _gallery(methods, {run[2] for run in done}, pairs, generator),
    }


_BINS = ["scaled", "bin", "low", "high", "count", "confidence", "accuracy"]


def _bins(generator, skill, excess):
    """Return 15 bins of a classifier that is too sure by ``excess``."""
    edges = numpy.linspace(0, 1, 16)
    confidence = numpy.clip(generator.beta(9 * skill, 2.4 * (1.15 - skill) + 0.3, 360), 0.11, 1)
    right = generator.random(360) < numpy.clip(confidence - excess, 0, 1)
    which = numpy.minimum((confidence * 15).astype(int), 14)
    count = numpy.bincount(which, minlength=15)
    divisor = numpy.where(count, count, numpy.nan)
    return pandas.DataFrame(
        {
            "bin": range(15),
            "low": edges[:-1],
            "high": edges[1:],
            "count": count,
            "confidence": numpy.bincount(which, confidence, 15) / divisor,
            "accuracy": numpy.bincount(which, right, 15) / divisor,
        }
    )


def _tests(methods, sizes, done, generator):
    """Return comparisons to the first method, and of guided methods to their controls."""
    controls = [method.name for method in methods if method.is_control]
    rows = []
    for reference in [methods[0].name, *controls]:
        for metric in METRICS:
            for size in [*sizes, "all"]:
                for method in methods:
                    has_run = size == "all" or any(run[:2] == (method.name, size) for run in done)
                    guided = reference.rpartition("/")[0]
                    if method.name == reference or (guided and method.name != guided):
                        continue
                    if not has_run:
                        continue
                    spread = 0.3 if metric.startswith("nll") else 0.03
                    middle = generator.normal(0, spread)
                    half = abs(generator.normal(spread, spread / 3))
                    verdict = "undecided" if abs(middle) < half else "better"
                    reason = f"3 clusters: no p below 0.25; {middle:.2f}"
                    p = 0.25 if verdict == "undecided" else 0.004
                    row = (reference, metric, size, method.name, middle, middle - half)
                    rows.append((*row, middle + half, p / 4, p, 3, verdict, reason))
    columns = ["reference", "metric", "train_size", "method", "difference", "low", "high", "p"]
    columns += ["p_corrected", "n_clusters", "verdict", "reason"]
    return pandas.DataFrame(rows, columns=columns)


def _gallery(methods, done, pairs, generator):
    """Return blobs as inputs, with maps that follow them."""
    arrays = {}
    y, x = numpy.mgrid[:8, :8]
    for dataset, model in pairs:
        k, block = 8, f"{dataset}|{model}"
        centres = generator.uniform(2, 5, (k, 2, 1, 1))
        rings = numpy.hypot(y - centres[:, 0], x - centres[:, 1])
        inputs = numpy.exp(-((rings - 2) ** 2) / 0.8)[:, None].astype("float32")
        arrays[f"{block}/inputs"] = inputs
        arrays[f"{block}/labels"] = numpy.arange(k)
        for method in [method for method in methods if method.name in done]:
            relevance = inputs[:, 0] * generator.normal(0.5, 0.7, (k, 8, 8))
            arrays[f"{block}/{method.name}/relevance"] = relevance.astype("float32")
            wrong = generator.random(k) < 0.2
            arrays[f"{block}/{method.name}/predictions"] = (numpy.arange(k) + wrong) % 10
            if method.name != "baseline":
                perturbed = inputs.copy()
                perturbed[:, :, 2:5, 3:6] = 0.3
                arrays[f"{block}/{method.name}/perturbed"] = perturbed
    return arrays


def write_tables(tables, folder: Path) -> Path:
    """Write the tables by file name and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        if name.endswith(".csv"):
            table.to_csv(folder / name, index=False)
        else:
            save_file({key: numpy.ascontiguousarray(a) for key, a in table.items()}, folder / name)
    return folder
