"""The classifier of a model: what turns features into logits."""

from torch import nn

__all__ = ["classifier_modules", "classifier_parameters"]


def classifier_modules(model: nn.Module) -> tuple[nn.Module, ...]:
    """Return the classifier, or several of them; none if the model does not say which they are."""
    ask = getattr(model, "get_classifier", None)
    found = ask() if ask is not None else ()
    return tuple(found) if isinstance(found, tuple | list) else (found,)


def classifier_parameters(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the classifier's parameters, in their order in the model."""
    own = {id(each) for module in classifier_modules(model) for each in module.parameters()}
    return tuple(name for name, each in model.named_parameters() if id(each) in own)
