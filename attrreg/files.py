"""Files that come into place by rename, so that nothing half-written is ever read."""

import csv
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = [
    "new_directory",
    "path_name",
    "read_json",
    "remove_partial",
    "write_json",
    "write_rows",
    "writing",
]


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; what is written there takes its place at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(
        dir=path.parent, prefix=f".{path.name}-", suffix=f".partial{path.suffix}"
    )
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        _synchronise(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Give an empty temporary directory beside `path`; it takes the place of `path` at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-", suffix=".partial"))
    try:
        yield temporary
        temporary.chmod(0o755)
        for file in temporary.rglob("*"):
            if file.is_file():
                _synchronise(file)
        if path.exists():
            discarded = Path(
                tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-", suffix=".partial")
            )
            path.replace(discarded)
            temporary.replace(path)
            shutil.rmtree(discarded)
        else:
            temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_partial(path: Path) -> None:
    """Remove what interrupted writers of `path` left beside it; only while holding its lock."""
    for left in path.parent.glob(f".{path.name}-*.partial*"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON."""
    with writing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV, the keys of the first as its head; into a directory not yet in place."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def read_json(path: Path) -> Any:
    """Read JSON; a file that is not JSON raises ValueError with its path."""
    try:
        return json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is not readable as JSON ({error}): delete it and run the step that writes it"
        ) from error


def path_name(name: str) -> str:
    """Return a name as it is written in paths: "/" becomes "--", ":" becomes "-"."""
    return name.replace("/", "--").replace(":", "-")


def _synchronise(file: Path) -> None:
    with file.open("rb") as handle:
        os.fsync(handle.fileno())
