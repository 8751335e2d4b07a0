"""Tables are read as written, and refused with a sentence."""

import pytest

from attrreg.figures import FIGURES
from attrreg.figures.tables import read_table

NAMES = sorted({table for drawing in FIGURES.values() for table in drawing.tables})


@pytest.mark.parametrize("name", NAMES)
def test_missing_table_names_its_command(name, tmp_path):
    command = "test" if name == "tests.csv" else "collect"
    with pytest.raises(FileNotFoundError, match=rf"{name}.*`attrreg {command} --config …`"):
        read_table(tmp_path, name)


@pytest.mark.parametrize("name", NAMES)
def test_broken_table_is_named(name, tmp_path):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match=rf"{name} is not a .*write it again"):
        read_table(tmp_path, name)


def test_missing_columns_are_named(tmp_path):
    (tmp_path / "metrics.csv").write_text("dataset,model,method,metric,value\n")
    with pytest.raises(ValueError, match="lacks the columns train_size, seed: found are dataset"):
        read_table(tmp_path, "metrics.csv")


def test_word_in_place_of_a_number_is_named(tmp_path):
    head = "dataset,model,method,train_size,seed,metric,value\n"
    (tmp_path / "metrics.csv").write_text(head + "digits,m,baseline,fifty,0,accuracy,0.5\n")
    with pytest.raises(ValueError, match=r"column 'train_size' of .* must hold whole numbers"):
        read_table(tmp_path, "metrics.csv")


def test_names_stay_words_and_empty_cells_become_nan(tmp_path):
    head = "dataset,model,method,train_size,seed,bin,low,high,count,confidence,accuracy\n"
    row = "nan,007,None,50,0,3,0.2,0.3,0,,nan\n"
    (tmp_path / "reliability.csv").write_text(head + row)
    table = read_table(tmp_path, "reliability.csv")
    assert table.loc[0, ["dataset", "model", "method"]].tolist() == ["nan", "007", "None"]
    assert table.loc[0, ["confidence", "accuracy"]].isna().all()


def test_tests_keep_all_as_a_train_size(folder):
    assert set(read_table(folder, "tests.csv")["train_size"]) == {"50", "200", "all"}


def test_truth_values_are_read_as_such_and_other_words_are_named(folder, tmp_path):
    scaled = read_table(folder, "reliability.csv")["scaled"]
    assert scaled.dtype == bool
    assert set(scaled) == {True, False}
    head = "dataset,model,method,train_size,seed,scaled,bin,low,high,count,confidence,accuracy\n"
    (tmp_path / "reliability.csv").write_text(head + "digits,m,baseline,50,0,yes,3,0.2,0.3,0,,\n")
    with pytest.raises(ValueError, match=r"'scaled' of .* must hold True and False only: .*'yes'"):
        read_table(tmp_path, "reliability.csv")
