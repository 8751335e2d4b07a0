"""Every combination of intervals: the verdict is true of every effect that they allow."""

import itertools

import pytest

from attrreg.claims.verdicts import (
    VERDICTS,
    Bounds,
    decide,
    is_settled,
    nth_largest,
    position,
    smallest,
)

LEAST = 1.0
INFINITE = float("inf")
# Ends on every border, and between and beyond the borders.
ENDS = (-INFINITE, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, INFINITE)
INTERVALS = [
    Bounds(low, high)
    for low, high in itertools.combinations_with_replacement(ENDS, 2)
    if (low, high) not in ((-INFINITE, -INFINITE), (INFINITE, INFINITE))
]
# One interval for each way to lie to −1, 0 and 1: three comparators then are still few thousand.
KINDS = [
    Bounds(low, high)
    for low, high in itertools.combinations_with_replacement((-2.0, -0.5, 0.5, 2.0), 2)
]


def extremes(bounds):
    """Return the corners of the effects that intervals allow: what is said is monotone in each."""
    return itertools.product(*bounds)


def is_true(verdict, plain, guidance):
    """Whether what a verdict says holds for these true effects."""
    smallest_effect = min([*plain, *guidance])
    return {
        "supported": smallest_effect > LEAST,
        "works, guidance not shown": max(plain, default=-INFINITE) > LEAST,
        "contradicted": smallest_effect < 0,
        "negligible": -LEAST < smallest_effect < LEAST,
        "undecided": True,
    }[verdict]


def verdict_of(plain, guidance):
    return decide(
        smallest([*plain, *guidance]),
        plain,
        smallest(guidance) if guidance else None,
        LEAST,
        "superior",
    )


@pytest.mark.parametrize(
    ("n_plain", "n_guidance", "intervals"),
    [(1, 0, INTERVALS), (0, 2, INTERVALS), (1, 1, INTERVALS), (2, 1, KINDS), (1, 2, KINDS)],
    ids=["B", "W+uniform", "B+W", "B+E+W", "B+W+K"],
)
def test_a_verdict_is_true_of_every_effect_that_the_intervals_allow(n_plain, n_guidance, intervals):
    said = set()
    for bounds in itertools.product(intervals, repeat=n_plain + n_guidance):
        verdict = verdict_of(list(bounds[:n_plain]), list(bounds[n_plain:]))
        said.add(verdict)
        for effects in extremes(bounds):
            assert is_true(verdict, effects[:n_plain], effects[n_plain:]), (verdict, bounds)
    expected = set(VERDICTS) - {"not run"}
    if not (n_plain and n_guidance):
        expected -= {"works, guidance not shown"}
    assert said == expected


@pytest.mark.parametrize(("n_plain", "n_guidance"), [(1, 1), (2, 1), (1, 2)])
def test_undecided_is_said_only_where_nothing_else_is_true_of_all_effects(n_plain, n_guidance):
    for bounds in itertools.product(KINDS, repeat=n_plain + n_guidance):
        if verdict_of(list(bounds[:n_plain]), list(bounds[n_plain:])) != "undecided":
            continue
        for verdict in ("supported", "contradicted", "negligible"):
            assert not all(
                is_true(verdict, effects[:n_plain], effects[n_plain:])
                for effects in extremes(bounds)
            ), (verdict, bounds)


def test_the_table_line_by_line():
    """Against baseline, random erasing and swapped maps; in words, as the documentation has it."""
    bounds = {
        "better": Bounds(1.2, 2.0),
        "better, size open": Bounds(0.5, 2.0),
        "negligible": Bounds(-0.5, 0.5),
        "open": Bounds(-2.0, 2.0),
        "worse": Bounds(-2.0, -0.5),
    }
    for words in itertools.product(bounds, repeat=3):
        baseline, erasing, swapped = words
        assert [position(bounds[each], LEAST, "superior") for each in words] == list(words)
        if set(words) == {"better"}:
            expected = "supported"
        elif "worse" in (baseline, erasing):
            expected = "contradicted"
        elif "better" in (baseline, erasing) and swapped != "better":
            expected = "works, guidance not shown"
        elif swapped == "worse":
            expected = "contradicted"
        elif "negligible" in words and "open" not in words:
            expected = "negligible"
        else:
            expected = "undecided"
        found = verdict_of([bounds[baseline], bounds[erasing]], [bounds[swapped]])
        assert found == expected, words


def test_ends_that_lie_on_a_border_do_not_cross_it():
    assert verdict_of([Bounds(1.0, 2.0)], []) == "undecided"
    assert verdict_of([Bounds(-1.0, 0.5)], []) == "undecided"
    assert verdict_of([Bounds(-0.5, 1.0)], []) == "undecided"
    assert verdict_of([Bounds(-2.0, 0.0)], []) == "undecided"


@pytest.mark.parametrize("intervals", [INTERVALS])
def test_a_non_inferior_claim_is_about_its_margin_alone(intervals):
    for first, second in itertools.product(intervals, repeat=2):
        verdict = decide(smallest([first, second]), [first, second], None, LEAST, "non-inferior")
        lowest = [min(effects) for effects in extremes((first, second))]
        expected = "undecided"
        if all(each > -LEAST for each in lowest):
            expected = "supported"
        elif all(each < -LEAST for each in lowest):
            expected = "contradicted"
        assert verdict == expected
    assert position(Bounds(-0.5, 3.0), LEAST, "non-inferior") == "not inferior"
    assert position(Bounds(-3.0, -1.5), LEAST, "non-inferior") == "inferior"
    assert position(Bounds(-3.0, 3.0), LEAST, "non-inferior") == "open"


def test_the_interval_of_the_nth_largest_holds_it_whatever_the_effects():
    some = [Bounds(0.0, 3.0), Bounds(1.0, 2.0), Bounds(-1.0, 4.0), Bounds(2.0, 2.5)]
    for n in range(1, 5):
        low, high = nth_largest(some, n)
        ranked = [sorted(effects, reverse=True)[n - 1] for effects in extremes(some)]
        assert (min(ranked), max(ranked)) == (low, high)


def test_narrower_intervals_never_undo_what_is_settled():
    for outer in itertools.product(KINDS, repeat=2):
        verdict = verdict_of([outer[0]], [outer[1]])
        if not is_settled(verdict, outer[1], LEAST):
            continue
        inner = [
            [each for each in KINDS if o.low <= each.low and each.high <= o.high] for o in outer
        ]
        for baseline, swapped in itertools.product(*inner):
            narrower = verdict_of([baseline], [swapped])
            assert is_settled(narrower, swapped, LEAST), (outer, baseline, swapped)
