"""Maps that are made now and then, and kept per sample in between."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from attrreg import parameters
from attrreg.attribution.parts import NO_STATE
from attrreg.catalogue import implement
from attrreg.features import resolve_axes
from attrreg.state import State, slot

__all__ = ["Cached"]


class Kept(NamedTuple):
    """Maps (size, *features) on the device; on the CPU, which of them are there, (size,) bool."""

    maps: Tensor
    there: Tensor


class Cached(parameters.Cached):
    """The map of each sample is made anew in every ``every``-th epoch, and kept in between.

    A batch gets new maps if it reaches into an epoch that is a multiple of ``every``, or if it
    holds a sample that has no map yet; otherwise it gets those that are kept. So with permutations
    of the training set a map is never older than ``every`` epochs, and each sample has one from the
    first epoch on.

    Maps are kept as they lie on the samples before augmentation, and moved with them. Features that
    were outside when the map was made, or lie outside of the sample now, get the median of its map:
    they count neither among the most relevant nor among the least. (Zero would be the largest value
    of a negative map, the minimum would make `ReplaceLowest` begin with them.)
    """

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, state: State = NO_STATE) -> Tensor:
        """Return new or kept maps, (n, *features).

        Raises
        ------
        ValueError
            The state lacks ``indices``, ``size`` or ``memory``, or they do not fit.
        """
        indices, kept = self._place(x, state)
        where = indices.to(x.device, non_blocking=True)
        moved = state.augmentation
        last = state.epoch if state.last_epoch is None else state.last_epoch
        due = any(epoch % self.every == 0 for epoch in range(state.epoch, last + 1))
        if not due and bool(kept.there[indices].all()):
            found = kept.maps[where]
            return found if moved is None else moved.apply_to_maps(found)
        made: Tensor = implement(self.of)(model, x, y, state)
        # a sample that is in the batch twice keeps its first map, on every device
        first = (where.unsqueeze(1) == where).int().argmax(1)
        kept.maps[where] = (made if moved is None else moved.undo(made))[first]
        kept.there[indices] = True
        return made

    def _place(self, x: Tensor, state: State) -> tuple[Tensor, Kept]:
        """Return the indices of the batch, and the maps that are kept."""
        missing = [name for name in ("indices", "size", "memory") if getattr(state, name) is None]
        if state.indices is None or state.size is None or state.memory is None:
            raise ValueError(
                f"'cached' keeps a map per sample, but the state lacks {', '.join(missing)}: pass "
                "State(indices=…, epoch=…, size=…, memory=…), with the same dict in every step"
            )
        found = tuple(state.indices.shape)
        if state.indices.device.type != "cpu" or found != (len(x),):
            raise ValueError(
                f"state.indices has shape {found} on {state.indices.device}: give ({len(x)},), one "
                "per sample, on the CPU, where looking at them does not wait for a GPU"
            )
        if not 0 <= int(state.indices.min()) <= int(state.indices.max()) < state.size:
            raise ValueError(
                f"state.indices goes from {int(state.indices.min())} to {int(state.indices.max())},"
                f" but state.size is {state.size}: give the size of the whole training set"
            )
        shape = (state.size, *(x.shape[axis] for axis in resolve_axes(x, state.feature_axes)))
        if slot(self) not in state.memory:
            if state.epoch > 0:
                raise ValueError(
                    f"'cached' finds no maps in state.memory in epoch {state.epoch}: pass the same "
                    "dict in every step, from epoch 0 on"
                )
            there = torch.zeros(state.size, dtype=torch.bool)
            state.memory[slot(self)] = (x.detach().new_zeros(shape), there)
        kept = Kept(*state.memory[slot(self)])
        if kept.maps.shape != shape:
            raise ValueError(
                f"'cached' keeps maps of shape {tuple(kept.maps.shape)}, this batch needs {shape}: "
                "a training set has one size and one shape of samples"
            )
        return state.indices, kept
