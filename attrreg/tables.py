"""From the directories of runs and scores to the tables of an experiment. Torch-free.

Rows stand in the order of the plan; what is missing is named in ``failures.csv`` and nowhere
dropped without a word.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import load_file, save_file

from attrreg.cells import Run
from attrreg.columns import KEYS, SCORED, TABLES
from attrreg.crossing import crossed_metrics
from attrreg.files import writing
from attrreg.records import read_record

__all__ = ["collect", "read_table", "write_table"]


def collect(runs: Iterable[Run], folder: Path) -> dict[str, int]:
    """Write the tables of an experiment from what its runs left; return the rows of each.

    Parameters
    ----------
    runs
        All runs of the plan.
    folder
        The experiment's folder, with ``runs`` and ``scores``; the tables go to ``tables``.
    """
    rows: dict[str, list[pd.DataFrame]] = {name: [] for name in TABLES}
    gallery: dict[str, np.ndarray] = {}
    runs = list(runs)
    for run in runs:
        trained, scored = folder / "runs" / run.path, folder / "scores" / run.path
        record, scores = read_record(trained), read_record(scored)
        if scores is not None and record is not None and scores.get("run") != record["digest"]:
            scores = None  # they are of weights that are gone
        failure = _failure(run, record, "training") or _failure(run, scores, "evaluation")
        if failure:
            rows["failures"].append(_keyed(run, pd.DataFrame([failure])))
        if record is None or record["status"] != "finished":
            continue
        rows["history"].append(_keyed(run, pd.read_csv(trained / "history.csv")))
        folds = [read_record(folder / "runs" / each.path) for each in run.folds]
        rows["cost"].append(_keyed(run, _cost(record, folds)))
        if scores is None or scores["status"] != "finished":
            continue
        for name in SCORED:
            if (scored / f"{name}.csv").is_file():
                rows[name].append(_keyed(run, pd.read_csv(scored / f"{name}.csv")))
        _add_maps(gallery, run, runs, scored / "maps.safetensors")
    if rows["cross"]:
        rows["metrics"] = _with_crossed(rows["metrics"], pd.concat(rows["cross"]))
    tables = folder / "tables"
    counts = {}
    for name, frames in rows.items():
        table = (
            pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=TABLES[name])
        )
        if name == "cost":
            table = _with_ratios(table)
        write_table(table, tables / f"{name}.csv")
        counts[name] = len(table)
    with writing(tables / "gallery.safetensors") as temporary:
        save_file(gallery, temporary)
    return counts


def read_table(path: Path, written_by: str) -> pd.DataFrame:
    """Read a table.

    Raises
    ------
    FileNotFoundError
        It is not there; the message names the command that writes it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no table {path}: run `{written_by}`")
    return pd.read_csv(path)


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV, into place by rename."""
    with writing(path) as temporary:
        table.to_csv(temporary, index=False)


def _keyed(run: Run, frame: pd.DataFrame) -> pd.DataFrame:
    for place, (name, value) in enumerate(run.key.items()):
        frame.insert(place, name, value)
    return frame


def _failure(run: Run, record: dict[str, Any] | None, stage: str) -> dict[str, Any] | None:
    """Return how a stage of a run failed or that it is missing; None where it ended well."""
    if record is None:
        return {
            "stage": stage,
            "error": "missing",
            "message": f"nothing at {stage_folder(stage)}/{run.path}: the {stage} step has not run",
        }
    if record["status"] == "finished":
        return None
    return {"stage": stage, "error": record["error"], "message": record["message"]}


def stage_folder(stage: str) -> str:
    """Return where a stage leaves its directories."""
    return {"training": "runs", "evaluation": "scores"}[stage]


def _cost(record: dict[str, Any], folds: list[dict[str, Any] | None]) -> pd.DataFrame:
    cost = {**record["cost"], "steps": record["steps"], "parameters": record["parameters"]}
    if folds:
        trained = [each["cost"] for each in folds if each and each["status"] == "finished"]
        if len(trained) == len(folds):
            cost["cross_fitting_seconds"] = sum(each["training_seconds"] for each in trained)
    return pd.DataFrame({"metric": list(cost), "value": [float(value) for value in cost.values()]})


def _with_crossed(metrics: list[pd.DataFrame], cross: pd.DataFrame) -> list[pd.DataFrame]:
    """Add to the metrics of each run those that take the maps of other runs."""
    found = crossed_metrics(cross).set_index(KEYS)[["metric", "value"]]
    rows = []
    for own in metrics:
        key = tuple(own[KEYS].iloc[0])
        more = found.loc[[key]].reset_index() if key in found.index else found.iloc[:0]
        rows.append(pd.concat([own, more]) if len(more) else own)
    return rows


def _with_ratios(cost: pd.DataFrame) -> pd.DataFrame:
    """Add what a step costs relative to the baseline's at the same place of the grid."""
    steps = cost[cost.metric == "seconds_per_step"]
    place = ["dataset", "model", "train_size", "seed"]
    baseline = steps[steps.method == "baseline"][[*place, "value"]]
    ratios = steps.merge(baseline, on=place, suffixes=("", "_baseline"))
    ratios["value"] = ratios.value / ratios.value_baseline
    ratios["metric"] = "ratio_to_baseline"
    return pd.concat([cost, ratios[cost.columns]], ignore_index=True)


def _add_maps(gallery: dict[str, np.ndarray], run: Run, runs: list[Run], path: Path) -> None:
    """Keep the maps of the largest training set and the first seed."""
    if run.train_size != max(each.train_size for each in runs) or run.seed != runs[0].seed:
        return
    place = f"{run.dataset}|{run.model}"
    for name, values in load_file(path).items():
        shared = name in ("inputs", "labels")
        gallery[f"{place}/{name}" if shared else f"{place}/{run.method}/{name}"] = values
