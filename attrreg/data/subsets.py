"""Nested, class-balanced subsets: one order of the pool per seed, of which a subset is a prefix."""

from pathlib import Path
from typing import Any

import numpy as np

from attrreg.files import read_json, write_json
from attrreg.provenance import array_digest, stream_seed

__all__ = ["balanced_order", "draw_subsets", "read_subset", "subset_path"]

RULE = "rounds of one sample per class in random order; a class that has run out is passed over"


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
    if len(labels) == 0:
        return np.empty(0, dtype=np.int64)
    shuffled = generator.permutation(len(labels))
    classes = labels[shuffled]
    # the round of a sample: how many of its class stand before it
    by_class = np.argsort(classes, kind="stable")
    counts = np.bincount(classes)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    rounds = np.empty(len(labels), dtype=np.int64)
    rounds[by_class] = np.arange(len(labels)) - np.repeat(starts, counts)
    within = generator.random(len(labels))
    return shuffled[np.lexsort((within, rounds))]


def subset_path(data: Path, dataset: str, seed: int) -> Path:
    """Return where the order of one seed lies in the data folder."""
    return data / dataset / "subsets" / f"s{seed}.json"


def draw_subsets(data: Path, dataset: str, seed: int, labels: np.ndarray) -> Path:
    """Write the order from which all subsets of a seed are taken, and return its path."""
    generator = np.random.default_rng(stream_seed("subset", dataset, seed))
    order = balanced_order(labels, generator)
    path = subset_path(data, dataset, seed)
    record: dict[str, Any] = {
        "dataset": dataset,
        "seed": seed,
        "rule": RULE,
        "labels": array_digest(labels),
        "digest": array_digest(order.astype(np.int64)),
        "order": order.tolist(),
    }
    write_json(path, record)
    return path


def read_subset(
    data: Path, dataset: str, seed: int, train_size: int, labels: np.ndarray
) -> np.ndarray:
    """Return the indices of a subset into the pool, (train_size,) int64.

    Raises
    ------
    ValueError
        The order was drawn from other labels, or is too short.
    FileNotFoundError
        It has not been drawn.
    """
    path = subset_path(data, dataset, seed)
    command = f"run `attrreg subset --dataset {dataset} --seed {seed} --data {data}`"
    if not path.is_file():
        raise FileNotFoundError(f"no subset order at {path}: {command}")
    try:
        record = read_json(path)
        order = np.asarray(record["order"], dtype=np.int64)
        drawn_for = (record["dataset"], record["seed"], record["labels"], record["digest"])
    except (ValueError, TypeError, LookupError, OverflowError) as error:
        raise ValueError(f"{path} does not hold a subset order ({error}): {command}") from error
    if drawn_for != (dataset, seed, array_digest(labels), array_digest(order)):
        raise ValueError(
            f"{path} was drawn for another dataset or seed or for other labels, or was changed: "
            f"{command}"
        )
    if len(order) < train_size:
        raise ValueError(f"{path} orders {len(order)} samples, {train_size} are asked for")
    return order[:train_size]
