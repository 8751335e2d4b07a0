"""How often verdicts say what is not so, and how many clusters they need."""

import dataclasses
import math

import numpy as np
import pytest
from claim_tables import FACTS, HIGHER, claim, table

from attrreg.claims.answering import answer
from attrreg.claims.comparators import Reference
from attrreg.claims.endpoints import Yardstick
from attrreg.claims.finding import find, needed
from attrreg.claims.gathering import Comparison, Gathered, Question
from attrreg.claims.specification import Endpoint

ALPHA, CLUSTERS, EXPERIMENTS = 0.2, 12, 600
POINTS = claim(
    methods=["reldrop-block"],
    endpoints=[HIGHER],
    against=["baseline", "random-erasing", "swapped"],
    least={"value": 1, "unit": "absolute"},
)
YARDSTICK = Yardstick.of(Endpoint.model_validate(HIGHER), "absolute")


def gathered(effects):
    """Return the comparisons of a claim with these clusters, a row for each comparator."""
    comparisons = [
        Comparison(0, "score", "", "", Reference(name, name), YARDSTICK, clusters, (), ())
        for name, clusters in zip(POINTS.against, effects, strict=True)
    ]
    return Gathered(Question(POINTS, "reldrop-block"), tuple(comparisons))


def is_false(verdict, effects):
    """Whether a verdict says of these true effects what is not so."""
    return {
        "supported": min(effects) <= 1,
        "works, guidance not shown": max(effects[:2]) <= 1,
        "contradicted": min(effects) >= 0,
        "negligible": not -1 < min(effects) < 1,
        "undecided": False,
    }[verdict]


@pytest.mark.parametrize(
    "effects",
    [(0, 0, 0), (1, 1, 1), (9, 9, 1), (1, 1, 9), (9, 1, 1), (1, 1, -1), (-1, 9, 9)],
    ids=str,
)
def test_the_chance_that_any_claim_says_too_much_is_at_most_alpha(effects):
    """With the true effects on the borders, where it is easiest; methods share their reference."""
    family = 3
    generator = np.random.default_rng(abs(hash(effects)) % 1000)
    own = generator.normal(0, 1, (EXPERIMENTS, family, 1, CLUSTERS))
    others = generator.normal(0, 1, (EXPERIMENTS, 1, len(effects), CLUSTERS))
    found = np.array(effects)[:, None] + own - others
    wrong = {"any": 0, "supported": 0}
    for experiment in found:
        verdicts = [find(gathered(each), family, ALPHA).verdict for each in experiment]
        wrong["any"] += any(is_false(verdict, effects) for verdict in verdicts)
        wrong["supported"] += "supported" in verdicts and min(effects) <= 1
    error = 3 * math.sqrt(ALPHA * (1 - ALPHA) / EXPERIMENTS)
    assert wrong["any"] / EXPERIMENTS <= ALPHA + error
    assert wrong["supported"] / EXPERIMENTS <= ALPHA / 2 + error


PATTERN = np.array([-1.2, -0.9, -0.5, -0.1, 0.1, 0.5, 0.9, 1.2])


def test_the_nearer_an_effect_is_to_the_border_the_more_clusters_are_needed():
    by_effect = [
        needed(gathered([9 + PATTERN, 9 + PATTERN, effect + PATTERN]), 3, 0.05)
        for effect in (3.0, 1.8, 1.3, 1.1, 1.05)
    ]
    assert by_effect == sorted(set(by_effect))
    assert needed(gathered([9 + PATTERN, 9 + PATTERN, 1 + PATTERN]), 3, 0.05) is None
    assert needed(gathered([PATTERN[:1]] * 3), 3, 0.05) is None


def test_as_many_clusters_as_are_needed_decide_four_times_out_of_five():
    effects, spread, family, alpha = np.array([[9.0], [9.0], [2.0]]), PATTERN.std(ddof=1), 3, 0.05
    enough = needed(gathered(effects + PATTERN), family, alpha)
    generator = np.random.default_rng(0)
    draws = [effects + generator.normal(0, spread, (3, enough)) for _ in range(200)]
    verdicts = [find(gathered(each), family, alpha).verdict for each in draws]
    decided = verdicts.count("supported") / len(draws)
    error = 3 * math.sqrt(0.8 * 0.2 / len(draws))
    assert 0.8 - error <= decided <= 0.8 + error


def test_without_any_effect_whole_experiments_seldom_support_a_claim():
    """From the table to the verdict, with effects just at the least one against all comparators."""
    experiments, alpha = 60, 0.4
    facts = dataclasses.replace(FACTS, alpha=alpha)
    chosen = [claim(cells={"at_most": 50}), claim(id="T2", against=["baseline"])]
    gains = {"baseline": 0.0, "challenger": 0.05, "challenger/swapped": 0.0}
    supported = 0
    for seed in range(experiments):
        answers = answer(chosen, table(gains, clusters=8, noise=0.05, seed=seed), facts)
        supported += "supported" in set(answers["verdict"])
    half = alpha / 2  # the other half is for saying too little
    assert supported / experiments <= half + 3 * math.sqrt(half * (1 - half) / experiments)
