"""What is published can be read and drawn by others, and comes into place as a whole."""

import shutil

import pytest
from experiments import command, planned, prepare_data, written

CHANGES = {
    "grid.methods": ["baseline", "challenger"],
    "recipe.steps": 1,
    "evaluation.fractions": [0.0, 0.5],
    "evaluation.gallery": 1,
    "evaluation.measures": [],
    "evaluation.orders": ["random-block"],
    "figures": ["accuracy-by-train-size"],
    "claims": ["C1"],
}


class Place:
    """An experiment file, and commands on it."""

    def __init__(self, folder):
        self.results, self.config = folder / "results", written(folder, CHANGES)
        self.folder = planned(CHANGES).folder(self.results)
        self.published = self.results / "published" / self.folder.name

    def __call__(self, name, *arguments):
        return command(name, "--config", self.config, "--results", self.results, *arguments)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """An experiment that is trained, evaluated, tested, answered and drawn."""
    folder = tmp_path_factory.mktemp("whole")
    place, data = Place(folder), prepare_data(folder / "data")
    for step in ("train", "evaluate"):
        assert place(step, "--data", data).code == 0
    for step in ("collect", "test", "claims", "draw"):
        assert place(step).code == 0
    return place


@pytest.fixture
def place(done, tmp_path):
    """A copy that may be harmed."""
    copied = Place(tmp_path)
    shutil.copytree(done.results, copied.results)
    return copied


def test_tables_and_figures_are_those_of_the_experiment_and_runs_stay_behind(place):
    answer = place("publish")
    assert answer.code == 0, answer.err
    assert str(place.published / "README.md") in answer.out
    assert {path.name for path in place.published.iterdir()} == {"README.md", "tables", "figures"}
    tables = {path.name for path in (place.published / "tables").iterdir()}
    of_experiment = {path.name for path in (place.folder / "tables").iterdir()}
    assert tables == of_experiment - {"history.csv"}
    for name in tables:
        path = place.folder / "tables" / name
        assert (place.published / "tables" / path.name).read_bytes() == path.read_bytes()
    assert [path.name for path in (place.published / "figures").iterdir()] == [
        "accuracy-by-train-size.svg"
    ]


def test_the_readme_says_what_was_run_on_what_and_what_follows(place):
    place("publish")
    said = (place.published / "README.md").read_text()
    runs = len(planned(CHANGES).runs)
    assert f"{runs} of {runs} runs finished" in said
    assert "torch" in said
    assert "cpu, float32" in said
    assert (place.folder / "tables" / "claims.txt").read_text().strip() in said
    assert "figures/accuracy-by-train-size.svg" in said


def test_others_draw_it_again_to_the_byte(place):
    place("publish")
    again = place.results / "again"
    config = place.published / "tables" / "experiment.yaml"
    results = place.results / "published"
    assert command("draw", "--config", config, "--results", results, "--target", again).code == 0
    [path] = again.glob("*.svg")
    assert path.read_bytes() == (place.published / "figures" / path.name).read_bytes()


def test_again_takes_the_place_of_what_was_published(place):
    place("publish")
    (place.published / "tables" / "old.csv").write_text("old")
    (place.folder / "tables" / "more.csv").write_text("more")
    assert place("publish").code == 0
    assert not (place.published / "tables" / "old.csv").exists()
    assert (place.published / "tables" / "more.csv").read_text() == "more"
    assert [path.name for path in place.published.parent.iterdir()] == [place.folder.name]


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        ("tables/metrics.csv", "attrreg collect"),
        ("tables/tests.csv", "attrreg test"),
        ("tables/claims.txt", "attrreg claims"),
        ("figures/accuracy-by-train-size.svg", "attrreg draw"),
    ],
)
def test_what_is_missing_is_named_and_nothing_is_published(place, lost, said):
    (place.folder / lost).unlink()
    answer = place("publish")
    assert answer.code == 2
    assert lost in answer.err
    assert said in answer.err
    assert not place.published.exists()


@pytest.mark.parametrize(
    "names",
    [
        ["thesis.tex"],
        ["README.md", "setup.py"],
        ["README.md", "tables/experiment.yaml", "figures/a.svg", "notes.txt"],
        ["README.md", "tables/other.csv", "figures/a.svg"],
    ],
)
def test_a_folder_of_something_else_is_left_alone(place, names):
    """Also a checkout, which has a README, too."""
    for name in names:
        path = place.published / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    answer = place("publish")
    assert answer.code == 2
    assert "was not published" in answer.err
    found = [path for path in place.published.rglob("*") if path.is_file()]
    assert {path.relative_to(place.published).as_posix() for path in found} == set(names)
    assert all(path.read_text() == "mine" for path in found)


@pytest.mark.parametrize("target", ["tiny", "tiny/tables/x", ".", ".."])
def test_the_experiment_itself_is_never_replaced(place, target):
    before = sorted(place.results.rglob("*"))
    answer = place("publish", "--target", place.results / target)
    assert answer.code == 2
    assert "outside" in answer.err
    assert sorted(place.results.rglob("*")) == before
