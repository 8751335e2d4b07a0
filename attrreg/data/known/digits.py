"""Handwritten digits, as shipped inside scikit-learn: 8×8, nothing to fetch."""

from typing import TYPE_CHECKING

from attrreg.entries import Dataset

if TYPE_CHECKING:
    from attrreg.data.samples import Given, Request

__all__ = ["DATASETS", "read"]

DATASETS = {
    "digits": Dataset(
        title="handwritten digits",
        modality="image",
        classes=10,
        pool=1077,
        validation=360,
        test=360,
        shape=(1, 8, 8),
        source="UCI optical recognition of handwritten digits, as shipped inside scikit-learn",
        licence="CC BY 4.0",
        implementation="attrreg.data.known.digits:read",
    )
}


def read(request: "Request") -> "Given":
    """Return the 1,797 digits, 0…16 scaled to 0…255, in splits that are as balanced as can be."""
    import numpy as np
    from sklearn.datasets import load_digits

    from attrreg.data.samples import Arrays, Given
    from attrreg.data.subsets import balanced_order

    bunch = load_digits()
    x = np.round(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    whole = Arrays(x, bunch.target.astype(np.int64))
    order = balanced_order(whole.y, np.random.default_rng(0))
    test, validation, pool = map(whole.take, np.split(order, [360, 720]))
    return Given(pool, tuple("0123456789"), validation, test)
