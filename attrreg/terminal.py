"""What a command says while it works: lines in a log, and a bar where somebody watches."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from attrreg.cells import Run

__all__ = ["showing", "showing_stages"]

Report = Callable[[Run, int, int], None]
QUIET = 5.0  # seconds


@contextmanager
def showing(stage: str, runs: int) -> Iterator[Report]:
    """Let the log go to stderr, and yield a function that moves a bar there if it is a terminal.

    Parameters
    ----------
    stage
        What is done.
    runs
        How many runs there are; the bar's end is estimated from how long they take.
    """
    from rich.console import Console
    from rich.logging import RichHandler
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    handler: logging.Handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    if console.is_terminal:
        handler = RichHandler(console=console, show_path=False, show_level=False)
    log = logging.getLogger("attrreg")
    before = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    columns = (BarColumn(), TimeRemainingColumn(compact=True), TextColumn("left"))
    bar = Progress(TextColumn("{task.description}"), *columns, console=console, transient=True)
    task = bar.add_task(stage, total=runs)
    done: list[Run] = []

    def report(run: Run, step: int, steps: int) -> None:
        if run not in done[-1:]:
            done.append(run)
        share = len(done) - 1 + step / max(1, steps)
        bar.update(task, completed=share, description=f"{stage}: {run.name}")

    try:
        if console.is_terminal:
            with bar:
                yield report
        else:
            yield lambda run, step, steps: None
    finally:
        log.removeHandler(handler)
        log.setLevel(before)


@contextmanager
def showing_stages() -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function that is told how far a named stage is; it moves a bar, or prints a line.

    Where nobody watches, a stage is printed once in `QUIET` seconds and when it is done.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeRemainingColumn())
    bars = Progress(TextColumn("{task.description}"), *columns, console=console, transient=True)
    tasks: dict[str, TaskID] = {}
    said: dict[str, float] = {}

    def show(stage: str, done: int, total: int) -> None:
        if stage not in tasks:
            tasks[stage] = bars.add_task(stage, total=total)
        bars.update(tasks[stage], completed=done, total=total, visible=done < total)

    def tell(stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done >= total or now - said.setdefault(stage, now) >= QUIET:
            said[stage] = now
            share = f"{done / total:.0%}" if total else f"{done:,}"
            print(f"{stage}: {share}", file=sys.stderr, flush=True)

    if not console.is_terminal:
        yield tell
        return
    with bars:
        yield show
