"""A backbone that is not trained."""

from collections.abc import Sequence
from functools import cache
from typing import Any

from torch import nn

from attrreg.models.heads import classifier_modules, classifier_parameters

__all__ = ["freeze_backbone"]


def freeze_backbone(model: nn.Module, new: Sequence[str] = ()) -> None:
    """Train nothing but the classifier, in place.

    Other parameters ask for no gradient. Norms with running statistics are held in evaluation mode,
    whatever ``model.train()`` says: what they have gathered belongs to the weights.

    Parameters
    ----------
    model
        A model of timm or ours.
    new
        Parameters that are not those of the weights that were loaded.

    Raises
    ------
    ValueError
        The model does not say which part is its classifier, or a part of its backbone is new and
        would stay as random as it is.
    """
    trained = set(classifier_parameters(model))
    if not trained:
        raise ValueError(
            f"{type(model).__name__} does not say which part is its classifier: give it a method "
            "get_classifier, or train all of it (frozen: nothing)"
        )
    random = [name for name in new if name not in trained]
    if random:
        raise ValueError(
            f"frozen: backbone would leave {', '.join(random)} untrained for ever, since the stem "
            "was made anew for small images: give larger images, options: {small_stem: false}, or "
            "frozen: nothing"
        )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
    apart = {id(each) for head in classifier_modules(model) for each in head.modules()}
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase) and id(module) not in apart:
            kind: Any = type(module)
            module.__class__ = _held(kind)
            module.train(False)


@cache
def _held(kind: Any) -> Any:
    """Return a class like another one, but for its mode, which is always that of evaluation.

    A class, not an attribute of the module: copies of a model keep it, and it holds no references.
    """

    def train(self: nn.Module, mode: bool = True) -> nn.Module:
        held: nn.Module = kind.train(self, False)
        return held

    return type(f"Held{kind.__name__}", (kind,), {"train": train, "__doc__": kind.__doc__})
