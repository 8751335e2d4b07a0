"""Explanations to look at: inputs and a model from wherever they lie, and the maps of some rules.

Everything ends in plain arrays, which `attrreg.figures.sheet` draws without torch.
"""

import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from timm.models import PretrainedCfg, get_pretrained_cfg
from torch import Tensor, nn

from attrreg import catalogue, models
from attrreg.attribution import Rule, UnsupportedOperation, ledger, relevance
from attrreg.attribution.backends import OFFERED
from attrreg.attribution.rules import resolve_rule
from attrreg.cells import architecture
from attrreg.data.device import input_bounds, normalise
from attrreg.data.sources import read_held_out, read_pool
from attrreg.data.subsets import balanced_order
from attrreg.evaluation.predict import predict
from attrreg.figures.sheet import Column, Sheet
from attrreg.models.images import SMALL_IMAGE
from attrreg.provenance import stream_seed
from attrreg.records import RECORD, read_record
from attrreg.training.checkpoint import load_weights
from attrreg.variant import Variant

__all__ = ["DEFAULT_RULES", "Request", "explain", "read_image"]

DEFAULT_RULES = ("integrated-gradients", "lrp-0", "gamma", "epsilon-plus-flat", "z-box")
BATCH = 8  # samples; bounds the memory, not the result
SLOPES = (
    *("captum:Saliency", "captum:GuidedBackprop", "captum:Deconvolution"),
    "zennit:GuidedBackprop",
)
LONGEST = 300  # letters of what others say, inside an error of ours
RUN = "results/<experiment>/runs/<dataset>/<model>/<method>/n<train size>/s<seed>"


@dataclass(frozen=True)
class Request:
    """What to explain, of which model, and how.

    Parameters
    ----------
    model
        A name of the catalogue or of timm.
    rules
        Names as `attrreg.attribution.relevance` takes them.
    images
        Files, PNG or JPEG.
    dataset
        Whose shape, classes and normalisation the model has; without images, whose validation
        split is explained.
    samples
        How many of the validation split, balanced over the classes.
    run
        The directory of a finished run; it says what model and dataset are.
    pretrained
        Take timm's weights.
    weights
        A safetensors file.
    num_classes, image_size
        Width of the logits; height and width of the input in pixels. Where they are not given, the
        dataset says them, or else timm.
    explained
        ``label``, ``prediction`` or a class index; empty: the label where there is one.
    data
        The folder of prepared datasets.
    """

    model: str = ""
    rules: Sequence[str] = DEFAULT_RULES
    images: Sequence[Path] = ()
    dataset: str | Variant = ""
    samples: int = 4
    run: Path | None = None
    pretrained: bool = False
    weights: Path | None = None
    num_classes: int | None = None
    image_size: int | None = None
    explained: str = ""
    data: Path = Path("results/data")


class Space(NamedTuple):
    """What a model takes and gives: ``mean`` and ``deviation`` (channels,) are those of x / 255."""

    channels: int
    size: int
    classes: int
    mean: np.ndarray
    deviation: np.ndarray


class Inputs(NamedTuple):
    """Images (n, channels, height, width) uint8, what each is called, and labels (n,) if known."""

    x: np.ndarray
    names: tuple[str, ...]
    labels: np.ndarray | None


@dataclass(frozen=True)
class Origin:
    """What a model is made of, where its weights are, and how both are called."""

    model: str
    base: str
    said: str
    options: dict[str, Any] = field(default_factory=dict)
    weights: Path | None = None
    pretrained: bool = False


def explain(request: Request) -> Sheet:
    """Gather inputs and a model, and explain by every rule.

    Returns
    -------
    Sheet
        Arrays; a rule that does not support the model has a reason instead of maps.

    Raises
    ------
    ValueError, KeyError
        What is asked for contradicts itself, is not known, or lies in a file that cannot be read;
        one line says what to do.
    FileNotFoundError
        A file, a run or a prepared dataset is not there.
    """
    request, origin = _resolve(request)
    space = _space(request, origin)
    rules = [_with_bounds(_known_rule(name), space) for name in dict.fromkeys(request.rules)]
    inputs = _inputs(request, space)
    model = _build(origin, space)
    mean, deviation = torch.from_numpy(space.mean), torch.from_numpy(space.deviation)
    x = normalise(torch.from_numpy(inputs.x), mean, deviation)
    try:
        logits = predict(model, x, BATCH)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ValueError(
            f"model {origin.model!r} does not take inputs of shape {tuple(x.shape[1:])} "
            f"({_shortened(error)}): give another --image-size or --model"
        ) from error
    target = _target(request.explained, inputs.labels, logits)
    return Sheet(
        title=f"{origin.model}, {origin.said}",
        names=inputs.names,
        inputs=inputs.x.astype(np.float32) / 255,
        labels=inputs.labels,
        predictions=logits.argmax(1).numpy(),
        confidences=logits.softmax(1).amax(1).numpy(),
        explained=target.numpy(),
        outputs=logits.gather(1, target[:, None])[:, 0].numpy(),
        columns=tuple(_column(model, x, target, rule) for rule in rules),
    )


def read_image(path: Path, channels: int, size: int) -> np.ndarray:
    """Read a picture, scale its shorter side and crop its centre to a square.

    Parameters
    ----------
    path
        PNG or JPEG; its own orientation is heeded, what is transparent becomes white.
    channels
        3 for colours; otherwise 1, grey.
    size
        Height and width in pixels.

    Returns
    -------
    numpy.ndarray
        (channels, size, size) uint8.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        It is no such picture, is cut short, or would take too much memory.
    """
    from PIL import Image, ImageOps

    if not path.exists():
        raise FileNotFoundError(f"no image at {path}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=("PNG", "JPEG")) as file:
                image = ImageOps.exif_transpose(file)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{path} is refused: {_shortened(error)}; make it smaller") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise ValueError(
            f"{path} cannot be read as a PNG or JPEG image: {_shortened(error)}"
        ) from error
    if image.mode.startswith("I"):  # 16 bits per pixel, which a plain conversion would clip
        image = Image.fromarray((np.asarray(image, dtype=np.float64) / 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB" if channels == 3 else "L")
    fitted = ImageOps.fit(image, (size, size), method=Image.Resampling.BICUBIC)
    array = np.asarray(fitted, dtype=np.uint8).reshape(size, size, -1).transpose(2, 0, 1)
    return np.ascontiguousarray(np.broadcast_to(array, (channels, size, size)))


def _resolve(request: Request) -> tuple[Request, Origin]:
    """Return the request with what a run says filled in, and where the model is from."""
    sources = {
        "--run": request.run is not None,
        "--pretrained": request.pretrained,
        "--weights": request.weights is not None,
    }
    given = [name for name, is_given in sources.items() if is_given]
    if len(given) > 1:
        raise ValueError(f"found {' and '.join(given)}: weights come from one of them only")
    if request.run is not None:
        if request.model or request.dataset or request.num_classes is not None:
            raise ValueError("--run says model, dataset and classes: give none of them beside it")
        return _resolve_run(request, request.run)
    if not request.model:
        raise ValueError("no model is given: give --model NAME or --run DIRECTORY")
    if not request.images and not request.dataset:
        raise ValueError(
            "no inputs are given: give --image FILE, --dataset NAME or --run DIRECTORY"
        )
    catalogue.model(request.model)
    if request.weights is not None:
        said = f"weights of {request.weights.name}"
        return request, Origin(request.model, request.model, said, weights=request.weights)
    if not request.pretrained:
        return request, Origin(request.model, request.model, "untrained (random weights)")
    if request.dataset or request.num_classes is not None:
        raise ValueError(
            "--pretrained weights have classes of their own: remove --dataset and --num-classes"
        )
    if request.model in catalogue.MODELS or not _known_to_timm(request.model).has_weights:
        raise ValueError(
            f"there are no pretrained weights of {request.model!r}: remove --pretrained"
        )
    return request, Origin(
        request.model, request.model, "pretrained weights of timm", pretrained=True
    )


def _resolve_run(request: Request, run: Path) -> tuple[Request, Origin]:
    place = run.resolve()
    if not place.exists():
        raise FileNotFoundError(f"no run at {run}: train it first, or give a finished one, {RUN}")
    record = read_record(place)
    if record is None:
        raise ValueError(f"{run} is no run: it holds no whole {RECORD}; give {RUN}")
    if record["status"] != "finished":
        raise ValueError(
            f"the run at {run} has {record['status']} ({record.get('error', 'no reason given')}): "
            "it left no weights; give a finished one"
        )
    needed = {"dataset", "model", "method", "train_size", "seed", "source", "made_of"}
    if not needed <= record.keys():
        raise ValueError(f"{run} is no training run, its {RECORD} names no method; give {RUN}")
    name, (base, options) = record["model"], record["made_of"]
    said = (
        f"trained by {catalogue.label(record['method'])} on {record['train_size']} samples of "
        f"{record['dataset']} (seed {record['seed']})"
    )
    weights = run / "weights.safetensors"
    trained_on = Variant.of(record["source"]["base"], record["source"]["options"])
    return replace(request, dataset=trained_on), Origin(name, base, said, options, weights)


def _space(request: Request, origin: Origin) -> Space:
    """Return what the model takes: the dataset's, or else what timm gave the architecture."""
    if catalogue.model(origin.base).modality != "image":
        raise ValueError(f"model {origin.model!r} takes no images: only those can be drawn")
    if request.dataset:
        variant = Variant.of(request.dataset)
        entry, shape = variant.entry, variant.shape
        if entry.modality != "image":
            raise ValueError(
                f"dataset {variant.base!r} holds {entry.modality}: only images can be drawn"
            )
        wanted = {
            "--num-classes": (request.num_classes, entry.classes),
            "--image-size": (request.image_size, shape[1]),
        }
        for option, (found, own) in wanted.items():
            if found is not None and found != own:
                raise ValueError(
                    f"{option} is {found}, dataset {variant.base!r} has {own}: remove the option"
                )
        pool = read_pool(request.data, variant)
        return Space(shape[0], shape[1], entry.classes, pool.mean, pool.deviation)
    if request.weights is not None and request.num_classes is None:
        raise ValueError(
            f"{request.weights} does not say its classes: give --num-classes, or --dataset if the "
            "model was trained on one"
        )
    known = _known_to_timm(catalogue.model(origin.base).timm)
    size = request.image_size or known.input_size[1]
    if origin.pretrained and size <= SMALL_IMAGE:
        raise ValueError(
            f"--image-size is {size}: up to {SMALL_IMAGE} pixels a model may get another first "
            "layer, an untrained one; give more, or remove --pretrained"
        )
    classes = request.num_classes or known.num_classes
    if not classes:
        raise ValueError(f"timm's {origin.model!r} ends without classes: give --num-classes")
    mean, deviation = (np.asarray(each, dtype=np.float32) for each in (known.mean, known.std))
    return Space(len(mean), size, classes, mean, deviation)


def _known_to_timm(name: str) -> PretrainedCfg:
    """Return timm's input size, normalisation and classes of an architecture."""
    return get_pretrained_cfg(name) or PretrainedCfg()


def _inputs(request: Request, space: Space) -> Inputs:
    if request.images:
        x = np.stack([read_image(each, space.channels, space.size) for each in request.images])
        return Inputs(x, tuple(each.name for each in request.images), None)
    variant = Variant.of(request.dataset)
    validation = read_held_out(request.data, variant, ["validation"])["validation"]
    if request.samples > len(validation.y):
        raise ValueError(
            f"--samples is {request.samples}, the validation split of {variant.base!r} has "
            f"{len(validation.y)}"
        )
    chosen = balanced_order(validation.y, np.random.default_rng(0))[: request.samples]
    names = tuple(f"validation {number}" for number in chosen)
    return Inputs(validation.x[chosen], names, validation.y[chosen])


def _build(origin: Origin, space: Space) -> nn.Module:
    options = architecture(origin.options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed("explain", origin.model))
        try:
            model = models.create(
                origin.base,
                num_classes=space.classes,
                in_chans=space.channels,
                image_size=space.size,
                pretrained=origin.pretrained,
                **options,
            )
        except FileNotFoundError:
            raise  # it says which weights, and how to bring them
        except (OSError, RuntimeError) as error:
            raise ValueError(
                f"model {origin.model!r}, {origin.said}, cannot be had: {_shortened(error)}"
            ) from error
    if origin.weights is not None:
        try:
            load_weights(model, origin.weights)
        except ValueError as error:
            raise ValueError(_shortened(error)) from error
    return model


def _known_rule(name: str) -> Rule:
    rule = resolve_rule(name)
    library, _, offered = name.partition(":")
    if rule.backward == "backend" and offered not in OFFERED[library]:
        raise ValueError(catalogue.unknown(f"rule of {library}", offered, OFFERED[library]))
    return rule


def _with_bounds(rule: Rule, space: Space) -> Rule:
    """Tell a rule the smallest and largest possible input, black and white, where it asks."""
    if rule.first != "z-box" and rule.backward != "backend":
        return rule
    low, high = input_bounds(torch.from_numpy(space.mean), torch.from_numpy(space.deviation))
    return replace(rule, low=low, high=high)


def _target(explained: str, labels: np.ndarray | None, logits: Tensor) -> Tensor:
    """Return the class to explain of each input, (n,) int64."""
    n, classes = logits.shape
    if explained == "prediction" or (not explained and labels is None):
        return logits.argmax(1)
    if explained in ("", "label"):
        if labels is None:
            raise ValueError(
                "--explain is 'label', but images of your own have none: give 'prediction' or a "
                "class index"
            )
        return torch.from_numpy(labels)
    if not explained.isdecimal() or int(explained) >= classes:
        raise ValueError(
            f"--explain is {explained!r}: give 'label', 'prediction' or a class from 0 to "
            f"{classes - 1}"
        )
    return torch.full((n,), int(explained))


def _column(model: nn.Module, x: Tensor, target: Tensor, rule: Rule) -> Column:
    """Explain by one rule; what it refuses is a reason."""
    # other libraries refuse with errors of any kind
    refusals: Any = Exception if rule.backward == "backend" else UnsupportedOperation
    maps: list[Tensor] = []
    absorbed: list[Tensor] = []
    try:
        for part, classes in zip(x.split(BATCH), target.split(BATCH), strict=True):
            if rule.backward == "layers":
                account = ledger(model, part, classes, rule)
                maps.append(account.relevance)
                absorbed.append(account.absorbed)
            else:
                maps.append(relevance(model, part, classes, rule))
    except refusals as error:
        return Column(rule.name, reason=_one_line(error))
    return Column(
        rule.name,
        maps=torch.cat(maps).sum(1).numpy(),
        absorbed=torch.cat(absorbed).numpy() if absorbed else None,
        is_share=rule.backward not in ("gradient", "smoothgrad") and rule.name not in SLOPES,
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _shortened(error: Exception) -> str:
    return textwrap.shorten(_one_line(error), LONGEST, placeholder=" …")
