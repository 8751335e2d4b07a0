"""What a reader of a dataset is asked for, and what it gives back: arrays or encoded images."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Arrays", "Encoded", "Given", "Request", "Samples"]


class Arrays(NamedTuple):
    """Samples that are arrays already.

    ``x`` (n, channels, height, width) or (n, channels, length) uint8, ``y`` (n,) int64,
    ``region`` (n, height, width) or (n, length) bool, True inside, or None.
    """

    x: np.ndarray
    y: np.ndarray
    region: np.ndarray | None = None

    def take(self, which: np.ndarray) -> "Arrays":
        """Return the samples of some places."""
        return Arrays(
            self.x[which], self.y[which], None if self.region is None else self.region[which]
        )


@dataclass(frozen=True)
class Encoded:
    """Samples that are encoded images (PNG, JPEG, …) of any size, decoded only when written.

    Parameters
    ----------
    read
        From the place of a sample to the bytes of its image; called from several threads.
    names
        Of each sample, for messages: a path, a row.
    y
        (n,) int64.
    mask
        From the place of a sample to its region as an "L" image of the size of its image, 255
        inside and 0 outside; None where there are no regions. Called from several threads.
    position
        (n,) numbers that say in which order the samples are read fastest, lowest first; None: as
        they stand.
    """

    read: Callable[[int], bytes]
    names: Sequence[str]
    y: np.ndarray
    mask: "Callable[[int], Image] | None" = None
    position: np.ndarray | None = None

    def take(self, which: np.ndarray) -> "Encoded":
        """Return the samples of some places."""
        places = [int(each) for each in which]
        mask = self.mask
        return Encoded(
            lambda at: self.read(places[at]),
            [self.names[at] for at in places],
            self.y[which],
            None if mask is None else lambda at: mask(places[at]),
            None if self.position is None else self.position[which],
        )


Samples = Arrays | Encoded


@dataclass(frozen=True)
class Given:
    """What a reader gives: the samples, in an order that is always the same.

    Without a validation or test split, ``prepare`` draws one from ``train``, in the proportions of
    its classes and always the same: as many samples as the catalogue says.
    """

    train: Samples
    class_names: tuple[str, ...]
    validation: Samples | None = None
    test: Samples | None = None


@dataclass(frozen=True)
class Request:
    """What a reader is asked for.

    Parameters
    ----------
    options
        The checked options: an object of the entry's ``options``.
    archives
        The fetched archives by name.
    scratch
        An empty folder to unpack into; it is removed when the arrays are written.
    place
        For data of one's own: where they lie.
    report
        Told how far a stage is: its name, what is done, and of how much.
    """

    options: Any = None
    archives: Mapping[str, Path] = field(default_factory=dict)
    scratch: Path = Path()
    place: Path = Path()
    report: Callable[[str, int, int], None] = lambda stage, done, total: None
