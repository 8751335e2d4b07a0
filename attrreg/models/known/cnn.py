"""Small convolutional networks: one for digits, one for series."""

from attrreg.entries import Model

__all__ = ["MODELS"]

MODELS = {
    "mnist-cnn": Model(
        title="two convolutions and two linear layers, as in saliency-guided training (MNIST)",
        modality="image",
        implementation="attrreg.models.cnn:mnist_cnn",
        parameters=1_199_882,
        flops=23_984_896,
        step_seconds=0.04,
    ),
    "cnn-series": Model(
        title="three blocks of convolution over time, batch norm and ReLU, averaged over time",
        modality="series",
        implementation="attrreg.models.cnn:series_cnn",
        parameters=68_042,
        flops=17_122_560,
        step_seconds=0.02,
    ),
}
