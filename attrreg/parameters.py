"""The parameters of every part of a method, validated and torch-free.

A part is declared here, with its ranges and defaults, and made to work where `implementation`
points: the class there inherits these parameters and adds ``__call__``. So an experiment file is
checked without importing torch, and a part built in Python is checked in just the same way.
"""

from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)

__all__ = [
    "LRP",
    "Attribution",
    "Block",
    "Cached",
    "Composition",
    "Consistency",
    "Control",
    "CrossEntropy",
    "Drop",
    "Gradient",
    "GradientTimesInput",
    "IntegratedGradients",
    "Mixture",
    "Modality",
    "Objective",
    "Oracle",
    "Part",
    "Perturbation",
    "RandomClass",
    "ReplaceLowest",
    "Reversed",
    "Scale",
    "Scrambled",
    "SmoothGrad",
    "Swapped",
    "SwappedWithinClass",
    "Uniform",
    "UniformMap",
    "Untrained",
    "Wrapper",
    "chain",
]

Modality = Literal["image", "text", "series", "points"]
Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Lost = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Fill = Literal["mean", "zero", "noise", "range", "blur", "other"]
Coin = Literal["sample", "batch"]
RuleName = Literal[
    "lrp-0",
    "epsilon",
    "epsilon-plus",
    "epsilon-plus-flat",
    "gamma",
    "alpha2-beta1",
    "z-box",
    "attention-aware",
]


Kind = Literal["attribution", "perturbation", "objective"]
OWN: set[str] = set()  # names of the parts of this module
ADDED: dict[Kind, dict[str, type["Part"]]] = {kind: {} for kind in get_args(Kind)}


class Part(BaseModel):
    """What every part is: named, frozen, and strict about its parameters.

    A part of one's own is a subclass with a ``kind``, a ``name``, an ``implementation``
    ("module:class", which may be the very same) and parameters; it is known from then on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    implementation: ClassVar[str]
    modalities: ClassVar[tuple[Modality, ...]] = get_args(Modality)
    kind: ClassVar[Kind | None] = None
    name: str

    @classmethod
    def __pydantic_init_subclass__(cls, **settings: Any) -> None:
        """Take a part of one's own into the registry."""
        if cls.kind is None:
            return
        name = cls.model_fields["name"].default
        known = ADDED[cls.kind].get(name)
        if name in OWN or (known and known.implementation != cls.implementation):
            raise TypeError(f"{cls.kind} {name!r} exists already: give {cls.__name__} another name")
        ADDED[cls.kind][name] = cls


def _or_added(kind: Kind) -> WrapValidator:
    """Let parts of one's own be given wherever those of this module can be."""

    def validate(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        name = value.get("name") if isinstance(value, dict) else getattr(value, "name", None)
        if not isinstance(name, str) or name not in ADDED[kind]:
            return handler(value)
        try:
            return ADDED[kind][name].model_validate(value)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise ValueError(f"{name}.{place}: found {first['input']!r}; {first['msg']}") from error

    return WrapValidator(validate)


def _part(value: Any) -> Any:
    """Let a part with nothing but defaults be given by its name."""
    return {"name": value} if isinstance(value, str) else value


class Explained(Part):
    """The switches of every attribution that explains an output of the model.

    ``explained``: the label, the predicted class, a random class, or the label's logit minus the
    strongest other. ``output``: its logit or its log-probability. ``sign``: the map as it is, its
    positive part, or its magnitude. ``channels``: summed, or magnitudes summed.
    """

    explained: Literal["label", "prediction", "random", "margin"] = "label"
    output: Literal["logit", "log-probability"] = "logit"
    sign: Literal["signed", "positive", "absolute"] = "signed"
    channels: Literal["sum", "absolute-sum"] = "sum"


class Uniform(Part):
    """No attribution: an independent U(0, 1) value per feature."""

    implementation: ClassVar[str] = "attrreg.uniform:Uniform"
    name: Literal["uniform"] = "uniform"


class Gradient(Explained):
    """The derivative of the explained output by the input.

    ``forward_pass``: ``evaluation`` makes a pass of its own in evaluation mode; ``training`` uses
    the clean training-mode pass that the objective needs as well.
    """

    implementation: ClassVar[str] = "attrreg.attribution.parts:Gradient"
    name: Literal["gradient"] = "gradient"
    forward_pass: Literal["evaluation", "training"] = "evaluation"


class GradientTimesInput(Explained):
    """The derivative times the input."""

    implementation: ClassVar[str] = "attrreg.attribution.parts:GradientTimesInput"
    name: Literal["gradient-x-input"] = "gradient-x-input"


class SmoothGrad(Explained):
    """The mean derivative at ``samples`` noisy copies of the input.

    ``noise``: the standard deviation of the noise, as a share of each sample's range.
    """

    implementation: ClassVar[str] = "attrreg.attribution.parts:SmoothGrad"
    name: Literal["smoothgrad"] = "smoothgrad"
    samples: Count = 16
    noise: NonNegative = 0.15


class IntegratedGradients(Explained):
    """The mean derivative at ``steps`` points between zero and the input, times the input."""

    implementation: ClassVar[str] = "attrreg.attribution.parts:IntegratedGradients"
    name: Literal["integrated-gradients"] = "integrated-gradients"
    steps: Count = 32


class LRP(Explained):
    """Layer-wise relevance propagation under a rule of `attrreg.attribution.rules`.

    ``epsilon`` and ``gamma`` replace the rule's own; z-box takes its bounds from the data.
    """

    implementation: ClassVar[str] = "attrreg.attribution.parts:LRP"
    name: Literal["lrp"] = "lrp"
    rule: RuleName = "epsilon-plus-flat"
    epsilon: NonNegative | None = None
    gamma: NonNegative | None = None

    @model_validator(mode="after")
    def _rule_has_these_parameters(self) -> "LRP":
        if self.gamma is not None and self.rule != "gamma":
            raise ValueError(
                f"'gamma' has no effect under rule {self.rule!r}: remove it or set rule: gamma"
            )
        if self.epsilon is not None and self.rule == "lrp-0":
            raise ValueError(
                "'epsilon' has no effect under rule 'lrp-0', which is epsilon 0: remove it or set "
                "rule: epsilon"
            )
        return self


class Wrapper(Part):
    """What makes maps out of those of another attribution, ``of``."""

    of: "Attribution"

    @field_validator("of", mode="before")
    @classmethod
    def _names_are_parts(cls, value: Any) -> Any:
        return _part(value)


class Cached(Wrapper):
    """The map of each sample is made anew in every ``every``-th epoch, and kept in between."""

    implementation: ClassVar[str] = "attrreg.attribution.cached:Cached"
    name: Literal["cached"] = "cached"
    every: Count = 1

    @model_validator(mode="after")
    def _wraps_an_attribution(self) -> "Cached":
        if isinstance(self.of, Wrapper):
            raise ValueError(
                f"'cached' keeps the maps of an attribution, found {self.of.name!r}: put 'cached' "
                "inside the control, {name: <control>, of: {name: cached, of: …}}, and only once"
            )
        return self


class Control(Wrapper):
    """What every control is: an attribution (``of``) whose maps are made uninformative."""


class Swapped(Control):
    """Control: every sample gets the map of another sample of the batch."""

    implementation: ClassVar[str] = "attrreg.attribution.controls:Swapped"
    name: Literal["swapped"] = "swapped"


class Scrambled(Control):
    """Control: the values of each map are permuted over its features."""

    implementation: ClassVar[str] = "attrreg.attribution.controls:Scrambled"
    name: Literal["scrambled"] = "scrambled"


class SwappedWithinClass(Control):
    """Control: every sample gets the map of another sample of its class."""

    implementation: ClassVar[str] = "attrreg.attribution.controls:SwappedWithinClass"
    name: Literal["swapped-within-class"] = "swapped-within-class"


class RandomClass(Control):
    """Control: the same attribution explains a class drawn at random for each sample."""

    implementation: ClassVar[str] = "attrreg.attribution.controls:RandomClass"
    name: Literal["random-class"] = "random-class"

    @model_validator(mode="after")
    def _explains_an_output(self) -> "RandomClass":
        base = chain(self)[-1]
        if not isinstance(base, Explained):
            raise ValueError(
                f"'random-class' controls attributions that explain an output of the model, "
                f"{base.name!r} explains none: use another control or another attribution"
            )
        return self


class Reversed(Control):
    """Control: the least relevant features take the place of the most relevant ones."""

    implementation: ClassVar[str] = "attrreg.attribution.controls:Reversed"
    name: Literal["reversed"] = "reversed"


class Untrained(Control):
    """Control: the maps are those of a copy of the model that is never trained."""

    implementation: ClassVar[str] = "attrreg.attribution.controls:Untrained"
    name: Literal["untrained"] = "untrained"


class UniformMap(Control):
    """Control: an independent U(0, 1) value per feature."""

    implementation: ClassVar[str] = "attrreg.attribution.controls:UniformMap"
    name: Literal["uniform-map"] = "uniform-map"


class Oracle(Control):
    """Control from above: the sample's ground-truth region, where the dataset has one."""

    implementation: ClassVar[str] = "attrreg.attribution.controls:Oracle"
    name: Literal["oracle"] = "oracle"


Attribution = Annotated[
    Uniform
    | Gradient
    | GradientTimesInput
    | SmoothGrad
    | IntegratedGradients
    | LRP
    | Cached
    | Swapped
    | Scrambled
    | SwappedWithinClass
    | RandomClass
    | Reversed
    | Untrained
    | UniformMap
    | Oracle,
    Field(discriminator="name"),
    _or_added("attribution"),
    SerializeAsAny(),
]

WRAPPERS: tuple[type[Wrapper], ...] = (Cached, *Control.__subclasses__())

for _wrapper in WRAPPERS:  # they name Attribution before it exists
    _wrapper.model_rebuild()


def chain(attribution: Part | None) -> tuple[Part, ...]:
    """Return an attribution and what it wraps, outermost first; nothing for None."""
    parts: list[Part] = []
    while attribution is not None:
        parts.append(attribution)
        attribution = attribution.of if isinstance(attribution, Wrapper) else None
    return tuple(parts)


class Masking(Part):
    """What perturbations that erase features have in common.

    ``fill``: the batch's channel mean, zero, Gaussian noise of the batch's channel mean and
    deviation, uniform in the sample's own range, a blurred copy, or the pixels of another sample;
    all in the space the model sees. ``coin``: whether to act is tossed per sample or per batch.
    """

    p: Probability
    fill: Fill = "mean"
    coin: Coin = "sample"


class Drop(Masking):
    """RelDrop, pixel and points form: drop a feature iff α·U + (1−α)·R̂ ≥ 1−β.

    ``normalisation``: R̂ is the map scaled to [0, 1] per sample, or the rank of its values there.
    ``rate`` with ranks: exactly that share of features is dropped, those with the largest score.
    """

    implementation: ClassVar[str] = "attrreg.perturbation:Drop"
    name: Literal["drop"] = "drop"
    p: Probability = 0.3
    alpha: Probability = 0.3
    beta: Probability = 0.5
    normalisation: Literal["min-max", "rank"] = "min-max"
    rate: Share | None = None

    @model_validator(mode="after")
    def _rate_needs_ranks(self) -> "Drop":
        if self.rate is not None and self.normalisation != "rank":
            raise ValueError("'rate' needs normalisation: rank; remove one or set the other")
        return self


class Block(Masking):
    """RelDrop, block and patch form: erase boxes centred on features among the most relevant.

    ``patches`` boxes are centred on distinct features drawn from the ``centres`` most relevant.
    Their areas are equal and add up to a share of the features uniform in ``area``; where they
    overlap, less is erased. Their aspect is log-uniform in ``aspect`` (height ÷ width; unused on
    one axis). ``placement``: shifted inside the input, so that the area does not depend on the
    centre, or clipped at the border as published.
    """

    implementation: ClassVar[str] = "attrreg.perturbation:Block"
    modalities: ClassVar[tuple[Modality, ...]] = ("image", "text", "series")
    name: Literal["block"] = "block"
    p: Probability = 0.5
    centres: Count = 1
    patches: Count = 1
    area: tuple[Share, Share] = (0.02, 0.4)
    aspect: tuple[Positive, Positive] = (0.3, 1 / 0.3)
    placement: Literal["inside", "clipped"] = "inside"

    @model_validator(mode="after")
    def _ranges_ascend(self) -> "Block":
        for key in ("area", "aspect"):
            low, high = getattr(self, key)
            if low > high:
                raise ValueError(f"{key!r} must be a range [low, high], found [{low}, {high}]")
        if self.patches > self.centres:
            raise ValueError(
                f"{self.patches} patches need as many distinct centres, found centres: "
                f"{self.centres}; raise centres or lower patches"
            )
        return self


class ReplaceLowest(Masking):
    """Saliency Guided Training: replace the given share of features, lowest values first."""

    implementation: ClassVar[str] = "attrreg.perturbation:ReplaceLowest"
    name: Literal["replace-lowest"] = "replace-lowest"
    p: Probability = 1.0
    fraction: Share = 0.5
    fill: Fill = "range"


class Scale(Part):
    """Challenger, reconstructed: x′ = x + s·g(r, x) with s ~ U(0, s_max) per sample.

    r is the map's positive part (``relevance: positive``) or the signed map, divided by its largest
    magnitude in the sample; g is −r·x (attenuate), −r (reverse), +r (amplify) or r·ε with Gaussian
    ε (noise).
    """

    implementation: ClassVar[str] = "attrreg.perturbation:Scale"
    name: Literal["scale"] = "scale"
    p: Probability = 0.5
    strength: NonNegative = 2.0
    mode: Literal["attenuate", "reverse", "amplify", "noise"] = "attenuate"
    relevance: Literal["positive", "signed"] = "positive"
    coin: Coin = "sample"


Perturbation = Annotated[
    Drop | Block | ReplaceLowest | Scale,
    Field(discriminator="name"),
    _or_added("perturbation"),
    SerializeAsAny(),
]


class CrossEntropy(Part):
    """Cross-entropy on the clean or on the perturbed batch.

    ``label_smoothing``: the share of the target that is spread evenly over all classes (Szegedy et
    al., CVPR 2016). ``dropout``: the share of the inputs of the last linear layer that are dropped
    in training mode (Srivastava et al., JMLR 2014).
    """

    implementation: ClassVar[str] = "attrreg.objective:CrossEntropy"
    name: Literal["cross-entropy"] = "cross-entropy"
    on: Literal["clean", "perturbed"] = "clean"
    label_smoothing: Lost = 0.0
    dropout: Lost = 0.0


class Consistency(Part):
    """Cross-entropy on x plus ``weight`` · KL(f(x) ‖ f(x̃)).

    ``detach_clean`` keeps the divergence from changing the clean prediction. ``passes``: clean and
    perturbed batch one after the other, or concatenated in one pass; ``auto`` concatenates them
    where no batch norm would mix their statistics and no map has had the clean pass already.
    """

    implementation: ClassVar[str] = "attrreg.objective:Consistency"
    name: Literal["consistency"] = "consistency"
    weight: NonNegative = 1.0
    detach_clean: bool = False
    passes: Literal["auto", "separate", "concatenated"] = "auto"


class Mixture(Part):
    """(1 − q) · cross-entropy on x + q · cross-entropy on x′, q = ``perturbed_share``."""

    implementation: ClassVar[str] = "attrreg.objective:Mixture"
    name: Literal["mixture"] = "mixture"
    perturbed_share: Probability = 1.0


Objective = Annotated[
    CrossEntropy | Consistency | Mixture,
    Field(discriminator="name"),
    _or_added("objective"),
    SerializeAsAny(),
]
OWN.update(
    branch.model_fields["name"].default
    for union in (Attribution, Perturbation, Objective)
    for branch in get_args(get_args(union)[0])
)


class Composition(BaseModel):
    """A method as data: attribution ▸ perturbation ▸ objective."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    attribution: Attribution | None = None
    perturbation: Perturbation | None = None
    objective: Objective = CrossEntropy()

    @field_validator("attribution", "perturbation", "objective", mode="before")
    @classmethod
    def _names_are_parts(cls, value: Any) -> Any:
        return _part(value)

    @model_validator(mode="after")
    def _parts_fit(self) -> "Composition":
        if self.perturbation is not None and self.attribution is None:
            raise ValueError(
                f"perturbation {self.perturbation.name!r} needs an attribution to act on: "
                "give one, or 'uniform' for none"
            )
        needs = getattr(self.objective, "on", "perturbed") == "perturbed"
        if needs and self.perturbation is None:
            raise ValueError(
                f"objective {self.objective.name!r} needs a perturbed input: give a perturbation, "
                "or use {name: cross-entropy, on: clean}"
            )
        if not needs and self.perturbation is not None:
            raise ValueError(
                f"perturbation {self.perturbation.name!r} has no effect on cross-entropy on the "
                "clean batch: set {name: cross-entropy, on: perturbed} or remove it"
            )
        return self

    @model_validator(mode="after")
    def _something_is_left_to_change(self) -> "Composition":
        parts = chain(self.attribution)
        positive = (
            isinstance(self.perturbation, Scale) and self.perturbation.relevance == "positive"
        )
        is_reversed = any(isinstance(part, Reversed) for part in parts)
        if positive and is_reversed and getattr(parts[-1], "sign", "") != "signed":
            raise ValueError(
                f"'reversed' leaves no positive value of a map of {parts[-1].name!r} without "
                "negative ones, and 'scale' changes nothing: set relevance: signed or sign: signed"
            )
        return self
