"""What made a result: digests of settings, arrays and source code, and the versions at hand."""

import ast
import hashlib
import json
import platform
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__all__ = [
    "array_digest",
    "digest",
    "environment",
    "file_digest",
    "source_digest",
    "stream_seed",
]

PACKAGE = "attrreg"

# Data, not code: what it says about a run enters the run's digest in full, so a new preset or
# dataset changes no other run.
RESOLVED = frozenset({"attrreg.catalogue"})


def digest(value: Any) -> str:
    """Return 16 hexadecimal digits that stand for a JSON value."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def array_digest(*arrays: Any) -> str:
    """Return 16 hexadecimal digits that stand for numpy arrays: types, shapes and values."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(f"{array.dtype}{array.shape}".encode())
        if array.size:
            total.update(array.data if array.flags.c_contiguous else array.tobytes())
    return total.hexdigest()[:16]


def file_digest(path: Path) -> str:
    """Return ``sha256:…`` of the bytes of a file."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def stream_seed(stream: str, *keys: object) -> int:
    """Return the seed of a named random stream, a number below 2⁶³.

    Streams of different names or keys are independent, so drawing more from one shifts no other.
    """
    text = "|".join([stream, *map(str, keys)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


@cache
def source_digest(*modules: str) -> str:
    """Return what stands for the code of some modules of this package and all that they import.

    Imports are followed inside the package, and inside those of the modules that are given, which
    may be plugins. Comments, docstrings and formatting do not count.

    Parameters
    ----------
    modules
        Dotted names; the part after a colon ("module:attribute") is ignored.
    """
    waiting = [module.partition(":")[0] for module in modules]
    roots = frozenset({PACKAGE, *(name.split(".")[0] for name in waiting)})
    seen: dict[str, str] = {}
    while waiting:
        name = waiting.pop()
        if name in seen or name in RESOLVED:
            continue
        seen[name], imported = _code(name)
        imported = [each for each in imported if _is_own(each, roots)]
        parents = [name.rsplit(".", level)[0] for level in range(1, name.count(".") + 1)]
        waiting.extend([*imported, *parents])
    return digest(seen)


@cache
def environment() -> dict[str, str]:
    """Return the versions that a result depends on."""
    packages = ("torch", "timm", "numpy", "scipy")
    return {
        "attrreg": version(PACKAGE),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "system": platform.system(),
        **{package: version(package) for package in packages},
    }


@cache
def _code(module: str) -> tuple[str, list[str]]:
    """Return the digest of one file's code and the names of all that it imports."""
    tree = ast.parse(_file(module).read_text())
    imported: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = _absolute(module, node)
            imported.add(source)
            imported.update(f"{source}.{alias.name}" for alias in node.names)
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [each for each in body if not _is_text(each)]  # type: ignore[attr-defined]
    text = hashlib.sha256(ast.dump(tree).encode()).hexdigest()
    return text, sorted(imported)


def _absolute(module: str, node: ast.ImportFrom) -> str:
    """Return the full name of what is imported from, also where it is given relatively."""
    if node.level == 0:
        return node.module or ""
    package = module if _file(module).name == "__init__.py" else module.rpartition(".")[0]
    parts = package.split(".")
    base = parts[: len(parts) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])


def _is_text(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


@cache
def _is_own(name: str, roots: frozenset[str]) -> bool:
    return name.split(".", maxsplit=1)[0] in roots and _path(name) is not None


def _file(module: str) -> Path:
    path = _path(module)
    if path is None:
        raise ModuleNotFoundError(f"no module {module!r} to take the source digest of")
    return path


@cache
def _path(module: str) -> Path | None:
    """Return the file of a module without importing it."""
    top, *below = module.split(".")
    found = find_spec(top)
    if found is None:
        raise ModuleNotFoundError(f"package {top!r} is not installed")
    if not found.submodule_search_locations:
        return None if below or found.origin is None else Path(found.origin)
    base = Path(found.submodule_search_locations[0]).joinpath(*below)
    for path in (base / "__init__.py", base.with_suffix(".py")):
        if path.is_file():
            return path
    return None
