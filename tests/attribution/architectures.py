"""The architectures whose relevance is asked for: small, and with lively weights."""

import copy
import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

CLASSES = 5
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True)
class Architecture:
    """How a network is built, the shape of one sample, and whether it has attention weights."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...] = (3, 32, 32)
    attention: bool = False


class Recurrent(nn.Module):
    """A recurrent network over (n, steps, channels), read at its last step."""

    def __init__(self, recurrent):
        super().__init__()
        self.recurrent = recurrent
        width = recurrent.hidden_size * (2 if recurrent.bidirectional else 1)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x):
        if not self.recurrent.batch_first:
            return self.head(self.recurrent(x.transpose(0, 1))[0][-1])
        return self.head(self.recurrent(x)[0][:, -1])


class Unrolled(nn.Module):
    """An LSTM cell, called step by step."""

    def __init__(self, channels, width):
        super().__init__()
        self.cell = nn.LSTMCell(channels, width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x):
        state = None
        for step in x.unbind(1):
            state = self.cell(step, state)
        return self.head(state[0])


class Temporal(nn.Module):
    """Causal, dilated convolutions over (n, channels, steps), with skips."""

    def __init__(self, channels, width):
        super().__init__()
        self.stem = nn.Conv1d(channels, width, 1)
        self.layers = nn.ModuleList(
            nn.Conv1d(width, width, 3, padding=2 * dilation, dilation=dilation)
            for dilation in (1, 2, 4)
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in self.layers)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x):
        h = self.stem(x)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            past = layer(h)[:, :, : h.shape[2]]
            h = F.relu(h + F.relu(norm(past)))
        return self.head(h[:, :, -1])


class Encoder(nn.Module):
    """A transformer encoder over embedded tokens (n, tokens, width), with a position embedding."""

    def __init__(self, tokens, width, batch_first=True, norm_first=False, masked=False):
        super().__init__()
        self.batch_first, self.masked = batch_first, masked
        self.positions = nn.Parameter(torch.zeros(tokens, width))
        self.register_buffer("padding", torch.arange(tokens) >= tokens - 3)
        layer = nn.TransformerEncoderLayer(
            *(width, 2, 2 * width),
            activation="gelu" if norm_first else "relu",
            batch_first=batch_first,
            norm_first=norm_first,
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x):
        h = x + self.positions
        mask = self.padding.expand(len(x), -1) if self.masked else None
        if self.batch_first:
            h = self.encoder(h, src_key_padding_mask=mask)
        else:
            h = self.encoder(h.transpose(0, 1), src_key_padding_mask=mask).transpose(0, 1)
        return self.head(h[:, 0] if self.masked else h.mean(1))


class Points(nn.Module):
    """A shared perceptron for each point of (n, channels, points), and the maximum over them."""

    def __init__(self, channels):
        super().__init__()
        widths = (channels, 16, 24, 32)
        self.shared = nn.Sequential(
            *(
                nn.Sequential(nn.Conv1d(before, after, 1), nn.BatchNorm1d(after), nn.ReLU())
                for before, after in itertools.pairwise(widths)
            )
        )
        self.head = nn.Sequential(
            *(nn.Linear(32, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3)),
            nn.Linear(16, CLASSES),
        )

    def forward(self, x):
        return self.head(self.shared(x).max(2).values)


def _cnn():
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 12, 3, stride=2, bias=False), nn.BatchNorm2d(12), nn.ReLU(inplace=True)),
        *(nn.Conv2d(12, 12, 3, groups=3, dilation=2, padding=2), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(12 * 9, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, CLASSES)),
    )


def _mlp():
    return nn.Sequential(
        *(nn.Flatten(), nn.Linear(48, 24), nn.BatchNorm1d(24), nn.ReLU()),
        *(nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, CLASSES)),
    )


def _torchvision_vgg():
    model = torchvision.models.vgg11_bn(num_classes=CLASSES)
    model.classifier[0], model.classifier[3] = nn.Linear(25088, 64), nn.Linear(64, 64)
    model.classifier[6] = nn.Linear(64, CLASSES)
    return model


def _timm(name, **options):
    return lambda: timm.create_model(name, pretrained=False, num_classes=CLASSES, **options)


RESNETS = ("resnet34", "resnet50", "resnet26d", "resnext50_32x4d", "wide_resnet50_2")
NARROW = {"channels": (16, 32, 64, 128)}  # a quarter of the width, and all of the structure
MOBILE = ("regnety_002", "mobilenetv2_100", "mobilenetv3_small_100", "efficientnet_b0")
SERIES = (16, 6)  # steps, channels

ARCHITECTURES: dict[str, Architecture] = {
    "resnet18": Architecture(_timm("resnet18")),
    **{name: Architecture(_timm(name, **NARROW)) for name in RESNETS},
    "seresnet18": Architecture(_timm("seresnet18")),
    "legacy_seresnet18": Architecture(_timm("legacy_seresnet18")),
    "vgg11_bn": Architecture(_timm("vgg11_bn", mlp_ratio=1 / 64)),
    "densenet121": Architecture(_timm("densenet121")),
    **{name: Architecture(_timm(name)) for name in MOBILE},
    "convnext_atto": Architecture(_timm("convnext_atto")),
    "vit_tiny_patch16_224": Architecture(
        _timm("vit_tiny_patch16_224", img_size=32), attention=True
    ),
    "deit_tiny_patch16_224": Architecture(
        _timm("deit_tiny_patch16_224", img_size=32), attention=True
    ),
    "swin_tiny_patch4_window7_224": Architecture(
        _timm("swin_tiny_patch4_window7_224", img_size=32), attention=True
    ),
    "mixer_s16_224": Architecture(_timm("mixer_s16_224", img_size=32)),
    "torchvision-resnet18": Architecture(
        functools.partial(torchvision.models.resnet18, num_classes=CLASSES)
    ),
    "torchvision-vgg11_bn": Architecture(_torchvision_vgg),
    "cnn": Architecture(_cnn, (3, 28, 28)),
    "mlp": Architecture(_mlp, (3, 4, 4)),
    "lstm": Architecture(
        lambda: Recurrent(nn.LSTM(6, 8, num_layers=2, bidirectional=True, batch_first=True)),
        SERIES,
    ),
    "gru": Architecture(lambda: Recurrent(nn.GRU(6, 8, batch_first=True)), SERIES),
    "rnn": Architecture(lambda: Recurrent(nn.RNN(6, 8, num_layers=2)), SERIES),
    "lstm-cell": Architecture(lambda: Unrolled(6, 8), SERIES),
    "temporal": Architecture(lambda: Temporal(6, 10), (6, 16)),
    "encoder": Architecture(lambda: Encoder(10, 16), (10, 16), attention=True),
    "encoder-tokens-first": Architecture(
        lambda: Encoder(10, 16, batch_first=False, norm_first=True), (10, 16), attention=True
    ),
    "encoder-masked": Architecture(lambda: Encoder(10, 16, masked=True), (10, 16), attention=True),
    "points": Architecture(lambda: Points(3), (3, 20)),
}


def make(name: str, biases: bool = True, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Return a fresh copy of a network in `ARCHITECTURES`, in evaluation mode.

    With ``biases=False`` nothing constant is added to a signal anywhere: no bias, no shift, no
    running mean, no token or position of its own. What is added before a softmax stays.
    """
    model = copy.deepcopy(_built(name))
    if not biases:
        _remove_summands(model)
    return model.to(dtype)


def inputs(name: str, n: int = 2, dtype: torch.dtype = torch.float64, seed: int = 0):
    """Return standard normal samples, clipped to ±2.9, and labels."""
    generator = torch.Generator().manual_seed(seed)
    shape = ARCHITECTURES[name].shape
    x = torch.randn(n, *shape, generator=generator, dtype=torch.float64).clamp(-2.9, 2.9)
    return x.to(dtype), torch.randint(0, CLASSES, (n,), generator=generator)


@functools.lru_cache(maxsize=1)
def _built(name):
    torch.manual_seed(sorted(ARCHITECTURES).index(name))
    model = ARCHITECTURES[name].build().double()
    _enliven(model)
    return model.eval()


@torch.no_grad()
def _enliven(model):
    """Leave no weight at the 0 or 1 where initialisation puts it: half of a network is silent."""
    for module in model.modules():
        if isinstance(module, NORMS):
            module.weight.uniform_(0.5, 1.5)
            module.weight[::4].neg_()
            module.bias.normal_(0, 0.3)
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
    for name, parameter in model.named_parameters():
        if "positions" in name or "pos_embed" in name or "cls_token" in name:
            parameter.normal_(0, 0.5)
        elif name.endswith("relative_position_bias_table"):
            parameter.normal_(0, 1)
        elif name.endswith("gamma"):  # the scale of a residual branch
            parameter.uniform_(0.3, 1)
        elif (
            parameter == parameter.flatten()[0]
        ).all():  # still as initialised: 0, or 1 in a layer norm
            parameter.add_(torch.empty_like(parameter).uniform_(-0.3, 0.3))


SUMMANDS = ("pos_embed", "cls_token", "positions", "running_mean")


@torch.no_grad()
def _remove_summands(model):
    for name, values in model.state_dict().items():
        last = name.rpartition(".")[2]
        if last in SUMMANDS or ("bias" in last and "table" not in last):
            values.zero_()
