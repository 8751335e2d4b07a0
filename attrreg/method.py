"""A training method: attribution ▸ perturbation ▸ objective.

The papers are presets, three parts and their parameters, declared in `attrreg.catalogue.PRESETS`:

==============  ==============  ===================  ==============================================
preset          attribution     perturbation         objective
==============  ==============  ===================  ==============================================
baseline        –               –                    CE(f(x), y)
label-smoothing –               –                    CE(f(x), y smoothed by 0.1)
dropout         –               –                    CE(f(x), y), half of the last layer's inputs
                                                     dropped
random-erasing  i.i.d. U(0, 1)  block                CE(f(x̃), y)
reldrop-pixel   LRP             drop α·U+(1−α)·R̂     CE(f(x̃), y)            arXiv 2505.21595, code
reldrop-block   LRP             block at arg-max R   CE(f(x̃), y)            arXiv 2505.21595, code
reldrop-patch   LRP             5 blocks at top 5    CE(f(x̃), y)            arXiv 2505.21595, code
sgt             gradient        replace lowest half  CE(f(x), y) + λ·KL(f(x) ‖ f(x̃))
                                                     arXiv 2111.14338, eq. 1 and algorithm 1
sgt-shared      gradient of     replace lowest half  as sgt; a variant, one pass fewer
                the same pass
challenger      LRP             x + s·g(r, x)        (1−q)·CE(f(x), y) + q·CE(f(x′), y)
                                                     RECONSTRUCTION from the abstract of
                                                     arXiv 2205.15094; every formula is ours
==============  ==============  ===================  ==============================================

"<preset>/<control>" is the same method with another map; the controls of each preset that has a
map to alter, declared in `attrreg.catalogue.CONTROLS`, are

====================  ==============================================================================
scrambled             the values of the map in random places
swapped               another sample's map; the primary control
swapped-within-class  another sample's map of the same class
random-class          the map of a random class
reversed              the least relevant features in place of the most relevant ones
untrained             the map of a copy of the model that is never trained
uniform               i.i.d. U(0, 1)
oracle                the ground-truth region, where the dataset has one
====================  ==============================================================================

A control changes as much of each batch as the guided method would have, with the same coin and
fill. With the attribution ``{name: cached, every: k, of: …}`` a map is made in every k-th epoch
only.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from attrreg import catalogue, parameters
from attrreg.objective import Loss
from attrreg.perturbation import Perturbed
from attrreg.state import SharedPass, State

__all__ = ["Method", "build", "create", "names"]


@dataclass(frozen=True)
class Method:
    """Three parts put together, and the loss of one minibatch.

    Parameters
    ----------
    attribution
        (model, x, y, state) to relevance on the feature axes, or None.
    perturbation
        (x, relevance, generator, axes, own) to x̃, or None.
    objective
        (forward, x, x̃, y) to a `Loss`.
    """

    attribution: Any = None
    perturbation: Any = None
    objective: Any = field(default_factory=lambda: catalogue.implement(parameters.CrossEntropy()))

    def loss(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        generator: torch.Generator | None = None,
        state: State | None = None,
    ) -> Loss:
        """Return the loss of a minibatch; call ``.total.backward()`` on it.

        Parameters
        ----------
        model
            Maps x to logits (n, classes); used in the mode it is in, except that maps may be made
            in evaluation mode.
        x, y
            Inputs (n, …) floating point, as the model wants them, and labels (n,) int64.
        generator
            Random numbers of the perturbation, on the device of x; None: torch's own.
        state
            What some parts need beside that; see `attrreg.state.State`. Without one, an attribution
            that needs random numbers takes torch's own, so that a control never shifts `generator`.

        Returns
        -------
        Loss
            ``total``, 0-d with a graph; ``parts``, 0-d each: what the objective is made of, and for
            a perturbation ``masked_area`` (share of features changed) and ``energy``
            (Σ‖x̃ − x‖² ÷ Σ‖x‖²).
        """
        state = state or State()
        x = x.detach()
        if self.perturbation is None:
            return self.objective(SharedPass(model, x), x, None, y)
        parts = parameters.chain(self.attribution)
        shares = any(getattr(part, "forward_pass", "") == "training" for part in parts)
        if shares and getattr(model, "static_graph", False):
            raise ValueError(
                "a map with forward_pass 'training' goes backward through the training pass, after "
                "which DistributedDataParallel(static_graph=True) leaves gradients unaveraged: set "
                "static_graph=False, or forward_pass 'evaluation'"
            )
        x = x.requires_grad_() if shares else x
        forward = SharedPass(model, x)
        state = replace(state, forward=forward)
        perturbed = self.perturb(model, x, y, generator=generator, state=state)[1]
        loss = self.objective(forward, x, perturbed.x, y)
        return Loss(loss.total, loss.parts | _realised(x.detach(), perturbed))

    def perturb(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        generator: torch.Generator | None = None,
        state: State | None = None,
    ) -> tuple[Tensor, Perturbed]:
        """Return relevance (n, *features) and the perturbed batch.

        Arguments as for `loss`.

        Raises
        ------
        ValueError
            The method has no perturbation.
        """
        if self.perturbation is None:
            raise ValueError("this method does not perturb its input")
        state = state or State()
        # each process explains its own shard: nothing to synchronise, and no reducer to disturb
        model = model.module if isinstance(model, DistributedDataParallel) else model
        own = None
        if isinstance(self.attribution, parameters.Control):
            own, relevance = self.attribution.maps(model, x, y, state)  # type: ignore[attr-defined]
        else:
            relevance = self.attribution(model, x, y, state)
        perturbed = self.perturbation(x.detach(), relevance, generator, state.feature_axes, own)
        return relevance, perturbed


def create(name: str, **overrides: Any) -> Method:
    """Return the method of that name.

    Parameters
    ----------
    name
        One of `names()`.
    overrides
        ``attribution``, ``perturbation``, ``objective``: another part in place of the preset's, or
        a dict of parameters that replace those of the preset's part.

    Raises
    ------
    KeyError
        No such name.
    pydantic.ValidationError
        Parameters that are unknown or out of range.
    """
    return build(catalogue.override(catalogue.preset(name), overrides))


def build(composition: parameters.Composition) -> Method:
    """Return the working method that a composition describes."""
    return Method(
        *(
            None if described is None else catalogue.implement(described)
            for described in (
                composition.attribution,
                composition.perturbation,
                composition.objective,
            )
        )
    )


def names() -> list[str]:
    """Return every preset and every "<preset>/<control>"."""
    return catalogue.method_names()


def _realised(x: Tensor, perturbed: Perturbed) -> dict[str, Tensor]:
    energy = (perturbed.x - x).square().sum()
    share = energy / x.square().sum().clamp_min(torch.finfo(x.dtype).tiny)
    return {"masked_area": perturbed.changed.to(x.dtype).mean(), "energy": share}
