"""Every wrong experiment file is refused with one clear line; right ones are understood."""

import json
import subprocess
import sys
from dataclasses import replace

import jsonschema
import pytest
import yaml
from experiments import DEMO, ROOT, changed, command, written
from hypothesis import given, settings
from hypothesis import strategies as st
from wrong_experiments import UNREADABLE, WRONG, method

from attrreg import catalogue
from attrreg.config import ConfigError, Experiment, json_schema, notices, read_experiment

# What an author of YAML should never have to read.
FOREIGN = (
    "pydantic",
    "NamedMethod",
    "NamedModel",
    "function-",
    "validation error",
    "nput should",
    "discriminator",
    "union",
    "tuple",
    "dict[",
    "instance of",
    "Traceback",
    "<unicode string>",
)


def refusal(path):
    """Return the message with which a plan of a file is refused, after what holds for all."""
    answer = command("plan", "--config", path)
    assert answer.code == 2
    assert answer.out == ""
    message = answer.err
    assert message.startswith(f"attrreg: {path}: ")
    assert message.count("\n") == 1
    assert not [word for word in FOREIGN if word in message]
    return message


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_value_is_refused_in_one_line(case, tmp_path):
    changes, key, said = WRONG[case]
    path = written(tmp_path, changes)
    message = refusal(path)
    assert message.removeprefix(f"attrreg: {path}: ").startswith(key)
    assert not [fragment for fragment in said if fragment not in message]


@pytest.mark.parametrize("case", UNREADABLE)
def test_a_file_that_holds_no_experiment_is_refused(case, tmp_path):
    text, said = UNREADABLE[case]
    path = tmp_path / "experiment.yaml"
    path.write_text(text)
    message = refusal(path)
    assert not [fragment for fragment in said if fragment not in message]


def test_a_missing_file_a_folder_and_a_binary_are_refused(tmp_path):
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\x89PNG\xff\xfe")
    assert "no such file" in refusal(tmp_path / "absent.yaml")
    assert "directory" in refusal(tmp_path)
    assert "cannot be read as text" in refusal(binary)


def test_the_exit_code_is_that_of_the_process(tmp_path):
    path = written(tmp_path, {"grid.datasets": ["digit"]})
    done = subprocess.run(
        [sys.executable, "-m", "attrreg", "plan", "--config", path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "did you mean 'digits'?" in done.stderr


class TestModality:
    """Parts and models are defined for some modalities; what does not fit stops at once."""

    @pytest.fixture(autouse=True)
    def _clouds(self, monkeypatch):
        for registry, name, template in (
            (catalogue.DATASETS, "clouds", catalogue.DATASETS["digits"]),
            (catalogue.MODELS, "pointnet", catalogue.MODELS["resnet10-narrow"]),
        ):
            monkeypatch.setitem(registry, name, replace(template, modality="points"))

    @staticmethod
    def grid(model, *methods):
        return {"grid.datasets": ["clouds"], "grid.models": [model], "grid.methods": [*methods]}

    def test_a_method_that_does_not_fit_is_refused(self, tmp_path):
        path = written(tmp_path, self.grid("pointnet", "baseline", "reldrop-block"))
        message = refusal(path)
        for said in ("'reldrop-block'", "image, text, series", "'clouds'", "points"):
            assert said in message

    def test_a_model_that_does_not_fit_is_refused(self, tmp_path):
        message = refusal(written(tmp_path, self.grid("resnet18", "baseline")))
        for said in ("'resnet18'", "image", "'clouds'", "points"):
            assert said in message

    def test_methods_without_boxes_fit_points(self, tmp_path):
        methods = ("baseline", "reldrop-pixel", "reldrop-pixel/swapped", "sgt", "challenger")
        path = written(tmp_path, self.grid("pointnet", *methods))
        assert list(read_experiment(path).compositions()) == list(methods)


class TestRightFiles:
    """What is meant is what is understood."""

    def test_numbers_that_yaml_reads_as_text(self, tmp_path):
        path = written(tmp_path)
        path.write_text(path.read_text().replace("name: sgd", "{name: sgd, learning_rate: 1e-3}"))
        path.write_text(path.read_text().replace("optimizer:\n    {", "optimizer: {"))
        assert yaml.safe_load("1e-3") == "1e-3"
        assert read_experiment(path).recipe.optimizer.learning_rate == 1e-3

    def test_a_number_of_seeds_counts_from_zero(self, tmp_path):
        assert read_experiment(written(tmp_path, {"grid.seeds": 4})).grid.seeds == [0, 1, 2, 3]

    def test_own_methods_change_only_what_they_name(self, tmp_path):
        own = {"name": "own", "preset": "reldrop-block", "perturbation": {"p": 0.25}}
        experiment = read_experiment(written(tmp_path, {"grid.methods": ["baseline", own]}))
        preset, found = catalogue.preset("reldrop-block"), experiment.compositions()["own"]
        assert found.perturbation == preset.perturbation.model_copy(update={"p": 0.25})
        assert (found.attribution, found.objective) == (preset.attribution, preset.objective)

    def test_merged_mappings_are_no_repeated_keys(self, tmp_path):
        path = written(tmp_path)
        path.write_text(
            path.read_text().replace("recipe:", "recipe:\n  <<: {steps: 7, batch_size: 3}")
        )
        assert read_experiment(path).recipe.steps == 3

    def test_the_demo_is_right_and_its_schema_says_so(self):
        jsonschema.validate(yaml.safe_load(DEMO.read_text()), json_schema())
        assert read_experiment(DEMO).name == "demo"

    @pytest.mark.parametrize(
        "changes", [{}, {"grid.seeds": 3}, method(preset="sgt", objective={"weight": 2})]
    )
    def test_what_is_read_also_fits_the_schema(self, changes):
        Experiment.model_validate(changed(changes))
        jsonschema.validate(changed(changes), json_schema())

    def test_the_exported_schema_is_in_step(self):
        exported = ROOT / "workflow" / "schemas" / "experiment.schema.json"
        expected = json.dumps(json_schema(), indent=2) + "\n"
        assert exported.read_text() == expected, "run `make schema`"


class TestLeastEffects:
    """They are of claims that the experiment asks."""

    @pytest.mark.parametrize(
        ("claims", "said"), [(["C1", "R1"], "found claims C1, R1"), ([], "found claims none")]
    )
    def test_one_of_another_claim_is_refused(self, tmp_path, claims, said):
        changes = {"claims": claims, "statistics.least": {"C4": 1.0}}
        message = refusal(written(tmp_path, changes))
        assert "statistics.least has 'C4', which claims lacks" in message
        assert said in message
        assert "add it there or remove it here" in message

    @pytest.mark.parametrize("claims", [["C1", "C4"], None])
    def test_one_of_a_chosen_claim_or_of_all_is_right(self, tmp_path, claims):
        changes = {"statistics.least": {"C4": 1.0}} | ({} if claims is None else {"claims": claims})
        assert read_experiment(written(tmp_path, changes)).statistics.least == {"C4": 1.0}


SCALARS = st.sampled_from([None, True, 0, -1, 3, 1.5, float("nan"), float("inf"), "", "sgd", "a/b"])
JUNK = st.recursive(
    SCALARS,
    lambda below: (
        st.lists(below, max_size=2)
        | st.dictionaries(st.sampled_from(["name", "of", "p", "preset", "x", 3]), below, max_size=2)
    ),
    max_leaves=4,
)
PLACES = st.sampled_from(
    [
        *("name", "title", "grid", "grid.methods", "grid.models", "grid.seeds", "recipe"),
        *("recipe.optimizer", "recipe.schedule", "evaluation", "evaluation.orders"),
        *("statistics", "statistics.metrics", "execution", "other"),
    ]
)


@settings(max_examples=300, deadline=None)
@given(PLACES, JUNK, st.booleans())
def test_no_junk_is_answered_with_anything_but_one_line(tmp_path_factory, place, junk, in_method):
    path = tmp_path_factory.mktemp("junk") / "experiment.yaml"
    changes = method(attribution=junk, perturbation=junk) if in_method else {place: junk}
    path.write_text(yaml.safe_dump(changed(changes)))
    try:
        read_experiment(path)
    except ConfigError as error:
        message = str(error)
        assert message.startswith(f"{path}: ")
        assert "\n" not in message
        assert not [word for word in FOREIGN if word in message]


class TestNotices:
    """Too few pairs for any significance is said before anything runs."""

    @staticmethod
    def note(folder, seeds, methods=("baseline", "sgt")):
        path = written(folder, {"grid.seeds": seeds, "grid.methods": list(methods)})
        answer = command("plan", "--config", path)
        assert answer.code == 0
        return answer.err

    def test_the_smallest_p_is_said_where_it_is_too_large(self, tmp_path):
        assert "0.0625" in self.note(tmp_path, 5)  # two of 2⁵ patterns of signs

    def test_nothing_is_said_with_enough_seeds(self, tmp_path):
        assert self.note(tmp_path, 6) == ""

    def test_more_comparisons_need_more_seeds(self, tmp_path):
        methods = ["baseline", "sgt", "challenger"]
        said = self.note(tmp_path, 6, methods)
        assert "0.0312" in said
        assert "0.0625" in said  # after the correction over two comparisons
        assert "at least 7" in said
        assert self.note(tmp_path, 7, methods) == ""

    def test_methods_whose_temperatures_are_paid_for_differently_are_named(self, tmp_path):
        own = {"name": "own", "preset": "sgt", "recipe": {"selection": {"folds": 4}}}
        said = self.note(tmp_path, 6, ["baseline", own])
        assert said.count("\n") == 1
        assert "baseline: validation split" in said
        assert "own: cross-fitting" in said
        assert "temperature scaling" in said

    @pytest.mark.parametrize("selection", [{"folds": 4}, {"held_back": 0.2}, {}])
    def test_of_one_regime_nothing_is_said(self, tmp_path, selection):
        own = {"name": "own", "preset": "sgt", "recipe": {"selection": {"every": 7}}}
        changes = {
            "grid.seeds": 6,
            "grid.methods": ["baseline", own],
            "recipe.selection": selection,
        }
        assert notices(read_experiment(written(tmp_path, changes))) == []

    def test_both_notices_are_said(self, tmp_path):
        own = {"name": "own", "preset": "sgt", "recipe": {"selection": {"held_back": 0.2}}}
        said = self.note(tmp_path, 3, ["baseline", own])
        assert said.count("\n") == 2
        assert "own: held back" in said

    def test_datasets_count_as_clusters(self, tmp_path, monkeypatch):
        monkeypatch.setitem(catalogue.DATASETS, "other", catalogue.DATASETS["digits"])
        path = written(tmp_path, {"grid.seeds": 3, "grid.datasets": ["digits", "other"]})
        assert command("plan", "--config", path).err == ""


@pytest.mark.parametrize("name", ["NA", "null", "None", "nan", "inf", "50", "1e5", "0.5"])
@pytest.mark.parametrize("axis", ["methods", "models", "datasets"])
def test_names_that_tables_would_read_as_numbers_or_missing_are_refused(axis, name, tmp_path):
    made_of = {"methods": {"preset": "sgt"}, "models": {"base": "resnet10-narrow"}}
    entry = {"name": name} | made_of.get(axis, {"base": "digits"})
    first = {"methods": ["baseline"]}.get(axis, [])
    with pytest.raises(ConfigError, match=f"'{name}' would be read from tables"):
        read_experiment(written(tmp_path, {f"grid.{axis}": [*first, entry]}))
