"""Weights from the Hugging Face hub: one file of safetensors, and which one it was."""

import os
from pathlib import Path
from typing import NamedTuple

from attrreg.provenance import file_digest

__all__ = ["Fetched", "fetch"]

HEXADECIMAL = frozenset("0123456789abcdef")


class Fetched(NamedTuple):
    """A file of a repository: where it lies, of which commit it is, ``sha256:…`` of its bytes."""

    path: Path
    revision: str
    digest: str


def fetch(repository: str, filename: str, revision: str | None, wanted: str) -> Fetched:
    """Return a file of a repository, from the cache or from the network.

    Parameters
    ----------
    repository, filename, revision
        As on the hub; without a revision, the newest.
    wanted
        What it is, for messages.

    Raises
    ------
    FileNotFoundError
        It is not in the cache, and there is no network or ATTRREG_OFFLINE or HF_HUB_OFFLINE is set.
    ValueError
        The repository has no such file, may not be read, or the file in the cache is damaged.
    """
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    )

    offline = _is_offline()
    try:
        path = download(repository, filename, revision, offline)
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError) as error:
        why = "nothing is fetched offline" if offline else "the hub cannot be reached"
        raise FileNotFoundError(
            f"{wanted}: {filename} of {repository} is not in the cache, and {why}. Where there is "
            f"a network: hf download {repository} {filename}, and bring the cache (HF_HOME); or "
            "give a file: weights: <path>.safetensors"
        ) from error
    except EntryNotFoundError as error:
        raise ValueError(
            f"{wanted}: {repository} has no {filename}, and other formats can execute code when "
            "they are read: choose another model, or convert a file that you trust and give it as "
            "weights: <path>.safetensors"
        ) from error
    except HfHubHTTPError as error:
        said = str(error).strip().partition("\n")[0]
        raise ValueError(f"{wanted}: {filename} of {repository} cannot be had: {said}") from error
    return Fetched(path, _commit(path), _checked_digest(path))


def download(repository: str, filename: str, revision: str | None, offline: bool) -> Path:
    """Return the path of a file in the hub's cache, as the hub's own client finds or fetches it."""
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(repository, filename, revision=revision, local_files_only=offline))


def _is_offline() -> bool:
    said = [os.environ.get(name, "") for name in ("ATTRREG_OFFLINE", "HF_HUB_OFFLINE")]
    return any(each.lower() in ("1", "true", "yes", "on") for each in said)


def _commit(path: Path) -> str:
    """Return the commit that a file of the cache is of: …/snapshots/<commit>/<file>."""
    parts = path.parts
    return parts[parts.index("snapshots") + 1] if "snapshots" in parts else ""


def _checked_digest(path: Path) -> str:
    """Return the digest of a file of the cache, whose name there is that digest."""
    found, name = file_digest(path), path.resolve().name
    is_digest = len(name) == 64 and HEXADECIMAL.issuperset(name)
    if is_digest and found != f"sha256:{name}":
        raise ValueError(
            f"{path} is damaged: its digest is {found}, the hub says sha256:{name}: remove it and "
            "fetch it again"
        )
    return found
