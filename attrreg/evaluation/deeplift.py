"""DeepLIFT by the rescale rule, of models whose only nonlinearities act entry by entry, or pool.

The model runs once on the input and the baseline together. Of a nonlinearity f the derivative is
replaced by Δf/Δz, both differences between the two; a max-pool gives its difference to the winner
of the larger one. Calls of functions are intercepted, so a nonlinearity may be no module, be used
twice or work in place, and windows may overlap. captum's DeepLift gives the same where all of that
is not so; of max-pools within a network its maps do not add up (its issue 1276).

References
----------
Shrikumar et al., Learning important features through propagating activation differences, ICML 2017;
Ancona et al., Towards better understanding of gradient-based attribution methods, ICLR 2018
(rescale as a modified derivative).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from attrreg.attribution import UnsupportedOperation
from attrreg.attribution.guards import untouched
from attrreg.state import eager

__all__ = ["deeplift"]

ELEMENTWISE = frozenset(
    [
        *("relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish", "softplus"),
        *("sigmoid", "tanh", "logsigmoid", "hardtanh", "hardsigmoid", "hardswish", "softsign"),
        *("clamp", "clamp_min", "clamp_max", "prelu", "rrelu", "threshold"),
    ]
)
POOLS = frozenset(f"{kind}max_pool{d}d" for kind in ("", "adaptive_") for d in (1, 2, 3))
TOLERANCE = 0.01  # of the map's sum, as a share of the difference it has to add up to


def deeplift(model: nn.Module, x: Tensor, target: Tensor, baseline: Tensor) -> Tensor:
    """Return how much each entry of x adds to the difference of the logits, shaped like x.

    Parameters
    ----------
    model
        Maps x to logits (n, classes); it runs in evaluation mode and is left as it is.
    x, target
        Inputs (n, …) and the class whose logit is explained, (n,) int64.
    baseline
        Broadcastable to x. The map sums up to logit(x) − logit(baseline).

    Raises
    ------
    UnsupportedOperation
        The map does not sum up to that, by more than 1 % over the batch: the model holds another
        nonlinearity, such as a product of two things that depend on x, or a softmax.
    """
    n = len(x)
    plain = torch.autocast(device_type=x.device.type, enabled=False)
    with torch.inference_mode(False), plain, untouched(model), eager(model):
        pair = torch.cat([x.detach(), baseline.detach().expand_as(x)])
        with torch.no_grad():
            found = model(pair.clone()).split(n)
        chosen = target.unsqueeze(1)
        wanted = (found[0] - found[1]).gather(1, chosen).sum(1)
        pair.requires_grad_()
        with torch.enable_grad(), _Rescale(n):
            logits = model(pair.clone())[:n]  # which the model may change in place
            (multiplier,) = torch.autograd.grad(logits.gather(1, chosen).sum(), pair)
    start, reference = pair.detach().split(n)
    relevance = multiplier[:n] * (start - reference)
    gap = float((relevance.flatten(1).sum(1) - wanted).abs().mean())
    size = float(wanted.abs().mean())
    if not gap <= TOLERANCE * size + torch.finfo(x.dtype).eps ** 0.5:
        raise UnsupportedOperation(
            f"DeepLIFT's map misses the difference of the logits, {size:.3g}, by {gap:.3g}: the "
            "model holds a nonlinearity for which there is no rescale rule, such as attention, a "
            "gate or a layer norm; leave out deeplift and deep-shap for this model"
        )
    return relevance


class _Rescale(TorchFunctionMode):
    """Runs nonlinearities so that autograd finds Δf/Δz for their derivative.

    The first n samples of a batch are inputs, the other n their baselines.
    """

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n = n

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Replace what is known to be nonlinear, and leave the rest to autograd."""
        given = dict(kwargs or {})
        name = getattr(func, "__name__", "").rstrip("_")
        z = args[0] if args else given.pop("input", None)
        known = name in ELEMENTWISE or name in POOLS
        if not (known and isinstance(z, Tensor) and z.requires_grad and len(z) == 2 * self.n):
            return func(*args, **(kwargs or {}))
        if name in POOLS:
            return self._pool(name, z, args[1:], given)
        return self._elementwise(func, z, args[1:], given)

    def _elementwise(
        self, func: Callable[..., Any], z: Tensor, rest: tuple[Any, ...], given: dict[str, Any]
    ) -> Tensor:
        with torch.enable_grad():
            leaf = z.detach().requires_grad_()
            out = func(leaf.clone(), *rest, **given)
            (derivative,) = torch.autograd.grad(out.sum(), leaf)
        ours, reference = z.detach().split(self.n)
        step = ours - reference
        # where rounding would decide the ratio, the derivative is as good
        resolved = step.abs() > torch.finfo(z.dtype).eps ** 0.5 * (ours.abs() + reference.abs())
        ratio = _difference(out.detach(), self.n) / torch.where(resolved, step, 1)
        multiplier = torch.where(resolved, ratio, derivative[: self.n])
        return _with_slope(z, multiplier.repeat(2, *[1] * (z.ndim - 1)), out.detach())

    def _pool(self, name: str, z: Tensor, rest: tuple[Any, ...], given: dict[str, Any]) -> Tensor:
        given = {key: value for key, value in given.items() if key != "return_indices"}
        out, places = getattr(F, name)(z.detach(), *rest, return_indices=True, **given)
        difference, (ours, reference) = _difference(out, self.n), places.split(self.n)
        winner = torch.where(difference >= 0, ours, reference).repeat(2, *[1] * (z.ndim - 1))
        taken = z.flatten(2).gather(2, winner.flatten(2)).view_as(out)
        step = _difference(taken.detach(), self.n)
        multiplier = torch.where(difference == 0, 1, difference / torch.where(step == 0, 1, step))
        return _with_slope(taken, multiplier.repeat(2, *[1] * (z.ndim - 1)), out)


def _difference(values: Tensor, n: int) -> Tensor:
    return values[:n] - values[n:]


def _with_slope(z: Tensor, slope: Tensor, value: Tensor) -> Tensor:
    """Return the value, with this slope by z for autograd."""
    return value + (z - z.detach()) * slope
