"""Weights come back bit for bit, and what is not this model's is refused by name."""

from pathlib import Path

import pytest
import torch
from torch import nn

from attrreg.training.checkpoint import load_weights, save_weights


def test_parameters_and_buffers_come_back_bit_for_bit(tmp_path, make_model):
    saved = make_model("resnet10-narrow", dtype=torch.float32)
    save_weights(saved, tmp_path / "weights.safetensors")
    fresh = make_model("resnet10-narrow", dtype=torch.float32)
    for tensor in fresh.state_dict().values():
        tensor.zero_()
    load_weights(fresh, tmp_path / "weights.safetensors")
    assert saved.state_dict().keys() == fresh.state_dict().keys()
    assert all(map(torch.equal, saved.state_dict().values(), fresh.state_dict().values()))


def test_shared_and_strided_weights_can_be_saved(tmp_path):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    model[0].bias = nn.Parameter(torch.arange(6.0)[::2])
    save_weights(model, tmp_path / "weights.safetensors")
    other = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    load_weights(other, tmp_path / "weights.safetensors")
    assert torch.equal(other[1].weight, model[0].weight)
    assert other[0].bias.tolist() == [0, 2, 4]


@pytest.mark.parametrize("harm", ["cut", "empty", "text", "other sizes", "other names"])
def test_a_file_that_holds_no_weights_of_this_model_is_refused(tmp_path, harm):
    path = tmp_path / "weights.safetensors"
    save_weights(nn.Linear(3, 2), path)
    if harm == "cut":
        path.write_bytes(path.read_bytes()[:-4])
    elif harm == "empty":
        path.write_bytes(b"")
    elif harm == "text":
        path.write_text("these are no weights")
    if harm == "other names":
        save_weights(nn.Sequential(nn.Linear(3, 2)), path)
    model = nn.Linear(3, 4 if harm == "other sizes" else 2)
    with pytest.raises(ValueError, match=r"weights\.safetensors holds no weights of this model"):
        load_weights(model, path)


def test_a_full_disk_is_no_result_of_a_run():
    """It is an OSError, which a record of work lets pass, and not a failed run."""
    with pytest.raises(OSError, match="space"):
        save_weights(nn.Linear(200, 200), Path("/dev/full"))
