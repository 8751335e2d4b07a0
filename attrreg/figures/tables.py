"""Reading the tables of an experiment: the only files that the figures open."""

from pathlib import Path
from typing import Any

import pandas
from safetensors import SafetensorError
from safetensors.numpy import load_file

__all__ = ["read_table"]

RUN = ("dataset", "model", "method", "train_size", "seed")
COLUMNS = {
    "metrics.csv": (*RUN, "metric", "value"),
    "curves.csv": (*RUN, "order", "fill", "fraction", "accuracy"),
    "faithfulness.csv": (*RUN, "map", "fill", "first", "fraction", "accuracy"),
    "accuracy_drop.csv": (*RUN, "map", "fraction", "accuracy"),
    "cross.csv": (*RUN, "map_of", "first", "fraction", "accuracy"),
    "reliability.csv": (*RUN, "bin", "low", "high", "count", "confidence", "accuracy"),
    "failures.csv": (*RUN, "stage", "error", "message"),
    "tests.csv": (
        *("reference", "metric", "train_size", "method", "difference", "low", "high"),
        *("p", "p_corrected", "n_clusters", "verdict", "reason"),
    ),
}
FLAGS = {"scaled"}
WHOLE = {"train_size", "seed", "bin", "count"}
REAL = {
    *("value", "fraction", "accuracy", "low", "high", "confidence"),
    *("difference", "p", "p_corrected", "n_clusters"),
}


def read_table(folder: Path, name: str) -> Any:
    """Return a table of the folder: a DataFrame of a CSV, named arrays of a safetensors file.

    Names are strings even where they look like numbers or like a missing value. An empty table is
    returned as such.

    Parameters
    ----------
    folder
        Where the tables lie.
    name
        The file's name, such as ``"metrics.csv"`` or ``"gallery.safetensors"``.

    Returns
    -------
    pandas.DataFrame or dict of numpy.ndarray

    Raises
    ------
    FileNotFoundError
        If the table is missing; the message names the command that writes it.
    ValueError
        If a column is missing, or a cell is not a number where one is needed.
    """
    path = folder / name
    command = f"attrreg {'test' if name == 'tests.csv' else 'collect'} --config …"
    if not path.is_file():
        raise FileNotFoundError(f"table {name!r} is not in {folder}: write it with `{command}`")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(
                f"{path} is not a safetensors file ({error}): write it again with `{command}`"
            ) from error
    try:
        table = pandas.read_csv(path, dtype=str, keep_default_na=False)
    except (pandas.errors.EmptyDataError, pandas.errors.ParserError) as error:
        raise ValueError(
            f"{path} is not a CSV table with a header ({error}): write it again with `{command}`"
        ) from error
    missing = [column for column in COLUMNS[name] if column not in table]
    if missing:
        raise ValueError(
            f"{path} lacks the columns {', '.join(missing)}: found are {', '.join(table)}; "
            f"write it again with `{command}`"
        )
    return _with_numbers(table, path)


def _with_numbers(table: pandas.DataFrame, path: Path) -> pandas.DataFrame:
    """Return the table with numbers and truth values as such; a pooled train size stays a word."""
    words = {"train_size"} if path.name == "tests.csv" else set()
    converted = table.copy()
    for column in [c for c in table if c in FLAGS]:
        unknown = sorted(set(table[column]) - {"True", "False"})
        if unknown:
            raise ValueError(
                f"column {column!r} of {path} must hold True and False only: found {unknown[0]!r}"
            )
        converted[column] = table[column] == "True"
    for column in [c for c in table if c in (WHOLE | REAL) - words]:
        try:
            numbers = pandas.to_numeric(table[column].replace({"nan": "", "NaN": ""}))
            converted[column] = numbers.astype("int64" if column in WHOLE else "float64")
        except (TypeError, ValueError) as error:
            kind = "whole numbers" if column in WHOLE else "numbers"
            raise ValueError(
                f"column {column!r} of {path} must hold {kind} only: {error}"
            ) from error
    return converted
