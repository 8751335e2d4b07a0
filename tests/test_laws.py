"""Laws of subsets have names that say all about them; sizes are numbers, or numbers per class."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from attrreg.laws import SubsetLaw, law_named, total

LAWS = st.builds(
    SubsetLaw,
    order=st.sampled_from(["balanced", "natural"]),
    label_noise=st.floats(0, 1, exclude_max=True),
    imbalance=st.floats(1, 1e300),
)


@given(LAWS)
def test_a_law_is_found_by_its_name(law):
    assert law_named(law.name) == law


@given(LAWS)
def test_a_name_is_a_short_part_of_a_path(law):
    assert re.fullmatch(r"[A-Za-z0-9.+-]{1,80}", law.name)


@pytest.mark.parametrize(
    ("name", "law"),
    [
        ("balanced", SubsetLaw()),
        ("natural", SubsetLaw(order="natural")),
        ("noise0.2", SubsetLaw(label_noise=0.2)),
        ("imbalance10-noise0.2", SubsetLaw(imbalance=10, label_noise=0.2)),
    ],
)
def test_names_are_as_documented(name, law):
    assert law.name == name


WRONG = [
    *("", "even", "-natural", "natural-", "../natural", "naturalnoise0.2", "balanced-noise0.2"),
    *("noise", "noise0", "noise1", "noise0.20", "noise0.2-natural", "imbalance1", "imbalance1e999"),
]


@pytest.mark.parametrize("name", WRONG)
def test_other_names_are_refused_with_what_is_allowed(name):
    with pytest.raises(ValueError, match=r"unknown subset law .*natural.*imbalance.*noise"):
        law_named(name)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("label_noise", 1),
        ("label_noise", -0.1),
        ("label_noise", float("nan")),
        ("imbalance", 0.5),
        ("imbalance", float("inf")),
        ("order", "sorted"),
        ("noise", 0.1),
    ],
)
def test_a_law_out_of_range_is_refused_by_the_name_of_its_setting(key, value):
    with pytest.raises(ValidationError, match=key):
        SubsetLaw.model_validate({key: value})


@given(st.integers(1, 10**6), st.integers(1, 1000))
def test_a_size_is_that_number_or_as_many_of_every_class(size, classes):
    assert total(size, classes) == size
    assert total(f"{size}/class", classes) == size * classes


@pytest.mark.parametrize(
    "size", [0, -5, True, 2.0, None, "50", "0/class", "05/class", "5/klass", "5 / class", "٥/class"]
)
def test_another_size_is_refused_with_what_is_allowed(size):
    with pytest.raises(ValueError, match=r"is no size.*e\.g\. 50.*'5/class'") as error:
        total(size, 10)
    assert repr(size) in str(error.value)
