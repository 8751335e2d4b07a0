"""Comprehensiveness and sufficiency of a model whose probabilities are known."""

import pytest
import torch
from torch import nn

from attrreg.evaluation.erasure import erasure, relative_erasure


class Sum(nn.Module):
    """Two classes, whose logits are plus and minus the sum of the tokens."""

    def forward(self, x):
        total = x.flatten(1).sum(1)
        return torch.stack([total, -total], 1)


def tokens(*rows):
    """Return texts of embedded tokens, (n, length, 1), and their values (n, length)."""
    values = torch.tensor(rows, dtype=torch.float64)
    return values.unsqueeze(2), values


def probability(total):
    return torch.sigmoid(2 * torch.tensor(total, dtype=torch.float64)).item()


def test_by_hand():
    x, relevance = tokens([0.1, 2.0, -0.5, 0.4, 0.0, 0.3, 0.2, -0.1, -0.2, 0.05])
    shares = (0.01, 0.2, 0.5)  # 1, 2 and 5 tokens
    found = erasure(Sum(), x, relevance, fractions=shares, axes=(1,))
    whole = probability(2.25)
    removed, kept = (2.0, 2.4, 3.0), (2.0, 2.4, 3.0)
    expected = sum(whole - probability(2.25 - each) for each in removed) / 3
    assert found.comprehensiveness.tolist() == pytest.approx([expected])
    expected = sum(whole - probability(each) for each in kept) / 3
    assert found.sufficiency.tolist() == pytest.approx([expected])
    assert found.empty.tolist() == pytest.approx([whole - 0.5])


def test_the_prediction_is_explained_unless_a_class_is_given():
    x, relevance = tokens([-1.0, 0.5, 0.25, -0.125])
    predicted = erasure(Sum(), x, relevance, axes=(1,))
    same, other = (
        erasure(Sum(), x, relevance, explained=torch.tensor([each]), axes=(1,)) for each in (1, 0)
    )
    for name in ("comprehensiveness", "sufficiency", "empty"):
        assert torch.equal(getattr(predicted, name), getattr(same, name))
        torch.testing.assert_close(getattr(other, name), -getattr(same, name))


def test_padding_is_not_counted():
    """The numbers are those of the same text without padding."""
    x, relevance = tokens([1.0, -0.5, 0.25, 0.0, 0.125, 0.3, 0.7, -0.2, 0.6, 0.15])
    padded = torch.cat([x, torch.full((1, 30, 1), 3.0, dtype=x.dtype)], 1)
    ranked = torch.cat([relevance, torch.full((1, 30), 9.0, dtype=x.dtype)], 1)
    present = (torch.arange(40) < 10).unsqueeze(0)

    class Reads(nn.Module):
        def forward(self, x):
            return Sum()(x[:, :10])

    expected = erasure(Reads(), x, relevance, axes=(1,))
    found = erasure(Reads(), padded, ranked, present=present, axes=(1,))
    for each, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(each, wanted)


def test_relevant_tokens_are_better_than_random_ones_and_random_ones_score_zero():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn((300, 20), generator=generator, dtype=torch.float64)
    x = values.unsqueeze(2)
    sign = values.sum(1, keepdim=True).sign()

    def of(relevance):
        return erasure(Sum(), x, relevance, axes=(1,))

    random = [of(torch.rand(values.shape, generator=generator)) for _ in range(8)]
    good, bad, none = (
        relative_erasure(of(values * sign), random),
        relative_erasure(of(-values * sign), random),
        relative_erasure(random[0], random[1:]),
    )
    assert good.comprehensiveness > 0.3
    assert good.sufficiency < -0.3
    assert bad.comprehensiveness < -0.1
    assert bad.sufficiency > 0.3
    assert abs(none.comprehensiveness) < 0.06
    assert abs(none.sufficiency) < 0.06


def test_relative_scores_by_hand():
    x, relevance = tokens([1.0, 0.5], [0.25, 2.0])
    found = erasure(Sum(), x, relevance, axes=(1,))
    chance = [erasure(Sum(), x, sign * relevance, axes=(1,)) for sign in (1, -1)]
    for name in ("comprehensiveness", "sufficiency"):
        other = sum(getattr(each, name).mean() for each in chance) / 2
        expected = (getattr(found, name).mean() - other) / found.empty.mean()
        assert getattr(relative_erasure(found, chance), name).item() == pytest.approx(
            expected.item()
        )


def test_where_there_is_nothing_to_lose_it_is_not_defined():
    x, relevance = tokens([0.0, 0.0, 0.0])
    found = erasure(Sum(), x, relevance, axes=(1,))
    assert found.empty.item() == 0
    assert all(each.isnan() for each in relative_erasure(found, [found]))
    with pytest.raises(ValueError, match="by_chance is empty"):
        relative_erasure(found, [])
