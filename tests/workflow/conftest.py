"""A copy of the project in which experiments are really run, killed, edited and run again."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("attrreg", "workflow", "profiles", "configs", "Snakefile", "environment.yml")
EXPERIMENT = """\
name: tiny
grid:
  datasets: [digits]
  models: [resnet10-narrow]
  methods: [baseline, reldrop-block, reldrop-block/swapped]
  train_sizes: [20]
  seeds: [0, 1]
recipe: {steps: 12, batch_size: 16}
evaluation: {fractions: [0.0, 0.4, 0.8], gallery: 2, measures: [training, margin]}
figures: [accuracy-by-train-size]
execution: {device: cpu, shard_seconds: 0.3}
"""


@dataclass(frozen=True)
class Project:
    """A folder with the code, its own results, and an experiment of six short runs."""

    root: Path

    @property
    def folder(self) -> Path:
        return self.root / "results" / "tiny"

    @property
    def config(self) -> Path:
        return self.root / "configs" / "tiny.yaml"

    def environment(self) -> dict[str, str]:
        """The copy's code comes first, whatever is installed."""
        binaries = Path(sys.executable).parent
        return {
            **os.environ,
            "PYTHONPATH": str(self.root),
            "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
        }

    def command(self, *options: str) -> list[str]:
        return [sys.executable, "workflow/launch.py", "configs/tiny.yaml", "--cores", "2", *options]

    def start(self) -> subprocess.Popen[str]:
        """Launch in a process group of its own, so that it can be killed as a whole."""
        return subprocess.Popen(
            self.command(),
            cwd=self.root,
            env=self.environment(),
            start_new_session=True,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def launch(self, *options: str) -> subprocess.CompletedProcess[str]:
        return self.run(self.command(*options))

    def snakemake(self, *options: str) -> subprocess.CompletedProcess[str]:
        settings = ["--cores", "2", "--config", "experiment=configs/tiny.yaml"]
        return self.run([sys.executable, "-m", "snakemake", *settings, *options])

    def planned_jobs(self) -> dict[str, int]:
        """What a dry run says is to be done: the number of jobs of each rule."""
        answer = self.snakemake("-n")
        assert answer.returncode == 0, answer.stdout
        if "Nothing to be done" in answer.stdout:
            return {}
        table = answer.stdout.split("Job stats:")[-1].split("total")[0].splitlines()
        rows = [line.split() for line in table]
        return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}

    def run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.root,
            env=self.environment(),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=300,
            check=False,
        )

    def tables(self) -> dict[str, bytes]:
        """The tables that do not depend on how long anything took."""
        return {
            path.name: path.read_bytes()
            for path in sorted((self.folder / "tables").glob("*"))
            if path.stem != "cost"
        }

    def has_figure(self, name: str) -> bool:
        """Whether a figure exists in three formats."""
        starts = {"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF"}
        files = {kind: self.folder / "figures" / f"{name}.{kind}" for kind in starts}
        contents = {kind: file.read_bytes() for kind, file in files.items() if file.exists()}
        return contents.keys() == starts.keys() and all(
            content.startswith(starts[kind]) and len(content) > 2000
            for kind, content in contents.items()
        )

    def run_times(self) -> dict[str, int]:
        """When each run came into place."""
        runs = sorted((self.folder / "runs").glob("*/*/*/*/s*/run.json"))
        return {str(path.relative_to(self.folder)): path.stat().st_mtime_ns for path in runs}

    def edit(self, file: str, old: str, new: str) -> None:
        path = self.root / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    def copy(self, root: Path) -> "Project":
        shutil.copytree(self.root, root, symlinks=True)
        return Project(root)


def make_project(root: Path) -> Project:
    """Copy the code into an empty folder, and write the experiment beside it."""
    for part in PARTS:
        source = ROOT / part
        copy = shutil.copytree if source.is_dir() else shutil.copy2
        copy(source, root / part)
    project = Project(root)
    project.config.write_text(EXPERIMENT)
    return project


@pytest.fixture(scope="session")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Project]:
    """Make projects in which nothing has run."""
    return lambda: make_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose experiment has run without interruption; not to be changed.

    It runs once for all processes of the tests: the others wait, and take what the first one made.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    project = Project(shared / "finished")
    with FileLock(shared / "finished.lock"):
        if not (shared / "finished.txt").exists():
            shutil.rmtree(project.root, ignore_errors=True)
            project.root.mkdir()
            answer = make_project(project.root).launch()
            assert answer.returncode == 0, answer.stdout
            (shared / "finished.txt").write_text(answer.stdout)
    return project


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    """A copy of the finished project, to edit and run again."""
    return finished.copy(tmp_path / "project")
