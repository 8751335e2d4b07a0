"""Localization scores of maps whose scores are known, and against plain loops."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from attrreg.evaluation.localization import (
    SCORES,
    average,
    centre_map,
    coverage,
    localization,
    mass,
    pointing,
    rank_accuracy,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def scores(relevance, region):
    """Return every score of one map by name."""
    relevance, region = torch.tensor([relevance], dtype=torch.float64), torch.tensor([region])
    return {name: score(relevance, region > 0).item() for name, score in SCORES.items()}


def same(found, **expected):
    wanted = {name.replace("_", "-"): value for name, value in expected.items()}
    assert found == pytest.approx(wanted, nan_ok=True)


def test_by_hand():
    relevance = [[4.0, 1.0, 0.0], [2.0, -3.0, 1.0]]
    same(
        scores(relevance, [[1, 1, 0], [0, 0, 0]]),
        mass=5 / 8,
        coverage=math.exp(entropy([0.8, 0.2])) / 2,
        rank_accuracy=1 / 2,
        pointing=1,
    )
    same(
        scores(relevance, [[0, 0, 0], [1, 1, 1]]),
        mass=3 / 8,
        coverage=math.exp(entropy([2 / 3, 1 / 3])) / 3,
        rank_accuracy=(1 + 0.5) / 3,  # the third place is between two ones, one of them inside
        pointing=0,
    )


def test_known_maps():
    region = [[1, 1, 0, 0], [1, 1, 0, 0]]
    same(scores(region, region), mass=1, coverage=1, rank_accuracy=1, pointing=1)
    outside = [[0, 0, 1, 2], [0, 0, 0, 0]]
    same(scores(outside, region), mass=0, coverage=0, rank_accuracy=(2 * 4 / 6) / 4, pointing=0)
    one = [[0, 3.0, 0, 0], [0, 0, 0, 0]]
    same(
        scores(one, region),
        mass=1,
        coverage=1 / 4,
        rank_accuracy=(1 + 3 * 3 / 7) / 4,
        pointing=1,
    )
    everything = [[1, 1, 1, 1], [1, 1, 1, 1]]
    same(scores(one, everything), mass=1, coverage=1 / 8, rank_accuracy=1, pointing=1)


def test_what_is_not_defined_is_nan():
    nothing, region = [[0.0, -1.0], [-2.0, -1.0]], [[1, 0], [0, 0]]
    nan = math.nan
    same(scores(nothing, region), mass=nan, coverage=nan, rank_accuracy=1, pointing=1)
    empty = [[0, 0], [0, 0]]
    for relevance in (nothing, [[1.0, 2.0], [3.0, 4.0]]):
        same(scores(relevance, empty), mass=nan, coverage=nan, rank_accuracy=nan, pointing=nan)


def by_loop(relevance, region):
    """Return mass, coverage, rank accuracy and pointing of one map without ties."""
    places = [tuple(place) for place in np.ndindex(relevance.shape)]
    positive = {place: max(relevance[place], 0) for place in places}
    inside = [place for place in places if region[place]]
    total = sum(positive[place] for place in inside)
    shares = [positive[place] / total for place in inside if positive[place]]
    used = math.exp(-sum(share * math.log(share) for share in shares)) if shares else 0
    ranked = sorted(places, key=lambda place: -relevance[place])
    return [
        total / sum(positive.values()),
        used / len(inside),
        sum(place in inside for place in ranked[: len(inside)]) / len(inside),
        float(ranked[0] in inside),
    ]


@pytest.mark.parametrize("shape", [(5, 6), (9,), (3, 4, 2)])
def test_scores_are_those_of_a_plain_loop(shape):
    relevance = torch.randn((20, *shape), generator=generator(), dtype=torch.float64)
    region = torch.rand((20, *shape), generator=generator(1)) < 0.4
    region[:, *[0] * len(shape)] = True
    expected = [by_loop(*each) for each in zip(relevance.numpy(), region.numpy(), strict=True)]
    found = [score(relevance, region) for score in (mass, coverage, rank_accuracy, pointing)]
    np.testing.assert_allclose(torch.stack(found, 1), expected, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-300, 1e-20, 1e20, 1e307])
def test_the_scale_of_a_map_does_not_matter(scale):
    relevance = torch.randn((10, 4, 4), generator=generator(), dtype=torch.float64)
    region = torch.rand((10, 4, 4), generator=generator(1)) < 0.4
    for score in SCORES.values():
        torch.testing.assert_close(
            score(scale * relevance, region), score(relevance, region), equal_nan=True
        )


def test_ties_count_as_random_choices_would_on_average():
    relevance = torch.tensor([[[2.0, 1, 1], [1, 1, 0]]])
    region = torch.tensor([[[True, True, False], [True, False, True]]])
    random = torch.rand((20_000, 2, 3), generator=generator()) * 0.5
    drawn = rank_accuracy(relevance + random, region.expand(20_000, 2, 3)).mean()
    assert rank_accuracy(relevance, region).item() == pytest.approx(drawn.item(), abs=0.01)
    flat = torch.zeros(1, 2, 3)
    drawn = pointing(flat + random, region.expand(20_000, 2, 3)).mean()
    assert pointing(flat, region).item() == pytest.approx(drawn.item(), abs=0.02)


def test_chance_is_the_regions_share_and_is_what_random_maps_reach():
    region = torch.zeros(1, 6, 6, dtype=torch.bool)
    region[:, 1:4, 2:5] = True
    random = torch.rand((20_000, 6, 6), generator=generator())
    found = localization(random, region.expand(20_000, 6, 6))
    assert set(found) == set(SCORES)
    for name in ("mass", "rank-accuracy", "pointing"):
        assert found[name].chance.unique().tolist() == pytest.approx([9 / 36])
        assert found[name].score.mean().item() == pytest.approx(9 / 36, abs=0.01)
    assert found["coverage"].chance[0].item() == pytest.approx(1)


def test_the_map_of_the_centre_finds_a_central_region():
    region = torch.zeros(2, 8, 8, dtype=torch.bool)
    region[0, 2:6, 2:6] = True
    region[1, :2, :2] = True
    found = localization(torch.ones(2, 8, 8), region)
    for name in ("mass", "rank-accuracy", "pointing"):
        central, corner = found[name].centre.tolist()
        assert central > found[name].chance[0]
        assert corner < found[name].chance[1]
    centre = centre_map((5, 8))
    assert centre.shape == (5, 8)
    assert centre.argmax().item() // 8 == 2
    torch.testing.assert_close(centre, centre.flip(0, 1))
    assert (centre[2, 5] / centre.max()).item() == pytest.approx(math.exp((0.5**2 - 1.5**2) / 8))


def test_the_average_counts_what_is_defined():
    found = average(torch.tensor([0.25, math.nan, 0.75, math.nan, math.nan]))
    assert found == (0.5, 2, 3)
    nothing = average(torch.tensor([math.nan]))
    assert nothing.mean.isnan()
    assert nothing[1:] == (0, 1)


@pytest.mark.parametrize("score", SCORES.values())
def test_wrong_input_is_named(score):
    relevance, region = torch.ones(2, 3, 3), torch.ones(2, 3, 3, dtype=torch.bool)
    assert score(relevance.half(), region).dtype == torch.float64
    for wrong in (region[:1], region[:, 0], region.float()):
        with pytest.raises(ValueError, match=r"give the same shape .*, and a region of bool"):
            score(relevance, wrong)
    relevance[1, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="relevance of 1 of 2 samples is NaN"):
        score(relevance, region)
