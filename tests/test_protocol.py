"""A protocol names exactly the metrics that it gives, and which way each of them is better."""

from typing import get_args

import pandas as pd
import pytest
from experiments import changed, planned
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from small_evaluation import CPU, EVERYTHING, LITTLE, shrink

from attrreg.config import Experiment
from attrreg.data.prepare import prepare
from attrreg.data.sources import read_pool
from attrreg.data.subsets import draw_subsets
from attrreg.evaluation.localization import SCORES
from attrreg.evaluation.scores import evaluate_shard
from attrreg.evaluation.shift import SEVERITIES
from attrreg.parameters import Fill
from attrreg.protocol import Evaluation, Measure, Order
from attrreg.statistics import compare
from attrreg.statistics.directions import is_higher_better
from attrreg.training.runs import train_shard

# name: (dataset, model, measures that cannot be made there; the baseline has no masks to leak)
DATASETS = {
    "images with regions": ("shapes", "resnet10-narrow", ("leak",)),
    "series with regions": ("shapes-series", "cnn-series", ("shift", "leak")),
    "images without regions": ("digits", "resnet10-narrow", ("localization", "leak")),
}
PROTOCOLS = {
    "everything": EVERYTHING | {"samples": 8},
    "nothing beside": LITTLE | {"measures": (), "orders": ("grid-patches",)},
    "other maps and fills": LITTLE
    | {
        "orders": ("least-relevant-first",),
        "fill": "mean",
        "beside": ("mean", "blur"),
        "measures": ("localization", "faithfulness"),
        "maps": ("gradient-x-input", "random"),
        "fills": ("zero", "other"),
        "samples": 8,
    },
}
# They tell of other metrics, or of the model or the images alone.
WITHOUT_DIRECTION = (
    *("temperature", "ece-expected", "ece-mass-expected", "ece-classwise-expected"),
    *("mce-expected", "sparseness-"),
    *("accuracy-drop-random", "leak-image"),
)


@pytest.fixture(scope="module", params=DATASETS)
def trained(request, tmp_path_factory):
    """Two trained runs of a dataset, of which each is the other's neutral one."""
    dataset, model, impossible = DATASETS[request.param]
    folder = tmp_path_factory.mktemp("protocol")
    grid = {"grid.datasets": [dataset], "grid.models": [model], "grid.methods": ["baseline"]}
    with pytest.MonkeyPatch.context() as monkeypatch:
        shrink(monkeypatch)
        prepare(folder / "data", dataset)
        for seed in (0, 1):
            labels = read_pool(folder / "data", dataset).images.y
            draw_subsets(folder / "data", dataset, seed, labels)
        runs = planned(grid | {"recipe.steps": 1}).runs
        train_shard(runs, folder, folder / "data", CPU)
        yield folder, runs, impossible


def measured(folder, runs, protocol):
    """Return the metrics of the first run."""
    neutral = {runs[0]: runs[1]}
    [outcome] = evaluate_shard(
        runs[:1], folder, folder / "data", protocol, CPU, neutral=neutral
    ).values()
    assert outcome == "made"
    return pd.read_csv(folder / "scores" / runs[0].path / "metrics.csv").metric.tolist()


@pytest.mark.parametrize("name", PROTOCOLS)
def test_it_names_the_metrics_of_a_run_in_their_order_and_no_others(trained, name):
    folder, runs, impossible = trained
    protocol = Evaluation(**PROTOCOLS[name])
    possible = tuple(each for each in protocol.measures if each not in impossible)
    expected = protocol.model_copy(update={"measures": possible}).metrics()
    found = measured(folder, runs, protocol)
    assert len(found) == len(set(found))
    assert set(found) == set(expected)
    assert set(expected) <= set(protocol.metrics())
    assert set(protocol.tested()) <= set(found)


PROTOCOL = st.builds(
    Evaluation,
    orders=st.lists(st.sampled_from(get_args(Order)), min_size=1, unique=True).map(tuple),
    beside=st.lists(st.sampled_from(get_args(Fill)), unique=True).map(tuple),
    measures=st.lists(st.sampled_from(get_args(Measure)), unique=True).map(tuple),
    maps=st.lists(st.sampled_from(["gradient", "deeplift", "lrp-0", "gamma"]), unique=True).map(
        tuple
    ),
    crossed=st.sampled_from([(), ("baseline", "sgt", "challenger")]),
)


@settings(max_examples=60, deadline=None)
@given(PROTOCOL)
def test_of_every_metric_it_is_known_which_way_is_better_or_that_neither_is(protocol):
    for metric in protocol.metrics():
        if metric.startswith(WITHOUT_DIRECTION):
            with pytest.raises(ValueError, match="direction of metric"):
                is_higher_better(metric)
        else:
            assert is_higher_better(metric) == (not lower_is_better(metric)), metric


def lower_is_better(metric):
    """Say it as a reader would: errors and losses, whatever they are measured by."""
    errors = ("nll", "brier", "ece", "mce", "generalisation-gap", "gradient-outside", "leak-")
    losses = ("occlusion-nll-", "filter-similarity-change", "sufficiency-", "max-sensitivity-")
    return metric != "brier-resolution" != metric.removesuffix("-scaled") and (
        metric.startswith((*errors, *losses))
    )


@settings(max_examples=60, deadline=None)
@given(PROTOCOL)
def test_what_is_tested_is_measured_and_has_a_direction(protocol):
    assert set(protocol.tested()) <= set(protocol.metrics())
    assert len(set(protocol.tested())) == len(protocol.tested())
    assert all(is_higher_better(metric) in (True, False) for metric in protocol.tested())


@pytest.mark.parametrize("metric", ["temperature", "ece-expected", "sparseness-gradient"])
def test_a_metric_without_a_direction_is_not_compared_and_the_message_names_it(metric):
    rows = [
        ("digits", "resnet", method, 20, seed, metric, 0.1 * seed)
        for method in ("baseline", "sgt")
        for seed in (0, 1)
    ]
    columns = ["dataset", "model", "method", "train_size", "seed", "metric", "value"]
    with pytest.raises(ValueError, match=f"'{metric}'.*higher_is_better"):
        compare(pd.DataFrame(rows, columns=columns), metric, "baseline")


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        ("accuracy-drop-random", "tells of the model alone"),
        ("leak-image", "is no leak of the label"),
    ],
)
def test_why_neither_way_is_better_is_said(metric, said):
    with pytest.raises(ValueError, match=said):
        is_higher_better(metric)
    changes = {"evaluation.measures": ["accuracy-drop", "leak"], "statistics.metrics": [metric]}
    with pytest.raises(ValidationError, match=f"'{metric}', of which neither more nor less"):
        Experiment.model_validate(changed(changes))


def test_it_knows_the_scores_and_corruptions_that_there_are():
    protocol = Evaluation(measures=("localization", "shift"), maps=("gradient",))
    names = set(protocol.metrics())
    assert {f"{score}-gradient" for score in SCORES} <= names
    assert {f"shift-{kind}" for kind in SEVERITIES} <= names
    assert sum(name.startswith("shift-") for name in names) == len(SEVERITIES)


def test_the_headline_is_not_measured_again_beside_itself():
    protocol = Evaluation(fill="mean", beside=("blur", "mean"))
    assert protocol.all_fills == ("mean", "blur")
    assert not any(name.endswith("@mean") for name in protocol.metrics())


def test_the_default_fill_is_one_that_no_method_is_trained_with():
    from attrreg.catalogue import PRESETS

    fills = {getattr(entry.composition.perturbation, "fill", None) for entry in PRESETS.values()}
    assert Evaluation().fill == "blur"
    assert Evaluation().fill not in fills


def test_an_experiment_compares_what_its_protocol_tests_where_it_does_not_say():
    orders = ["grid-patches", "neutral-least-relevant-first"]
    experiment = Experiment.model_validate(changed({"evaluation.orders": orders}))
    assert experiment.tested_metrics() == experiment.evaluation.tested()
    assert {f"occlusion-{order}" for order in orders} < set(experiment.tested_metrics())
    said = Experiment.model_validate(changed({"statistics.metrics": ["brier-resolution"]}))
    assert said.tested_metrics() == ("brier-resolution",)


@pytest.mark.parametrize("metric", Evaluation(**EVERYTHING).metrics())
def test_every_metric_that_has_a_direction_may_be_asked_for(metric):
    if metric.startswith(WITHOUT_DIRECTION):
        return
    protocol = Evaluation(**EVERYTHING).model_dump(mode="json")
    changes = {"evaluation": protocol, "statistics.metrics": [metric]}
    assert Experiment.model_validate(changed(changes)).tested_metrics() == (metric,)


@pytest.mark.parametrize(
    "wrong",
    [
        {"orders": ()},
        {"orders": ("random",)},
        {"fractions": (0.5,)},
        {"fractions": (0.0, 1.0)},
        {"fractions": (0.0, 0.0)},
        {"beside": ("mean", "mean")},
        {"fills": ("blur", "mean", "blur")},
        {"maps": ("gradient", "gradient")},
        {"measures": ("margin", "margin")},
        {"measures": ("all",)},
        {"maps": ("lrp",)},
        {"fills": ()},
        {"profile": "fast"},
        {"samples": 0},
        {"bins": 1},
        {"gallery": 65},
        {"fraction": (0.0, 0.5)},
        {"crossed": ("baseline",)},
        {"crossed": ("baseline", "sgt")},
        {"crossed": ("baseline", "sgt", "sgt")},
    ],
)
def test_what_makes_no_sense_is_refused(wrong):
    assert Evaluation()
    with pytest.raises(ValidationError):
        Evaluation(**wrong)
