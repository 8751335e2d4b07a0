"""Images per second of our training loop, against a bare loop over one batch that never moves.

python benchmarks/throughput.py [--device cuda] [--model resnet18] [--image-size 32]

The bare loop is forward pass, cross-entropy, backward pass and optimiser of a copy of the same
model; on a GPU it is captured in a CUDA graph, of channels-last tensors as our loop's are. Our loop
is `attrreg.training.engine.Training` on a training set that lies on the device, with random crops
and flips. Both are timed in turn, a pass over the training set at a time; the ratio is of times, so
that 1.05 is 5 % slower.
"""

import argparse
import copy
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from timing import RESULTS, against, as_trained, chosen, write
from torch import Tensor, nn
from torch.nn import functional as F

from attrreg import method, models
from attrreg.data.device import TrainingSet
from attrreg.execution import Execution
from attrreg.machine import use_deterministic, use_threads
from attrreg.provenance import stream_seed
from attrreg.recipe import SGD, Augmentation, Recipe
from attrreg.training.capture import WARM_UP, record_on_cuda
from attrreg.training.engine import Streams, Training
from attrreg.training.optimizers import make_optimizer

AUGMENTED = Augmentation(crop_padding=4, flip=True)
BARE, STILL = "bare loop", "baseline, not augmented"
BUDGETS = {"cpu": 1.05, "cuda": 1.10}  # of plain training with augmentation
LONG = 10**9  # steps; no row comes to the end


def main() -> None:
    arguments = _arguments()
    presets = [name for name in method.names() if "/" not in name]
    wanted = chosen(arguments.only, [BARE, STILL, *presets])
    use_threads(threads=1)
    use_deterministic(Execution().deterministic, "float32")
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    size, batch_size = arguments.image_size, min(arguments.batch_size, arguments.train_size)
    recipe = Recipe(
        steps=LONG,
        batch_size=batch_size,
        optimizer=SGD(learning_rate=1e-3),  # labels are random: large steps would diverge
        augmentation=AUGMENTED,
    )
    model = models.create(arguments.model, num_classes=10, in_chans=3, image_size=size)
    model = as_trained(model).to(device)
    data = _random_set(arguments.train_size, size, device)
    steps = max(1, len(data) // batch_size)
    step = _bare_step(copy.deepcopy(model), *data.batch(torch.arange(batch_size)), recipe)

    def bare() -> None:
        for _ in range(steps):
            step()

    def loop(name: str) -> Callable[[], None]:
        streams = Streams.seeded(lambda stream: stream_seed(stream, 0), device)
        own = recipe.model_copy(update={"augmentation": Augmentation()} if name == STILL else {})
        made = method.create("baseline" if name == STILL else name)
        training = Training(copy.deepcopy(model), made, data, own, streams)
        each = training.stepwise()
        return lambda: _take(each, steps)

    table: list[dict[str, Any]] = []
    for name in wanted:
        run = bare if name == BARE else loop(name)
        row = {"what": name} | against(run, bare, arguments.repeats, device)
        speed = steps * batch_size / row["milliseconds"] * 1000
        bar = BUDGETS[device.type] if name == "baseline" else None
        verdict = {"budget": bar, "met": bar and row["low"] <= bar}
        given = {"model": arguments.model, "input": f"{batch_size}x3x{size}", "steps": steps}
        table.append(row | {"images_per_second": round(speed, 1)} | verdict | given)
        print(
            f"{name:<26} {speed:10.1f} images/s  {row['ratio']:6.3f}  "
            f"[{row['low']:.3f}, {row['high']:.3f}]"
            + (f"  budget {bar:.2f} {'met' if verdict['met'] else 'MISSED'}" if bar else ""),
            flush=True,
        )
        write(arguments.results / f"throughput-{arguments.model}-{device.type}.csv", table, device)


def _random_set(n: int, size: int, device: torch.device) -> TrainingSet:
    """Return n images of noise with random labels, on the device."""
    images = torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8)
    mean, deviation = torch.full((3,), 0.5), torch.full((3,), 0.29)
    return TrainingSet(
        *(each.to(device) for each in (images, torch.randint(10, (n,)), mean, deviation))
    )


def _bare_step(model: nn.Module, x: Tensor, y: Tensor, recipe: Recipe) -> Callable[[], None]:
    """Return a plain step on one batch: what the arithmetic costs and nothing else."""
    optimizer = make_optimizer(model.train(), recipe.optimizer)
    if x.is_cuda:
        model.to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    if not x.is_cuda:
        return step
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(WARM_UP):
            step()
    torch.cuda.current_stream().wait_stream(beside)
    return record_on_cuda(step, ())


def _take(each: Iterator[None], steps: int) -> None:
    for _ in islice(each, steps):
        pass


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=tuple(BUDGETS), default="cpu")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--train-size", type=int, default=256, help="images of a pass")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--only", nargs="*", help=f"names such as 'baseline' or '{BARE}'")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the table goes")
    return parser.parse_args()


if __name__ == "__main__":
    main()
