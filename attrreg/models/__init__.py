"""Models: one file per modality."""

from attrreg.models.images import create

__all__ = ["create"]
