"""Networks so small that their relevance is worked out on paper."""

import pytest
import torch
from networks import Apply, assert_accounted, batch_norm, linear, pixel, pointwise
from torch import nn
from torch.nn import functional as F

from attrreg.attribution import Rule, ledger, relevance

PLUS = Rule("plus", convolution="plus", epsilon=0.0)
FLAT = Rule("flat", convolution="plus", first="flat", epsilon=0.0)
FIRST = torch.tensor([0])


def check(model, x, rule, expected, absorbed=0.0):
    """Ask for these values of relevance, in order, and this amount absorbed."""
    result = ledger(model, x, FIRST, rule)
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(result.relevance.flatten(), expected, rtol=1e-10, atol=1e-10)
    assert result.absorbed.item() == pytest.approx(absorbed, abs=1e-10)
    assert_accounted(model, x, FIRST, rule)


def test_two_linear_layers():
    # h = (-0.5, 3, 1), ReLU (0, 3, 1), logit 6 − 3 + 1 = 4. Relevance of h: (0, 6, −3), bias 1.
    # Through h₂ flow 4 and 4 and −2 into its bias, through h₃ 3 and −6.
    first = linear([[1, -1], [2, 1], [-1, 1]], [0.5, -1, 0])
    model = nn.Sequential(first, nn.ReLU(), linear([[1, 2, -3], [0, 1, 0]], [1, 0]))
    x = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    check(model, x, "lrp-0", [7, -2], absorbed=-1)


def test_a_convolution_under_plus():
    # h = (-0.5, 5, 1), logit 10 − 3 + 1 = 8. Relevance of h: (0, 10, −3), bias 1.
    # h₂: positive contributions 2 and 2, bias 1: 4 and 4 and 2. h₃: only x₂ contributes: −3.
    first = pointwise([[1, -1], [2, 1], [-1, 1]], [0.5, 1, 0])
    model = nn.Sequential(first, nn.ReLU(), nn.Flatten(), linear([[1, 2, -3]], [1]))
    check(model, pixel(1, 2), PLUS, [4, 1], absorbed=3)


def test_negative_inputs_under_plus():
    # x = (−1, 2, −2), weights (−3, 1, 2): contributions 3, 2, −4; z = 1, logit 10, z⁺ = 5.
    model = nn.Sequential(pointwise([[-3, 1, 2]]), nn.Flatten(), linear([[10]]))
    check(model, pixel(-1, 2, -2), PLUS, [6, 4, 0])


def test_negative_bias_gets_nothing_under_plus_and_its_share_otherwise():
    # Contributions 2 and 4, bias −3: z = 3, logit 6.
    model = nn.Sequential(pointwise([[2, 2]], [-3]), nn.Flatten(), linear([[2]]))
    check(model, pixel(1, 2), PLUS, [2, 4])
    check(model, pixel(1, 2), "lrp-0", [4, 8], absorbed=-6)


def test_a_unit_without_positive_contribution_falls_back_to_epsilon():
    # z = −1 − 2 = −3, logit 6. Without a stabiliser: 6 · (−1)/(−3) = 2 and 4.
    model = nn.Sequential(pointwise([[-1, -1]]), nn.Flatten(), linear([[-2]]))
    check(model, pixel(1, 2), PLUS, [2, 4])
    # ε = ½ of the layer's mean magnitude keeps a third, here and in the linear layer: 6 → 4 → 8/3.
    half = Rule("half", convolution="plus", epsilon=0.5)
    check(model, pixel(1, 2), half, [8 / 9, 16 / 9], absorbed=10 / 3)


def test_the_stabiliser_is_relative_to_the_mean_magnitude():
    # z = (3, −1): mean magnitude 2, ε = ½: factors 3/4 and 1/2. Logits (5, 0): mean 2.5, factor ⅘.
    # Relevance of z: ⅘ · (6, −1) = (4.8, −0.8), after the stabiliser (3.6, −0.4).
    model = nn.Sequential(linear([[1, 1], [1, -1]]), linear([[2, 1], [1, 3]]))
    x = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    check(model, x, Rule("half", epsilon=0.5), [1.2 - 0.4 * -1, 2.4 - 0.4 * 2], absorbed=1.8)


def test_a_residual_sum_shares_by_value():
    # Branch (1, 3), skip (1, 2), sum (2, 5); logit 2 + 10 = 12: branch (1, 6), skip (1, 4).
    model = Apply(
        lambda net, x: net.head((net.branch(x) + x).flatten(1)),
        branch=pointwise([[3, -1], [1, 1]]),
        head=linear([[1, 2]]),
    )
    check(model, pixel(1, 2), PLUS, [1 + 2 + 1, 0 + 4 + 4])
    check(model, pixel(1, 2), "lrp-0", [3 + 2 + 1, -2 + 4 + 4])


def test_max_pooling_gives_all_to_the_winner():
    model = nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), linear([[2, -1]]))
    x = torch.tensor([[[[1.0, 3, 0, -1], [2, -1, -5, -2]]]], dtype=torch.float64)
    check(model, x, "lrp-0", [0, 6, 0, 0, 0, 0, 0, 0])
    check(model, x - 4, "lrp-0", [0, -2, 4, 0, 0, 0, 0, 0])


def test_average_pooling_shares_by_value():
    model = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), linear([[4]]))
    check(model, torch.tensor([[[[1.0, 3], [-2, 0]]]]).double(), "lrp-0", [1, 3, -2, 0])


def _three_taps(bias):
    first = nn.Conv1d(1, 1, 3, padding=1, dtype=torch.float64)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[[1.0, 2, 1]]]))
        first.bias.fill_(bias)
    return nn.Sequential(first, nn.ReLU(), nn.Flatten(), linear([[1, 1, 1]]))


def test_flat_counts_only_taps_inside_the_input():
    # x = (1, 0, 2): z = (2, 3, 4) from 2, 3 and 2 taps. The zero in the middle gets relevance, too.
    x = torch.tensor([[[1.0, 0, 2]]], dtype=torch.float64)
    check(_three_taps(0), x, FLAT, [1 + 1, 1 + 1 + 2, 1 + 2])
    # Flat does not ask where a value comes from: the bias is part of what it spreads.
    check(_three_taps(6), x, FLAT, [4 + 3, 4 + 3 + 5, 3 + 5])


def test_flat_explains_an_empty_input():
    check(_three_taps(6), torch.zeros(1, 1, 3).double(), FLAT, [3 + 2, 3 + 2 + 3, 2 + 3])


def test_flat_spreads_over_all_channels_of_a_group():
    first = nn.Conv2d(4, 2, 1, groups=2, bias=False, dtype=torch.float64)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0, 0], [0, 3]])[..., None, None])
    model = nn.Sequential(first, nn.Flatten(), linear([[2, 1]]))
    check(model, pixel(3, 7, 7, 2), FLAT, [3, 3, 3, 3])


@pytest.mark.parametrize("kernel", [1, 3])
def test_flat_where_a_unit_sees_only_padding(kernel):
    """Such a unit has nothing to give its relevance to: it is absorbed, not lost."""
    torch.manual_seed(kernel)
    first = nn.Conv2d(1, 2, kernel, padding=kernel)
    model = nn.Sequential(first, nn.Flatten(), nn.LazyLinear(3)).double()
    x = torch.randn(1, 1, 3, 3, dtype=torch.float64)
    model(x)
    assert_accounted(model, x, FIRST, "epsilon-plus-flat")


def test_a_batch_norm_is_one_layer_with_the_convolution_it_reads():
    # h = 3 from contributions 2 and 1; batch norm −h + 5 = 2, logit 6. Folded: −2, −1 and bias 5.
    norm = batch_norm(nn.BatchNorm2d, [-1.0], [5.0])
    model = nn.Sequential(pointwise([[1, 1]]), norm, nn.Flatten(), linear([[3]]))
    check(model, pixel(2, 1), "lrp-0", [-6, -3], absorbed=15)
    check(model, pixel(2, 1), PLUS, [0, 0], absorbed=6)
    check(model, pixel(2, 1), FLAT, [3, 3])


def test_a_batch_norm_that_reads_no_convolution_keeps_its_shift():
    # Linear (3, 1), batch norm (2·3 − 1, −1 + 3) = (5, 2), logit 5 − 4 = 1.
    # Relevance of the batch norm's outputs (5, −4): shifts take −1 and −6, inputs 6 and 2.
    norm = batch_norm(nn.BatchNorm1d, [2.0, -1.0], [-1.0, 3.0])
    model = nn.Sequential(linear([[1, 1], [1, -1]]), norm, linear([[1, -2]]))
    x = torch.tensor([[2.0, 1.0]], dtype=torch.float64)
    check(model, x, "lrp-0", [6 * 2 / 3 + 2 * 2, 6 / 3 - 2], absorbed=-7)


def test_a_lone_batch_norm_on_a_branch_gets_its_share():
    # Branch (4, −2) and skip (2, 1), sum (6, −1), logit 6 − 2 = 4: branch (4, −4), skip (2, 2).
    norm = batch_norm(nn.BatchNorm1d, [2.0, -1.0], [0.0, -1.0])
    model = Apply(lambda net, x: net.head(net.norm(x) + x), norm=norm, head=linear([[1, 2]]))
    x = torch.tensor([[2.0, 1.0]], dtype=torch.float64)
    check(model, x, "lrp-0", [4 + 2, -2 + 2], absorbed=-2)


def test_a_batch_norm_after_a_relu_is_not_folded_into_the_convolution_before():
    # h = ReLU(3, −1) = (3, 0); batch norm (2·3 − 1, 0 + 4) = (5, 4), logit 9.
    norm = batch_norm(nn.BatchNorm2d, [2.0, 1.0], [-1.0, 4.0])
    first = pointwise([[1, 1], [-1, 1]])
    model = nn.Sequential(first, nn.ReLU(), norm, nn.Flatten(), linear([[1, 1]]))
    check(model, pixel(2, 1), PLUS, [4, 2], absorbed=3)


def test_a_convolution_read_by_a_batch_norm_and_by_a_sum():
    # h = (3, 1), batch norm (6, −1), sum (9, 0), logit 9.
    # Through the batch norm: unit 1 has 6 from 4 and 2; unit 2 has −2, all from x₂ (−2 + 1 = −1).
    # Through the sum: unit 1 has 3 from 2 and 1; unit 2 has 2, all from x₁ (2 − 1 = 1).
    model = Apply(
        lambda net, x: net.head(_with_normed(net, net.conv(x)).flatten(1)),
        conv=pointwise([[1, 1], [1, -1]]),
        norm=batch_norm(nn.BatchNorm2d, [2.0, -1.0], [0.0, 0.0]),
        head=linear([[1, 2]]),
    )
    check(model, pixel(2, 1), PLUS, [4 + 2 + 2, 2 - 2 + 1])
    check(model, pixel(2, 1), "lrp-0", [6, 3])


def _with_normed(net, h):
    return net.norm(h) + h


def test_a_skip_that_reads_what_a_relu_changed_in_place():
    # h = (3, −1) becomes (3, 0) for the skip as well: (6 + 3, 0), logit 9, all by way of unit 1.
    def forward(net, x):
        h = net.conv(x)
        y = net.deep(F.relu(h, inplace=True))
        return net.head((y + h).flatten(1))

    layers = {"conv": pointwise([[1, 1], [1, -2]]), "deep": pointwise([[2, 0], [0, 2]])}
    model = Apply(forward, **layers, head=linear([[1, 5]]))
    check(model, pixel(1, 2)[:, [1, 0]], PLUS, [6, 3])


def test_relevance_is_the_map_of_the_ledger():
    model = _three_taps(6)
    x = torch.tensor([[[1.0, 0, 2]]], dtype=torch.float64)
    assert torch.equal(relevance(model, x, FIRST, FLAT), ledger(model, x, FIRST, FLAT).relevance)
