"""How a trained model is evaluated: the typed protocol, and the metrics that it gives."""

from collections.abc import Iterable
from typing import Annotated, Literal, get_args

from pydantic import Field, field_validator

from attrreg.parameters import Fill, RuleName
from attrreg.recipe import Strict

__all__ = ["CALIBRATION", "Evaluation", "Measure", "Order"]

Order = Literal[
    "random-pixels",
    "random-block",
    "grid-patches",
    "most-relevant-first",
    "least-relevant-first",
    "neutral-most-relevant-first",
    "neutral-least-relevant-first",
]
Measure = Literal["training", "margin", "diversity", "localization", "faithfulness", "shift"]
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

PREDICTIONS = ("accuracy", "top5", "balanced-accuracy")
# Each as it is, and after temperature scaling, which changes no prediction.
CALIBRATION = (
    *("nll", "brier", "brier-reliability", "brier-resolution"),
    *("ece", "ece-debiased", "ece-mass", "ece-classwise", "ece-expected", "mce"),
)
LOCALIZATION = ("mass", "coverage", "rank-accuracy", "pointing")
CORRUPTIONS = ("noise", "blur", "contrast", "jpeg")


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
        regions of the dataset, ``shift`` images.
    maps
        Whose faithfulness and localisation are measured.
    fills
        Under which faithfulness is measured.
    profile
        ``standard`` makes what needs many passes on `samples` test samples, always the same;
        ``full`` makes all on all.
    samples
        How many these are.
    bins
        Of calibration errors.
    gallery
        Test samples whose maps are kept.
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
    profile: Literal["standard", "full"] = "standard"
    samples: Annotated[int, Field(ge=1)] = 500
    bins: Annotated[int, Field(ge=2)] = 15
    gallery: Annotated[int, Field(ge=1, le=64)] = 6

    @field_validator("fractions")
    @classmethod
    def _fractions_ascend(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if list(values) != sorted(set(values)):
            raise ValueError(f"fractions must ascend without repetition, found {list(values)}")
        return values

    @field_validator("beside", "measures", "maps", "fills")
    @classmethod
    def _each_once(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise ValueError(f"has {', '.join(twice)} more than once: remove one")
        return values

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
        for measure in get_args(Measure):
            if measure in self.measures:
                yield from self._of_measure(measure)

    def _of_measure(self, measure: Measure) -> Iterable[str]:
        if measure == "training":
            return ("train-accuracy", "generalisation-gap")
        if measure == "margin":
            return ("lowest-margin-accuracy",)
        if measure == "diversity":
            return ("filter-similarity-change", "feature-rank")
        if measure == "shift":
            return tuple(f"shift-{kind}" for kind in CORRUPTIONS)
        if measure == "localization":
            outside = ("gradient-outside",) if "gradient" in self.maps else ()
            names = (f"{score}-{name}" for name in self.maps for score in LOCALIZATION)
            return (*names, *outside)
        gains = (f"srg-{name}" for name in self.maps)
        beside = (f"srg-{name}@{fill}" for name in self.maps for fill in self.fills[1:])
        sparse = (f"sparseness-{name}" for name in self.maps)
        return (*gains, *beside, *sparse, "gradient-cosine")
