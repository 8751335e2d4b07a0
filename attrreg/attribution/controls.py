"""Controls: the same method with maps that lack one thing.

The ladder, each step of which isolates one thing:

====================  ========================  ====================================================
control               the map                   what the step to the next one shows
====================  ========================  ====================================================
scrambled             its values in random      texture and centre preference
                      places
swapped               another sample's          the template of the class, and the leak of the label
swapped-within-class  another sample's of the   guidance by this very sample
                      same class
the guided method     the sample's own
====================  ========================  ====================================================

``swapped`` is the primary control: what a guided method gains over it is guidance. Beside the
ladder stand ``random-class`` (does it matter what is explained?), ``reversed`` (which end of the
map?), ``untrained`` (that the model has learned?), ``uniform`` (that there is a map?) and
``oracle`` (if the true region does not help, no map can).

Every control knows the own map of the guided method, so that a perturbation changes as much of the
batch as it would have under that one.
"""

import copy
from abc import abstractmethod
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from attrreg import parameters
from attrreg.attribution.parts import NO_STATE
from attrreg.catalogue import implement
from attrreg.state import State, slot

__all__ = [
    "Altered",
    "Oracle",
    "RandomClass",
    "Reversed",
    "Scrambled",
    "Swapped",
    "SwappedWithinClass",
    "UniformMap",
    "Untrained",
]


class Altered(parameters.Control):
    """What all controls share: they alter the maps of their attribution."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, state: State = NO_STATE) -> Tensor:
        """Return the altered maps, (n, *features)."""
        return self.maps(model, x, y, state)[1]

    def maps(
        self, model: nn.Module, x: Tensor, y: Tensor, state: State = NO_STATE
    ) -> tuple[Tensor, Tensor]:
        """Return the own maps of the guided method, and the altered ones; both (n, *features).

        A control of a control alters the maps of that one; the own maps are those of the
        attribution inside both.
        """
        of = implement(self.of)
        if isinstance(of, Altered):
            own, inner = of.maps(model, x, y, state)
        else:
            own = inner = of(model, x, y, state)
        return own, self.alter(inner, model, x, y, state)

    @abstractmethod
    def alter(self, maps: Tensor, model: nn.Module, x: Tensor, y: Tensor, state: State) -> Tensor:
        """Return maps (n, *features) in place of those of the attribution."""


class Swapped(parameters.Swapped, Altered):
    """Every sample gets the map of another one of the batch: a rotation by a random offset."""

    def alter(self, maps: Tensor, model: nn.Module, x: Tensor, y: Tensor, state: State) -> Tensor:
        """Return maps such that none is its sample's own.

        A batch of one takes the previous step's map; where there is none (in the first step, or
        without a memory), its own is scrambled.
        """
        n = len(maps)
        if n == 1:
            previous = None if state.memory is None else state.memory.get(slot(self))
            if state.memory is not None:
                state.memory[slot(self)] = maps
            return scramble(maps, state) if previous is None else previous
        places = torch.arange(n, device=maps.device)
        offset = torch.randint(1, n, (1,), generator=state.generator, device=maps.device)
        return maps[(places + offset) % n]


class SwappedWithinClass(parameters.SwappedWithinClass, Altered):
    """Every sample gets the map of another sample of its class, drawn at random.

    It is drawn from the batch and, with ``state.indices`` to tell samples apart and a memory, from
    the previous batch as well. Where there is none of the class it is drawn from all of these, and
    where there is no other sample at all, the own map is scrambled.
    """

    def alter(self, maps: Tensor, model: nn.Module, x: Tensor, y: Tensor, state: State) -> Tensor:
        """Return maps such that none is its sample's own."""
        n, device = len(maps), maps.device
        pool, labels = maps, y
        if state.indices is None:
            other = ~torch.eye(n, dtype=torch.bool, device=device)
        else:
            own = state.indices.to(device, non_blocking=True)
            samples = own
            if state.memory is not None:
                if slot(self) in state.memory:
                    before = state.memory[slot(self)]
                    pool, labels, samples = map(torch.cat, zip((maps, y, own), before, strict=True))
                state.memory[slot(self)] = (maps, y, own)
            other = own.unsqueeze(1) != samples
        same = other & (y.unsqueeze(1) == labels)
        candidates = torch.where(same.any(1, keepdim=True), same, other)
        keys = torch.rand(candidates.shape, generator=state.generator, device=device)
        taken = pool[keys.masked_fill(~candidates, -1).argmax(1)]
        found = other.any(1).view(-1, *[1] * (maps.ndim - 1))
        return torch.where(found, taken, scramble(maps, state))


class Scrambled(parameters.Scrambled, Altered):
    """The values of each map are permuted over its features, each sample by its own permutation."""

    def alter(self, maps: Tensor, model: nn.Module, x: Tensor, y: Tensor, state: State) -> Tensor:
        """Return maps with the same values in other places."""
        return scramble(maps, state)


class RandomClass(parameters.RandomClass, Altered):
    """The same attribution explains a class that is drawn for each sample and step.

    All classes are equally likely, the label among them. An attribution with ``forward_pass:
    training`` explains the same shared pass a second time.
    """

    def alter(self, maps: Tensor, model: nn.Module, x: Tensor, y: Tensor, state: State) -> Tensor:
        """Return the maps of random classes."""
        of = implement(_rebuilt(self.of, explained="random"))
        return of(model, x, y, _apart(self, state))


class Reversed(parameters.Reversed, Altered):
    """The least relevant features come first: −R in place of R."""

    def alter(self, maps: Tensor, model: nn.Module, x: Tensor, y: Tensor, state: State) -> Tensor:
        """Return the maps with the other sign."""
        return -maps


class Untrained(parameters.Untrained, Altered):
    """The maps of a copy of the model that is never trained.

    The copy is taken at the first step, before anything changes the model, and is kept as
    ``memory["untrained"]``; a loop that has such a model already may put it there. A model that
    starts from pretrained weights is copied with them: the control then shows what it matters that
    maps follow the training, not what it matters that anything was learned.

    The copy runs in evaluation mode, with the hooks that the model had. It has no pass to share
    with an objective, so an attribution with ``forward_pass: training`` makes one of its own.
    """

    def maps(
        self, model: nn.Module, x: Tensor, y: Tensor, state: State = NO_STATE
    ) -> tuple[Tensor, Tensor]:
        """Return the own maps of the guided method, and those of the copy.

        Raises
        ------
        ValueError
            There is no memory to keep the copy in, or it holds none after the first epoch.
        """
        _untrained(model, state)  # before the own map, whose pass may move running statistics
        return super().maps(model, x, y, state)

    def alter(self, maps: Tensor, model: nn.Module, x: Tensor, y: Tensor, state: State) -> Tensor:
        """Return the maps of the copy."""
        of = implement(_rebuilt(self.of, forward_pass="evaluation"))
        return of(_untrained(model, state), x, y, _apart(self, state))


class UniformMap(parameters.UniformMap, Altered):
    """An independent U(0, 1) value per feature."""

    def alter(self, maps: Tensor, model: nn.Module, x: Tensor, y: Tensor, state: State) -> Tensor:
        """Return values in [0, 1)."""
        return _uniform(maps, state)


class Oracle(parameters.Oracle, Altered):
    """The sample's ground-truth region: a bound from above.

    Features of the same value are put in random order by up to a thousandth of the largest.
    """

    def alter(self, maps: Tensor, model: nn.Module, x: Tensor, y: Tensor, state: State) -> Tensor:
        """Return the regions, in the dtype of the maps.

        Raises
        ------
        ValueError
            ``state.region`` is missing or has another shape than the maps.
        """
        found = None if state.region is None else tuple(state.region.shape)
        if state.region is None or found != tuple(maps.shape):
            raise ValueError(
                f"control 'oracle' needs the ground-truth region of every sample, found {found}: "
                f"pass State(region=…) of shape {tuple(maps.shape)}, or use a dataset with regions"
            )
        region = state.region.to(maps.dtype)
        largest = region.abs().flatten(1).amax(1).view(-1, *[1] * (maps.ndim - 1))
        scale = torch.where(largest > 0, largest, 1) / 1000
        return region + scale * _uniform(maps, state)


def scramble(maps: Tensor, state: State) -> Tensor:
    """Permute each map (n, *features) over its features."""
    flat = maps.flatten(1)
    keys = torch.rand(flat.shape, generator=state.generator, device=flat.device)
    return flat.gather(1, keys.argsort(1)).view_as(maps)


def _uniform(maps: Tensor, state: State) -> Tensor:
    return torch.rand(maps.shape, generator=state.generator, dtype=maps.dtype, device=maps.device)


def _apart(control: parameters.Control, state: State) -> State:
    """Return the state with another memory, for a second map of the same attribution."""
    if state.memory is None:
        return state
    apart = state.memory.setdefault(slot(control), {})
    if "untrained" in state.memory:
        apart["untrained"] = state.memory["untrained"]
    return replace(state, memory=apart)


def _untrained(model: nn.Module, state: State) -> nn.Module:
    memory = state.memory
    if memory is None or ("untrained" not in memory and state.epoch > 0):
        found = "no memory" if memory is None else f"a memory without it in epoch {state.epoch}"
        raise ValueError(
            f"control 'untrained' keeps a copy of the model from the first step on, found {found}: "
            "pass State(memory=…), the same dict in every step"
        )
    if "untrained" not in memory:
        memory["untrained"] = copy.deepcopy(model).requires_grad_(False).eval()
    kept: nn.Module = memory["untrained"]
    return kept


@cache
def _rebuilt(part: Any, **changes: str) -> Any:
    """Return a part with these parameters of the attribution inside, where it has them."""
    if isinstance(part, parameters.Wrapper):
        return part.model_copy(update={"of": _rebuilt(part.of, **changes)})
    own = {name: value for name, value in changes.items() if name in type(part).model_fields}
    return part.model_copy(update=own)
