"""What an evaluation looks at: a trained model, the splits that training never saw, another run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from attrreg import catalogue, parameters
from attrreg.cells import Run
from attrreg.data.device import TrainingSet, input_bounds, normalise
from attrreg.data.sources import Pool, read_held_out, read_pool
from attrreg.evaluation.checks import checked_logits
from attrreg.evaluation.predict import predict
from attrreg.evaluation.saliency import SALIENCIES, saliency
from attrreg.evaluation.zero_shot import OtherSet
from attrreg.protocol import Evaluation
from attrreg.provenance import stream_seed
from attrreg.state import State
from attrreg.training.runs import build_model, parts_of, subset_of
from attrreg.variant import Variant

__all__ = ["HeldOut", "Subject"]

BATCH = 256  # samples whose maps are made at once; bounds the memory, not the result
BACKGROUND = 32  # validation samples that SHAP compares with


class HeldOut(NamedTuple):
    """The splits that training never sees, on the device and as models see them."""

    splits: dict[str, tuple[Tensor, Tensor]]  # name: inputs float32, labels int64
    pixels: Tensor  # of the test split, uint8
    pool: Pool
    mean: Tensor  # (channels, 1, …), of x / 255 over the pool
    deviation: Tensor
    bounds: tuple[tuple[float, ...], tuple[float, ...]]  # of the inputs, per channel
    region: Tensor | None  # of the test split, (n, *features) bool

    @classmethod
    def on(cls, device: torch.device, data: Path, dataset: Variant) -> "HeldOut":
        """Open the splits of a dataset."""
        pool = read_pool(data, dataset)
        mean, deviation = (
            torch.from_numpy(each).to(device) for each in (pool.mean, pool.deviation)
        )
        found = read_held_out(data, dataset)
        pixels = {name: torch.tensor(each.x, device=device) for name, each in found.items()}
        splits = {
            name: (normalise(pixels[name], mean, deviation), torch.tensor(each.y, device=device))
            for name, each in found.items()
        }
        known = found["test"].region
        region = None if known is None else torch.tensor(known, device=device)
        bounds = input_bounds(mean, deviation)
        shape = (-1, *[1] * (pool.images.x.ndim - 2))
        return cls(
            splits, pixels["test"], pool, mean.view(shape), deviation.view(shape), bounds, region
        )

    def normalised(self, x: Tensor) -> Tensor:
        """Return uint8 inputs as models see them."""
        return normalise(x, self.mean.flatten(), self.deviation.flatten())

    def shown(self, x: Tensor) -> Tensor:
        """Return inputs as images in [0, 1], on the CPU."""
        return (x * self.deviation + self.mean).clamp(0, 1).cpu().contiguous()


@dataclass(frozen=True)
class Subject:
    """A trained model and what its evaluation needs; what is costly is made once, when used.

    Parameters
    ----------
    run
        What was trained.
    model
        With the weights that it ended with.
    held_out
        The splits that it has never seen.
    settings
        The protocol.
    data
        The folder of prepared datasets.
    neutral
        The model whose map all methods share; None where it is not trained.
    folds
        What loads the models of the run's cross-fitting, by the fold that each has not seen.
    others
        What loads the models that other methods of ``settings.crossed`` have at this place of the
        grid, which give None where that was not trained; None where the run takes no part in it.
    sets
        Test sets that nothing is trained on.
    """

    run: Run
    model: nn.Module
    held_out: HeldOut
    settings: Evaluation
    data: Path
    neutral: nn.Module | None = None
    folds: tuple[Callable[[], nn.Module], ...] = ()
    others: Mapping[str, Callable[[], nn.Module | None]] | None = None
    sets: tuple[OtherSet, ...] = ()

    @cached_property
    def logits(self) -> Tensor:
        """Of the test split, (n, classes)."""
        return predict(self.model, self.held_out.splits["test"][0])

    @cached_property
    def neutral_logits(self) -> Tensor | None:
        """Of the test split, by the neutral run; None without one.

        Raises
        ------
        ValueError
            They are not finite: that run has diverged.
        """
        if self.neutral is None:
            return None
        return checked_logits(predict(self.neutral, self.held_out.splits["test"][0]))

    @cached_property
    def own_map(self) -> Tensor:
        """Of the test split by the rule of the orders, (n, *features); errors as for neutrals."""
        checked_logits(self.logits)
        return self.maps(self.settings.rule, self.held_out.splits["test"][0])

    @cached_property
    def neutral_map(self) -> Tensor | None:
        """The same by the neutral run; None without one."""
        if self.neutral_logits is None:
            return None
        return self.maps(self.settings.rule, self.held_out.splits["test"][0], self.neutral)

    @cached_property
    def sample(self) -> Tensor:
        """Places of the test samples for what needs many passes; the same for every run."""
        n = len(self.held_out.splits["test"][1])
        generator = np.random.default_rng(stream_seed("evaluation-sample", self.run.dataset))
        places = generator.permutation(n)
        if self.settings.profile == "standard":
            places = places[: self.settings.samples]
        return torch.from_numpy(np.sort(places)).to(self.held_out.pixels.device)

    def sampled(self) -> tuple[Tensor, Tensor]:
        """Return inputs and labels of the sample."""
        x, y = self.held_out.splits["test"]
        return x[self.sample], y[self.sample]

    def generator(self, *names: str) -> torch.Generator:
        """Return random numbers that are the same for all methods at one seed."""
        seed = stream_seed("occlusion", self.run.dataset, *names, self.run.seed)
        return torch.Generator(self.held_out.pixels.device).manual_seed(seed)

    def maps(
        self,
        name: str,
        x: Tensor,
        model: nn.Module | None = None,
        explained: Tensor | None = None,
    ) -> Tensor:
        """Return what a saliency or a rule finds of a class, or of the predicted one.

        (n, *features); randomness is the same at every call.
        """
        used = self.model if model is None else model
        generator = self.generator("maps", name)
        if name in SALIENCIES:
            background = self.held_out.splits["validation"][0][:BACKGROUND]
            classes = predict(used, x).argmax(1) if explained is None else explained
            return saliency(
                name, used, x, classes, background=background, generator=generator
            ).detach()
        of: Literal["label", "prediction"] = "prediction" if explained is None else "label"
        part: parameters.Part = parameters.GradientTimesInput(explained=of)
        if name != "gradient-x-input":
            part = parameters.LRP(rule=name, explained=of)  # type: ignore[arg-type]
        make: Callable[..., Tensor] = catalogue.implement(part)
        state = State(bounds=self.held_out.bounds, generator=generator)
        unknown = torch.zeros(len(x), dtype=torch.int64, device=x.device)  # not looked at
        classes = unknown if explained is None else explained
        parts = zip(x.split(BATCH), classes.split(BATCH), strict=True)
        return torch.cat([make(used, each, y, state) for each, y in parts]).detach()

    @cached_property
    def trained_on(self) -> tuple[TrainingSet, TrainingSet | None]:
        """The samples that it was trained on, and those that the run held back."""
        pool = self.held_out.pool
        subset = subset_of(self.run, pool, self.data)
        samples = pool.images.take(subset.indices)._replace(y=subset.labels)
        device = self.held_out.pixels.device
        whole = TrainingSet.on(device, samples, pool.mean, pool.deviation)
        return parts_of(self.run, whole)

    @cached_property
    def calibration(self) -> tuple[str, Tensor, Tensor]:
        """The regime of temperature scaling, and the logits and labels that it is fitted on.

        ``held back`` and ``cross-fitting`` are paid for from the run's own label budget. Where its
        recipe has neither, the regime is ``validation split``: labels beyond that budget.
        """
        trained_on, held_back = self.trained_on
        selection = self.run.recipe.selection
        if selection.regime == "cross-fitting":
            labels = trained_on.y.tolist()
            seen = [
                trained_on.batch(torch.tensor(selection.fold(labels, number)))
                for number in range(len(self.folds))
            ]
            logits = [predict(load(), x) for load, (x, _) in zip(self.folds, seen, strict=True)]
            return selection.regime, torch.cat(logits), torch.cat([y for _, y in seen])
        x, y = self.held_out.splits["validation"]
        if held_back is not None:
            x, y = held_back.batch(torch.arange(len(held_back)))
        return selection.regime, predict(self.model, x), y

    @cached_property
    def sample_logits(self) -> Tensor:
        """Of the sample, (n, classes)."""
        return self.logits[self.sample]

    def sample_map(self, name: str) -> Tensor:
        """Return what a saliency or a rule finds of the sample, (n, *features); made once."""
        if name not in self.made:
            self.made[name] = self.maps(name, self.sampled()[0])
        return self.made[name]

    @cached_property
    def made(self) -> dict[str, Tensor]:
        """Maps of the sample by name, as far as they were needed."""
        return {}

    @property
    def sample_maps(self) -> dict[str, Tensor]:
        """What each map of the protocol finds of the sample."""
        return {name: self.sample_map(name) for name in self.settings.maps}

    def initial(self) -> nn.Module:
        """Return the model before its training."""
        return build_model(self.run, self.held_out.pixels.device)
