"""Vision transformers with small patches."""

from attrreg.entries import Model

__all__ = ["MODELS"]

MODELS = {
    "vit-tiny-patch4": Model(
        title="timm ViT-Tiny with patches of 4 pixels; image sizes that 4 divides",
        modality="image",
        timm="vit_tiny_patch16_224",
        options={"patch_size": 4},
        parameters=5_362_762,
        flops=730_215_168,
        step_seconds=0.6,
    ),
}
