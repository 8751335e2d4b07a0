"""As much compute instead of as many steps: measured once, kept, and said in the record."""

import json

import pytest
import torch
from experiments import planned, prepare_data

from attrreg.config import Experiment
from attrreg.plan import estimated_seconds
from attrreg.records import read_record
from attrreg.training import budget
from attrreg.training.runs import train_shard

CPU = torch.device("cpu")
MATCHED = {"name": "as-long-as-sgt", "preset": "baseline", "budget": {"matched": "sgt"}}
SMALL = {"grid.methods": ["baseline", "sgt", MATCHED], "recipe.steps": 6}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare_data(tmp_path_factory.mktemp("data"))


def of(method, **changes):
    return [run for run in planned(SMALL | changes).runs if run.method == method]


def measuring(monkeypatch, ratio):
    """Let steps cost that much, and return a list that grows with every measurement."""
    done = []

    def measure(costly, other):
        done.append((costly, other))
        return ratio

    monkeypatch.setattr(budget, "measure", measure)
    return done


def test_the_baseline_gets_the_steps_that_the_cost_buys(data, tmp_path, monkeypatch):
    done = measuring(monkeypatch, 2.5049)
    first, second = of("as-long-as-sgt")
    train_shard([first, second], tmp_path, data, CPU)
    record = read_record(tmp_path / "runs" / first.path)
    assert record["steps"] == record["recipe"]["steps"] == 15
    assert record["budget"]["ratio"] == 2.5
    assert len(done) == 1  # seeds share what was measured
    costly, other = done[0]
    assert (costly.method.objective.name, other.method.objective.name) == (
        "consistency",
        "cross-entropy",
    )
    assert train_shard([first, second], tmp_path, data, CPU) == {first: "kept", second: "kept"}
    assert len(done) == 1


def test_another_ratio_is_another_run(data, tmp_path, monkeypatch):
    run = of("as-long-as-sgt")[0]
    measuring(monkeypatch, 2.0)
    assert set(train_shard([run], tmp_path, data, CPU).values()) == {"made"}
    [kept] = (tmp_path / "costs").glob("*.json")
    kept.write_text(json.dumps(json.loads(kept.read_text()) | {"ratio": 3.0}))
    assert set(train_shard([run], tmp_path, data, CPU).values()) == {"made"}
    assert read_record(tmp_path / "runs" / run.path)["steps"] == 18
    kept.write_text("{ cut")
    assert set(train_shard([run], tmp_path, data, CPU).values()) == {"made"}
    assert read_record(tmp_path / "runs" / run.path)["steps"] == 12


def test_another_model_of_the_same_name_is_measured_anew(data, tmp_path, monkeypatch):
    done = measuring(monkeypatch, 2.0)
    for layers in ([1, 1, 1, 1], [1, 1, 1, 2]):
        model = {"name": "net", "base": "resnet10-narrow", "options": {"layers": layers}}
        train_shard(of("as-long-as-sgt", **{"grid.models": [model]})[:1], tmp_path, data, CPU)
    assert len(done) == 2


def test_a_measured_step_of_sgt_costs_more_than_a_plain_one(data, tmp_path):
    run = of("as-long-as-sgt")[0]
    train_shard([run], tmp_path, data, CPU)
    assert read_record(tmp_path / "runs" / run.path)["budget"]["ratio"] > 1.2


def test_a_cost_that_cannot_be_measured_is_a_failed_run(data, tmp_path, monkeypatch):
    run, sibling = of("as-long-as-sgt")[0], of("baseline")[0]

    def fail(costly, other):
        raise RuntimeError("no memory is left")

    monkeypatch.setattr(budget, "measure", fail)
    outcomes = train_shard([run, sibling], tmp_path, data, CPU)
    assert outcomes == {run: "failed", sibling: "made"}
    assert "no memory is left" in read_record(tmp_path / "runs" / run.path)["message"]


def test_the_plan_counts_on_the_cost_of_the_matched_method():
    matched, sgt, baseline = (of(name)[0] for name in ("as-long-as-sgt", "sgt", "baseline"))
    assert estimated_seconds(matched) == estimated_seconds(sgt) > estimated_seconds(baseline)


def test_the_matched_method_enters_the_intent():
    longer = {"grid.methods": ["baseline", {"name": "other", "preset": "sgt"}, MATCHED, "sgt"]}
    assert of("as-long-as-sgt")[0].intent == of("as-long-as-sgt", **longer)[0].intent
    shorter = {"recipe.steps": 5}
    assert of("as-long-as-sgt")[0].intent != of("as-long-as-sgt", **shorter)[0].intent


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        (["baseline", MATCHED], "'as-long-as-sgt' has budget.matched: unknown method 'sgt'"),
        (
            ["baseline", "sgt", MATCHED, {**MATCHED, "name": "x", "budget": {"matched": "x"}}],
            "whose own length is measured",
        ),
        (
            ["baseline", "sgt", {**MATCHED, "recipe": {"optimizer": {"learning_rate": -1}}}],
            "recipe.optimizer.learning_rate",
        ),
        (["baseline", "sgt", {**MATCHED, "recipe": {"stepz": 3}}], "stepz"),
    ],
)
def test_a_wrong_budget_or_recipe_is_said_by_its_key(methods, said):
    with pytest.raises(ValueError, match=said):
        planned(SMALL | {"grid.methods": methods})


def test_a_method_may_have_its_own_recipe():
    own = {
        "name": "slow",
        "preset": "baseline",
        "recipe": {"epochs": 3, "optimizer": {"learning_rate": 0.01}},
    }
    run = of("slow", **{"grid.methods": ["baseline", own], "recipe.optimizer.momentum": 0.5})[0]
    assert (run.recipe.steps, run.recipe.epochs) == (None, 3)
    assert (run.recipe.optimizer.learning_rate, run.recipe.optimizer.momentum) == (0.01, 0.5)
    adam = own | {"recipe": {"optimizer": {"name": "adamw"}}}
    run = of("slow", **{"grid.methods": ["baseline", adam], "recipe.optimizer.momentum": 0.5})[0]
    assert run.recipe.optimizer.name == "adamw"


def test_a_tuned_preset_keeps_its_name():
    tuned = {"name": "sgt", "preset": "sgt", "tuned": True, "objective": {"weight": 0.5}}
    assert of("sgt", **{"grid.methods": ["baseline", tuned]})[0].composition.objective.weight == 0.5
    with pytest.raises(ValueError, match="give the changed method a name of its own"):
        planned({"grid.methods": ["baseline", tuned | {"tuned": False}]})


def test_an_experiment_can_be_written_and_read_again():
    experiment = planned(SMALL).experiment
    assert Experiment.model_validate(
        experiment.model_dump(mode="json", exclude_unset=True)
    ).matched() == {"as-long-as-sgt": "sgt"}
