"""A tiny experiment for tests to change, and the command line as a function."""

import contextlib
import copy
import io
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import yaml

from attrreg import cli
from attrreg.config import Experiment
from attrreg.data.prepare import prepare
from attrreg.data.sources import read_pool
from attrreg.data.subsets import draw_subsets
from attrreg.plan import Plan, make_plan
from attrreg.records import read_record

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "configs" / "demo.yaml"
REMOVED = object()

TINY: dict[str, Any] = {
    "name": "tiny",
    "grid": {
        "datasets": ["digits"],
        "models": ["resnet10-narrow"],
        "methods": ["baseline", "reldrop-block"],
        "train_sizes": [20],
        "seeds": [0, 1],
    },
    "recipe": {"steps": 3, "batch_size": 10, "optimizer": {"name": "sgd"}},
    "evaluation": {"fractions": [0.0, 0.3, 0.9], "gallery": 3},
}


def changed(changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the tiny experiment with values replaced, keyed by dotted path."""
    content = copy.deepcopy(TINY)
    for path, value in (changes or {}).items():
        *parents, last = path.split(".")
        place = content
        for parent in parents:
            place = place.setdefault(parent, {})
        if value is REMOVED:
            del place[last]
        else:
            place[last] = value
    return content


def written(folder: Path, changes: dict[str, Any] | None = None) -> Path:
    """Write the changed experiment into a folder, and return its path."""
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(changed(changes), allow_unicode=True))
    return path


def planned(changes: dict[str, Any] | None = None) -> Plan:
    """Return the plan of the changed experiment."""
    return make_plan(Experiment.model_validate(changed(changes)))


class Answer(NamedTuple):
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str


def command(*arguments: object) -> Answer:
    """Run `attrreg` with these arguments in this process."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with (
        mock.patch.object(sys, "argv", ["attrreg", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
    return Answer(code, out.getvalue(), err.getvalue())


def prepare_data(folder: Path, seeds: Iterable[int] = (0, 1)) -> Path:
    """Prepare the digits and draw the subsets of some seeds."""
    prepare(folder, "digits")
    for seed in seeds:
        draw_subsets(folder, "digits", seed, read_pool(folder, "digits").images.y)
    return folder


def is_finished(place):
    """Whether the work recorded in a directory ended well."""
    record = read_record(place)
    return record is not None and record["status"] == "finished"
