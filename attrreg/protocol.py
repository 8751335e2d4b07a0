"""How a trained model is evaluated: the typed protocol, and the metrics that it gives."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field, field_validator, model_validator

from attrreg.parameters import Fill, RuleName
from attrreg.recipe import Strict

__all__ = ["CALIBRATION", "Evaluation", "Measure", "Order", "SetKind", "set_label"]

Order = Literal[
    "random-pixels",
    "random-block",
    "grid-patches",
    "most-relevant-first",
    "least-relevant-first",
    "neutral-most-relevant-first",
    "neutral-least-relevant-first",
]
Measure = Literal[
    "training",
    "margin",
    "diversity",
    "localization",
    "faithfulness",
    "accuracy-drop",
    "erasure",
    "sensitivity",
    "shift",
    "leak",
]
# Saliencies are magnitudes; gradient-x-input and the rules of the relevance engine are signed.
Saliency = Literal[
    "gradient",
    "smoothgrad-squared",
    "integrated-gradients",
    "deeplift",
    "gradient-shap",
    "deep-shap",
    "random",
]
Map = Saliency | Literal["gradient-x-input"] | RuleName
Share = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
SetKind = Literal["zero_shot", "unknown"]

PREDICTIONS = ("accuracy", "top5", "balanced-accuracy")
# Each as it is, and after temperature scaling, which changes no prediction.
CALIBRATION = (
    *("nll", "brier", "brier-reliability", "brier-resolution"),
    *("ece", "ece-debiased", "ece-mass", "ece-classwise", "mce"),
    # what a perfectly calibrated model with these confidences would show by chance
    *("ece-expected", "ece-mass-expected", "ece-classwise-expected", "mce-expected"),
)
# Of measures that give the same metrics whatever else is asked for.
FIXED: dict[Measure, tuple[str, ...]] = {
    "training": ("train-accuracy", "generalisation-gap"),
    "margin": ("lowest-margin-accuracy",),
    "diversity": ("filter-similarity-change", "feature-rank"),
    "accuracy-drop": tuple(f"accuracy-drop-{name}" for name in get_args(Saliency)),
    "shift": tuple(f"shift-{kind}" for kind in ("noise", "blur", "contrast", "jpeg")),
    "leak": ("leak-channel", "leak-image", "leak-label"),
}
CROSSED = ("occlusion-crossed", "srg-crossed")
# Measured of every map.
OF_MAPS: dict[Measure, tuple[str, ...]] = {
    "localization": ("mass", "coverage", "rank-accuracy", "pointing"),
    "erasure": ("comprehensiveness", "sufficiency"),
    "sensitivity": ("max-sensitivity",),
}
# By score of other test sets the family of metrics; the label of a set follows.
SET_METRICS: dict[SetKind, dict[str, str]] = {
    "zero_shot": {
        "accuracy": "zero-shot-",
        "nll": "zero-shot-nll-",
        "ece-debiased": "zero-shot-ece-",
    },
    "unknown": {"auroc": "auroc-", "aupr": "aupr-"},
}
RESERVED = ("nll-", "ece-")  # zero-shot-nll-x is of the set x, so no set may be called nll-x


def set_label(base: str) -> str:
    """Return how a test set is called in metrics and tables: its name, or that of its folder."""
    prefix, colon, place = base.partition(":")
    if not colon:
        return base
    return re.sub(r"[^A-Za-z0-9]+", "-", Path(place).stem).strip("-") or prefix


class Evaluation(Strict):
    """What is measured on the test split.

    Parameters
    ----------
    orders
        In which features are replaced. ``most-relevant-first`` and ``least-relevant-first`` are by
        each model's own map, ``neutral-…`` by one map for all methods: that of `neutral`, trained
        with the next seed of the grid.
    fill
        What takes the place of features: the headline, best one that no method is trained with.
    beside
        Fills that are measured beside it.
    fractions
        Shares of the features that are replaced.
    rule
        Makes the maps of orders and gallery, of the predicted class.
    neutral
        The method whose map is shared, and whose margins tell which samples are hard.
    measures
        What is measured beside predictions, calibration and occlusion. ``localization`` needs the
        regions of the dataset, ``shift`` images, ``leak`` a method that perturbs its input, and
        images of the pool that the run is not trained on. ``accuracy-drop`` is that of saliency
        guided training, by all its saliencies; ``erasure`` is comprehensiveness and sufficiency.
    maps
        Whose faithfulness and localisation are measured.
    fills
        Under which faithfulness is measured.
    crossed
        Methods, three or more, of which every model is occluded by every map, at the same place of
        the grid: so that the robustness of models and the faithfulness of maps come apart.
    profile
        ``standard`` makes what needs many passes on `samples` test samples, always the same;
        ``full`` makes all on all.
    samples
        How many these are.
    bins
        Of calibration errors.
    gallery
        Test samples whose maps are kept.
    zero_shot
        Other test sets of classes that the models know: ``imagenet-r:/data/imagenet-r``. Nothing is
        trained on them.
    unknown
        Test sets whose samples are of no class that the models know: are they less sure of these?
    """

    orders: Annotated[tuple[Order, ...], Field(min_length=1)] = (
        "random-pixels",
        "random-block",
        "most-relevant-first",
    )
    fill: Fill = "blur"
    beside: tuple[Fill, ...] = ()
    fractions: Annotated[tuple[Share, ...], Field(min_length=2)] = (
        *(0.0, 0.1, 0.2, 0.3, 0.4),
        *(0.5, 0.6, 0.7, 0.8, 0.9),
    )
    rule: RuleName = "epsilon-plus-flat"
    neutral: str = "baseline"
    measures: tuple[Measure, ...] = ("training", "margin", "diversity", "localization")
    maps: tuple[Map, ...] = ("gradient", "lrp-0")
    fills: Annotated[tuple[Fill, ...], Field(min_length=1)] = ("blur", "mean", "noise")
    crossed: tuple[str, ...] = ()
    profile: Literal["standard", "full"] = "standard"
    samples: Annotated[int, Field(ge=1)] = 500
    bins: Annotated[int, Field(ge=2)] = 15
    gallery: Annotated[int, Field(ge=1, le=64)] = 6
    zero_shot: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    @field_validator("fractions")
    @classmethod
    def _fractions_ascend(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if list(values) != sorted(set(values)):
            raise ValueError(f"fractions must ascend without repetition, found {list(values)}")
        return values

    @field_validator("crossed")
    @classmethod
    def _three_are_crossed(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        if 0 < len(values) < 3:
            raise ValueError(
                f"crossed has only {', '.join(values)}: give three or more methods of the grid, or "
                "none; of fewer, models and maps cannot be told apart"
            )
        return values

    @field_validator("beside", "measures", "maps", "fills", "crossed")
    @classmethod
    def _each_once(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise ValueError(f"has {', '.join(twice)} more than once: remove one")
        return values

    @model_validator(mode="after")
    def _sets_have_labels_of_their_own(self) -> "Evaluation":
        sets: dict[str, str] = {}
        for _, base in self.other_sets():
            label = set_label(base)
            if label in sets:
                raise ValueError(
                    f"zero_shot and unknown have {sets[label]!r} and {base!r}, which tables would "
                    f"both call {label!r}: only sets with labels of their own are allowed; remove "
                    "one, or rename its folder"
                )
            if label.startswith(RESERVED) or label.endswith("-scaled"):
                raise ValueError(
                    f"{base!r} would be called {label!r} in tables, which looks like another "
                    f"metric: a label must not begin with {' or '.join(RESERVED)}, nor end with "
                    "-scaled; rename its folder"
                )
            sets[label] = base
        return self

    def other_sets(self) -> tuple[tuple[SetKind, str], ...]:
        """Return the test sets that nothing is trained on: what each is for, and its name."""
        return tuple((kind, base) for kind in get_args(SetKind) for base in getattr(self, kind))

    @property
    def all_fills(self) -> tuple[Fill, ...]:
        """The headline, and those beside it."""
        return (self.fill, *(fill for fill in self.beside if fill != self.fill))

    @property
    def needs_neutral(self) -> bool:
        """Whether anything is measured by the map or the margins of another run."""
        return "margin" in self.measures or any(
            order.startswith("neutral") for order in self.orders
        )

    def tested(self) -> tuple[str, ...]:
        """Return the metrics that are compared where an experiment does not say which."""
        return (
            *("accuracy", "nll", "nll-scaled", "brier", "ece-debiased", "ece"),
            *(f"occlusion-{order}" for order in self.orders),
            *(CROSSED if self.crossed else ()),
        )

    def metrics(self) -> tuple[str, ...]:
        """Return the names of all metrics that this protocol can give."""
        return tuple(dict.fromkeys(self._metrics()))

    def _metrics(self) -> Iterable[str]:
        yield from PREDICTIONS
        yield "temperature"
        yield from (f"{name}{suffix}" for suffix in ("", "-scaled") for name in CALIBRATION)
        for order in self.orders:
            for name in (f"occlusion-{order}", f"occlusion-area-{order}", f"occlusion-nll-{order}"):
                yield name
                yield from (f"{name}@{fill}" for fill in self.all_fills[1:])
        if self.crossed:
            yield from CROSSED
        for measure in get_args(Measure):
            if measure in self.measures:
                yield from self._of_measure(measure)
        for kind, base in self.other_sets():
            yield from (f"{family}{set_label(base)}" for family in SET_METRICS[kind].values())

    def _of_measure(self, measure: Measure) -> Iterable[str]:
        if measure in FIXED:
            return FIXED[measure]
        if measure in OF_MAPS:
            is_outside = measure == "localization" and "gradient" in self.maps
            names = (f"{score}-{name}" for name in self.maps for score in OF_MAPS[measure])
            return (*names, *(("gradient-outside",) if is_outside else ()))
        gains = (f"srg-{name}" for name in self.maps)
        beside = (f"srg-{name}@{fill}" for name in self.maps for fill in self.fills[1:])
        sparse = (f"sparseness-{name}" for name in self.maps)
        return (*gains, *beside, *sparse, "gradient-cosine")
