"""Other test sets are checked with the experiment, before their samples are read."""

from dataclasses import replace

import numpy as np
import pytest
from experiments import command, written

from attrreg import catalogue
from attrreg.other_sets import beside
from attrreg.variant import Variant


def arrays(path, channels):
    """Write black images of two classes; return them as a dataset."""
    np.savez(path, x=np.zeros((12, 8, 8, channels), np.uint8), y=np.arange(12) % 2)
    return f"arrays:{path}"


def refusal(tmp_path, changes):
    path = written(tmp_path, changes)
    answer = command("plan", "--config", path)
    assert answer.code == 2
    assert answer.err.count("\n") == 1
    return answer.err.removeprefix(f"attrreg: {path}: ")


@pytest.mark.parametrize(
    ("base", "said"),
    [
        ("digts", ["has dataset 'digts'", "known are", "did you mean 'digits'?"]),
        ("folder:nowhere", ["folder:", "nowhere is not there"]),
        ("shapes-series", ["'shapes-series' with series inputs", "'digits' has image inputs"]),
        ("cifar10", ["samples of 3×32×32", "'digits' has 1×8×8", "the same shape"]),
        ("shapes", ["'shapes' with the options of 'digits': image_size: found 8"]),
        ("empty", ["'empty', which has no test samples"]),
    ],
)
@pytest.mark.parametrize("kind", ["zero_shot", "unknown"])
def test_what_does_not_fit_is_refused(tmp_path, monkeypatch, kind, base, said):
    empty = replace(catalogue.DATASETS["digits"], test=0)
    monkeypatch.setitem(catalogue.DATASETS, "empty", empty)
    message = refusal(tmp_path, {f"evaluation.{kind}": [base]})
    assert message.startswith(f"evaluation.{kind} has ")
    assert not [each for each in said if each not in message]


def test_a_set_that_fits_one_dataset_of_the_grid_must_fit_all(tmp_path):
    changes = {
        "grid.datasets": ["mnist", "digits"],
        "evaluation.zero_shot": ["fashion-mnist"],
    }
    message = refusal(tmp_path, changes)
    assert "samples of 1×28×28, dataset 'digits' has 1×8×8" in message


@pytest.mark.parametrize("kind", ["zero_shot", "unknown"])
@pytest.mark.parametrize("dataset", ["digits", {"name": "mine", "base": "digits"}])
def test_a_dataset_of_the_grid_is_no_other_set(tmp_path, kind, dataset):
    """Not under another name, either."""
    changes = {"grid.datasets": [dataset], f"evaluation.{kind}": ["digits"]}
    message = refusal(tmp_path, changes)
    name = dataset if isinstance(dataset, str) else dataset["name"]
    assert f"evaluation.{kind} has 'digits', which is the dataset {name!r} of the grid" in message
    assert "only sets that models are not trained on are allowed" in message


@pytest.mark.parametrize(
    "sets",
    [
        {"zero_shot": ["folder:a/test", "folder:b/test"]},
        {"zero_shot": ["digits"], "unknown": ["digits"]},
        {"unknown": ["folder:x/imagenet o", "imagenet-o:y/imagenet-o"]},
    ],
)
def test_two_sets_of_one_label_are_refused(tmp_path, sets):
    message = refusal(tmp_path, {f"evaluation.{kind}": each for kind, each in sets.items()})
    assert message.startswith("evaluation: ")
    for base in (base for each in sets.values() for base in each):
        assert repr(base) in message


@pytest.mark.parametrize("name", ["nll-set", "ece-set", "set-scaled"])
def test_a_label_that_makes_another_metric_is_refused(tmp_path, name):
    message = refusal(tmp_path, {"evaluation.zero_shot": [f"folder:/data/{name}"]})
    assert f"would be called {name!r}" in message


def test_a_set_has_the_options_of_the_dataset_but_not_its_title(tmp_path):
    base = arrays(tmp_path / "other.npz", 3)
    options = {"test": 0.4, "title": "ward one", "layout": "channels-last", "image_size": 12}
    dataset = Variant.of(arrays(tmp_path / "own.npz", 1), options)
    chosen = beside(base, dataset).options
    assert (chosen.test, chosen.layout, chosen.title) == (0.4, "channels-last", None)
    assert beside(base, dataset).shape == dataset.shape == (1, 12, 12)


def test_a_set_of_the_same_shape_is_prepared_as_it_is():
    """So one that was prepared before need not be prepared again."""
    assert beside("svhn", Variant.of("cifar10")).key == "svhn"
    series = Variant.of("shapes-series", {"length": 96})
    assert beside("shapes-series", series).shape == series.shape
