"""Which way is better, for every metric that the package writes."""

from attrreg.statistics.choices import check_choice

__all__ = ["is_higher_better"]

_HIGHER_IS_BETTER = {
    "accuracy": True,
    "top5": True,
    "balanced-accuracy": True,
    "train-accuracy": True,
    "lowest-margin-accuracy": True,
    "error": False,
    "generalisation-gap": False,
    "nll": False,
    "brier": False,
    "brier-reliability": False,
    "brier-resolution": True,
    "ece": False,
    "ece-debiased": False,
    "ece-mass": False,
    "ece-classwise": False,
    "mce": False,
    "filter-similarity-change": False,
    "feature-rank": True,
    "gradient-cosine": True,
    "gradient-outside": False,
    "comprehensiveness": True,
    "sufficiency": False,
    "aup": True,
    "aur": True,
    "seconds": False,
    "seconds_per_step": False,
    "ratio_to_baseline": False,
    "peak_memory_mb": False,
}
# What they tell of, so that neither way is better.
_DESCRIPTIVE = {
    "accuracy-drop-random": "tells of the model alone, whatever the map",
    "leak-image": "tells what the image shows in a mask, which is no leak of the label",
}
# Families: an order, a map, a corruption or a test set follows; the first beginning counts.
_FAMILIES = {
    "occlusion-nll-": False,
    "occlusion-": True,
    "srg-": True,
    "mass-": True,
    "coverage-": True,
    "rank-accuracy-": True,
    "pointing-": True,
    "accuracy-drop-": True,
    "comprehensiveness-": True,
    "sufficiency-": False,
    "max-sensitivity-": False,
    "shift-": True,
    "leak-": False,
    "zero-shot-nll-": False,
    "zero-shot-ece-": False,
    "zero-shot-": True,
    "auroc-": True,
    "aupr-": True,
}


def is_higher_better(metric: str) -> bool:
    """Return whether a higher value of the metric is the better one.

    A fill that is named behind ``@``, and ``-scaled`` for temperature scaling, change nothing.

    Raises
    ------
    ValueError
        If the metric's direction is not known.
    """
    name = metric.partition("@")[0].removesuffix("-scaled")
    if name in _DESCRIPTIVE:
        raise ValueError(f"unknown direction of metric {name!r}: it {_DESCRIPTIVE[name]}")
    for family, higher in _FAMILIES.items():
        if name.startswith(family):
            return higher
    hint = "Give higher_is_better for a metric of your own."
    check_choice("direction of metric", name, _HIGHER_IS_BETTER, hint)
    return _HIGHER_IS_BETTER[name]
