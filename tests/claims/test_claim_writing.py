"""Answers for readers: they fit, they are escaped, and a reconstruction is called one."""

import re

import pandas as pd
import pytest
from claim_tables import FACTS, claim, table

from attrreg.claims.answering import COLUMNS, answer
from attrreg.claims.specification import select
from attrreg.claims.writing import (
    FORMATS,
    as_latex,
    as_markdown,
    as_text,
    read_answers,
    write_answers,
)

ODD = "50 % of $x_1$ & {a|b} #1 ~ c^2 <d> \\e* [f]"
SWAPPED = {"baseline": 0.0, "challenger/swapped": 0.0, "reldrop-block/swapped": 0.0}


@pytest.fixture(scope="module")
def answers():
    """Return a supported, an undecided, a negligible, an exploratory and a missing claim."""
    metrics = table(
        SWAPPED | {"challenger": 0.12, "reldrop-block": 0.05, "my_method-of-some-longer-name": 0.0}
    )
    metrics = pd.concat([metrics, table({"my_method-of-some-longer-name/swapped": 0.0})])
    claims = [
        claim(),
        claim(id="T2", methods=["reldrop-block"]),
        claim(id="T3", statement=ODD, methods=["my_method-of-some-longer-name"]),
        claim(id="T4", against=["random-class"]),
    ]
    changed = select([claim(id="T5")], ["T5"], {"T5": 4.0})
    return answer([*claims, *changed], metrics, FACTS)


def test_text_fits_a_terminal_of_100_columns(answers):
    lines = as_text(answers).splitlines()
    assert max(map(len, lines)) <= 100
    assert not any(line != line.rstrip() for line in lines)


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_form_says_what_was_found(answers, suffix, tmp_path):
    path = tmp_path / "tables" / f"claims{suffix}"
    write_answers(answers, path)
    text = " ".join(path.read_text(encoding="utf-8").split())
    for said in (
        "supported",
        "undecided",
        "negligible",
        "not run",
        "random-class",
        "declared with",
    ):
        assert said in text.replace("\\", ""), said
    assert [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_reconstruction_is_never_named_without_saying_so(answers, suffix):
    text = FORMATS[suffix](answers)
    named = re.findall(r"Challenger\b.{0,17}", text)
    assert named
    assert all(each.startswith("Challenger (reconstruction)") for each in named)


@pytest.mark.parametrize("form", [as_text, as_markdown, as_latex])
def test_what_a_reconstruction_is_and_what_is_exploratory_is_said(answers, form):
    text = " ".join(form(answers).split())
    assert "not about the authors' own method" in text
    assert "is exploratory" in text
    without = answers[answers["id"] == "T2"]
    assert "authors' own method" not in " ".join(form(without).split())


def test_markdown_tables_have_as_many_cells_in_every_row(answers):
    blocks = re.findall(r"(?:^\|.*\|\n)+", as_markdown(answers), re.MULTILINE)
    assert len(blocks) == 3
    for block in blocks:
        cells = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(cells) == 1
    assert "{a\\|b}" in as_markdown(answers)


def test_latex_is_escaped_and_its_parts_match(answers):
    text = as_latex(answers)
    assert text.isascii()
    body = re.sub(r"^%.*$", "", text, flags=re.MULTILINE)
    plain = re.sub(r"\\[{}$&#_%\\]", "", body)  # without what is escaped
    depth = 0
    for character in plain:
        depth += (character == "{") - (character == "}")
        assert depth >= 0
    assert depth == 0
    assert not set(plain) & set("$#_%~^")
    begun = re.findall(r"\\begin\{(\w+)\}", body)
    assert sorted(begun) == sorted(re.findall(r"\\end\{(\w+)\}", body))
    assert {"table", "tabular"} == set(begun)
    for columns, inside in re.findall(
        r"\\begin\{tabular\}\{([^\n]*)\}\n(.*?)\\end\{tabular\}", body, re.DOTALL
    ):
        wanted = len(re.sub(r"p\{.*?\}", "p", columns))
        rows = [line for line in inside.splitlines() if line.endswith(r"\\")]
        assert rows
        assert {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {wanted}
        assert inside.count(r"\toprule") == inside.count(r"\bottomrule") == 1
    commands = set(re.findall(r"\\([a-zA-Z]+)", body))
    known = {"begin", "end", "caption", "footnotesize", "toprule", "midrule", "bottomrule"}
    known |= {"linewidth", "ensuremath", "le", "ge", "pm", "infty", "alpha"}
    assert commands <= known | {"textbackslash", "textasciitilde", "textasciicircum"}


def test_answers_survive_a_round_trip_through_csv(answers, tmp_path):
    path = tmp_path / "claims.csv"
    write_answers(answers, path)
    read = read_answers(path)
    pd.testing.assert_frame_equal(read, answers)
    assert as_text(read) == as_text(answers)


def test_a_csv_of_something_else_is_refused(tmp_path):
    path = tmp_path / "claims.csv"
    path.write_text("role,id\nanswer,C1\n")
    with pytest.raises(ValueError, match=r"lacks the columns method, label.*attrreg claims"):
        read_answers(path)


def test_a_form_that_does_not_exist_is_refused_before_anything_is_written(answers, tmp_path):
    with pytest.raises(ValueError, match=r"claims\.xlsx: its ending can be \.csv, \.md"):
        write_answers(answers, tmp_path / "claims.xlsx")
    assert not list(tmp_path.iterdir())


def test_what_was_there_stays_if_writing_fails(answers, tmp_path, monkeypatch):
    path = tmp_path / "claims.md"
    path.write_text("before")

    def fail(_):
        raise OSError("disk full")

    monkeypatch.setattr("attrreg.files._synchronise", fail)
    with pytest.raises(OSError, match="disk full"):
        write_answers(answers, path)
    assert [each.read_text() for each in tmp_path.iterdir()] == ["before"]


def test_nothing_asked_is_said(answers):
    nothing = answer([], table(SWAPPED), FACTS)
    assert list(nothing.columns) == list(COLUMNS)
    assert "No claims were asked" in as_text(nothing)
    assert "No claims were asked" in as_markdown(nothing)


def test_there_is_no_negative_zero():
    same = table({"baseline": 0.0, "challenger": -1e-9}, noise=0.0)
    assert "+0.0 % [+0.0, +0.0]" in as_text(answer([claim(against=["baseline"])], same, FACTS))
