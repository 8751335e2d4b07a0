"""The declared claims, files of claims that are wrong, and claims that an experiment chooses."""

import fnmatch
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import yaml
from claim_tables import claim

from attrreg import catalogue
from attrreg.claims.comparators import COMPARATORS, references
from attrreg.claims.facts import Facts, facts_of
from attrreg.claims.specification import read_claims, select
from attrreg.config import read_experiment
from attrreg.parameters import Fill, RuleName
from attrreg.protocol import Evaluation, Measure, Order, Saliency
from attrreg.yaml_files import ConfigError

ROOT = Path(__file__).resolve().parents[2]
DECLARED = ROOT / "configs" / "claims.yaml"
EVERYTHING = Evaluation(
    orders=get_args(Order),
    beside=get_args(Fill),
    measures=get_args(Measure),
    maps=[*get_args(Saliency), "gradient-x-input", *get_args(RuleName)],
    fills=get_args(Fill),
    crossed=("baseline", "sgt", "challenger"),
    zero_shot=("svhn",),
    unknown=("cifar10",),
)
NOT_MEASURED_YET = {"aup", "aur"}  # of S6: precision and recall of maps of series


@pytest.fixture(scope="module")
def declared():
    return read_claims(DECLARED)


def test_every_claim_is_declared_once(declared):
    expected = [f"C{n}" for n in range(1, 9)] + [f"R{n}" for n in range(1, 7)]
    expected += [f"S{n}" for n in range(1, 7)] + ["G1"]
    assert [each.id for each in declared] == expected


def test_declared_claims_speak_of_methods_that_can_be_run(declared):
    known = catalogue.method_names()
    for each in declared:
        assert set(each.methods) <= set(known)
        for method in each.methods:
            for comparator in each.against:
                found, missing, _ = references(comparator, method, known, {})
                assert found, missing
                assert not missing


def test_what_is_declared_is_measured_by_some_protocol(declared):
    """Claims read the table of metrics, so what only the table of costs has would not do."""
    given = EVERYTHING.metrics()
    named = {name for each in declared for name in metrics_of(each)}
    assert len(named) > 20
    lacking = {name for name in named if not fnmatch.filter(given, name)}
    assert lacking == NOT_MEASURED_YET


def metrics_of(claim):
    """Return all names of metrics that a claim speaks of, in whatever role."""
    for each in (*claim.endpoints, *claim.beside):
        equal = [each.equal.metric] if each.equal else []
        names = (each.metric, *each.metric_by_method.values(), each.minus, *each.other_than, *equal)
        yield from filter(None, names)


def test_every_guided_claim_of_an_effect_is_held_against_maps_that_tell_nothing(declared):
    """Without them, an effect of the perturbation would pass for one of guidance."""
    for each in declared:
        guides = [name for name in each.against if COMPARATORS[name].role == "guidance"]
        assert bool(guides) == (each.kind == "superior"), each.id


def written(tmp_path, **changes):
    content = yaml.safe_load(DECLARED.read_text())
    content["claims"] = content["claims"][:2]
    content["claims"][0] |= changes
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def endpoint(**changes):
    return [{"metric": "accuracy", "scale": "log-error-ratio", "direction": "lower"} | changes]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"agianst": ["baseline"]}, r"claims\[0\].agianst: unknown key 'agianst'.*'against'\?"),
        ({"against": ["bseline"]}, "unknown comparator 'bseline': .*'baseline'"),
        ({"against": []}, "against: .*1 or more entries"),
        ({"id": "C2"}, "claims has C2 more than once"),
        ({"id": "C 1"}, r"claims\[0\].id: found 'C 1'"),
        ({"least": {"value": 0, "unit": "percent"}}, "least.value: found 0; .*greater than 0"),
        ({"least": {"value": 5, "unit": "points"}}, "'points', but scale 'log-error-ratio' is in"),
        ({"least": {"value": 100, "unit": "percent"}}, "give less than 100"),
        ({"least": {"value": 5, "unit": "percents"}}, "unknown value 'percents'.*'percent'"),
        ({"against": ["zero", "swapped"]}, "'log-error-ratio' cannot be compared with 'zero'"),
        ({"kind": "non-inferior"}, "held against the baseline or random erasing"),
        ({"holds_for": 2}, "holds_for is 2, but there are 1 endpoints"),
        ({"cells": {"at_least": 100, "at_most": 50}}, "at_most is 50, below at_least"),
        ({"cells": {"groups": "apart"}}, "groups 'apart' needs models or modalities"),
        ({"cells": {"modalities": ["sound"]}}, r"modalities\[0\]: unknown value 'sound'"),
        ({"endpoints": endpoint(metric="")}, "'metric' or 'metric_by_method', found neither"),
        ({"endpoints": endpoint(minus="nll")}, "minus needs scale 'difference'"),
        ({"endpoints": endpoint(other_than=["nll"])}, "other_than needs a metric with"),
        (
            {"endpoints": endpoint(metric="", metric_by_method={"sgt": "nll"})},
            "metric_by_method lacks challenger",
        ),
        ({"endpoints": endpoint(metric="a-*"), "holds_for": 1}, "named one by one"),
        ({"methods": True}, r"claims\[0\].methods: found True"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_one_line(tmp_path, changes, said):
    path = written(tmp_path, **changes)
    with pytest.raises(ConfigError, match=said) as caught:
        read_claims(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_choice_keeps_the_order_of_the_file(declared):
    assert [each.id for each in select(declared, ["R1", "C1"])] == ["C1", "R1"]


def test_without_a_choice_all_are_asked(declared):
    assert select(declared) == select(declared, None) == declared
    assert select(declared, []) == ()
    changed = {each.id: each for each in select(declared, None, {"S4": 0.25})}
    assert changed.pop("S4").least.value == 0.25
    assert changed == {each.id: each for each in declared if each.id != "S4"}


def test_a_least_effect_of_no_claim_is_refused_without_a_choice_too(declared):
    with pytest.raises(ValueError, match=r"statistics.least has claim 'C11'.*did you mean 'C1'"):
        select(declared, None, {"C11": 2.0})


def test_a_choice_of_claims_that_are_not_there_is_refused(declared):
    with pytest.raises(ValueError, match=r"unknown claim 'C11': known are C1, C2, .*'C1'\?"):
        select(declared, ["C2", "C11"])
    with pytest.raises(ValueError, match="C1 more than once"):
        select(declared, ["C1", "C1"])
    with pytest.raises(ValueError, match=r"statistics.least has claim 'R1'"):
        select(declared, ["C1"], {"R1": 2.0})
    with pytest.raises(ValueError, match="least effect of claim 'C1': value: found -1"):
        select(declared, ["C1"], {"C1": -1.0})


def test_another_least_effect_than_declared_makes_a_claim_exploratory(declared):
    same, other = select(declared, ["C1", "C2"], {"C1": 5.0, "C2": 1.0})
    assert same == declared[0]
    assert other.least.value == 1.0
    assert other.changed == "declared with 2 %"


def test_the_facts_are_those_of_the_experiment(tmp_path):
    content = yaml.safe_load((ROOT / "configs" / "demo.yaml").read_text())
    equal = {"name": "baseline-longer", "preset": "baseline", "budget": {"matched": "sgt"}}
    other = {"name": "erasing-longer", "preset": "random-erasing", "budget": {"matched": "sgt"}}
    content["grid"]["methods"] += [equal, other]
    content["grid"]["models"] = [{"name": "mine", "base": "resnet10-narrow"}]
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    experiment = read_experiment(path)
    facts = facts_of(experiment)
    assert facts.test_sizes == {"digits": catalogue.dataset("digits").test}
    assert facts.modalities == {"digits": "image"}
    assert facts.models == {"mine": "resnet10-narrow"}
    assert facts.baselines == {"sgt": (("equal wall-clock", "baseline-longer"),)}
    assert facts.alpha == experiment.statistics.alpha


@pytest.mark.parametrize("facts", [{"alpha": 0.7}, {"test_sizes": {"digits": 0}}])
def test_facts_that_cannot_be_are_refused(facts):
    with pytest.raises(ValueError, match="allowed"):
        Facts(**({"test_sizes": {}, "modalities": {}} | facts))


def test_the_first_method_that_is_there_stands_for_uniform_maps():
    oracle = "reldrop-block/oracle"
    both = references("uniform", oracle, ["reldrop-block/uniform", "random-erasing"], {})
    assert [each.method for each in both[0]] == ["reldrop-block/uniform"]
    one = references("uniform", oracle, ["random-erasing"], {})
    assert [each.method for each in one[0]] == ["random-erasing"]
    none = references("uniform", oracle, ["baseline"], {})
    assert none[:2] == ([], ["method reldrop-block/uniform or random-erasing"])


def test_least_effects_read_as_words():
    least = {"unit": "points", "value": 1}
    gap = endpoint(scale="difference")
    assert str(claim(least=least, endpoints=gap).least) == "1 point"
    assert str(claim(least=least | {"value": 0.5}, endpoints=gap).least) == "0.5 points"
    assert str(claim().least) == "5 %"


def test_claims_need_no_networks():
    modules = [f"attrreg.claims.{path.stem}" for path in (ROOT / "attrreg/claims").glob("*.py")]
    code = f"import sys, {', '.join(modules)}; print({{'torch', 'timm'}} & set(sys.modules))"
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "set()"
