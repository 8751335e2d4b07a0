"""What the command line says of datasets, models and designs; torch only to count models."""

from pathlib import Path

from attrreg import catalogue
from attrreg.entries import Dataset, NoOptions, Options
from attrreg.files import read_json
from attrreg.plan import Plan
from attrreg.statistics.design import clusters_needed
from attrreg.statistics.power import plan_power

__all__ = ["choices", "counted", "described", "visible_differences"]

SPREADS = {"1 point": 1.0, "2 points": 2.0, "4 points": 4.0}


def visible_differences(planned: Plan) -> str:
    """Say which differences the design can see, for some spreads of paired differences."""
    experiment, grid = planned.experiment, planned.experiment.grid
    clusters = len(grid.seeds) * len(grid.datasets)
    family = max(1, len(grid.methods) - 1)
    alpha = experiment.statistics.alpha
    found = plan_power(clusters, SPREADS, alpha, family)
    seen = ", ".join(f"{value:.1f} if they spread by {name}" for name, value in found.items())
    return (
        f"{clusters} clusters (dataset, seed); {clusters_needed(alpha, family)} or more can be "
        f"significant. With 80 % power they show a true difference, in points, of {seen}"
    )


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
