"""Predictions of a trained model, in evaluation mode and in batches."""

import torch
from torch import Tensor, nn

from attrreg.attribution.guards import evaluating

__all__ = ["predict"]

BATCH = 256  # samples; bounds the memory, not the result


def predict(model: nn.Module, x: Tensor, batch_size: int = BATCH) -> Tensor:
    """Return the logits (n, classes) of inputs (n, …), without a graph; the model is left as is."""
    with torch.no_grad(), evaluating(model):
        return torch.cat([model(part) for part in x.split(batch_size)])
