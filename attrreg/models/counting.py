"""How many parameters a model has, and how much it computes."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["Counts", "counts"]


class Counts(NamedTuple):
    """Parameters, frozen ones too; floating-point operations of a forward pass of one sample."""

    parameters: int
    flops: int


def counts(model: nn.Module, shape: Sequence[int]) -> Counts:
    """Count parameters, and floating-point operations in evaluation mode.

    A multiplication and an addition are two operations. Counted are convolutions, linear layers
    and attention; norms, activations and sums are not.

    Parameters
    ----------
    model
        Left as it was. On the device ``meta`` it takes no memory and no time.
    shape
        Of one sample, without the batch axis.
    """
    values = list(model.parameters())
    modes = [(module, module.training) for module in model.modules()]
    dtype, device = values[0].dtype, values[0].device
    x = torch.zeros(1, *shape, dtype=dtype, device=device)
    try:
        # Fused kernels of some devices are not known to the counter.
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as found:
            model.eval()(x)
    finally:
        for module, training in modes:
            module.training = training
    return Counts(sum(each.numel() for each in values), found.get_total_flops())
