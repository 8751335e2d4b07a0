"""Relevance rules: which propagation each kind of layer gets.

A rule is data. What the words mean is in `attrreg.attribution.layers`: ``epsilon`` shares the
relevance of a unit in proportion to all contributions, ``plus`` (z⁺) in proportion to the positive
ones, ``flat`` in equal parts.
"""

from dataclasses import dataclass
from typing import Literal

__all__ = ["RULES", "Rule", "resolve_rule"]


@dataclass(frozen=True)
class Rule:
    """One way to propagate relevance from a model's output to its input.

    Parameters
    ----------
    name
        What errors and tables call it.
    backward
        ``gradient`` is the plain derivative, ``gradient-x-input`` its product with the input; both
        work on every differentiable model. ``layers`` is layer-wise relevance propagation.
    convolution, linear
        The propagation in convolutions (with the batch norm that reads them folded in) and in
        linear layers and lone batch norms.
    first
        The propagation in the layers that read the input itself; ``None``: as the others.
    epsilon
        The stabiliser of ``epsilon``, relative to the mean magnitude of the layer's output in the
        same sample (dimensionless). 0 gives LRP-0.
    """

    name: str
    backward: Literal["layers", "gradient", "gradient-x-input"] = "layers"
    convolution: Literal["epsilon", "plus"] = "epsilon"
    linear: Literal["epsilon"] = "epsilon"
    first: Literal["flat"] | None = None
    epsilon: float = 1e-3


RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule("gradient", backward="gradient"),
        Rule("gradient-x-input", backward="gradient-x-input"),
        Rule("lrp-0", epsilon=0.0),
        Rule("epsilon"),
        Rule("epsilon-plus", convolution="plus"),
        Rule("epsilon-plus-flat", convolution="plus", first="flat"),
    )
}


def resolve_rule(rule: str | Rule) -> Rule:
    """Return the rule of that name, or the rule itself.

    Raises
    ------
    ValueError
        The name is not in `RULES`.
    """
    if isinstance(rule, Rule):
        return rule
    if rule not in RULES:
        raise ValueError(f"unknown relevance rule {rule!r}: known are {', '.join(RULES)}")
    return RULES[rule]
