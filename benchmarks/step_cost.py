"""What a step of each method costs, as a ratio to a plain step, measured interleaved.

python benchmarks/step_cost.py [--device cuda] [--model resnet18] [--image-size 32] [--repeats 30]
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from timing import RESULTS, against, stepper, write
from torch.nn import functional as F

from attrreg import method, models
from attrreg.machine import use_threads
from attrreg.state import State


def main() -> None:
    arguments = _arguments()
    use_threads(threads=1)
    device = torch.device(arguments.device)
    size, channels = arguments.image_size, arguments.channels
    model = models.create(arguments.model, num_classes=10, in_chans=channels, image_size=size)
    model = model.to(device)
    step = stepper(model)
    x = torch.randn(arguments.batch_size, channels, size, size, device=device)
    y = torch.randint(10, (arguments.batch_size,), device=device)

    def of_method(name: str) -> Callable[[], None]:
        made = method.create(name)
        state = State(
            generator=torch.Generator(device).manual_seed(0),
            indices=torch.arange(len(x)),
            size=len(x),
            region=torch.rand(len(x), size, size, device=device),
            memory={},
        )
        stream = torch.Generator(device).manual_seed(1)
        return lambda: step(lambda: made.loss(model, x, y, generator=stream, state=state).total)

    def plain() -> None:
        step(lambda: F.cross_entropy(model(x), y))

    work: dict[str, Callable[[], None]] = {
        f"step {name}": of_method(name) for name in method.names()
    }
    given = {
        "model": arguments.model,
        "input": f"{arguments.batch_size}x{channels}x{size}",
    }
    rows = []
    for name, run in work.items():
        if arguments.only and name not in arguments.only:
            continue
        row = against(run, plain, arguments.repeats, device)
        rows.append({"what": name} | row | given)
        print(f"{name:<44} {row['ratio']:6.2f}  [{row['low']:.2f}, {row['high']:.2f}]", flush=True)
    write(arguments.results / f"step_cost-{arguments.model}-{device.type}.csv", rows, device)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--only", nargs="*", help="names such as 'step sgt'")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the table goes")
    return parser.parse_args()


if __name__ == "__main__":
    main()
