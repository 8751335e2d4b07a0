"""Relevance rules: which propagation each kind of layer gets.

A rule is data. What the words mean is in `attrreg.attribution.layers` for layer-wise rules, in
`attrreg.attribution.gradients` for those made of gradients, and in `attrreg.attribution.backends`
for other libraries'.
"""

import math
from dataclasses import dataclass
from typing import Literal

__all__ = ["BACKENDS", "RULES", "Propagation", "Rule", "resolve_rule"]

Propagation = Literal["epsilon", "plus", "gamma", "alpha-beta"]
PerChannel = float | tuple[float, ...]
BACKENDS = ("captum", "zennit")


@dataclass(frozen=True)
class Rule:
    """One way to propagate relevance from a model's output to its input.

    Parameters
    ----------
    name
        What errors and tables call it. "captum:<Name>" and "zennit:<Composite>" are computed by
        these libraries, for comparison.
    backward
        ``layers`` is layer-wise relevance propagation; the parameters below belong to it. The
        others need only gradients, and work on every differentiable model: ``gradient`` is the
        plain derivative, ``gradient-x-input`` its product with the input, ``smoothgrad`` the mean
        derivative at noisy copies, ``integrated-gradients`` the mean derivative along the way from
        a baseline, times the way. ``backend`` is another library.
    convolution, linear
        The propagation in convolutions (with the batch norm that reads them folded in), and in
        linear layers and lone batch norms: ``epsilon`` shares the relevance of a unit in proportion
        to all contributions, ``plus`` (z⁺) to the positive ones, ``gamma`` to all, those of the
        unit's own sign (1 + γ)-fold, ``alpha-beta`` α-fold to the positive and −β-fold to the
        negative ones.
    first
        The propagation in the layers that read the input itself, or a rearrangement of it:
        ``flat`` shares in equal parts, ``z-box`` in proportion to x·w − low·w⁺ − high·w⁻; ``None``:
        as in the others.
    attention
        ``held``: attention weights count as constants. ``shared``: softmax propagates as autograd
        does, and a product of two tensors gives half to each (AttnLRP); not conserving.
    epsilon
        The stabiliser of ``epsilon``, relative to the mean magnitude of the layer's output: in
        convolutions of the same sample, in linear layers at the same position (dimensionless).
        0 gives LRP-0. Other propagations fall back to ``epsilon`` where they are undefined.
    gamma
        γ ≥ 0 of ``gamma``.
    alpha, beta
        Of ``alpha-beta``; α − β = 1, β ≥ 0.
    low, high
        Of ``z-box``: the smallest and largest possible input, in the units the model sees; a
        number, or one per channel (axis 1).
    samples, noise, seed
        Of ``smoothgrad``: how many copies, the standard deviation of the noise as a share of each
        sample's range, and the seed of the noise, which is the same for every sample and call.
    steps, baseline
        Of ``integrated-gradients``: Gauss-Legendre nodes, and where the way begins; a number, or
        one per channel.

    Raises
    ------
    ValueError
        A parameter is out of its range.
    """

    name: str
    backward: Literal[
        "layers", "gradient", "gradient-x-input", "smoothgrad", "integrated-gradients", "backend"
    ] = "layers"
    convolution: Propagation = "epsilon"
    linear: Propagation = "epsilon"
    first: Literal["flat", "z-box"] | None = None
    attention: Literal["held", "shared"] = "held"
    epsilon: float = 1e-3
    gamma: float = 0.25
    alpha: float = 2.0
    beta: float = 1.0
    low: PerChannel | None = None
    high: PerChannel | None = None
    samples: int = 16
    noise: float = 0.15
    seed: int = 0
    steps: int = 32
    baseline: PerChannel = 0.0

    def __post_init__(self) -> None:
        for name in ("epsilon", "gamma", "beta", "noise"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ValueError(f"rule {self.name!r}: {name} is {value}; give a number ≥ 0")
        if not math.isclose(self.alpha - self.beta, 1, abs_tol=1e-9):
            raise ValueError(
                f"rule {self.name!r}: alpha − beta is {self.alpha - self.beta:g}, found alpha "
                f"{self.alpha:g} and beta {self.beta:g}; make it 1, or relevance is not conserved"
            )
        for name in ("samples", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"rule {self.name!r}: {name} is {getattr(self, name)}; give ≥ 1")

    @property
    def conserves(self) -> bool:
        """Whether relevance and what biases absorb add up to the explained output.

        Of the others, integrated gradients add up to the difference of the outputs at the input and
        at the baseline.
        """
        return self.backward == "layers" and self.attention == "held"


RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule("gradient", backward="gradient"),
        Rule("gradient-x-input", backward="gradient-x-input"),
        Rule("smoothgrad", backward="smoothgrad"),
        Rule("integrated-gradients", backward="integrated-gradients"),
        Rule("lrp-0", epsilon=0.0),
        Rule("epsilon"),
        Rule("epsilon-plus", convolution="plus"),
        Rule("epsilon-plus-flat", convolution="plus", first="flat"),
        Rule("gamma", convolution="gamma"),
        Rule("alpha2-beta1", convolution="alpha-beta"),
        Rule("z-box", convolution="plus", first="z-box"),
        Rule("attention-aware", attention="shared"),
    )
}


def resolve_rule(rule: str | Rule) -> Rule:
    """Return the rule of that name, or the rule itself.

    Raises
    ------
    ValueError
        The name is neither in `RULES` nor that of a backend's.
    """
    if isinstance(rule, Rule):
        return rule
    backend, colon, name = rule.partition(":")
    if colon and name and backend in BACKENDS:
        return Rule(rule, backward="backend")
    if rule not in RULES:
        raise ValueError(
            f"unknown relevance rule {rule!r}: known are {', '.join(RULES)}, captum:<Name> and "
            "zennit:<Composite>"
        )
    return RULES[rule]
