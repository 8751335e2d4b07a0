"""VGG with batch norm and a small head, as is usual for CIFAR."""

from attrreg.entries import Model

__all__ = ["MODELS"]

BUILT_BY = "attrreg.models.small:vgg"

MODELS = {
    "vgg11-small": Model(
        title="VGG-11 with batch norm; features are averaged and classified",
        modality="image",
        options={"stages": ((64,), (128,), (256, 256), (512, 512), (512, 512))},
        implementation=BUILT_BY,
        parameters=9_231_114,
        flops=305_539_072,
        step_seconds=0.25,
    ),
    "vgg16-small": Model(
        title="VGG-16 with batch norm; features are averaged and classified",
        modality="image",
        options={
            "stages": (
                *((64, 64), (128, 128), (256, 256, 256)),
                *((512, 512, 512), (512, 512, 512)),
            )
        },
        implementation=BUILT_BY,
        parameters=14_728_266,
        flops=626_403_328,
        step_seconds=0.5,
    ),
}
