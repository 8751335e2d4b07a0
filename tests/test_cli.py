"""Every step by hand: what it prints, what it writes, and how it ends."""

import re

import pandas as pd
import pytest
import typer
from experiments import DEMO, command, is_finished, planned, written

from attrreg import catalogue, cli
from attrreg.plan import make_plan
from attrreg.records import read_record
from attrreg.statistics import clusters_needed, smallest_visible
from attrreg.statistics.intervals import clusters_for_power

COMMANDS = typer.main.get_command(cli.app).commands
STEPS = {
    *("plan", "prepare", "subset", "train", "evaluate", "collect", "test", "claims"),
    *("draw", "status"),
}
SMALL = {"recipe.steps": 2, "evaluation.gallery": 1, "evaluation.fractions": [0.0, 0.5]}


class Place:
    """An experiment file with folders of its own, and commands on it."""

    def __init__(self, folder, changes=None):
        self.folder, self.data, self.results = folder, folder / "data", folder / "results"
        self.config = written(folder, SMALL | (changes or {}))
        self.plan = planned(SMALL | (changes or {}))
        self.tables = self.results / "tiny" / "tables"

    def __call__(self, name, *arguments):
        """Run a command with the folders that it takes."""
        options = {option for each in COMMANDS[name].params for option in each.opts}
        places = {"--config": self.config, "--results": self.results, "--data": self.data}
        given = [(option, path) for option, path in places.items() if option in options]
        return command(name, *arguments, *(each for pair in given for each in pair))

    def ready(self):
        """Prepare data and draw subsets."""
        assert self("prepare", "--dataset", "digits").code == 0
        for seed in (0, 1):
            assert self("subset", "--dataset", "digits", "--seed", seed).code == 0
        return self


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """An experiment of which every step was run by hand, and what each printed."""
    place = Place(tmp_path_factory.mktemp("done")).ready()
    place.said = {}
    for step in ("train", "evaluate", "collect", "test"):
        place.said[step] = place(step)
        assert place.said[step].code == 0, place.said[step].err
    return place


class TestHelp:
    """Every command says what it does."""

    def test_every_step_of_the_workflow_is_a_command(self):
        assert STEPS | {"methods", "models", "datasets"} <= COMMANDS.keys()

    @pytest.mark.parametrize("name", COMMANDS)
    def test_a_command_explains_itself(self, name):
        answer = command(name, "--help")
        assert answer.code == 0
        assert " ".join(COMMANDS[name].help.split()) in " ".join(answer.out.split())
        for option in (each for each in COMMANDS[name].params if each.opts[0].startswith("--")):
            assert option.opts[0] in answer.out

    def test_an_unknown_command_or_option_is_refused(self):
        assert command("trian").code == 2
        assert command("plan", "--config", DEMO, "--sharts").code == 2
        assert command("plan").code == 2


class TestLists:
    """What there is, from the catalogue."""

    def test_methods_are_listed_with_their_honest_status(self):
        lines = command("methods").out.splitlines()
        for name, entry in catalogue.PRESETS.items():
            [line] = [each for each in lines if each.split()[0] == name]
            assert entry.status in line
            assert entry.composition.objective.name in line
            assert any(entry.source in each for each in lines)
        for control in catalogue.CONTROLS:
            assert f"/{control}" in lines[-1]

    def test_models_are_listed_and_can_be_searched(self):
        shown = command("models").out
        assert all(name in shown for name in catalogue.MODELS)
        found = command("models", "--like", "convnext_atto").out.splitlines()
        expected = [name for name in catalogue.timm_names() if "convnext_atto" in name]
        assert expected
        assert found[-len(expected) :] == expected
        assert "resnet18" not in found

    def test_datasets_are_listed_and_whether_they_are_prepared(self, place):
        def line():
            lines = place("datasets").out.splitlines()
            return next(each for each in lines if each.startswith("digits "))

        before = line()
        for said in ("image", "10 classes", "1×8×8", "pool 1077", "CC BY 4.0", "not prepared"):
            assert said in before
        place("prepare", "--dataset", "digits")
        assert "not prepared" not in line()


class TestPlan:
    """The grid, the number of runs and processes."""

    def test_it_says_how_much_will_run(self, place):
        answer = place("plan")
        assert answer.code == 0
        assert "2 cells, 4 runs in 1 processes" in answer.out
        assert "RelDrop block" in answer.out

    def test_a_reconstruction_is_called_one(self, tmp_path):
        place = Place(tmp_path, {"grid.methods": ["baseline", "challenger"]})
        assert "Challenger (reconstruction)" in place("plan").out

    def test_it_says_what_the_design_can_show_and_what_it_would_take(self, tmp_path):
        changes = {
            "grid.methods": ["baseline", "sgt", "challenger", "random-erasing"],
            "grid.seeds": 6,
        }
        said = Place(tmp_path, changes)("plan").out
        seen = [smallest_visible(6, spread, 0.05, 3) for spread in (1.0, 2.0, 4.0)]
        needed = [clusters_for_power(2 / spread, 0.05 / 3) for spread in (1.0, 2.0, 4.0)]
        numbers = re.search(r"a true difference of ([\d., ]+) points.* about ([\d, or]+) clu", said)
        shown = [float(each) for each in numbers[1].split(", ")]
        assert shown == pytest.approx(seen, abs=0.051)
        for each, exact in zip(re.findall(r"\d+", numbers[2]), needed, strict=True):
            assert abs(int(each) - max(exact, clusters_needed(0.05, 3))) <= 1
        assert f"6 clusters (dataset, seed); {clusters_needed(0.05, 3)} or more" in said

    def test_shards_can_be_listed(self, tmp_path):
        place = Place(tmp_path, {"grid.methods": ["baseline", "sgt"], "grid.seeds": 8})
        answer = place("plan", "--shards")
        for shard in place.plan.shards:
            assert re.search(rf"{shard.name}\s+{len(shard.runs)} runs", answer.out)

    def test_only_what_the_design_cannot_show_goes_to_stderr(self, tmp_path):
        place = Place(tmp_path, {"grid.seeds": 8})
        assert place("plan").err == ""

    def test_nothing_is_written(self, place):
        before = sorted(place.folder.rglob("*"))
        place("plan", "--shards")
        place("status")
        assert sorted(place.folder.rglob("*")) == before


class TestOrder:
    """A step before its time says what to run first, in one line, with exit code 2."""

    @staticmethod
    def refused(answer):
        assert answer.code == 2
        assert answer.err.startswith("attrreg: ")
        assert answer.err.count("\n") == 1
        return answer.err

    def test_training_without_data(self, place):
        assert "attrreg prepare --dataset digits" in self.refused(place("train"))

    def test_training_without_subsets(self, place):
        place("prepare", "--dataset", "digits")
        assert "attrreg subset --dataset digits --seed 0" in self.refused(place("train"))

    def test_a_subset_without_data(self, place):
        said = self.refused(place("subset", "--dataset", "digits", "--seed", 0))
        assert "attrreg prepare --dataset digits" in said

    def test_a_test_without_tables(self, place):
        assert f"attrreg collect --config {place.config}" in self.refused(place("test"))

    @pytest.mark.parametrize("figure", catalogue.FIGURES)
    def test_a_figure_without_tables(self, place, figure):
        assert re.search(r"`attrreg (collect|test)", self.refused(place("draw", figure)))

    def test_an_unknown_shard(self, place):
        name = place.plan.shards[0].name
        said = self.refused(place("train", "--shard", f"{name}1"))
        assert f"did you mean {name!r}?" in said
        assert self.refused(place("evaluate", "--shard", f"{name}1")) == said

    def test_an_unknown_dataset(self, place):
        assert "did you mean 'digits'?" in self.refused(place("prepare", "--dataset", "digit"))

    def test_an_unknown_figure(self, done):
        assert "known are" in self.refused(done("draw", "acuracy-by-train-size"))

    def test_a_gpu_that_is_not_there(self, tmp_path, monkeypatch):
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
        place = Place(tmp_path, {"execution.device": "cuda"})
        assert "use 'auto' or 'cpu'" in self.refused(place("train"))

    def test_a_place_that_cannot_be_written(self, place):
        place.ready()
        place.results.write_text("a file")
        answer = place("train")
        assert answer.code == 1
        assert answer.err.count("\n") == 1


class TestSteps:
    """From data to tables, by hand."""

    def test_training_says_what_became_of_each_run(self, done):
        for run in done.plan.runs:
            assert f"{run.name}: made" in done.said["train"].out
            assert f"{run.name}: made" in done.said["evaluate"].out
            assert is_finished(done.results / "tiny" / "runs" / run.path)
            assert is_finished(done.results / "tiny" / "scores" / run.path)

    def test_again_does_nothing(self, done):
        for step in ("train", "evaluate"):
            answer = done(step)
            assert answer.out.count(": kept") == len(done.plan.runs)
            assert "made" not in answer.out

    def test_status_says_how_far_it_is(self, done):
        answer = done("status", "--strict")
        assert answer.code == 0
        assert answer.out.startswith("tiny: 4 of 4 runs trained, 4 evaluated, 0 failed\n")

    def test_tables_have_a_row_per_run_and_metric_and_per_comparison(self, done):
        metrics = pd.read_csv(done.tables / "metrics.csv")
        tests = pd.read_csv(done.tables / "tests.csv")
        assert len(metrics) == 4 * metrics.metric.nunique()
        assert set(tests.method) == {"reldrop-block"}
        assert set(tests.reference) == {"baseline"}
        protocol = done.plan.experiment.evaluation
        assert set(tests.metric) == set(protocol.tested())
        assert set(tests.metric) < set(metrics.metric) < set(protocol.metrics())
        assert set(tests.verdict) == {"undecided"}  # two pairs decide nothing

    def test_the_tables_say_of_which_experiment_they_are(self, done):
        assert (done.tables / "experiment.yaml").read_text() == done.config.read_text()

    def test_a_figure_is_drawn_from_tables_alone(self, done, tmp_path):
        arguments = ("--tables", done.tables, "--target", tmp_path)
        answer = done("draw", "accuracy-by-train-size", *arguments)
        assert answer.code == 0
        assert {path.suffix for path in tmp_path.iterdir()} == {".svg", ".png", ".pdf"}
        assert not (done.results / "tiny" / "figures").exists()

    @pytest.mark.parametrize("step", ["train", "evaluate"])
    def test_a_stamp_is_written_when_the_shard_has_ended_and_not_before(self, done, place, step):
        for each, expected in ((done, True), (place, False)):  # the other one has no data
            stamp = each.folder / "stamps" / f"{step}.txt"
            each(step, "--shard", each.plan.shards[0].name, "--stamp", stamp)
            assert stamp.is_file() == expected


class TestFailure:
    """A run that fails leaves everything else, a reason, and exit code 3 where it is asked for."""

    @pytest.fixture
    def failed(self, tmp_path):
        rates = {"recipe.optimizer": {"name": "sgd", "learning_rate": 1e30}}
        place = Place(tmp_path, {**rates, "recipe.steps": 6}).ready()
        place.answer = place("train")
        return place

    def test_the_step_itself_ends_well(self, failed):
        assert failed.answer.code == 0
        assert failed.answer.out.count(": failed") == 4
        assert failed("evaluate").code == 0
        assert failed("collect").code == 0
        assert len(pd.read_csv(failed.tables / "failures.csv")) == 4

    def test_status_names_failures_and_strictly_ends_with_3(self, failed):
        answer = failed("status")
        assert answer.code == 0
        assert "0 of 4 runs trained, 0 evaluated, 4 failed" in answer.out
        for run in failed.plan.runs:
            assert f"failed in training: {run.name}: Diverged" in answer.out
        assert failed("status", "--strict").code == 3

    def test_it_is_tried_again_when_asked(self, failed, monkeypatch):
        assert failed("train").out.count(": failed before") == 4
        assert failed("train", "--retry-failed").out.count(": failed\n") == 4
        monkeypatch.setenv("ATTRREG_RETRY_FAILED", "1")
        assert failed("train").out.count(": failed\n") == 4

    def test_another_recipe_needs_no_asking(self, failed):
        failed.config = written(failed.folder, SMALL)
        assert failed("train").out.count(": made") == 4
        [run, *_] = make_plan(failed.plan.experiment).runs
        assert read_record(failed.results / "tiny" / "runs" / run.path)["status"] == "finished"
