"""Nested subsets: one order of the pool per law and seed, of which a subset is a prefix."""

import heapq
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from attrreg.files import read_json, write_json
from attrreg.laws import SubsetLaw
from attrreg.provenance import array_digest, stream_seed
from attrreg.variant import Variant

__all__ = [
    "Subset",
    "balanced_order",
    "draw_subsets",
    "noisy_labels",
    "proportional_order",
    "read_subset",
    "subset_path",
    "tail_weights",
]

ROUNDS = "rounds of one sample per class in random order; a class that has run out is passed over"
SHARES = (
    "every class has the whole number of samples below or above its share of every prefix; a class "
    "that has run out is passed over"
)


class Subset(NamedTuple):
    """What training is given: places in the pool, and labels, which need not be those of the pool.

    Both (train_size,) int64.
    """

    indices: np.ndarray
    labels: np.ndarray


def balanced_order(labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Order samples so that every prefix is as balanced over the classes as the pool allows.

    The order is made of rounds. In each round every class that still has samples gives one, the
    classes in an order drawn anew. So in a prefix of n samples of C classes each class has ⌊n/C⌋
    or one more; which classes have one more is random and differs between seeds.

    Parameters
    ----------
    labels
        (n,) integers ≥ 0.
    generator
        Source of all randomness.

    Returns
    -------
    numpy.ndarray
        (n,) int64, a permutation of 0 … n−1.
    """
    shuffled = generator.permutation(len(labels))
    rounds = _ranks(labels[shuffled])
    within = generator.random(len(labels))
    return shuffled[np.lexsort((within, rounds))]


def proportional_order(
    labels: np.ndarray, weights: Sequence[int], generator: np.random.Generator
) -> np.ndarray:
    """Order samples so that every prefix is as near to given proportions as the pool allows.

    As long as no class has run out, a class with share p of the weights has ⌊np⌋ or ⌈np⌉ samples
    in a prefix of n. A class that has run out is passed over; the others keep their proportions
    among each other.

    Each sample has a window of places: the j-th of its class, counted from 0, stands at ⌊j/p⌋ or
    later and before ⌈(j+1)/p⌉. Each place goes to the sample whose window is open and ends first,
    which keeps all windows; where several end together, chance decides.

    Parameters
    ----------
    labels
        (n,) integers ≥ 0.
    weights
        Of each class, by its number; above 0 for classes that have samples. Whole numbers, so that
        the windows are exact.
    generator
        Source of all randomness.

    Returns
    -------
    numpy.ndarray
        (n,) int64, a permutation of 0 … n−1.

    References
    ----------
    Tijdeman, The chairman assignment problem, Discrete Mathematics 32, 1980.
    """
    shuffled = generator.permutation(len(labels))
    classes = labels[shuffled]
    whole = sum(weights[each] for each in np.unique(classes))
    ties = generator.random(len(labels))
    windows = [
        (rank * whole // weights[label], -(-(rank + 1) * whole // weights[label]), tie, sample)
        for label, rank, tie, sample in zip(
            classes.tolist(),
            _ranks(classes).tolist(),
            ties.tolist(),
            shuffled.tolist(),
            strict=True,
        )
    ]
    windows.sort(reverse=True)  # the next to open stands last
    order: list[int] = []
    opened: list[tuple[int, float, int]] = []
    place = 0
    while windows or opened:
        if not opened:  # the place of a class that has run out
            place = max(place, windows[-1][0])
        while windows and windows[-1][0] <= place:
            heapq.heappush(opened, windows.pop()[1:])
        order.append(heapq.heappop(opened)[-1])
        place += 1
    return np.asarray(order, dtype=np.int64)


def tail_weights(labels: np.ndarray, imbalance: float, generator: np.random.Generator) -> list[int]:
    """Return weights of the classes by number, which fall geometrically to one over `imbalance`.

    Which class has which weight is drawn; classes without samples have the weight 0.
    """
    present = np.unique(labels)
    steps = generator.permutation(len(present)) / max(1, len(present) - 1)
    weights = [0] * (int(present[-1]) + 1 if len(present) else 0)
    for label, step in zip(present.tolist(), steps.tolist(), strict=True):
        weights[label] = max(1, round(2**40 * imbalance**-step))
    return weights


def noisy_labels(labels: np.ndarray, share: float, generator: np.random.Generator) -> np.ndarray:
    """Return labels of which about a share is that of another class, all others equally likely.

    The same generator and a higher share keep every wrong label and add more.

    Raises
    ------
    ValueError
        There is only one class.
    """
    present, places = np.unique(labels, return_inverse=True)
    if len(present) == 1:
        raise ValueError(
            f"label noise {share} needs another class, found only {present[0]} in the pool"
        )
    drawn = generator.random(len(labels))
    steps = 1 + (generator.random(len(labels)) * (len(present) - 1)).astype(np.int64)
    wrong = present[(places + steps) % max(1, len(present))]
    return np.where(drawn < share, wrong, labels)


def subset_path(data: Path, dataset: str | Variant, seed: int) -> Path:
    """Return where the order of one seed lies in the data folder."""
    variant = Variant.of(dataset)
    return data / variant.key / "subsets" / variant.law.name / f"s{seed}.json"


def draw_subsets(data: Path, dataset: str | Variant, seed: int, labels: np.ndarray) -> Path:
    """Write the order from which all subsets of a seed are taken, and return its path.

    Parameters
    ----------
    data
        The folder of prepared datasets.
    dataset
        Which one, and by which law; with other options it has the same orders.
    seed
        Of the runs that are trained on these subsets.
    labels
        (n,) integers ≥ 0: of the whole pool.

    Raises
    ------
    ValueError
        Label noise is asked for, and there is only one class.
    """
    variant = Variant.of(dataset)
    law = variant.law
    order = _order(variant.base, seed, labels, law).astype(np.int64)
    arrays = {"order": order}
    if law.label_noise > 0:
        generator = np.random.default_rng(stream_seed("label-noise", variant.base, seed))
        arrays["given"] = noisy_labels(labels, law.label_noise, generator)[order].astype(np.int64)
    record = {
        **_identity(variant, seed, labels, list(arrays.values())),
        "rule": ROUNDS if _in_rounds(law) else SHARES,
        **{name: array.tolist() for name, array in arrays.items()},
    }
    path = subset_path(data, variant, seed)
    write_json(path, record)
    return path


def read_subset(
    data: Path, dataset: str | Variant, seed: int, train_size: int, labels: np.ndarray
) -> Subset:
    """Return a subset of the pool, and the labels that training is given.

    Raises
    ------
    ValueError
        The order was drawn from other labels or by another law, or is too short.
    FileNotFoundError
        It has not been drawn.
    """
    variant = Variant.of(dataset)
    path, law = subset_path(data, variant, seed), variant.law
    by_law = [] if law == SubsetLaw() else ["--law", law.name]
    command = f"run `{variant.command('subset', data, '--seed', seed, *by_law)}`"
    if not path.is_file():
        raise FileNotFoundError(f"no subset order at {path}: {command}")
    names = ("order", "given") if law.label_noise > 0 else ("order",)
    try:
        record = read_json(path)
        arrays = [np.asarray(record[name], dtype=np.int64) for name in names]
        wanted = _identity(variant, seed, labels, arrays)
        found = {key: record[key] for key in wanted}
    except (ValueError, TypeError, LookupError, OverflowError) as error:
        raise ValueError(f"{path} does not hold a subset order ({error}): {command}") from error
    if found != wanted:
        raise ValueError(
            f"{path} was drawn for another dataset, seed or law or for other labels, or was "
            f"changed: {command}"
        )
    if len(arrays[0]) < train_size:
        raise ValueError(f"{path} orders {len(arrays[0])} samples, {train_size} are asked for")
    order = arrays[0][:train_size]
    given = arrays[1][:train_size] if law.label_noise > 0 else labels[order].astype(np.int64)
    return Subset(order, given)


def _identity(
    variant: Variant, seed: int, labels: np.ndarray, arrays: list[np.ndarray]
) -> dict[str, Any]:
    """Return what a file says about its order, and what is compared when it is read."""
    return {
        "dataset": variant.key,
        "seed": seed,
        "law": variant.law.model_dump(),
        "labels": array_digest(labels),
        "digest": array_digest(*arrays),
    }


def _order(dataset: str, seed: int, labels: np.ndarray, law: SubsetLaw) -> np.ndarray:
    """Return the order of a law; all laws draw from the same stream and so share many samples."""
    generator = np.random.default_rng(stream_seed("subset", dataset, seed))
    if _in_rounds(law):
        return balanced_order(labels, generator)
    counts = np.bincount(labels).tolist()
    weights = counts if law.order == "natural" else [1] * len(counts)
    if law.imbalance > 1:
        ranks = np.random.default_rng(stream_seed("rare-classes", dataset, seed))
        tail = tail_weights(labels, law.imbalance, ranks)
        weights = [weight * factor for weight, factor in zip(weights, tail, strict=True)]
    return proportional_order(labels, weights, generator)


def _in_rounds(law: SubsetLaw) -> bool:
    return law.order == "balanced" and law.imbalance == 1


def _ranks(classes: np.ndarray) -> np.ndarray:
    """Return of each sample how many of its class stand before it, (n,) int64."""
    by_class = np.argsort(classes, kind="stable")
    counts = np.bincount(classes)
    starts = np.cumsum(counts) - counts
    ranks = np.empty(len(classes), dtype=np.int64)
    ranks[by_class] = np.arange(len(classes)) - np.repeat(starts, counts)
    return ranks
