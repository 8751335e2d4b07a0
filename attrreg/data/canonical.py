"""An order of samples that depends on what they are, not on how they were stored."""

import hashlib

import numpy as np

__all__ = ["DIGEST", "canonical_order", "content_digest"]

DIGEST = 16  # bytes


def content_digest(content: bytes) -> bytes:
    """Return what stands for an encoded image, or for the bytes of an array."""
    return hashlib.blake2b(content, digest_size=DIGEST).digest()


def canonical_order(digests: bytes, y: np.ndarray, region_digests: bytes = b"") -> np.ndarray:
    """Return the places of samples in the order of their digests, then of their labels.

    Samples that are alike in everything may change places, and nobody can tell.

    Parameters
    ----------
    digests
        The digest of each sample, one after the other.
    y
        (n,) int64.
    region_digests
        Those of the regions, where there are any: they come last.
    """
    keys = [y, *_columns(digests)]
    if region_digests:
        keys = [*_columns(region_digests), *keys]
    return np.lexsort(keys)


def _columns(digests: bytes) -> list[np.ndarray]:
    """Return the halves of digests as numbers, the one that counts most last."""
    halves = np.frombuffer(digests, dtype=">u8").reshape(-1, DIGEST // 8)
    return list(halves.T[::-1])
