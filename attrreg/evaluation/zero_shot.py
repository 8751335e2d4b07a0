"""Other test sets: the classes that a model knows in other images, and images of none of them.

Nothing is trained on them, and nothing about them is fitted: inputs are normalised as those of the
pool that the model was trained on.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attrreg.data.sources import read_held_out
from attrreg.evaluation import accuracy, calibration, calibration_bias
from attrreg.evaluation.predict import BATCH, predict
from attrreg.evaluation.shift import class_mapped, detection
from attrreg.files import read_json
from attrreg.other_sets import Named, sets_beside
from attrreg.protocol import SET_METRICS, Evaluation, SetKind
from attrreg.provenance import digest
from attrreg.variant import Variant

__all__ = ["OtherSet", "match_classes", "open_sets", "score_sets"]

Scores = dict[
    str, tuple[Tensor, float | None]
]  # each beside what chance would give, if it is known


@dataclass(frozen=True)
class OtherSet:
    """A test set that nothing is trained on, and what of it is scored.

    Parameters
    ----------
    label
        How it is called in metrics and tables.
    kind
        ``zero_shot``: the model knows classes of it; ``unknown``: it counts as knowing none.
    x
        (n, *features) uint8, mapped from their file.
    scored
        (m,) int64, the samples that are scored, ascending.
    y
        (m,) int64, their classes as places in `classes`; (0,) for ``unknown``.
    classes
        The classes of the model among which it chooses.
    digest
        What stands for samples, labels and classes.
    """

    label: str
    kind: SetKind
    x: np.ndarray
    scored: np.ndarray
    y: Tensor
    classes: tuple[int, ...]
    digest: str

    @property
    def left_out(self) -> int:
        """Samples of classes that the model does not know."""
        return len(self.x) - len(self.scored)


def open_sets(
    data: Path, dataset: Variant, class_names: Sequence[str], settings: Evaluation
) -> tuple[OtherSet, ...]:
    """Open the test sets that models of a dataset are evaluated on beside its own.

    Parameters
    ----------
    data
        The folder of prepared datasets.
    dataset
        What the models were trained on.
    class_names
        Of its classes, by label.
    settings
        The protocol.

    Raises
    ------
    FileNotFoundError
        A set is not prepared; the message names the command that does it.
    ValueError
        It does not fit the dataset, or the two have fewer than two classes in common.
    """
    found = []
    for each in sets_beside(settings, dataset):
        try:
            found.append(_open(data, each, dataset, class_names))
        except ValueError as error:
            said = f"evaluation.{each.kind} has {each.variant.base!r}: {error}"
            raise ValueError(said) from error
    return tuple(found)


def match_classes(known: Sequence[str], own: Sequence[str], counts: tuple[int, int]) -> list[int]:
    """Return by class of a set the class of the model that has the same name, -1 for none.

    Names count without blanks around them, and otherwise letter by letter; an empty one is none.

    Parameters
    ----------
    known, own
        Names of the classes of the model, and of the set; empty where they have none.
    counts
        How many classes each has.

    Raises
    ------
    ValueError
        Names are missing, unless both have as many classes without any; or one stands for two.
    """
    if not known and not own and counts[0] == counts[1]:
        return list(range(counts[0]))
    if not known or not own:
        without = [name for name, names in (("the model", known), ("the set", own)) if not names]
        raise ValueError(
            f"classes of {' and '.join(without)} have no names, and there are {counts[1]} in the "
            f"set and {counts[0]} in the model: they can be matched by names, or where both have "
            "none and are equally many"
        )
    stripped = [[name.strip() for name in names] for names in (known, own)]
    shared = set(stripped[0]) & set(stripped[1]) - {""}
    for names, whose in zip(stripped, ("the model", "the set"), strict=True):
        twice = [name for name, times in Counter(names).items() if times > 1 and name in shared]
        if twice:
            raise ValueError(
                f"two classes of {whose} are named {twice[0]!r}: give each a name of its own"
            )
    numbers = {name: number for number, name in enumerate(stripped[0]) if name}
    return [numbers.get(name, -1) for name in stripped[1]]


def score_sets(
    sets: Iterable[OtherSet],
    model: nn.Module,
    normalised: Callable[[Tensor], Tensor],
    known: Tensor,
    bins: int,
) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Return the metrics of some sets by name, and the rows of their table.

    Of known classes: accuracy, balanced accuracy, NLL and debiased ECE, of the logits of those
    classes that model and set both have. Of unknown ones: how well the largest probability tells
    them from known samples. ``aupr`` is average precision where the unknown samples are to be
    found, the convention for ImageNet-O; chance is their share, so compare it on one set only.

    Parameters
    ----------
    sets
        From `open_sets`.
    model
        Maps normalised inputs to logits.
    normalised
        From uint8 inputs to what the model sees.
    known
        Logits (n, classes) of the model's own test split.
    bins
        Of the calibration error.
    """
    metrics: dict[str, Tensor] = {}
    rows = []
    for each in sets:
        logits = _logits(each, model, normalised, known.device)
        is_known = each.kind == "zero_shot"
        found = _of_known(logits, each, bins) if is_known else _of_unknown(logits, known)
        families = SET_METRICS[each.kind]
        metrics |= {
            f"{families[name]}{each.label}": value
            for name, (value, _) in found.items()
            if name in families
        }
        head = {"set": each.label, "kind": each.kind, "samples": len(each.scored)}
        head |= {"left_out": each.left_out, "classes": len(each.classes)}
        rows += [
            head | {"metric": name, "value": float(value), "chance": chance}
            for name, (value, chance) in found.items()
        ]
    return metrics, rows


def _open(data: Path, named: Named, dataset: Variant, class_names: Sequence[str]) -> OtherSet:
    test = read_held_out(data, named.variant, ("test",))["test"]
    described = read_json(data / named.variant.key / "dataset.json")
    known, own = dataset.entry.classes, int(described["classes"])
    if named.kind == "unknown":
        kept, numbers = np.ones(len(test.y), dtype=bool), []
        classes = list(range(known))
    else:
        matched = match_classes(class_names, described["class_names"], (known, own))
        # of ImageNet-R all 1,000 are named, and 200 are there
        there = np.sum(list(described["counts"].values()), axis=0) > 0
        numbers = [number if there[at] else -1 for at, number in enumerate(matched)]
        classes = [number for number in numbers if number >= 0]
        if len(classes) < 2:
            raise ValueError(
                f"it has {len(classes)} of its {own} classes in common with {dataset.base!r}, at "
                "least 2 are needed; they are matched by their names, here "
                f"{_some(described['class_names'])}, there {_some(class_names)}"
            )
        kept = np.asarray(numbers)[test.y] >= 0
    if not kept.any():
        raise ValueError(
            f"none of its {len(test.y)} test samples is of a class that {dataset.base!r} has, too"
        )
    place = {number: at for at, number in enumerate(classes)}
    y = [place[numbers[label]] for label in test.y[kept].tolist()] if numbers else []
    return OtherSet(
        named.label,
        named.kind,
        test.x,
        np.flatnonzero(kept),
        torch.tensor(y, dtype=torch.int64),
        tuple(classes),
        digest([named.label, named.kind, described["digests"]["test"], numbers, classes]),
    )


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:5])) + (", …" if len(names) > 5 else "")
    return shown or "without names"


def _logits(
    each: OtherSet, model: nn.Module, normalised: Callable[[Tensor], Tensor], device: torch.device
) -> Tensor:
    """Return the logits of the scored samples; only a batch of them is on the device at a time."""
    parts = np.split(each.scored, range(BATCH, len(each.scored), BATCH))
    return torch.cat(
        [predict(model, normalised(torch.from_numpy(each.x[at]).to(device))) for at in parts]
    )


def _of_known(logits: Tensor, each: OtherSet, bins: int) -> Scores:
    mapped, y = class_mapped(logits, each.classes), each.y.to(logits.device)
    guessed = 1 / len(each.classes)
    return {
        "accuracy": (accuracy.top_k(mapped, y), guessed),
        "balanced-accuracy": (accuracy.balanced(mapped, y), guessed),
        "nll": (calibration.nll(mapped, y), -math.log(guessed)),
        "ece-debiased": (calibration_bias.debiased_ece(mapped, y, bins), None),
    }


def _of_unknown(logits: Tensor, known: Tensor) -> Scores:
    found = detection(known, logits)
    share = len(logits) / (len(logits) + len(known))
    return {"auroc": (found.auroc, 0.5), "aupr": (found.aupr_unknown, share)}
