"""Other test sets that nothing is trained on: which there are, and whether they fit a dataset.

They are named in ``evaluation.zero_shot`` and ``evaluation.unknown``. Torch-free.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError

from attrreg import catalogue
from attrreg.messages import explain
from attrreg.protocol import Evaluation, SetKind, set_label
from attrreg.variant import Variant

__all__ = ["Named", "beside", "check_other_sets", "sets_beside"]

# By modality the options that give a sample its shape, in the order of the shape.
SHAPES = {"image": ("channels", "image_size"), "series": ("channels", "length")}
OF_ONE_SET = {"title", "licence"}  # options that are true of one set and of no other


class Named(NamedTuple):
    """A test set that an experiment names, with options that make it fit a dataset."""

    kind: SetKind
    variant: Variant

    @property
    def label(self) -> str:
        """How it is called in metrics and tables."""
        return set_label(self.variant.base)


def sets_beside(settings: Evaluation, dataset: Variant) -> tuple[Named, ...]:
    """Return the sets that models of a dataset are evaluated on, too; errors as `beside`."""
    found = []
    for kind, base in settings.other_sets():
        try:
            found.append(Named(kind, beside(base, dataset)))
        except ValueError as error:
            raise ValueError(f"evaluation.{kind} has {error}") from error
    return tuple(found)


def beside(base: str, dataset: Variant) -> Variant:
    """Return a test set with the options of a dataset, and in its shape.

    Options that the set does not have are left out; size and channels are chosen only where those
    of the set are others.

    Raises
    ------
    ValueError
        There is no such set, it has no test samples, or other modality or shape than the dataset.
    """
    try:
        kind = catalogue.options_of(base)
        chosen = _chosen(base, dataset)
        variant = Variant.of(base, chosen)
        entry = variant.entry  # a look at its place
    except KeyError as error:
        raise ValueError(str(error.args[0]).removeprefix("unknown ")) from error
    except ValidationError as error:
        said = explain(error, chosen, kind, {})
        raise ValueError(f"{base!r} with the options of {dataset.base!r}: {said}") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{base!r}: {error}") from error
    own = dataset.entry
    if entry.modality != own.modality:
        raise ValueError(
            f"{base!r} with {entry.modality} inputs, dataset {dataset.base!r} has {own.modality} "
            "inputs: only sets of the same modality are allowed"
        )
    if variant.shape != dataset.shape:
        raise ValueError(
            f"{base!r} with samples of {_shape(variant)}, dataset {dataset.base!r} has "
            f"{_shape(dataset)}: only sets of the same shape are allowed, and this one cannot be "
            f"brought to it; give {dataset.base!r} that shape by its options, where it has some"
        )
    if entry.test == 0:
        raise ValueError(f"{base!r}, which has no test samples: only sets with some are allowed")
    return variant


def check_other_sets(settings: Evaluation, datasets: Mapping[str, Variant]) -> None:
    """Check what can be known of the sets without their samples, beside every dataset of a grid.

    Raises
    ------
    ValueError
        As `beside`; a set is a dataset of the grid.
    """
    for name, dataset in datasets.items():
        sets_beside(settings, dataset)
        for kind, base in settings.other_sets():
            if base == dataset.base:
                raise ValueError(
                    f"evaluation.{kind} has {base!r}, which is the dataset {name!r} of the grid: "
                    "only sets that models are not trained on are allowed"
                )


def _chosen(base: str, dataset: Variant) -> dict[str, Any]:
    """Return the options of a dataset that a set has, too, and those that give it its shape."""
    names = SHAPES.get(dataset.entry.modality, ())
    chosen = dataset.options.model_dump(
        mode="json", exclude_defaults=True, exclude={*OF_ONE_SET, *names}
    )
    native: dict[str, int] = {}  # that of data of one's own may depend on what is chosen
    if ":" not in base:
        native = dict(zip(names, catalogue.dataset(base).shape, strict=False))
    for name, size in zip(names, dataset.shape, strict=False):
        if native.get(name) != size:
            chosen[name] = size
    known = catalogue.options_of(base).model_fields
    return {name: value for name, value in chosen.items() if name in known}


def _shape(variant: Variant) -> str:
    return "×".join(map(str, variant.shape))
