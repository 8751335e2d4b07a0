"""What a command says while it works: lines in a log, and a bar where somebody watches."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from attrreg.cells import Run

__all__ = ["showing"]

Report = Callable[[Run, int, int], None]


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
