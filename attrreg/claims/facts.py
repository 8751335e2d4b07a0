"""What the claims must know about an experiment beside its table of metrics."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from attrreg import catalogue

if TYPE_CHECKING:
    from attrreg.config import Experiment

__all__ = ["Facts", "facts_of"]


@dataclass(frozen=True)
class Facts:
    """What is known about an experiment.

    Parameters
    ----------
    test_sizes
        By dataset: the samples of its test split.
    modalities
        By dataset: ``image``, ``text`` or ``series``.
    models
        By model: what it is called in the catalogue; one that is missing has its own name.
    baselines
        By method: (budget, name) of the baselines whose cost is matched to it.
    alpha
        The chance that any verdict says too much.
    """

    test_sizes: Mapping[str, int]
    modalities: Mapping[str, str]
    models: Mapping[str, str] = field(default_factory=dict)
    baselines: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    alpha: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 0.5:
            raise ValueError(f"alpha is {self.alpha}: a level above 0 and below 0.5 is allowed")
        for dataset, size in self.test_sizes.items():
            if size < 1:
                raise ValueError(
                    f"test_sizes has {size} for {dataset!r}: a count above 0 is allowed"
                )

    def check(self, datasets: Iterable[str]) -> None:
        """Raise a ValueError unless all datasets of a table are known."""
        for kind, known in (("test sizes", self.test_sizes), ("modalities", self.modalities)):
            absent = sorted(set(datasets) - set(known))
            if absent:
                raise ValueError(
                    f"the table of metrics has {', '.join(absent)}, of which no {kind} are known; "
                    f"known are those of {', '.join(known) or 'none'}: the table must be of the "
                    "same experiment"
                )


def facts_of(experiment: "Experiment") -> Facts:
    """Return what an experiment file says.

    A baseline with ``budget: {matched: <method>}`` trains for as long as that method does, by the
    clock.
    """
    datasets = experiment.datasets()
    plain, compositions = catalogue.preset("baseline"), experiment.compositions()
    baselines: dict[str, tuple[tuple[str, str], ...]] = {}
    for name, other in experiment.matched().items():
        if compositions[name] == plain:
            baselines[other] = (*baselines.get(other, ()), ("equal wall-clock", name))
    return Facts(
        test_sizes={name: variant.entry.test for name, variant in datasets.items()},
        modalities={name: variant.entry.modality for name, variant in datasets.items()},
        models={name: base for name, (base, _) in experiment.models().items()},
        baselines=baselines,
        alpha=experiment.statistics.alpha,
    )
