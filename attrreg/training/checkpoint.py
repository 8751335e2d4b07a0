"""Weights on disk: safetensors, which executes nothing when it is read."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

__all__ = ["load_weights", "save_tensors", "save_weights"]


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write tensors; a disk that is full raises OSError, as for every other file."""
    path.write_bytes(save(tensors))


def save_weights(model: nn.Module, path: Path) -> None:
    """Write all parameters and buffers of a model."""
    tensors = {  # copies, since weights that share memory cannot be written as such
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }
    save_tensors(tensors, path)


def load_weights(model: nn.Module, path: Path) -> None:
    """Read weights into a model of the same architecture.

    Raises
    ------
    ValueError
        The file is cut short, no safetensors file, or of another model.
    """
    try:
        tensors = load_file(path)
        model.load_state_dict(tensors)
    except (SafetensorError, RuntimeError, FileNotFoundError) as error:
        raise ValueError(f"{path} holds no weights of this model: {error}") from error
