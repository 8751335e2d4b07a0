"""Where and in which portions the work is done: settings that no result depends on."""

from typing import Annotated, Literal

from pydantic import Field

from attrreg.recipe import Strict

__all__ = ["Execution"]


class Execution(Strict):
    """Where and in which portions the work is done; no result depends on it but the device.

    Parameters
    ----------
    device
        ``auto`` takes the GPU where there is one.
    shard_seconds
        About how long one process works; small cells share one. Starting the two processes of a
        shard (training, evaluation) costs about seven seconds.
    checkpoint_seconds
        How often a training is stored, so that a kill costs no more than this.
    resident_share
        A training set that takes more than this share of the device's free memory streams to it,
        batch by batch, with the same results.
    deterministic
        Whether a GPU gives the same bits again for the same work; it is faster without. A CPU does
        so in any case.
    capture
        Whether steps are captured in a CUDA graph where they can be.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    shard_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 180.0
    checkpoint_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 60.0
    resident_share: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.5
    deterministic: bool = False
    capture: bool = True
