"""What holds of data of one's own wherever they lie: sizes of splits, names, what can be chosen."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from attrreg import catalogue
from attrreg.data.own import SOURCES, OwnOptions, drawn_sizes, name_classes
from attrreg.entries import Dataset

ROOT = Path(__file__).resolve().parents[2]
SHARES = st.floats(0.01, 0.5)
GIVEN = st.none() | st.integers(1, 50)


@settings(deadline=None)
@given(st.integers(6, 10**6), GIVEN, GIVEN, SHARES, SHARES)
def test_no_sample_is_lost_and_given_splits_stay_as_they_are(n, validation, test, share, other):
    options = OwnOptions(validation=share, test=other)
    pool, drawn_validation, drawn_test = drawn_sizes(n, validation, test, options)
    assert drawn_validation == validation or (validation is None and drawn_validation >= 1)
    assert drawn_test == test or (test is None and drawn_test >= 1)
    drawn = (drawn_validation, validation), (drawn_test, test)
    assert pool + sum(size for size, given in drawn if given is None) == n
    assert pool >= 1


def test_the_test_split_is_drawn_first_and_validation_from_the_rest():
    options = OwnOptions(test=0.2, validation=0.1)
    assert drawn_sizes(1000, None, None, options) == (720, 80, 200)
    assert drawn_sizes(1000, None, 77, options) == (900, 100, 77)
    assert drawn_sizes(1000, 77, None, options) == (800, 77, 200)
    assert drawn_sizes(1000, 77, 88, options) == (1000, 77, 88)


@pytest.mark.parametrize("share", [0, -0.1, 0.51, float("nan")])
@pytest.mark.parametrize("split", ["validation", "test"])
def test_shares_are_above_0_and_at_most_a_half(split, share):
    with pytest.raises(ValidationError):
        OwnOptions(**{split: share})


def test_images_are_brought_to_a_size_only_if_one_is_chosen():
    assert OwnOptions().sized(32).image_size is None
    assert OwnOptions(image_size=64).sized(32).image_size == 64


@pytest.mark.parametrize(
    ("values", "declared", "names"),
    [
        ([0, 1, 2], None, ("0", "1", "2")),
        ([1, 2, 3], None, ("1", "2", "3")),
        ([0, 2], ["ant", "bee", "cat"], ("ant", "cat")),
        ([False, True], None, ("false", "true")),
        ([False, True], ["healthy", "ill"], ("healthy", "ill")),
        (["a", "b"], None, ("a", "b")),
        (["a", "b"], ["zebra", "yak"], ("a", "b")),
    ],
    ids=str,
)
def test_classes_are_named_by_what_is_declared_or_by_their_labels(values, declared, names):
    assert name_classes(values, declared, "here") == names


@pytest.mark.parametrize(
    ("values", "declared", "said"),
    [
        ([-1, 0, 1], None, "here has the label -1; .* without a label"),
        ([0, 1, 3], ["ant", "bee", "cat"], "here has the label 3, its class names go from 0 to 2"),
        ([0, 1], ["ant", "ant"], "here has two classes named 'ant'"),
        (["", "a"], None, "here has a class with an empty name"),
    ],
    ids=str,
)
def test_labels_that_cannot_be_named_are_refused(values, declared, said):
    with pytest.raises(ValueError, match=said):
        name_classes(values, declared, "here")


@pytest.mark.parametrize("prefix", SOURCES)
class TestEverySource:
    """What is not there, or is no such thing, is said in one line."""

    @staticmethod
    def inspect(prefix, place, **options) -> Dataset:
        return catalogue.load(SOURCES[prefix])(str(place), OwnOptions(**options))

    def test_a_place_that_is_not_there_is_named(self, prefix, tmp_path):
        with pytest.raises(FileNotFoundError, match=f"{prefix}:{tmp_path}/none .*give") as error:
            self.inspect(prefix, tmp_path / "none")
        assert "\n" not in str(error.value)

    def test_a_file_of_something_else_is_refused(self, prefix, tmp_path):
        (tmp_path / "photos").write_text("hello, I am a text and nothing else")
        with pytest.raises(ValueError, match="photos") as error:
            self.inspect(prefix, tmp_path / "photos")
        assert "\n" not in str(error.value)

    def test_an_empty_folder_is_refused(self, prefix, tmp_path):
        with pytest.raises((ValueError, FileNotFoundError), match=f"{tmp_path}") as error:
            self.inspect(prefix, tmp_path)
        assert "\n" not in str(error.value)

    def test_a_place_may_begin_with_the_home_folder(self, prefix, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        with pytest.raises(FileNotFoundError, match=f"{prefix}:{tmp_path}/none"):
            self.inspect(prefix, "~/none")


def test_what_can_be_chosen_is_known_without_numpy_or_pillow():
    code = (
        "import sys, attrreg.data.own, attrreg.data.own_folder, attrreg.data.own_parquet\n"
        "import attrreg.data.own_arrays\n"
        "print({'numpy', 'PIL', 'pyarrow', 'torch'} & set(sys.modules))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "set()"
