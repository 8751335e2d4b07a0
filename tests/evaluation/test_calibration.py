import math

import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss, log_loss
from torchmetrics.functional.classification import (
    binary_calibration_error,
    multiclass_calibration_error,
)

from attrreg.evaluation.calibration import (
    brier,
    brier_decomposition,
    classwise_ece,
    ece,
    mce,
    nll,
    reliability,
    rmsce,
    scaled,
    temperature,
)

SCORES = (ece, mce, rmsce, classwise_ece, brier, nll, temperature)


def sample(n=2000, classes=5, scale=2.0, seed=0):
    """Draw logits, and labels from the softmax of ``logits / scale``: their temperature."""
    generator = torch.Generator().manual_seed(seed)
    calm = 2 * torch.randn(n, classes, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(calm.softmax(dim=1), 1, generator=generator).squeeze(1)
    return calm * scale, labels


def logits_of(*confidences):
    """Return two-class logits that predict class 0 with these confidences."""
    confidence = torch.tensor(confidences, dtype=torch.float64)
    return torch.stack((confidence, 1 - confidence), dim=1).log()


@pytest.mark.parametrize("bins", [1, 10, 15])
@pytest.mark.parametrize("n", [1, 7, 2000])
@pytest.mark.parametrize("after", [1.0, 2.0, 5.0])
@pytest.mark.parametrize(("score", "norm"), [(ece, "l1"), (rmsce, "l2"), (mce, "max")])
def test_equal_width_errors_equal_torchmetrics(score, norm, after, n, bins):
    """Before and after temperature scaling."""
    logits, labels = sample(n)
    logits = scaled(logits, after)
    expected = multiclass_calibration_error(
        logits.softmax(dim=1), labels, num_classes=5, n_bins=bins, norm=norm
    )
    assert score(logits, labels, bins).item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize("bins", [1, 10])
@pytest.mark.parametrize("n", [1, 2000])
def test_the_classwise_error_is_the_mean_of_torchmetrics_binary_errors(n, bins):
    logits, labels = sample(n)
    expected = [
        binary_calibration_error(probability, (labels == number).long(), n_bins=bins)
        for number, probability in enumerate(logits.softmax(dim=1).T.contiguous())
    ]
    found = classwise_ece(logits, labels, bins).item()
    assert found == pytest.approx(torch.stack(expected).mean().item(), abs=1e-6)


@pytest.mark.parametrize("n", [1, 360])
def test_counts_are_numpys_histogram_of_confidence(n):
    logits, labels = sample(n)
    confidence = logits.softmax(dim=1).amax(dim=1)
    expected, edges = np.histogram(confidence, bins=20, range=(0, 1))
    diagram = reliability(logits, labels, 20)
    assert diagram.count.tolist() == expected.tolist()
    np.testing.assert_allclose(diagram.low, edges[:-1], atol=1e-15)


def decomposition_by_hand(probability, labels, bins):
    """Return the four parts with nothing but loops."""
    n, classes = probability.shape
    parts = [0.0] * 4
    for k in range(classes):
        o = [float(label == k) for label in labels]
        base = sum(o) / n
        parts[2] += base * (1 - base)
        for b in range(bins):
            inside = [i for i in range(n) if min(int(probability[i, k] * bins), bins - 1) == b]
            if not inside:
                continue
            size = len(inside)
            p_mean = sum(probability[i, k] for i in inside) / size
            o_mean = sum(o[i] for i in inside) / size
            parts[0] += size * (p_mean - o_mean) ** 2 / n
            parts[1] += size * (o_mean - base) ** 2 / n
            parts[3] += (
                sum(
                    (probability[i, k] - p_mean) ** 2
                    - 2 * (probability[i, k] - p_mean) * (o[i] - o_mean)
                    for i in inside
                )
                / n
            )
    return parts


@pytest.mark.parametrize("bins", [1, 7])
def test_the_parts_of_the_brier_score_are_those_of_a_plain_loop(bins):
    logits, labels = sample(50)
    expected = decomposition_by_hand(logits.softmax(1).numpy(), labels.tolist(), bins)
    np.testing.assert_allclose(brier_decomposition(logits, labels, bins), expected, atol=1e-12)


@pytest.mark.parametrize("scheme", ["width", "mass"])
@pytest.mark.parametrize("bins", [1, 15, 200])
@pytest.mark.parametrize("n", [1, 40, 2000])
def test_the_parts_of_the_brier_score_add_up_to_it(n, bins, scheme):
    logits, labels = sample(n)
    parts = brier_decomposition(logits, labels, bins, scheme)
    whole = parts.reliability - parts.resolution + parts.uncertainty + parts.within
    assert whole.item() == pytest.approx(brier(logits, labels).item(), abs=1e-12)
    assert min(parts[:3]) >= 0


def test_nothing_is_left_within_bins_of_equal_probabilities():
    """Then reliability, resolution and uncertainty are those of Murphy alone."""
    logits, labels = logits_of(0.9, 0.9, 0.9, 0.6), torch.tensor([0, 0, 1, 1])
    parts = brier_decomposition(logits, labels, 5)
    assert parts.within.item() == pytest.approx(0, abs=1e-15)
    assert parts.uncertainty.item() == pytest.approx(2 * 0.25)
    resolution = (3 * (2 / 3 - 0.5) ** 2 + 0.5**2) / 4
    assert parts.resolution.item() == pytest.approx(2 * resolution)
    error = (3 * (0.9 - 2 / 3) ** 2 + 0.6**2) / 4
    assert parts.reliability.item() == pytest.approx(2 * error)


def test_parts_of_known_predictors():
    labels = torch.arange(4).repeat(5)
    perfect = 1000 * torch.nn.functional.one_hot(labels).double()
    for logits, expected in (
        (perfect, (0, 0.75, 0.75, 0)),
        (torch.zeros(20, 4), (0, 0, 0.75, 0)),
        (1000 * torch.eye(4)[0].expand(20, 4), (0.75**2 + 3 * 0.25**2, 0, 0.75, 0)),
    ):
        np.testing.assert_allclose(brier_decomposition(logits, labels), expected, atol=1e-12)


@pytest.mark.parametrize("after", [1.0, 2.0])
def test_brier_and_nll_equal_scikit_learn(after):
    logits, labels = sample()
    logits = scaled(logits, after)
    probability = logits.softmax(dim=1).numpy()
    expected = brier_score_loss(labels, probability, labels=range(5), scale_by_half=False)
    assert brier(logits, labels).item() == pytest.approx(expected, rel=1e-9)
    expected = log_loss(labels, probability, labels=range(5))
    assert nll(logits, labels).item() == pytest.approx(expected, rel=1e-9)


def test_by_hand():
    logits, labels = logits_of(0.9, 0.9, 0.9, 0.6), torch.tensor([0, 0, 1, 1])
    diagram = reliability(logits, labels, bins=5)
    assert diagram.count.tolist() == [0, 0, 0, 1, 3]
    np.testing.assert_allclose(diagram.confidence, [np.nan] * 3 + [0.6, 0.9])
    np.testing.assert_allclose(diagram.accuracy, [np.nan] * 3 + [0, 2 / 3])
    np.testing.assert_allclose(diagram.low, [0, 0.2, 0.4, 0.6, 0.8])
    np.testing.assert_allclose(diagram.high, [0.2, 0.4, 0.6, 0.8, 1])
    assert ece(logits, labels, 5).item() == pytest.approx((0.6 + 3 * (0.9 - 2 / 3)) / 4)
    assert mce(logits, labels, 5).item() == pytest.approx(0.6)
    squares = (0.6**2 + 3 * (0.9 - 2 / 3) ** 2) / 4
    assert rmsce(logits, labels, 5).item() == pytest.approx(math.sqrt(squares))
    classwise = (0.6 + 3 * (0.9 - 2 / 3)) / 4  # both classes alike
    assert classwise_ece(logits, labels, 5).item() == pytest.approx(classwise)
    assert brier(logits, labels).item() == pytest.approx((2 * 0.02 + 2 * 0.81 + 2 * 0.36) / 4)
    assert nll(logits, labels).item() == pytest.approx(-math.log(0.9**2 * 0.1 * 0.4) / 4)


def test_the_surest_samples_are_in_the_last_bin():
    logits, labels = (
        torch.tensor([[1000.0, 0.0], [1000.0, 0.0], [0.1, 0.0]]),
        torch.tensor([0, 1, 0]),
    )
    diagram = reliability(logits, labels, bins=3)
    assert diagram.count.tolist() == [0, 1, 2]
    assert diagram.confidence[-1] == 1.0
    assert mce(logits, labels, 3).item() == pytest.approx(0.5)


@pytest.mark.parametrize("scheme", ["width", "mass"])
@pytest.mark.parametrize("surest", [1, 5, 9])
def test_no_sample_is_dropped(surest, scheme):
    logits = torch.zeros(10, 2)
    logits[:surest, 0] = 1000
    labels = torch.ones(10, dtype=torch.int64)  # always wrong
    expected = (surest + (10 - surest) * 0.5) / 10
    assert ece(logits, labels, scheme=scheme).item() == pytest.approx(expected)
    assert mce(logits, labels, scheme=scheme).item() == 1.0


@pytest.mark.parametrize("n", [30, 31, 44])
def test_equal_mass_bins_are_about_equal(n):
    diagram = reliability(*sample(n), bins=15, scheme="mass")
    assert diagram.count.sum() == n
    assert diagram.count.min() >= n // 15
    assert diagram.count.max() <= -(-n // 15)


def test_equal_mass_by_hand():
    logits, labels = logits_of(0.9, 0.6, 0.8, 0.7), torch.tensor([0, 0, 1, 1])
    diagram = reliability(logits, labels, bins=2, scheme="mass")
    np.testing.assert_allclose(diagram.confidence, [0.65, 0.85])
    np.testing.assert_allclose(diagram.accuracy, [0.5, 0.5])
    np.testing.assert_allclose(diagram.low, [0.6, 0.8])
    np.testing.assert_allclose(diagram.high, [0.7, 0.9])
    assert ece(logits, labels, 2, "mass").item() == pytest.approx(0.25)


def test_ties_share_an_equal_mass_bin():
    logits, labels = logits_of(*[0.7] * 5, 0.9), torch.tensor([0, 1, 0, 1, 0, 0])
    diagram = reliability(logits, labels, bins=3, scheme="mass")
    assert diagram.count.tolist() == [0, 5, 1]
    np.testing.assert_allclose(diagram.low, [np.nan, 0.7, 0.9])
    np.testing.assert_allclose(diagram.high, [np.nan, 0.7, 0.9])
    order = torch.tensor([5, 3, 1, 0, 2, 4])
    turned = ece(logits[order], labels[order], 3, "mass")
    assert turned.item() == pytest.approx(ece(logits, labels, 3, "mass").item(), abs=1e-15)


@pytest.mark.parametrize("scheme", ["width", "mass"])
def test_fewer_samples_than_bins(scheme):
    assert ece(logits_of(0.8), torch.tensor([0]), 15, scheme).item() == pytest.approx(0.2)
    assert mce(logits_of(0.8), torch.tensor([1]), 15, scheme).item() == pytest.approx(0.8)


def test_perfect_predictor():
    labels = torch.arange(4).repeat(5)
    logits = 1000 * torch.nn.functional.one_hot(labels).float()
    scores = (ece, mce, rmsce, classwise_ece, brier, nll)
    assert [score(logits, labels).item() for score in scores] == [0] * 6
    assert temperature(logits, labels).item() == pytest.approx(1e-3)


def test_surely_wrong_predictor():
    logits, labels = torch.tensor([[1000.0, 0.0]]), torch.tensor([1])
    scores = (ece, mce, rmsce, classwise_ece, brier, nll)
    assert [score(logits, labels).item() for score in scores] == [1, 1, 1, 1, 2, 1000]
    assert temperature(logits, labels).item() == pytest.approx(1e3)


def test_constant_predictor():
    logits, labels = torch.zeros(10, 5), torch.arange(5).repeat(2)
    assert ece(logits, labels).item() == pytest.approx(0)
    assert classwise_ece(logits, labels).item() == pytest.approx(0)
    assert brier(logits, labels).item() == pytest.approx(0.8)
    assert nll(logits, labels).item() == pytest.approx(math.log(5))
    assert temperature(logits, labels).item() == 1.0


def test_predictor_of_one_class():
    logits, labels = logits_of(*[0.8] * 5), torch.tensor([0, 0, 0, 0, 1])
    assert ece(logits, labels).item() == pytest.approx(0, abs=1e-12)
    assert temperature(logits, labels).item() == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("scale", [0.25, 1.0, 4.0])
def test_temperature_finds_the_scale_and_calibrates(scale):
    logits, labels = sample(20_000, scale=scale)
    found = temperature(logits, labels)
    assert found.item() == pytest.approx(scale, rel=0.05)
    assert ece(logits / found, labels) < 0.015
    for factor in (0.99, 1.01):
        assert nll(logits / found, labels) < nll(logits / (found * factor), labels)


def test_temperature_scales_with_the_logits():
    logits, labels = sample(500)
    assert temperature(3 * logits, labels).item() == pytest.approx(
        3 * temperature(logits, labels).item(), rel=1e-9
    )


@pytest.mark.parametrize("score", [ece, rmsce, classwise_ece, nll, brier])
def test_scaling_by_the_temperature_makes_every_score_better(score):
    logits, labels = sample(5000, scale=4.0)
    after = scaled(logits, temperature(logits, labels))
    assert score(after, labels) < score(logits, labels)
    assert torch.equal(after.argmax(1), logits.argmax(1))


def test_scaled_logits_are_divided():
    logits, labels = sample(20)
    found = temperature(logits, labels)
    assert torch.equal(scaled(logits.float(), 1.0), logits.float().double())
    assert torch.equal(scaled(logits, found), logits / found)


@pytest.mark.parametrize("wrong", [0, -1.0, math.nan, math.inf, torch.ones(2)])
def test_a_wrong_temperature_is_named(wrong):
    with pytest.raises(ValueError, match=r"temperature is .*: a finite number > 0"):
        scaled(torch.zeros(2, 2), wrong)


def test_over_confidence_is_seen():
    logits, labels = sample(scale=4.0)
    diagram = reliability(logits, labels)
    assert diagram.confidence[-1] > diagram.accuracy[-1]
    assert ece(logits, labels) > 4 * ece(logits / 4, labels)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_results_are_float64_scalars_without_gradient(score, dtype):
    logits, labels = sample(20)
    result = score(logits.to(dtype).requires_grad_(), labels)
    assert result.shape == ()
    assert result.dtype == torch.float64
    assert not result.requires_grad


@pytest.mark.parametrize("score", [*SCORES, reliability, brier_decomposition])
@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), r"logits have shape \(0, 3\)"),
        (torch.zeros(3), torch.zeros(3, dtype=torch.int64), r"logits have shape \(3,\)"),
        (torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64), r"logits have shape \(3, 1\)"),
        (torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64), r"labels have shape \(2,\)"),
        (torch.zeros(3, 2), torch.zeros(3, 2, dtype=torch.int64), r"labels have shape \(3, 2\)"),
        (torch.zeros(2, 2), torch.zeros(2), r"labels have dtype torch.float32"),
        (torch.zeros(2, 2).long(), torch.zeros(2).long(), r"logits have dtype torch.int64"),
        (torch.tensor([[0, math.nan], [0, 1]]), torch.tensor([0, 1]), r"1 of 2 samples are NaN"),
        (torch.tensor([[0, -math.inf], [0, 1]]), torch.tensor([0, 1]), r"NaN or infinite"),
        (torch.zeros(2, 2), torch.tensor([0, 2]), r"between 0 and 2: 0 to 1 is allowed"),
        (torch.zeros(2, 2), torch.tensor([-1, 1]), r"between -1 and 1"),
    ],
)
def test_wrong_input_is_named(score, logits, labels, message):
    with pytest.raises(ValueError, match=message):
        score(logits, labels)


def test_wrong_options_are_named():
    logits, labels = sample(5)
    with pytest.raises(ValueError, match=r"bins is 0"):
        ece(logits, labels, 0)
    with pytest.raises(ValueError, match=r"unknown scheme 'size': known are width, mass"):
        mce(logits, labels, scheme="size")
