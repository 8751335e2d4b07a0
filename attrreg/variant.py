"""A dataset as an experiment uses it: where it comes from, what was chosen, and how it is drawn."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attrreg import catalogue
from attrreg.entries import Dataset, Options
from attrreg.files import read_json
from attrreg.laws import SubsetLaw
from attrreg.provenance import digest

__all__ = ["Variant"]


@dataclass(frozen=True)
class Variant:
    """A dataset with its options, and the law of the subsets that are drawn from it.

    Parameters
    ----------
    base
        A name of the catalogue, or "<prefix>:<place>".
    options
        What was chosen about it.
    law
        How its training subsets are drawn.
    """

    base: str
    options: Options
    law: SubsetLaw = field(default_factory=SubsetLaw)

    @classmethod
    def of(
        cls, base: "str | Variant", options: Mapping[str, Any] | None = None, **law: Any
    ) -> "Variant":
        """Return a dataset with checked options and law; one that is a variant already, as it is.

        Raises
        ------
        KeyError
            No such dataset.
        pydantic.ValidationError
            Options or a law that do not exist or are out of range.
        """
        if isinstance(base, Variant):
            return base
        kind = catalogue.options_of(base)
        return cls(base, kind.model_validate(dict(options or {})), SubsetLaw.model_validate(law))

    @classmethod
    def named(cls, name: str, data: Path) -> "Variant":
        """Return a dataset of the catalogue, or the one prepared in a folder of that name."""
        described = data / name / "dataset.json"
        if name in catalogue.DATASETS or ":" in name or not described.is_file():
            return cls.of(name)
        content = read_json(described)
        return cls.of(content["dataset"], content["options"])

    @property
    def entry(self) -> Dataset:
        """What the catalogue, or a look at its place, says of it."""
        return catalogue.dataset(self.base, self.options)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a sample as prepared: channels, height, width; channels, length."""
        return self.options.shape(self.entry.shape)

    @property
    def key(self) -> str:
        """The name of its folder: its own where nothing is chosen, otherwise with a digest."""
        chosen = self.options.model_dump(mode="json", exclude_defaults=True)
        prefix, colon, place = self.base.partition(":")
        if not colon:
            return f"{self.base}-{digest(chosen)[:8]}" if chosen else self.base
        name = re.sub(r"[^A-Za-z0-9]+", "-", Path(place).stem).strip("-") or prefix
        return f"{name}-{digest([self.base, chosen])[:8]}"

    @property
    def identity(self) -> dict[str, Any]:
        """What decides which samples training sees, beside the seed and their number."""
        return {
            "base": self.base,
            "options": self.options.model_dump(mode="json"),
            "law": self.law.model_dump(mode="json"),
        }

    @property
    def source(self) -> list[str]:
        """The arguments of a command that say which dataset, with which options."""
        chosen = self.options.model_dump(mode="json", exclude_defaults=True)
        options = (("--option", f"{name}={value}") for name, value in chosen.items())
        return ["--dataset", self.base, *(each for pair in options for each in pair)]

    def command(self, step: str, data: Path, *more: object) -> str:
        """Return how a step is run by hand."""
        return shlex.join(["attrreg", step, *self.source, *map(str, more), "--data", str(data)])
