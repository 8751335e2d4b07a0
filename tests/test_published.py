"""What is published can be drawn and answered again from its tables alone."""

import shutil

import pandas as pd
import pytest
from experiments import ROOT, command

from attrreg.config import read_experiment

PUBLISHED = sorted(path.parent for path in (ROOT / "results" / "published").glob("*/README.md"))


@pytest.fixture(params=PUBLISHED, ids=lambda path: path.name)
def copied(request, tmp_path):
    """The tables of a published experiment, in a folder of results of their own."""
    target = tmp_path / "results" / request.param.name
    shutil.copytree(request.param / "tables", target / "tables")
    return request.param, target


def again(copied, name, *arguments):
    published, target = copied
    config = published / "tables" / "experiment.yaml"
    answer = command(name, "--config", config, "--results", target.parent, *arguments)
    assert answer.code == 0, answer.err


def test_something_is_published():
    assert PUBLISHED


def test_figures_are_drawn_again_to_the_byte(copied):
    published, target = copied
    again(copied, "draw")
    found = {path.name: path.read_bytes() for path in (target / "figures").glob("*.svg")}
    expected = {path.name: path.read_bytes() for path in (published / "figures").glob("*.svg")}
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []
    assert len(found) >= 5


def test_claims_are_answered_again_as_published(copied):
    published, target = copied
    before = {path.name: path.read_bytes() for path in (published / "tables").glob("claims.*")}
    assert len(before) == 4
    for path in (target / "tables").glob("claims.*"):
        path.unlink()
    again(copied, "claims", "--claims", ROOT / "configs" / "claims.yaml")
    found = {path.name: path.read_bytes() for path in (target / "tables").glob("claims.*")}
    assert found == before


def test_no_run_is_missing(copied):
    published, _ = copied
    experiment = read_experiment(published / "tables" / "experiment.yaml")
    failures = pd.read_csv(published / "tables" / "failures.csv")
    assert failures.empty
    metrics = pd.read_csv(published / "tables" / "metrics.csv")
    runs = metrics[["dataset", "model", "method", "train_size", "seed"]].drop_duplicates()
    grid = experiment.grid
    models, sizes = len(grid.models), len(grid.train_sizes)
    assert len(runs) == len(grid.datasets) * models * len(grid.methods) * sizes * len(grid.seeds)
