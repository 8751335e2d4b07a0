"""MobileNets whose first convolution sees every pixel of small images."""

from attrreg.entries import Model

__all__ = ["MODELS"]

MODELS = {
    "mobilenetv2-small": Model(
        title="timm MobileNetV2, its stem at stride 1 up to 64 pixels",
        modality="image",
        timm="mobilenetv2_100",
        options={"small_stem": True},
        parameters=2_236_682,
        flops=48_922_624,
        step_seconds=0.3,
    ),
    "mobilenetv3-small": Model(
        title="timm MobileNetV3-Small, its stem at stride 1 up to 64 pixels",
        modality="image",
        timm="mobilenetv3_small_100",
        options={"small_stem": True},
        parameters=1_528_106,
        flops=11_005_440,
        step_seconds=0.1,
    ),
}
