"""Weights to start from: timm's, or those of a file; never anything but safetensors."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from timm.models import PretrainedCfg, adapt_input_conv
from torch import nn

from attrreg.models.building import Blueprint
from attrreg.models.heads import classifier_parameters
from attrreg.models.hub import fetch
from attrreg.models.stems import first_convolution
from attrreg.provenance import file_digest

__all__ = ["from_file", "from_hub", "origin"]

SAFE = {
    None: "model.safetensors",
    "pytorch_model.bin": "model.safetensors",
    "open_clip_pytorch_model.bin": "open_clip_model.safetensors",
}  # where timm names a file that is none
CONVERT = (
    'python -c "import sys, torch, safetensors.torch as s; '
    "t = torch.load(sys.argv[1], weights_only=True); "
    's.save_file({k: v.clone() for k, v in t.items()}, sys.argv[2])"'
)
Shapes = dict[str, tuple[int, ...]]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Origin:
    """Where the weights of a model come from; see `origin`."""

    source: str = "random"
    revision: str = ""
    digest: str = ""
    replaced: tuple[str, ...] = ()
    adapted: tuple[str, ...] = ()


class _Fit(NamedTuple):
    """What a file lacks and what can be fitted, by names; what is in the way, in words."""

    replaced: tuple[str, ...]
    adapted: tuple[str, ...]
    problems: str


def origin(model: nn.Module) -> dict[str, Any]:
    """Return where the weights come from that a model of `attrreg.models.create` started with.

    Returns
    -------
    dict
        ``source``: ``random``, ``hub:<repository>/<file>`` or ``file:<path>``; ``revision``: the
        commit of the repository; ``digest``: ``sha256:…`` of the file; ``replaced``: the names of
        parameters that are new (a stem for small images, a head of another width); ``adapted``:
        of those that were fitted to other channels.
    """
    found: Origin = getattr(model, "_attrreg_origin", Origin())
    return {**vars(found), "replaced": list(found.replaced), "adapted": list(found.adapted)}


def from_hub(plan: Blueprint) -> nn.Module:
    """Build a model with timm's weights; errors as in `attrreg.models.create`."""
    if not plan.entry.timm:
        raise ValueError(
            f"{plan.name!r} is no architecture of timm, and nobody gives weights for it: remove "
            "pretrained, or give weights: <path>.safetensors"
        )
    known = plan.configuration
    if not known.hf_hub_id:
        found = f"only as {known.url}, which can execute code when it is read" if known.url else ""
        raise ValueError(
            f"there are no pretrained weights of {plan.name!r} as safetensors"
            f"{f': they exist {found}' if found else ''}; remove pretrained, choose another model, "
            "or give weights: <path>.safetensors"
        )
    repository, _, revision = known.hf_hub_id.partition("@")
    named = known.hf_hub_filename
    filename = SAFE.get(named) or str(Path(named or "").with_suffix(".safetensors"))
    wanted = f"pretrained weights of {plan.name!r}"
    file = fetch(repository, filename, revision or None, wanted)
    where = Origin(f"hub:{repository}/{filename}", file.revision, file.digest)
    return _through_timm(plan, known, file.path, where)


def from_file(plan: Blueprint, path: Path) -> nn.Module:
    """Build a model with the weights of a file; errors as in `attrreg.models.create`.

    A file like `attrreg.training.checkpoint.save_weights` writes it fits the finished model. Any
    other goes the way of timm's own weights, whose names and sizes timm may convert.
    """
    shapes = _shapes(path)
    where = Origin(f"file:{path}", digest=file_digest(path))
    model = plan.build()
    new = plan.fit(model)
    fit = _compare(model, shapes, new)
    if not fit.problems:
        return _fill(model, path, fit, where)
    problems = fit.problems
    if plan.entry.timm:
        known = _as_in_file(plan, model, shapes)
        try:
            return _through_timm(plan, known, path, where)
        except ValueError as error:
            problems = f"{problems}; timm cannot convert it: {_line(error.__cause__ or error)}"
    raise ValueError(f"{path} does not fit model {plan.name!r}: {problems}")


def _through_timm(plan: Blueprint, known: PretrainedCfg, path: Path, where: Origin) -> nn.Module:
    """Build a model by timm's loader, with a head as wide as the file's, and then fit it."""
    overlay = {
        "file": str(path),
        "hf_hub_id": None,
        "url": None,
        "num_classes": known.num_classes,
        "input_size": known.input_size,
    }
    changes: dict[str, Any] = {"num_classes": known.num_classes, "pretrained": True}
    if plan.tag:
        changes["pretrained_cfg"] = plan.tag
    try:
        model = plan.build(**changes, pretrained_cfg_overlay=overlay)
    except (RuntimeError, KeyError, SafetensorError) as error:
        raise ValueError(
            f"{where.source} does not fit model {plan.name!r} with options {plan.options}: "
            f"{_line(error)}"
        ) from error
    replaced: tuple[str, ...] = ()
    if known.num_classes != plan.num_classes:
        reset: Any = model.reset_classifier
        reset(plan.num_classes)
        replaced = classifier_parameters(model)
    replaced = (*plan.fit(model), *replaced)
    adapted = _adapted(plan, known, model, replaced)
    return _tell(model, replace(where, replaced=replaced, adapted=adapted))


def _adapted(
    plan: Blueprint, known: PretrainedCfg, model: nn.Module, replaced: Sequence[str]
) -> tuple[str, ...]:
    """Return the names of what timm has fitted to other channels than those of the weights."""
    if plan.in_chans == known.input_size[0]:
        return ()
    named = known.first_conv or ()
    weights = [f"{each}.weight" for each in ((named,) if isinstance(named, str) else named)]
    adapted = tuple(name for name in weights if name not in replaced)
    if any(model.get_parameter(name).ndim != 4 for name in adapted):
        raise ValueError(
            f"the weights of {plan.name!r} are for {known.input_size[0]} channels, and timm cannot "
            f"fit {', '.join(adapted)} to {plan.in_chans}: choose another model, or as many "
            "channels as it has"
        )
    return adapted


def _compare(model: nn.Module, shapes: Shapes, new: Sequence[str]) -> _Fit:
    """Say what of a file a model can take.

    `new` are the parameters of a stem that was made for small images.
    """
    own = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    heads = classifier_parameters(model)
    replaced, adapted, others = [], [], []
    for name in [name for name in own if shapes.get(name, own[name]) != own[name]]:
        found, wanted = shapes[name], own[name]
        is_stem = _is_stem(model, name) and len(found) == 4 and found[0] == wanted[0]
        if name in heads and found[1:] == wanted[1:]:
            replaced.append(name)
        elif is_stem and found[2:] == wanted[2:]:
            adapted.append(name)
        elif is_stem and name in new:
            replaced.append(name)
        else:
            others.append(f"{name} is {list(found)}, the model's {list(wanted)}")
    counters = {name for name in own if name.endswith("num_batches_tracked")}
    parts = {
        "missing": [name for name in own if name not in shapes and name not in counters],
        "unexpected": [name for name in shapes if name not in own],
        "of another size": others,
    }
    problems = "; ".join(f"{kind}: {_some(names)}" for kind, names in parts.items() if names)
    return _Fit(tuple(replaced), tuple(adapted), problems)


def _fill(model: nn.Module, path: Path, fit: _Fit, where: Origin) -> nn.Module:
    """Give a model the tensors of a file that fits it."""
    tensors, own = load_file(path), model.state_dict()
    for name in fit.replaced:
        tensors[name] = own[name]
    for name in fit.adapted:
        wanted, channels = own[name].shape[1], tensors[name].shape[1]
        tensors[name] = adapt_input_conv(wanted, tensors[name], base_chans=channels)
    model.load_state_dict(tensors)
    return _tell(model, replace(where, replaced=fit.replaced, adapted=fit.adapted))


def _is_stem(model: nn.Module, name: str) -> bool:
    path, stem = first_convolution(model) or ("", None)
    return stem is not None and stem.groups == 1 and name == f"{path}.weight"


def _as_in_file(plan: Blueprint, model: nn.Module, shapes: Shapes) -> PretrainedCfg:
    """Return timm's configuration with the classes and channels that a file has."""
    known = plan.configuration
    heads = [name for name in classifier_parameters(model) if name in shapes]
    classes = shapes[heads[0]][0] if heads else known.num_classes
    path, stem = first_convolution(model) or ("", None)
    found = shapes.get(f"{path}.weight", ())
    is_plain = stem is not None and stem.in_channels == plan.in_chans and len(found) == 4
    channels = found[1] if is_plain else known.input_size[0]
    return replace(known, num_classes=classes, input_size=(channels, *known.input_size[1:]))


def _shapes(path: Path) -> Shapes:
    """Return the shapes of the tensors in a file, without reading them."""
    if path.suffix != ".safetensors":
        raise ValueError(
            f"weights: {path} is no .safetensors file, and other formats can execute code when "
            f"they are read: convert one that you trust, {CONVERT} {path} {path.stem}.safetensors"
        )
    if not path.is_file():
        raise FileNotFoundError(f"weights: no file at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            return {name: tuple(file.get_slice(name).get_shape()) for name in names}
    except SafetensorError as error:
        raise ValueError(f"weights: {path} is no whole safetensors file: {error}") from error


def _tell(model: nn.Module, found: Origin) -> nn.Module:
    """Keep the origin with the model, and say what is new in it."""
    model._attrreg_origin = found  # type: ignore[assignment]
    new = f"; made anew: {', '.join(found.replaced)}" if found.replaced else ""
    fitted = f"; fitted to other channels: {', '.join(found.adapted)}" if found.adapted else ""
    log.info("weights of %s (%s)%s%s", found.source, found.revision or found.digest, new, fitted)
    return model


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:4])
    return f"{shown} and {len(names) - 4} more" if len(names) > 4 else shown


def _line(error: BaseException) -> str:
    """Return what was raised, in one line."""
    return " ".join(str(error).split())[:400]
