"""Tensors that a model changes in place, and views of them.

A convolution waits for a batch norm that may read it. While it waits, and afterwards, its output
can be changed in place, seen through a view, or written into. The map is right, or refused.
"""

import pytest
import torch
from networks import LAYERWISE, Apply, assert_accounted, assert_right_or_refused, batch_norm
from torch import nn
from torch.nn import functional as F


def _in_place_then_norm(net, x):
    h = net.conv(x)
    F.relu(h, inplace=True)
    return F.relu(net.norm(h))


def _in_place_method_then_norm(net, x):
    h = net.conv(x)
    h.relu_()
    return F.relu(net.norm(h))


def _norm_reads_the_returned_tensor(net, x):
    return F.relu(net.norm(F.relu(net.conv(x), inplace=True)))


def _sum_in_place_then_norm(net, x):
    h = net.conv(x)
    h.add_(net.other(x))
    return F.relu(net.norm(h))


def _augmented_sum_then_norm(net, x):
    h = net.conv(x)
    h += net.other(x)
    return F.relu(net.norm(h))


def _read_before_the_change(net, x):
    h = net.conv(x)
    y = h + net.other(x)
    F.relu(h, inplace=True)
    return F.relu(y) + h


def _view_then_in_place(net, x):
    h = net.conv(x)
    view = h.view(len(h), 2, 2, 4, 4)
    F.relu(h, inplace=True)
    return view.flatten(1, 2)


def _slice_then_in_place(net, x):
    h = net.conv(x)
    part = h[:, 1:]
    h.relu_()
    return torch.cat([part, h[:, :1]], 1)


def _contiguous_then_in_place(net, x):
    h = net.conv(x)
    same = h.contiguous()
    F.relu(h, inplace=True)
    return same


def _view_after_a_change_then_another(net, x):
    h = net.conv(x)
    h.add_(net.other(x))
    view = h.flatten(1)
    h.add_(net.other(x))
    return view.view(h.shape)


def _view_changed_in_place(net, x):
    h = net.conv(x)
    h.flatten(1).relu_()
    return h


def _zeroed(net, x):
    h = net.conv(x)
    h[:, 0] = 0
    return h


def _zeroed_after_pooling(net, x):
    h = F.avg_pool2d(net.conv(x), 3, 1, 1)
    h[:, :2] = 0
    return h


def _written_into_a_buffer(net, x):
    buffer = torch.zeros(len(x), 4, 4, 4, dtype=x.dtype)
    buffer[:] = net.conv(x)
    return F.relu(buffer)


def _buffer_as_a_gate(net, x):
    h = F.relu(net.conv(x))
    gate = torch.zeros(h.shape, dtype=h.dtype)
    gate[:] = h
    return h * gate


def _accumulated(net, x):
    total = net.conv(x)
    for _ in range(2):
        total += F.relu(net.other(x))
    return total


def _changed_twice(net, x):
    h = net.conv(x)
    h.add_(net.other(x))
    h.relu_()
    return h


def network(forward):
    """A network around a forward pass, its input and labels."""
    torch.manual_seed(3)
    model = Apply(
        lambda net, x: net.head(forward(net, x).flatten(1)),
        conv=nn.Conv2d(2, 4, 3),
        other=nn.Conv2d(2, 4, 3),
        norm=batch_norm(nn.BatchNorm2d, [1.0, -2.0, 0.5, 3.0], [0.3, -0.2, 0.0, 1.0]),
        head=nn.Linear(64, 3),
    )
    return model, torch.randn(2, 2, 6, 6, dtype=torch.float64), torch.tensor([0, 2])


USUAL = [_norm_reads_the_returned_tensor, _augmented_sum_then_norm, _accumulated, _changed_twice]
OTHERS = [
    *(_in_place_then_norm, _in_place_method_then_norm, _sum_in_place_then_norm),
    *(_read_before_the_change, _view_then_in_place, _slice_then_in_place),
    *(_contiguous_then_in_place, _view_after_a_change_then_another, _view_changed_in_place),
    *(_zeroed, _zeroed_after_pooling, _written_into_a_buffer, _buffer_as_a_gate),
]


@pytest.mark.parametrize("rule", ["lrp-0", "epsilon-plus-flat"])
@pytest.mark.parametrize("forward", [*USUAL, *OTHERS])
def test_right_or_refused(forward, rule):
    assert_right_or_refused(*network(forward), rule)


@pytest.mark.parametrize("rule", LAYERWISE)
@pytest.mark.parametrize("forward", USUAL)
def test_the_usual_forms_are_not_refused(forward, rule):
    assert_accounted(*network(forward), rule)
