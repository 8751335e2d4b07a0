"""What chance shows in small samples, against brute force, and estimates without its share."""

import math

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification.calibration_error import _ce_compute

from attrreg.evaluation.calibration import classwise_ece, ece, mce, reliability, rmsce
from attrreg.evaluation.calibration_bias import (
    calibrated_eces,
    debiased_ece,
    debiased_rmsce,
    debiased_square,
    expected_classwise_ece,
    expected_ece,
    expected_mce,
)


def calibrated(n, spread, seed, classes=10):
    """Draw logits, and labels from their own softmax."""
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(n, classes, generator=generator, dtype=torch.float64)
    return logits, torch.multinomial(logits.softmax(1), 1, generator=generator).squeeze(1)


def logits_of(*confidences):
    """Return two-class logits that predict class 0 with these confidences."""
    confidence = torch.tensor(confidences, dtype=torch.float64)
    return torch.stack((confidence, 1 - confidence), dim=1).log()


@pytest.mark.parametrize("over", [1.0, 3.0])
def test_the_debiased_root_is_that_of_torchmetrics(over):
    logits, labels = calibrated(3000, 2.0, 0)
    logits = logits * over
    confidence, predicted = logits.softmax(1).max(1)
    assert (reliability(logits, labels, 5).count != 1).all()  # where torchmetrics debiases nothing
    expected = _ce_compute(confidence, (predicted == labels).double(), 5, "l2", debias=True)
    assert debiased_rmsce(logits, labels, 5).item() == pytest.approx(expected.item(), abs=1e-12)


def test_the_debiased_square_by_hand():
    logits, labels = logits_of(0.9, 0.9, 0.9, 0.9, 0.7, 0.6), torch.tensor([0, 0, 0, 1, 1, 0])
    expected = 4 * ((0.9 - 0.75) ** 2 - 0.75 * 0.25 / 3) / 6  # the bins of one add nothing
    found = debiased_square(logits, labels, 10)
    assert found.item() == pytest.approx(expected)
    assert found < 0
    assert debiased_rmsce(logits, labels, 10).item() == 0


def test_the_debiased_error_is_that_of_draws():
    """As in the appendix of Kumar et al., but for the closed form."""
    logits, labels = calibrated(200, 1.0, 3)
    diagram = reliability(logits, labels, 6, "mass")
    count, confidence, accuracy = (
        np.asarray(each) for each in (diagram.count, diagram.confidence, diagram.accuracy)
    )
    random = np.random.default_rng(0)
    again = random.normal(accuracy, np.sqrt(accuracy * (1 - accuracy) / count), (200_000, 6))
    weight = count / count.sum()
    drawn = (np.abs(again - confidence) @ weight).mean()
    plain = np.abs(accuracy - confidence) @ weight
    found = debiased_ece(logits, labels, 6, "mass").item()
    assert found == pytest.approx(2 * plain - drawn, abs=1e-4)


@pytest.mark.parametrize(("over", "spread"), [(1.0, 1.6), (1.0, 4.2), (1.5, 4.2), (3.0, 1.6)])
def test_debiased_estimates_are_nearer_to_the_truth_than_plain_ones(over, spread):
    runs = [calibrated(360, spread, seed) for seed in range(60)]
    large, labels = calibrated(200_000, spread, 100)
    means = {
        score: float(torch.stack([score(over * x, y) for x, y in runs]).mean())
        for score in (ece, debiased_ece, debiased_square)
    }
    squares = float(torch.stack([rmsce(over * x, y).square() for x, y in runs]).mean())
    truth = ece(over * large, labels).item()
    assert abs(means[debiased_ece] - truth) < 0.7 * (means[ece] - truth)
    square = rmsce(over * large, labels).item() ** 2
    assert abs(means[debiased_square] - square) < 0.25 * (squares - square)


def test_a_bin_without_spread_is_left_as_it_is():
    logits, labels = logits_of(0.9, 0.9, 0.6), torch.zeros(3, dtype=torch.int64)
    assert debiased_ece(logits, labels).item() == pytest.approx(ece(logits, labels).item())


def confidences(accuracy, n):
    """Return two-class logits whose confidences have this mean, from 1/2 to nearly 1."""
    place = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    share = 2 * accuracy - 1
    power = (1 - share) / share
    return logits_of(*(0.5 + 0.5 * place**power).tolist())


@pytest.mark.parametrize(("accuracy", "expected"), [(0.97, 0.012), (0.9, 0.033), (0.7, 0.059)])
def test_a_calibrated_model_shows_the_known_errors_at_360_samples(accuracy, expected):
    logits = confidences(accuracy, 360)
    assert logits.softmax(1).amax(1).mean().item() == pytest.approx(accuracy, abs=0.003)
    assert expected_ece(logits, 15).item() == pytest.approx(expected, rel=0.2)


@pytest.mark.parametrize("scheme", ["width", "mass"])
def test_expected_errors_are_those_of_labels_from_the_models_own_probabilities(scheme):
    logits, _ = calibrated(100, 2.0, 1)
    generator = torch.Generator().manual_seed(5)
    labels = torch.multinomial(logits.softmax(1), 600, replacement=True, generator=generator)
    drawn = torch.stack([ece(logits, each, 8, scheme) for each in labels.T])
    found = calibrated_eces(logits, 8, scheme, 4000)
    error = drawn.std() / math.sqrt(600)
    assert abs(found.mean() - drawn.mean()) < 4 * error
    assert found.std().item() == pytest.approx(drawn.std().item(), rel=0.15)


@pytest.mark.parametrize("scheme", ["width", "mass"])
@pytest.mark.parametrize(
    ("measured", "expected"), [(mce, expected_mce), (classwise_ece, expected_classwise_ece)]
)
def test_other_expected_errors_are_those_of_such_labels_too(measured, expected, scheme):
    logits, _ = calibrated(100, 2.0, 1)
    generator = torch.Generator().manual_seed(5)
    labels = torch.multinomial(logits.softmax(1), 600, replacement=True, generator=generator)
    drawn = torch.stack([measured(logits, each, 8, scheme) for each in labels.T])
    found = expected(logits, 8, scheme, 4000)
    assert abs(found - drawn.mean()) < 4 * drawn.std() / math.sqrt(600)
    assert found.dtype == torch.float64
    assert found.ndim == 0


def test_the_largest_error_of_one_bin_is_its_only_one():
    logits = logits_of(*[0.7] * 20)
    assert expected_mce(logits, 1).item() == pytest.approx(expected_ece(logits, 1).item())


def test_expected_error_of_one_bin_is_that_of_a_binomial():
    found = expected_ece(logits_of(*[0.7] * 20), 1, draws=20_000)
    ways = [math.comb(20, k) * 0.7**k * 0.3 ** (20 - k) for k in range(21)]
    expected = sum(way * abs(k / 20 - 0.7) for k, way in enumerate(ways))
    assert found.item() == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("expected", [expected_ece, expected_mce, expected_classwise_ece])
def test_a_sure_model_shows_nothing_by_chance(expected):
    assert expected(torch.tensor([[1000.0, 0.0]] * 5)).item() == 0
    with pytest.raises(ValueError, match="draws is 0"):
        expected(torch.tensor([[1000.0, 0.0]] * 5), draws=0)


def test_draws_are_those_of_the_generator_and_do_not_touch_other_randomness():
    logits, _ = calibrated(50, 2.0, 1)
    state = torch.get_rng_state()
    first, again, other = (
        calibrated_eces(logits, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(expected_ece(logits), expected_ece(logits))
    assert torch.equal(torch.get_rng_state(), state)
    assert first.shape == (1000,)
    assert first.dtype == torch.float64


def test_many_samples_are_drawn_in_parts_of_bounded_size(monkeypatch):
    logits, _ = calibrated(100, 2.0, 1)
    whole = expected_ece(logits, draws=3000)
    monkeypatch.setattr("attrreg.evaluation.calibration_bias.NUMBERS", 250)
    assert expected_ece(logits, draws=3000).item() == pytest.approx(whole.item(), rel=0.02)


def test_wrong_input_is_named():
    logits, labels = calibrated(5, 2.0, 1)
    with pytest.raises(ValueError, match="draws is 0"):
        expected_ece(logits, draws=0)
    with pytest.raises(ValueError, match="bins is 0"):
        debiased_ece(logits, labels, 0)
    with pytest.raises(ValueError, match="unknown scheme 'size': known are width, mass"):
        expected_ece(logits, scheme="size")
    logits[0, 0] = torch.nan
    for score in (debiased_ece, debiased_square, debiased_rmsce):
        with pytest.raises(ValueError, match="1 of 5 samples are NaN"):
            score(logits, labels)
    with pytest.raises(ValueError, match="1 of 5 samples are NaN"):
        expected_ece(logits)
