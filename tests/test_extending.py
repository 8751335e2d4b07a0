"""What docs/extending.md shows works as it stands there: three files, and they are everywhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "extending.md").read_text()
FILES = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", TEXT, re.DOTALL))
LINES = 24  # without blank ones: "one file" of a screen
EXPERIMENT = {
    "name": "extended",
    "grid": {
        "datasets": ["stripes"],
        "models": ["mlp", {"name": "wide", "base": "mlp", "options": {"hidden": 8}}],
        "methods": ["baseline", "dim-top", "dim-top/swapped", {"name": "half", "preset": "dim-top",
                    "perturbation": {"share": 0.5}}],
        "train_sizes": [20],
        "seeds": 2,
    },
    "recipe": {"steps": 5, "batch_size": 10},
    "evaluation": {"fractions": [0.0, 0.5], "gallery": 2},
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the three files, and what a package that names them leaves when installed."""
    folder = tmp_path_factory.mktemp("extended")
    for name, text in FILES.items():
        (folder / name).write_text(text)
    installed = folder / "mine-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    points = "".join(f"{Path(name).stem} = {Path(name).stem}\n" for name in FILES)
    (installed / "entry_points.txt").write_text(f"[attrreg.plugins]\n{points}")
    (folder / "experiment.yaml").write_text(yaml.safe_dump(EXPERIMENT))
    return folder


def called(place, *arguments):
    """Run a Python module where the plugins are installed."""
    paths = [str(place), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=place,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def attrreg(place, *arguments):
    """Run a command that must end well, and return what it prints."""
    answer = called(place, "attrreg", *arguments)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def test_each_is_one_file_of_a_screen():
    assert sorted(FILES) == ["dim.py", "mlp.py", "stripes.py"]
    for name, text in FILES.items():
        assert len([line for line in text.splitlines() if line.strip()]) <= LINES, name


@pytest.mark.parametrize(
    ("command", "name"), [("datasets", "stripes"), ("models", "mlp"), ("methods", "dim-top")]
)
def test_they_appear_in_the_lists(place, command, name):
    assert any(line.split()[:1] == [name] for line in attrreg(place, command).splitlines())


def test_an_experiment_uses_them_from_end_to_end(place):
    config = ("--config", "experiment.yaml")
    attrreg(place, "plan", *config)
    attrreg(place, "prepare", *config)
    for seed in range(2):
        attrreg(place, "subset", "--dataset", "stripes", "--seed", seed)
    for command in ("train", "evaluate", "collect", "test"):
        attrreg(place, command, *config)
    assert "16 of 16 runs trained, 16 evaluated, 0 failed" in attrreg(place, "status", *config)


def test_a_wrong_parameter_of_a_part_is_refused_in_one_line(place):
    wrong = yaml.safe_load((place / "experiment.yaml").read_text())
    wrong["grid"]["methods"][-1]["perturbation"] = {"share": 2}
    (place / "wrong.yaml").write_text(yaml.safe_dump(wrong))
    answer = called(place, "attrreg", "plan", "--config", "wrong.yaml")
    assert answer.returncode == 2
    assert answer.stderr.count("\n") == 1
    assert "dim.share: found 2" in answer.stderr


def test_the_generic_tests_find_them(place):
    generic = ROOT / "tests" / "test_registered.py"
    options = ("-q", "-p", "no:cacheprovider", "--rootdir", ROOT, "-c", ROOT / "pyproject.toml")
    answer = called(place, "pytest", *options, generic, "-k", "stripes or mlp or dim-top")
    assert answer.returncode == 0, answer.stdout
    assert "5 passed" in answer.stdout


def test_an_edited_part_trains_only_its_own_runs_again(place):
    code = "; ".join(
        [
            "from attrreg.config import read_experiment",
            "from attrreg.plan import make_plan",
            "from pathlib import Path",
            "plan = make_plan(read_experiment(Path('experiment.yaml')))",
            "print(*(f'{run.model} {run.method} {run.intent}' for run in plan.runs), sep='\\n')",
        ]
    )
    (place / "show.py").write_text(code)
    before = called(place, "show").stdout.splitlines()
    text = (place / "dim.py").read_text()
    (place / "dim.py").write_text(text.replace("1 - 0.5 * chosen", "1 - 0.6 * chosen"))
    after = called(place, "show").stdout.splitlines()
    (place / "dim.py").write_text(text)
    changed = {each.split()[1] for each, other in zip(before, after, strict=True) if each != other}
    assert changed == {"dim-top", "dim-top/swapped", "half"}


def test_a_plugin_that_cannot_be_imported_is_named(place, tmp_path):
    (tmp_path / "broken.py").write_text("raise OSError('no such disk')\n")
    installed = tmp_path / "bad-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: bad\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text("[attrreg.plugins]\nbroken = broken\n")
    answer = called(tmp_path, "attrreg", "methods")
    assert answer.returncode == 2
    for said in ("plugin 'broken' of bad", "OSError: no such disk", "uninstall bad"):
        assert said in answer.stderr
    assert answer.stderr.count("\n") == 1


def test_a_name_that_exists_is_refused(tmp_path):
    text = FILES["mlp.py"].replace('"mlp": Model', '"resnet10-narrow": Model')
    (tmp_path / "taken.py").write_text(text)
    installed = tmp_path / "bad-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: bad\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text("[attrreg.plugins]\ntaken = taken\n")
    answer = called(tmp_path, "attrreg", "methods")
    assert answer.returncode == 2
    assert "taken has MODELS 'resnet10-narrow', which exists already" in answer.stderr
