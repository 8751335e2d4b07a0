"""Data of one's own stand in the catalogue by their prefixes."""

from attrreg.data.own import SOURCES, OwnOptions
from attrreg.entries import Options

__all__ = ["OPTIONS", "SOURCES"]

OPTIONS: dict[str, type[Options]] = {prefix: OwnOptions for prefix in SOURCES}
