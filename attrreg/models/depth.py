"""How deep in a model each parameter lies."""

from torch import nn

__all__ = ["layer_numbers"]


def layer_numbers(model: nn.Module) -> dict[str, int]:
    """Return the number of the layer of every parameter, from 0 at the input to the classifier.

    Layers are those of the model's ``group_matcher``, as timm has it: the stem, each block, and
    what follows them. In VGG with batch norm, timm counts a norm as a layer of its own.

    Raises
    ------
    ValueError
        The model does not say what its layers are.
    """
    from timm.models import group_parameters

    matcher = getattr(model, "group_matcher", None)
    if matcher is None:
        raise ValueError(
            f"{type(model).__name__} does not say what its layers are: give it a method "
            "group_matcher, as timm's models have, or set layer_decay: 1"
        )
    numbers: dict[str, int] = group_parameters(model, matcher(coarse=False), reverse=True)
    return numbers
