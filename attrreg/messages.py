"""What is wrong with a file, in one line for its author, who knows YAML and not pydantic."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from attrreg import catalogue

__all__ = ["explain"]

Models = Mapping[type[BaseModel], type[BaseModel]]

MAPPING = "it must be a mapping of keys to values"
PLAIN = {
    "dict_type": MAPPING,
    "model_type": MAPPING,
    "model_attributes_type": MAPPING,
    "string_type": "it must be text",
    "int_type": "it must be a whole number",
    "int_parsing": "it must be a whole number",
    "int_from_float": "it must be a whole number",
    "float_type": "it must be a number",
    "float_parsing": "it must be a number",
    "finite_number": "it must be a finite number",
    "list_type": "it must be a list",
    "tuple_type": "it must be a list",
    "too_short": "it must have {min_length} or more entries",
    "too_long": "it must have {max_length} entries",
    "invalid_key": "a key must be text",
    "union_tag_not_found": "it must have the key {discriminator}",
    "string_pattern_mismatch": "it must begin with a letter or digit and hold only letters, "
    "digits, '.', '_' and '-'",
}


def explain(error: ValidationError, content: Any, root: type[BaseModel], checked_as: Models) -> str:
    """Put what is wrong first into one line: the key, what was found, and what is allowed.

    Parameters
    ----------
    error
        From the validation of the content.
    content
        What the file holds.
    root
        The model of the whole file.
    checked_as
        The model by which what lies in another is really checked, where that is not itself.
    """
    order = {"extra_forbidden": 0, "missing": 2}  # a misspelt key is also missing
    details = error.errors(include_url=False)
    detail = min(details, key=lambda each: order.get(each["type"], 1))
    place = _place(detail, content)
    said = (
        catalogue.unknown(
            "key", str(detail["loc"][-1]), _allowed_keys(detail["loc"], root, checked_as)
        )
        if detail["type"] == "extra_forbidden"
        else _sentence(detail)
    )
    return f"{place}: {said}" if place else said


def _sentence(detail: Any) -> str:
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "missing":
        return "is missing; it must be given"
    if kind == "value_error":
        return str(detail["msg"].removeprefix("Value error, "))
    if kind == "literal_error":
        expected = context["expected"].replace(" or ", ", ").split(", ")
        return catalogue.unknown("value", str(value), [each.strip("'") for each in expected])
    if kind == "union_tag_invalid":
        expected = context["expected_tags"].split(", ")
        return catalogue.unknown("name", context["tag"], [each.strip("'") for each in expected])
    message = PLAIN.get(kind, detail["msg"]).format(**context)
    if message == MAPPING and detail["loc"][-1:] == ("mapping",):
        message = message.replace("be a", "be a name or a")
    return f"found {_shorten(value)}; {message.replace('Input should', 'it must')}"


def _place(detail: Any, content: Any) -> str:
    """Write a location as a path in the file; the names of union branches are not in the file."""
    text = ""
    for step in detail["loc"]:
        if isinstance(content, list) and isinstance(step, int):
            text += f"[{step}]"
        elif isinstance(content, dict) and step in content:
            text += f".{step}"
        else:
            continue
        content = content[step]
    if detail["type"] == "missing":
        text += f".{detail['loc'][-1]}"
    return text.removeprefix(".")


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _allowed_keys(
    location: tuple[Any, ...], root: type[BaseModel], checked_as: Models
) -> list[str]:
    """Return the keys that may stand where the last one of a location stands."""
    models = [root]
    for step in location[:-1]:
        fields = [checked_as.get(each, each).model_fields for each in models]
        below = [model for each in fields if step in each for model in _models_in(each[step])]
        models = below or [each for each in models if _is_branch(each, step)] or models
    return list(dict.fromkeys(key for model in models for key in model.model_fields))


def _is_branch(model: type[BaseModel], step: Any) -> bool:
    """Whether a step of a location names this branch of a union."""
    return "name" in model.model_fields and model.model_fields["name"].default == step


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    annotation = getattr(annotation, "annotation", annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in getattr(annotation, "__args__", ()) for model in _models_in(part)]
