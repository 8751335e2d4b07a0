"""What a step of each method costs, as a ratio to a plain step, measured interleaved.

python benchmarks/step_cost.py [--device cuda] [--model resnet18] [--image-size 32] [--repeats 30]

Without ``--only`` this measures every preset and every row that has a budget; controls are measured
where they are named, as in ``--only "step reldrop-block/swapped"``. A budget that depends on other
rows brings them along. Where maps are kept, a run is as many steps as a map serves, each of them an
epoch, against as many plain steps.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timing import RESULTS, against, as_trained, chosen, stepper, write
from torch import Tensor
from torch.nn import functional as F

from attrreg import method, models
from attrreg.machine import use_threads
from attrreg.method import Method
from attrreg.state import State

EVERY = 4  # epochs from one map to the next, where they are kept
SLACK = 1.05  # of steps with kept maps, above what objective and maps cost by themselves
BUDGETS = {"step reldrop-block": 2.15, "step sgt": 2.75, "step sgt-shared": 2.45}
RULES: dict[str, Any] = {"epsilon": {"rule": "epsilon"}, "gradient-x-input": "gradient-x-input"}
GUIDED = ("reldrop-block", "sgt", "sgt-shared", "challenger")


@dataclass(frozen=True)
class Row:
    """Steps of a method.

    Attributes
    ----------
    made
        The method.
    steps
        How many a run is; the first makes a map, the others may use it.
    needs
        Rows whose ratios decide the budget.
    budget
        What the lower end of the interval should not exceed, from those ratios.
    """

    made: Method
    steps: int = 1
    needs: tuple[str, ...] = ()
    budget: Callable[..., float] | None = None


def rows() -> dict[str, Row]:
    """Return every row by name, each after those that it needs."""
    found = {}
    for name in method.names():
        bar = BUDGETS.get(f"step {name}")
        found[f"step {name}"] = Row(method.create(name), budget=bar and (lambda bar=bar: bar))
    found["step challenger"] = Row(
        method.create("challenger"), 1, ("step reldrop-block",), lambda guided: guided + 0.05
    )
    for rule, attribution in RULES.items():
        made = method.create("reldrop-block", attribution=attribution)
        found[f"step reldrop-block, {rule}"] = Row(made, budget=lambda: 1.75)
    for name in GUIDED:
        free, kept = f"step {name}, random map", f"step {name}, map every {EVERY} epochs"
        found[free] = Row(method.create(name, attribution="uniform"))
        cached = method.create(name, attribution={"name": "cached", "every": EVERY})
        found[kept] = Row(cached, EVERY, (free, f"step {name}"), _with_kept_maps)
    return found


def _with_kept_maps(free: float, full: float) -> float:
    return SLACK * (free + (full - free) / EVERY)


def main() -> None:
    arguments = _arguments()
    known = rows()
    asked = arguments.only or [name for name in known if "/" not in name]
    brought = [each for name in chosen(asked, known) for each in known[name].needs]
    wanted = chosen([*asked, *brought], known)
    use_threads(threads=1)
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    size, channels, n = arguments.image_size, arguments.channels, arguments.batch_size
    model = models.create(arguments.model, num_classes=10, in_chans=channels, image_size=size)
    model = as_trained(model).to(device)
    step = stepper(model)
    x = torch.randn(n, channels, size, size, device=device)
    y = torch.randint(10, (n,), device=device)
    region = torch.rand(n, size, size, device=device)

    def plain(steps: int) -> None:
        for _ in range(steps):
            step(lambda: F.cross_entropy(model(x), y))

    def of_method(row: Row) -> Callable[[], None]:
        stream = torch.Generator(device).manual_seed(1)
        first = State(
            generator=torch.Generator(device).manual_seed(0),
            indices=torch.arange(n),
            size=n,
            region=region,
            memory={},
        )

        def loss(state: State) -> Tensor:
            return row.made.loss(model, x, y, generator=stream, state=state).total

        def run() -> None:
            for epoch in range(row.steps):
                step(partial(loss, replace(first, epoch=epoch)))

        return run

    table: list[dict[str, Any]] = []
    ratios: dict[str, float] = {}
    for name in wanted:
        row = known[name]
        measured = against(of_method(row), partial(plain, row.steps), arguments.repeats, device)
        ratios[name] = measured["ratio"]
        bar = row.budget and round(row.budget(*(ratios[each] for each in row.needs)), 3)
        measured["milliseconds"] = round(measured["milliseconds"] / row.steps, 2)
        verdict = {"budget": bar, "met": bar and measured["low"] <= bar}
        given = {"model": arguments.model, "input": f"{n}x{channels}x{size}"}
        table.append({"what": name} | measured | verdict | given)
        print(
            f"{name:<44} {measured['ratio']:6.2f}  [{measured['low']:.2f}, {measured['high']:.2f}]"
            + (f"  budget {bar:.2f} {'met' if verdict['met'] else 'MISSED'}" if bar else ""),
            flush=True,
        )
        # row by row: what is measured is kept, however this ends
        write(arguments.results / f"step_cost-{arguments.model}-{device.type}.csv", table, device)


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
