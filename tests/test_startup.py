"""What starts often starts light: no command imports a library that it has no use for."""

import csv
import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NETWORKS = {"torch", "torchvision", "timm"}
TABLES = {"numpy", "pandas", "pyarrow", "scipy", "sklearn"}
DRAWING = {"matplotlib", "PIL"}
HEAVY = NETWORKS | TABLES | DRAWING
DEMO = ("--config", "configs/demo.yaml")


def imported(code):
    """Return which heavy libraries a process has imported when it has run the code."""
    tell = f"\nimport sys; print('heavy:', *({HEAVY} & set(sys.modules)))"
    answer = subprocess.run(
        [sys.executable, "-c", code + tell], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    return set(answer.stdout.rpartition("heavy:")[2].split())


def imported_by_command(*arguments):
    """Return which heavy libraries a command has imported when it has ended well."""
    return imported(
        f"import runpy, sys; sys.argv = {['attrreg', *map(str, arguments)]}\n"
        "try: runpy.run_module('attrreg', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code, end.code"
    )


def test_the_probe_sees_what_is_imported():
    assert imported("import numpy") == {"numpy"}


def test_the_command_line_imports_nothing_heavy():
    assert imported("import attrreg.cli") == set()


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("train", "--help"),
        ("plan", *DEMO),
        ("methods",),
        ("models",),
        ("datasets",),
        ("status", *DEMO, "--results", "nowhere"),
    ],
    ids=" ".join,
)
def test_a_command_that_only_tells_imports_nothing_heavy(arguments):
    assert imported_by_command(*arguments) == set()


def test_what_the_snakefile_asks_for_imports_nothing_heavy():
    rules = "".join(path.read_text() for path in (ROOT / "workflow/rules").glob("*.smk"))
    imports = r"^from attrreg\S* import (?:\([^)]*\)|.+)$|^import attrreg.*$"
    own = set(re.findall(imports, rules, re.MULTILINE))
    sources = set(re.findall(r'source_digest\("([^"]+)"\)', rules))
    assert {"make_plan", "evaluation_digest"} <= set(re.findall(r"\w+", " ".join(own)))
    assert "attrreg.tables" in sources
    code = [
        *sorted(own),
        "from pathlib import Path",
        "plan = make_plan(read_experiment(Path('configs/demo.yaml')))",
        "assert all(shard.digest and evaluation_digest(plan, shard) for shard in plan.shards)",
        f"assert all(map(source_digest, {sorted(sources)}))",
    ]
    assert imported("\n".join(code)) == set()


@pytest.mark.parametrize("room", ["statistics", "figures"])
def test_no_module_of_a_room_without_networks_imports_them(room):
    modules = [f"attrreg.{room}.{path.stem}" for path in (ROOT / "attrreg" / room).glob("*.py")]
    assert len(modules) > 5
    assert not imported(f"import {', '.join(modules)}") & NETWORKS


@pytest.fixture
def tables(tmp_path):
    """Return the results folder of the demo with nothing but a table of metrics and of failures."""
    from attrreg.config import read_experiment
    from attrreg.plan import make_plan

    experiment = read_experiment(ROOT / "configs/demo.yaml")
    runs = make_plan(experiment).runs
    metrics = [
        {**run.key, "metric": metric, "value": 0.5 + 0.01 * run.seed + 0.001 * number}
        for (number, run), metric in itertools.product(enumerate(runs), experiment.tested_metrics())
    ]
    folder = tmp_path / "demo" / "tables"
    folder.mkdir(parents=True)
    _write(folder / "metrics.csv", [*runs[0].key, "metric", "value"], metrics)
    _write(folder / "failures.csv", [*runs[0].key, "stage", "error", "message"], [])
    return tmp_path


def test_comparing_needs_tables_but_neither_networks_nor_drawing(tables):
    assert imported_by_command("test", *DEMO, "--results", tables) <= TABLES
    assert (tables / "demo/tables/tests.csv").is_file()


def test_drawing_needs_tables_but_no_networks(tables):
    found = imported_by_command("draw", "accuracy-by-train-size", *DEMO, "--results", tables)
    assert found <= TABLES | DRAWING
    assert (tables / "demo/figures/accuracy-by-train-size.svg").is_file()


def test_comparing_and_drawing_leave_scipy_stats_alone():
    """It takes about as long to import as pandas and matplotlib together."""
    code = (
        "import sys, attrreg.statistics.comparison, attrreg.figures\n"
        "assert 'scipy.stats' not in sys.modules"
    )
    assert not imported(code) & NETWORKS


def _write(path, columns, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=columns)
        writer.writeheader()
        writer.writerows(rows)
