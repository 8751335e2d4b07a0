"""Densely connected networks."""

from attrreg.entries import Model

__all__ = ["MODELS"]

MODELS = {
    "densenet-bc-100-12": Model(
        title="DenseNet-BC of depth 100 with growth rate 12 (Huang et al., CVPR 2017)",
        modality="image",
        options={"depth": 100, "growth_rate": 12},
        implementation="attrreg.models.small:densenet_bc",
        parameters=769_162,
        flops=575_859_384,
        step_seconds=2.0,
    ),
}
