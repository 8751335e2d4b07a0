"""Names that an experiment gives: they stand in tables and, with "--" for "/", in paths."""

from typing import Annotated

from pydantic import AfterValidator, Field

__all__ = ["Name"]

# What tables read as missing.
MISSING = {"N/A", "NA", "NULL", "None", "n/a", "null"}


def _stays_a_name(name: str) -> str:
    try:
        float(name)
    except ValueError:
        if name not in MISSING:
            return name
    raise ValueError(
        f"{name!r} would be read from tables as a number or as missing: give a name with a letter "
        "that makes it a word"
    )


def _no_second_slash(name: str) -> str:
    if "--" in name:
        raise ValueError(f"{name!r} has '--', which stands for '/' in paths: use a single '-'")
    return name


Name = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*(/[A-Za-z0-9._+-]+)?$"),
    AfterValidator(_no_second_slash),
    AfterValidator(_stays_a_name),
]
