"""The relevance engine: layer-wise relevance propagation in gradient space.

With g = R / z at every tensor, ReLU, pooling, sums, concatenations and reshapes propagate relevance
exactly as autograd propagates gradients. Gates and deviations are factors that are held constant.
Only affine layers need their own backward pass (`attrreg.attribution.layers`). So the model runs
once with its operations intercepted, and a single call of autograd yields the map.

Operations are intercepted, not modules: no hooks, no surgery, no list of architectures. A batch
norm is folded into the convolution that made *the tensor it reads*. An operation without a rule
raises by name.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from attrreg.attribution.backends import explain_by_backend
from attrreg.attribution.explained import (
    Output,
    Target,
    check_logits,
    check_output,
    in_transform,
    seed,
    weights,
)
from attrreg.attribution.gradients import explain_by_gradient, per_channel
from attrreg.attribution.guards import UnsupportedOperation, untouched
from attrreg.attribution.interception import Interception
from attrreg.attribution.operations import OPERATIONS, QUERIES
from attrreg.attribution.rules import Rule, resolve_rule
from attrreg.state import eager

__all__ = ["Ledger", "Output", "Target", "ledger", "relevance"]


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

    The model runs in evaluation mode, outside autocast, and is left as it was: parameters, buffers,
    ``.grad``, hooks, random streams and training flags.

    Parameters
    ----------
    model
        Maps x to logits (n, classes).
    x
        Input (n, …), floating point. Of a text: its embedded tokens.
    target
        Which output: class index per sample, (n,) int64; or weights over the classes, (n, classes)
        floating point; or a function from detached logits to such weights, as in
        `attrreg.attribution.targets`.
    rule
        A name in `attrreg.attribution.rules.RULES`, a `Rule`, or "captum:<Name>" or
        "zennit:<Composite>" for a comparison with these libraries.
    output
        ``logit``, or ``log-probability`` (whose relevance is not conserved).
    create_graph
        Keep the map differentiable by the parameters, and by x if that requires gradients: for all
        rules that are made of gradients, and for layer-wise ones with no propagation but
        ``epsilon`` (``lrp-0``, ``epsilon``). The model then runs once more than for the map alone.

    Returns
    -------
    Tensor
        Relevance like x: same shape, dtype and device; in units of the explained output (for
        ``gradient`` and ``smoothgrad``: that per unit of x).

    Raises
    ------
    UnsupportedOperation
        The model holds an operation that has no rule; the message names it and its module.
    ValueError
        Unknown rule or output, or shapes that do not fit; a layer-wise rule inside a transform of
        ``torch.func``.

    References
    ----------
    Bach et al., "On pixel-wise explanations for non-linear classifier decisions by layer-wise
    relevance propagation", PLOS ONE 2015 (LRP-0, LRP-ε, LRP-αβ, flat); Montavon et al.,
    "Explaining nonlinear classification decisions with deep Taylor decomposition", Pattern
    Recognition 2017 (z⁺, z-box); Montavon et al., "Layer-wise relevance propagation: an overview",
    2019 (LRP-γ); Ali et al., "XAI for transformers: better explanations through conservative
    propagation", ICML 2022 (attention weights and deviations held constant); Achtibat et al.,
    "AttnLRP", ICML 2024, arXiv 2402.05602 (attention-aware).
    """
    rule = resolve_rule(rule)
    check_output(output)
    if not x.is_floating_point():
        raise ValueError(
            f"the input has dtype {x.dtype}: relevance needs floating point; embed tokens first, "
            "and explain the rest of the model by the embedded tensor"
        )
    if len(x) == 0:
        return torch.zeros_like(x)
    if rule.backward == "layers":
        return _propagate(model, x, target, rule, output, create_graph)
    explain = explain_by_backend if rule.backward == "backend" else explain_by_gradient
    return explain(model, x, partial(weights, target=target), rule, output, create_graph)


def ledger(
    model: nn.Module, x: Tensor, target: Target, rule: str | Rule, output: Output = "logit"
) -> Ledger:
    """Explain as `relevance` does, and account for all of it.

    Only for layer-wise rules; the arguments and errors are those of `relevance`. Samples are
    explained one by one, so that what is absorbed is known for each; a model whose outputs for a
    sample depend on the rest of the batch raises ValueError.
    """
    rule = resolve_rule(rule)
    if rule.backward != "layers":
        raise ValueError(f"rule {rule.name!r} keeps no ledger: use a layer-wise rule")
    check_output(output)
    if len(x) == 0:
        return Ledger(torch.zeros_like(x), x.new_zeros(0), x.new_zeros(0))
    with torch.inference_mode(False), torch.no_grad(), untouched(model), eager(model):
        logits = model(x.detach().clone())
        check_logits(logits, x)
        seeds = seed(logits, target, output).detach()
        _check_samples_stand_alone(model, x, logits)
        absorbed = torch.zeros_like(seeds[:, 0])
        explained = torch.zeros_like(absorbed)
    maps = []
    for place in range(len(x)):

        def absorb(amount: Tensor, place: int = place) -> None:
            absorbed[place] += amount.sum()

        def explain(alone: Tensor, place: int = place) -> Tensor:
            explained[place] = (alone * seeds[place : place + 1]).sum()
            return seeds[place : place + 1]

        maps.append(_propagate(model, x[place : place + 1], explain, rule, absorbed=absorb))
    return Ledger(torch.cat(maps), absorbed, explained)


def _check_samples_stand_alone(model: nn.Module, x: Tensor, logits: Tensor) -> None:
    """Raise ValueError where the outputs of a sample depend on the rest of its batch."""
    tolerance = max(1e-4, 100 * torch.finfo(logits.dtype).eps)
    for place in range(len(x)):
        try:
            alone = model(x[place : place + 1].detach().clone())
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise ValueError(MIXES) from error
        apart = (alone - logits[place : place + 1]).abs().max()
        if apart > tolerance * logits.abs().max():
            raise ValueError(MIXES)


MIXES = (
    "the output for a sample is not what it is in the batch, or cannot be had without it: a "
    "ledger is kept sample by sample; give the samples one by one, or use relevance()"
)
CHECKPOINTED = (
    "the model stores something else than its activations for the backward pass, as gradient "
    "checkpointing does: switch that off (timm: model.set_grad_checkpointing(False)), or use a "
    "rule that is made of gradients"
)


def _propagate(
    model: nn.Module,
    x: Tensor,
    target: Target,
    rule: Rule,
    output: Output = "logit",
    create_graph: bool = False,
    absorbed: Callable[[Tensor], None] | None = None,
) -> Tensor:
    _check_possible(rule, create_graph)
    # Relevance is computed outside autocast: z⁺ sums and their quotients need the full precision.
    plain = torch.autocast(device_type=x.device.type, enabled=False)
    # What is recomputed later would escape the interception.
    stored = torch.autograd.graph.disable_saved_tensors_hooks(CHECKPOINTED)
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        plain,
        untouched(model),
        eager(model),
        _refusing_checkpoints(),
        stored,
    ):
        connected = create_graph and x.requires_grad
        leaf = x if connected else x.detach().clone().requires_grad_()
        shadow = x.detach().clone().requires_grad_() if create_graph else None
        bounds = _bounds(rule, leaf) if rule.first == "z-box" else None
        run = Interception(model, leaf, rule, OPERATIONS, QUERIES, absorbed, shadow, bounds)
        with run:
            logits = model(leaf)
        check_logits(logits, x)
        logits = run.settle(logits)
        result = run.result(logits)
        chosen = weights(logits.detach(), target)
        g_of_logits = seed(logits if create_graph else logits.detach(), chosen, output)
        if shadow is not None:
            return leaf * torch.autograd.grad(result, shadow, g_of_logits, create_graph=True)[0]
        leaves = [leaf, *run.leaves]
        gradients = torch.autograd.grad(result, leaves, g_of_logits, allow_unused=True)
        if any(each is None for each in gradients[1:]):
            run.refuse_first()
        parts = [
            each.detach() * g for each, g in zip(leaves, gradients, strict=True) if g is not None
        ]
        return torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]


@contextmanager
def _refusing_checkpoints() -> Iterator[None]:
    try:
        yield
    except UnsupportedOperation:
        raise
    except RuntimeError as error:
        if CHECKPOINTED in str(error):
            raise UnsupportedOperation(CHECKPOINTED) from error
        raise


def _check_possible(rule: Rule, create_graph: bool) -> None:
    if in_transform():
        raise ValueError(
            f"rule {rule.name!r} does not run inside transforms of torch.func: explain the models "
            "one by one, or use a rule that is made of gradients (gradient, gradient-x-input, "
            "smoothgrad, integrated-gradients)"
        )
    linear = rule.convolution == rule.linear == "epsilon" and rule.first is None
    if create_graph and not (linear and rule.attention == "held"):
        raise ValueError(
            f"create_graph is not available for rule {rule.name!r}: use lrp-0, epsilon, or a rule "
            "that is made of gradients (gradient, gradient-x-input, smoothgrad, "
            "integrated-gradients)"
        )


def _bounds(rule: Rule, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the smallest and largest possible input, each like x."""
    if rule.low is None or rule.high is None:
        raise ValueError(
            f"rule {rule.name!r} needs the bounds of the input: give low and high in the units the "
            "model sees, for instance dataclasses.replace(RULES['z-box'], low=(0 − mean) / "
            "deviation, high=(1 − mean) / deviation), a number each or one per channel"
        )
    named = (("low", rule.low), ("high", rule.high))
    low, high = (
        per_channel(value, x, f"rule {rule.name!r}: {name}").expand_as(x).detach()
        for name, value in named
    )
    slack = 1e-3 * (high - low)
    # on a GPU looking at the values would make the host wait
    if x.device.type == "cpu" and bool(((x < low - slack) | (x > high + slack)).any()):
        raise ValueError(
            f"rule {rule.name!r}: the input reaches from {x.min():.4g} to {x.max():.4g}, beyond "
            f"its bounds low {rule.low} and high {rule.high}: give them in the units the model sees"
        )
    return low, high
