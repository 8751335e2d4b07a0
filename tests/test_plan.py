"""The plan covers the grid exactly once, never changes by itself, and changes only what it must."""

import subprocess
import sys
from itertools import product
from typing import get_args

import pytest
from experiments import planned, written
from hypothesis import given, settings
from hypothesis import strategies as st

from attrreg import catalogue, parameters
from attrreg.plan import evaluated_after, evaluation_digest, neutral_runs, relative_cost

COSTS = [  # cheaper first, or equal
    ("reldrop-block/swapped", "reldrop-block"),
    ("reldrop-block", "reldrop-block/scrambled"),
    ("sgt-shared", "sgt"),
    ("sgt", "sgt/random-class"),
    ("reldrop-block", "reldrop-block/untrained"),
    ("baseline", "random-erasing"),
]
METHODS = ["baseline", "random-erasing", "reldrop-block", "reldrop-block/swapped", "sgt"]
WIDE = {
    "grid.models": ["resnet10-narrow", {"name": "wide", "base": "resnet18"}],
    "grid.methods": METHODS,
    "grid.train_sizes": [20, 50, 200],
    "grid.seeds": [0, 1, 5],
}
KEYS = ("dataset", "model", "method", "train_size", "seed")

DIGEST = """
import sys
from pathlib import Path
from attrreg.config import read_experiment
from attrreg.plan import evaluation_digest, make_plan
plan = make_plan(read_experiment(Path(sys.argv[1])))
print([(each.name, each.digest, evaluation_digest(plan, each)) for each in plan.shards])
"""


def intents(plan):
    """Return the intent of every run by its path."""
    return {run.path: run.intent for run in plan.runs}


def scores(plan):
    """Return the intent of every run's evaluation by its path."""
    protocol = plan.experiment.evaluation.model_dump(mode="json")
    return {run.path: run.scores_intent(protocol) for run in plan.runs}


def test_every_cell_and_seed_stands_in_it_once():
    plan = planned(WIDE)
    expected = set(
        product(["digits"], ["resnet10-narrow", "wide"], METHODS, [20, 50, 200], [0, 1, 5])
    )
    found = [tuple(run.key[key] for key in KEYS) for run in plan.runs]
    assert sorted(found) == sorted(expected)


def test_every_run_has_a_place_of_its_own_that_says_what_it_is():
    plan = planned(WIDE)
    assert len({run.path for run in plan.runs}) == len(plan.runs)
    swapped = [run for run in plan.runs if run.method == "reldrop-block/swapped"]
    for run in swapped:
        size, seed = f"n{run.train_size}", f"s{run.seed}"
        assert run.path.parts == ("digits", run.model, "reldrop-block--swapped", size, seed)


def test_the_same_file_gives_the_same_plan_in_every_process(tmp_path):
    path = written(tmp_path, WIDE)
    said = {
        subprocess.run(
            [sys.executable, "-c", DIGEST, path],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PATH": "/usr/bin:/bin"},
        ).stdout
        for seed in ("1", "2")
    }
    plan = planned(WIDE)
    here = [(each.name, each.digest, evaluation_digest(plan, each)) for each in plan.shards]
    assert said == {f"{here}\n"}


@settings(max_examples=40, deadline=None)
@given(
    seconds=st.floats(0.01, 1e4),
    sizes=st.lists(st.integers(10, 1000), min_size=1, max_size=5, unique=True),
    methods=st.lists(st.sampled_from(METHODS[1:]), max_size=4, unique=True),
)
def test_shards_keep_cells_whole_and_about_as_long_as_asked(seconds, sizes, methods):
    plan = planned(
        WIDE
        | {"execution.shard_seconds": seconds, "grid.train_sizes": sizes}
        | {"grid.methods": ["baseline", *methods]}
    )
    places = {}
    assert len({shard.name for shard in plan.shards}) == len(plan.shards)
    for shard in plan.shards:
        assert shard.runs
        assert len({(run.dataset, run.model) for run in shard.runs}) == 1
        cells = {}
        for run in shard.runs:
            cell = (run.model, run.method, run.train_size)
            assert places.setdefault(cell, shard.name) == shard.name
            cells[cell] = cells.get(cell, 0) + 1
        assert set(cells.values()) == {3}
        longest = shard.seconds if len(cells) == 1 else seconds
        assert shard.seconds <= max(longest, 2 * seconds)


def test_short_shards_hold_a_cell_each_and_long_ones_everything_of_a_model():
    cells = 2 * len(METHODS) * 3
    assert len(planned(WIDE | {"execution.shard_seconds": 1e-3}).shards) == cells
    assert len(planned(WIDE | {"execution.shard_seconds": 1e6}).shards) == 2


@pytest.mark.parametrize(("less", "more"), COSTS)
def test_methods_are_about_as_dear_as_their_maps(less, more):
    first, second = (relative_cost(catalogue.preset(name)) for name in (less, more))
    assert first < second or (first == second and more not in ("sgt", "sgt/random-class"))


def test_every_attribution_and_rule_has_a_cost():
    def cost(attribution):
        return relative_cost(
            parameters.Composition(
                attribution=attribution,
                perturbation="block",
                objective=parameters.CrossEntropy(on="perturbed"),
            )
        )

    for rule in get_args(parameters.RuleName):
        assert 1 < cost({"name": "lrp", "rule": rule}) < 5
    gradient = cost("gradient") - 1
    assert cost({"name": "smoothgrad", "samples": 7}) - 1 == pytest.approx(7 * gradient)
    assert cost({"name": "integrated-gradients", "steps": 9}) - 1 == pytest.approx(9 * gradient)
    for control in catalogue.CONTROLS.values():
        assert cost(control(of="gradient")) - 1 in (gradient, 2 * gradient)


def test_a_shard_is_found_by_its_name_and_another_name_is_refused():
    plan = planned(WIDE)
    assert plan.shard(plan.shards[1].name) is plan.shards[1]
    with pytest.raises(KeyError, match="did you mean 'digits--resnet10-narrow--000'"):
        plan.shard("digits--resnet10-narow--000")


GROWTH = {
    "a seed": {"grid.seeds": [0, 1, 5, 7]},
    "a seed before the others": {"grid.seeds": [9, 0, 1, 5]},
    "a train size": {"grid.train_sizes": [10, 20, 50, 200]},
    "a method": {"grid.methods": ["challenger", *METHODS]},
    "a model": {"grid.models": ["resnet34", *WIDE["grid.models"]]},
    "another order": {"grid.methods": METHODS[::-1], "grid.train_sizes": [200, 50, 20]},
    "another title and name": {"title": "other", "name": "other"},
    "other statistics": {"statistics.alpha": 0.1, "statistics.metrics": ["nll"]},
    "other processes": {"execution.shard_seconds": 1.0},
}


@pytest.mark.parametrize("change", GROWTH)
def test_what_is_there_stays_as_it_is(change):
    before, after = planned(WIDE), planned(WIDE | GROWTH[change])
    assert intents(before).items() <= intents(after).items()
    assert scores(before).items() <= scores(after).items()


RECIPES = {
    "steps": {"recipe.steps": 4},
    "batch_size": {"recipe.batch_size": 11},
    "optimizer": {"recipe.optimizer": {"name": "adamw"}},
    "momentum": {"recipe.optimizer": {"name": "sgd", "momentum": 0.8}},
    "schedule": {"recipe.schedule": {"name": "constant"}},
    "warm-up": {"recipe.schedule": {"warm_up_steps": 1}},
    "augmentation": {"recipe.augmentation": {"flip": True}},
}


@pytest.mark.parametrize("change", RECIPES)
def test_another_recipe_trains_every_run_again(change):
    before, after = intents(planned(WIDE)), intents(planned(WIDE | RECIPES[change]))
    assert before.keys() == after.keys()
    assert not before.items() & after.items()


def test_a_default_that_is_written_out_changes_nothing():
    written_out = {"recipe.optimizer": {"name": "sgd", "learning_rate": 0.05, "nesterov": False}}
    assert intents(planned(WIDE)) == intents(planned(WIDE | written_out))


PROTOCOLS = {
    "fill": {"evaluation.fill": "zero"},
    "beside": {"evaluation.beside": ["mean"]},
    "measures": {"evaluation.measures": ["training"]},
    "maps": {"evaluation.maps": ["gradient"]},
    "profile": {"evaluation.profile": "full"},
    "neutral": {"evaluation.neutral": "sgt"},
    "fractions": {"evaluation.fractions": [0.0, 0.4]},
    "rule": {"evaluation.rule": "epsilon"},
    "bins": {"evaluation.bins": 10},
    "gallery": {"evaluation.gallery": 2},
    "orders": {
        "evaluation.orders": ["random-block"],
        "statistics.metrics": ["accuracy", "occlusion-random-block"],
    },
}


@pytest.mark.parametrize("change", PROTOCOLS)
def test_another_evaluation_trains_nothing_and_evaluates_everything(change):
    before, after = planned(WIDE), planned(WIDE | PROTOCOLS[change])
    assert intents(before) == intents(after)
    assert not scores(before).items() & scores(after).items()
    digests = {shard.name: evaluation_digest(before, shard) for shard in before.shards}
    for shard in after.shards:
        assert evaluation_digest(after, shard) != digests[shard.name]


def test_a_parameter_of_one_method_touches_only_that_method():
    def grid(strength):
        own = {"name": "own", "preset": "challenger", "perturbation": {"strength": strength}}
        return intents(planned(WIDE | {"grid.methods": [*METHODS, own]}))

    before, after = grid(1.0), grid(1.5)
    different = {path for path in before if before[path] != after[path]}
    assert different == {path for path in before if "own" in path.parts}


def test_every_place_in_the_grid_has_an_intent_of_its_own():
    options = {"name": "thin", "base": "resnet18", "options": {"drop_rate": 0.1}}
    plan = planned(WIDE | {"grid.models": [*WIDE["grid.models"], options]})
    assert len(set(intents(plan).values())) == len(plan.runs)


class TestNeutral:
    """Of one seed all methods share the map of the neutral method of the next one."""

    GRID = WIDE | {
        "evaluation.orders": ["random-block", "neutral-most-relevant-first"],
        "evaluation.measures": [],
    }

    def test_it_is_the_neutral_method_at_the_same_place_with_the_next_seed(self):
        plan = planned(self.GRID)
        found = neutral_runs(plan, plan.runs)
        assert found.keys() == set(plan.runs)
        following = {0: 1, 1: 5, 5: 0}
        for run, other in found.items():
            assert other.method == "baseline"
            assert other.seed == following[run.seed]
            for key in ("dataset", "model", "train_size"):
                assert other.key[key] == run.key[key]

    def test_seeds_follow_each_other_in_the_order_of_the_file(self):
        plan = planned(self.GRID | {"grid.seeds": [5, 0, 1]})
        found = {(run.seed, other.seed) for run, other in neutral_runs(plan, plan.runs).items()}
        assert found == {(5, 0), (0, 1), (1, 5)}

    def test_no_method_shares_a_seed_with_the_run_whose_map_it_takes(self):
        plan = planned(self.GRID | {"grid.seeds": 2, "evaluation.neutral": "sgt"})
        for run, other in neutral_runs(plan, plan.runs).items():
            assert other.method == "sgt"
            assert other is not run
            assert other.seed != run.seed

    def test_only_runs_that_are_asked_for_are_answered(self):
        plan = planned(self.GRID)
        some = plan.runs[3:5]
        assert list(neutral_runs(plan, some)) == list(some)

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({}, True),
            ({"evaluation.orders": ["random-block"]}, False),
            ({"evaluation.orders": ["random-block"], "evaluation.measures": ["margin"]}, True),
            ({"evaluation.orders": ["neutral-least-relevant-first"]}, True),
            ({"evaluation.neutral": "input-dropout"}, False),
        ],
    )
    def test_there_is_one_where_the_protocol_needs_it_and_the_grid_has_it(self, changes, expected):
        plan = planned(self.GRID | changes)
        assert bool(neutral_runs(plan, plan.runs)) == expected

    def test_a_shard_is_evaluated_after_itself_and_those_of_its_neutral_runs(self):
        plan = planned(self.GRID | {"execution.shard_seconds": 1e-3})
        for shard in plan.shards:
            [run, *_] = shard.runs
            cell = (run.model, run.train_size)
            [neutral] = [
                each
                for each in plan.shards
                if each.runs[0].method == "baseline"
                and (each.runs[0].model, each.runs[0].train_size) == cell
            ]
            assert set(evaluated_after(plan, shard)) == {shard.name, neutral.name}

    def test_without_need_a_shard_waits_for_nothing_but_itself(self):
        grid = self.GRID | {"evaluation.orders": ["random-block"], "execution.shard_seconds": 1e-3}
        plan = planned(grid)
        for shard in plan.shards:
            assert evaluated_after(plan, shard) == [shard.name]
