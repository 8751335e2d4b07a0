"""Errors for names that are not known, with the nearest one that is."""

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["check_choice"]


def check_choice(kind: str, found: str, allowed: Iterable[str], hint: str = "") -> None:
    """Raise a ValueError unless ``found`` is one of ``allowed``.

    Parameters
    ----------
    kind
        What the name stands for, such as ``"metric"``.
    found
        The name to check.
    allowed
        The names that are known.
    hint
        What else can be done, as a sentence; it ends the message.
    """
    names = sorted(allowed)
    if found in names:
        return
    nearest = get_close_matches(str(found), names, n=1)
    message = f"unknown {kind} {found!r}: known are {', '.join(names) or 'none'}"
    if nearest:
        message += f"; did you mean {nearest[0]!r}?"
    elif hint:
        message += "."
    raise ValueError(f"{message} {hint}".rstrip())
