"""From an experiment to the studies of its methods, and from these to the tuned experiment file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from attrreg import catalogue
from attrreg.cells import Run
from attrreg.config import Experiment
from attrreg.files import writing
from attrreg.grid import merged
from attrreg.parameters import Composition, Wrapper
from attrreg.recipe import Recipe
from attrreg.tuning_settings import Study, Trial, changed, own_values, written

__all__ = ["chosen", "quoted", "studies", "tuned_content", "write_experiment"]

Results = Sequence[tuple[Study, Sequence[Trial]]]


def studies(experiment: Experiment) -> list[Study]:
    """Return what is to be tuned: a study per method.

    Raises
    ------
    ValueError
        The experiment does not say how, or is tuned already.
    """
    tuning, grid = experiment.tuning, experiment.grid
    if tuning is None:
        raise ValueError(
            f"experiment {experiment.name!r} has no section tuning: say there what may change, for "
            "example space: {recipe.optimizer.learning_rate: {low: 0.005, high: 0.5, log: true}}"
        )
    if tuning.spent:
        raise ValueError(
            f"experiment {experiment.name!r} is tuned already: tune the file that it was made from"
        )
    dataset, variant = next(iter(experiment.datasets().items()))
    tuning = tuning.resolved(grid.sizes(variant), grid.seeds, experiment.recipe)
    assert tuning.train_size is not None
    assert tuning.seeds is not None
    recipes = experiment.recipes()
    model, (base, options) = next(iter(experiment.models().items()))
    found = []
    for name, parts in experiment.compositions().items():
        recipe = recipes[name].model_copy(update={"steps": tuning.steps, "epochs": None})
        place = (dataset, model, name, tuning.train_size, tuning.seeds[0])
        run = Run(*place, base, options, parts, recipe, variant=variant)
        found.append(Study(run, tuning, tuning.domains(name, parts, recipe)))
    return found


def chosen(results: Results) -> list[dict[str, Any]]:
    """Return the rows of ``chosen.csv``: what was spent on each method, and what came out.

    ``first_accuracy`` and ``first_nll`` are those of the method's own values.
    """
    rows = []
    for study, trials in results:
        run, tuning, first, best = study.run, study.tuning, trials[0], study.best(trials)
        states = [each.state for each in trials]
        rows.append(
            {
                "dataset": run.dataset,
                "model": run.model,
                "method": run.method,
                "train_size": run.train_size,
                "seeds": " ".join(map(str, tuning.seeds or ())),
                "steps_each": tuning.steps,
                "validation": run.source.entry.validation,
                "trials": len(trials),
                **{state: states.count(state) for state in ("finished", "pruned", "failed")},
                "steps": sum(each.steps for each in trials),
                **_scores("first_", first if first.state == "finished" else None),
                **_scores("", best),
                "chosen": best.number if best else None,
                "values": _text(best.values if best else {}),
            }
        )
    return rows


def tuned_content(
    content: Mapping[str, Any], experiment: Experiment, results: Results
) -> dict[str, Any]:
    """Return what the tuned experiment file holds: the experiment under a name of its own.

    Parameters
    ----------
    content, experiment
        What the file that was tuned holds, and what that means.
    results
        Of all methods, in the order of the grid. One of which no trial was finished is left as it
        is.
    """
    methods = []
    for given, (study, trials) in zip(content["grid"]["methods"], results, strict=True):
        best, recipe = study.best(trials), experiment.recipes()[study.run.method]
        whole = {"name": given, "preset": given} if isinstance(given, str) else dict(given)
        if best is not None:
            whole |= {"tuned": True, **_own(whole, study.run.composition, recipe, best.values)}
        methods.append(given if best is None else whole)
    spent = {
        row["method"]: {name: row[name] for name in ("trials", "steps", "accuracy", "nll")}
        for row in chosen(results)
    }
    settings = results[0][0].tuning.model_dump(mode="json", exclude={"space", "spent"})
    return {
        **content,
        "name": f"{experiment.name}-tuned",
        "grid": {**content["grid"], "methods": methods},
        "tuning": {**settings, "space": content["tuning"]["space"], "spent": spent},
    }


def quoted(experiment: Experiment) -> dict[str, Any]:
    """Return what a report says of the tuning; nothing where nothing was tuned."""
    tuning, recipes = experiment.tuning, experiment.recipes()
    if tuning is None or not tuning.spent:
        return {}
    rows = []
    for name, parts in experiment.compositions().items():
        spent = tuning.spent[name]
        found = ["–", "–", "every trial failed"]
        if spent.accuracy is not None and spent.nll is not None:
            values = _text(own_values(parts, recipes[name], tuning.space))
            found = [f"{spent.accuracy:.3f}", f"{spent.nll:.3f}", f"``{values}``"]
        rows.append([catalogue.label(name), str(spent.trials), str(spent.steps), *found])
    return {
        "columns": ["method", "trials", "steps spent", "accuracy", "nll", "chosen"],
        "rows": rows,
        "trials": tuning.trials,
        "steps": tuning.steps,
        "train_size": tuning.train_size,
        "seeds": len(tuning.seeds or ()),
        "validation": next(iter(experiment.datasets().values())).entry.validation,
    }


def write_experiment(path: Path, content: Mapping[str, Any], head: str) -> None:
    """Write an experiment file, with a line of comment above it."""
    text = yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True, width=100)
    with writing(path) as temporary:
        temporary.write_text(f"# {head}\n{text}")


def _scores(prefix: str, trial: Trial | None) -> dict[str, float | None]:
    return {f"{prefix}{name}": trial.mean(name) if trial else None for name in ("accuracy", "nll")}


def _text(values: Mapping[str, Any]) -> str:
    return "; ".join(f"{path}: {written(value)}" for path, value in values.items())


def _own(
    given: Mapping[str, Any],
    composition: Composition,
    recipe: Recipe,
    values: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what a method's mapping says of the recipe and the parts that were tuned."""
    parts, _ = changed(composition, recipe, values)
    result: dict[str, Any] = {}
    for path, value in values.items():
        kind, *parents, key = path.split(".")
        changes = {key: value}
        for parent in reversed(parents):
            changes = {parent: changes}
        part = None if kind == "recipe" else getattr(parts, kind)
        if isinstance(part, Wrapper):  # what it wraps stands in a mapping only as a whole
            result[kind] = part.model_dump(mode="json")
        else:
            known = result.get(kind, given.get(kind, {}))
            result[kind] = merged({"name": known} if isinstance(known, str) else known, changes)
    return result
