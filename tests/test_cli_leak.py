"""The command `attrreg leak`: what it prints and writes, and how it refuses."""

import csv
import re

import pytest
from experiments import command, prepare_data

from attrreg import cli
from attrreg.evaluation import leak, leak_readings

SHORT = ("--train-size", 20, "--steps", 2, "--draws", 2)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare_data(tmp_path_factory.mktemp("data"), seeds=[0])


@pytest.fixture(autouse=True)
def _short_probes(monkeypatch):
    def short(*masks, **options):
        return leak.probe(*masks, **options | {"steps": 3})

    monkeypatch.setattr(leak_readings, "probe", short)


def asked(data, method, *arguments, dataset="digits"):
    given = ("--method", method, "--dataset", dataset, "--data", data, *SHORT)
    return command("leak", *given, *arguments)


def refused(answer):
    assert answer.code == 2
    assert answer.out == ""
    assert answer.err.startswith("attrreg: ")
    assert answer.err.count("\n") == 1
    return answer.err


def test_it_prints_a_table_and_sentences_and_writes_the_same_numbers(data, tmp_path):
    output = tmp_path / "new" / "leak.csv"
    answer = asked(data, "reldrop-block", "--output", output)
    assert answer.code == 0
    assert "the masks of reldrop-block\n" in answer.out
    assert "trained by reldrop-block on 20 images for 2 steps, seed 0" in answer.out
    with output.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3
    for row in rows:
        accuracy, low, high, chance = (
            100 * float(row[name]) for name in ("accuracy", "low", "high", "chance")
        )
        assert re.search(
            rf"{row['explained']} +{row['read']} +{accuracy:.1f} % +{low:.1f} … {high:.1f} % "
            rf"+{chance:.1f} %",
            answer.out,
        )
        assert row["method"] == "reldrop-block"
        assert (row["masks"], row["images"]) == ("720", "360")
    *sentences, last = answer.out.splitlines()[-4:]
    assert all(each.startswith(("the masks tell", "no leak found")) for each in sentences)
    assert last == f"wrote {output}"
    assert [path.name for path in output.parent.iterdir()] == ["leak.csv"]


def test_without_an_output_nothing_is_written(data):
    before = sorted(data.rglob("*"))
    assert asked(data, "random-erasing").code == 0
    assert sorted(data.rglob("*")) == before


def test_the_model_can_be_trained_by_another_method(data):
    answer = asked(data, "sgt", "--trained-by", "baseline")
    assert "the masks of sgt\n" in answer.out
    assert "trained by baseline on 20 images" in answer.out


def test_a_smooth_method_says_that_sizes_are_seen(data):
    assert "it sees how much each feature is changed" in asked(data, "challenger").out
    assert "it sees which features are changed" in asked(data, "sgt").out


def test_the_baseline_has_no_masks(data):
    assert "'baseline' changes no input" in refused(asked(data, "baseline"))


def test_unknown_names_are_answered_with_the_nearest(data):
    assert "did you mean 'reldrop-block'?" in refused(asked(data, "reldrop-blok"))
    assert "did you mean 'digits'?" in refused(asked(data, "sgt", dataset="digit"))
    assert "did you mean 'baseline'?" in refused(asked(data, "sgt", "--trained-by", "baselin"))
    said = refused(asked(data, "sgt", "--model", "resnet10-narow"))
    assert "did you mean 'resnet10-narrow'?" in said


def test_what_is_missing_says_which_command_makes_it(data, tmp_path):
    assert "attrreg prepare --dataset digits" in refused(asked(tmp_path, "sgt"))
    said = refused(asked(data, "sgt", "--seed", 7))
    assert "attrreg subset --dataset digits --seed 7" in said


def test_a_model_trained_on_the_whole_pool_leaves_nothing_for_the_probe(data):
    assert "give 10 to 1067" in refused(asked(data, "sgt", "--train-size", 1077))


def test_a_control_without_ground_truth_is_refused(data):
    assert "'oracle' needs the ground-truth region" in refused(asked(data, "sgt/oracle"))


def test_progress_is_said_on_stderr_once_in_a_while(monkeypatch, capsys):
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    report = cli._patience(5.0)
    for now in (1.0, 4.0, 5.0, 6.0, 12.0):
        report("masks", int(now), 12)
    assert capsys.readouterr() == ("", "masks: 5 of 12\nmasks: 12 of 12\n")
