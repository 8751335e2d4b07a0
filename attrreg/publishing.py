"""What others need to read an experiment and to draw it again: its tables, figures, and origin.

Torch-free. Runs, scores and the history of the trainings stay behind: they are large, and no figure
or claim reads them.
"""

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attrreg.cells import Run
from attrreg.config import Experiment
from attrreg.files import new_directory
from attrreg.records import read_record

__all__ = ["publish"]

NEEDED = {
    "metrics.csv": "attrreg collect",
    "tests.csv": "attrreg test",
    "claims.txt": "attrreg claims",
}
BEHIND = "history.csv"
PUBLISHED = {"README.md", "tables", "figures"}


def publish(experiment: Experiment, runs: Sequence[Run], folder: Path, target: Path) -> Path:
    """Copy the tables and the figures of an experiment, and say where they are from.

    The folder comes into place by rename, in place of one that was published before.

    Parameters
    ----------
    experiment
        What was run.
    runs
        All runs of its plan.
    folder
        Where it lies, with ``runs``, ``tables`` and ``figures``.
    target
        The folder to make.

    Returns
    -------
    pathlib.Path
        The README of the target.

    Raises
    ------
    FileNotFoundError
        A table or a figure is missing; the message names the command that makes it.
    ValueError
        The target is the experiment's folder, lies in it or holds it, or has anything in it that is
        not of an earlier publication.
    """
    tables, figures = folder / "tables", folder / "figures"
    for name, command in NEEDED.items():
        if not (tables / name).is_file():
            raise FileNotFoundError(f"there is no table {tables / name}: run `{command}` first")
    drawn = [figures / f"{name}.svg" for name in experiment.drawn_figures()]
    for path in drawn:
        if not path.is_file():
            raise FileNotFoundError(f"there is no figure {path}: run `attrreg draw` first")
    _check_replaceable(target, folder)
    with new_directory(target) as made:
        shutil.copytree(tables, made / "tables", ignore=shutil.ignore_patterns(BEHIND))
        (made / "figures").mkdir()
        for path in drawn:
            shutil.copy2(path, made / "figures")
        about = _about(experiment, runs, folder, [path.stem for path in drawn])
        (made / "README.md").write_text(about, encoding="utf-8")
    return target / "README.md"


def _check_replaceable(target: Path, folder: Path) -> None:
    """Refuse a target whose place nothing may take: what is in it would be gone."""
    there, own = target.resolve(), folder.resolve()
    if there.is_relative_to(own) or own.is_relative_to(there):
        raise ValueError(f"{target} lies in {folder}, or holds it: give a folder outside of it")
    if not target.exists():
        return
    if not target.is_dir():
        raise ValueError(f"{target} is a file: give a folder")
    found = {path.name for path in target.iterdir()}
    if found and (found != PUBLISHED or not (target / "tables" / "experiment.yaml").is_file()):
        strange = sorted(found - PUBLISHED) or sorted(found)
        raise ValueError(
            f"{target} holds {', '.join(strange[:5])} and was not published: only an empty folder, "
            "or one that was published before, is replaced; give another one"
        )


def _about(experiment: Experiment, runs: Sequence[Run], folder: Path, figures: list[str]) -> str:
    records = [read_record(folder / "runs" / run.path) for run in runs]
    finished = [each for each in records if each is not None and each["status"] == "finished"]
    seconds = sum(each["cost"]["training_seconds"] for each in finished)
    grid, name = experiment.grid, experiment.name
    claims = (folder / "tables" / "claims.txt").read_text(encoding="utf-8").strip()
    lines = [
        f"# {experiment.title or name}",
        f"{len(finished)} of {len(runs)} runs finished: {len(grid.datasets)} datasets × "
        f"{len(grid.models)} models × {len(grid.methods)} methods × {len(grid.train_sizes)} train "
        f"sizes × {len(grid.seeds)} seeds; {seconds / 60:.0f} minutes of training in all.",
        "Trained by:\n\n" + "\n".join(_environments(finished)),
        "The experiment file is `tables/experiment.yaml`. `tables/` has every number behind the "
        "figures. From a checkout of attrreg, in the folder above this one:",
        f"```\nattrreg draw --config {name}/tables/experiment.yaml --results . --target again\n"
        f"attrreg claims --config {name}/tables/experiment.yaml --results . "
        "--claims <checkout>/configs/claims.yaml\n```",
        "## Claims",
        f"```\n{claims}\n```",
        "## Figures",
        *(f"![{each.replace('-', ' ')}](figures/{each}.svg)" for each in figures),
    ]
    return "\n\n".join(lines) + "\n"


def _environments(records: Sequence[dict[str, Any]]) -> list[str]:
    """Return a line per machine and versions, with the number of runs."""
    counts: Counter[str] = Counter()
    for each in records:
        known = each["environment"]
        counts[
            f"Python {known['python']}, torch {known['torch']}, timm {known['timm']}, "
            f"{known['system']} {known['machine']}; {each['device']}, {each['precision']}"
        ] += 1
    return [f"* {count} runs: {said}" for said, count in counts.most_common()]
