"""A digest changes with the code and the values that it stands for, and with nothing else."""

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from experiments import ROOT, written
from hypothesis import given, settings
from hypothesis import strategies as st

from attrreg.provenance import array_digest, digest, stream_seed

METHODS = ["baseline", "random-erasing", "reldrop-block", "reldrop-block/swapped", "sgt"]
GUIDED = {"reldrop-block", "reldrop-block/swapped", "sgt"}

SCRIPT = """
import json, sys
from pathlib import Path
import attrreg
from attrreg.config import read_experiment
from attrreg.plan import make_plan
from attrreg.provenance import source_digest
assert Path(attrreg.__file__).is_relative_to(sys.argv[1]), attrreg.__file__
plan = make_plan(read_experiment(Path(sys.argv[2])))
protocol = plan.experiment.evaluation.model_dump(mode="json")
runs = [run for run in plan.runs if run.seed == 0]
print(json.dumps({
    "runs": {run.method: run.intent for run in runs},
    "scores": {run.method: run.scores_intent(protocol) for run in runs},
    "figures": source_digest("attrreg.figures"),
    "tables": source_digest("attrreg.tables"),
}))
"""


class Package:
    """A copy of the package that may be edited; nothing else is imported."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "attrreg", folder / "attrreg", ignore=ignored)
        self.experiment = written(folder, {"grid.methods": METHODS})
        self.before = self.digests()

    def digests(self) -> dict:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, self.folder, self.experiment],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads(done.stdout)

    def edited(self, *edits: tuple[str, Callable[[str], str]]) -> dict[str, set[str]]:
        """Return of which methods which digests change with some edits, which are undone again."""
        paths = [self.folder / "attrreg" / name for name, _ in edits]
        texts = [path.read_text() for path in paths]
        try:
            for path, text, (_, edit) in zip(paths, texts, edits, strict=True):
                changed = edit(text)
                assert changed != text
                path.write_text(changed)
            after = self.digests()
        finally:
            for path, text in zip(paths, texts, strict=True):
                path.write_text(text)
        return {
            kind: {method for method in METHODS if after[kind][method] != before[method]}
            for kind, before in self.before.items()
            if isinstance(before, dict)
        } | {
            kind: {"all"} if after[kind] != before else set()
            for kind, before in self.before.items()
            if isinstance(before, str)
        }


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return Package(tmp_path_factory.mktemp("package"))


def code(text):
    """Add a statement."""
    return f"{text}\nADDED = 1\n"


def remark(text):
    """Change comments and docstrings, and nothing that runs."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module) and ast.get_docstring(
            node
        ):
            node.body[0] = ast.Expr(ast.Constant("Something else entirely."))
    return f"# a new comment\n{ast.unparse(ast.fix_missing_locations(tree))}\n\n\n# the end\n"


ALL = set(METHODS)


class TestSourceDigest:
    """Each stage is redone when its own code changes; nobody else's code counts."""

    def test_comments_docstrings_and_formatting_do_not_count(self, package):
        files = ["training/engine.py", "attribution/engine.py", "evaluation/scores.py"]
        files += ["figures/style.py", "method.py", "attribution/controls.py", "__init__.py"]
        changed = package.edited(*((name, remark) for name in files))
        assert not any(changed.values())

    @pytest.mark.parametrize(
        "file",
        [
            "training/engine.py",
            "training/runs.py",
            "data/device.py",
            "models/images.py",
            "state.py",
        ],
    )
    def test_code_of_the_training_changes_every_run(self, package, file):
        assert package.edited((file, code))["runs"] == ALL

    @pytest.mark.parametrize("file", ["attribution/engine.py", "attribution/rules.py"])
    def test_code_of_the_maps_changes_the_runs_of_guided_methods(self, package, file):
        assert package.edited((file, code))["runs"] == GUIDED

    def test_code_of_the_controls_changes_the_runs_of_controls(self, package):
        assert package.edited(("attribution/controls.py", code))["runs"] == {
            "reldrop-block/swapped"
        }

    @pytest.mark.parametrize(
        "file", ["evaluation/occlusion.py", "evaluation/calibration.py", "evaluation/scores.py"]
    )
    def test_code_of_the_evaluation_changes_scores_only(self, package, file):
        changed = package.edited((file, code))
        assert changed == {"runs": set(), "scores": ALL, "figures": set(), "tables": set()}

    def test_code_above_both_stages_changes_neither(self, package):
        above = ["cli.py", "plan.py", "config.py", "progress.py", "catalogue.py", "__main__.py"]
        changed = package.edited(*((name, code) for name in above))
        assert changed == {"runs": set(), "scores": set(), "figures": set(), "tables": set()}
        tests = ["statistics/permutation.py", "statistics/comparison.py", "more_tests.py"]
        changed = package.edited(*((name, code) for name in tests))
        assert (changed["runs"], changed["scores"], changed["tables"]) == (set(), set(), set())

    def test_code_of_the_figures_changes_figures_only(self, package):
        changed = package.edited(("figures/style.py", code))
        assert changed == {"runs": set(), "scores": set(), "figures": {"all"}, "tables": set()}

    def test_code_of_the_tables_changes_tables_only(self, package):
        changed = package.edited(("tables.py", code))
        assert changed == {"runs": set(), "scores": set(), "figures": set(), "tables": {"all"}}

    @pytest.mark.parametrize(
        "statement",
        [
            "import attrreg.new",
            "from attrreg import new",
            "from attrreg.new import VALUE",
            "def late():\n    from attrreg.new import VALUE\n    return VALUE",
            "from ..new import VALUE",
            "from .. import new",
        ],
    )
    def test_every_form_of_import_is_followed(self, package, statement):
        new = package.folder / "attrreg" / "new.py"
        engine = package.folder / "attrreg" / "training" / "engine.py"
        text = engine.read_text()
        found = []
        try:
            engine.write_text(f"{text}\n{statement}\n")
            for value in (1, 2):
                new.write_text(f"VALUE = {value}\n")
                found.append(package.digests()["runs"])
        finally:
            engine.write_text(text)
            new.unlink()
        assert not found[0].items() & found[1].items()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=2), below),
    max_leaves=5,
)


@settings(deadline=None)
@given(JSON, JSON)
def test_digests_of_values_are_equal_where_their_json_is(first, second):
    same = json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)
    assert (digest(first) == digest(second)) == same


def test_the_order_of_keys_does_not_count():
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})


def test_types_shapes_and_values_of_arrays_count():
    x = np.arange(6, dtype=np.int64)
    others = [x.reshape(2, 3), x.astype(np.int32), x[::-1].copy(), x.astype(np.float64), x[:5]]
    digests = {array_digest(each) for each in [x, *others]}
    assert len(digests) == 6
    assert array_digest(x.copy()) == array_digest(x)
    assert array_digest(x[:2], x[2:]) != array_digest(x)


def test_an_array_is_the_same_however_it_lies_in_memory():
    x = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert array_digest(np.asfortranarray(x)) == array_digest(x)
    assert array_digest(x[::2]) == array_digest(x[::2].copy())


def test_an_empty_array_has_a_digest_too():
    assert array_digest(np.empty((0, 3))) != array_digest(np.empty((0, 2)))


@settings(deadline=None)
@given(st.text(min_size=1, max_size=5), st.lists(st.integers(0, 99), max_size=3))
def test_streams_are_told_apart_by_name_and_keys(name, keys):
    seed = stream_seed(name, *keys)
    assert 0 <= seed < 2**63
    assert seed == stream_seed(name, *keys)
    assert seed != stream_seed(name, *keys, 0)
    assert seed != stream_seed(f"{name}'", *keys)
