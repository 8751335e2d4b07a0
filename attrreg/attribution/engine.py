"""The relevance engine: layer-wise relevance propagation in gradient space.

With g = R / z at every tensor, ReLU, pooling, sums, concatenations and reshapes propagate relevance
exactly as autograd propagates gradients. Only affine layers need their own backward pass
(`attrreg.attribution.layers`). So the model runs once with its operations intercepted, each affine
layer is replaced by one with that backward pass, and a single call of autograd yields the map.

Operations are intercepted, not modules: no hooks, no surgery, no list of architectures. A batch
norm is folded into the convolution that made *the tensor it reads*. An operation without a rule
raises by name.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attrreg.attribution.guards import UnsupportedOperation, untouched
from attrreg.attribution.interception import Interception
from attrreg.attribution.operations import OPERATIONS, QUERIES
from attrreg.attribution.rules import Rule, resolve_rule

__all__ = ["Ledger", "Output", "Target", "ledger", "relevance"]

Output = Literal["logit", "log-probability"]
NO_DEPENDENCE = "the model's output does not depend on its input, as far as autograd can see"
Target = Tensor | Callable[[Tensor], Tensor]


class Ledger(NamedTuple):
    """Where the explained output went; every entry is a tensor.

    ``relevance`` is the map, shaped like x. ``absorbed`` (n,) is what biases and stabilisers kept,
    ``explained`` (n,) the explained output. For a rule that conserves,
    ``relevance.flatten(1).sum(1) + absorbed == explained``.
    """

    relevance: Tensor
    absorbed: Tensor
    explained: Tensor


def relevance(
    model: nn.Module,
    x: Tensor,
    target: Target,
    rule: str | Rule = "epsilon-plus-flat",
    output: Output = "logit",
    create_graph: bool = False,
) -> Tensor:
    """Explain an output of the model by its input.

    The model runs in evaluation mode and is left as it was: parameters, buffers, ``.grad``, hooks,
    random streams and training flags.

    Parameters
    ----------
    model
        Maps x to logits (n, classes).
    x
        Input (n, …), floating point.
    target
        Which output: class index per sample, (n,) int64; or weights over the classes, (n, classes)
        floating point; or a function from detached logits to such weights.
    rule
        A name in `attrreg.attribution.rules.RULES`, or a `Rule`.
    output
        ``logit``, or ``log-probability`` (whose relevance is not conserved).
    create_graph
        Keep the map differentiable; for the rules ``gradient`` and ``gradient-x-input``.

    Returns
    -------
    Tensor
        Relevance like x: same shape, dtype and device; in units of the explained output (for
        ``gradient``: that per unit of x).

    Raises
    ------
    UnsupportedOperation
        The model holds an operation that has no rule; the message names it and its module.
    ValueError
        Unknown rule or output, or shapes that do not fit.

    References
    ----------
    Bach et al., "On pixel-wise explanations for non-linear classifier decisions by layer-wise
    relevance propagation", PLOS ONE 2015 (LRP-0, LRP-ε, flat); Montavon et al., "Explaining
    nonlinear classification decisions with deep Taylor decomposition", Pattern Recognition 2017
    (z⁺).
    """
    rule = resolve_rule(rule)
    _check_output(output)
    if rule.backward == "layers":
        if create_graph:
            raise ValueError(
                f"create_graph is not available for rule {rule.name!r}: "
                "use 'gradient' or 'gradient-x-input'"
            )
        return _propagated(model, x, target, rule, output, None)
    gradient = _gradient(model, x, target, output, create_graph)
    if rule.backward == "gradient":
        return gradient
    return gradient * (x if create_graph else x.detach())


def ledger(
    model: nn.Module, x: Tensor, target: Target, rule: str | Rule, output: Output = "logit"
) -> Ledger:
    """Explain as `relevance` does, and account for all of it.

    Only for layer-wise rules; the arguments and errors are those of `relevance`.
    """
    rule = resolve_rule(rule)
    if rule.backward != "layers":
        raise ValueError(f"rule {rule.name!r} keeps no ledger: use a layer-wise rule")
    _check_output(output)
    with torch.inference_mode(False):
        absorbed, explained = x.new_zeros(len(x)), x.new_zeros(len(x))

    def absorb(amount: Tensor) -> None:
        absorbed.add_(amount.flatten(1).sum(1))

    def explain(logits: Tensor) -> Tensor:
        seed = _seed(logits, target, output)
        explained.copy_((logits * seed).sum(1))
        return seed

    return Ledger(_propagated(model, x, explain, rule, "logit", absorb), absorbed, explained)


def _gradient(
    model: nn.Module, x: Tensor, target: Target, output: Output, create_graph: bool
) -> Tensor:
    with torch.inference_mode(False), torch.enable_grad(), untouched(model):
        leaf = x if create_graph and x.requires_grad else x.detach().clone().requires_grad_()
        logits = model(leaf.clone())  # which the model may change in place
        _check_logits(logits, x)
        weights = _weights(logits.detach(), target)
        explained = logits if output == "logit" else logits.log_softmax(1)
        if not explained.requires_grad:
            raise UnsupportedOperation(NO_DEPENDENCE)
        return torch.autograd.grad(explained, leaf, weights, create_graph=create_graph)[0]


def _propagated(
    model: nn.Module,
    x: Tensor,
    target: Target,
    rule: Rule,
    output: Output,
    absorbed: Callable[[Tensor], None] | None,
) -> Tensor:
    # Relevance is computed outside autocast: z⁺ sums and their quotients need the full precision.
    plain = torch.autocast(device_type=x.device.type, enabled=False)
    with torch.inference_mode(False), torch.enable_grad(), plain, untouched(model):
        leaf = x.detach().clone().requires_grad_()
        run = Interception(model, leaf, rule, OPERATIONS, QUERIES, absorbed)
        with run:
            logits = model(leaf)
        _check_logits(logits, x)
        logits = run.settle(logits)
        run.check(logits)
        if not run.is_live(logits):
            raise UnsupportedOperation(NO_DEPENDENCE)
        seed = _seed(logits.detach(), target, output)
        leaves = [leaf] if run.even is None else [leaf, run.even]
        g, *even = torch.autograd.grad(logits, leaves, seed, allow_unused=True)
        total = torch.zeros_like(leaf) if g is None else leaf.detach() * g
        return total + even[0] if even and even[0] is not None else total


def _seed(logits: Tensor, target: Target, output: Output) -> Tensor:
    """Return g at the logits: the derivative of the explained output, (n, classes)."""
    weights = _weights(logits, target)
    if output == "logit":
        return weights
    return weights - weights.sum(1, keepdim=True) * logits.softmax(1)


def _weights(logits: Tensor, target: Target) -> Tensor:
    weights = target if isinstance(target, Tensor) else target(logits)
    if weights.shape == logits.shape and weights.is_floating_point():
        return weights.to(logits.dtype)
    n, classes = logits.shape
    if weights.shape != (n,) or weights.dtype != torch.int64:
        raise ValueError(
            f"target has shape {tuple(weights.shape)} and dtype {weights.dtype}: give class "
            f"indices ({n},) int64 or weights ({n}, {classes}) floating point"
        )
    # on a GPU looking at the values would make the host wait
    if weights.device.type == "cpu" and bool(((weights < 0) | (weights >= classes)).any()):
        raise ValueError(
            f"target has class indices from {int(weights.min())} to {int(weights.max())}, but the "
            f"model has classes 0 to {classes - 1}"
        )
    return F.one_hot(weights, classes).to(logits.dtype)


def _check_logits(logits: Any, x: Tensor) -> None:
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(x):
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"the model returned {found} for {len(x)} samples: give (n, classes)")


def _check_output(output: str) -> None:
    if output not in ("logit", "log-probability"):
        raise ValueError(f"unknown output {output!r}: known are logit, log-probability")
