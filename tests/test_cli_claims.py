"""Claims and comparisons by hand: on a whole experiment, on a part of one, and on none."""

import shutil

import pandas as pd
import pytest
import yaml
from experiments import ROOT, command, planned, prepare_data, written

from attrreg.claims.verdicts import VERDICTS
from attrreg.claims.writing import FORMATS, read_answers

CLAIMS = ROOT / "configs" / "claims.yaml"
CHANGES = {
    "grid.methods": ["baseline", "challenger", "challenger/swapped"],
    "recipe.steps": 1,
    "evaluation.fractions": [0.0, 0.5],
    "evaluation.gallery": 1,
    "evaluation.measures": ["training"],
    "evaluation.orders": ["random-block", "neutral-most-relevant-first"],
    "claims": ["C1", "C2", "C5"],
}


class Place:
    """An experiment file, and commands on it."""

    def __init__(self, folder, **changes):
        self.folder, self.results = folder, folder / "results"
        self.config = written(folder, CHANGES | changes)
        self.plan = planned(CHANGES | changes)
        self.tables = self.plan.folder(self.results) / "tables"

    def __call__(self, name, *arguments):
        return command(name, "--config", self.config, "--results", self.results, *arguments)

    def claims(self, declared=CLAIMS):
        return self("claims", "--claims", declared)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """An experiment that is trained, evaluated and collected."""
    place = Place(tmp_path_factory.mktemp("whole"))
    data = prepare_data(place.folder / "data")
    for step in ("train", "evaluate"):
        assert place(step, "--data", data).code == 0
    assert place("collect").code == 0
    return place


@pytest.fixture
def copied(done, tmp_path):
    """A copy that may be harmed."""
    place = Place(tmp_path)
    shutil.copytree(done.results, place.results, ignore=shutil.ignore_patterns("claims.*"))
    return place


def lost(place, runs):
    """Take the scores of some runs away, and collect what is left."""
    for run in runs:
        shutil.rmtree(place.results / "tiny" / "scores" / run.path)
    assert place("collect").code == 0


class TestWhole:
    """Every run is there."""

    def test_claims_are_answered_in_every_form(self, done):
        answer = done.claims()
        assert answer.code == 0, answer.err
        for suffix in FORMATS:
            assert (done.tables / f"claims{suffix}").read_text()
        found = read_answers(done.tables / "claims.csv")
        answers = found[found.role == "answer"].set_index("id")
        assert set(answers.index) == {"C1", "C2", "C5"}
        assert set(answers.verdict) <= set(VERDICTS)
        assert answers.verdict["C1"] == answers.verdict["C2"] == "undecided"  # of two clusters
        assert str(done.tables / "claims") in answer.out
        assert (done.tables / "claims.txt").read_text().strip() in answer.out

    def test_a_claim_of_another_size_was_not_run_and_says_what_is_missing(self, done):
        done.claims()
        found = read_answers(done.tables / "claims.csv").set_index("id")
        assert found.verdict["C5"] == "not run"
        assert "2000" in found.reason["C5"]

    def test_methods_are_compared_on_everything_that_is_tested(self, done):
        answer = done("test")
        assert answer.code == 0, answer.err
        tests = pd.read_csv(done.tables / "tests.csv")
        assert set(tests.metric) == set(done.plan.experiment.evaluation.tested())
        assert set(tests.method) == {"challenger", "challenger/swapped"}
        assert (tests.n_missing == 0).all()

    def test_again_gives_the_same_bytes(self, done):
        done.claims()
        before = {path: path.read_bytes() for path in done.tables.glob("claims*")}
        done.claims()
        assert before == {path: path.read_bytes() for path in done.tables.glob("claims*")}
        assert len(before) == len(FORMATS)

    def test_without_a_choice_all_claims_are_answered(self, copied):
        content = yaml.safe_load(copied.config.read_text())
        del content["claims"]
        copied.config.write_text(yaml.safe_dump(content))
        assert copied.claims().code == 0
        found = read_answers(copied.tables / "claims.csv")
        declared = yaml.safe_load(CLAIMS.read_text())["claims"]
        assert set(found.id) == {each["id"] for each in declared}

    def test_another_least_effect_makes_an_answer_exploratory(self, copied):
        content = yaml.safe_load(copied.config.read_text())
        content.setdefault("statistics", {})["least"] = {"C1": 7.5}
        copied.config.write_text(yaml.safe_dump(content))
        assert copied.claims().code == 0
        answers = read_answers(copied.tables / "claims.csv").query("role == 'answer'")
        answers = answers.set_index("id")
        assert answers.least["C1"] == 7.5
        assert answers.status.to_dict() == {
            "C1": "exploratory: declared with 5 %",
            "C2": "declared",
            "C5": "declared",
        }


class TestPart:
    """Runs are missing: they are named, and what is left is used."""

    def test_missing_runs_are_named(self, copied):
        [run] = [each for each in copied.plan.runs if (each.method, each.seed) == ("challenger", 1)]
        lost(copied, [run])
        name = "digits/resnet10-narrow/challenger/n20/s1"
        assert copied("test").code == 0
        tests = pd.read_csv(copied.tables / "tests.csv")
        own = tests[tests.method == "challenger"]
        assert set(own.missing) == {name}
        assert (own.n_failed == 0).all()  # it was not made, which is no failure
        others = tests[(tests.method != "challenger") & (tests.reference == "baseline")]
        assert others.missing.isna().all()
        assert copied.claims().code == 0
        found = read_answers(copied.tables / "claims.csv")
        assert name in found[(found.id == "C1") & (found.role == "answer")].missing.item()

    def test_a_method_that_is_missing_whole(self, copied):
        lost(copied, [run for run in copied.plan.runs if run.method == "challenger/swapped"])
        assert copied("test").code == 0
        tests = pd.read_csv(copied.tables / "tests.csv").set_index(["method", "metric"])
        assert (tests.loc["challenger/swapped"].n_clusters == 0).all()
        with_baseline = tests.loc["challenger"].query("reference == 'baseline'")
        assert (with_baseline.n_clusters == 2).all()
        assert copied.claims().code == 0
        answers = read_answers(copied.tables / "claims.csv").query("role == 'answer'")
        said = answers.set_index("id").reason["C1"]
        assert answers.set_index("id").verdict["C1"] == "not run"
        assert "swapped" in said

    def test_without_neutral_runs_what_needs_them_is_not_compared_and_all_else_is(
        self, done, tmp_path
    ):
        """The grid lacks the neutral method, so that no run has the metrics of its map."""
        name = "occlusion-neutral-most-relevant-first"
        place = Place(tmp_path, **{"evaluation.neutral": "sgt"})
        shutil.copytree(done.results / "tiny" / "runs", place.results / "tiny" / "runs")
        assert place("evaluate", "--data", done.folder / "data").code == 0
        assert place("collect").code == 0
        assert name not in set(pd.read_csv(place.tables / "metrics.csv").metric)
        answer = place("test")
        assert answer.code == 0, answer.err
        assert name in answer.out + answer.err
        tests = pd.read_csv(place.tables / "tests.csv")
        expected = place.plan.experiment.evaluation.tested()
        assert set(tests[tests.n_clusters > 0].metric) == set(expected) - {name}

    def test_where_no_run_is_there(self, tmp_path):
        place = Place(tmp_path)
        assert place("collect").code == 0
        assert place("test").code == 0
        assert place.claims().code == 0
        answers = read_answers(place.tables / "claims.csv")
        assert set(answers.verdict) == {"not run"}
        assert set(answers.id) == {"C1", "C2", "C5"}


class TestRefused:
    """One line, exit code 2, and nothing is written."""

    @staticmethod
    def refused(place, answer):
        assert answer.code == 2
        assert answer.err.startswith("attrreg: ")
        assert answer.err.count("\n") == 1
        assert not list(place.tables.glob("claims.*"))
        return answer.err

    @pytest.mark.parametrize("step", ["claims", "test"])
    def test_before_anything_is_collected(self, tmp_path, step):
        place = Place(tmp_path)
        more = ("--claims", CLAIMS) if step == "claims" else ()
        said = self.refused(place, place(step, *more))
        assert f"attrreg collect --config {place.config}" in said

    def test_claims_that_are_not_there(self, copied):
        absent = copied.folder / "absent.yaml"
        assert str(absent) in self.refused(copied, copied.claims(absent))

    def test_claims_with_a_mistake(self, copied):
        wrong = copied.folder / "claims.yaml"
        wrong.write_text(CLAIMS.read_text().replace("methods: [challenger]", "method: sgt", 1))
        said = self.refused(copied, copied.claims(wrong))
        assert str(wrong) in said
        assert "'method'" in said or "methods" in said

    def test_a_choice_of_a_claim_that_is_not_declared(self, copied):
        copied.config = written(copied.folder, CHANGES | {"claims": ["C1", "D7"]})
        assert "'D7'" in self.refused(copied, copied.claims())

    def test_tables_of_another_experiment(self, copied):
        """They have a dataset that the file does not know."""
        path = copied.tables / "metrics.csv"
        pd.read_csv(path).assign(dataset="other").to_csv(path, index=False)
        assert "other" in self.refused(copied, copied.claims())

    def test_a_least_effect_of_a_claim_that_is_not_asked(self, copied):
        content = yaml.safe_load(copied.config.read_text())
        content.setdefault("statistics", {})["least"] = {"C4": 1.0}
        copied.config.write_text(yaml.safe_dump(content))
        assert "'C4'" in self.refused(copied, copied.claims())
