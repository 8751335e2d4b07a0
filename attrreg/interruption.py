"""Signals that ask a training to stop, and how it leaves."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Interrupted", "listening"]

ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)  # the last is SLURM's before a time limit


class Interrupted(BaseException):
    """Somebody asked the training to stop; it is stored and can go on.

    Not an `Exception`: it is no failure of the run.
    """


@contextmanager
def listening() -> Iterator[Callable[[], str]]:
    """Yield a function that returns the name of a signal that has asked to stop, "" without one.

    The first signal waits until a step is done. A second one does what it always does. Outside the
    main thread Python hears no signals, and the function never returns one.
    """
    heard: list[str] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: ""
        return
    before = {each: signal.getsignal(each) for each in ASKING}

    def hear(number: int, frame: FrameType | None) -> None:
        heard.append(signal.Signals(number).name)
        for each, handler in before.items():
            signal.signal(each, handler)

    for each in ASKING:
        signal.signal(each, hear)
    try:
        yield lambda: heard[0] if heard else ""
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
