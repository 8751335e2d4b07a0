"""Small convolutional networks: one for digits, one for series."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["MnistCNN", "SeriesCNN", "mnist_cnn", "series_cnn"]

SMALLEST = 8  # pixels that `MnistCNN` takes


class MnistCNN(nn.Module):
    """Two convolutions, a max-pool, two linear layers, and dropout before each of these."""

    def __init__(
        self,
        num_classes: int,
        in_chans: int,
        image_size: int,
        widths: Sequence[int],
        hidden: int,
        drop_rates: Sequence[float],
    ) -> None:
        super().__init__()
        first, second = widths
        self.conv1 = nn.Conv2d(in_chans, first, 3)
        self.conv2 = nn.Conv2d(first, second, 3)
        self.dropout1 = nn.Dropout(drop_rates[0])
        self.fc1 = nn.Linear(second * ((image_size - 4) // 2) ** 2, hidden)
        self.dropout2 = nn.Dropout(drop_rates[1])
        self.fc2 = nn.Linear(hidden, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, num_classes) of images (n, in_chans, image_size, image_size)."""
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        x = self.dropout1(F.max_pool2d(x, 2)).flatten(1)
        logits: Tensor = self.fc2(self.dropout2(F.relu(self.fc1(x))))
        return logits

    def get_classifier(self) -> nn.Linear:
        """Return the layer that gives the logits."""
        return self.fc2

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return what tells the layers of parameters, as timm's models do."""
        return {"stem": r"^conv1", "blocks": [(r"^conv2", (0,)), (r"^fc1", (1,))]}


class SeriesCNN(nn.Module):
    """Blocks of convolution over time, batch norm and ReLU; their mean over time is classified."""

    def __init__(
        self,
        num_classes: int,
        in_chans: int,
        widths: Sequence[int],
        kernels: Sequence[int],
        drop_rate: float,
    ) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv1d(before, after, kernel, padding="same", bias=False),
                    nn.BatchNorm1d(after),
                    nn.ReLU(),
                )
                for (before, after), kernel in zip(
                    pairwise((in_chans, *widths)), kernels, strict=True
                )
            )
        )
        self.dropout = nn.Dropout(drop_rate)
        self.head = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, num_classes) of series (n, in_chans, length)."""
        logits: Tensor = self.head(self.dropout(self.blocks(x).mean(2)))
        return logits

    def get_classifier(self) -> nn.Linear:
        """Return the layer that gives the logits."""
        return self.head

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return what tells the layers of parameters, as timm's models do."""
        return {"stem": r"^blocks\.0\.", "blocks": r"^blocks\.(\d+)"}


def mnist_cnn(
    *,
    num_classes: int,
    in_chans: int,
    image_size: int,
    widths: Sequence[int] = (32, 64),
    hidden: int = 128,
    drop_rates: Sequence[float] = (0.25, 0.5),
) -> nn.Module:
    """Build the network that saliency-guided training was tried on with MNIST.

    Parameters
    ----------
    widths, hidden
        Channels of the two convolutions, and width of the linear layer between them and the
        classifier.
    drop_rates
        After the max-pool, and before the classifier.

    References
    ----------
    Ismail et al., "Improving deep learning interpretability by saliency guided training", NeurIPS
    2021, for the sizes; the order of layers is that of PyTorch's MNIST example.
    """
    if image_size < SMALLEST:
        raise ValueError(
            f"mnist-cnn takes images of {SMALLEST} pixels or more, found {image_size}: give larger "
            "ones or choose another model"
        )
    _check_pairs("widths", widths, 2)
    _check_pairs("drop_rates", drop_rates, 2)
    return MnistCNN(num_classes, in_chans, image_size, widths, hidden, drop_rates)


def series_cnn(
    *,
    num_classes: int,
    in_chans: int,
    image_size: int,
    widths: Sequence[int] = (64, 128, 64),
    kernels: Sequence[int] = (7, 5, 3),
    drop_rate: float = 0.0,
) -> nn.Module:
    """Build a fully convolutional network for series.

    Parameters
    ----------
    image_size
        The length of the series; the network takes any.
    widths, kernels
        Channels of the blocks, and the length of their filters.
    drop_rate
        Before the classifier.

    References
    ----------
    Wang et al., "Time series classification from scratch with deep neural networks", IJCNN 2017:
    half as wide, with odd filters.
    """
    _check_pairs("kernels", kernels, len(widths))
    return SeriesCNN(num_classes, in_chans, widths, kernels, drop_rate)


def _check_pairs(name: str, found: Sequence[Any], wanted: int) -> None:
    if len(found) != wanted:
        raise ValueError(f"{name} are {list(found)}: give {wanted} of them, one per layer")
