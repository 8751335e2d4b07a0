"""Networks for small images, put together from the parts of timm.

Each has one stem for images up to 64 pixels, as its paper has for CIFAR, and the one of timm above.
"""

import math
from collections.abc import Sequence

from timm.layers import BatchNormAct2d, ClassifierHead, create_conv2d
from timm.models.densenet import DenseNet
from timm.models.resnetv2 import ResNetV2
from timm.models.vgg import VGG
from torch import nn

from attrreg.models.stems import SMALL_IMAGE, use_small_stem

__all__ = ["densenet_bc", "preactivated_resnet", "vgg"]


def preactivated_resnet(
    *,
    num_classes: int,
    in_chans: int,
    image_size: int,
    layers: Sequence[int],
    channels: Sequence[int],
    stem_channels: int,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
) -> nn.Module:
    """Build a residual network of two 3×3 convolutions per block, with norms before them.

    The classifier is a linear layer, where timm has a 1×1 convolution: relevance rules treat the
    two differently.

    Parameters
    ----------
    layers, channels
        Blocks of each stage, and how wide they are.
    stem_channels
        Of the convolution before the first stage.
    drop_rate, drop_path_rate
        Of the features before the classifier, and of whole residual branches.

    References
    ----------
    He et al., "Identity mappings in deep residual networks", ECCV 2016; Zagoruyko and Komodakis,
    "Wide residual networks", BMVC 2016 (theirs may have dropout inside blocks, this one has not).
    """
    model = ResNetV2(
        list(layers),
        channels=tuple(channels),
        num_classes=num_classes,
        in_chans=in_chans,
        stem_chs=stem_channels,
        basic=True,
        bottle_ratio=1.0,
        norm_layer=BatchNormAct2d,
        conv_layer=create_conv2d,
        drop_rate=drop_rate,
        drop_path_rate=drop_path_rate,
    )
    model.head = ClassifierHead(model.num_features, num_classes, drop_rate=drop_rate)
    if image_size <= SMALL_IMAGE:
        use_small_stem(model)
    return model


def densenet_bc(
    *,
    num_classes: int,
    in_chans: int,
    image_size: int,
    depth: int,
    growth_rate: int,
    drop_rate: float = 0.0,
    proj_drop_rate: float = 0.0,
) -> nn.Module:
    """Build a DenseNet-BC of three blocks, with bottlenecks and halving transitions.

    Parameters
    ----------
    depth
        Convolutions and the classifier: 4 and a multiple of 6.
    growth_rate
        Channels that each layer adds.
    drop_rate, proj_drop_rate
        Of the features before the classifier, and after each layer.

    References
    ----------
    Huang et al., "Densely connected convolutional networks", CVPR 2017.
    """
    if depth < 10 or (depth - 4) % 6:
        raise ValueError(f"depth is {depth}: give 4 and a multiple of 6, such as 40 or 100")
    model = DenseNet(
        growth_rate=growth_rate,
        block_config=((depth - 4) // 6,) * 3,
        num_classes=num_classes,
        in_chans=in_chans,
        drop_rate=drop_rate,
        proj_drop_rate=proj_drop_rate,
    )
    if image_size <= SMALL_IMAGE:
        use_small_stem(model)
        model.features.set_submodule("norm0", nn.Identity())  # every layer begins with its own
    return model


def vgg(
    *,
    num_classes: int,
    in_chans: int,
    image_size: int,
    stages: Sequence[Sequence[int]],
    drop_rate: float = 0.0,
) -> nn.Module:
    """Build a VGG with batch norm whose features are averaged and go straight to the classifier.

    Parameters
    ----------
    stages
        Channels of the 3×3 convolutions of each; a max-pool halves the image after every one that
        has more than a pixel left.
    drop_rate
        Of the features before the classifier.

    References
    ----------
    Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition",
    ICLR 2015; batch norm and small head as is usual for CIFAR.
    """
    halvings = int(math.log2(image_size))
    layers: list[int | str] = []
    for place, widths in enumerate(stages):
        layers += [*widths, *(["M"] if place < halvings else [])]
    model = VGG(
        layers,
        num_classes=num_classes,
        in_chans=in_chans,
        norm_layer=nn.BatchNorm2d,
        mlp_ratio=1 / 4096,  # of what goes with the next line
        drop_rate=drop_rate,
    )
    model.prune_intermediate_layers(len(model.feature_info) - 1, prune_head=True)
    model.reset_classifier(num_classes, "avg")
    return model
