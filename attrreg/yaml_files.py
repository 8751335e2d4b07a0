"""Reading a YAML file that a person wrote: what is ambiguous in YAML is refused, not guessed."""

from pathlib import Path
from typing import Any

import yaml

__all__ = ["ConfigError", "UniqueKeys", "read_mapping"]


class ConfigError(ValueError):
    """An experiment file is wrong; the message is one line for its author."""


def read_mapping(path: Path) -> dict[str, Any]:
    """Return the mapping that a file holds, without its ``$schema``.

    Raises
    ------
    ConfigError
        There is no such file, it is no text, no YAML, empty, or something else than a mapping; a
        key stands twice; true or false stands in place of a number.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: there is no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as text ({error})") from error
    try:
        content = yaml.load(text, Loader=UniqueKeys)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}: is not valid YAML{line}: {error.problem}") from error
    except (yaml.YAMLError, ValueError, LookupError, RecursionError) as error:
        raise ConfigError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from error
    if content is None:
        raise ConfigError(f"{path}: is empty; configs/demo.yaml is an example to start from")
    if not isinstance(content, dict):
        raise ConfigError(
            f"{path}: holds a {type(content).__name__}, expected keys such as name, grid, recipe; "
            "configs/demo.yaml is an example to start from"
        )
    content.pop("$schema", None)
    truth = _misplaced_truth(content, "")
    if truth:
        raise ConfigError(f"{path}: {truth}")
    return content


# The keys that are true or false.
SWITCHES = ("nesterov", "flip", "detach_clean", "deterministic", "capture", "tuned", "log")


class UniqueKeys(yaml.SafeLoader):
    """The safe loader, which refuses a key that stands twice, and takes ``on`` for a word.

    YAML 1.1 reads ``on``, ``off``, ``yes`` and ``no`` as truth values; YAML 1.2 and editors do not.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [
            (tag, pattern)
            for tag, pattern in resolvers
            if tag != "tag:yaml.org,2002:bool" or first in "tTfF"
        ]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping, or raise where a key is repeated."""
        keys: list[Any] = []
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            keys.append(self.construct_object(key_node, deep=True))
            if keys.count(keys[-1]) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {keys[-1]!r} stands twice", key_node.start_mark
                )
        return super().construct_mapping(node, deep)


def _misplaced_truth(value: Any, place: str) -> str | None:
    """Say where true or false stands in place of a number or a name: Python counts with both."""
    if isinstance(value, dict):
        items = [
            (f"{place}.{key}" if place else str(key), key, each) for key, each in value.items()
        ]
    elif isinstance(value, list):
        items = [(f"{place}[{number}]", None, each) for number, each in enumerate(value)]
    else:
        return None
    for where, key, each in items:
        if isinstance(each, bool) and key not in SWITCHES:
            return f"{where}: found {each}; true and false are allowed for {', '.join(SWITCHES)}"
        found = None if key == "options" else _misplaced_truth(each, where)
        if found:
            return found
    return None
