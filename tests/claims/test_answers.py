"""What was planted is found, and what is missing is named."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from claim_tables import FACTS, HIGHER, LOG_ERROR, claim, only, rows, table
from scipy import stats

from attrreg.claims.answering import COLUMNS, answer, exploratory
from attrreg.claims.specification import read_claims, select
from attrreg.statistics import clusters_needed
from attrreg.statistics.permutation import sign_flip_p

DECLARED = read_claims(Path(__file__).resolve().parents[2] / "configs" / "claims.yaml")


@pytest.mark.parametrize(
    ("challenger", "swapped", "verdict"),
    [
        (0.12, 0.0, "supported"),
        (0.12, 0.11, "works, guidance not shown"),
        (0.01, 0.0, "negligible"),
        (-0.12, 0.0, "contradicted"),
        (0.0, 0.12, "contradicted"),
        (0.05, 0.0, "undecided"),  # on the border
    ],
)
def test_a_planted_truth_is_recovered(challenger, swapped, verdict):
    gains = {"baseline": 0.0, "challenger": challenger, "challenger/swapped": swapped}
    row = only(answer([claim()], table(gains), FACTS))
    assert row["verdict"] == verdict
    # the smallest effect: against whichever of the two has the lower error
    expected = 1 - (1 - challenger) / (1 - max(0.0, swapped))
    assert row["estimate"] == pytest.approx(100 * expected, abs=1.5)
    assert row["low"] < 100 * expected < row["high"]
    assert pd.isna(row["clusters_needed"]) == (verdict != "undecided")


def test_beating_random_erasing_is_part_of_a_claim_that_names_it():
    names = ["baseline", "random-erasing", "reldrop-block/swapped", "reldrop-block"]
    of_reldrop = claim(methods=["reldrop-block"], against=["baseline", "random-erasing", "swapped"])
    for gains, verdict in (
        ((0.0, 0.0, 0.0, 0.12), "supported"),
        ((0.0, 0.12, 0.0, 0.12), "negligible"),
        ((0.0, 0.12, 0.12, 0.12), "works, guidance not shown"),
        ((0.0, 0.3, 0.0, 0.12), "contradicted"),
        ((0.0, 0.0, 0.3, 0.12), "works, guidance not shown"),
    ):
        metrics = table(dict(zip(names, gains, strict=True)))
        assert only(answer([of_reldrop], metrics, FACTS))["verdict"] == verdict, gains


@pytest.mark.parametrize(
    ("gain", "verdict"), [(0.0, "supported"), (-0.0155, "undecided"), (-0.08, "contradicted")]
)
def test_a_non_inferior_claim_is_supported_above_minus_its_margin(gain, verdict):
    kept = claim(
        kind="non-inferior",
        endpoints=[{"metric": "accuracy", "scale": "difference", "direction": "higher"}],
        against=["baseline"],
        least={"value": 0.5, "unit": "points"},
    )
    # errors of about a quarter, so that a share of 0.02 of them is half a point
    row = only(answer([kept], table({"baseline": 0, "challenger": gain}, noise=0.004), FACTS))
    assert row["verdict"] == verdict


def test_the_numbers_are_those_of_the_textbook():
    metrics = rows({"baseline": np.zeros(12), "challenger": np.arange(1.0, 13)}, "score")
    points = claim(endpoints=[HIGHER], against=["baseline"], least={"value": 1, "unit": "absolute"})
    answers = answer([points], metrics, FACTS)
    row, comparison = answers.iloc[0], answers.iloc[1]
    effects = np.arange(1.0, 13)
    expected = stats.ttest_1samp(effects, 0).confidence_interval(0.95)
    np.testing.assert_allclose([row["low"], row["high"]], expected)
    assert row["estimate"] == comparison["estimate"] == effects.mean()
    assert row["p"] == row["p_corrected"] == sign_flip_p(effects)
    assert comparison["position"] == "better"


def test_a_claim_is_as_sure_as_its_least_sure_comparison_and_holm_corrects_over_claims():
    gains = {"baseline": 0.0, "challenger": 0.12, "challenger/swapped": 0.115}
    three = [claim(), claim(id="T2", against=["baseline"]), claim(id="T3", against=["swapped"])]
    answers = answer(three, table(gains, noise=0.02), FACTS)
    run = answers[answers["role"] == "answer"]
    for _, row in run.iterrows():
        own = answers[(answers["id"] == row["id"]) & (answers["role"] == "decides")]
        assert row["p"] == own["p"].max()
    first, second, third = run["p"]
    assert second < third == first
    assert run["p_corrected"].tolist() == [min(1.0, 2 * first), 3 * second, min(1.0, 2 * third)]


def test_a_clear_interval_does_not_support_a_claim_whose_p_is_too_large():
    metrics = rows({"baseline": [0.0] * 9, "challenger": [1.0] * 8 + [-0.001]}, "score")
    small = {"endpoints": [HIGHER], "against": ["baseline"]}
    small["least"] = {"value": 0.1, "unit": "absolute"}
    alone = only(answer([claim(**small)], metrics, FACTS))
    assert alone["verdict"] == "supported"
    many = answer([claim(id=f"T{n}", **small) for n in range(10)], metrics, FACTS)
    run = many[many["role"] == "answer"]
    assert (run["low"] > 0.1).all()
    assert set(run["verdict"]) == {"undecided"}
    assert run["reason"].str.startswith("p = 0.0781 after Holm's correction over 10 claims").all()
    assert (run["clusters_needed"] == 10).all()


def test_the_baseline_is_the_best_of_those_that_were_run():
    gains = {"baseline": 0.0, "challenger": 0.12, "challenger/swapped": 0.0, "longer": 0.12}
    metrics = table(gains)
    facts = dataclasses.replace(FACTS, baselines={"challenger": (("equal wall-clock", "longer"),)})
    alone, beside = (only(answer([claim()], metrics, each)) for each in (FACTS, facts))
    assert alone["verdict"] == "supported"
    assert beside["verdict"] == "negligible"
    assert "equal wall-clock" in alone["missing"]
    assert "equal wall-clock" in alone["reason"]
    assert beside["missing"] == "baseline (equal FLOPs)"


def test_what_is_missing_is_named_and_the_claim_is_not_run():
    metrics = table({"baseline": 0.0, "challenger": 0.12})
    row = only(answer([claim()], metrics, FACTS))
    assert row["verdict"] == "not run"
    assert row["reason"] == "missing: method challenger/swapped (in accuracy)"
    assert math.isnan(row["p"])
    assert row["claims_run"] == 0

    many = claim(cells={"at_least": 2000}, against=["baseline"])
    assert only(answer([many], metrics, FACTS))["missing"] == "accuracy at n ≥ 2000"
    text = claim(cells={"modalities": ["text"]}, against=["baseline"])
    assert only(answer([text], metrics, FACTS))["missing"] == "accuracy at text"
    other = claim(endpoints=[{**LOG_ERROR, "metric": "accuracy-b"}])
    missing = only(answer([other], metrics, FACTS))["missing"]
    assert missing == "metric accuracy-b;method challenger/swapped"
    slope = claim(
        endpoints=[{**LOG_ERROR, "scale": "log-error-slope"}],
        against=["zero"],
        least={"value": 2, "unit": "percent per decade"},
    )
    one_size = metrics[metrics["train_size"] == 50]
    missing = only(answer([slope], one_size, FACTS))["missing"]
    assert missing == "accuracy at two or more training sizes"


def test_a_partial_experiment_answers_what_it_can():
    gains = {"baseline": 0, "random-erasing": 0, "reldrop-block": 0.2, "reldrop-block/swapped": 0}
    answers = answer(DECLARED, table(gains), FACTS)
    run = answers[answers["role"] == "answer"].set_index(["id", "method", "group"])
    assert run.loc[("R5", "reldrop-block", ""), "verdict"] == "supported"
    others = run.drop(index=("R5", "reldrop-block", ""))
    assert set(others["verdict"]) == {"not run"}
    assert (others["missing"] != "").all()
    assert others.loc[("C8", "challenger", ""), "missing"].count("method challenger ") == 1
    assert "metric nll-scaled" in others.loc[("C3", "challenger", ""), "missing"]
    assert (run["claims_run"] == 1).all()


def test_a_lost_run_costs_its_cluster_and_is_named():
    metrics = table({"baseline": 0.0, "challenger": 0.12, "challenger/swapped": 0.0})
    lost = (metrics["method"] == "challenger") & (metrics["seed"] == 3)
    row = only(answer([claim()], metrics[~(lost & (metrics["train_size"] == 50))], FACTS))
    assert row["clusters"] == 11
    assert "run digits/resnet/challenger/n50/s3" in row["missing"]
    nothing = metrics.assign(value=metrics["value"].where(~(metrics["method"] == "challenger")))
    missing = only(answer([claim()], nothing, FACTS))["missing"]
    assert "a cluster (dataset, seed) with all cells of challenger and baseline" in missing


def test_a_value_without_a_logarithm_is_named():
    of_nll = claim(endpoints=[{"metric": "nll", "scale": "log-ratio", "direction": "lower"}])
    values = {"baseline": [0.3, 0.2], "challenger": [0.1, 0.0], "challenger/swapped": [0.1, 0.2]}
    missing = only(answer([of_nll], rows(values, "nll"), FACTS))["missing"]
    assert "above 0, as a ratio needs, found 0 for digits/resnet/challenger/n100/s1" in missing
    elsewhere = rows(values | {"challenger": [0.1, 0.1], "sgt": [0.0, 0.0]}, "nll")
    assert only(answer([of_nll], elsewhere, FACTS))["verdict"] == "undecided"


def test_few_clusters_decide_nothing_and_say_how_many_would():
    gains = {"baseline": 0.0, "challenger": 0.3, "challenger/swapped": 0.0}
    chosen = select(DECLARED, ["C1", "C4", "C5"])
    answers = answer(chosen, table(gains, clusters=3, sizes=(50, 200, 2000)), FACTS)
    run = answers[answers["role"] == "answer"]
    assert set(run["verdict"]) == {"undecided"}
    floor = clusters_needed(0.05, len(chosen))
    assert (run["clusters_needed"] >= floor).all()
    assert run["clusters_needed"].iloc[0] == floor  # the effect is large
    assert (
        run["reason"]
        .str.startswith(
            f"3 clusters, and with 3 claims run none can be decided with fewer than {floor}"
        )
        .all()
    )

    one = only(answer([claim()], table(gains, clusters=1), FACTS))
    assert (one["verdict"], one["low"], one["high"]) == ("undecided", -math.inf, 100.0)


FIVE = [{**HIGHER, "metric": f"srg-{name}"} for name in "abcde"]
FOUR_OF_FIVE = claim(
    endpoints=FIVE, holds_for=4, against=["baseline"], least={"value": 0.1, "unit": "absolute"}
)


@pytest.mark.parametrize(
    ("effects", "verdict"),
    [
        ((1, 1, 1, 1, 1), "supported"),
        ((1, 0, 1, 1, 1), "supported"),
        ((1, 0, 1, 0, 1), "negligible"),
        ((1, -1, 1, -1, 1), "contradicted"),
        ((1, None, 1, 1, 1), "supported"),
        ((1, None, 1, 0, 1), "undecided"),  # the missing one could be the fourth
        ((1, None, 1, None, 1), "not run"),
    ],
)
def test_a_claim_for_four_of_five_endpoints(effects, verdict):
    generator = np.random.default_rng(0)
    parts = [
        rows(
            {
                "baseline": generator.normal(0, 0.01, 12),
                "challenger": generator.normal(effect, 0.01, 12),
            },
            f"srg-{name}",
        )
        for name, effect in zip("abcde", effects, strict=True)
        if effect is not None
    ]
    row = only(answer([FOUR_OF_FIVE], pd.concat(parts), FACTS))
    assert row["verdict"] == verdict
    if None in effects:
        assert "metric srg-b" in row["missing"]


def test_groups_together_must_all_hold_and_apart_are_answered_each():
    facts = dataclasses.replace(
        FACTS,
        test_sizes={"digits": 1000, "waves": 1000},
        modalities={"digits": "image", "waves": "series"},
    )
    gains = {"baseline": 0.0, "challenger/swapped": 0.0}
    metrics = pd.concat(
        [table(gains | {"challenger": 0.12}), table(gains | {"challenger": 0.0}, dataset="waves")]
    )
    cells = {"modalities": ["image", "series"]}
    together = answer([claim(cells=cells | {"groups": "together"})], metrics, facts)
    assert only(together)["verdict"] == "negligible"
    assert together.loc[together["role"] == "decides", "group"].unique().tolist() == [
        "image",
        "series",
    ]
    apart = answer([claim(cells=cells | {"groups": "apart"})], metrics, facts)
    found = apart[apart["role"] == "answer"].set_index("group")["verdict"]
    assert found.to_dict() == {"image": "supported", "series": "negligible"}
    pooled = only(answer([claim()], metrics, facts))
    assert pooled["clusters"] == 24


def test_what_stands_beside_a_claim_does_not_decide_it():
    beside = claim(beside=[{"metric": "ece", "scale": "difference", "direction": "lower"}])
    gains = {"baseline": 0.0, "challenger": 0.12, "challenger/swapped": 0.0}
    generator = np.random.default_rng(1)
    worse = rows({name: generator.normal(name == "challenger", 0.1, 12) for name in gains}, "ece")
    metrics = table(gains, sizes=(100,))
    with_it = answer([beside], pd.concat([metrics, worse]), FACTS)
    without = answer([claim()], metrics, FACTS)
    pd.testing.assert_series_equal(only(with_it), only(without))
    shown = with_it[with_it["role"] == "beside"]
    assert set(shown["unit"]) == {"points"}
    assert (shown["high"] < 0).all()
    assert "metric ece" in only(answer([beside], metrics, FACTS))["missing"]


def test_every_method_of_a_claim_is_answered_by_itself():
    names = ["reldrop-block", "reldrop-patch"]
    gains = {"baseline": 0.0} | {f"{name}/swapped": 0.0 for name in names}
    metrics = table(gains | {"reldrop-block": 0.12, "reldrop-patch": 0.0})
    answers = answer([claim(methods=names)], metrics, FACTS)
    found = answers[answers["role"] == "answer"].set_index("method")["verdict"]
    assert found.to_dict() == {"reldrop-block": "supported", "reldrop-patch": "negligible"}
    assert (answers["claims_run"] == 2).all()


def test_the_answer_does_not_depend_on_the_order_of_rows():
    metrics = table({"baseline": 0, "challenger": 0.1, "challenger/swapped": 0.05, "sgt": 0})
    shuffled = metrics.sample(frac=1, random_state=0)
    chosen = select(DECLARED, ["C1", "C4", "S4"])
    expected = answer(chosen, metrics, FACTS)
    pd.testing.assert_frame_equal(answer(chosen, shuffled, FACTS), expected)
    assert expected.dtypes.astype("str").to_dict() == COLUMNS


def test_no_claims_and_no_results_are_no_error():
    empty = table({"baseline": 0}).iloc[:0]
    assert list(answer([], empty, FACTS).columns) == list(COLUMNS)
    answers = answer(DECLARED, empty, FACTS)
    assert set(answers["verdict"]) == {"not run"}


def test_tables_and_facts_that_do_not_belong_together_are_refused():
    metrics = table({"baseline": 0, "challenger": 0}, dataset="mnist")
    with pytest.raises(ValueError, match=r"has mnist, of which no test sizes.*those of digits"):
        answer([claim()], metrics, FACTS)
    with pytest.raises(ValueError, match=r"lacks the columns \['seed'\]"):
        answer([claim()], metrics.drop(columns="seed"), FACTS)


def test_whatever_no_declared_claim_compares_is_exploratory():
    metrics = table({"baseline": 0, "challenger": 0.1, "challenger/swapped": 0, "sgt": 0})
    changed = select(DECLARED, ["C1", "C5"], {"C1": 4.0})
    answers = answer([claim(), *changed], metrics, FACTS)
    assert set(answers.loc[answers["id"] == "C1", "status"]) == {"exploratory: declared with 5 %"}
    tests = pd.DataFrame(
        [
            ("challenger", "baseline", "accuracy"),
            ("sgt", "baseline", "accuracy"),
            ("challenger", "baseline", "nll"),
            ("challenger", "sgt", "accuracy"),
        ],
        columns=["method", "reference", "metric"],
    )
    assert exploratory(tests, answers).tolist() == ["T1", *["exploratory"] * 3]
    runs = exploratory(metrics, answers).groupby(metrics["method"]).unique()
    assert {name: list(found) for name, found in runs.items()} == {
        "baseline": ["T1"],
        "challenger": ["T1"],
        "challenger/swapped": ["T1"],
        "sgt": ["exploratory"],
    }
    nothing = answer([claim(methods=["sgt"])], metrics, FACTS)
    assert set(exploratory(tests, nothing)) == {"exploratory"}
