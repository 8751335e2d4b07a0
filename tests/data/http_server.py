"""A real HTTP server on the loopback that answers as it is told, well or badly."""

import contextlib
import hashlib
import re
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Literal

__all__ = ["Answer", "Seen", "Server"]


@dataclass(frozen=True)
class Answer:
    """How a request is answered.

    Parameters
    ----------
    status, headers
        Of the answer; a header with the value "" is left out.
    body
        Instead of the file of this path.
    cut
        Bytes of the body after which the connection is closed.
    hold
        Bytes of the body after which nothing comes until the server's `release` is set.
    pace
        Bytes that are sent at once, with a pause of a millisecond after them.
    length
        How the end of the body is told: by its length, by chunks, or by the end of the connection.
    ranges
        Whether parts are given; otherwise it is always the whole file.
    if_range
        Whether ``If-Range`` is heeded.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    cut: int | None = None
    hold: int | None = None
    pace: int = 2**30
    length: Literal["given", "chunked", "unknown"] = "given"
    ranges: bool = True
    if_range: bool = True


@dataclass(frozen=True)
class Seen:
    """A request that came: its path, the headers that matter here, and when."""

    path: str
    range: str | None
    if_range: str | None
    agent: str | None
    time: float


class Server:
    """Serves files by path, each request as the next of the answers to its path says.

    The last answer to a path is given for ever. Use it as a context manager.
    """

    def __init__(self, files: Mapping[str, bytes], tls: ssl.SSLContext | None = None) -> None:
        self.files = dict(files)
        self.answers: dict[str, list[Answer]] = {}
        self.seen: list[Seen] = []
        self.release = threading.Event()
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"told": self})
        self._server = _Quiet(("127.0.0.1", 0), handler)
        self._scheme = "http"
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
            self._scheme = "https"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> "Server":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def url(self, name: str) -> str:
        """Return where a file is served."""
        return f"{self._scheme}://127.0.0.1:{self._server.server_address[1]}/{name}"

    def ranges(self, name: str) -> list[str | None]:
        """Return the ``Range`` header of every request for a file, in order."""
        return [each.range for each in self.seen if each.path == f"/{name}"]

    def answer(self, seen: Seen) -> Answer:
        """Note a request, and return how it is answered."""
        with self._lock:
            self.seen.append(seen)
            answers = self.answers.get(seen.path.removeprefix("/"), [Answer()])
            return answers.pop(0) if len(answers) > 1 else answers[0]


class _Quiet(ThreadingHTTPServer):
    """Says nothing of connections that are broken off."""

    def handle_error(self, request: object, client_address: object) -> None:
        pass


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    told: Server

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        asked = [self.headers.get(name) for name in ("Range", "If-Range", "User-Agent")]
        answer = self.told.answer(Seen(self.path, *asked, time.monotonic()))
        file = self.told.files.get(self.path.removeprefix("/"))
        body = answer.body if answer.body is not None else file
        status = answer.status
        headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
        if not answer.ranges:
            del headers["Accept-Ranges"]
        if body is None:
            status, body = (404 if status == 200 else status), b""
        headers["ETag"] = f'"{hashlib.md5(body).hexdigest()}"'
        headers |= answer.headers
        if status == 200 and answer.ranges and asked[0] and self._unchanged(answer, headers):
            start = int(re.fullmatch(r"bytes=(\d+)-", asked[0])[1])
            total, body, status = len(body), body[start:], 206
            headers = {"Content-Range": f"bytes {start}-{total - 1}/{total}"} | headers
            if start >= total:
                status, headers["Content-Range"] = 416, f"bytes */{total}"
        self.send_response(status)
        if answer.length == "given":
            headers.setdefault("Content-Length", str(len(body)))
        elif answer.length == "chunked":
            headers["Transfer-Encoding"] = "chunked"
        for name, value in (headers | {"Connection": "close"}).items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        self.close_connection = True
        with contextlib.suppress(OSError):
            self._send(answer, body)

    def _unchanged(self, answer: Answer, headers: Mapping[str, str]) -> bool:
        asked = self.headers.get("If-Range")
        known = (None, headers.get("ETag"), headers.get("Last-Modified"))
        return not answer.if_range or asked in known

    def _send(self, answer: Answer, body: bytes) -> None:
        for piece in _pieces(answer, body):
            if piece is None:
                self.wfile.flush()
                self.told.release.wait(30)
            elif answer.length == "chunked":
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            else:
                self.wfile.write(piece)
            if answer.pace < len(body):
                time.sleep(0.001)
        if answer.length == "chunked" and answer.cut is None:
            self.wfile.write(b"0\r\n\r\n")


def _pieces(answer: Answer, body: bytes) -> Iterator[memoryview | None]:
    """Yield what is sent at once, and None where the server waits."""
    view, done = memoryview(body)[: answer.cut], 0
    while done < len(view):
        if answer.hold is not None and done == answer.hold:
            yield None
        ends = [done + answer.pace, len(view)]
        if answer.hold is not None and done < answer.hold:
            ends.append(answer.hold)
        yield view[done : min(ends)]
        done = min(ends)
