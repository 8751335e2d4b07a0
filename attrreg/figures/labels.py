"""What readers read in place of the names in the tables: orders of features, and metrics."""

from collections.abc import Iterable
from dataclasses import dataclass

from attrreg.statistics.directions import is_higher_better

__all__ = ["MetricLabel", "metric_label", "order_label", "saliency_label", "sorted_orders"]

ORDERS = {
    "random-pixels": "random pixels",
    "random-block": "random block",
    "grid-patches": "grid patches",
    "most-relevant-first": "own map, most relevant first",
    "least-relevant-first": "own map, least relevant first",
    "neutral-most-relevant-first": "neutral map, most relevant first",
    "neutral-least-relevant-first": "neutral map, least relevant first",
}
SALIENCIES = {
    "gradient": "Gradient",
    "smoothgrad-squared": "SmoothGrad²",
    "integrated-gradients": "Integrated gradients",
    "deeplift": "DeepLIFT",
    "gradient-shap": "GradientSHAP",
    "deep-shap": "DeepSHAP",
    "random": "Random map (control)",
}
POINTS = ("percentage points", 100.0)
SHARE = ("area ÷ clean accuracy, %", 100.0)
NATS = ("nats", 1.0)
PLAIN = ("", 1.0)

METRICS = {
    "accuracy": ("test accuracy", POINTS),
    "top5": ("top-5 accuracy", POINTS),
    "balanced-accuracy": ("balanced accuracy", POINTS),
    "train-accuracy": ("accuracy on training samples", POINTS),
    "generalisation-gap": ("training − test accuracy", POINTS),
    "lowest-margin-accuracy": ("accuracy on the hardest third", POINTS),
    "nll": ("negative log-likelihood (NLL)", NATS),
    "nll-scaled": ("NLL after temperature scaling", NATS),
    "brier": ("Brier score", ("0 to 2", 1.0)),
    "brier-reliability": ("Brier score, reliability", PLAIN),
    "brier-resolution": ("Brier score, resolution", PLAIN),
    "ece": ("calibration error (ECE)", POINTS),
    "ece-debiased": ("calibration error (ECE), debiased", POINTS),
    "ece-mass": ("ECE, bins of equal mass", POINTS),
    "ece-classwise": ("ECE, mean over the classes", POINTS),
    "ece-expected": ("ECE that chance alone shows", POINTS),
    "ece-mass-expected": ("ECE of equal mass that chance alone shows", POINTS),
    "ece-classwise-expected": ("classwise ECE that chance alone shows", POINTS),
    "mce-expected": ("largest calibration error that chance alone shows", POINTS),
    "mce": ("largest calibration error", POINTS),
    "occlusion-crossed": ("area under occlusion by maps of others", POINTS),
    "srg-crossed": ("relevance gain on models of others", POINTS),
    "leak-channel": ("class told and read from masks, above chance", POINTS),
    "leak-image": ("image read from masks, above chance", POINTS),
    "leak-label": ("label read from masks, above chance", POINTS),
}
# An order, a map or a corruption follows; the longest beginning counts.
FAMILIES = {
    "occlusion-nll-": ("NLL under occlusion", NATS),
    "occlusion-area-": ("accuracy under occlusion", POINTS),
    "occlusion-": ("occlusion", SHARE),
    "srg-": ("relevance gain (SRG)", POINTS),
    "accuracy-drop-": ("accuracy lost beyond a random order", POINTS),
    "comprehensiveness-": ("comprehensiveness, beyond random", PLAIN),
    "sufficiency-": ("sufficiency, beyond random", PLAIN),
    "max-sensitivity-": ("sensitivity of the map", PLAIN),
    "shift-": ("accuracy under corruption", POINTS),
    "zero-shot-nll-": ("zero-shot NLL", NATS),
    "zero-shot-ece-": ("zero-shot ECE, debiased", POINTS),
    "zero-shot-": ("zero-shot accuracy", POINTS),
    "auroc-": ("unknown samples, AUROC", POINTS),
    "aupr-": ("unknown samples, AUPR", POINTS),
}


@dataclass(frozen=True)
class MetricLabel:
    """How a metric is called, and how its values are shown.

    Attributes
    ----------
    text
        The name for readers.
    unit
        Of the values shown; empty where there is none to name.
    scale
        By what values are multiplied.
    higher_is_better
        None where the direction is not known.
    """

    text: str
    unit: str
    scale: float
    higher_is_better: bool | None

    @property
    def ends(self) -> tuple[str, str]:
        """What stands below the left and the right end of an axis of differences."""
        if self.higher_is_better is None:
            return "← lower", "higher →"
        return ("← worse", "better →") if self.higher_is_better else ("← better", "worse →")


def order_label(order: str) -> str:
    """Return an order's name for readers; an unknown one keeps its words."""
    return ORDERS.get(order, order.replace("-", " "))


def saliency_label(name: str) -> str:
    """Return a saliency's name for readers; an unknown one keeps its words."""
    return SALIENCIES.get(name, name.replace("-", " "))


def sorted_orders(orders: Iterable[str]) -> list[str]:
    """Return distinct orders: random ones, by own maps, by the neutral map, unknown ones."""
    rank = {order: number for number, order in enumerate(ORDERS)}
    return sorted(set(orders), key=lambda order: (rank.get(order, len(rank)), order))


def metric_label(metric: str) -> MetricLabel:
    """Return how a metric is shown; one that is not known keeps its words and its values."""
    name, _, fill = metric.partition("@")
    base = name.removesuffix("-scaled")
    text, (unit, scale) = METRICS.get(name) or METRICS.get(base) or _of_family(base)
    text += " after temperature scaling" if name != base and name not in METRICS else ""
    text += f", fill: {fill.replace('-', ' ')}" if fill else ""
    return MetricLabel(text, unit, scale, _direction(metric))


def _of_family(name: str) -> tuple[str, tuple[str, float]]:
    for family, (text, shown) in FAMILIES.items():
        if name.startswith(family):
            return f"{text}: {order_label(name.removeprefix(family))}", shown
    return name.replace("-", " ").replace("_", " "), PLAIN


def _direction(metric: str) -> bool | None:
    try:
        return is_higher_better(metric)
    except ValueError:
        return None
