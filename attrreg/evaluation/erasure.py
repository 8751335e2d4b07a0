"""Erasure: does a prediction rest on what a map calls relevant, and on nothing else?

References
----------
DeYoung et al., ERASER: a benchmark to evaluate rationalized NLP models, ACL 2020, section 4.2;
Carton et al., Evaluating and characterizing human rationales, EMNLP 2020 (the empty input).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from attrreg.evaluation.faithfulness import lowest_first, responses, seeded
from attrreg.evaluation.predict import BATCH, predict
from attrreg.features import resolve_axes
from attrreg.perturbation import fill_values

__all__ = ["Erasure", "RelativeErasure", "erasure", "relative_erasure"]

FRACTIONS = (0.01, 0.05, 0.1, 0.2, 0.5)


class Erasure(NamedTuple):
    """Losses of probability, (n,) float64 on the CPU.

    ``comprehensiveness`` without the most relevant features, ``sufficiency`` with these alone
    (both means over the shares), ``empty`` without any feature.
    """

    comprehensiveness: Tensor
    sufficiency: Tensor
    empty: Tensor


class RelativeErasure(NamedTuple):
    """Means over the samples, () float64, beyond random orders and as shares of the whole loss.

    0 is as good as a random order. Larger comprehensiveness is better, smaller sufficiency.
    """

    comprehensiveness: Tensor
    sufficiency: Tensor


def erasure(
    model: nn.Module,
    x: Tensor,
    relevance: Tensor,
    fill: str | Tensor = "zero",
    fractions: Sequence[float] = FRACTIONS,
    *,
    explained: Tensor | None = None,
    present: Tensor | None = None,
    generator: torch.Generator | None = None,
    axes: tuple[int, ...] | None = None,
    batch_size: int = BATCH,
) -> Erasure:
    """Return comprehensiveness and sufficiency of maps, averaged over shares of the features.

    With m the probability of the explained class and r the most relevant share: comprehensiveness
    is m(x) − m(x without r), sufficiency m(x) − m(r alone). Each share has at least one feature.

    Parameters
    ----------
    relevance
        (n, *features), signed; ties in random order.
    explained
        (n,) int64; None: the class that the model predicts for x.
    generator
        Randomness of ties and fill, on the device of x; None: one of seed 0.

    Others, and errors, are those of `responses`.
    """
    generator = seeded(generator, x)
    order = lowest_first(-relevance, generator)
    explained = predict(model, x, batch_size).argmax(1) if explained is None else explained
    if isinstance(fill, str):
        fill = fill_values(fill, x, resolve_axes(x, axes), generator)

    def probabilities(shares: Sequence[float], kept: bool = False, at_least: int = 0) -> Tensor:
        return responses(
            model,
            x,
            explained,
            order,
            fill,
            shares,
            kept=kept,
            at_least=at_least,
            present=present,
            axes=axes,
            batch_size=batch_size,
        ).probability

    whole, empty = probabilities((0.0, 1.0)).unbind(1)
    without = probabilities(fractions, at_least=1).mean(1)
    alone = probabilities(fractions, kept=True, at_least=1).mean(1)
    return Erasure(whole - without, whole - alone, whole - empty)


def relative_erasure(found: Erasure, by_chance: Sequence[Erasure]) -> RelativeErasure:
    """Return (found − by chance) ÷ empty, of means over samples, for both scores.

    Parameters
    ----------
    found
        Of the maps in question.
    by_chance
        Of random maps (and else alike), one or more, which are averaged.

    Raises
    ------
    ValueError
        No random maps are given.

    Notes
    -----
    NaN where the empty input does not lower the mean probability: there is nothing to lose.
    """
    if not by_chance:
        raise ValueError("by_chance is empty: give the erasure of at least one random map")
    empty = found.empty.mean()
    empty = torch.where(empty > 0, empty, torch.nan)

    def relative(name: str) -> Tensor:
        chance = torch.stack([getattr(each, name).mean() for each in by_chance]).mean()
        return (getattr(found, name).mean() - chance) / empty

    return RelativeErasure(relative("comprehensiveness"), relative("sufficiency"))
