"""A model as it is asked for, and how it is built of timm or of our own parts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import timm
from timm.models import PretrainedCfg, get_pretrained_cfg
from torch import nn

from attrreg import catalogue
from attrreg.entries import Model
from attrreg.models.stems import fit_stem

__all__ = ["Blueprint"]

# What is said otherwise, or would read a file that may execute code.
REFUSED = {
    "cache_dir": "set HF_HOME",
    "checkpoint_path": "give weights: <file>.safetensors",
    "features_only": "it gives no logits",
    "pretrained_cfg_overlay": "give weights: <file>.safetensors",
}


@dataclass(frozen=True)
class Blueprint:
    """What is asked for; parameters as in `attrreg.models.create`.

    ``small_stem`` and ``tag`` (``pretrained_cfg``) are taken out of the options.
    """

    name: str
    entry: Model
    num_classes: int
    in_chans: int
    image_size: int
    options: dict[str, Any]
    small_stem: bool | None = None
    tag: str | None = None

    @classmethod
    def of(
        cls,
        name: str,
        num_classes: int,
        in_chans: int,
        image_size: int,
        options: Mapping[str, Any],
    ) -> "Blueprint":
        """Return the blueprint of a name of the catalogue or of timm; errors as in `create`."""
        entry = catalogue.model(name)
        for option in REFUSED.keys() & options.keys():
            raise ValueError(f"model {name!r} takes no option {option!r}: {REFUSED[option]}")
        given = {**entry.options, **options}
        small_stem = tag = None
        if entry.timm:
            small_stem, tag = given.pop("small_stem", None), given.pop("pretrained_cfg", None)
        if small_stem not in (None, True, False):
            raise ValueError(f"model {name!r}: small_stem is {small_stem!r}, give true or false")
        if tag is not None and not isinstance(tag, str):
            raise ValueError(
                f"model {name!r}: pretrained_cfg is {tag!r}, give the name of one of timm's weights"
            )
        return cls(name, entry, num_classes, in_chans, image_size, given, small_stem, tag)

    @property
    def configuration(self) -> PretrainedCfg:
        """What timm says of the weights of the architecture: where they lie, what they take."""
        if self.tag is None:
            return get_pretrained_cfg(self.entry.timm) or PretrainedCfg()
        known = timm.list_pretrained(f"{self.entry.timm}.*")
        tags = [each.partition(".")[2] for each in known]
        if self.tag not in tags:
            raise ValueError(catalogue.unknown(f"weights of {self.entry.timm!r}", self.tag, tags))
        return get_pretrained_cfg(f"{self.entry.timm}.{self.tag}") or PretrainedCfg()

    def build(self, **changes: Any) -> nn.Module:
        """Build the model with random weights and its own stem.

        Parameters
        ----------
        changes
            Arguments that differ from what is asked for.
        """
        given = {"num_classes": self.num_classes, "in_chans": self.in_chans, **self.options}
        if self.entry.timm and self.configuration.fixed_input_size:
            given.setdefault("img_size", self.image_size)
        try:
            if self.entry.timm:
                built: nn.Module = timm.create_model(self.entry.timm, **given | changes)
            else:
                implementation = catalogue.load(self.entry.implementation)
                built = implementation(image_size=self.image_size, **given | changes)
        except (AssertionError, TypeError) as error:
            raise ValueError(
                f"model {self.name!r} cannot be built for inputs of size {self.image_size} with "
                f"options {self.options}: {error or type(error).__name__}"
            ) from error
        return built

    def fit(self, model: nn.Module) -> tuple[str, ...]:
        """Fit timm's stem to the images, and return the names of the parameters that are new."""
        return fit_stem(model, self.image_size, self.small_stem) if self.entry.timm else ()
