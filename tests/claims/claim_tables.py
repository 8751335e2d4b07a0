"""Tables of metrics with planted truths, and claims to ask of them."""

import numpy as np
import pandas as pd

from attrreg.claims.facts import Facts
from attrreg.claims.specification import Claim

FACTS = Facts(test_sizes={"digits": 1000}, modalities={"digits": "image"})
LOG_ERROR = {"metric": "accuracy", "scale": "log-error-ratio", "direction": "lower"}
HIGHER = {"metric": "score", "scale": "difference", "direction": "higher"}


def claim(**changes):
    """Return a claim that challenger has a lower error than baseline and control, by 5 %."""
    content = {
        "id": "T1",
        "source": "a test",
        "statement": "more accurate",
        "methods": ["challenger"],
        "endpoints": [LOG_ERROR],
        "against": ["baseline", "swapped"],
        "least": {"value": 5, "unit": "percent"},
    }
    return Claim.model_validate(content | changes)


def rows(values, metric="accuracy", size=100, dataset="digits", model="resnet"):
    """Return the rows of {method: one value per seed}."""
    return pd.DataFrame(
        [
            (dataset, model, method, size, seed, metric, value)
            for method, of_seeds in values.items()
            for seed, value in enumerate(of_seeds)
        ],
        columns=["dataset", "model", "method", "train_size", "seed", "metric", "value"],
    )


def table(gains, clusters=12, noise=0.01, sizes=(50, 200), seed=0, **more):
    """Return accuracies whose error rates lie below the baseline's by these shares.

    All methods share what is hard about a seed; each run has noise of its own.
    """
    generator = np.random.default_rng(seed)
    parts = []
    for size in sizes:
        hard = generator.normal(np.log(0.4) - np.log(size / 50) / 3, 0.2, clusters)
        errors = {
            method: np.exp(hard + generator.normal(0, noise, clusters)) * (1 - gain)
            for method, gain in gains.items()
        }
        parts.append(rows({name: 1 - error for name, error in errors.items()}, size=size, **more))
    return pd.concat(parts, ignore_index=True)


def only(answers):
    """Return the row of the one answer."""
    found = answers[answers["role"] == "answer"]
    assert len(found) == 1, found
    return found.iloc[0]
