"""Archives that can be trusted: in place with the declared digest, or not there at all.

What arrives is kept in ``.<name>.partial``, where a cut or killed transfer goes on. It comes into
place, by rename, when its digest is right. ``.<name>.verified.json`` says of which file, by size
and time, that was found, so that large files are not read again at every start.
"""

import logging
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote, urlsplit

from attrreg.data.archives import (
    Report,
    alone,
    digest_of,
    is_complete,
    remember,
    silent,
)
from attrreg.data.transfer import (
    FULL,
    NotFetched,
    Partial,
    Patience,
    advice,
    digest,
    no_space,
    transfer,
)
from attrreg.entries import Archive
from attrreg.files import remove_partial, writing

__all__ = ["NotFetched", "Patience", "bring", "fetch", "fetch_all"]

DIGEST = re.compile(r"(sha256:[0-9a-f]{64}|md5:[0-9a-f]{32})")

log = logging.getLogger(__name__)


PATIENT = Patience()


def fetch(
    archive: Archive,
    folder: Path,
    *,
    dataset: str = "<name>",
    offline: bool = False,
    report: Report = silent,
    patience: Patience = PATIENT,
) -> Path:
    """Return the path of an archive with the declared digest, fetched if it is not there.

    Parameters
    ----------
    archive
        Its mirrors are tried in order, that of ATTRREG_MIRROR before them.
    folder
        Where it lies, or will.
    dataset
        To which it belongs, for messages.
    offline
        Fetch nothing; so does ATTRREG_OFFLINE=1.
    report
        Told the stage, the bytes done and those in all, 0 where nobody knows.
    patience
        How long a mirror is tried.

    Raises
    ------
    NotFetched
        No mirror gave it, or nothing may be fetched.
    OSError
        The disk is full.
    """
    only = fetch_all(dataset, [archive], folder, offline=offline, report=report, patience=patience)
    return only[archive.name]


def fetch_all(
    dataset: str,
    archives: Sequence[Archive],
    folder: Path,
    *,
    offline: bool = False,
    report: Report = silent,
    patience: Patience = PATIENT,
) -> dict[str, Path]:
    """Return the paths of all archives of a dataset by name; as `fetch`, which see."""
    for archive in archives:
        _check(archive)
    sources = {archive.name: _mirrors(archive) for archive in archives}
    offline = offline or os.environ.get("ATTRREG_OFFLINE", "").lower() in ("1", "true", "yes")
    missing = [each for each in archives if not is_complete(each, folder / each.name, report)]
    by_hand = [archive for archive in missing if offline or not sources[archive.name]]
    if by_hand:
        reason = "nothing is fetched offline" if offline else "nothing says where to fetch them"
        lines = [_wanted(archive, folder / archive.name) for archive in by_hand]
        raise NotFetched(
            "\n".join([f"archives of {dataset} are missing, {reason}:", *lines, advice(dataset)])
        )
    for archive in missing:
        transfer(dataset, archive, sources[archive.name], folder / archive.name, report, patience)
    return {archive.name: folder / archive.name for archive in archives}


def bring(
    dataset: str,
    archives: Sequence[Archive],
    folder: Path,
    given: Sequence[Path],
    report: Report = silent,
) -> dict[str, Path]:
    """Copy archives of a dataset that lie on this machine to their place; return them by name.

    Parameters
    ----------
    given
        Files, recognised by name or else by digest, or folders with files of the archives' names.

    Raises
    ------
    ValueError
        One of them is not what it should be. Nothing is copied then.
    """
    for archive in archives:
        _check(archive)
    chosen = {
        _recognised(dataset, archives, path, report): path
        for path in _given_files(dataset, archives, given)
    }
    for archive, path in chosen.items():
        _copy(archive, path, folder / archive.name, report)
    return {archive.name: folder / archive.name for archive in chosen}


def _check(archive: Archive) -> None:
    """Refuse an entry that cannot be trusted."""
    if not DIGEST.fullmatch(archive.digest):
        raise ValueError(
            f"archive {archive.name!r} has digest {archive.digest!r}: allowed are sha256:… and "
            "md5:… in lower-case hexadecimal"
        )
    if archive.name in ("", ".", "..") or Path(archive.name).name != archive.name:
        raise ValueError(f"archive {archive.name!r}: a name has no folders")


def _mirrors(archive: Archive) -> tuple[str, ...]:
    """Return where an archive can be had: a laboratory's own mirror first."""
    base = os.environ.get("ATTRREG_MIRROR", "")
    own = (f"{base.rstrip('/')}/{quote(archive.name)}",) if base else ()
    for url in (*own, *archive.urls):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            where = "ATTRREG_MIRROR" if url in own else f"a URL of archive {archive.name!r}"
            raise ValueError(f"{where} is not http(s)://<host>/… without a user's name")
    return own + archive.urls


def _wanted(archive: Archive, path: Path) -> str:
    size = "size unknown" if archive.size is None else f"{archive.size:,} bytes"
    urls = " or ".join(archive.urls) or "no URL"
    other = f"; {path} has another digest" if path.exists() else ""
    return f"  {archive.name}: {archive.digest}, {size}, from {urls}{other}"


def _given_files(
    dataset: str, archives: Sequence[Archive], given: Sequence[Path]
) -> Iterator[Path]:
    names = [archive.name for archive in archives]
    for path in given:
        inside = [path / name for name in names if (path / name).is_file()]
        if not (path.is_file() or path.is_dir()):
            raise FileNotFoundError(f"{path} (--from) is no file and no folder")
        if path.is_dir() and not inside:
            raise ValueError(f"{path} has no archive of {dataset}: they are {', '.join(names)}")
        yield from inside if path.is_dir() else [path]


def _recognised(dataset: str, archives: Sequence[Archive], path: Path, report: Report) -> Archive:
    """Return the archive that a file is: the one of its name, or else the one of its digest."""
    candidates = [archive for archive in archives if archive.name == path.name] or archives
    kinds = {archive.digest.partition(":")[0] for archive in candidates}
    found = [digest_of(path, kind, path.name, report) for kind in sorted(kinds)]
    for archive in candidates:
        if archive.digest in found:
            return archive
    declared = ", ".join(f"{archive.name} with {archive.digest}" for archive in candidates)
    raise ValueError(
        f"{path} has {' and '.join(found)}; {dataset} needs {declared}. Nothing is copied, and "
        "the file is as it was"
    )


def _copy(archive: Archive, path: Path, target: Path, report: Report) -> None:
    with alone(target, report):
        remove_partial(target)
        if not is_complete(archive, target, report):
            try:
                with writing(target) as temporary:
                    shutil.copyfile(path, temporary)
                    found = digest(archive, temporary, report)
                    if found != archive.digest:
                        raise ValueError(f"{path} changed while it was copied: it has {found}")
            except OSError as error:
                if error.errno in FULL:
                    kept = "nothing is kept"
                    raise no_space(
                        error, archive, target.parent, path.stat().st_size, kept
                    ) from error
                raise
            remember(archive, target)
        Partial(target, archive).discard()
