"""Corruptions of known images, accuracy under them, and detection against scikit-learn."""

import copy
import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from sklearn.metrics import accuracy_score, average_precision_score, roc_auc_score
from torch import nn

from attrreg.evaluation.accuracy import top_k
from attrreg.evaluation.shift import (
    SEVERITIES,
    accuracies_under,
    accuracy_under,
    class_mapped,
    corrupt,
    detection,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(n=4, channels=3, height=24, width=32):
    """Return images with edges and slopes."""
    random = torch.rand((n, channels, 4, 4), generator=generator())
    large = nn.functional.interpolate(random, (height, width), mode="bicubic").clamp(0, 1)
    large[:, :, 5:10, 6:20] *= 0.3
    return (255 * large).round().to(torch.uint8)


def distance(first, second):
    return (first.double() - second.double()).square().mean().item()


@pytest.mark.parametrize("kind", SEVERITIES)
@pytest.mark.parametrize(
    ("channels", "size"), [(1, 24), (2, 24), (3, 24), (3, 8), (1, 8), (3, 160)]
)
def test_every_severity_is_stronger_than_the_one_before(kind, channels, size):
    x = images(20 if size == 8 else 2, channels, size, size)
    kept = x.clone()
    found = [corrupt(x, kind, severity) for severity in (1, 2, 3, 4, 5)]
    assert all(each.dtype == torch.uint8 and each.shape == x.shape for each in found)
    distances = [distance(x, each) for each in found]
    assert distances[0] > 0
    assert distances == sorted(set(distances))
    assert torch.equal(x, kept)


@pytest.mark.parametrize("kind", SEVERITIES)
def test_the_same_state_gives_the_same_images_in_batches_of_any_size(kind):
    x, state = images(5, 1, 15, 11), torch.get_rng_state()
    random = generator(3)
    whole = corrupt(x, kind, 3, generator(3))
    parts = torch.cat([corrupt(part, kind, 3, random) for part in x.split(2)])
    assert torch.equal(whole, parts)
    assert torch.equal(corrupt(x, kind, 3), corrupt(x, kind, 3))
    assert torch.equal(whole, corrupt(x, kind, 3, generator(4))) == (kind != "noise")
    assert torch.equal(torch.get_rng_state(), state)
    assert corrupt(x[:0], kind, 3).shape == (0, *x.shape[1:])


def test_noise_has_the_deviation_it_says():
    x = torch.full((4, 3, 64, 64), 128, dtype=torch.uint8)
    for severity, deviation in enumerate(SEVERITIES["noise"][:3], 1):
        found = corrupt(x, "noise", severity).double() - 128
        assert found.std().item() == pytest.approx(255 * deviation, rel=0.03)
        assert abs(found.mean().item()) < 1


def test_a_blur_is_that_of_scipy():
    x = images(2)
    for severity, share in enumerate(SEVERITIES["blur"], 1):
        expected = [
            [
                gaussian_filter(
                    plane.astype(float), 24**0.5 * share, mode="nearest", radius=reach(share)
                )
                for plane in image
            ]
            for image in x.numpy()
        ]
        np.testing.assert_array_equal(corrupt(x, "blur", severity), np.round(expected))


def reach(share):
    return max(math.ceil(3 * 24**0.5 * share), 1)


def test_contrast_by_hand():
    x = torch.tensor([[[[0, 100], [200, 100]]]], dtype=torch.uint8)
    for severity, left in enumerate(SEVERITIES["contrast"], 1):
        low, high = round(100 - 100 * left), round(100 + 100 * left)
        assert corrupt(x, "contrast", severity).tolist() == [[[[low, 100], [high, 100]]]]
    flat = torch.tensor([0, 90, 255], dtype=torch.uint8).view(1, 3, 1, 1).expand(2, 3, 4, 4)
    assert torch.equal(corrupt(flat, "contrast", 5), flat)  # every channel has its own mean


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_that_of_pillow(channels):
    x = images(2, channels)
    found = corrupt(x, "jpeg", 2)
    for image, compressed in zip(x, found, strict=True):
        pixels = image.permute(1, 2, 0).numpy().squeeze()
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=SEVERITIES["jpeg"][1])
        expected = np.asarray(Image.open(file))
        np.testing.assert_array_equal(compressed.permute(1, 2, 0).numpy().squeeze(), expected)


@pytest.mark.parametrize(
    ("x", "kind", "severity", "message"),
    [
        (torch.zeros(2, 3, 8, 8), "noise", 1, r"x has shape \(2, 3, 8, 8\) and dtype torch.float"),
        (images()[0], "noise", 1, r"x has shape \(3, 24, 32\)"),
        (images(), "fog", 1, "unknown corruption 'fog': known are noise, blur, contrast, jpeg"),
        (images(), "noise", 0, "severity is 0: a whole number from 1 to 5"),
        (images(), "noise", 2.5, "severity is 2.5"),
    ],
)
def test_wrong_input_is_named(x, kind, severity, message):
    with pytest.raises(ValueError, match=message):
        corrupt(x, kind, severity)


def normalise(x):
    return x.float() / 255 - 0.5


class TestAccuracy:
    """Accuracy on corrupted images."""

    def model(self):
        torch.manual_seed(0)
        return nn.Sequential(
            *(nn.Flatten(), nn.BatchNorm1d(3 * 24 * 32), nn.Dropout(), nn.Linear(3 * 24 * 32, 4))
        )

    @pytest.mark.parametrize("kind", SEVERITIES)
    def test_it_is_that_of_the_corrupted_images(self, kind):
        x, model = images(30), self.model().eval()
        with torch.no_grad():
            y = model(normalise(x)).argmax(1)
            predicted = model(normalise(corrupt(x, kind, 5))).argmax(1)
        found = accuracy_under(model, x, y, normalise, kind, 5, batch_size=7)
        assert found.item() == accuracy_score(y, predicted)
        assert found.dtype == torch.float64

    def test_all_of_them_are_returned_and_the_model_is_left_as_it_was(self):
        x, model = images(30), self.model().train()
        model[1].eval()
        before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
        y = torch.arange(30) % 4
        found = accuracies_under(model, x, y, normalise, seed=2)
        assert {name: each.shape for name, each in found.items()} == dict.fromkeys(SEVERITIES, (5,))
        one = accuracy_under(model, x, y, normalise, "noise", 3, generator=generator(2))
        assert torch.equal(found["noise"][2], one)
        assert [module.training for module in model] == [True, False, True, True]
        assert all(map(torch.equal, before.values(), model.state_dict().values()))
        assert torch.equal(torch.get_rng_state(), random)

    def test_wrong_input_is_named(self):
        x, model = images(3), self.model()
        with pytest.raises(ValueError, match=r"y has shape \(2,\) for 3 images"):
            accuracy_under(model, x, torch.zeros(2), normalise, "blur", 1)
        with pytest.raises(ValueError, match="for 0 images"):
            accuracy_under(model, x[:0], torch.zeros(0), normalise, "blur", 1)
        with pytest.raises(ValueError, match="3 of 3 samples are NaN"):
            accuracy_under(model, x, torch.zeros(3), lambda x: normalise(x) * math.nan, "blur", 1)


class TestClasses:
    """Accuracy where only a part of the classes is in the test set."""

    def test_only_the_classes_of_the_set_are_open_to_the_prediction(self):
        logits = torch.tensor([[9.0, 1, 2, 0], [9, 3, 2, 1], [0, 1, 9, 2]])
        mapped = class_mapped(logits, (3, 1))
        assert mapped.tolist() == [[0, 1], [1, 3], [2, 1]]
        assert top_k(mapped, torch.tensor([1, 1, 1])).item() == pytest.approx(2 / 3)

    def test_it_is_that_of_a_plain_loop(self):
        logits = torch.randn((50, 1000), generator=generator())
        classes = torch.randperm(1000, generator=generator(1))[:200].tolist()
        labels = torch.randint(200, (50,), generator=generator(2))
        hits = [
            max(classes, key=lambda each: row[each]) == classes[label]
            for row, label in zip(logits, labels, strict=True)
        ]
        assert top_k(class_mapped(logits, classes), labels).item() == sum(hits) / 50

    @pytest.mark.parametrize("wrong", [(), (1,), (1, 1), (0, 4), (-1, 2)])
    def test_wrong_classes_are_named(self, wrong):
        with pytest.raises(ValueError, match="at least two distinct ones from 0 to 3"):
            class_mapped(torch.zeros(2, 4), wrong)


class TestDetection:
    """How well confidence tells known samples from unknown ones."""

    @pytest.mark.parametrize("digits", [1, 12], ids=["ties", "no ties"])
    def test_scores_are_those_of_scikit_learn_and_of_pairs(self, digits):
        known, unknown = (
            torch.randn((n, 5), generator=generator(seed), dtype=torch.float64).mul(scale)
            for n, seed, scale in ((60, 0, 3), (40, 1, 2))
        )
        known, unknown = known.round(decimals=digits), unknown.round(decimals=digits)
        first, second = (each.softmax(1).amax(1) for each in (known, unknown))
        found = detection(known, unknown)
        wins = (first[:, None] > second).double() + 0.5 * (first[:, None] == second).double()
        assert found.auroc.item() == pytest.approx(wins.mean().item(), abs=1e-12)
        truth, score = np.repeat([1, 0], [60, 40]), np.concatenate([first, second])
        assert found.auroc.item() == pytest.approx(roc_auc_score(truth, score), abs=1e-12)
        precision = average_precision_score(truth, score)
        assert found.aupr_known.item() == pytest.approx(precision, abs=1e-12)
        assert found.aupr_known.item() == pytest.approx(by_hand(truth, score), abs=1e-12)
        assert found.aupr_unknown.item() == pytest.approx(by_hand(1 - truth, -score), abs=1e-12)
        assert all(each.dtype == torch.float64 for each in found)

    def test_known_cases(self):
        sure, unsure = 5 * torch.eye(3), torch.zeros(6, 3)
        assert [each.item() for each in detection(sure, unsure)] == [1, 1, 1]
        assert detection(unsure, sure).auroc.item() == 0
        same = detection(unsure[:2], unsure)
        assert [each.item() for each in same] == pytest.approx([0.5, 0.25, 0.75])

    def test_nan_is_refused(self):
        with pytest.raises(ValueError, match="2 of 2 samples are NaN"):
            detection(torch.zeros(3, 4), torch.full((2, 4), math.nan))


def by_hand(truth, score):
    """Return average precision: Σ (recall − recall before) · precision over distinct scores."""
    total, before = 0.0, 0.0
    for threshold in sorted(set(score.tolist()), reverse=True):
        chosen = score >= threshold
        recall = truth[chosen].sum() / truth.sum()
        total += (recall - before) * truth[chosen].mean()
        before = recall
    return total
