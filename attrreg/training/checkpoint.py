"""Weights and checkpoints on disk: safetensors, which executes nothing when it is read."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from attrreg.files import writing
from attrreg.training.engine import Training

__all__ = [
    "load_checkpoint",
    "load_weights",
    "save_checkpoint",
    "save_tensors",
    "save_weights",
]


def save_tensors(tensors: dict[str, Tensor], path: Path, facts: str | None = None) -> None:
    """Write tensors; a disk that is full raises OSError, as for every other file."""
    path.write_bytes(save(tensors, None if facts is None else {"facts": facts}))


def save_weights(model: nn.Module, path: Path) -> None:
    """Write all parameters and buffers of a model."""
    save_tensors({name: _copied(tensor) for name, tensor in model.state_dict().items()}, path)


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


def save_checkpoint(training: Training, path: Path, digest: str) -> None:
    """Write all that a training needs to go on as if nothing had happened.

    One file takes the place of an older one when it lies on the disk as a whole: tensors, and in
    the file's header the facts that are none, as JSON. `digest` stands for what is trained.
    """
    tensors: dict[str, Tensor] = {}
    facts = {
        "digest": digest,
        "step": training.step,
        "seconds": training.seconds,
        "device_seconds": training.device_seconds,
        "history": training.history,
        "best_rank": training.best_rank,
        "measured": training.measured,
        "columns": list(training.sums),  # in their order, which the file does not keep
        "memory": _packed(training.memory, "memory", tensors),
    }
    for kind, each in (
        ("model", training.model.state_dict()),
        ("best", training.best),
        ("sums", training.sums),
        ("random", _random_states(training)),
    ):
        tensors |= {f"{kind}/{name}": tensor for name, tensor in each.items()}
    for number, name, tensor in _optimizer_tensors(training):
        tensors[f"optimizer/{number}/{name}"] = tensor
    with writing(path) as temporary:
        copies = {name: _copied(tensor) for name, tensor in tensors.items()}
        save_tensors(copies, temporary, json.dumps(facts))


def load_checkpoint(training: Training, path: Path, digest: str) -> None:
    """Take a training that has not begun to where a checkpoint was written.

    Raises
    ------
    ValueError
        The file is cut short, no checkpoint, or of another training. The training may have been
        changed in part: make it anew.
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})["facts"])
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if facts["digest"] != digest:
            raise ValueError("it was written by another training, or another version of the code")
        _restore(training, facts, found)
    except (SafetensorError, RuntimeError, LookupError, TypeError, ValueError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{path} is no checkpoint of this training: {reason}") from error


def _restore(training: Training, facts: dict[str, Any], found: dict[str, Tensor]) -> None:
    def of(kind: str) -> dict[str, Tensor]:
        head = f"{kind}/"
        return {name.removeprefix(head): t for name, t in found.items() if name.startswith(head)}

    device = training.data.y.device
    memory = _unpacked(facts["memory"], found, training.model, device)
    generators = {**training.streams.drawn, **_default_generators(device)}
    states = of("random")
    for name, generator in generators.items():
        generator.set_state(states[name])
    training.model.load_state_dict(of("model"))
    parameters = _optimized(training)
    for name, tensor in of("optimizer").items():
        number, _, kind = name.partition("/")
        parameter = parameters[int(number)]
        like = parameter if tensor.shape == parameter.shape else tensor
        where = device if kind != "step" or like is parameter else tensor.device
        kept = torch.empty_like(like, dtype=tensor.dtype, device=where)
        training.optimizer.state[parameter][kind] = kept.copy_(tensor)
    training.best = {name: tensor.to(device) for name, tensor in of("best").items()}
    sums = of("sums")
    training.sums = {name: sums[name].to(device) for name in facts["columns"]}
    training.memory = memory
    training.best_rank = (facts["best_rank"][0], facts["best_rank"][1])
    training.step, training.seconds = facts["step"], facts["seconds"]
    training.device_seconds = facts["device_seconds"]
    training.history, training.measured = facts["history"], facts["measured"]


def _copied(tensor: Tensor) -> Tensor:
    """Return a copy on the CPU: weights that share memory cannot be written as such."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def _optimized(training: Training) -> list[nn.Parameter]:
    return [each for group in training.optimizer.param_groups for each in group["params"]]


def _optimizer_tensors(training: Training) -> Iterator[tuple[int, str, Tensor]]:
    for number, parameter in enumerate(_optimized(training)):
        for name, value in training.optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                yield number, name, value


def _default_generators(device: torch.device) -> dict[str, torch.Generator]:
    """Return torch's own generators, from which dropout draws."""
    found = {"cpu": torch.default_generator}
    if device.type == "cuda":
        found["cuda"] = torch.cuda.default_generators[device.index or torch.cuda.current_device()]
    return found


def _random_states(training: Training) -> dict[str, Tensor]:
    generators = {**training.streams.drawn, **_default_generators(training.data.y.device)}
    return {name: generator.get_state() for name, generator in generators.items()}


def _packed(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Describe in JSON what a memory is made of, and collect its tensors by name."""
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"tensor": name, "on": value.device.type}
    if isinstance(value, nn.Module):
        tensors |= {f"{name}/{key}": each for key, each in value.state_dict().items()}
        return {"module": name}
    if isinstance(value, tuple):
        parts = [_packed(each, f"{name}/{place}", tensors) for place, each in enumerate(value)]
        return {"tuple": parts}
    if isinstance(value, dict):
        parts = [
            [key, _packed(each, f"{name}/{place}", tensors)]
            for place, (key, each) in enumerate(value.items())
        ]
        return {"dict": parts}
    raise TypeError(
        f"a part of the method keeps a {type(value).__name__} in state.memory, which no checkpoint "
        "can hold: keep tensors, modules like the model, and tuples and dicts of them, by strings"
    )


def _unpacked(
    described: dict[str, Any], found: dict[str, Tensor], model: nn.Module, device: torch.device
) -> Any:
    kind, value = next(iter(described.items()))
    if kind == "tensor":  # what a host looks at stays with it
        return found[value] if described["on"] == "cpu" else found[value].to(device)
    if kind == "module":
        kept = copy.deepcopy(model).requires_grad_(False).eval()
        head = f"{value}/"
        kept.load_state_dict(
            {name.removeprefix(head): t for name, t in found.items() if name.startswith(head)}
        )
        return kept
    if kind == "tuple":
        return tuple(_unpacked(each, found, model, device) for each in value)
    return {key: _unpacked(each, found, model, device) for key, each in value}
