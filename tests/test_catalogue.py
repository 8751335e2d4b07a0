"""What can be named exists, is what it says, and is honest about where it comes from."""

import subprocess
import sys
from typing import get_args

import pydantic
import pytest
import timm
import torchvision

from attrreg import catalogue, parameters


def parts_in(annotation):
    """Return the classes of parts that an annotation admits."""
    if isinstance(annotation, type) and issubclass(annotation, parameters.Part):
        return [annotation]
    return [part for each in get_args(annotation) for part in parts_in(each)]


KINDS = ("attribution", "perturbation", "objective")
PARTS = [
    part
    for kind in KINDS
    for part in parts_in(parameters.Composition.model_fields[kind].annotation)
]

TORCH_FREE = """
import sys
import attrreg.{module}
print(sorted({{"torch", "pandas", "timm", "matplotlib"}} & sys.modules.keys()))
"""


def example(part):
    """Return a part with its defaults; what wraps another wraps the gradient."""
    return part(of="gradient") if issubclass(part, parameters.Wrapper) else part()


def test_all_kinds_of_parts_are_found():
    names = {part.model_fields["name"].default for part in PARTS}
    assert {"lrp", "swapped", "cached", "block", "scale", "mixture"} <= names
    assert len(names) == len(PARTS)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_every_part_is_implemented_with_the_parameters_it_declares(part):
    implementation = catalogue.load(part.implementation)
    assert issubclass(implementation, part)
    assert implementation.model_fields.keys() == part.model_fields.keys()
    working = catalogue.implement(example(part))
    assert callable(working)
    assert dict(working) == dict(example(part))


@pytest.mark.parametrize("name", catalogue.method_names())
def test_every_method_is_a_composition_that_survives_being_written_down(name):
    composition = catalogue.preset(name)
    again = parameters.Composition.model_validate(composition.model_dump(mode="json"))
    assert again == composition
    assert "image" in catalogue.modalities(composition)


def test_a_control_is_the_method_with_another_map():
    controls = [name for name in catalogue.method_names() if "/" in name]
    guided = {name.partition("/")[0] for name in controls}
    assert {name.partition("/")[2] for name in controls} == set(catalogue.CONTROLS)
    for name in controls:
        method, control = catalogue.preset(name.partition("/")[0]), catalogue.preset(name)
        assert catalogue.is_control(control)
        assert control.attribution.of == method.attribution
        assert (control.perturbation, control.objective) == (method.perturbation, method.objective)
    for name, entry in catalogue.PRESETS.items():
        looks = getattr(entry.composition.attribution, "name", "uniform") != "uniform"
        assert (name in guided) == looks


def test_a_reconstruction_is_called_one_wherever_it_is_shown():
    marked = {
        name for name in catalogue.method_names() if "reconstruction" in catalogue.label(name)
    }
    assert marked == {
        name for name in catalogue.method_names() if catalogue.is_reconstruction(name)
    }
    assert {name for name in marked if "/" not in name} == {
        name for name, entry in catalogue.PRESETS.items() if entry.status == "reconstruction"
    }


def test_labels_tell_methods_apart():
    names = catalogue.method_names()
    assert len({catalogue.label(name) for name in names}) == len(names)
    assert catalogue.label("my own") == "my own"


def test_the_list_of_torchvision_names_is_true():
    given = torchvision.models.list_models(module=torchvision.models)
    more_than_logits = {"googlenet", "inception_v3"}
    assert set(catalogue.torchvision_names()) == set(given) - more_than_logits


def test_a_model_of_torchvision_is_named_with_its_library():
    entry = catalogue.model("torchvision:resnet18")
    assert entry.options == {"architecture": "resnet18"}
    with pytest.raises(KeyError, match="did you mean 'resnet18'"):
        catalogue.model("torchvision:resnet81")


def test_the_list_of_timm_names_is_true():
    assert list(catalogue.timm_names()) == sorted(timm.list_models())


def test_a_model_without_an_implementation_is_timms():
    made_of = {entry.timm for entry in catalogue.MODELS.values() if not entry.implementation}
    assert made_of <= set(catalogue.timm_names())
    assert not catalogue.MODELS.keys() & set(catalogue.timm_names())


@pytest.mark.parametrize(
    ("look_up", "wrong", "meant"),
    [
        (catalogue.dataset, "digitz", "digits"),
        (catalogue.model, "convnext_atto1", "convnext_atto"),
        (catalogue.preset, "sgt/swaped", "sgt/swapped"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest_one(look_up, wrong, meant):
    with pytest.raises(KeyError) as error:
        look_up(wrong)
    assert repr(wrong) in error.value.args[0]
    assert f"did you mean {meant!r}?" in error.value.args[0]


def test_nothing_is_suggested_for_a_name_that_is_like_none():
    assert "did you mean" not in catalogue.unknown("dataset", "zzzz", ["digits"])


def test_an_override_by_parameters_keeps_the_rest_and_by_name_replaces_the_part():
    preset = catalogue.preset("reldrop-patch")
    kept = catalogue.override(preset, {"perturbation": {"fill": "zero"}})
    assert kept.perturbation == preset.perturbation.model_copy(update={"fill": "zero"})
    same = catalogue.override(preset, {"perturbation": {"name": "block", "fill": "zero"}})
    assert same == kept
    replaced = catalogue.override(preset, {"perturbation": "block"})
    assert replaced.perturbation == parameters.Block()
    assert preset == catalogue.preset("reldrop-patch")


@pytest.mark.parametrize("wrapper", ["cached", *catalogue.CONTROLS])
def test_what_wraps_an_attribution_wraps_the_one_that_is_there(wrapper):
    preset = catalogue.preset("reldrop-block")
    part = catalogue.CONTROLS.get(wrapper, parameters.Cached)
    name = part.model_fields["name"].default
    for change in (name, {"name": name}):
        found = catalogue.override(preset, {"attribution": change})
        assert found == preset.model_copy(update={"attribution": part(of=preset.attribution)})
    other = catalogue.override(preset, {"attribution": {"name": name, "of": "gradient"}})
    assert other.attribution == part(of="gradient")
    bare = parameters.Composition()
    with pytest.raises(pydantic.ValidationError, match=r"of\n.*Field required"):
        catalogue.override(bare, {"attribution": name, "perturbation": "block"})


def test_every_control_has_a_title_and_only_the_oracle_needs_regions():
    for name in catalogue.method_names():
        control = name.partition("/")[2]
        assert ("(control)" in catalogue.label(name)) == bool(control)
        assert catalogue.needs_regions(catalogue.preset(name)) == (control == "oracle")
    inside = {"name": "swapped", "of": {"name": "oracle", "of": "lrp"}}
    nested = catalogue.override(catalogue.preset("reldrop-block"), {"attribution": inside})
    assert catalogue.needs_regions(nested)


@pytest.mark.parametrize("sign", ["signed", "positive", "absolute"])
@pytest.mark.parametrize("relevance", ["signed", "positive"])
def test_a_reversed_map_must_leave_something_to_scale(sign, relevance):
    changes = {"attribution": {"of": {"name": "lrp", "sign": sign}}}
    changes["perturbation"] = {"relevance": relevance}
    preset = catalogue.preset("challenger/reversed")
    if sign == "signed" or relevance == "signed":
        assert catalogue.override(preset, changes).attribution.of.sign == sign
    else:
        with pytest.raises(pydantic.ValidationError, match="'reversed' leaves no positive value"):
            catalogue.override(preset, changes)


def test_a_chain_has_the_outermost_part_first():
    inner = parameters.Cached(of="gradient")
    outer = parameters.Swapped(of=inner)
    assert parameters.chain(outer) == (outer, inner, parameters.Gradient())
    assert parameters.chain(None) == ()


def test_pairs_of_methods_and_their_controls():
    names = ["baseline", "sgt/swapped", "sgt", "challenger/scrambled", "own", "own/twin"]
    assert catalogue.control_pairs(names) == [("sgt", "sgt/swapped"), ("own", "own/twin")]


@pytest.mark.parametrize("module", ["cli", "config", "plan", "catalogue", "progress"])
def test_what_the_workflow_reads_imports_no_heavy_package(module):
    script = TORCH_FREE.format(module=module)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
