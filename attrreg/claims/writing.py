"""The answers for readers: plain text, Markdown and LaTeX, and CSV for programs."""

import math
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from attrreg.catalogue import is_reconstruction
from attrreg.claims.answering import COLUMNS
from attrreg.claims.specification import Least
from attrreg.claims.verdicts import VERDICTS
from attrreg.files import writing

__all__ = ["FORMATS", "as_latex", "as_markdown", "as_text", "read_answers", "write_answers"]

WIDTH = 100
DIGITS = {"percent": 1, "percent per decade": 1, "points": 2, "absolute": 3}
SHORT = {"percent": "%", "percent per decade": "%/decade", "points": "points", "absolute": ""}
SUMMARY = ("", "method", "claim", "verdict", "effect", "least", "p", "clusters")
DETAILS = ("", "method", "against", "endpoint", "effect", "p", "clusters", "reads")
NOT_RUN = ("", "method", "claim", "missing")
RECONSTRUCTION = (
    "A reconstruction is what this project made of a paper's abstract: its verdicts are about the "
    "reconstruction, not about the authors' own method."
)
EXPLORATORY = "Whatever does not stand here as declared is exploratory."
EFFECTS = (
    "Effects are positive as the claim says, in the unit of the least effect, with simultaneous "
    "intervals; that of a claim is the smallest over its comparators."
)

Table = tuple[Sequence[str], list[list[str]]]


def write_answers(answers: pd.DataFrame, path: Path) -> None:
    """Write answers into a file, which comes into place by rename.

    Parameters
    ----------
    answers
        From `attrreg.claims.answering.answer`.
    path
        Its ending says in which form: one of `FORMATS`.

    Raises
    ------
    ValueError
        The ending is another one.
    """
    if path.suffix not in FORMATS:
        raise ValueError(f"cannot write {path}: its ending can be {', '.join(FORMATS)}")
    content = FORMATS[path.suffix](answers)
    with writing(path) as temporary:
        temporary.write_text(content, encoding="utf-8")


def read_answers(path: Path) -> pd.DataFrame:
    """Read answers that were written as CSV."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    if absent := [column for column in COLUMNS if column not in table.columns]:
        raise ValueError(
            f"{path} lacks the columns {', '.join(absent)}: write it again with `attrreg claims`"
        )
    numbers = [column for column, kind in COLUMNS.items() if kind != "str"]
    converted = {each: pd.to_numeric(table[each].replace("", None)) for each in numbers}
    return table.assign(**converted)[list(COLUMNS)].astype(COLUMNS)


def as_text(answers: pd.DataFrame) -> str:
    """Return the answers as plain text for a terminal, at most 100 columns wide."""
    lines = _wrapped(headline(answers))
    for _, row in _answered(answers).iterrows():
        lines += ["", *_text_of(row, _comparisons(answers, row))]
    missing = _not_run(answers)
    if len(missing):
        lines += ["", "Not run"]
        for _, row in missing.iterrows():
            lines += _wrapped(f"{row['id']:<4}{_method(row)}: {row['reason']}", 2, 6)
    return "\n".join([*lines, "", *(line for note in _notes(answers) for line in _wrapped(note))])


def as_markdown(answers: pd.DataFrame) -> str:
    """Return the answers as Markdown tables."""
    parts = [headline(answers)]
    for heading, (head, rows) in _tables(answers):
        lines = [head, ["---"] * len(head), *rows]
        table = "\n".join(f"| {' | '.join(map(_for_markdown, line))} |" for line in lines)
        parts += [f"## {heading}", table]
        if heading == "Verdicts":
            why = [
                f"{row['id']}, {_method(row)}: {row['reason']}."
                for _, row in _answered(answers).iterrows()
            ]
            parts.append("\n".join(f"* {_for_markdown(each)}" for each in why))
    return "\n\n".join([*parts, *_notes(answers)]) + "\n"


def as_latex(answers: pd.DataFrame) -> str:
    r"""Return the answers as LaTeX tables; they need ``\usepackage{booktabs}``."""
    parts = [r"% needs \usepackage{booktabs}"]
    for heading, (head, rows) in _tables(answers):
        widths = {"claim": "p{0.22\\linewidth}", "endpoint": "p{0.2\\linewidth}"}
        widths |= {"missing": "p{0.4\\linewidth}", "verdict": "p{0.12\\linewidth}"}
        columns = "".join(widths.get(each, "l") for each in head)
        lines = [_latex_line(row) for row in rows]
        parts.append(
            "\n".join(
                [
                    r"\begin{table}",
                    rf"\caption{{{_for_latex(f'{heading}. {headline(answers)}')}}}",
                    r"\footnotesize",
                    rf"\begin{{tabular}}{{{columns}}}",
                    r"\toprule",
                    _latex_line(head),
                    r"\midrule",
                    *lines,
                    r"\bottomrule",
                    r"\end{tabular}",
                    r"\end{table}",
                ]
            )
        )
    return "\n\n".join([*parts, *map(_for_latex, _notes(answers))]) + "\n"


def as_csv(answers: pd.DataFrame) -> str:
    """Return the answers as CSV."""
    return str(answers.to_csv(index=False))


FORMATS: dict[str, Callable[[pd.DataFrame], str]] = {
    ".csv": as_csv,
    ".md": as_markdown,
    ".tex": as_latex,
    ".txt": lambda answers: f"{as_text(answers)}\n",
}


def headline(answers: pd.DataFrame) -> str:
    """Return how many claims were answered, and how, in one sentence."""
    rows = answers[answers["role"] == "answer"]
    if rows.empty:
        return "No claims were asked."
    counts = rows["verdict"].value_counts()
    said = ", ".join(f"{counts[each]} {each}" for each in VERDICTS if each in counts)
    run, alpha = rows["claims_run"].iloc[0], rows["alpha"].iloc[0]
    return (
        f"{len(rows)} claims, each about one method: {said}. Holm's correction over the {run} that "
        f"were run, α = {alpha:g}."
    )


def _tables(answers: pd.DataFrame) -> list[tuple[str, Table]]:
    """Return the tables that have rows, with their headings."""
    answered = [row for _, row in _answered(answers).iterrows()]
    summary = [
        [
            *_who(row),
            row["claim"],
            _verdict(row),
            _effect(row),
            _least(row),
            f"{_p(row['p'])} ({_p(row['p_corrected'])})",
            _clusters(row),
        ]
        for row in answered
    ]
    details = [
        [
            *_who(row),
            each["comparator"],
            each["endpoint"] + (f", {each['group']}" if each["group"] != row["group"] else ""),
            _effect(each),
            _p(each["p"]),
            _clusters(each),
            _reads(each),
        ]
        for row in answered
        for _, each in _comparisons(answers, row).iterrows()
    ]
    missing = [
        [*_who(row), row["claim"], row["missing"].replace(";", "; ")]
        for _, row in _not_run(answers).iterrows()
    ]
    tables = [
        ("Verdicts", (SUMMARY, summary)),
        ("Comparisons", (DETAILS, details)),
        ("Not run", (NOT_RUN, missing)),
    ]
    return [(heading, table) for heading, table in tables if table[1]]


def _text_of(row: pd.Series, comparisons: pd.DataFrame) -> list[str]:
    """Return the lines about one claim that was run."""
    lines = _wrapped(f"{row['id']:<4}{_verdict(row):<27}{_method(row)}: {row['claim']}", 0, 4)
    said = f"effect {_effect(row)}, least {_least(row)}; p {_p(row['p'])}, "
    said += f"corrected {_p(row['p_corrected'])}; {_clusters(row)} clusters"
    lines += [*_wrapped(said, 4, 6), *_wrapped(row["reason"], 4, 6)]
    endpoint = ""
    for _, each in comparisons.iterrows():
        heading = each["endpoint"] + (f", {each['group']}" if each["group"] != row["group"] else "")
        if heading != endpoint:
            lines += _wrapped(heading, 4, 6)
            endpoint = heading
        lines += _wrapped(
            f"{each['comparator']:<30}{_effect(each):<36} p {_p(each['p']):<8}{_reads(each)}", 6, 8
        )
    absent = [each for each in row["missing"].split(";") if each]
    if absent:
        more = f"; and {len(absent) - 3} more" if len(absent) > 3 else ""
        lines += _wrapped(f"missing: {'; '.join(absent[:3])}{more}", 4, 6)
    return lines


def _answered(answers: pd.DataFrame) -> pd.DataFrame:
    return answers[(answers["role"] == "answer") & (answers["verdict"] != "not run")]


def _not_run(answers: pd.DataFrame) -> pd.DataFrame:
    return answers[(answers["role"] == "answer") & (answers["verdict"] == "not run")]


def _comparisons(answers: pd.DataFrame, row: pd.Series) -> pd.DataFrame:
    """Return the rows that follow an answer, up to the next answer."""
    following = answers.loc[answers.index > row.name]
    return following[(following["role"] == "answer").cumsum() == 0]


def _notes(answers: pd.DataFrame) -> list[str]:
    reconstructed = answers["method"].map(is_reconstruction).any()
    return [EFFECTS, EXPLORATORY, *([RECONSTRUCTION] if reconstructed else [])]


def _who(row: pd.Series) -> list[str]:
    return [row["id"], _method(row)]


def _method(row: pd.Series) -> str:
    return row["label"] + (f", {row['group']}" if row["group"] else "")


def _verdict(row: pd.Series) -> str:
    is_declared = row["status"] == "declared"
    return row["verdict"] if is_declared else f"{row['verdict']} ({row['status']})"


def _reads(row: pd.Series) -> str:
    return row["position"] or "beside it"


def _effect(row: pd.Series) -> str:
    """Return an estimate with its interval."""
    unit = SHORT[row["unit"]]
    numbers = [_number(row[each], row["unit"]) for each in ("estimate", "low", "high")]
    return f"{numbers[0]}{' ' + unit if unit else ''} [{numbers[1]}, {numbers[2]}]"


def _least(row: pd.Series) -> str:
    margin = "−" if row["kind"] == "non-inferior" else ""
    return f"{margin}{Least(value=row['least'], unit=row['unit'])}"


def _number(value: float, unit: str) -> str:
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "−∞" if value < 0 else "∞"
    rounded = round(value, DIGITS[unit]) + 0.0  # no negative zero
    return f"{rounded:+.{DIGITS[unit]}f}".replace("-", "−")


def _p(value: float) -> str:
    if math.isnan(value):
        return "–"
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1g}"


def _clusters(row: pd.Series) -> str:
    needed = row["clusters_needed"]
    return f"{row['clusters']}" + ("" if pd.isna(needed) else f" of about {needed}")


def _wrapped(text: str, indent: int = 0, hanging: int = 0) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=" " * indent,
        subsequent_indent=" " * hanging,
        break_on_hyphens=False,
        drop_whitespace=True,
    )


def _for_markdown(text: str) -> str:
    for special in "\\|*_<`":
        text = text.replace(special, f"\\{special}")
    return " ".join(text.split())


def _latex_line(cells: Sequence[str]) -> str:
    return " & ".join(map(_for_latex, cells)) + r" \\"


def _for_latex(text: str) -> str:
    return "".join(LATEX.get(each, each) for each in " ".join(text.split()))


LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\ensuremath{<}",
    ">": r"\ensuremath{>}",
    "[": "{[}",  # after a line's end it would begin an argument
    "−": r"\ensuremath{-}",
    "–": "--",
    "±": r"\ensuremath{\pm}",
    "≤": r"\ensuremath{\le}",
    "≥": r"\ensuremath{\ge}",
    "∞": r"\ensuremath{\infty}",
    "α": r"\ensuremath{\alpha}",
    **{special: f"\\{special}" for special in "{}$&#_%"},
}
