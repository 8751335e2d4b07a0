"""Archives on this machine: whether one is what it should be, and how its members come out.

Nothing in an archive is believed: no member leaves the folder it is unpacked into, becomes a link
or a program, or fills the disk.
"""

import bz2
import errno
import gzip
import hashlib
import logging
import lzma
import os
import re
import shutil
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import filelock

from attrreg.entries import Archive
from attrreg.files import read_json, write_json

__all__ = [
    "Report",
    "alone",
    "digest_of",
    "gunzip",
    "is_complete",
    "read_note",
    "remember",
    "silent",
    "unpack",
]

Report = Callable[[str, int, int], None]

CHUNK = 2**20  # bytes that are in memory at once
DEEP = 100  # folders within each other
MEMBERS = 10_000_000
BEHIND = 16  # chunks that may follow the last member of a tar archive, which is padded
DRIVE = re.compile(r"[A-Za-z]:")
UNNAMEABLE = (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL)
SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")
READERS: dict[str, Callable[[Any], Any]] = {
    **{".gz": gzip.open, ".tgz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
}
DAMAGED = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(EOFError, ValueError, OverflowError, LookupError, NotImplementedError, RecursionError),
)

log = logging.getLogger(__name__)


def silent(stage: str, done: int, total: int) -> None:
    """Take a report and say nothing."""


def digest_of(path: Path, kind: str, name: str, report: Report = silent) -> str:
    """Return the digest of a file as it is declared: kind, colon, hexadecimal digits."""
    found, done, total = hashlib.new(kind, usedforsecurity=False), 0, path.stat().st_size
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            found.update(chunk)
            done += len(chunk)
            report(f"checking {name}", done, total)
    return f"{kind}:{found.hexdigest()}"


def is_complete(archive: Archive, path: Path, report: Report = silent) -> bool:
    """Whether a file is there and has the digest of an archive."""
    if not path.is_file():
        return False
    if read_note(_verified(path)) == _state(archive, path):
        return True
    found = digest_of(path, archive.digest.partition(":")[0], archive.name, report)
    if found != archive.digest:
        log.warning("%s has %s, declared is %s: it is not used", path, found, archive.digest)
        return False
    remember(archive, path)
    return True


def remember(archive: Archive, path: Path) -> None:
    """Write down that a file, as it is now, has the digest of an archive."""
    with suppress(OSError):  # a folder that others fill may be read-only
        write_json(_verified(path), _state(archive, path))


def read_note(path: Path) -> dict[str, Any]:
    """Read what was written down about a file; nothing if it cannot be read."""
    try:
        note = read_json(path)
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def _verified(path: Path) -> Path:
    return path.with_name(f".{path.name}.verified.json")


def _state(archive: Archive, path: Path) -> dict[str, Any]:
    found = path.stat()
    return {
        "digest": archive.digest,
        "size": found.st_size,
        "modified": found.st_mtime_ns,
    }


@contextmanager
def alone(path: Path, report: Report = silent) -> Iterator[None]:
    """Hold the lock of a file; say so if another process must be waited for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        log.info("waiting for another process that fetches %s", path.name)
        report(f"waiting for another process that fetches {path.name}", 0, 0)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


class _Unsafe(ValueError):
    """A member that is not unpacked, and nothing of the archive with it."""


@dataclass(frozen=True)
class _Member:
    """A member of an archive: ``kind`` is "file", "folder", or what else it is."""

    name: str
    kind: str
    size: int
    open: Callable[[], Any]


def unpack(
    path: Path,
    target: Path,
    limit: int,
    wanted: Callable[[str], bool] = lambda name: True,
    report: Report = silent,
) -> None:
    """Unpack a .tar, .tar.gz, .tgz, .tar.bz2, .tar.xz or .zip archive: whole, or not at all.

    Parameters
    ----------
    path
        The archive.
    target
        A folder that is not there yet, or is empty.
    limit
        Bytes that all members may have together, wanted or not.
    wanted
        From the name of a member, with "/" between folders, to whether it is unpacked.
    report
        Told the stage, and how much of the archive is read.

    Raises
    ------
    ValueError
        The archive is damaged, has more than `limit` bytes, or a member that could do harm: one
        outside of its folder, of a name that was there before, a link, a device, an encrypted one.
    """
    name = path.name.lower()
    if not name.endswith(SUFFIXES):
        raise ValueError(f"{path} is no archive that can be unpacked: allowed are {SUFFIXES}")
    members = _zip_members if name.endswith(".zip") else _tar_members
    with _naming(path), _new_folder(target) as folder, closing(members(path, report)) as found:
        total = 0
        for number, member in enumerate(found):
            place = _safe_name(member, path)
            total += member.size
            if total > limit or number == MEMBERS:
                most = f"{limit:,} bytes" if total > limit else f"{MEMBERS:,} members"
                raise _Unsafe(f"{path} holds more than the {most} that are allowed")
            if place and wanted(place):
                _write(member, folder / place, path)


def gunzip(path: Path, limit: int) -> bytes:
    """Return what a .gz file holds.

    Raises
    ------
    ValueError
        It is no such file, is damaged, or holds more than `limit` bytes.
    """
    with _naming(path), path.open("rb") as file:
        start = file.read(2)
        if start != b"\x1f\x8b":
            raise _Unsafe(f"{path} is not compressed by gzip: it begins with {start!r}")
        file.seek(0)
        found = bytearray()
        with gzip.open(file) as stream:
            while chunk := stream.read(CHUNK):
                found += chunk
                if len(found) > limit:
                    raise _Unsafe(f"{path} holds more than the {limit:,} bytes that are allowed")
    return bytes(found)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn what readers of damaged archives raise into an error that names the archive."""
    try:
        yield
    except _Unsafe:
        raise
    except (*DAMAGED, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise ValueError(
            f"{path} is damaged or cut short ({error or type(error).__name__}): delete it and "
            "prepare the dataset again"
        ) from error


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """Give a temporary folder beside `target` that takes its place if nothing is raised.

    It is named so that `remove_partial` finds what a killed process left.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise _Unsafe(f"{target} is there already: unpack into a folder that is not, or is empty")
    target.parent.mkdir(parents=True, exist_ok=True)
    stem = target.name.removeprefix(".").removesuffix(".partial")
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{stem}-", suffix=".partial"))
    try:
        yield temporary
        temporary.chmod(0o755)
        temporary.replace(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _safe_name(member: _Member, path: Path) -> str:
    """Return the name of a member without empty parts; "" for the folder itself."""
    parts = [part for part in member.name.split("/") if part not in ("", ".")]
    name = "/".join(parts)
    if member.name.startswith("/") or ".." in parts or DRIVE.match(name):
        raise _Unsafe(f"{path}: member {member.name!r} would lie outside of its folder")
    if "\\" in name or "\0" in name or len(parts) > DEEP or not (name or member.kind == "folder"):
        raise _Unsafe(f"{path}: member {member.name!r} has a name that is not allowed")
    if member.size < 0:
        raise ValueError(f"member {name!r} has {member.size} bytes")
    return name


def _write(member: _Member, place: Path, path: Path) -> None:
    """Write a folder, or a file that was not there before."""
    if member.kind not in ("file", "folder"):
        raise _Unsafe(f"{path}: member {member.name!r} is {member.kind}, which is not unpacked")
    try:
        (place if member.kind == "folder" else place.parent).mkdir(parents=True, exist_ok=True)
        if member.kind == "folder":
            return
        handle = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except (FileExistsError, NotADirectoryError) as error:
        raise _Unsafe(f"{path}: member {member.name!r} has the name of another") from error
    except (OSError, UnicodeError) as error:
        if isinstance(error, OSError) and error.errno not in UNNAMEABLE:
            raise
        raise _Unsafe(f"{path}: member {member.name!r} cannot be written: {error}") from error
    done = 0
    with os.fdopen(handle, "wb") as file, member.open() as source:
        while done <= member.size and (chunk := source.read(CHUNK)):
            done += file.write(chunk)
    if done != member.size:
        raise ValueError(f"member {member.name!r} is not as long as it says, {member.size:,} bytes")


def _zip_members(path: Path, report: Report) -> Generator[_Member, None, None]:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        for number, each in enumerate(members):
            report(f"unpacking {path.name}", number, len(members))
            opened = partial(archive.open, each)
            yield _Member(each.orig_filename, _zip_kind(each), each.file_size, opened)


def _zip_kind(member: zipfile.ZipInfo) -> str:
    mode = stat.S_IFMT(member.external_attr >> 16)
    if mode not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "a symbolic link" if mode == stat.S_IFLNK else "a device or a pipe"
    if member.is_dir():
        return "folder"
    if member.flag_bits & 0x41:
        return "encrypted"
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        # The other readers of zipfile put no bound on what one read may become in memory.
        return f"compressed in an unusual way ({member.compress_type})"
    return "file"


class _Stream:
    """What tarfile reads from: no header may fill the memory, and the last read is kept."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream, self.last = stream, b""

    def read(self, size: int) -> bytes:
        if size > CHUNK:
            raise ValueError(f"a header of {size:,} bytes")
        self.last = self.stream.read(size)
        return self.last

    def seek(self, place: int) -> None:
        self.stream.seek(place)

    def tell(self) -> int:
        return self.stream.tell()


def _tar_members(path: Path, report: Report) -> Generator[_Member, None, None]:
    size, suffix = path.stat().st_size, path.suffix.lower()
    with path.open("rb") as file, READERS.get(suffix, nullcontext)(file) as opened:
        stream: Any = _Stream(opened)
        reader: Any = tarfile.TarFile(fileobj=stream)
        with reader as archive:
            while (each := archive.next()) is not None:
                archive.members = []  # or it would keep them all
                report(f"unpacking {path.name}", file.tell(), size)
                opener = partial(archive.extractfile, each)
                yield _Member(each.name, _tar_kind(each), each.size, opener)
        # tarfile takes a damaged header for the end.
        if stream.last != bytes(tarfile.BLOCKSIZE):
            raise ValueError("it ends without an end mark")
        for _ in range(BEHIND):
            if not opened.read(CHUNK):
                return
        raise ValueError("more follows its end mark")


def _tar_kind(member: tarfile.TarInfo) -> str:
    kinds = {
        "file": member.isreg(),
        "folder": member.isdir(),
        "a symbolic link": member.issym(),
        "a hard link": member.islnk(),
        "a named pipe": member.isfifo(),
        "a device": member.isdev(),
    }
    return next((kind for kind, true in kinds.items() if true), "of an unknown type")
