"""Targets: each explains the output that its name says."""

import pytest
import torch
from torch import nn

from attrreg.attribution import relevance
from attrreg.attribution.targets import label, margin, prediction, random_class

LOGITS = torch.tensor([[1.0, 3.0, 2.0], [0.5, -1.0, 0.5], [4.0, 4.0, 4.0]], dtype=torch.float64)
LABELS = torch.tensor([1, 2, 0])


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (label(LABELS), [[0, 1, 0], [0, 0, 1], [1, 0, 0]]),
        (prediction(), [[0, 1, 0], [1, 0, 0], [1, 0, 0]]),
        (margin(LABELS), [[0, 1, -1], [-1, 0, 1], [1, -1, 0]]),
    ],
    ids=["label", "prediction", "margin"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_by_hand(target, expected, dtype):
    weights = target(LOGITS.to(dtype))
    assert weights.dtype == dtype
    assert weights.tolist() == expected


@pytest.mark.parametrize(
    "target", [label(LABELS * 0), prediction(), margin(LABELS * 0), random_class()]
)
def test_one_class_is_explained_alone(target):
    assert target(LOGITS[:, :1]).tolist() == [[1], [1], [1]]


def test_a_random_class_is_every_class_equally_often(seeded):
    weights = random_class(seeded(0))(torch.zeros(3000, 4, dtype=torch.float64))
    assert torch.equal(weights.sum(1), torch.ones(3000).double())
    assert (weights.sum(0) - 750).abs().max() < 5 * (3000 * 0.25 * 0.75) ** 0.5


def test_a_random_class_is_drawn_from_the_given_stream_only(seeded):
    logits, before = torch.zeros(50, 4), torch.get_rng_state()
    first, again, other = (random_class(seeded(seed))(logits) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("target", [label, margin])
@pytest.mark.parametrize(
    ("y", "said"),
    [
        (torch.tensor([0, 1]), r"\(2,\)"),
        (torch.tensor([0, 1, 2], dtype=torch.int32), "int32"),
        (torch.tensor([[0], [1], [2]]), r"\(3, 1\)"),
        (torch.tensor([0, 1, 3]), "from 0 to 3.*0 to 2"),
        (torch.tensor([0, -1, 1]), "from -1 to 1"),
    ],
)
def test_labels_that_do_not_fit_are_refused(target, y, said):
    with pytest.raises(ValueError, match=said):
        target(y)(LOGITS)


def test_a_target_is_explained(make_batch):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(128, 4)).double()
    x, y = make_batch("small")
    others = model(x).detach().scatter(1, y[:, None], -torch.inf).argmax(1)
    expected = (model[1].weight[y] - model[1].weight[others]).detach().view_as(x)
    torch.testing.assert_close(relevance(model, x, margin(y), "gradient"), expected)
