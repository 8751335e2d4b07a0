"""The tables of an experiment and their columns; standard library only."""

__all__ = ["FAILURES", "KEYS", "SCORED", "TABLES"]

KEYS = ["dataset", "model", "method", "train_size", "seed"]
FAILURES = [*KEYS, "stage", "error", "message"]
TABLES = {
    "metrics": [*KEYS, "metric", "value"],
    "cost": [*KEYS, "metric", "value"],
    "curves": [*KEYS, "order", "fill", "fraction", "accuracy", "nll"],
    "reliability": [
        *KEYS,
        "regime",
        "scaled",
        "bin",
        "low",
        "high",
        "count",
        "confidence",
        "accuracy",
    ],
    "classes": [*KEYS, "class", "count", "accuracy"],
    "localization": [*KEYS, "map", "score", "value", "centre", "chance", "undefined"],
    "faithfulness": [*KEYS, "map", "fill", "first", "fraction", "accuracy"],
    "accuracy_drop": [*KEYS, "map", "fraction", "accuracy"],
    "erasure": [*KEYS, "map", "score", "value", "chance", "empty", "relative"],
    "cross": [*KEYS, "map_of", "first", "fraction", "accuracy"],
    "shift": [*KEYS, "corruption", "severity", "accuracy"],
    "leak": [
        *(*KEYS, "told", "read", "accuracy", "low", "high", "chance"),
        *("masks", "images", "learning_images"),
    ],
    "zero_shot": [
        *(*KEYS, "set", "kind", "samples", "left_out", "classes"),
        *("metric", "value", "chance"),
    ],
    "history": [*KEYS, "epoch", "step", "learning_rate", "loss", "accuracy"],
    "failures": FAILURES,
}

# What an evaluation writes; a table that no protocol asks for, or no dataset allows, has no rows.
SCORED = tuple(name for name in TABLES if name not in ("cost", "history", "failures"))
