"""Which way is better, for every metric that the package writes."""

from attrreg.statistics.choices import check_choice

__all__ = ["is_higher_better"]

_HIGHER_IS_BETTER = {
    "accuracy": True,
    "occlusion-random-pixels": True,
    "occlusion-random-block": True,
    "occlusion-most-relevant-first": True,
    "nll": False,
    "brier": False,
    "ece": False,
    "mce": False,
    "seconds": False,
    "seconds_per_step": False,
    "ratio_to_baseline": False,
    "peak_memory_mb": False,
}


def is_higher_better(metric: str) -> bool:
    """Return whether a higher value of the metric is the better one.

    Every name that starts with ``occlusion-`` is an area under an accuracy curve: higher is better.

    Raises
    ------
    ValueError
        If the metric's direction is not known.
    """
    if metric.startswith("occlusion-"):
        return True
    hint = "Give higher_is_better for a metric of your own."
    check_choice("direction of metric", metric, _HIGHER_IS_BETTER, hint)
    return _HIGHER_IS_BETTER[metric]
