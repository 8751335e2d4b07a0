"""Maps as other libraries compute them, for comparison only.

captum and zennit attach hooks to modules. What is no module (``functional.relu``, a sum in
``forward``) escapes them, mostly without an error. zennit's canonizers know torchvision's ResNet
and VGG, and batch norms that follow their convolution in a sequence. They match no block of timm,
whose maps are therefore wrong: relevance doubles at every residual sum. captum's LRP refuses
modules that it does not list, such as ``nn.Flatten``. Use `attrreg.attribution.relevance` with one
of `attrreg.attribution.RULES` to explain; use these to see what others would have seen.
"""

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attrreg.attribution.explained import Output, check_logits, in_transform, seed
from attrreg.attribution.gradients import per_channel
from attrreg.attribution.rules import Rule

__all__ = ["OFFERED", "explain_by_backend"]

# By library: the names it is asked for, as in "captum:Saliency" and "zennit:EpsilonPlus".
OFFERED = {
    "captum": (
        *("Saliency", "InputXGradient", "IntegratedGradients", "GradientShap"),
        *("DeepLift", "LRP", "GuidedBackprop", "Deconvolution"),
    ),
    "zennit": (
        *("EpsilonPlus", "EpsilonPlusFlat", "EpsilonAlpha2Beta1", "EpsilonAlpha2Beta1Flat"),
        *("EpsilonGammaBox", "ExcitationBackprop", "GuidedBackprop"),
    ),
}


def explain_by_backend(
    model: nn.Module,
    x: Tensor,
    weights_of: Callable[[Tensor], Tensor],
    rule: Rule,
    output: Output = "logit",
    create_graph: bool = False,
) -> Tensor:
    """Explain by captum or zennit.

    They work on a deep copy of the model in evaluation mode; the model, and the random streams of
    torch and numpy, are left as they were. Autocast is off meanwhile. The libraries keep their own
    defaults, save these:

    * Saliency is the signed derivative, not its magnitude.
    * IntegratedGradients takes ``steps`` and ``baseline`` of the rule, DeepLift and GradientShap
      the baseline; GradientShap adds no noise, and takes ``samples`` and ``seed``.
    * EpsilonGammaBox takes ``low`` and ``high``.

    Relevance starts as at our own rules, with logits times the derivative of the explained output
    by them, in zennit's composites and captum's LRP. GuidedBackprop and Deconvolution start with
    that derivative alone. DeepLift treats a log-softmax by its derivative at x.

    Parameters
    ----------
    model
        Maps x to logits (n, classes).
    x
        Input (n, …), floating point.
    weights_of
        From detached logits to the weights of the explained output, (n, classes); called once.
    rule
        One whose name is "captum:<Name>" or "zennit:<Composite>" with a name in `OFFERED`.
    output
        ``logit``, or ``log-probability``.
    create_graph
        Not available.

    Returns
    -------
    Tensor
        Like x: same shape, dtype and device. In units of the explained output; for Saliency,
        GuidedBackprop and Deconvolution that per unit of x.

    Raises
    ------
    ValueError
        No such name; ``create_graph``; inside a transform of ``torch.func``; no ``low`` and
        ``high``; a model that returns no logits. What a library itself refuses is raised by it.
    """
    library, _, name = rule.name.partition(":")
    if name not in OFFERED.get(library, ()):
        offered = ", ".join(f"{key}:{value}" for key in OFFERED for value in OFFERED[key])
        raise ValueError(f"unknown relevance rule {rule.name!r}: other libraries offer {offered}")
    if create_graph:
        raise ValueError(
            f"create_graph is not available for rule {rule.name!r}: use one of attrreg's own rules"
        )
    if in_transform():
        raise ValueError(
            f"rule {rule.name!r} cannot run inside a transform of torch.func: loop over the models"
        )
    plain = torch.autocast(device_type=x.device.type, enabled=False)
    with torch.inference_mode(False), torch.enable_grad(), plain, _streams(x.device, rule.seed):
        copied = copy.deepcopy(model).eval()
        leaf = x.detach().clone().requires_grad_()
        with torch.no_grad():
            logits = copied(leaf.clone())
            check_logits(logits, leaf)
            weights = weights_of(logits)
        by = _by_captum if library == "captum" else _by_zennit
        return by(copied, leaf, logits, weights, rule, output).detach()


def _by_captum(
    model: nn.Module, x: Tensor, logits: Tensor, weights: Tensor, rule: Rule, output: Output
) -> Tensor:
    import captum.attr

    name = rule.name.partition(":")[2]
    if name == "LRP":
        return _lrp_of_captum(model, x, logits, seed(logits, weights, output))
    options: dict[str, Any] = {}
    if name == "Saliency":
        options = {"abs": False}
    if name in ("IntegratedGradients", "DeepLift", "GradientShap"):
        baseline = per_channel(rule.baseline, x, f"rule {rule.name!r}: baseline")
        options = {"baselines": baseline.expand(1, *x.shape[1:])}
    if name == "IntegratedGradients":
        options |= {"n_steps": rule.steps, "internal_batch_size": len(x)}
    if name == "GradientShap":
        options |= {"n_samples": rule.samples}
    explainer = getattr(captum.attr, name)(_Explained(model, output))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Setting (forward, )?backward hooks")
        found: Tensor = explainer.attribute(x, additional_forward_args=(weights,), **options)
    return found


def _lrp_of_captum(model: nn.Module, x: Tensor, logits: Tensor, derivative: Tensor) -> Tensor:
    """Run captum's LRP, which starts at one logit per sample, once per class that a sample has."""
    from captum.attr import LRP

    order = derivative.abs().argsort(1, descending=True)
    total = torch.zeros_like(x)
    for classes in order.unbind(1)[: int((derivative != 0).sum(1).max())]:
        share = derivative.gather(1, classes[:, None]).view(-1, *[1] * (x.ndim - 1))
        total = total + share * LRP(model).attribute(x, target=classes)
    return total


def _by_zennit(
    model: nn.Module, x: Tensor, logits: Tensor, weights: Tensor, rule: Rule, output: Output
) -> Tensor:
    import zennit.composites

    name = rule.name.partition(":")[2]
    options: dict[str, Any] = {"canonizers": [_canonizer(model)]}
    if name == "EpsilonGammaBox":
        if rule.low is None or rule.high is None:
            raise ValueError(
                f"rule {rule.name!r} needs the smallest and largest possible input: "
                f"give Rule({rule.name!r}, backward='backend', low=…, high=…)"
            )
        for key in ("low", "high"):
            bound = per_channel(getattr(rule, key), x, f"rule {rule.name!r}: {key}")
            options[key] = bound.expand(1, *x.shape[1:])
    start = seed(logits, weights, output)
    if name != "GuidedBackprop":
        start = logits * start
    composite = getattr(zennit.composites, name)(**options)
    with composite.context(model) as prepared:
        return torch.autograd.grad(prepared(x), x, start)[0]


def _canonizer(model: nn.Module) -> Any:
    import torchvision
    import zennit.canonizers
    import zennit.torchvision

    if any(isinstance(module, torchvision.models.ResNet) for module in model.modules()):
        return zennit.torchvision.ResNetCanonizer()
    # which is also what zennit has for torchvision's VGG
    return zennit.canonizers.SequentialMergeBatchNorm()


class _Explained(nn.Module):
    """A model followed by the explained output, one number per sample (n,)."""

    def __init__(self, model: nn.Module, output: Output) -> None:
        super().__init__()
        self.model, self.output = model, output

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        logits = self.model(x)
        return ((logits if self.output == "logit" else logits.log_softmax(1)) * weights).sum(1)


@contextmanager
def _streams(device: torch.device, start: int) -> Iterator[None]:
    """Give back torch's and numpy's random streams; numpy's, which captum uses, starts anew."""
    devices = [] if device.type == "cpu" else [device]
    kept = np.random.get_state()
    try:
        with torch.random.fork_rng(devices, device_type=device.type):
            np.random.seed(start)
            yield
    finally:
        np.random.set_state(kept)
