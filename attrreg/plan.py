"""The plan of an experiment: cells, runs and shards, in an order that never changes."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby, product
from pathlib import Path

from attrreg import catalogue
from attrreg.cells import Run
from attrreg.config import Experiment
from attrreg.files import path_name
from attrreg.parameters import (
    Cached,
    Composition,
    Control,
    Gradient,
    IntegratedGradients,
    Part,
    RandomClass,
    SmoothGrad,
    Untrained,
)
from attrreg.provenance import digest, source_digest
from attrreg.variant import Variant

__all__ = [
    "Plan",
    "Shard",
    "crossed_runs",
    "evaluated_after",
    "evaluation_digest",
    "make_plan",
    "neutral_runs",
    "preparation_digest",
]

# A map in plain training steps of the same model; the order of magnitude is what matters here.
GRADIENT_COST = 0.7
MAP_COSTS = {
    "uniform": 0.0,
    "gradient": GRADIENT_COST,
    "gradient-x-input": GRADIENT_COST,
    "lrp-0": 0.8,
    "epsilon": 0.9,
    "epsilon-plus": 1.5,
    "epsilon-plus-flat": 1.3,
    "gamma": 2.1,
    "alpha2-beta1": 1.9,
    "z-box": 1.5,
    "attention-aware": 1.1,
}


@dataclass(frozen=True)
class Shard:
    """The runs that one process works through; `name` is unique in the experiment."""

    name: str
    runs: tuple[Run, ...]

    @property
    def seconds(self) -> float:
        """A rough estimate of the work on one core."""
        return sum(map(estimated_seconds, self.runs))

    @property
    def digest(self) -> str:
        """What stands for all that the shard's runs will be."""
        parts = [part for run in self.runs for part in (*run.folds, run)]
        return digest([[str(part.path), part.intent] for part in parts])


@dataclass(frozen=True)
class Plan:
    """Everything that an experiment will run."""

    experiment: Experiment
    shards: tuple[Shard, ...]

    @property
    def runs(self) -> tuple[Run, ...]:
        """All runs, shard by shard."""
        return tuple(run for shard in self.shards for run in shard.runs)

    def shard(self, name: str) -> Shard:
        """Return a shard by name; KeyError with the known names if there is none."""
        for shard in self.shards:
            if shard.name == name:
                return shard
        names = [shard.name for shard in self.shards]
        raise KeyError(catalogue.unknown("shard", name, names))

    def folder(self, results: Path) -> Path:
        """Return the folder of the experiment."""
        return results / self.experiment.name


def make_plan(experiment: Experiment) -> Plan:
    """Return the plan of an experiment; the same file gives the same plan.

    A shard holds one cell with all its seeds, or as many neighbouring small cells of the same
    dataset and model as fit into ``execution.shard_seconds``.
    """
    grid, datasets = experiment.grid, experiment.datasets()
    compositions, models = experiment.compositions(), experiment.models()
    recipes = experiment.recipes()
    matched = {
        method: (compositions[other], recipes[other])
        for method, other in experiment.matched().items()
    }
    shards: list[Shard] = []
    for dataset, model in product(datasets, models):
        base, options = models[model]
        cells = [
            [
                Run(
                    dataset,
                    model,
                    method,
                    size,
                    seed,
                    base,
                    options,
                    compositions[method],
                    recipes[method],
                    matched.get(method),
                    datasets[dataset],
                )
                for seed in grid.seeds
            ]
            for size, method in product(grid.sizes(datasets[dataset]), compositions)
        ]
        for number, runs in enumerate(_pack(cells, experiment.execution.shard_seconds)):
            name = f"{path_name(dataset)}--{path_name(model)}--{number:03d}"
            shards.append(Shard(name, tuple(runs)))
    return Plan(experiment, tuple(shards))


def estimated_seconds(run: Run) -> float:
    """Return about how long a run takes on one core; it only sizes shards."""
    step = catalogue.model(run.base).step_seconds * min(run.recipe.batch_size, run.train_size) / 32
    composition, recipe = run.matched or (run.composition, run.recipe)
    return step * relative_cost(composition) * recipe.all_steps(run.train_size)


def relative_cost(composition: Composition) -> float:
    """Return about how many plain steps one step of a method costs."""
    cost = 1.0
    if composition.attribution is not None:
        cost += _map_cost(composition.attribution)
    if composition.objective.name == "consistency":
        cost += 1.0
    return cost


def _map_cost(attribution: Part) -> float:
    if isinstance(attribution, Cached):
        return _map_cost(attribution.of) / attribution.every
    if isinstance(attribution, RandomClass | Untrained):  # the own map is needed as well
        return 2 * _map_cost(attribution.of)
    if isinstance(attribution, Control):
        return _map_cost(attribution.of)
    if isinstance(attribution, SmoothGrad):
        return GRADIENT_COST * attribution.samples
    if isinstance(attribution, IntegratedGradients):
        return GRADIENT_COST * attribution.steps
    cost = MAP_COSTS.get(getattr(attribution, "rule", attribution.name), GRADIENT_COST)
    shared = isinstance(attribution, Gradient) and attribution.forward_pass == "training"
    return cost - 0.3 if shared else cost


def _pack(cells: list[list[Run]], seconds: float) -> list[list[Run]]:
    """Join neighbouring cells into shards of about equal work, none much above `seconds`."""
    work = [sum(map(estimated_seconds, runs)) for runs in cells]
    total = sum(work)
    share = total / max(1, math.ceil(total / seconds))
    ends = [sum(work[: number + 1]) for number in range(len(work))]
    places = [int((end - own / 2) / share) for end, own in zip(ends, work, strict=True)]
    numbered = groupby(range(len(cells)), key=lambda number: places[number])
    return [[run for number in numbers for run in cells[number]] for _, numbers in numbered]


def neutral_runs(plan: Plan, runs: Iterable[Run]) -> dict[Run, Run]:
    """Return by run the one whose map all methods share: the neutral method's, of the next seed.

    Runs at one place of the grid and one seed have the same. Empty where the protocol needs none or
    the grid has no such method.
    """
    settings, seeds = plan.experiment.evaluation, list(plan.experiment.grid.seeds)
    if not settings.needs_neutral:
        return {}
    following = dict(zip(seeds, [*seeds[1:], seeds[0]], strict=True))
    known = {_place(run): run for run in plan.runs if run.method == settings.neutral}
    found = {run: known.get((*_place(run)[:-1], following[run.seed])) for run in runs}
    return {run: other for run, other in found.items() if other is not None}


def crossed_runs(plan: Plan, runs: Iterable[Run]) -> dict[Run, dict[str, Run]]:
    """Return by run and method the other runs at its place with which its map is exchanged.

    Runs whose method takes no part have no entry.
    """
    methods = plan.experiment.evaluation.crossed
    known = {(*_place(run), run.method): run for run in plan.runs if run.method in methods}
    return {
        run: {name: known[*_place(run), name] for name in methods if name != run.method}
        for run in runs
        if run.method in methods
    }


def evaluated_after(plan: Plan, shard: Shard) -> list[str]:
    """Return the shards that must be trained before a shard is evaluated."""
    others = set(neutral_runs(plan, shard.runs).values())
    others |= {run for each in crossed_runs(plan, shard.runs).values() for run in each.values()}
    return [each.name for each in plan.shards if each is shard or others & set(each.runs)]


def _place(run: Run) -> tuple[str, str, int, int]:
    return run.dataset, run.model, run.train_size, run.seed


def evaluation_digest(plan: Plan, shard: Shard) -> str:
    """Return what stands for how a shard is evaluated."""
    protocol = plan.experiment.evaluation.model_dump(mode="json")
    return digest([run.scores_intent(protocol) for run in shard.runs])


def preparation_digest(variant: Variant) -> str:
    """Return what stands for how a dataset is prepared, and for the state of one's own data."""
    entry = variant.entry
    source = source_digest("attrreg.data.prepare", entry.implementation)
    chosen = variant.options.model_dump(mode="json")
    return digest([variant.base, chosen, entry.fingerprint, source])
