"""All comparisons of an experiment: metrics by references, pooled and by train size."""

from collections.abc import Collection, Iterator, Mapping, Sequence

import pandas as pd

from attrreg.statistics.bounds import check_failed
from attrreg.statistics.choices import check_choice
from attrreg.statistics.comparison import COLUMNS, compare
from attrreg.statistics.pairing import stored_as

__all__ = ["compare_all"]


def compare_all(
    metrics: pd.DataFrame,
    references: Sequence[str],
    metrics_list: Sequence[str],
    controls: Sequence[tuple[str, str]] = (),
    by_train_size: bool = True,
    *,
    alternative: str = "two-sided",
    correction: str = "holm",
    alpha: float = 0.05,
    equivalence_margins: Mapping[str, float] | None = None,
    noninferiority_margins: Mapping[str, float] | None = None,
    higher_is_better: Mapping[str, bool] | None = None,
    scales: Mapping[str, str] | None = None,
    floors: Mapping[str, float] | None = None,
    methods: Sequence[str] | None = None,
    failed: Collection[str] = (),
    taking_part: Mapping[str, Collection[str]] | None = None,
) -> pd.DataFrame:
    """Make all comparisons of an experiment: its table of tests.

    Per metric and reference, and then per guided method and its control, there is a comparison over
    all train sizes and one for each of them. Each is a family of its own for the correction: all
    methods against a reference; the one pair against a control, which is left out if the control is
    a reference already.

    Parameters
    ----------
    metrics
        As in `compare`. An empty table, where every run has failed, gives undecided rows.
    references
        The reference methods.
    metrics_list
        The metrics to compare.
    controls
        Pairs (guided method, its control); the control is the reference.
    by_train_size
        Whether single train sizes are compared too.
    alternative, correction, alpha, failed
        As in `compare`, for all comparisons. The worst value that stands for a failed run is that
        of the train sizes compared.
    equivalence_margins, noninferiority_margins, higher_is_better, scales, floors
        What `compare` takes, by metric; metrics not named get none, and the scale ``"difference"``.
    methods
        All methods of the experiment, in display order. One whose runs have all failed then still
        has its rows. By default those in the table, sorted.
    taking_part
        By metric the methods that can have it, for metrics that not all can. The others get no
        rows, and no comparison has one of them for its reference.

    Returns
    -------
    pandas.DataFrame
        The columns reference, method, metric, train_size (``"all"`` or the number, as text), and
        then those of `compare`; the order of rows follows the arguments.

    Raises
    ------
    ValueError
        As `compare`.
    """
    if methods is None:
        methods = sorted(metrics["method"].unique())
    families = [(reference, list(methods)) for reference in references]
    families += [
        (control, [guided, control]) for guided, control in controls if control not in references
    ]
    for reference, members in families:
        for name in (reference, *members):
            check_choice("method", name, methods)
    failed = check_failed(failed)

    order = ["reference", "method", "metric", "train_size"]
    order += [column for column in COLUMNS if column not in order]
    parts = [pd.DataFrame(columns=order).astype(COLUMNS | {"train_size": "str"})]
    for metric in metrics_list:
        slices = list(_slices(metrics, metric, failed, by_train_size))
        able = (taking_part or {}).get(metric, methods)
        for reference, all_members in families:
            members = [name for name in all_members if name in able]
            if reference not in able or set(members) <= {reference}:
                continue
            for size, rows, failed_here in slices:
                part = compare(
                    rows,
                    metric,
                    reference,
                    alternative,
                    correction,
                    alpha=alpha,
                    equivalence_margin=(equivalence_margins or {}).get(metric),
                    noninferiority_margin=(noninferiority_margins or {}).get(metric),
                    higher_is_better=(higher_is_better or {}).get(metric),
                    methods=members,
                    scale=(scales or {}).get(metric, "difference"),
                    floor=(floors or {}).get(metric),
                    failed=failed_here,
                )
                parts.append(part.assign(train_size=size)[order])
    return pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)


def _slices(
    metrics: pd.DataFrame, metric: str, failed: Collection[str], by_train_size: bool
) -> Iterator[tuple[str, pd.DataFrame, Collection[str]]]:
    """Yield what is compared: the train size, its rows, and the failed runs among them."""
    yield "all", metrics, failed
    if not by_train_size:
        return
    of_metric = metrics["metric"] == stored_as(metrics, metric)
    for size in sorted(metrics.loc[of_metric, "train_size"].unique()):
        here = [run for run in failed if run.rpartition("/s")[0].endswith(f"/n{size}")]
        yield str(size), metrics[metrics["train_size"] == size], here
