"""Controls: the same maps made uninformative, and nothing else changed.

Each isolates one thing. ``scrambled`` keeps the values of a map and loses their places: what is
left is how much is masked. ``swapped``, the primary control, keeps texture and centre preference
and loses the sample: what a guided method gains over it is guidance by this very sample.
"""

import torch
from torch import Tensor, nn

from attrreg import parameters
from attrreg.attribution.parts import NO_STATE
from attrreg.catalogue import implement
from attrreg.state import State

__all__ = ["Scrambled", "Swapped"]


class Swapped(parameters.Swapped):
    """Every sample gets the map of another one of the batch: a rotation by a random offset."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, state: State = NO_STATE) -> Tensor:
        """Return the altered maps, (n, *features)."""
        return self.alter(implement(self.of)(model, x, y, state), state)

    def alter(self, relevance: Tensor, state: State = NO_STATE) -> Tensor:
        """Return maps such that none is its sample's own.

        A batch of one takes the previous step's map; the first of all has none, and is scrambled.
        """
        n = len(relevance)
        if n == 1:
            previous = state.memory.get("swapped")
            state.memory["swapped"] = relevance
            return scramble(relevance, state) if previous is None else previous
        places = torch.arange(n, device=relevance.device)
        offset = torch.randint(1, n, (1,), generator=state.generator, device=relevance.device)
        return relevance[(places + offset) % n]


class Scrambled(parameters.Scrambled):
    """The values of each map are permuted over its features, each sample by its own permutation."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, state: State = NO_STATE) -> Tensor:
        """Return the altered maps, (n, *features)."""
        return self.alter(implement(self.of)(model, x, y, state), state)

    def alter(self, relevance: Tensor, state: State = NO_STATE) -> Tensor:
        """Return maps with the same values in other places."""
        return scramble(relevance, state)


def scramble(relevance: Tensor, state: State) -> Tensor:
    """Permute each map (n, *features) over its features."""
    flat = relevance.flatten(1)
    keys = torch.rand(flat.shape, generator=state.generator, device=flat.device)
    return flat.gather(1, keys.argsort(1)).view_as(relevance)
