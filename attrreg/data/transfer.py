"""One archive from its mirrors: resumed, checked, and in place by rename."""

import errno
import http.client
import logging
import os
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from attrreg.data.archives import Report, alone, digest_of, is_complete, read_note, remember
from attrreg.entries import Archive
from attrreg.files import write_json

__all__ = ["FULL", "NotFetched", "Partial", "Patience", "advice", "digest", "no_space", "transfer"]

CHUNK = 2**18  # bytes
HEAD = 1024  # bytes of a file by which a web page is recognised
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
PASSING = (408, 425, 429, 500, 502, 503, 504)  # answers after which the same request may succeed
PAGE = "answered with a web page, not the file: log-in or moved?"

log = logging.getLogger(__name__)


class NotFetched(RuntimeError):
    """An archive is missing and cannot be fetched."""


@dataclass(frozen=True)
class Patience:
    """How long a mirror is tried.

    Parameters
    ----------
    timeout
        Seconds without a connection or without a byte.
    attempts
        How many in a row may bring no further byte.
    first_wait, longest_wait
        Seconds between attempts: doubled each time, or what the server asks for, up to the longest.
    """

    timeout: float = 60.0
    attempts: int = 6
    first_wait: float = 1.0
    longest_wait: float = 60.0


def advice(dataset: str) -> str:
    """Say how archives are brought that cannot be fetched."""
    return f"get each by other means, then: attrreg prepare --dataset {dataset} --from <file>"


def digest(archive: Archive, path: Path, report: Report) -> str:
    """Return the digest of a file, of the kind that the archive declares."""
    return digest_of(path, archive.digest.partition(":")[0], archive.name, report)


def no_space(
    error: OSError, archive: Archive, folder: Path, total: int | None, kept: str
) -> OSError:
    """Return the error of a full disk: what is needed, what is free, and what is kept."""
    needed = f"{total:,} bytes" if total else "an unknown number of bytes"
    free = shutil.disk_usage(folder).free
    return OSError(
        error.errno,
        f"no space for {archive.name} in {folder} ({_said(error)}): it needs {needed}, "
        f"{free:,} are free; {kept}",
    )


class _Refused(Exception):
    """A mirror does not have the file; another may."""


class _Passing(Exception):
    """The same request may succeed later, after a wait in seconds that the server asks for."""

    def __init__(self, message: str, wait: float = 0.0) -> None:
        super().__init__(message)
        self.wait = wait


def transfer(
    dataset: str,
    archive: Archive,
    mirrors: Sequence[str],
    path: Path,
    report: Report,
    patience: Patience,
) -> None:
    """Bring an archive into place from the first mirror that has it; errors as in `fetch`."""
    partial = Partial(path, archive)
    failures = []
    with alone(path, report):
        if is_complete(archive, path, report):
            return
        unverified = "; its digest is the publisher's, nobody of this project has verified it"
        log.info("fetching %s%s", archive.name, "" if archive.verified else unverified)
        for url in mirrors:
            try:
                _from_mirror(url, archive, partial, report, patience)
                partial.put(path)
                remember(archive, path)
                return
            except _Refused as error:
                log.warning("%s: %s", url, error)
                failures.append(f"  {url}: {error}")
            except OSError as error:
                if error.errno in FULL:
                    raise partial.no_space(error) from error
                raise
    found = [f"{archive.name} cannot be fetched:", *failures, advice(dataset)]
    raise NotFetched("\n".join(found))


def _from_mirror(
    url: str, archive: Archive, partial: "Partial", report: Report, patience: Patience
) -> None:
    """Bring the partial file to its end, with the right digest; or raise what is in the way."""
    failed, furthest, anew = 0, partial.length(), False
    while True:
        try:
            at_once = _receive(url, archive, partial, report, patience)
        except _Passing as error:
            failed = 1 if partial.length() > furthest else failed + 1
            furthest = max(furthest, partial.length())
            if failed >= patience.attempts:
                raise _Refused(f"{error} ({failed} attempts without a further byte)") from error
            wait = min(
                max(patience.first_wait * 2 ** (failed - 1), error.wait), patience.longest_wait
            )
            log.info("%s: %s; again in %.0f s", url, error, wait)
            time.sleep(wait)
            continue
        found = digest(archive, partial.file, report)
        if found == archive.digest:
            return
        partial.discard()
        wrong = f"what came has {found}, declared is {archive.digest}; it is deleted"
        if at_once or anew:
            raise _Refused(wrong)
        # The older part may be what was wrong.
        log.warning("%s: %s and fetched anew", url, wrong)
        failed, furthest, anew = 0, 0, True


def _receive(
    url: str, archive: Archive, partial: "Partial", report: Report, patience: Patience
) -> bool:
    """Receive what is missing of a file; return whether all of it came in this one answer."""
    start = partial.length()
    if start and start == archive.size:
        return False
    with _open(_request(url, partial, start), patience) as response:
        if response.status == 416 and start and _total(response) == start:
            return False
        if response.status != 200 and not partial.continued_by(url, response, start):
            if not start:
                raise _Refused(f"answered HTTP {response.status} to a request for the whole file")
            response.close()
            partial.discard()
            return _receive(url, archive, partial, report, patience)
        if response.headers.get_content_type() in ("text/html", "application/xhtml+xml"):
            raise _Refused(PAGE)
        start = start if response.status == 206 else 0
        total = _total(response)
        if total is None:
            total = archive.size
        elif archive.size is not None and total > archive.size:
            page = _is_page(next(_chunks(response), b""))
            large = f"announces {total:,} bytes, {archive.size:,} are declared"
            raise _Refused(PAGE if page else large)
        if not start:
            partial.discard()
        partial.describe(url, response, total)
        try:
            done = _store(response, archive, partial, start, total or 0, report)
        except _Refused:
            partial.discard()
            raise
        if total is not None and done < total:
            raise _Passing(f"cut after {done:,} of {total:,} bytes")
        return not start


def _store(
    response: Any, archive: Archive, partial: "Partial", done: int, total: int, report: Report
) -> int:
    """Append an answer to the partial file; return how long that is then."""
    head = b"" if done == 0 else bytes(HEAD)
    with partial.file.open("ab") as file:
        for chunk in _chunks(response):
            done += len(chunk)
            if len(head) < HEAD:
                head += chunk[:HEAD]
                if _is_page(head):
                    raise _Refused(PAGE)
            if archive.size is not None and done > archive.size:
                raise _Refused(f"sent more than the {archive.size:,} bytes that are declared")
            file.write(chunk)
            report(f"fetching {archive.name}", done, total)
    return done


def _chunks(response: Any) -> Iterator[bytes]:
    try:
        while chunk := response.read1(CHUNK):  # `read` would lose what came before an error
            yield chunk
    except (OSError, http.client.HTTPException) as error:
        raise _Passing(_said(error)) from error


def _is_page(head: bytes) -> bool:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return text.startswith(b"<") and (b"<html" in text or b"<!doctype html" in text)


def _request(url: str, partial: "Partial", start: int) -> urllib.request.Request:
    headers = {"User-Agent": f"attrreg/{version('attrreg')}"}
    if start:
        headers["Range"] = f"bytes={start}-"
        note = read_note(partial.note)
        if note.get("url") == url and note.get("validator"):
            headers["If-Range"] = note["validator"]
    return urllib.request.Request(url, headers=headers)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow at most ten redirections, none of them twice, to http and https only."""

    max_redirections = 10
    max_repeats = 1

    def redirect_request(
        self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: Any
    ) -> Any:
        if urlsplit(newurl).scheme not in ("http", "https"):
            raise _Refused(f"redirects to {newurl}: only http and https are followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Verified(urllib.request.HTTPSHandler):
    """Verify certificates, whatever the defaults of this process were changed to."""

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        context = ssl.create_default_context()
        return self.do_open(http.client.HTTPSConnection, req, context=context)


def _open(request: urllib.request.Request, patience: Patience) -> Any:
    """Return the answer to a request: its status is 416 or one of success."""
    opener = urllib.request.OpenerDirector()  # `build_opener` would add file:, ftp: and data:
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        _Verified(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    try:
        return opener.open(request, timeout=patience.timeout)
    except urllib.error.HTTPError as error:
        if error.code == 416:
            return error
        error.close()
        said = f"HTTP {error.code} {_said(error.reason)}"
        if error.code in PASSING:
            raise _Passing(said, _asked_wait(error.headers.get("Retry-After", ""))) from error
        raise _Refused(said) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, http.client.InvalidURL | ValueError):  # certificates among these
            raise _Refused(_said(reason)) from error
        raise _Passing(_said(reason)) from error


def _said(error: object) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _asked_wait(text: str) -> float:
    """Return the seconds that a server asks to wait for, given as such or as a date."""
    if text.isdecimal():
        return float(text)
    try:
        return parsedate_to_datetime(text).timestamp() - time.time()
    except ValueError:
        return 0.0


def _total(response: Any) -> int | None:
    """Return how long the whole file is, if an answer with it or a part of it says so."""
    if response.status == 200:
        return response.length
    total = response.headers.get("Content-Range", "").rpartition("/")[2]
    return int(total) if total.isdigit() else None


def _validator(response: Any) -> str:
    """Return what stands for the state of a file on its server; weak tags cannot."""
    tag: str = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified", "")


class Partial:
    """What has arrived of an archive, and a note that says of which and from where."""

    def __init__(self, path: Path, archive: Archive) -> None:
        self.archive = archive
        self.file = path.with_name(f".{path.name}.partial")
        self.note = path.with_name(f".{path.name}.partial.json")

    def length(self) -> int:
        """Return how many bytes can be continued."""
        if read_note(self.note).get("digest") != self.archive.digest or not self.file.exists():
            return 0
        return self.file.stat().st_size

    def describe(self, url: str, response: Any, total: int | None) -> None:
        """Write down what comes, before it does."""
        continuable = response.status == 206 or response.headers.get("Accept-Ranges") == "bytes"
        note = {
            "digest": self.archive.digest,
            "url": url,
            "validator": _validator(response),
            "total": total,
            "continuable": continuable,
        }
        write_json(self.note, note)

    def continued_by(self, url: str, response: Any, start: int) -> bool:
        """Whether an answer is the part of the same file that begins where this one ends."""
        note, part = read_note(self.note), response.headers.get("Content-Range", "")
        known = note.get("validator") if note.get("url") == url else ""
        changed = known and _validator(response) not in ("", known)
        fits = response.status == 206 and start > 0 and part.startswith(f"bytes {start}-")
        return fits and not changed

    def discard(self) -> None:
        """Remove it."""
        self.file.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)

    def put(self, path: Path) -> None:
        """Let it take its place."""
        with self.file.open("rb") as file:
            os.fsync(file.fileno())
        self.file.replace(path)
        self.note.unlink(missing_ok=True)

    def no_space(self, error: OSError) -> OSError:
        """Return an error that says how much is needed; keep only what can be continued."""
        note, done = read_note(self.note), self.length()
        kept = f"the {done:,} bytes that came are kept in {self.file} and will be continued"
        if not note.get("continuable"):
            self.discard()
            kept = "what came is removed, for its server cannot continue it"
        return no_space(error, self.archive, self.file.parent, note.get("total"), kept)
