"""What the benchmarks share: interleaved timings against a plain step, their median, one table."""

import csv
import gc
import os
import platform
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

RESULTS = Path(__file__).parent / "results"
Run = Callable[[], object]


def chosen(only: Sequence[str] | None, known: Collection[str]) -> list[str]:
    """Return the names of rows that are asked for, in their order; without `only` all of them.

    Raises
    ------
    SystemExit
        A name of no row.
    """
    if unknown := set(only or ()) - set(known):
        raise SystemExit(
            f"--only names no row: {', '.join(sorted(unknown))}; rows are {', '.join(known)}"
        )
    return [name for name in known if not only or name in only]


def as_trained(model: nn.Module) -> nn.Module:
    """Give batch norms values as training does: timm starts the last of each block with weight 0.

    Where all contributions are zero some rules take another way.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values, low, high in (
                (module.weight, 0.5, 1.5),
                (module.running_var, 0.5, 1.5),
                (module.bias, -0.2, 0.2),
                (module.running_mean, -0.2, 0.2),
            ):
                nn.init.uniform_(values, low, high)
    return model


def stepper(model: nn.Module) -> Callable[[Callable[[], Tensor]], None]:
    """Return a function that takes one optimiser step on a loss that it is given."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def step(loss: Callable[[], Tensor]) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        optimizer.step()

    return step


def against(run: Run, plain: Run, repeats: int, device: torch.device) -> dict[str, Any]:
    """Time both in turn, the order within a pair alternating, and return the columns of a row.

    ``ratio`` is the median of the ratios, ``low`` and ``high`` its 95 % interval, ``spread_low``
    and ``spread_high`` hold 95 % of the ratios, ``milliseconds`` is the median time of `run`.
    """
    for _ in range(min(3, max(1, repeats // 10))):
        run(), plain()
    times = np.empty((repeats, 2))
    for number in range(repeats):
        for place in (number % 2, 1 - number % 2):
            times[number, place] = _seconds((run, plain)[place], device)
    ratios = times[:, 0] / times[:, 1]
    spread_low, middle, spread_high = np.quantile(ratios, (0.025, 0.5, 0.975))
    low, high = median_interval(ratios)
    return {
        "ratio": round(float(middle), 3),
        "low": round(low, 3),
        "high": round(high, 3),
        "spread_low": round(float(spread_low), 3),
        "spread_high": round(float(spread_high), 3),
        "milliseconds": round(float(np.median(times[:, 0])) * 1000, 2),
        "repeats": repeats,
    }


def median_interval(values: np.ndarray) -> tuple[float, float]:
    """Return a 95 % bootstrap interval of the median."""
    generator = np.random.default_rng(0)
    medians = np.median(generator.choice(values, (2000, len(values))), axis=1)
    low, high = np.quantile(medians, (0.025, 0.975))
    return float(low), float(high)


def peak(run: Run, device: torch.device) -> float:
    """Return how much more torch holds at the most while this runs than before, in MiB.

    Every allocation is counted as it happens: on a GPU by its allocator, on a CPU by the profiler.
    The process as a whole would tell less: memory that was freed stays with it, and is used again.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # or the profiler tells news of its own
    with torch.autograd.profiler.profile(profile_memory=True) as profiler:
        run()
    events = [each for each in profiler.kineto_results.events() if each.name() == "[memory]"]
    changes = [each.nbytes() for each in sorted(events, key=lambda each: each.start_ns())]
    return float(np.cumsum([0, *changes]).max()) / 2**20


def write(path: Path, rows: Iterable[dict[str, Any]], device: torch.device) -> None:
    """Write a table, with the machine, the versions and the date in every row."""
    machine = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "timm": version("timm"),
        "zennit": version("zennit"),
        "date": date.today().isoformat(),
    }
    whole = [row | machine for row in rows]
    if not whole:
        raise SystemExit("nothing was measured: --only names no row")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(whole[0]))
        writer.writeheader()
        writer.writerows(whole)
    print(f"wrote {path}")


def processor() -> str:
    """Return what the CPU calls itself, or its architecture."""
    described = Path("/proc/cpuinfo")
    lines = described.read_text().splitlines() if described.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _seconds(run: Run, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begun = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begun
