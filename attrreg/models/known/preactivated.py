"""Residual networks with norms before the convolutions."""

from attrreg.entries import Model

__all__ = ["MODELS"]

BUILT_BY = "attrreg.models.small:preactivated_resnet"

MODELS = {
    "preact-resnet18": Model(
        title="ResNet-18 with norms before the convolutions (He et al., ECCV 2016)",
        modality="image",
        options={
            "layers": (2, 2, 2, 2),
            "channels": (64, 128, 256, 512),
            "stem_channels": 64,
        },
        implementation=BUILT_BY,
        parameters=11_172_170,
        flops=1_110_845_440,
        step_seconds=0.9,
    ),
    "wrn-28-10": Model(
        title="wide ResNet of depth 28, 10 times as wide (Zagoruyko and Komodakis, BMVC 2016)",
        modality="image",
        options={"layers": (4, 4, 4), "channels": (160, 320, 640), "stem_channels": 16},
        implementation=BUILT_BY,
        parameters=36_479_194,
        flops=10_486_657_536,
        step_seconds=6.0,
    ),
    "wrn-40-2": Model(
        title="wide ResNet of depth 40, twice as wide (Zagoruyko and Komodakis, BMVC 2016)",
        modality="image",
        options={"layers": (6, 6, 6), "channels": (32, 64, 128), "stem_channels": 16},
        implementation=BUILT_BY,
        parameters=2_243_546,
        flops=655_198_720,
        step_seconds=0.5,
    ),
}
