"""Accuracy against scikit-learn, torchmetrics and counts by hand."""

import math
import warnings

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, recall_score
from sklearn.metrics import top_k_accuracy_score as top_k_accuracy
from torchmetrics.functional.classification import multiclass_accuracy

from attrreg.evaluation.accuracy import balanced, per_class, top_k

CASES = [(1, 2, 0), (7, 3, 1), (500, 10, 2), (60, 100, 3)]  # samples, classes, seed


def sample(n, classes, seed):
    """Draw logits that are right more often than by chance, without ties."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=generator)
    logits = torch.randn(n, classes, generator=generator)
    logits[torch.arange(n), labels] += 1
    return logits, labels


@pytest.mark.parametrize(("n", "classes", "seed"), CASES)
@pytest.mark.parametrize("k", [1, 5])
def test_top_k_is_that_of_scikit_learn_and_torchmetrics(n, classes, seed, k):
    logits, labels = sample(n, classes, seed)
    found = top_k(logits, labels, k)
    if k < classes and classes > 2:
        expected = top_k_accuracy(labels, logits.numpy(), k=k, labels=range(classes))
        assert found.item() == expected
    if k == 1:
        assert found.item() == accuracy_score(labels, logits.argmax(1))
    if k <= classes:
        other = multiclass_accuracy(logits, labels, classes, average="micro", top_k=k)
        assert found.item() == pytest.approx(other.item(), abs=1e-6)


@pytest.mark.parametrize(("n", "classes", "seed"), CASES)
def test_balanced_and_per_class_accuracy_are_those_of_scikit_learn(n, classes, seed):
    logits, labels = sample(n, classes, seed)
    predicted = logits.argmax(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes without samples
        expected = balanced_accuracy_score(labels, predicted)
    assert balanced(logits, labels).item() == pytest.approx(expected, abs=1e-15)
    recall = recall_score(
        labels, predicted, labels=range(classes), average=None, zero_division=np.nan
    )
    np.testing.assert_array_equal(per_class(logits, labels), recall)


def test_by_hand():
    logits = torch.tensor([[3.0, 2, 1, 0], [0, 3, 2, 1], [1, 0, 2, 3], [3, 2, 1, 0]])
    labels = torch.tensor([0, 2, 0, 2])
    assert [top_k(logits, labels, k).item() for k in (1, 2, 3, 4)] == [0.25, 0.5, 1, 1]
    np.testing.assert_array_equal(per_class(logits, labels), [0.5, math.nan, 0, math.nan])
    assert balanced(logits, labels).item() == 0.25


def test_the_first_of_equal_logits_is_predicted():
    logits = torch.zeros(4, 4)
    for label in range(4):
        labels = torch.full((4,), label)
        found = [top_k(logits, labels, k).item() for k in (1, 2, 3, 4)]
        assert found == [float(k > label) for k in (1, 2, 3, 4)]
        assert per_class(logits, labels)[label].item() == float(label == 0)


def test_a_predictor_of_one_class_is_as_good_as_chance_in_balance():
    labels = torch.tensor([0] * 97 + [1, 2, 3])
    logits = torch.tensor([[1.0, 0, 0, 0]]).expand(100, 4)
    assert top_k(logits, labels).item() == 0.97
    assert balanced(logits, labels).item() == 0.25


@pytest.mark.parametrize("score", [top_k, per_class, balanced])
def test_results_are_float64_and_broken_logits_are_refused(score):
    logits, labels = sample(20, 4, 0)
    result = score(logits.half().requires_grad_(), labels)
    assert result.dtype == torch.float64
    assert not result.requires_grad
    logits[3, 1] = torch.nan
    with pytest.raises(ValueError, match="1 of 20 samples are NaN"):
        score(logits, labels)


@pytest.mark.parametrize("k", [0, -1, 1.5, True])
def test_a_wrong_k_is_named(k):
    with pytest.raises(ValueError, match=f"k is {k}: a whole number"):
        top_k(*sample(5, 3, 0), k)
