"""Steps that are captured once in a CUDA graph and replayed, so that no call costs the host time.

A replay repeats what the device did, on the same memory. So inputs are copied to where they lay in
the captured step, and what the host decides from step to step cannot be captured: such steps run as
they are written ("eagerly"), and the log says why.
"""

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["Captured", "record_on_cuda"]

WARM_UP = 3  # steps before one is captured: libraries choose their algorithms in these
Work = Callable[..., None]
Record = Callable[[Callable[[], None], Sequence[torch.Generator]], Callable[[], None]]
log = logging.getLogger(__name__)


def record_on_cuda(
    work: Callable[[], None], generators: Sequence[torch.Generator]
) -> Callable[[], None]:
    """Capture a step in a CUDA graph, without running it, and return what replays it."""
    graph = torch.cuda.CUDAGraph()
    for generator in generators:
        graph.register_generator_state(generator)
    with torch.cuda.graph(graph):
        work()
    replay: Callable[[], None] = graph.replay
    return replay


class Captured:
    """A step that is captured after some that warm it up.

    Parameters
    ----------
    work
        The step, of tensors whose shapes never change (or None); it must not wait for the device.
        All steps are real: warming up is training, too.
    generators
        All that draw random numbers on the device in it.
    against
        Called after the warm-up: why the step cannot be captured, "" if it can.
    record
        Captures a step and returns what replays it.

    Attributes
    ----------
    said
        ``captured``, or why not.
    """

    def __init__(
        self,
        work: Work,
        generators: Sequence[torch.Generator],
        against: Callable[[], str] = lambda: "",
        record: Record = record_on_cuda,
    ) -> None:
        self._work, self._generators = work, generators
        self._against, self._record = against, record
        self._done, self._is_eager = 0, False
        self._inputs: list[Tensor | None] = []
        self._replay: Callable[[], None] | None = None
        self.said = "too short to be captured"

    def __call__(self, *inputs: Tensor | None) -> None:
        """Take a step."""
        if self._replay is None and not self._is_eager and self._done >= WARM_UP:
            self._capture(inputs)
        if self._replay is None:
            self._run_beside(inputs)
            self._done += 1
            return
        for place, given in zip(self._inputs, inputs, strict=True):
            if place is not None and given is not None:
                place.copy_(given, non_blocking=True)
        self._replay()

    def _run_beside(self, inputs: Sequence[Tensor | None]) -> None:
        """Run the step as it is written; before a capture not on the main stream, as CUDA wants."""
        if self._is_eager or not any(each is not None and each.is_cuda for each in inputs):
            self._work(*inputs)
            return
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            self._work(*inputs)
        torch.cuda.current_stream().wait_stream(beside)

    def _capture(self, inputs: Sequence[Tensor | None]) -> None:
        reason = self._against()
        if not reason:
            states = [generator.get_state() for generator in self._generators]
            self._inputs = [None if each is None else each.clone() for each in inputs]
            try:
                self._replay = self._record(lambda: self._work(*self._inputs), self._generators)
            except RuntimeError as error:
                reason = str(error).partition("\n")[0]
                for generator, state in zip(self._generators, states, strict=True):
                    generator.set_state(state)
        self._is_eager = bool(reason)
        self.said = f"eager: {reason}" if reason else "captured"
        if reason:
            log.info("steps are not captured in a CUDA graph: %s", reason)
