"""Everything that can be named in an experiment: datasets, models, methods and their parts.

Torch-free. An entry says what a thing is and where its code lies ("module:attribute"); the code is
imported when it is used. Entries stand here, in every module of the packages `PLACES`, and in
the modules that installed packages name by an entry point of the group ``attrreg.plugins``.
"""

import difflib
import pkgutil
from collections.abc import Iterable
from functools import cache
from importlib import import_module, resources
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args

from attrreg import parameters as part
from attrreg.entries import Dataset, Model, Options, Preset
from attrreg.parameters import Composition, Modality

__all__ = [
    "CONTROLS",
    "DATASETS",
    "FIGURES",
    "MODELS",
    "PRESETS",
    "SOURCES",
    "Dataset",
    "Model",
    "Preset",
    "control_pairs",
    "dataset",
    "implement",
    "is_control",
    "is_reconstruction",
    "label",
    "load",
    "method_names",
    "modalities",
    "model",
    "nearest",
    "needs_regions",
    "options_of",
    "override",
    "preset",
    "timm_names",
    "torchvision_names",
]

PLUGINS = "attrreg.plugins"  # the group of entry points
PLACES = ("attrreg.data.known", "attrreg.models.known", PLUGINS)

DATASETS: dict[str, Dataset] = {}
MODELS: dict[str, Model] = {
    "resnet10-narrow": Model(
        # Shortcuts average before they stride: a strided 1×1 convolution would read one pixel in
        # four, on an 8×8 image in the end only the corner, and draw all relevance there.
        title="timm ResNet of 4 basic blocks, 16 to 128 channels, averaging shortcuts",
        modality="image",
        timm="resnet18",
        options={"layers": (1, 1, 1, 1), "channels": (16, 32, 64, 128), "avg_down": True},
        step_seconds=0.008,
        parameters=318_186,
        flops=51_251_712,
    )
}
# Data of one's own, "<prefix>:<place>": the function that inspects the place, and what can be
# chosen.
SOURCES: dict[str, str] = {}
OPTIONS: dict[str, type[Options]] = {}

_RELDROP = "Gururaj et al., arXiv 2505.21595 (abstract and code)"
_SGT = "Ismail et al., NeurIPS 2021, arXiv 2111.14338, algorithm 1"

# The paper's equation and what deviates from its code stand in `attrreg.method`.
PRESETS: dict[str, Preset] = {
    "baseline": Preset("Baseline", "baseline", "cross-entropy", Composition()),
    "label-smoothing": Preset(
        "Label smoothing",
        "baseline",
        "Szegedy et al., CVPR 2016",
        Composition(objective=part.CrossEntropy(label_smoothing=0.1)),
    ),
    "dropout": Preset(
        "Dropout",
        "baseline",
        "Srivastava et al., JMLR 2014, before the last layer",
        Composition(objective=part.CrossEntropy(dropout=0.5)),
    ),
    "random-erasing": Preset(
        "Random erasing",
        "baseline",
        "Zhong et al., AAAI 2020, with RelDrop's areas and fill",
        Composition(
            attribution=part.Uniform(),
            perturbation=part.Block(),
            objective=part.CrossEntropy(on="perturbed"),
        ),
    ),
    "reldrop-pixel": Preset(
        "RelDrop pixel",
        "published algorithm",
        _RELDROP,
        Composition(
            attribution=part.LRP(),
            perturbation=part.Drop(),
            objective=part.CrossEntropy(on="perturbed"),
        ),
    ),
    "reldrop-block": Preset(
        "RelDrop block",
        "published algorithm",
        _RELDROP,
        Composition(
            attribution=part.LRP(),
            perturbation=part.Block(centres=1),
            objective=part.CrossEntropy(on="perturbed"),
        ),
    ),
    "reldrop-patch": Preset(
        "RelDrop patch",
        "published algorithm",
        _RELDROP,
        Composition(
            attribution=part.LRP(),
            perturbation=part.Block(patches=5, centres=5),
            objective=part.CrossEntropy(on="perturbed"),
        ),
    ),
    "sgt": Preset(
        "Saliency Guided Training",
        "published algorithm",
        _SGT,
        Composition(
            attribution=part.Gradient(output="log-probability"),
            perturbation=part.ReplaceLowest(fraction=0.5, fill="range"),
            objective=part.Consistency(weight=1.0),
        ),
    ),
    "sgt-shared": Preset(
        "Saliency Guided Training, shared pass",
        "variant",
        f"{_SGT}; the map comes from the training pass",
        Composition(
            attribution=part.Gradient(output="log-probability", forward_pass="training"),
            perturbation=part.ReplaceLowest(fraction=0.5, fill="range"),
            objective=part.Consistency(weight=1.0),
        ),
    ),
    "challenger": Preset(
        "Challenger",
        "reconstruction",
        "Tomani and Cremers, arXiv 2205.15094 (abstract only; everything else is our choice)",
        Composition(
            attribution=part.LRP(),
            perturbation=part.Scale(p=0.5, strength=2.0, mode="attenuate"),
            objective=part.Mixture(perturbed_share=1.0),
        ),
    ),
}

# The figures of an experiment; their code and captions are in `attrreg.figures`.
Figure = Literal[
    "accuracy-by-train-size",
    "ece-by-train-size",
    "reliability",
    "occlusion",
    "faithfulness",
    "accuracy-drop",
    "cross-maps",
    "differences",
    "gallery",
]
FIGURES: tuple[Figure, ...] = get_args(Figure)

# What each isolates stands in `attrreg.attribution.controls`.
CONTROLS: dict[str, type[part.Control]] = {
    "scrambled": part.Scrambled,
    "swapped": part.Swapped,
    "swapped-within-class": part.SwappedWithinClass,
    "random-class": part.RandomClass,
    "reversed": part.Reversed,
    "untrained": part.Untrained,
    "uniform": part.UniformMap,
    "oracle": part.Oracle,
}
_CONTROL_TITLES = {
    "scrambled": "scrambled map",
    "swapped": "swapped map",
    "swapped-within-class": "map swapped within the class",
    "random-class": "map of a random class",
    "reversed": "reversed map",
    "untrained": "map of an untrained copy",
    "uniform": "uniform random map",
    "oracle": "ground-truth region",
}


def method_names() -> list[str]:
    """Return every preset, and every "<preset>/<control>" of the presets that look at the model."""
    guided = [name for name, entry in PRESETS.items() if _is_guided(entry.composition)]
    return [*PRESETS, *(f"{name}/{control}" for name in guided for control in CONTROLS)]


def preset(name: str) -> Composition:
    """Return the composition of a preset, or of "<preset>/<control>".

    Raises
    ------
    KeyError
        No such name; the message lists what is known and the nearest match.
    """
    base, _, control = name.partition("/")
    if name not in method_names():
        raise KeyError(unknown("method", name, method_names()))
    composition = PRESETS[base].composition
    if not control or composition.attribution is None:
        return composition
    return composition.model_copy(
        update={"attribution": CONTROLS[control].model_validate({"of": composition.attribution})}
    )


def label(name: str) -> str:
    """Return how a method is shown to a reader; a reconstruction is always called one."""
    base, _, control = name.partition("/")
    if base not in PRESETS:
        return name
    entry = PRESETS[base]
    marks = [" (reconstruction)"] if entry.status == "reconstruction" else []
    if control:
        marks.append(f", {_CONTROL_TITLES[control]} (control)")
    return entry.title + "".join(marks)


def is_reconstruction(name: str) -> bool:
    """Whether a method is our reconstruction of a paper."""
    base = name.partition("/")[0]
    return base in PRESETS and PRESETS[base].status == "reconstruction"


def is_control(composition: Composition) -> bool:
    """Whether a method is a control: its maps are made uninformative."""
    return isinstance(composition.attribution, part.Control)


def control_pairs(names: Iterable[str]) -> list[tuple[str, str]]:
    """Return every (method, its control) among the names."""
    known = list(names)
    pairs = ((name.rpartition("/")[0], name) for name in known)
    return [(guided, control) for guided, control in pairs if guided in known]


def dataset(name: str, options: Options | None = None) -> Dataset:
    """Return a dataset by name, or inspect data of one's own, "<prefix>:<place>".

    Raises
    ------
    KeyError
        No such name; the message lists what is known and the nearest match.
    ValueError, FileNotFoundError
        The place is not what its prefix says.
    """
    prefix, _, place = name.partition(":")
    if place and prefix in SOURCES:
        return _inspected(prefix, place, options or OPTIONS[prefix]())
    if name not in DATASETS:
        own = ", ".join(f"{prefix}:<path>" for prefix in SOURCES)
        raise KeyError(f"{unknown('dataset', name, DATASETS)}; data of your own are {own}")
    return DATASETS[name]


def options_of(name: str) -> type[Options]:
    """Return what can be chosen about a dataset; KeyError if there is none of that name."""
    prefix, _, place = name.partition(":")
    return OPTIONS[prefix] if place and prefix in SOURCES else dataset(name).options


def model(name: str) -> Model:
    """Return a model by our name, by timm's, or "torchvision:" and torchvision's.

    Raises
    ------
    KeyError
        No such name; the message gives the nearest match.
    """
    if name in MODELS:
        return MODELS[name]
    prefix, _, architecture = name.partition(":")
    if architecture and prefix == "torchvision":
        if architecture not in torchvision_names():
            raise KeyError(unknown("torchvision model", architecture, torchvision_names()))
        return Model(
            title=name,
            modality="image",
            options={"architecture": architecture},
            implementation="attrreg.models.from_torchvision:build",
        )
    if name not in timm_names():
        raise KeyError(unknown("model", name, [*MODELS, *timm_names()]))
    return Model(title=f"timm {name}", modality="image", timm=name)


@cache
def timm_names() -> tuple[str, ...]:
    """Return the names of all architectures in the pinned timm, sorted."""
    return tuple(resources.files("attrreg").joinpath("timm_names.txt").read_text().split())


@cache
def torchvision_names() -> tuple[str, ...]:
    """Return torchvision's classifiers that give nothing but logits, sorted."""
    return tuple(resources.files("attrreg").joinpath("torchvision_names.txt").read_text().split())


def modalities(composition: Composition) -> tuple[Modality, ...]:
    """Return the modalities that every part of a method is defined for."""
    parts = (
        *part.chain(composition.attribution),
        *part.chain(composition.perturbation),
        composition.objective,
    )
    return tuple(
        modality
        for modality in get_args(Modality)
        if all(modality in each.modalities for each in parts)
    )


def needs_regions(composition: Composition) -> bool:
    """Whether a method can be trained only where the region of every sample is known."""
    return any(isinstance(each, part.Oracle) for each in part.chain(composition.attribution))


@cache
def _inspected(prefix: str, place: str, options: Options) -> Dataset:
    found: Dataset = load(SOURCES[prefix])(place, options)
    return found


def load(path: str) -> Any:
    """Import what "module:attribute" names."""
    module, _, attribute = path.partition(":")
    return getattr(import_module(module), attribute)


def override(composition: Composition, changes: dict[str, Any]) -> Composition:
    """Return a composition with parts replaced, or with parameters of its parts replaced.

    Parameters
    ----------
    composition
        What to start from.
    changes
        By kind of part (attribution, perturbation, objective): a part, its name, or a dict. A dict
        without a name, or with the name that is there, changes the parameters of that part. A
        control, or ``cached``, that does not say of what is one of the attribution that is there.
    """
    current: dict[str, Any] = dict(composition)
    for kind, change in changes.items():
        known = current.get(kind)
        own = {} if known is None else known.model_dump()
        if isinstance(change, dict) and change.get("name", own.get("name")) == own.get("name"):
            change = own | change  # noqa: PLW2901
        elif kind == "attribution" and known is not None:
            change = _around(known, change)  # noqa: PLW2901
        current[kind] = change
    return Composition.model_validate(current)


@cache
def implement(described: part.Part) -> Any:
    """Return the working part with these parameters: an object that can be called."""
    implementation = load(described.implementation)
    if isinstance(described, implementation):
        return described
    return implementation(**dict(described))


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that a reader most likely meant, or None."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return matches[0] if matches else None


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Say that a name is not known, what is, and what was probably meant."""
    names = list(known)
    match = nearest(name, names)
    shown = ", ".join(names[:12]) + (f", … ({len(names)} in all)" if len(names) > 12 else "")
    hint = f"; did you mean {match!r}?" if match else ""
    return f"unknown {kind} {name!r}: known are {shown}{hint}"


def _around(known: part.Part, change: Any) -> Any:
    """Put the attribution that is there into a wrapper that does not say what it wraps."""
    given = {"name": change} if isinstance(change, str) else change
    wrappers = [each.model_fields["name"].default for each in part.WRAPPERS]
    return (
        {"of": known, **given} if isinstance(given, dict) and given["name"] in wrappers else change
    )


def _is_guided(composition: Composition) -> bool:
    return composition.attribution is not None and composition.attribution.name != "uniform"


def _modules() -> Iterable[ModuleType]:
    """Import every module that may have entries."""
    for place in PLACES:
        folder = Path(__file__).parent.joinpath(*place.split(".")[1:])
        for each in pkgutil.iter_modules([str(folder)]):
            yield import_module(f"{place}.{each.name}")
    for point in entry_points(group=PLUGINS):
        try:
            yield import_module(point.module)
        except Exception as error:
            package = point.dist.name if point.dist else "a package"
            raise ImportError(
                f"plugin {point.name!r} of {package} cannot be imported: {point.module} raises "
                f"{type(error).__name__}: {error}; mend it or uninstall {package}"
            ) from error


def _gather() -> None:
    """Add the entries of other modules; a name that is there already is refused."""
    registries: dict[str, dict[str, Any]] = {
        "DATASETS": DATASETS,
        "MODELS": MODELS,
        "PRESETS": PRESETS,
        "SOURCES": SOURCES,
        "OPTIONS": OPTIONS,
    }
    for module in _modules():
        for kind, registry in registries.items():
            for name, entry in getattr(module, kind, {}).items():
                if registry.setdefault(name, entry) is not entry:
                    raise ImportError(
                        f"{module.__name__} has {kind} {name!r}, which exists already: give it "
                        "another name"
                    )


_gather()
