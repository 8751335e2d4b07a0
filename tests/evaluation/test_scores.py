"""The scores of trained runs: right against other libraries, and redone only when due."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from experiments import planned, prepare_data
from safetensors.torch import load_file, save_file
from sklearn.metrics import log_loss
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_calibration_error

from attrreg.data.prepare import read_embedded
from attrreg.data.sources import read_held_out, read_pool
from attrreg.evaluation.scores import evaluate_shard
from attrreg.plan import neutral_runs
from attrreg.protocol import Evaluation
from attrreg.records import read_record
from attrreg.training.checkpoint import load_weights
from attrreg.training.runs import build_model, train_shard

CPU = torch.device("cpu")
METHODS = {"grid.methods": ["baseline", "reldrop-block", "sgt"], "evaluation.bins": 12}
PLAN = planned(METHODS | {"recipe.steps": 5})
SETTINGS = PLAN.experiment.evaluation
NEUTRAL = Evaluation(  # what needs another run, and little else
    orders=("random-pixels", "neutral-most-relevant-first"),
    fractions=(0.0, 0.5),
    measures=("margin",),
    gallery=1,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, data):
    """An experiment that is trained and evaluated."""
    folder = tmp_path_factory.mktemp("tiny")
    train_shard(PLAN.runs, folder, data, CPU)
    for path in (folder / "runs").rglob("weights.safetensors"):
        tensors = load_file(path)  # so few steps leave every confidence near 0.1
        save_file({**tensors, "fc.weight": 20 * tensors["fc.weight"]}, path)
    outcomes = evaluate_shard(PLAN.runs, folder, data, SETTINGS, CPU)
    assert outcomes == dict.fromkeys(PLAN.runs, "made")
    return folder


@pytest.fixture
def copied(folder, tmp_path):
    """A copy of it that may be harmed."""
    return shutil.copytree(folder, tmp_path / "tiny")


def scores(folder, run):
    return folder / "scores" / run.path


def metrics(folder, run):
    return pd.read_csv(scores(folder, run) / "metrics.csv").set_index("metric").value


def predictions(folder, run):
    """Return logits and labels of the test split."""
    stored = load_file(scores(folder, run) / "predictions.safetensors")
    return stored["test/logits"], stored["test/labels"]


@pytest.fixture(params=PLAN.runs, ids=lambda run: f"{run.method}-{run.seed}")
def run(request):
    return request.param


class TestRight:
    """Numbers are those of the model that was trained, on the split that it never saw."""

    def test_everything_is_there(self, folder, run):
        names = {path.name for path in scores(folder, run).iterdir()}
        assert names == {
            *("run.json", "predictions.safetensors", "metrics.csv", "curves.csv"),
            *("reliability.csv", "classes.csv", "maps.safetensors"),
        }

    def test_logits_are_those_of_the_trained_weights(self, folder, data, run):
        model = build_model(run, CPU).eval()
        load_weights(model, folder / "runs" / run.path / "weights.safetensors")
        pool, stored = read_pool(data, "digits"), scores(folder, run) / "predictions.safetensors"
        images = read_held_out(data, "digits")["test"]
        x = (torch.tensor(images.x / 255) - pool.mean[0]) / pool.deviation[0]
        with torch.no_grad():
            expected = model(x.float())
        found = load_file(stored)
        assert found.keys() == {"test/logits", "test/labels"}
        torch.testing.assert_close(found["test/logits"], expected)
        assert found["test/labels"].tolist() == images.y.tolist()

    def test_metrics_are_those_of_other_libraries(self, folder, run):
        logits, labels = predictions(folder, run)
        probabilities, found = logits.double().softmax(1), metrics(folder, run)
        one_hot = np.eye(10)[labels]
        expected = {
            "accuracy": float(multiclass_accuracy(logits, labels, 10, average="micro")),
            "nll": log_loss(labels, probabilities.numpy(), labels=np.arange(10)),
            "brier": float(((probabilities.numpy() - one_hot) ** 2).sum(1).mean()),
            "ece": float(multiclass_calibration_error(probabilities, labels, 10, SETTINGS.bins)),
            "top5": float(multiclass_accuracy(logits, labels, 10, average="micro", top_k=5)),
            "balanced-accuracy": float(multiclass_accuracy(logits, labels, 10, average="macro")),
        }
        for name, value in expected.items():
            assert found[name] == pytest.approx(value, abs=1e-6), name

    def test_curves_begin_at_the_accuracy_and_their_areas_are_metrics(self, folder, run):
        curves = pd.read_csv(scores(folder, run) / "curves.csv")
        found = metrics(folder, run)
        assert set(curves.order) == set(SETTINGS.orders)
        assert set(curves.fill) == {SETTINGS.fill}
        for order, rows in curves.groupby("order"):
            assert rows.fraction.tolist() == list(SETTINGS.fractions)
            assert rows.accuracy.iloc[0] == pytest.approx(found["accuracy"])
            area = np.trapezoid(rows.accuracy, rows.fraction) / np.ptp(rows.fraction)
            assert found[f"occlusion-area-{order}"] == pytest.approx(area)
            assert found[f"occlusion-{order}"] == pytest.approx(area / found["accuracy"])

    def test_bins_hold_every_sample_once(self, folder, run):
        rows = pd.read_csv(scores(folder, run) / "reliability.csv")
        for scaled, suffix in ((False, ""), (True, "-scaled")):
            bins = rows[rows.scaled == scaled]
            filled = bins[bins["count"] > 0]
            assert len(bins) == SETTINGS.bins
            assert bins["count"].sum() == 360
            correct = (filled["count"] * filled.accuracy).sum() / 360
            assert correct == pytest.approx(metrics(folder, run)["accuracy"])
            gap = (filled["count"] * (filled.accuracy - filled.confidence).abs()).sum() / 360
            assert gap == pytest.approx(metrics(folder, run)[f"ece{suffix}"])

    def test_the_gallery_shows_the_same_samples_for_every_run(self, folder, run):
        maps = load_file(scores(folder, run) / "maps.safetensors")
        shown = read_embedded("digits").test
        torch.testing.assert_close(
            maps["inputs"], torch.tensor(shown.x[:3] / 255, dtype=torch.float32)
        )
        assert maps["labels"].tolist() == shown.y[:3].tolist()
        logits, _ = predictions(folder, run)
        assert maps["predictions"].tolist() == logits[:3].argmax(1).tolist()
        assert maps["relevance"].shape == (3, 8, 8)
        assert maps["relevance"].abs().sum() > 0

    def test_the_gallery_shows_what_a_method_does_to_every_sample(self, folder, run):
        maps = load_file(scores(folder, run) / "maps.safetensors")
        assert ("perturbed" in maps) == (run.composition.perturbation is not None)
        if "perturbed" in maps:
            moved = (maps["perturbed"] - maps["inputs"]).abs().flatten(1).amax(1)
            assert (moved > 0.01).all()
            assert maps["perturbed"].min() >= 0
            assert maps["perturbed"].max() <= 1


def test_of_the_same_weights_every_method_has_the_same_scores(folder, data, tmp_path):
    """At one seed all meet the same orders, fills and samples; at another one others."""
    shutil.copytree(folder / "runs", tmp_path / "runs")
    baseline, other, *_ = (run for run in PLAN.runs if run.seed == 0)
    for run in PLAN.runs:
        weights = tmp_path / "runs" / baseline.path / "weights.safetensors"
        if run is not baseline:
            shutil.copy(weights, tmp_path / "runs" / run.path)
    neutral = neutral_runs(PLAN, PLAN.runs)
    evaluate_shard(PLAN.runs, tmp_path, data, NEUTRAL, CPU, neutral=neutral)
    for name in ("curves", "reliability", "metrics"):
        found = {run: (scores(tmp_path, run) / f"{name}.csv").read_text() for run in PLAN.runs}
        assert len({found[run] for run in PLAN.runs if run.seed == 0}) == 1, name
    assert found[baseline] != found[next(run for run in PLAN.runs if run.seed == 1)]
    assert other is not baseline


def test_again_gives_the_same_bytes(folder, data, tmp_path):
    shutil.copytree(folder / "runs", tmp_path / "runs")
    some = PLAN.runs[-2:]
    evaluate_shard(some, tmp_path, data, SETTINGS, CPU)
    for run in some:
        for path in scores(folder, run).iterdir():
            if path.name != "run.json":
                again = scores(tmp_path, run) / path.name
                assert again.read_bytes() == path.read_bytes()


class TestRedone:
    """Scores are made when they are not there, or when what they stand for has changed."""

    def test_not_without_a_reason(self, copied, data):
        outcomes = evaluate_shard(PLAN.runs, copied, data, SETTINGS, CPU)
        assert outcomes == dict.fromkeys(PLAN.runs, "kept")

    def test_with_other_settings_and_without_training(self, copied, data):
        before = {path: path.stat().st_mtime_ns for path in (copied / "runs").rglob("*")}
        other = Evaluation(orders=("random-block",), fractions=(0.0, 0.5), bins=5, gallery=1)
        outcomes = evaluate_shard(PLAN.runs, copied, data, other, CPU)
        assert outcomes == dict.fromkeys(PLAN.runs, "made")
        assert before == {path: path.stat().st_mtime_ns for path in (copied / "runs").rglob("*")}
        for run in PLAN.runs:
            assert len(pd.read_csv(scores(copied, run) / "reliability.csv")) == 2 * 5

    def test_for_a_run_that_was_trained_again(self, copied, data):
        first, other = planned(METHODS | {"recipe.steps": 6}).runs[:2]
        train_shard([first], copied, data, CPU)
        outcomes = evaluate_shard([first, other], copied, data, SETTINGS, CPU)
        assert list(outcomes.values()) == ["made", "kept"]

    def test_not_for_a_run_that_is_not_there_or_failed(self, copied, data):
        absent, failed, *others = PLAN.runs
        shutil.rmtree(copied / "runs" / absent.path)
        record = copied / "runs" / failed.path / "run.json"
        record.write_text(record.read_text().replace('"finished"', '"failed"'))
        assert set(evaluate_shard(PLAN.runs, copied, data, SETTINGS, CPU)) == set(others)


class TestHarm:
    """Weights that are no use give a failed record, and the siblings go on."""

    @staticmethod
    def harmed(folder, run, how):
        path = folder / "runs" / run.path / "weights.safetensors"
        if how == "NaN":
            tensors = load_file(path)
            save_file({name: each * torch.nan for name, each in tensors.items()}, path)
        elif how == "of another model":
            save_file({"weight": torch.ones(3)}, path)
        else:
            path.write_bytes(path.read_bytes()[:100])
        shutil.rmtree(folder / "scores")

    @pytest.mark.parametrize("how", ["NaN", "of another model", "cut short"])
    def test_siblings_go_on(self, copied, data, how):
        harmed, *others = PLAN.runs[:3]
        self.harmed(copied, harmed, how)
        outcomes = evaluate_shard(PLAN.runs[:3], copied, data, SETTINGS, CPU)
        assert outcomes == {harmed: "failed"} | dict.fromkeys(others, "made")
        record = read_record(scores(copied, harmed))
        assert record["status"] == "failed"
        assert record["message"]
        if how == "NaN":
            for said in ("logits", "360 of 360 samples", "NaN or infinite", "diverged"):
                assert said in record["message"]
        assert not (scores(copied, harmed) / "metrics.csv").exists()

    def test_a_failed_evaluation_is_tried_again_when_asked(self, copied, data):
        [run] = PLAN.runs[:1]
        self.harmed(copied, run, "cut short")
        for retry, expected in ((False, "failed"), (False, "failed before"), (True, "failed")):
            assert evaluate_shard([run], copied, data, SETTINGS, CPU, retry) == {run: expected}


class TestNeutral:
    """What needs the neutral run is there when that is trained, and absent before."""

    NAMES = {"lowest-margin-accuracy"} | {
        f"occlusion-{kind}neutral-most-relevant-first" for kind in ("", "area-", "nll-")
    }
    RUN = next(run for run in PLAN.runs if (run.method, run.seed) == ("sgt", 0))

    @staticmethod
    def neutral():
        return neutral_runs(PLAN, PLAN.runs)

    def evaluated(self, folder, data, neutral=None):
        given = self.neutral() if neutral is None else neutral
        return evaluate_shard([self.RUN], folder, data, NEUTRAL, CPU, neutral=given)[self.RUN]

    def found(self, folder):
        return set(metrics(folder, self.RUN).index)

    def other(self, folder):
        """The record of the run whose map is shared."""
        return folder / "runs" / self.neutral()[self.RUN].path / "run.json"

    def test_where_it_is_trained_everything_is_measured(self, copied, data):
        assert self.evaluated(copied, data) == "made"
        assert self.found(copied) == set(NEUTRAL.metrics())
        record = read_record(scores(copied, self.RUN))
        assert record["neutral"] == self.neutral()[self.RUN].name
        assert self.evaluated(copied, data) == "kept"

    @pytest.mark.parametrize("why", ["not trained", "failed", "not in the grid"])
    def test_otherwise_nothing_that_needs_it_is_measured_and_nothing_fails(self, copied, data, why):
        record = self.other(copied)
        if why == "not trained":
            shutil.rmtree(record.parent)
        elif why == "failed":
            record.write_text(record.read_text().replace('"finished"', '"failed"'))
        neutral = {} if why == "not in the grid" else self.neutral()
        assert self.evaluated(copied, data, neutral) == "made"
        assert self.found(copied) == set(NEUTRAL.metrics()) - self.NAMES
        assert read_record(scores(copied, self.RUN))["neutral"] is None

    def test_it_is_measured_when_the_neutral_run_has_come_or_changed(self, copied, data):
        record = self.other(copied)
        trained = record.read_text()
        record.write_text(trained.replace('"finished"', '"failed"'))
        assert self.evaluated(copied, data) == "made"
        record.write_text(trained)
        assert self.evaluated(copied, data) == "made"
        assert self.found(copied) == set(NEUTRAL.metrics())
        digest = read_record(record.parent)["digest"]
        record.write_text(trained.replace(digest, "another one"))
        assert self.evaluated(copied, data) == "made"
        assert self.evaluated(copied, data) == "kept"

    def test_a_protocol_without_need_does_not_look_at_it(self, copied, data):
        """So a neutral run that is trained again costs nothing there."""
        plain = NEUTRAL.model_copy(update={"orders": ("random-pixels",), "measures": ()})
        plan = planned(METHODS | {"evaluation": plain.model_dump(mode="json")})
        assert neutral_runs(plan, plan.runs) == {}
