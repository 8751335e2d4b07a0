"""The training loop: nothing happens between two steps but the step."""

import math
import time
import weakref
from collections.abc import Callable, Generator
from contextlib import closing, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from attrreg.data.device import Batch, TrainingSet, batch_indices, draw_movement, input_bounds
from attrreg.machine import Precision
from attrreg.method import Method
from attrreg.recipe import Recipe
from attrreg.state import State
from attrreg.training.capture import Captured
from attrreg.training.optimizers import learning_rate_factor, make_optimizer, set_learning_rate

__all__ = ["Diverged", "Streams", "Training", "train"]


class Diverged(RuntimeError):
    """The loss of a training became infinite or NaN."""


@dataclass(frozen=True)
class Streams:
    """One random stream per purpose, so that one method's extra draws never shift another's.

    ``order`` is drawn on the CPU, the others on the device of the training set. ``dropout`` is a
    seed, since dropout draws from torch's own generator.
    """

    order: torch.Generator
    augmentation: torch.Generator
    perturbation: torch.Generator
    attribution: torch.Generator
    dropout: int

    @classmethod
    def seeded(cls, seed_of: Callable[[str], int], device: torch.device) -> "Streams":
        """Make the streams from a function that gives each name its seed."""

        def stream(name: str, where: torch.device) -> torch.Generator:
            return torch.Generator(where).manual_seed(seed_of(name))

        return cls(
            stream("order", torch.device("cpu")),
            stream("augmentation", device),
            stream("perturbation", device),
            stream("attribution", device),
            seed_of("dropout"),
        )

    @property
    def drawn(self) -> dict[str, torch.Generator]:
        """The streams whose state is that of a training; the order is drawn anew from its seed."""
        return {
            "augmentation": self.augmentation,
            "perturbation": self.perturbation,
            "attribution": self.attribution,
        }


class Training:
    """A training between any two of its steps.

    What changes from step to step stands in its attributes, so that it can be stored and taken up
    again (`attrreg.training.checkpoint`).

    Parameters
    ----------
    model
        On the device of the data; trained in place.
    method
        Gives the loss of each minibatch.
    data
        The training set, and nothing else of the dataset.
    recipe
        Length, batches, optimiser, schedule, augmentation, selection.
    streams
        All randomness.
    precision
        Of the forward and backward passes; maps are in the precision of the weights.
    held_back
        Samples that select the best weights, where the recipe says so.
    capture
        Whether to capture steps in a CUDA graph; see `attrreg.training.capture`.

    Attributes
    ----------
    step, steps
        Steps done, and in all.
    history
        A row per pass over the training set, with ``epoch`` and ``step`` reached,
        ``learning_rate``, and the means of ``loss`` and its parts over the steps of the row. The
        parts are accumulated on the device and read once per row.
    seconds, device_seconds
        Wall-clock time of all steps, and how long the device worked: of a CPU the processor time of
        all threads, of a GPU the same wall-clock time, since nobody else has it meanwhile.
    """

    def __init__(
        self,
        model: nn.Module,
        method: Method,
        data: TrainingSet,
        recipe: Recipe,
        streams: Streams,
        precision: Precision = "float32",
        held_back: TrainingSet | None = None,
        capture: bool = True,
    ) -> None:
        self.model, self.method, self.data, self.recipe = model, method, data, recipe
        self.streams, self.precision, self.held_back = streams, precision, held_back
        self.steps = recipe.total_steps(len(data))
        self.optimizer = make_optimizer(model, recipe.optimizer)
        self.factor = learning_rate_factor(recipe.schedule, self.steps)
        self.bounds = input_bounds(data.mean, data.deviation)
        self.step, self.seconds, self.device_seconds = 0, 0.0, 0.0
        self.history: list[dict[str, float]] = []
        self.sums: dict[str, Tensor] = {}
        self.memory: dict[str, Any] = {}
        self.best: dict[str, Tensor] = {}  # weights, where they are selected
        self.best_rank: tuple[float, float] = (0.0, -math.inf)
        self.measured = 0  # at which step
        self.format = torch.contiguous_format
        if data.y.is_cuda and data.x.ndim == 4:  # what its convolutions are fastest on
            self.format = torch.channels_last
            model.to(memory_format=torch.channels_last)
        self._at = torch.empty(0, dtype=torch.int64)
        self._work: Captured | None = None
        if capture and data.y.is_cuda:
            self._work = Captured(
                _weakly(self._compute),
                list(streams.drawn.values()),
                _weakly(self._against_capture),
            )

    @property
    def capture(self) -> str:
        """``captured`` if steps are replayed from a CUDA graph, or why they are not."""
        asked = "eager: no GPU" if not self.data.y.is_cuda else "eager: as the settings say"
        return self._work.said if self._work is not None else asked

    def run(self, after_step: Callable[["Training"], None] = lambda training: None) -> None:
        """Train to the end.

        Parameters
        ----------
        after_step
            Called after every step; must not look at the device.

        Raises
        ------
        Diverged
            The mean loss of a row is not finite.
        """
        clock = time.perf_counter if self.data.y.is_cuda else time.process_time
        begun, device_begun = time.perf_counter() - self.seconds, clock() - self.device_seconds
        with closing(self.stepwise()) as steps:
            for _ in steps:
                self.seconds = time.perf_counter() - begun
                self.device_seconds = clock() - device_begun
                after_step(self)
        if self.best:
            self.model.load_state_dict(self.best)

    def stepwise(self) -> Generator[None]:
        """Take one step after the other, each when it is asked for; errors as in `run`."""
        self.model.train()
        if self.step == 0:  # otherwise the stream goes on where the checkpoint left it
            torch.manual_seed(self.streams.dropout)
        with closing(self._batches()) as batches:
            for batch in batches:
                self._take(batch)
                self.step += 1
                row = self.history[-1] if self.history else {"epoch": 0}
                if batch.passes > row["epoch"] or self.step == self.steps:
                    self._end_row(batch.passes)
                yield

    def _batches(self) -> Generator[Batch]:
        """Yield the batches from the next step on."""
        n, batch_size = len(self.data), self.recipe.batch_size
        order = batch_indices(n, batch_size, self.steps, self.streams.order)
        return self.data.batches(islice(order, self.step, None))

    def _take(self, batch: Batch) -> None:
        """Take one step, without waiting for the device."""
        set_learning_rate(self.optimizer, self._rate())
        self._at = batch.indices
        (self._work or self._compute)(batch.x, batch.y, batch.region)

    def _compute(self, images: Tensor, y: Tensor, region: Tensor | None) -> None:
        """Do what a step does on the device."""
        self.optimizer.zero_grad(set_to_none=True)
        x = self.data.normalised(images)
        movement = draw_movement(x, self.recipe.augmentation, self.streams.augmentation)
        drawn_before = self.step * len(y)
        state = State(
            generator=self.streams.attribution,
            indices=self._at,
            size=len(self.data),
            epoch=drawn_before // len(self.data),
            last_epoch=(drawn_before + len(y) - 1) // len(self.data),
            augmentation=movement,
            region=movement.apply_to_regions(region),
            bounds=self.bounds,
            memory=self.memory,
        )
        with self.autocast():
            loss = self.method.loss(
                self.model,
                movement.apply(x).contiguous(memory_format=self.format),
                y,
                generator=self.streams.perturbation,
                state=state,
            )
        loss.total.backward()
        self.optimizer.step()
        for name, value in {"loss": loss.total.detach(), **loss.parts}.items():
            if name in self.sums:
                self.sums[name].add_(value)
            else:
                self.sums[name] = value.float().clone()

    def _against_capture(self) -> str:
        """Return why a step cannot be replayed, "" if it can."""
        kept = _kept(self.memory)
        for group in self.optimizer.param_groups:
            if "capturable" in group:  # AdamW asks for it, and warns where nothing is captured
                group["capturable"] = not kept
        return f"a part of the method keeps something between steps ({kept})" if kept else ""

    def _rate(self) -> float:
        return self.recipe.optimizer.learning_rate * self.factor(self.step)

    def autocast(self) -> Any:
        """Return the context that forward passes run in."""
        if self.precision != "bfloat16":
            return nullcontext()
        device_type = self.data.y.device.type
        return torch.autocast(device_type, torch.bfloat16, cache_enabled=False)

    def _end_row(self, passes: int) -> None:
        """Read what was accumulated, and keep the weights if they are the best so far."""
        first = int(self.history[-1]["step"]) if self.history else 0
        values = torch.stack(list(self.sums.values())).double().cpu() / (self.step - first)
        row = dict(zip(self.sums, values.tolist(), strict=True))
        for each in self.sums.values():  # in place, since a captured step adds to these very ones
            each.zero_()
        if not math.isfinite(row["loss"]):
            raise Diverged(
                f"the mean loss of steps {first + 1} to {self.step} is {row['loss']}: lower the "
                "learning rate, or look at the perturbation"
            )
        rate = self.recipe.optimizer.learning_rate * self.factor(self.step - 1)
        self.history.append({"epoch": passes, "step": self.step, "learning_rate": rate, **row})
        if self.held_back is not None:
            self._select(self.held_back, self.history[-1])

    def _select(self, held_back: TrainingSet, row: dict[str, float]) -> None:
        """Measure the weights on what was held back: by accuracy, of equals by likelihood.

        The best ones are kept where the recipe selects them.
        Between two looks rows repeat what was found before, so that all have the same columns.
        """
        is_due = self.step >= self.measured + self.recipe.selection.every
        if self.measured and not is_due and self.step < self.steps:
            row |= {name: self.history[-2][name] for name in HELD_BACK}
            return
        row |= _quality(self.model, held_back, self.autocast)
        nll = row["held_back_nll"]
        rank = row["held_back_accuracy"], -math.inf if math.isnan(nll) else -nll
        if self.recipe.selection.name == "best" and (not self.best or rank > self.best_rank):
            self.best_rank = rank
            self.best = {
                name: value.detach().clone() for name, value in self.model.state_dict().items()
            }
        self.measured = self.step


def _weakly(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a bound method that does not keep its object alive.

    A training that held itself would wait for the garbage collector, its model and data with it.
    """
    reference = weakref.WeakMethod(method)

    def call(*arguments: Any) -> Any:
        bound = reference()
        return None if bound is None else bound(*arguments)

    return call


def _kept(memory: dict[str, Any]) -> str:
    """Return the slot of something that may change from step to step, "" if nothing does."""
    for slot, value in memory.items():
        inside = _kept(value) if isinstance(value, dict) else slot
        if slot != "untrained" and inside:  # a copy of the model that stays as it is
            return inside
    return ""


HELD_BACK = ("held_back_accuracy", "held_back_nll")
EVALUATION_BATCH = 256  # samples; bounds the memory, not the result


@torch.no_grad()
def _quality(model: nn.Module, data: TrainingSet, autocast: Callable[[], Any]) -> dict[str, float]:
    """Return accuracy and negative log-likelihood, read from the device once."""
    model.eval()
    hits, nll = [], []
    for places in torch.arange(len(data), device=data.y.device).split(EVALUATION_BATCH):
        x, y = data.batch(places)
        with autocast():
            logits = model(x).float()
        hits.append((logits.argmax(1) == y).double().sum())
        nll.append(nn.functional.cross_entropy(logits, y, reduction="sum").double())
    model.train()
    values = torch.stack([torch.stack(hits).sum(), torch.stack(nll).sum()]).cpu() / len(data)
    return dict(zip(HELD_BACK, values.tolist(), strict=True))


def train(
    model: nn.Module,
    method: Method,
    data: TrainingSet,
    recipe: Recipe,
    streams: Streams,
    on_step: Callable[[int, int], None] = lambda step, steps: None,
) -> list[dict[str, float]]:
    """Train a model in place from its first step to its last, and return the history.

    For a training that can be interrupted, see `Training`; parameters and errors are those there.

    Parameters
    ----------
    on_step
        Called after every step with (steps done, steps in all); must not look at the device.
    """
    training = Training(model, method, data, recipe, streams)
    training.run(lambda each: on_step(each.step, each.steps))
    return training.history
