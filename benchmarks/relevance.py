"""What a relevance map costs, as a ratio to a plain step, and what memory; zennit's beside ours.

python benchmarks/relevance.py [--device cuda] [--dtype bfloat16] [--model vit_tiny_patch16_224
    --image-size 224 --batch-size 8]

A plain step is forward pass, cross-entropy, backward pass and SGD of the same model on the same
batch, timed in turn with the map. zennit is used as in a loop of one's own: its composite and
canonizers are made once and registered around every call. Its canonizers fold timm's batch norms,
but know none of timm's residual sums, so its maps of timm's ResNets are wrong; rows with
"torchvision" are of torchvision's ResNet with the same stem, where they are right, against a plain
step of that.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
import zennit.composites
from timing import RESULTS, against, as_trained, chosen, peak, stepper, write
from torch import Tensor, nn
from torch.nn import functional as F
from zennit.rules import Epsilon
from zennit.torchvision import ResNetCanonizer
from zennit.types import Convolution, Linear

from attrreg import models
from attrreg.attribution import RULES, relevance
from attrreg.machine import use_threads
from attrreg.models.images import SMALL_IMAGE, use_small_stem

BOUND = 4.0  # inputs lie within ± this
# A map by one of these is many passes; it is timed by this share of the repeats.
SLOW = {"smoothgrad": 5, "integrated-gradients": 5}
# What the lower end of the interval should not exceed, on one thread of a CPU in float32.
BUDGETS = {
    ("resnet18", "32x3x32"): {
        **{"gradient-x-input": 0.72, "lrp-0": 0.72, "epsilon-plus-flat": 1.15},
        **{"gamma": 1.9, "alpha2-beta1": 1.45},
    },
    ("vit_tiny_patch16_224", "8x3x224"): {"lrp-0": 0.8},
}


def main() -> None:
    arguments = _arguments()
    use_threads(arguments.threads)
    torch.manual_seed(0)
    device, dtype = torch.device(arguments.device), getattr(torch, arguments.dtype)
    size, n = arguments.image_size, arguments.batch_size
    x = torch.randn(n, 3, size, size).clamp_(-BOUND, BOUND).to(device, dtype)
    y = torch.randint(10, (n,)).to(device)
    model = as_trained(models.create(arguments.model, num_classes=10, in_chans=3, image_size=size))
    shape = f"{n}x3x{size}"
    is_budgeted = device.type == "cpu" and dtype == torch.float32 and arguments.threads == 1
    budgets = BUDGETS.get((arguments.model, shape), {}) if is_budgeted else {}
    rows: list[dict[str, Any]] = []
    kind = f"{arguments.model}-{device.type}" + ("" if dtype == torch.float32 else "-bfloat16")
    work = list(_work(arguments.model, model.to(device, dtype), x, y))
    wanted = chosen(arguments.only, [name for name, _, _ in work])
    for name, run, plain in work:
        if name not in wanted:
            continue
        repeats = max(2, arguments.repeats // SLOW.get(name, 1))
        row = {"what": name} | against(run, plain, repeats, device)
        model.zero_grad(set_to_none=True)
        row["peak_mib"] = round(peak(run, device), 1)
        budget = budgets.get(name)
        row |= {"budget": budget, "met": budget and row["low"] <= budget}
        rows.append(row | {"model": arguments.model, "input": shape, "dtype": arguments.dtype})
        print(
            f"{name:<40} {row['ratio']:6.2f}  [{row['low']:.2f}, {row['high']:.2f}]"
            f"  {row['peak_mib']:6.0f} MiB" + (f"  budget {budget}" if budget else ""),
            flush=True,
        )
        # row by row: what is measured is kept, however this ends
        write(arguments.results / f"relevance-{kind}.csv", rows, device)


Work = tuple[str, Callable[[], object], Callable[[], None]]  # its name, a run of it, a plain step


def _work(name: str, model: nn.Module, x: Tensor, y: Tensor) -> Iterator[Work]:
    """Yield what is measured."""
    plain = _plain(model, x, y)

    def forward() -> None:
        with torch.no_grad():
            model(x)

    yield "plain step", plain, plain
    yield "forward pass", forward, plain
    for rule in RULES.values():
        bounded = replace(rule, low=-BOUND, high=BOUND) if rule.first == "z-box" else rule
        yield rule.name, lambda rule=bounded: relevance(model, x, y, rule), plain
    if not isinstance(model, timm.models.ResNet):  # zennit's composites are for convolutions
        return
    yield from _zennit("", model, plain, x, y)
    known = getattr(torchvision.models, name, None)
    if known is not None:
        twin = known(num_classes=10)
        if x.shape[-1] <= SMALL_IMAGE:
            use_small_stem(twin)
        as_trained(twin).to(x.device, x.dtype)
        yield from _zennit(" (torchvision)", twin, _plain(twin, x, y), x, y)


def _plain(model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], None]:
    step = stepper(model)
    return lambda: step(lambda: F.cross_entropy(model(x), y))


def _zennit(
    mark: str, model: nn.Module, plain: Callable[[], None], x: Tensor, y: Tensor
) -> Iterator[Work]:
    """Yield zennit's maps of a model in training mode, which is how it is found in a loop."""
    one_hot = F.one_hot(y, 10).to(x.dtype)
    options: dict[str, Any] = {"canonizers": [ResNetCanonizer()]}
    everywhere = [*zennit.composites.layer_map_base(), ((Convolution, Linear), Epsilon())]
    bounds = {"low": torch.full_like(x[:1], -BOUND), "high": torch.full_like(x[:1], BOUND)}
    composites = {
        "Epsilon": zennit.composites.LayerMapComposite(everywhere, **options),
        "EpsilonPlusFlat": zennit.composites.EpsilonPlusFlat(**options),
        "EpsilonGammaBox": zennit.composites.EpsilonGammaBox(**bounds, **options),
        "EpsilonAlpha2Beta1": zennit.composites.EpsilonAlpha2Beta1(**options),
    }

    def explain(composite: Any) -> Tensor:
        leaf = x.detach().clone().requires_grad_()
        model.eval()
        with composite.context(model) as prepared:
            logits = prepared(leaf)
            (found,) = torch.autograd.grad(logits, leaf, logits.detach() * one_hot)
        model.train()
        return found

    for name, composite in composites.items():
        yield f"zennit:{name}{mark}", lambda composite=composite: explain(composite), plain


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--only", nargs="*", help="names such as 'lrp-0' or 'zennit:Epsilon'")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the table goes")
    return parser.parse_args()


if __name__ == "__main__":
    main()
