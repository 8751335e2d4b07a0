"""The attribution that looks at nothing: a random map, for baselines such as random erasing.

It stands apart from the others so that a change of theirs does not train its runs again.
"""

import torch
from torch import Tensor, nn

from attrreg import parameters
from attrreg.features import resolve_axes
from attrreg.state import State

__all__ = ["Uniform"]

NO_STATE = State()


class Uniform(parameters.Uniform):
    """No attribution: an independent U(0, 1) value per feature."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, state: State = NO_STATE) -> Tensor:
        """Return values in [0, 1), (n, *features)."""
        axes = resolve_axes(x, state.feature_axes)
        shape = (len(x), *(x.shape[axis] for axis in axes))
        return torch.rand(shape, generator=state.generator, dtype=x.dtype, device=x.device)
