"""Other test sets: classes are matched by name, scores are right by hand, nothing is trained."""

import json
import shlex
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from experiments import command, planned, prepare_data, written
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.special import log_softmax, softmax
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    log_loss,
    roc_auc_score,
)
from small_evaluation import CPU, constant, shrink, subject_of
from torch import nn

from attrreg.data.prepare import prepare
from attrreg.data.sources import read_held_out, read_pool
from attrreg.data.synsets import class_titles, synsets
from attrreg.evaluation import zero_shot
from attrreg.evaluation.calibration_bias import debiased_ece
from attrreg.evaluation.measures import on_other_sets
from attrreg.evaluation.predict import predict
from attrreg.evaluation.scores import evaluate_shard
from attrreg.evaluation.zero_shot import match_classes, open_sets
from attrreg.other_sets import beside, sets_beside
from attrreg.protocol import Evaluation
from attrreg.statistics.directions import is_higher_better
from attrreg.training.runs import train_shard
from attrreg.variant import Variant

[RUN, *_] = planned().runs
DIGITS = Variant.of("digits")
NAMES = ("7", "zebra", " 1", "10", "3", "2 ")  # of the set, by label; those of digits are 0 … 9
COUNTS = (4, 3, 5, 2, 6, 1)  # test samples


def arrays(path, names=NAMES, counts=COUNTS, side=8, channels=1, seed=0):
    """Write a file of random images with test samples by class; return it as a dataset."""
    rng = np.random.default_rng(seed)
    parts = {"train": [2] * len(names), "test": counts}
    content = {"class_names": np.array(names)}
    for split, many in parts.items():
        y = rng.permutation(np.repeat(np.arange(len(names)), many))
        content[f"y_{split}"] = y
        size = (len(y), side, side, channels)
        content[f"x_{split}"] = rng.integers(0, 256, size, dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **content)
    return f"arrays:{path}"


def folders(root, classes, side=8):
    """Write random JPEGs into a folder per class."""
    for number, (name, many) in enumerate(classes.items()):
        (root / name).mkdir(parents=True)
        for at in range(many):
            pixels = np.random.default_rng([number, at]).integers(0, 256, (side, side, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{at}.jpg")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def other(data, tmp_path_factory):
    """A set that shares four classes with the digits, prepared."""
    base = arrays(tmp_path_factory.mktemp("own") / "other.npz")
    prepare(data, beside(base, DIGITS))
    return base


@pytest.fixture(scope="module")
def model():
    """A network that is sure of different things."""
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def opened(data, dataset=DIGITS, **sets):
    names = read_pool(data, dataset).class_names
    return open_sets(data, dataset, names, Evaluation(**sets))


def subject(data, model, **sets):
    return replace(subject_of(data, RUN, model, **sets), sets=opened(data, **sets))


def logits_of(model, data, base):
    """Return logits and names of the classes of the test samples, by hand."""
    pool, test = read_pool(data, "digits"), read_held_out(data, beside(base, DIGITS))["test"]
    x = (torch.tensor(test.x / 255) - pool.mean[0]) / pool.deviation[0]
    with torch.no_grad():
        return model(x.float()).double().numpy(), [NAMES[label].strip() for label in test.y]


NAME = st.text("ab B", max_size=3)
UNIQUE = st.lists(NAME, min_size=1, max_size=12, unique_by=str.strip)


class TestMatching:
    """Which class of the model is which class of the set."""

    @given(UNIQUE, UNIQUE)
    def test_names_decide_whatever_their_order(self, known, own):
        found = match_classes(known, own, (len(known), len(own)))
        for name, number in zip(own, found, strict=True):
            same = [at for at, each in enumerate(known) if each.strip() == name.strip() != ""]
            assert [number] == (same or [-1])

    def test_upper_and_lower_case_are_not_the_same(self):
        assert match_classes(["cat", "Dog"], ["dog", "Cat", "cat"], (2, 3)) == [-1, -1, 0]

    def test_without_names_numbers_decide_where_there_are_equally_many(self):
        assert match_classes((), (), (3, 3)) == [0, 1, 2]

    @pytest.mark.parametrize(
        ("known", "own", "said"),
        [
            ((), (), "the model and the set have no names, and there are 3 in the set and 2 in"),
            (("a", "b"), (), "the set have no names"),
            ((), ("a", "b", "c"), "the model have no names"),
        ],
    )
    def test_otherwise_names_must_be_there(self, known, own, said):
        with pytest.raises(ValueError, match=said):
            match_classes(known, own, (2, 3))

    @pytest.mark.parametrize(("known", "own"), [("ab", ["a", "a "]), (["b", " b"], "bc")])
    def test_a_name_that_stands_for_two_classes_of_both_is_refused(self, known, own):
        with pytest.raises(ValueError, match=r"two classes of the (model|set) are named '[ab]'"):
            match_classes(known, own, (2, 2))

    def test_a_name_that_only_one_side_has_twice_is_no_matter(self):
        assert match_classes("ab", ["c", "c", "b"], (2, 3)) == [-1, -1, 1]


class TestOfKnownClasses:
    """Scores of a set that shares the classes 7, 1, 3 and 2 with the digits."""

    COMMON = (7, 1, 3, 2)  # in the order of the set

    def test_the_rest_is_left_out_and_counted(self, data, other):
        [found] = opened(data, zero_shot=(other,))
        assert found.classes == self.COMMON
        assert (len(found.scored), found.left_out) == (4 + 5 + 6 + 1, 3 + 2)
        places = found.y.tolist()
        assert [places.count(at) for at in range(4)] == [4, 5, 6, 1]

    def test_they_are_those_by_hand(self, data, other, model):
        logits, names = logits_of(model, data, other)
        kept = [at for at, name in enumerate(names) if name in "7132"]
        labels = [int(names[at]) for at in kept]
        rows = logits[kept][:, self.COMMON]
        guessed = [max(self.COMMON, key=lambda each, at=at: logits[at, each]) for at in kept]
        places = [self.COMMON.index(label) for label in labels]
        expected = {
            "zero-shot-other": accuracy_score(labels, guessed),
            "zero-shot-nll-other": log_loss(places, softmax(rows, 1), labels=range(4)),
            "zero-shot-ece-other": float(debiased_ece(torch.tensor(rows), torch.tensor(places))),
        }
        metrics, tables = on_other_sets(subject(data, model, zero_shot=(other,)))
        found = {name: float(value) for name, value in metrics.items()}
        assert found == pytest.approx(expected, abs=1e-6)
        table = {row["metric"]: row for row in tables["zero_shot"]}
        balanced = balanced_accuracy_score(labels, guessed)
        assert table["balanced-accuracy"]["value"] == pytest.approx(balanced)
        assert table["nll"]["value"] == found["zero-shot-nll-other"]
        for row in table.values():
            assert (row["set"], row["kind"]) == ("other", "zero_shot")
            assert (row["samples"], row["left_out"], row["classes"]) == (16, 5, 4)

    def test_chance_is_that_of_a_model_that_says_nothing(self, data, other):
        _, tables = on_other_sets(subject(data, constant([0.0] * 10), zero_shot=(other,)))
        table = {row["metric"]: row for row in tables["zero_shot"]}
        for name in ("balanced-accuracy", "nll"):
            assert table[name]["value"] == pytest.approx(table[name]["chance"])
        assert table["accuracy"]["chance"] == 1 / 4

    def test_classes_that_the_set_lacks_are_not_open_to_the_prediction(self, data, other):
        scores = [9.0] * 10
        for number in self.COMMON:
            scores[number] = 0.0
        scores[3] = 1.0
        metrics, _ = on_other_sets(subject(data, constant(scores), zero_shot=(other,)))
        assert float(metrics["zero-shot-other"]) == pytest.approx(6 / 16)

    def test_batches_do_not_matter(self, data, other, model, monkeypatch):
        whole, _ = on_other_sets(subject(data, model, zero_shot=(other,)))
        monkeypatch.setattr(zero_shot, "BATCH", 3)
        parts, _ = on_other_sets(subject(data, model, zero_shot=(other,)))
        assert {name: float(value) for name, value in parts.items()} == pytest.approx(
            {name: float(value) for name, value in whole.items()}
        )

    def test_the_own_test_split_has_its_own_accuracy(self, data, model):
        """Of all classes, so nothing is masked: as if the set were another one."""
        found = subject(data, model, zero_shot=("digits",))
        metrics, _ = on_other_sets(found)
        right = found.logits.argmax(1) == found.held_out.splits["test"][1]
        assert float(metrics["zero-shot-digits"]) == pytest.approx(right.double().mean().item())


class TestOfUnknownClasses:
    """Known are the model's own test samples, unknown all of the set, whatever their labels."""

    def test_they_are_those_of_another_library(self, data, other, model):
        made = subject(data, model, unknown=(other,))
        metrics, tables = on_other_sets(made)
        logits, names = logits_of(model, data, other)
        known = made.logits.double().numpy()
        confidence = np.exp(log_softmax(np.concatenate([known, logits]), 1)).max(1)
        is_unknown = np.arange(len(confidence)) >= len(known)
        expected = {
            "auroc-other": roc_auc_score(is_unknown, -confidence),
            "aupr-other": average_precision_score(is_unknown, -confidence),
        }
        found = {name: float(value) for name, value in metrics.items()}
        assert found == pytest.approx(expected, abs=1e-6)
        table = {row["metric"]: row for row in tables["zero_shot"]}
        assert table["aupr"]["chance"] == pytest.approx(len(names) / (len(names) + 360))
        assert table["auroc"]["chance"] == 0.5
        for row in table.values():
            assert (row["kind"], row["samples"], row["left_out"]) == ("unknown", 21, 0)
            assert row["classes"] == 10

    def test_a_model_that_is_equally_sure_of_everything_finds_them_by_chance(self, data, other):
        _, tables = on_other_sets(subject(data, constant(range(10)), unknown=(other,)))
        for row in tables["zero_shot"]:
            assert row["value"] == pytest.approx(row["chance"])


class TestNothingInCommon:
    """Sets that cannot be scored are refused when they are opened, in one line."""

    @pytest.mark.parametrize(
        ("names", "said"),
        [
            (
                ("x", "y"),
                "has 0 of its 2 classes in common with 'digits'.*'x', 'y', there '0', '1'",
            ),
            (("x", "4"), "has 1 of its 2 classes in common with 'digits', at least 2 are needed"),
        ],
    )
    def test_at_least_two_classes_are_needed(self, data, tmp_path, names, said):
        base = arrays(tmp_path / "few.npz", names, (3, 3))
        prepare(data, beside(base, DIGITS))
        with pytest.raises(ValueError, match=said) as error:
            opened(data, zero_shot=(base,))
        assert str(error.value).startswith(f"evaluation.zero_shot has {base!r}")
        [found] = opened(data, unknown=(base,))
        assert len(found.scored) == 6

    def test_test_samples_of_them_are_needed(self, data, tmp_path):
        base = arrays(tmp_path / "absent.npz", ("x", "1", "4"), (3, 0, 0))
        prepare(data, beside(base, DIGITS))
        with pytest.raises(ValueError, match="none of its 3 test samples is of a class that"):
            opened(data, zero_shot=(base,))


class TestImageNet:
    """ImageNet-R lies beside an ImageNet of a few classes: a test split and nothing else."""

    KNOWN = ("n02012849", "n01440764", "n03126707", "n15075141")  # two of them are called crane
    RENDERED = (("n03126707", 3), ("n01440764", 2), ("n01443537", 4))

    @pytest.fixture
    def known(self, tmp_path):
        home = tmp_path / "imagenet"
        folders(home / "train", dict.fromkeys(self.KNOWN, 3))
        folders(home / "val", dict.fromkeys(self.KNOWN, 1))
        variant = Variant.of(f"imagenet:{home}", {"image_size": 8, "resize": "squash"})
        prepare(tmp_path, variant)
        return variant

    @pytest.fixture
    def rendered(self, tmp_path, known):
        folders(tmp_path / "imagenet-r", dict(self.RENDERED), side=12)
        base = f"imagenet-r:{tmp_path / 'imagenet-r'}"
        prepare(tmp_path, beside(base, known))
        return base

    def test_it_is_mapped_to_the_classes_of_which_it_has_images(self, tmp_path, known, rendered):
        [found] = opened(tmp_path, known, zero_shot=(rendered,))
        titles = read_pool(tmp_path, known).class_names
        there = [synsets().index(each) for each in ("n01440764", "n03126707")]
        expected = [class_titles([synsets()[number]])[0] for number in sorted(there)]
        assert [titles[number] for number in found.classes] == expected
        assert "crane (n03126707)" in expected
        assert (len(found.scored), found.left_out) == (5, 4)
        assert found.label == "imagenet-r"

    def test_its_images_are_brought_to_the_size_in_the_same_way(self, known, rendered):
        options = beside(rendered, known).options
        assert (options.image_size, options.resize) == (8, "squash")


class TestWhole:
    """From the experiment file to the scores of runs, by hand."""

    @pytest.fixture
    def place(self, tmp_path, data, other):
        """An experiment of one trained run with a set of each kind, of which one is prepared."""
        strange = arrays(tmp_path / "strange.npz", ("x", "y"), (5, 4), seed=1)
        changes = {
            "recipe.steps": 1,
            "grid.methods": ["baseline"],
            "evaluation": {"zero_shot": [other], "unknown": [strange], "measures": []}
            | {"orders": ["random-pixels"], "fractions": [0.0, 0.5], "gallery": 1},
        }
        plan = planned(changes)
        written(tmp_path, changes)
        train_shard(plan.runs[:1], plan.folder(tmp_path), data, CPU)
        return plan, tmp_path

    def test_what_is_not_prepared_is_said_with_the_command_that_does_it(self, place, data):
        plan, folder = place
        options = ("--config", folder / "experiment.yaml", "--data", data)
        answer = command("evaluate", *options, "--results", folder)
        assert answer.code == 2
        assert answer.err.count("\n") == 1
        assert "strange.npz' is not prepared" in answer.err
        words = shlex.split(answer.err.split("`")[1])
        assert command(*words[1:]).code == 0
        answer = command("evaluate", *options, "--results", folder)
        assert (answer.code, answer.err) == (0, "")
        assert plan.runs[0].name in answer.out

    def test_prepare_by_the_experiment_makes_all_sets(self, place, tmp_path):
        plan, folder = place
        fresh = tmp_path / "fresh"
        answer = command("prepare", "--config", folder / "experiment.yaml", "--data", fresh)
        assert answer.code == 0
        keys = {each.variant.key for each in sets_beside(plan.experiment.evaluation, DIGITS)}
        assert len(keys) == 2
        assert {path.parent.name for path in fresh.glob("*/dataset.json")} == {"digits", *keys}

    def test_the_protocol_names_the_metrics_and_which_way_is_better(self, place, data):
        plan, folder = place
        settings = plan.experiment.evaluation
        strange = settings.unknown[0]
        prepare(data, beside(strange, DIGITS))
        results = plan.folder(folder)
        assert [*evaluate_shard(plan.runs[:1], results, data, settings, CPU).values()] == ["made"]
        scores = results / "scores" / plan.runs[0].path
        found = pd.read_csv(scores / "metrics.csv").metric
        assert set(found) == set(settings.metrics())
        own = {name for name in found if name.endswith(("-other", "-strange"))}
        assert {name for name in own if is_higher_better(name)} == {
            *("zero-shot-other", "auroc-strange", "aupr-strange")
        }
        assert own >= {"zero-shot-nll-other", "zero-shot-ece-other"}
        assert len(pd.read_csv(scores / "zero_shot.csv")) == 4 + 2

    def test_a_changed_set_is_evaluated_again_and_trains_nothing(self, place, data, tmp_path):
        plan, folder = place
        settings = plan.experiment.evaluation
        strange, results = settings.unknown[0], plan.folder(folder)
        variant = beside(strange, DIGITS)
        prepare(data, variant)

        def evaluated():
            return [*evaluate_shard(plan.runs[:1], results, data, settings, CPU).values()]

        trained = {path: path.stat().st_mtime_ns for path in (results / "runs").rglob("*")}
        assert evaluated() == ["made"]
        assert evaluated() == ["kept"]
        arrays(tmp_path / "strange.npz", ("x", "y"), (5, 4), seed=2)
        prepare(data, variant)
        assert evaluated() == ["made"]
        assert evaluated() == ["kept"]
        assert trained == {path: path.stat().st_mtime_ns for path in (results / "runs").rglob("*")}
        assert train_shard(plan.runs[:1], results, data, CPU) == {plan.runs[0]: "kept"}

    def test_renamed_classes_are_a_change_where_classes_are_matched(self, place, data):
        plan, _ = place
        base = plan.experiment.evaluation.zero_shot[0]
        [before] = opened(data, zero_shot=(base,))
        path = data / beside(base, DIGITS).key / "dataset.json"
        text = path.read_text()
        try:
            content = json.loads(text)
            content["class_names"][0] = "8"
            path.write_text(json.dumps(content))
            [after] = opened(data, zero_shot=(base,))
        finally:
            path.write_text(text)
        assert after.classes == (8, *before.classes[1:])
        assert after.digest != before.digest


def test_series_are_scored_as_images_are(tmp_path, monkeypatch):
    shrink(monkeypatch)
    prepare(tmp_path, "shapes-series")
    grid = {"grid.datasets": ["shapes-series"], "grid.models": ["cnn-series"]}
    [run, *_] = planned(grid | {"grid.methods": ["baseline"]}).runs
    made = subject_of(tmp_path, run)
    sets = opened(tmp_path, run.source, zero_shot=("shapes-series",))
    metrics, _ = on_other_sets(replace(made, sets=sets))
    x, y = made.held_out.splits["test"]
    right = (predict(made.model, x).argmax(1) == y).double().mean()
    assert float(metrics["zero-shot-shapes-series"]) == pytest.approx(float(right))
