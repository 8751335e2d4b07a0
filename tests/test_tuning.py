"""Tuning is fair: as many trials for every method, on the validation split, and it goes on."""

import csv
import json
import shutil
import statistics
from contextlib import contextmanager

import jinja2
import jsonschema
import pytest
import torch
import yaml
from docutils.core import publish_parts
from experiments import ROOT, changed, command, planned, prepare_data, written
from safetensors.torch import load_file

from attrreg import cli, tuning
from attrreg.config import Experiment, json_schema, read_experiment
from attrreg.data.sources import read_held_out, read_pool
from attrreg.evaluation.predict import predict
from attrreg.execution import Execution
from attrreg.objective import Loss
from attrreg.plan import make_plan
from attrreg.training import runs
from attrreg.training.runs import build_model, resident_or_streaming, train_shard
from attrreg.tuned import chosen, quoted, studies, tuned_content
from attrreg.tuning_settings import Trial
from attrreg.tuning_settings import changed as with_values

CPU, STEPS = torch.device("cpu"), 3
RATE = "recipe.optimizer.learning_rate"
SPACE = {RATE: {"low": 0.005, "high": 0.5}, "perturbation.p": [0.1, 0.3]}
TUNING = {"trials": 6, "seeds": [5, 6, 7], "reduction": 2, "space": SPACE}
METHODS = ["baseline", "reldrop-block"]


def experiment(**settings):
    """The tiny experiment with a section tuning, some of whose settings are replaced."""
    return Experiment.model_validate(changed({"tuning": {**TUNING, **settings}}))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The digits without their test split, so that nothing can read it, and without orders."""
    folder = prepare_data(tmp_path_factory.mktemp("data"), seeds=())
    for path in (folder / "digits" / "arrays").glob("test_*.npy"):
        path.unlink()
    return folder


def tuned(folder, data, given=None, only=slice(None)):
    """Tune, and return the trials of each method."""
    given = given or experiment()
    found = tuning.tune(studies(given)[only], folder, data, CPU, given.execution)
    return {study.run.method: trials for study, trials in found}


@pytest.fixture(scope="module")
def once(tmp_path_factory, data):
    """The trials of an undisturbed tuning by method, and its folder."""
    folder = tmp_path_factory.mktemp("once")
    return tuned(folder, data), folder


def tables(folder):
    """The tables of all methods, without the seconds."""
    found = {}
    for path in sorted(folder.rglob("*.csv")):
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        found[path.stem] = [{**row, "seconds": float(row["seconds"]) > 0} for row in rows]
    return found


def dying(work, at):
    """A function that works, and the n-th time ends the process, so to speak."""
    calls = iter(range(at - 1))

    def attempt(*arguments):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return work(*arguments)

    return attempt


class TestFair:
    """No method gets more than another, and none sees more than it may."""

    def test_every_method_has_as_many_trials_with_the_same_budget(self, once):
        trials, folder = once
        assert list(trials) == METHODS
        assert list(tables(folder)) == METHODS
        for found in trials.values():
            assert [each.number for each in found] == list(range(6))
            for each in found:
                seeds = {"finished": [3], "pruned": [1, 2]}[each.state]
                assert len(each.scores) in seeds
                assert each.steps == STEPS * len(each.scores)

    def test_some_trials_are_pruned_and_stop_early(self, once):
        states = {each.state for found in once[0].values() for each in found}
        assert states == {"finished", "pruned"}

    def test_the_first_trial_has_the_methods_own_values_and_is_never_pruned(self, once):
        assert once[0]["baseline"][0].values == {RATE: 0.05}
        assert once[0]["reldrop-block"][0].values == {RATE: 0.05, "perturbation.p": 0.5}
        assert {found[0].state for found in once[0].values()} == {"finished"}

    def test_what_is_random_in_the_recipe_is_drawn_alike_for_all_methods(self, once):
        first, second = ([each.values[RATE] for each in once[0][name]] for name in METHODS)
        assert first == second
        assert len(set(first)) == 6

    def test_own_values_join_a_list_that_lacks_them(self):
        domains = {each.run.method: each.domains for each in studies(experiment())}
        assert domains["reldrop-block"]["perturbation.p"] == (0.1, 0.3, 0.5)
        assert "perturbation.p" not in domains["baseline"]

    def test_a_trial_is_a_run_of_an_experiment_judged_on_the_validation_split(
        self, once, data, tmp_path
    ):
        run = studies(experiment())[1].run
        assert set(train_shard([run], tmp_path, data, CPU).values()) == {"made"}
        model = build_model(run, CPU)
        model.load_state_dict(load_file(tmp_path / "runs" / run.path / "weights.safetensors"))
        pool, split = read_pool(data, "digits"), read_held_out(data, "digits", ["validation"])
        images = resident_or_streaming(
            CPU, Execution(), pool, split["validation"]._replace(x=_copied(split["validation"].x))
        )
        x, y = images.batch(torch.arange(len(images)))
        hits = (predict(model, x).argmax(1) == y).double().mean()
        assert once[0][run.method][0].scores[0][0] == hits

    def test_the_length_is_that_of_the_tuning_for_methods_with_one_of_their_own(self):
        own = {"name": "long", "preset": "baseline", "recipe": {"epochs": 900}}
        settings = {**TUNING, "steps": 7, "space": {RATE: SPACE[RATE]}}
        given = changed({"grid.methods": ["baseline", own], "tuning": settings})
        found = studies(Experiment.model_validate(given))
        assert {each.run.recipe.total_steps(20) for each in found} == {7}
        assert {each.run.recipe.epochs for each in found} == {None}

    def test_seeds_size_and_length_have_defaults_outside_of_the_grid(self):
        given = changed({"grid.train_sizes": [30, 20], "tuning": {"space": SPACE}})
        resolved = studies(Experiment.model_validate(given))[0].tuning
        assert (resolved.train_size, resolved.seeds, resolved.steps) == (20, [2, 3, 4], STEPS)

    def test_trials_are_compared_after_some_seeds(self):
        assert studies(experiment())[0].rungs == (1, 2)
        assert studies(experiment(seeds=[5], reduction=3))[0].rungs == ()
        assert studies(experiment(seeds=list(range(5, 14)), reduction=3))[0].rungs == (1, 3)


def _copied(array):
    return array.copy()


class TestBest:
    """The best of the trials that reached the end; the finer metric decides between equals."""

    TRIALS = (
        Trial(0, {}, scores=[(0.5, 1.0), (0.7, 1.0)]),
        Trial(1, {}, scores=[(0.6, 0.9), (0.6, 0.9)]),
        Trial(2, {}, scores=[(0.6, 0.9), (0.6, 0.9)]),
        Trial(3, {}, scores=[(0.4, 0.2), (0.4, 0.2)]),
        Trial(4, {}, "pruned", scores=[(0.9, 0.1)]),
        Trial(5, {}, "failed"),
    )

    def test_by_accuracy(self):
        assert studies(experiment())[0].best(self.TRIALS).number == 1

    def test_by_likelihood(self):
        assert studies(experiment(metric="nll"))[0].best(self.TRIALS).number == 3

    def test_there_is_none_without_a_finished_one(self):
        assert studies(experiment())[0].best(self.TRIALS[4:]) is None


class TestGoesOn:
    """What is in the table is not made again, and nothing else decides how a study goes on."""

    def test_the_same_seeds_give_the_same_trials(self, once, data, tmp_path):
        tuned(tmp_path, data)
        assert tables(tmp_path) == tables(once[1])

    @pytest.mark.parametrize("at", [1, 5, 9])
    def test_a_killed_tuning_repeats_nothing_and_ends_alike(
        self, at, once, data, tmp_path, monkeypatch
    ):
        work, made = tuning._Work.trial, []
        with monkeypatch.context() as patch:
            patch.setattr(tuning._Bench, "score", dying(tuning._Bench.score, at))
            with pytest.raises(KeyboardInterrupt):
                tuned(tmp_path, data)
        stored = sum(map(len, tables(tmp_path).values()))

        def counted(self, number, before):
            made.append(number)
            return work(self, number, before)

        monkeypatch.setattr(tuning._Work, "trial", counted)
        tuned(tmp_path, data)
        assert stored + len(made) == 12
        assert stored == 0 if at == 1 else stored > 0
        assert tables(tmp_path) == tables(once[1])

    def test_more_trials_add_to_those_that_are_there_and_fewer_take_the_first(
        self, once, data, tmp_path
    ):
        shutil.copytree(once[1] / "tuning", tmp_path / "tuning")
        before = tables(tmp_path)["baseline"]
        assert len(tuned(tmp_path, data, experiment(trials=4), slice(1))["baseline"]) == 4
        assert tables(tmp_path)["baseline"] == before
        assert len(tuned(tmp_path, data, experiment(trials=7), slice(1))["baseline"]) == 7
        assert tables(tmp_path)["baseline"][:6] == before

    def test_another_space_starts_anew(self, once, data, tmp_path, monkeypatch):
        shutil.copytree(once[1] / "tuning", tmp_path / "tuning")
        space = {RATE: {"low": 0.005, "high": 0.4}}
        tuned(tmp_path, data, experiment(space=space, trials=2), slice(1))
        after = tables(tmp_path)["baseline"]
        assert len(after) == 2
        assert after[0]["digest"] != tables(once[1])["baseline"][0]["digest"]

    def test_a_signal_ends_it_after_a_step_and_says_how_it_goes_on(
        self, data, tmp_path, monkeypatch
    ):
        @contextmanager
        def listening():
            steps = iter(range(100))
            yield lambda: "SIGTERM" if next(steps) == 10 else ""

        monkeypatch.setattr(tuning, "listening", listening)
        config = written(tmp_path, {"tuning": TUNING})
        answer = command("tune", "--config", config, "--results", tmp_path, "--data", data)
        assert answer.code == cli.INTERRUPTED
        assert "SIGTERM: the trials of baseline before this one, 1, are stored" in answer.err
        assert len(tables(tmp_path)["baseline"]) == 1


class Broken:
    """A method that cannot be trained."""

    def loss(self, *arguments, **named):
        raise RuntimeError("no such\noperation")


class Infinite:
    """A method whose loss is not a number."""

    def loss(self, model, x, y, **named):
        return Loss(model(x).sum() * torch.nan, {})


class TestFailures:
    """A trial that fails is a trial."""

    def test_a_diverged_trial_counts_and_says_why(self, data, tmp_path, monkeypatch):
        build = runs.build
        made = []

        def sometimes(composition):
            made.append(composition)
            return Infinite() if len(made) == 4 else build(composition)

        monkeypatch.setattr("attrreg.training.runs.build", sometimes)
        found = tuned(tmp_path, data, only=slice(1))["baseline"]
        assert [each.state for each in found].count("failed") == 1
        assert len(found) == 6
        assert found[1].state == "failed"
        assert found[1].message.startswith("Diverged: the mean loss of steps 1 to 2 is nan")
        assert 0 < found[1].steps < STEPS
        assert tuned(tmp_path, data, only=slice(1))["baseline"] == found

    def test_values_that_do_not_fit_together_fail_without_a_step(self, data, tmp_path):
        given = experiment(space={**SPACE, "perturbation.patches": [2, 3]})
        found = tuned(tmp_path, data, given, slice(1, 2))["reldrop-block"]
        failed = [each for each in found if each.values["perturbation.patches"] > 1]
        assert failed
        assert {(each.state, each.steps) for each in failed} == {("failed", 0)}
        assert "need as many distinct centres" in failed[0].message

    def test_a_method_of_which_every_trial_fails_keeps_its_values(
        self, data, tmp_path, monkeypatch
    ):
        build = runs.build
        monkeypatch.setattr(
            runs, "build", lambda each: Broken() if each.perturbation else build(each)
        )
        config = written(tmp_path, {"tuning": TUNING})
        answer = command("tune", "--config", config, "--results", tmp_path, "--data", data)
        assert answer.code == cli.FAILED
        assert "reldrop-block: 0 steps spent; every trial failed" in answer.out
        content = yaml.safe_load((tmp_path / "experiment-tuned.yaml").read_text())
        assert content["grid"]["methods"][1] == "reldrop-block"
        assert content["tuning"]["spent"]["reldrop-block"] == {
            **{"trials": 6, "steps": 0},
            **{"accuracy": None, "nll": None},
        }
        rows = quoted(Experiment.model_validate(content))["rows"]
        assert rows[1] == ["RelDrop block", "6", "0", "–", "–", "every trial failed"]
        message = tables(tmp_path / "tiny" / "tuning" / "digits")["reldrop-block"][0]["message"]
        assert message == "RuntimeError: no such operation"


@pytest.fixture(scope="module")
def written_by(data, tmp_path_factory):
    """What the command answers, the folder of results, and the file that it writes."""
    folder = tmp_path_factory.mktemp("file")
    config, output = written(folder, {"tuning": TUNING}), folder / "new" / "tuned.yaml"
    given = ("--config", config, "--output", output, "--results", folder, "--data", data)
    return command("tune", *given), folder, output


class TestFile:
    """What comes out is an experiment like any other, complete by itself."""

    def test_the_command_says_what_is_tuned_and_what_came_out(self, written_by, once):
        answer, folder, output = written_by
        assert answer.code == 0
        assert f"baseline: 6 trials of {RATE}\n" in answer.out
        assert f"reldrop-block: 6 trials of {RATE}, perturbation.p\n" in answer.out
        spent = sum(each.steps for each in once[0]["baseline"])
        assert f"baseline: {spent} steps spent; {RATE}: " in answer.out
        table = folder / "tiny" / "tuning" / "chosen.csv"
        assert answer.out.endswith(f"wrote {table} and {output}\n")

    def test_the_summary_adds_up(self, written_by, once):
        with (written_by[1] / "tiny" / "tuning" / "chosen.csv").open(newline="") as file:
            rows = {row["method"]: row for row in csv.DictReader(file)}
        assert list(rows) == METHODS
        for name, trials in once[0].items():
            row, finished = rows[name], [each for each in trials if each.state == "finished"]
            assert int(row["steps"]) == sum(each.steps for each in trials)
            assert (row["trials"], row["seeds"], row["validation"]) == ("6", "5 6 7", "360")
            assert int(row["finished"]) == len(finished)
            means = [statistics.mean(score[0] for score in each.scores) for each in finished]
            assert float(row["accuracy"]) == pytest.approx(max(means))
            assert float(row["first_accuracy"]) == pytest.approx(means[0])
            best = trials[int(row["chosen"])]
            for path, value in best.values.items():
                assert f"{path}: {value}" in row["values"].split("; ")

    def test_the_tuned_file_is_accepted_and_its_plan_has_the_chosen_values(self, written_by, once):
        output = written_by[2]
        answer = command("plan", "--config", output)
        assert answer.code == 0, answer.err
        found = read_experiment(output)
        best = {
            each.run.method: each.best(once[0][each.run.method]) for each in studies(experiment())
        }
        for run in make_plan(found).runs:
            assert run.recipe.optimizer.learning_rate == best[run.method].values[RATE]
            assert run.recipe.steps == STEPS
        block = found.compositions()["reldrop-block"].perturbation
        assert block.p == best["reldrop-block"].values["perturbation.p"]
        assert found.name == "tiny-tuned"
        assert (found.tuning.train_size, found.tuning.steps) == (20, STEPS)
        assert found.tuning.spent["baseline"].trials == 6

    def test_the_tuned_file_fits_the_schema(self, written_by):
        content = yaml.safe_load(written_by[2].read_text())
        jsonschema.validate(content, json_schema())
        jsonschema.validate(changed({"tuning": TUNING}), json_schema())

    def test_a_tuned_file_is_not_tuned_again(self, written_by, data):
        content = yaml.safe_load(written_by[2].read_text())
        with pytest.raises(ValueError, match="is tuned already"):
            studies(Experiment.model_validate(content))

    def test_methods_that_were_not_tuned_cannot_join_a_tuned_file(self, written_by):
        content = yaml.safe_load(written_by[2].read_text())
        content["grid"]["methods"].append("sgt")
        with pytest.raises(ValueError, match=r"tuning\.spent and grid\.methods differ in sgt"):
            Experiment.model_validate(content)

    def test_the_file_that_is_tuned_is_not_overwritten(self, data, tmp_path):
        config = written(tmp_path, {"tuning": TUNING})
        before = config.read_text()
        answer = command("tune", "--config", config, "--output", config, "--data", data)
        assert answer.code == 2
        assert "is the file that is tuned: give another" in answer.err
        assert config.read_text() == before

    def test_without_the_section_the_command_says_what_to_write(self, data, tmp_path):
        answer = command("tune", "--config", written(tmp_path), "--data", data)
        assert answer.code == 2
        assert "has no section tuning" in answer.err
        assert answer.err.count("\n") == 1

    def test_every_kind_of_method_gets_exactly_its_chosen_values(self):
        """Presets, controls, wrappers, recipes and parts of one's own: each is written right."""
        perturbed = {"name": "cross-entropy", "on": "perturbed"}
        methods = [
            "baseline",
            "sgt/swapped",
            {"name": "adam", "preset": "sgt", "recipe": {"optimizer": {"name": "adamw"}}},
            {"name": "mine", "attribution": "lrp", "perturbation": "block", "objective": perturbed},
            {
                "name": "kept",
                "preset": "reldrop-block",
                "attribution": {"name": "cached", "every": 3},
                "perturbation": {"fill": "noise"},
                "recipe": {"schedule": {"name": "constant"}, "batch_size": 5},
            },
        ]
        space = {
            RATE: {"low": 0.0001, "high": 0.5},
            "recipe.optimizer.weight_decay": [0.0, 0.1],
            "recipe.batch_size": {"low": 2, "high": 20},
            "attribution.sign": ["signed", "absolute"],
            "attribution.every": [2],
            "perturbation.area": [[0.1, 0.2]],
            "objective.weight": {"low": 0, "high": 2},
        }
        content = changed({"grid.methods": methods, "tuning": {**TUNING, "space": space}})
        given = Experiment.model_validate(content)
        picked = {
            RATE: 0.25,
            "recipe.optimizer.weight_decay": 0.1,
            "recipe.batch_size": 7,
            "attribution.sign": "absolute",
            "attribution.every": 2,
            "perturbation.area": (0.1, 0.2),
            "objective.weight": 1.5,
        }
        found = []
        for study in studies(given):
            values = {path: value for path, value in picked.items() if path in study.domains}
            found.append((study, [Trial(0, values, scores=[(0.5, 1.0)] * 3)]))
        result = json.loads(json.dumps(tuned_content(content, given, found)))
        tuned_experiment = Experiment.model_validate(result)
        for study, trials in found:
            name = study.run.method
            parts, recipe = with_values(
                given.compositions()[name], given.recipes()[name], trials[0].values
            )
            assert tuned_experiment.compositions()[name] == parts
            assert tuned_experiment.recipes()[name] == recipe
        assert set(found[4][1][0].values) == picked.keys() - {"objective.weight"}
        assert set(found[0][1][0].values) == {each for each in picked if "recipe" in each}
        assert tuned_experiment.recipes()["adam"].optimizer.name == "adamw"
        assert [row["method"] for row in chosen(found)] == list(given.compositions())

    def test_the_report_quotes_what_was_spent_and_chosen(self, written_by):
        said = report(Experiment.model_validate(yaml.safe_load(written_by[2].read_text())))
        assert "Parameters were tuned" in said
        assert "6 trials, each trained for 3 steps on 20 samples with up to 3 seeds" in said
        assert "360 samples" in said
        assert said.count("<tr>") == 3
        assert f"{RATE}: " in said

    def test_the_report_of_what_was_not_tuned_says_so(self):
        for given in (planned().experiment, experiment()):
            said = report(given)
            assert "not chosen by" in said
            assert "<table" not in said


def report(given):
    """The first page of a report as HTML, on one line."""
    template = (ROOT / "workflow" / "report" / "workflow.rst").read_text()
    known = {"title": "t", "experiment": "e", "size": "s", "methods": "* m"}
    config = {**known, "tuning": quoted(given)}
    text = jinja2.Template(template, trim_blocks=True).render(snakemake={"config": config})
    said = publish_parts(text, writer="html")["body"]
    assert "system-message" not in said
    return " ".join(said.split())


def test_the_section_that_the_documentation_shows_is_accepted():
    text = (ROOT / "docs" / "tuning.md").read_text()
    shown = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    assert Experiment.model_validate(changed(shown)).tuning.space[RATE].log


def wrong(**settings):
    return {"tuning": {**TUNING, **settings}}


def wrong_space(path, domain):
    return wrong(space={**SPACE, path: domain})


# name: (changes, what is said, of which the first is where the message begins)
WRONG = {
    "a seed of the grid": (
        wrong(seeds=[5, 1]),
        ["tuning.seeds has 1", "grid.seeds [0, 1]", "such as [2]"],
    ),
    "a seed twice": (wrong(seeds=[5, 5]), ["tuning.seeds has one more than once", "[5, 5]"]),
    "no seed": (wrong(seeds=[]), ["tuning.seeds: found []", "1 or more"]),
    "an unknown path": (
        wrong_space("recipe.optimizer.learning_rat", [0.1]),
        [
            "tuning.space has unknown parameter 'recipe.optimizer.learning_rat'",
            "known are recipe.",
            "did you mean 'recipe.optimizer.learning_rate'?",
        ],
    ),
    "a parameter that no method has": (
        wrong_space("objective.weight", [0.1, 1.0]),
        ["tuning.space has unknown parameter 'objective.weight'"],
    ),
    "a parameter that only some have": (
        wrong(space={"perturbation.p": [0.1, 0.3]}),
        ["tuning.space has no parameter of method 'baseline'", RATE],
    ),
    "the length": (
        wrong_space("recipe.steps", [3, 4]),
        ["tuning.space has 'recipe.steps'", "same for every method", "tuning.steps"],
    ),
    "no list": (wrong_space(RATE, []), [f"tuning.space.{RATE}: found []", "1 or more"]),
    "no space": (wrong(space={}), ["tuning.space: found {}", "1 or more"]),
    "a single number": (
        wrong_space(RATE, 0.1),
        [f"tuning.space: found {RATE}: 0.1", "{low: …, high: …}", "a list"],
    ),
    "an empty range": (
        wrong_space(RATE, {"low": 0.1, "high": 0.1}),
        [f"tuning.space.{RATE}: low must be below high, found low 0.1, high 0.1"],
    ),
    "a range the wrong way round": (
        wrong_space(RATE, {"low": 0.3, "high": 0.001}),
        [f"tuning.space.{RATE}: low must be below high, found low 0.3, high 0.001"],
    ),
    "log from zero": (
        wrong_space("recipe.optimizer.weight_decay", {"low": 0, "high": 0.1, "log": True}),
        ["tuning.space.recipe.optimizer.weight_decay: log needs a low above 0, found 0"],
    ),
    "half a range": (wrong_space(RATE, {"low": 0.3}), [f"tuning.space.{RATE}.high: is missing"]),
    "a misspelt key of a range": (
        wrong_space(RATE, {"low": 0.3, "high": 1, "logg": 1}),
        [f"tuning.space.{RATE}.logg: unknown key 'logg'", "known are low, high, log"],
    ),
    "a range outside the parameter's": (
        wrong_space("perturbation.p", {"low": 0.1, "high": 1.5}),
        ["tuning.space.perturbation.p, for method 'reldrop-block': found 1.5", "equal to 1"],
    ),
    "a value that is none of the parameter": (
        wrong_space("attribution.sign", ["absolut"]),
        ["tuning.space.attribution.sign, for method 'reldrop-block': unknown value 'absolut'"],
    ),
    "fractions of a count": (
        wrong_space("perturbation.centres", {"low": 1, "high": 2.5}),
        ["tuning.space.perturbation.centres, for method 'reldrop-block': found 2.5", "whole"],
    ),
    "a range without the method's own value": (
        wrong_space("perturbation.p", {"low": 0.1, "high": 0.3}),
        [
            "tuning.space has 0.1 to 0.3 for 'perturbation.p', method 'reldrop-block' has 0.5",
            "starts from the method's own value",
        ],
    ),
    "a range of what is no number": (
        wrong_space("attribution.epsilon", {"low": 0.1, "high": 0.3}),
        ["tuning.space has 0.1 to 0.3 for 'attribution.epsilon', method 'reldrop-block' has None"],
    ),
    "a size that is not in the grid": (
        wrong(train_size=30),
        ["tuning.train_size is 30", "grid.train_sizes, [20]"],
    ),
    "one trial": (wrong(trials=1), ["tuning.trials: found 1", "equal to 2"]),
    "an unknown metric": (wrong(metric="loss"), ["tuning.metric", "'loss'", "accuracy, nll"]),
    "a misspelt key": (wrong(trails=3), ["tuning.trails: unknown key", "did you mean 'trials'?"]),
    "two models": (
        {**wrong(), "grid.models": ["resnet10-narrow", "resnet18"]},
        ["tuning chooses values for one dataset and one model", "resnet18", "a file for each"],
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_section_is_refused_in_one_line(case, tmp_path):
    changes, said = WRONG[case]
    path = written(tmp_path, changes)
    answer = command("plan", "--config", path)
    assert answer.code == 2
    assert answer.err.count("\n") == 1
    assert answer.err.startswith(f"attrreg: {path}: {said[0]}"), answer.err
    assert not [each for each in said if each not in answer.err], answer.err
