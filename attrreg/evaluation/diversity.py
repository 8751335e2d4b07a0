"""Diversity: how alike the filters of a network are, and how many directions its features use.

Both depend on the initialisation more than on anything learned from few samples, so they say
something only relative to the same network before training.
"""

import math
from collections.abc import Iterator, Mapping
from inspect import signature
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from attrreg.attribution.guards import untouched
from attrreg.evaluation.predict import BATCH
from attrreg.state import eager

__all__ = [
    "Similarity",
    "SimilarityChange",
    "effective_rank",
    "filter_similarity",
    "mean_absolute_cosine",
    "penultimate",
    "random_cosine",
    "similarity_change",
]

ROWS = 1024  # filters compared with all others at a time; bounds the memory, not the result
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)


class Similarity(NamedTuple):
    """Of a layer: mean |cosine| of its pairs of filters, () float64, and what random ones have."""

    cosine: Tensor
    floor: float
    filters: int
    dimension: int


class SimilarityChange(NamedTuple):
    """Means over the layers of mean |cosine| before and after training, () float64 each.

    ``difference`` is final − initial; ``log_ratio`` the mean over layers of log(final/initial).
    Below 0, filters are more diverse than they were. It is infinite where filters are orthogonal.
    """

    initial: Tensor
    final: Tensor
    difference: Tensor
    log_ratio: Tensor
    layers: int


def filter_similarity(model: nn.Module) -> dict[str, Similarity]:
    """Return by name the similarity of the filters of each convolution and linear layer.

    A filter is what makes one output channel, flattened. Layers with a single filter, and those
    whose filters have a single weight (where every |cosine| is 1), are left out. Filters that are
    all 0 have no direction and are in no pair.
    """
    return {
        name: Similarity(
            mean_absolute_cosine(filters), random_cosine(filters.shape[1]), *filters.shape
        )
        for name, filters in _filters(model)
        if min(filters.shape) > 1
    }


def similarity_change(
    initial: Mapping[str, Similarity], final: Mapping[str, Similarity]
) -> SimilarityChange:
    """Compare `filter_similarity` of the same network in two states; every layer counts the same.

    Layers where it is not defined in both states are left out; with none, all means are NaN.

    Raises
    ------
    ValueError
        The layers are not the same.
    """
    if initial.keys() != final.keys():
        raise ValueError(
            f"the layers differ by {sorted(initial.keys() ^ final.keys())}: compare two states of "
            "the same network"
        )
    pairs = [(initial[name].cosine, final[name].cosine) for name in initial]
    defined = [pair for pair in pairs if not any(map(math.isnan, map(float, pair)))]
    before, after = torch.tensor(defined, dtype=torch.float64).view(-1, 2).unbind(1)
    return SimilarityChange(
        before.mean(),
        after.mean(),
        (after - before).mean(),
        (after / before).log().mean(),
        len(defined),
    )


def mean_absolute_cosine(filters: Tensor) -> Tensor:
    """Return the mean |cosine| over all pairs of filters (filters, dimension), () float64.

    NaN without a pair of filters that are not 0.

    Raises
    ------
    ValueError
        Weights are NaN or infinite.
    """
    rows = filters.detach().double()
    broken = int((~rows.isfinite()).any(1).sum())
    if broken:
        raise ValueError(
            f"weights of {broken} of {len(rows)} filters are NaN or infinite: only finite weights "
            "are allowed; the model has probably diverged"
        )
    rows = rows[(rows != 0).any(1)]
    rows = rows / rows.abs().amax(1, keepdim=True)  # so that no square is too small or too large
    rows = rows / rows.norm(dim=1, keepdim=True)
    total = torch.zeros((), dtype=torch.float64, device=rows.device)
    for number, part in enumerate(rows.split(ROWS)):
        cosines = (part @ rows.T).abs()
        cosines.diagonal(number * ROWS).zero_()
        total += cosines.sum()
    return total / (len(rows) * (len(rows) - 1))


def random_cosine(dimension: int) -> float:
    """Return the mean |cosine| of random directions, Γ(d/2) / (√π Γ((d+1)/2)), about √(2/πd)."""
    logarithm = math.lgamma(dimension / 2) - math.lgamma((dimension + 1) / 2)
    return math.exp(logarithm) / math.sqrt(math.pi)


def effective_rank(features: Tensor) -> Tensor:
    """Return exp(entropy of the singular values ÷ their sum), () float64: from 1 to min(n, d).

    NaN for features that are all 0. It rises with the number of samples: compare at equal n.

    Parameters
    ----------
    features
        (n, d) floating, finite; not centred here.

    Raises
    ------
    ValueError
        The features are not as described.

    References
    ----------
    Roy and Vetterli, The effective rank: a measure of effective dimensionality, EUSIPCO 2007.
    """
    if features.ndim != 2 or 0 in features.shape or not bool(features.isfinite().all()):
        raise ValueError(
            f"features have shape {tuple(features.shape)}: (n, d) with n, d ≥ 1 is allowed, and "
            "finite numbers only"
        )
    values = torch.linalg.svdvals(features.detach().double())
    share = values / values.sum()
    return (-torch.xlogy(share, share).sum()).exp()


def penultimate(model: nn.Module, x: Tensor, batch_size: int = BATCH) -> Tensor:
    """Return what the classifier of a model reads, (n, d), without a graph.

    timm's models say what it is; of others it is the input of the linear layer that is called last.
    The model runs in evaluation mode and is left as it is.

    Raises
    ------
    ValueError
        The model calls no linear layer.
    """
    read = _read_timm if _has_timm_head(model) else _read_last_linear
    with torch.no_grad(), untouched(model), eager(model):
        return torch.cat([read(model, part).flatten(1) for part in x.split(batch_size)])


def _has_timm_head(model: nn.Module) -> bool:
    head = getattr(model, "forward_head", None)
    has_features = callable(getattr(model, "forward_features", None))
    return has_features and callable(head) and "pre_logits" in signature(head).parameters


def _read_timm(model: Any, x: Tensor) -> Tensor:
    features: Tensor = model.forward_head(model.forward_features(x), pre_logits=True)
    return features


def _read_last_linear(model: nn.Module, x: Tensor) -> Tensor:
    seen: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen[:] = inputs[:1]

    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    hooks = [layer.register_forward_pre_hook(keep) for layer in layers]
    try:
        model(x)
    finally:
        for hook in hooks:
            hook.remove()
    if not seen:
        raise ValueError(
            f"{type(model).__name__} calls no linear layer, found {len(layers)} in it: features "
            "are read before a linear classifier, or through timm's forward_head"
        )
    return seen[0].clone()


def _filters(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the name of each layer and its filters, (filters, dimension)."""
    for name, module in model.named_modules():
        if not isinstance(module, LAYERS):
            continue
        weight = module.weight.detach()
        if isinstance(module, TRANSPOSED):  # (inputs, outputs ÷ groups, …), group after group
            groups = weight.unflatten(0, (module.groups, -1))
            weight = groups.transpose(1, 2).flatten(0, 1)
        yield name, weight.flatten(1)
