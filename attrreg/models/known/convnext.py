"""ConvNeXt whose stem leaves every pixel."""

from attrreg.entries import Model

__all__ = ["MODELS"]

MODELS = {
    "convnext-atto-small": Model(
        title="timm ConvNeXt-Atto whose stem leaves every pixel",
        modality="image",
        timm="convnext_atto",
        options={"patch_size": 1},
        parameters=3_375_930,
        flops=353_552_640,
        step_seconds=0.5,
    ),
}
