"""How a trained model is evaluated: the typed protocol."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from attrreg.parameters import Fill, RuleName
from attrreg.recipe import Strict

__all__ = ["Evaluation", "Order"]

Order = Literal["random-pixels", "random-block", "most-relevant-first"]


class Evaluation(Strict):
    """What is measured on the test split.

    ``fill`` takes the place of occluded pixels; ``rule`` makes the relevance maps of the predicted
    class; ``gallery`` is the number of test samples whose maps are kept.
    """

    orders: Annotated[tuple[Order, ...], Field(min_length=1)] = (
        "random-pixels",
        "random-block",
        "most-relevant-first",
    )
    fill: Fill = "mean"
    fractions: Annotated[
        tuple[Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)], ...], Field(min_length=2)
    ] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    rule: RuleName = "epsilon-plus-flat"
    bins: Annotated[int, Field(ge=2)] = 15
    gallery: Annotated[int, Field(ge=1, le=64)] = 6

    @field_validator("fractions")
    @classmethod
    def _fractions_ascend(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if list(values) != sorted(set(values)):
            raise ValueError(f"fractions must ascend without repetition, found {list(values)}")
        return values
