"""What the command line says of datasets, models and designs; torch only to count models."""

from collections.abc import Iterable
from pathlib import Path

from attrreg import catalogue
from attrreg.entries import Dataset, NoOptions, Options
from attrreg.files import read_json
from attrreg.plan import Plan
from attrreg.statistics.design import clusters_needed
from attrreg.statistics.power import clusters_to_see, plan_power

__all__ = ["choices", "counted", "described", "visible_differences"]

WANTED = 2.0  # points
SPREADS = {"1 point": 1.0, "2 points": 2.0, "4 points": 4.0}


def visible_differences(planned: Plan) -> str:
    """Say which differences the design can see, for some spreads of paired differences."""
    experiment, grid = planned.experiment, planned.experiment.grid
    clusters = len(grid.seeds) * len(grid.datasets)
    family = max(1, len(grid.methods) - 1)
    alpha = experiment.statistics.alpha
    found = plan_power(clusters, SPREADS, alpha, family)
    seen = ", ".join(f"{value:.1f}" for value in found.values())
    needed = [clusters_to_see(WANTED, each, alpha, family) for each in SPREADS.values()]
    return (
        f"{clusters} clusters (dataset, seed); {clusters_needed(alpha, family)} or more can be "
        f"significant. If paired differences spread by {_either(SPREADS)}, these show, with 80 % "
        f"power, a true difference of {seen} points, and {WANTED:g} points would take about "
        f"{_either(map(str, needed))} clusters."
    )


def _either(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} or {last}"


def described(name: str, entry: Dataset, data: Path) -> str:
    """Return the lines about a dataset."""
    shape = "×".join(map(str, entry.shape))
    stored, present = data / name / "dataset.json", "not prepared"
    if stored.is_file():
        present = f"prepared, pool {read_json(stored)['digests']['pool']}"
    lines = [
        f"{name:<18} {entry.modality}, {entry.classes} classes, {shape}, pool {entry.pool}, "
        f"validation {entry.validation}, test {entry.test}"
        f"{', regions' if entry.regions else ''}; {entry.licence}; {present}",
        f"{'':<18} {entry.source}",
    ]
    if entry.options is not NoOptions:
        lines.append(f"{'':<18} options: {choices(entry.options)}")
    for archive in entry.archives:
        checked = "verified" if archive.verified else "as published, not verified by us"
        lines.append(f"{'':<18} {archive.name}: {archive.digest} ({checked})")
    return "\n".join(lines)


def choices(kind: type[Options]) -> str:
    """Return the options of a dataset with their defaults."""
    fields = kind.model_fields.items()
    return ", ".join(f"{name}={field.get_default()}" for name, field in fields)


def counted(name: str, image_size: int) -> str:
    """Return parameters and operations of a model with three channels and ten classes."""
    import torch

    from attrreg.models import counts, create

    is_series = catalogue.model(name).modality == "series"
    with torch.device("meta"):
        model = create(name, num_classes=10, in_chans=3, image_size=image_size)
    found = counts(model, (3, image_size) if is_series else (3, image_size, image_size))
    return f"{name:<24} {found.parameters:>12,} parameters {found.flops:>12.3e} operations"
