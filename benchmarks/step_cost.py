"""What a step of each method costs, as a ratio to a plain step, measured interleaved.

python benchmarks/step_cost.py [--device cuda] [--model resnet18] [--image-size 32] [--repeats 30]
"""

import argparse
import csv
import platform
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from attrreg import method, models
from attrreg.attribution import RULES, relevance
from attrreg.state import State

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(1)
    device = torch.device(arguments.device)
    size, channels = arguments.image_size, arguments.channels
    model = models.create(arguments.model, num_classes=10, in_chans=channels, image_size=size)
    model = model.to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    x = torch.randn(arguments.batch_size, channels, size, size, device=device)
    y = torch.randint(10, (arguments.batch_size,), device=device)

    def step(loss: Callable[[], torch.Tensor]) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        optimizer.step()

    def of_method(name: str) -> Callable[[], None]:
        made = method.create(name)
        state = State(generator=torch.Generator(device).manual_seed(0))
        stream = torch.Generator(device).manual_seed(1)
        return lambda: step(lambda: made.loss(model, x, y, generator=stream, state=state).total)

    def plain() -> None:
        step(lambda: F.cross_entropy(model(x), y))

    work: dict[str, Callable[[], None]] = {
        f"step {name}": of_method(name) for name in method.names()
    }
    for rule in RULES:
        work[f"map {rule}"] = lambda rule=rule: _discard(relevance(model, x, y, rule))  # type: ignore[misc]
    rows = []
    for name, run in work.items():
        if arguments.only and name not in arguments.only:
            continue
        ratios = _ratios(run, plain, arguments.repeats, device)
        low, middle, high = np.quantile(ratios, (0.025, 0.5, 0.975))
        interval = _median_interval(ratios)
        rows.append(
            {
                "what": name,
                "ratio": round(float(middle), 3),
                "low": round(interval[0], 3),
                "high": round(interval[1], 3),
                "spread_low": round(float(low), 3),
                "spread_high": round(float(high), 3),
            }
        )
        print(f"{name:<34} {middle:6.2f}  [{interval[0]:.2f}, {interval[1]:.2f}]", flush=True)
    _write(rows, arguments, device)


def _discard(value: torch.Tensor) -> None:
    del value


def _ratios(
    run: Callable[[], None], plain: Callable[[], None], repeats: int, device: torch.device
) -> np.ndarray:
    """Time both in turn; the order within a pair alternates."""
    for _ in range(3):
        run(), plain()
    ratios = []
    for number in range(repeats):
        first, second = (run, plain) if number % 2 else (plain, run)
        times = _seconds(first, device), _seconds(second, device)
        ratios.append(times[0] / times[1] if number % 2 else times[1] / times[0])
    return np.asarray(ratios)


def _seconds(run: Callable[[], None], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begun = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begun


def _median_interval(ratios: np.ndarray) -> tuple[float, float]:
    """Return a 95 % bootstrap interval of the median."""
    generator = np.random.default_rng(0)
    medians = np.median(generator.choice(ratios, (2000, len(ratios))), axis=1)
    low, high = np.quantile(medians, (0.025, 0.975))
    return float(low), float(high)


def _write(rows: list[dict], arguments: argparse.Namespace, device: torch.device) -> None:
    on_gpu = device.type == "cuda"
    head = {
        "model": arguments.model,
        "input": f"{arguments.batch_size}x{arguments.channels}x{arguments.image_size}",
        "device": torch.cuda.get_device_name(device) if on_gpu else platform.machine(),
        "torch": torch.__version__,
        "date": date.today().isoformat(),
        "repeats": arguments.repeats,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"step_cost-{arguments.model}-{device.type}.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=[*rows[0], *head])
        writer.writeheader()
        writer.writerows(row | head for row in rows)
    print(f"wrote {path}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--only", nargs="*", help="names such as 'step sgt' or 'map epsilon'")
    return parser.parse_args()


if __name__ == "__main__":
    main()
