"""What is fetched is whole and has the declared digest, or is not there, whatever a server does."""

import dataclasses
import hashlib
import json
import logging
import os
import random
import shutil
import signal
import ssl
import subprocess
import sys
import time
import tracemalloc
from email.utils import formatdate
from itertools import pairwise

import pytest
from http_server import Answer, Server

from attrreg.data.fetch import NotFetched, Patience, bring, fetch, fetch_all
from attrreg.entries import Archive

CONTENT = random.Random(0).randbytes(100_000)
OTHER = random.Random(1).randbytes(100_000)
PAGE = b"\n <!DOCTYPE html>\n<html><body>Please log in</body></html>"
QUICK = Patience(timeout=5, attempts=3, first_wait=0.01, longest_wait=0.02)
HALF = Answer(cut=50_000)
NAME = "a.tar.gz"

CHILD = """
import json, logging, resource, sys
from pathlib import Path
from attrreg.data.fetch import Patience, fetch
from attrreg.entries import Archive
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
entry, folder = json.loads(sys.argv[1]), Path(sys.argv[2])
patience = Patience(timeout=20, attempts=1)
def report(stage, done, total):
    print(stage, done, flush=True)
fetch(Archive(**entry | {"urls": tuple(entry["urls"])}), folder, report=report, patience=patience)
"""


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    for name in ("ATTRREG_OFFLINE", "ATTRREG_MIRROR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server():
    with Server({NAME: CONTENT, "b.zip": OTHER}) as server:
        yield server


def sha256(content):
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def declared(*urls, content=CONTENT, **changes):
    known = {"name": NAME, "digest": sha256(content), "verified": True} | changes
    return Archive(urls=urls, **known)


def get(archive, folder, **options):
    return fetch(archive, folder, **{"patience": QUICK} | options)


def visible(folder):
    """Return what lies in a folder, without locks and notes about verified files."""
    names = sorted(path.name for path in folder.iterdir())
    return [name for name in names if not name.endswith((".lock", ".verified.json"))]


def failure(archive, folder, **options):
    """Return why an archive is not fetched; nothing of it is in its place."""
    with pytest.raises(NotFetched) as error:
        get(archive, folder, **options)
    assert not (folder / archive.name).exists()
    return str(error.value)


def wait_for(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.005)
    raise AssertionError("what the test waits for did not happen")


def start(archive, folder, largest=-1):
    """Start a process that fetches an archive, and may write files up to a number of bytes."""
    entry = json.dumps(dataclasses.asdict(archive))
    command = [sys.executable, "-c", CHILD, entry, str(folder), str(largest)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, text=True, **streams)


def test_a_file_comes_whole_and_leaves_nothing_beside_it(server, tmp_path):
    path = get(declared(server.url(NAME)), tmp_path / "below")
    assert path == tmp_path / "below" / NAME
    assert path.read_bytes() == CONTENT
    assert visible(path.parent) == [NAME]
    assert [each.agent.split("/")[0] for each in server.seen] == ["attrreg"]


def test_a_file_that_is_there_is_not_fetched_again(server, tmp_path):
    archive = declared(server.url(NAME))
    for _ in range(3):
        get(archive, tmp_path)
    assert len(server.seen) == 1


def test_a_file_from_elsewhere_is_used_if_its_digest_is_right(server, tmp_path):
    (tmp_path / NAME).write_bytes(CONTENT)
    get(declared(server.url(NAME)), tmp_path)
    assert server.seen == []


def test_a_file_that_was_changed_since_is_fetched_again(server, tmp_path, caplog):
    archive = declared(server.url(NAME))
    path = get(archive, tmp_path)
    path.write_bytes(OTHER)
    os.utime(path, ns=(1, 1))
    assert get(archive, tmp_path).read_bytes() == CONTENT
    assert len(server.seen) == 2
    for digest in (sha256(OTHER), archive.digest):
        assert digest in caplog.text


def test_the_digest_of_an_unchanged_file_is_not_computed_again(server, tmp_path):
    archive = declared(server.url(NAME))
    path = get(archive, tmp_path)
    stages = []
    get(archive, tmp_path, report=lambda stage, done, total: stages.append(stage))
    assert stages == []
    (path.parent / f".{NAME}.verified.json").write_text("{")
    get(archive, tmp_path, report=lambda stage, done, total: stages.append(stage))
    assert set(stages) == {f"checking {NAME}"}
    assert len(server.seen) == 1


def test_md5_digests_count_as_well(server, tmp_path):
    right, wrong = (f"md5:{hashlib.md5(each).hexdigest()}" for each in (CONTENT, OTHER))
    assert wrong in failure(declared(server.url(NAME), digest=wrong), tmp_path)
    assert get(declared(server.url(NAME), digest=right), tmp_path).read_bytes() == CONTENT


def test_progress_grows_to_the_whole_length(server, tmp_path):
    server.answers[NAME] = [Answer(cut=50_000, pace=9_000), Answer(pace=9_000)]
    told = []
    get(declared(server.url(NAME)), tmp_path, report=lambda *each: told.append(each))
    fetched = [each for each in told if each[0] == f"fetching {NAME}"]
    assert len(fetched) > 1
    assert [done for _, done, _ in fetched] == sorted({done for _, done, _ in fetched})
    assert fetched[-1][1:] == (len(CONTENT), len(CONTENT))
    assert {total for _, _, total in fetched} == {len(CONTENT)}


def test_a_large_file_needs_little_memory(tmp_path):
    large = bytes(24_000_000)
    with Server({NAME: large}) as server:
        tracemalloc.start()
        path = get(declared(server.url(NAME), content=large), tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert path.stat().st_size == len(large)
    assert peak < 8_000_000


@pytest.mark.parametrize("length", ["given", "chunked", "unknown"])
def test_a_cut_connection_is_continued_where_it_was_cut(server, tmp_path, length):
    server.answers[NAME] = [Answer(cut=50_000, length=length), Answer(length=length)]
    archive = declared(server.url(NAME), size=len(CONTENT))
    assert get(archive, tmp_path).read_bytes() == CONTENT
    assert server.ranges(NAME) == [None, "bytes=50000-"]
    assert server.seen[1].if_range == f'"{hashlib.md5(CONTENT).hexdigest()}"'


def test_a_body_shorter_than_announced_is_a_cut_even_if_its_digest_is_right(server, tmp_path):
    server.answers[NAME] = [Answer(headers={"Content-Length": "100001"}, ranges=False)]
    assert "cut after 100,000 of 100,001 bytes" in failure(declared(server.url(NAME)), tmp_path)


def test_attempts_that_bring_something_do_not_count(server, tmp_path):
    server.answers[NAME] = [Answer(cut=9_000)]
    patience = dataclasses.replace(QUICK, attempts=2)
    assert get(declared(server.url(NAME)), tmp_path, patience=patience).read_bytes() == CONTENT
    assert len(server.seen) == 12


def test_a_server_that_always_starts_anew_is_given_up(server, tmp_path):
    server.answers[NAME] = [Answer(cut=50_000, ranges=False)]
    text = failure(declared(server.url(NAME)), tmp_path)
    assert "cut after 50,000 of 100,000 bytes (3 attempts" in text
    assert server.ranges(NAME) == [None, *["bytes=50000-"] * 2]


@pytest.mark.parametrize(
    ("second", "requests"),
    [
        (Answer(ranges=False), 2),
        (Answer(headers={"ETag": '"changed"'}), 2),
        (Answer(headers={"ETag": '"changed"'}, if_range=False), 3),
        (Answer(headers={"Content-Range": "bytes 49999-99999/100000"}), 3),
        (Answer(headers={"Content-Range": ""}), 3),
        (Answer(status=416, headers={"Content-Range": "bytes */20"}, body=b""), 3),
        (Answer(status=416, body=b""), 3),
    ],
    ids=["whole", "changed", "unheeded", "other part", "no part", "shorter", "refused"],
)
def test_what_does_not_continue_a_file_begins_it_anew(server, tmp_path, second, requests):
    server.answers[NAME] = [HALF, second, Answer()]
    archive = declared(server.url(NAME))
    assert get(archive, tmp_path).read_bytes() == CONTENT
    assert server.ranges(NAME) == [None, "bytes=50000-", None][:requests]
    assert visible(tmp_path) == [NAME]


def test_a_weak_tag_does_not_stand_for_a_state_but_a_date_does(server, tmp_path):
    date = formatdate(0, usegmt=True)
    headers = {"ETag": 'W/"weak"', "Last-Modified": date}
    server.answers[NAME] = [Answer(cut=50_000, headers=headers), Answer(headers=headers)]
    assert get(declared(server.url(NAME)), tmp_path).read_bytes() == CONTENT
    assert server.ranges(NAME) == [None, "bytes=50000-"]
    assert server.seen[1].if_range == date


def test_a_part_where_the_whole_was_asked_for_is_refused(server, tmp_path):
    server.answers[NAME] = [Answer(status=206, headers={"Content-Range": "bytes 0-9/100000"})]
    assert "HTTP 206 to a request for the whole" in failure(declared(server.url(NAME)), tmp_path)


def test_another_mirror_continues_what_the_first_began(server, tmp_path):
    server.files["second"] = CONTENT
    server.answers[NAME] = [HALF, Answer(status=404)]
    assert get(declared(server.url(NAME), server.url("second")), tmp_path).read_bytes() == CONTENT
    assert server.ranges("second") == ["bytes=50000-"]
    assert server.seen[-1].if_range is None


def test_what_began_as_another_file_is_not_continued(server, tmp_path):
    server.answers["b.zip"] = [HALF, Answer(status=404)]
    failure(declared(server.url("b.zip"), content=OTHER), tmp_path)
    assert get(declared(server.url(NAME)), tmp_path).read_bytes() == CONTENT
    assert server.ranges(NAME) == [None]


@pytest.mark.parametrize("size", [None, len(CONTENT)])
def test_a_process_killed_after_the_last_byte_needs_no_other(server, tmp_path, size):
    begun(server, declared(server.url(NAME), size=size), tmp_path, CONTENT)
    assert get(declared(server.url(NAME), size=size), tmp_path).read_bytes() == CONTENT
    assert server.ranges(NAME) == (["bytes=100000-"] if size is None else [])


def begun(server, archive, folder, content):
    """Leave some bytes as those that have arrived of an archive."""
    server.answers[NAME] = [HALF, Answer(status=404)]
    failure(archive, folder)
    (folder / f".{NAME}.partial").write_bytes(content)
    del server.answers[NAME]
    server.seen.clear()


@pytest.mark.parametrize("wrong", [OTHER[:50_000], OTHER, CONTENT + b"more"])
def test_a_wrong_beginning_is_fetched_anew_from_the_same_mirror(server, tmp_path, wrong, caplog):
    archive = declared(server.url(NAME), size=len(CONTENT))
    begun(server, archive, tmp_path, wrong)
    assert get(archive, tmp_path).read_bytes() == CONTENT
    assert server.ranges(NAME)[-1] is None
    assert len(server.seen) <= 2


def test_a_mirror_that_is_wrong_again_is_left_for_the_next(server, tmp_path, caplog):
    archive = declared(server.url(NAME), server.url("second"))
    begun(server, archive, tmp_path, CONTENT[:50_000])
    server.files |= {NAME: OTHER, "second": CONTENT}
    server.answers[NAME] = [Answer(if_range=False, headers={"ETag": ""})]
    assert get(archive, tmp_path).read_bytes() == CONTENT
    assert server.ranges(NAME) == ["bytes=50000-", None]
    assert f"{server.url(NAME)}: what came has {sha256(OTHER)}" in caplog.text


def test_a_wrong_file_in_pieces_is_fetched_anew_only_once(server, tmp_path):
    server.files[NAME] = OTHER
    server.answers[NAME] = [HALF]
    assert sha256(OTHER) in failure(declared(server.url(NAME)), tmp_path)
    assert server.ranges(NAME) == [None, "bytes=50000-"] * 2


def test_a_wrong_digest_is_named_with_both_and_the_file_is_deleted(server, tmp_path, caplog):
    server.files[NAME] = OTHER
    text = failure(declared(server.url(NAME)), tmp_path)
    for said in (text, caplog.text):
        assert f"what came has {sha256(OTHER)}, declared is {sha256(CONTENT)}" in said
        assert "deleted" in said
    assert visible(tmp_path) == []
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    "page",
    [
        Answer(body=PAGE, headers={"Content-Type": "text/html; charset=utf-8"}),
        Answer(body=b"Please log in", headers={"Content-Type": "text/html"}),
        Answer(body=PAGE),
        Answer(body=PAGE, pace=1),
        Answer(body=b"\xef\xbb\xbf" + PAGE, length="chunked"),
        Answer(body=b'<?xml version="1.0"?><html>' + bytes(5000), length="unknown"),
    ],
    ids=["page", "type", "doctype", "slowly", "with mark", "xhtml"],
)
def test_a_web_page_is_recognised_and_the_next_mirror_tried(server, tmp_path, page):
    server.answers["page"] = [page]
    text = failure(declared(server.url("page"), size=len(CONTENT)), tmp_path)
    assert f"{server.url('page')}: answered with a web page, not the file" in text
    assert visible(tmp_path) == []
    good = declared(server.url("page"), server.url(NAME))
    assert get(good, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("size", [None, 20])
def test_a_web_page_is_recognised_whatever_the_size_that_is_declared(server, tmp_path, size):
    server.answers[NAME] = [Answer(body=PAGE)]
    assert "a web page" in failure(declared(server.url(NAME), size=size), tmp_path)


def test_a_file_that_mentions_html_is_no_web_page(tmp_path):
    for content in (b"a list of <html> tags", b"<svg>" + bytes(2000) + b"<html>"):
        with Server({NAME: content}) as server:
            path = get(declared(server.url(NAME), content=content), tmp_path)
        assert path.read_bytes() == content


@pytest.mark.parametrize("length", ["given", "chunked", "unknown"])
def test_more_bytes_than_declared_are_refused(server, tmp_path, length):
    server.answers[NAME] = [Answer(length=length, pace=1000)]
    text = failure(declared(server.url(NAME), size=5_000), tmp_path)
    assert "5,000" in text
    assert ("announces 100,000 bytes" in text) == (length == "given")
    assert visible(tmp_path) == []
    assert len(server.seen) == 1


def test_bytes_behind_the_announced_length_are_not_taken(server, tmp_path):
    length = {"Content-Length": str(len(CONTENT))}
    server.answers[NAME] = [Answer(body=CONTENT + b"more", headers=length)]
    assert get(declared(server.url(NAME)), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_a_refusal_is_not_asked_for_again(server, tmp_path, status):
    server.answers[NAME] = [Answer(status=status)]
    assert f"HTTP {status} " in failure(declared(server.url(NAME)), tmp_path)
    assert len(server.seen) == 1


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_passing_failure_is_asked_for_again(server, tmp_path, status):
    server.answers[NAME] = [Answer(status=status)] * 2 + [Answer()]
    assert get(declared(server.url(NAME)), tmp_path).read_bytes() == CONTENT
    server.answers["b.zip"] = [Answer(status=status)]
    text = failure(declared(server.url("b.zip"), name="b.zip"), tmp_path)
    assert f"HTTP {status} " in text
    assert "3 attempts" in text
    assert len(server.seen) == 6


def gaps(server):
    times = [each.time for each in server.seen]
    return [later - earlier for earlier, later in pairwise(times)]


def test_waits_between_attempts_double_up_to_the_longest(server, tmp_path):
    server.answers[NAME] = [Answer(status=503)]
    patience = Patience(attempts=5, first_wait=0.04, longest_wait=0.16)
    failure(declared(server.url(NAME)), tmp_path, patience=patience)
    assert all(
        gap >= wait for gap, wait in zip(gaps(server), (0.04, 0.08, 0.16, 0.16), strict=True)
    )
    assert sum(gaps(server)) < 2


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_the_wait_that_a_server_asks_for_is_kept(server, tmp_path, form):
    asked = "1" if form == "seconds" else formatdate(time.time() + 2, usegmt=True)
    server.answers[NAME] = [Answer(status=503, headers={"Retry-After": asked}), Answer()]
    get(declared(server.url(NAME)), tmp_path, patience=Patience(first_wait=0, longest_wait=5))
    assert 0.9 < gaps(server)[0] < 4


@pytest.mark.parametrize("asked", ["86400", "9" * 400, formatdate(4e9), "soon", "-1", "²"])
def test_no_server_can_make_us_wait_for_long(server, tmp_path, asked):
    server.answers[NAME] = [Answer(status=503, headers={"Retry-After": asked}), Answer()]
    if asked == "²":
        server.answers[NAME][0].headers["Retry-After"] = "\u00b2"
    assert get(declared(server.url(NAME)), tmp_path).read_bytes() == CONTENT
    assert gaps(server)[0] < 2


def test_a_server_that_falls_silent_is_left_and_continued_later(server, tmp_path):
    server.answers[NAME] = [Answer(hold=50_000), Answer()]
    patience = dataclasses.replace(QUICK, timeout=0.3)
    assert get(declared(server.url(NAME)), tmp_path, patience=patience).read_bytes() == CONTENT
    assert server.ranges(NAME) == [None, "bytes=50000-"]


def test_a_server_that_never_answers_is_given_up(server, tmp_path):
    server.answers[NAME] = [Answer(hold=0)]
    patience = Patience(timeout=0.2, attempts=2, first_wait=0)
    text = failure(declared(server.url(NAME)), tmp_path, patience=patience)
    assert "timed out" in text
    assert "2 attempts" in text


def redirect(url):
    return [Answer(status=302, headers={"Location": url})]


def test_redirections_are_followed_also_when_a_file_is_continued(server, tmp_path):
    server.answers |= {"moved": redirect("/" + NAME), NAME: [HALF, Answer()]}
    assert get(declared(server.url("moved")), tmp_path).read_bytes() == CONTENT
    assert server.ranges(NAME) == [None, "bytes=50000-"]


@pytest.mark.parametrize("steps", [10, 11])
def test_ten_redirections_are_followed_and_no_more(server, tmp_path, steps):
    for step in range(steps):
        server.answers[f"step{step}"] = redirect(f"/step{step + 1}")
    server.files[f"step{steps}"] = CONTENT
    if steps == 10:
        assert get(declared(server.url("step0")), tmp_path).read_bytes() == CONTENT
    else:
        assert "loop" in failure(declared(server.url("step0")), tmp_path)


def test_redirections_in_a_circle_are_left_at_once(server, tmp_path):
    server.answers |= {"there": redirect("/back"), "back": redirect("/there")}
    text = failure(declared(server.url("there")), tmp_path)
    assert "loop" in text
    assert len(server.seen) < 5
    assert len(text.splitlines()) == 3


@pytest.mark.parametrize("scheme", ["file", "ftp", "data", "gopher"])
def test_redirections_lead_to_http_only(server, tmp_path, scheme):
    secret = tmp_path / "secret"
    secret.write_bytes(CONTENT)
    server.answers["moved"] = redirect(f"{scheme}://127.0.0.1{secret}")
    assert f"{scheme}://" in failure(declared(server.url("moved")), tmp_path / "data")
    assert len(server.seen) == 1


@pytest.fixture
def certificate(tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("a certificate is made by openssl, which is not on this machine")
    made = tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    names = ["-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"]
    usage = ["-addext", "keyUsage=critical,digitalSignature,keyCertSign"]
    files = ["-keyout", str(made), "-out", str(tmp_path / "public.pem")]
    subprocess.run([*command.split(), *names, *usage, *files], check=True, capture_output=True)
    made.write_text(made.read_text() + (tmp_path / "public.pem").read_text())
    return made


@pytest.mark.parametrize("trusted", [False, True])
def test_certificates_are_verified(tmp_path, certificate, monkeypatch, trusted):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "public.pem"))
    with Server({NAME: CONTENT}, context) as server:
        archive = declared(server.url(NAME))
        if trusted:
            assert get(archive, tmp_path / "data").read_bytes() == CONTENT
        else:
            text = failure(archive, tmp_path / "data")
            assert "CERTIFICATE_VERIFY_FAILED" in text
            assert "attempts" not in text


def test_every_mirror_is_tried_in_order_and_every_failure_is_told(server, tmp_path):
    server.files["wrong"] = OTHER
    server.answers["page"] = [Answer(body=PAGE)]
    with Server({}) as closed:
        nobody = closed.url(NAME)
    urls = [nobody, *map(server.url, ("absent", "wrong", "page"))]
    with pytest.raises(NotFetched) as error:
        fetch_all("cifar10", [declared(*urls)], tmp_path, patience=QUICK)
    first, *lines, last = str(error.value).splitlines()
    assert NAME in first
    expected = ("refused", "HTTP 404 Not Found", sha256(OTHER), "web page")
    for line, url, what in zip(lines, urls, expected, strict=True):
        assert line.startswith(f"  {url}: ")
        assert what in line
    assert last.endswith("attrreg prepare --dataset cifar10 --from <file>")
    assert [each.path for each in server.seen] == ["/absent", "/wrong", "/page"]


def test_a_mirror_of_ones_own_is_tried_first(server, tmp_path, monkeypatch):
    name = "a b&c.zip"
    server.files |= {"lab/a%20b%26c.zip": CONTENT, "public": CONTENT}
    monkeypatch.setenv("ATTRREG_MIRROR", server.url("lab/"))
    get(declared(server.url("public"), name=name), tmp_path)
    monkeypatch.setenv("ATTRREG_MIRROR", server.url("empty"))
    get(declared(server.url("public")), tmp_path)
    paths = [each.path for each in server.seen]
    assert paths == ["/lab/a%20b%26c.zip", f"/empty/{NAME}", "/public"]


@pytest.mark.parametrize("base", ["file:///srv", "/srv", "ftp://host", "http://", "host"])
def test_a_mirror_of_ones_own_that_is_no_web_address_is_refused(tmp_path, monkeypatch, base):
    monkeypatch.setenv("ATTRREG_MIRROR", base)
    with pytest.raises(ValueError, match="ATTRREG_MIRROR"):
        get(declared("http://127.0.0.1:9/"), tmp_path)


def test_a_password_in_an_address_is_refused_and_not_shown(tmp_path, monkeypatch):
    monkeypatch.setenv("ATTRREG_MIRROR", "http://user:secret@127.0.0.1:9/")
    with pytest.raises(ValueError, match="ATTRREG_MIRROR") as error:
        get(declared("http://127.0.0.1:9/"), tmp_path)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "../a"},
        {"name": ""},
        {"name": ".."},
        {"name": "/etc/a"},
        {"digest": "sha256:12"},
        {"digest": "crc32:" + "0" * 8},
        {"urls": ("file:///etc/passwd",)},
    ],
    ids=str,
)
def test_an_entry_that_cannot_be_trusted_is_refused(tmp_path, changes):
    archive = dataclasses.replace(declared("http://127.0.0.1:9/"), **changes)
    with pytest.raises(ValueError, match="archive"):
        get(archive, tmp_path / "data")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("verified", [False, True])
def test_a_digest_that_nobody_verified_is_mentioned_once(server, tmp_path, caplog, verified):
    archive = declared(server.url(NAME), verified=verified)
    with caplog.at_level(logging.INFO, "attrreg"):
        get(archive, tmp_path)
        get(archive, tmp_path)
    said = "its digest is the publisher's, nobody of this project has verified it"
    assert caplog.text.count(said) == (0 if verified else 1)


@pytest.mark.parametrize("how", ["argument", "1", "true", "YES"])
def test_offline_says_at_once_all_that_is_missing(server, tmp_path, monkeypatch, how):
    archives = [
        declared(server.url(NAME), size=len(CONTENT)),
        declared(server.url("b.zip"), "http://elsewhere/b.zip", name="b.zip", content=OTHER),
        declared(server.url("c"), name="c.zip", content=b"c"),
    ]
    (tmp_path / "c.zip").write_bytes(b"c")
    if how != "argument":
        monkeypatch.setenv("ATTRREG_OFFLINE", how)
    with pytest.raises(NotFetched) as error:
        fetch_all("cifar10", archives, tmp_path, offline=how == "argument")
    text = str(error.value)
    for each in (NAME, "100,000 bytes", "b.zip", "http://elsewhere/b.zip", "size unknown"):
        assert each in text
    assert all(archive.digest in text for archive in archives[:2])
    assert all(archive.urls[0] in text for archive in archives[:2])
    assert "c.zip" not in text
    assert "attrreg prepare --dataset cifar10 --from <file>" in text
    assert server.seen == []
    assert visible(tmp_path) == ["c.zip"]


def test_offline_uses_what_is_there_and_leaves_what_is_wrong(server, tmp_path, monkeypatch):
    archive = declared(server.url(NAME))
    (tmp_path / NAME).write_bytes(OTHER)
    with pytest.raises(NotFetched, match="another digest"):
        get(archive, tmp_path, offline=True)
    assert (tmp_path / NAME).read_bytes() == OTHER
    monkeypatch.setenv("ATTRREG_OFFLINE", "0")
    get(archive, tmp_path)
    assert get(archive, tmp_path, offline=True).read_bytes() == CONTENT


def test_an_archive_without_an_address_is_asked_for_before_others_are_fetched(server, tmp_path):
    archives = [declared(server.url(NAME)), declared(name="by-hand.zip", content=OTHER)]
    with pytest.raises(NotFetched, match=r"by-hand\.zip.*no URL"):
        fetch_all("isic", archives, tmp_path)
    assert server.seen == []


def test_all_archives_of_a_dataset_come_by_name(server, tmp_path):
    archives = [declared(server.url(NAME)), declared(server.url("b.zip"), name="b.zip")]
    archives[1] = dataclasses.replace(archives[1], digest=sha256(OTHER))
    found = fetch_all("cifar10", archives, tmp_path, patience=QUICK)
    assert {name: path.read_bytes() for name, path in found.items()} == server.files


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_process_that_is_stopped_is_taken_up_where_it_was(server, tmp_path, number):
    server.answers[NAME] = [Answer(hold=60_000), Answer()]
    archive = declared(server.url(NAME))
    partial = tmp_path / f".{NAME}.partial"
    process = start(archive, tmp_path)
    wait_for(lambda: partial.exists() and partial.stat().st_size == 60_000)
    process.send_signal(number)
    assert process.wait() != 0
    process.stdout.close()
    assert visible(tmp_path) == [f".{NAME}.partial", f".{NAME}.partial.json"]
    assert get(archive, tmp_path).read_bytes() == CONTENT
    assert server.ranges(NAME) == [None, "bytes=60000-"]
    assert visible(tmp_path) == [NAME]


def test_two_processes_fetch_one_file_once(server, tmp_path):
    server.answers[NAME] = [Answer(hold=60_000)]
    archive = declared(server.url(NAME))
    first = start(archive, tmp_path)
    wait_for(lambda: server.seen)
    second = start(archive, tmp_path)
    assert "waiting for another process that fetches" in second.stdout.readline()
    server.release.set()
    for process in (first, second):
        output = process.communicate(timeout=20)[0]
        assert process.returncode == 0, output
    assert len(server.seen) == 1
    assert (tmp_path / NAME).read_bytes() == CONTENT


def test_who_waited_for_a_killed_process_goes_on_itself(server, tmp_path):
    server.answers[NAME] = [Answer(hold=60_000), Answer()]
    archive = declared(server.url(NAME))
    partial = tmp_path / f".{NAME}.partial"
    first = start(archive, tmp_path)
    wait_for(lambda: partial.exists() and partial.stat().st_size == 60_000)
    second = start(archive, tmp_path)
    assert "waiting" in second.stdout.readline()
    first.kill()
    output = second.communicate(timeout=20)[0]
    first.communicate()
    assert second.returncode == 0, output
    assert server.ranges(NAME) == [None, "bytes=60000-"]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_disk_that_takes_no_more_is_told_at_once(server, tmp_path, ranges):
    server.answers[NAME] = [Answer(ranges=ranges), Answer()]
    archive = declared(server.url(NAME), server.url("b.zip"))
    output = start(archive, tmp_path, 60_000).communicate(timeout=20)[0]
    error = output.splitlines()[-1]
    assert f"no space for {NAME} in {tmp_path} " in error
    assert "it needs 100,000 bytes" in error
    assert len(server.seen) == 1
    if ranges:
        assert "the 60,000 bytes that came are kept" in error
        get(archive, tmp_path)
        assert server.ranges(NAME) == [None, "bytes=60000-"]
    else:
        assert "what came is removed" in error
        assert visible(tmp_path) == []


SMALL_DISK = """
mount -t tmpfs -o size=64k none "$1" || exit 77
cd "$1" && exec "$2" -c "$3" "$4" . -1
"""


def test_a_full_disk_is_told_at_once(server, tmp_path):
    entry = json.dumps(dataclasses.asdict(declared(server.url(NAME))))
    shell = ["unshare", "--map-root-user", "--mount", "sh", "-c", SMALL_DISK, "sh"]
    if shutil.which("unshare") is None:
        pytest.skip("a small disk is made by unshare, which is not on this machine")
    answer = subprocess.run(
        [*shell, str(tmp_path), sys.executable, CHILD, entry],
        capture_output=True,
        text=True,
        check=False,
    )
    if "OSError" not in answer.stderr and "fetching" not in answer.stdout:
        pytest.skip(f"a small disk cannot be made here: {answer.stderr}")
    error = answer.stderr.splitlines()[-1]
    assert "No space left on device" in error
    assert "it needs 100,000 bytes" in error
    assert "are kept in" in error


def pair(server, folder):
    """Return two archives, and their files under their names in a folder."""
    folder.mkdir()
    archives = [
        declared(server.url(NAME)),
        declared(name="b.zip", digest=f"md5:{hashlib.md5(OTHER).hexdigest()}"),
    ]
    (folder / NAME).write_bytes(CONTENT)
    (folder / "b.zip").write_bytes(OTHER)
    return archives


@pytest.mark.parametrize("way", ["names", "renamed", "folder", "links"])
def test_what_is_brought_is_recognised_and_never_fetched(server, tmp_path, way):
    at = tmp_path / "at"
    archives = pair(server, at)
    given = [at / NAME, at / "b.zip"]
    if way == "renamed":
        given = [path.rename(at / f"{number} (1).part") for number, path in enumerate(given)]
    elif way == "links":
        for path in given:
            path.rename(at / f"{path.name}-1")
            path.symlink_to(at / f"{path.name}-1")
    before = {path: path.read_bytes() for path in given}
    found = bring("own", archives, tmp_path / "data", [at] if way == "folder" else given)
    assert {name: path.read_bytes() for name, path in found.items()} == server.files
    assert not any(path.is_symlink() for path in found.values())
    assert {path: path.read_bytes() for path in given} == before
    told = []
    options = {"offline": True, "report": lambda *each: told.append(each)}
    assert fetch_all("own", archives, tmp_path / "data", **options) == found
    assert told == []
    assert visible(tmp_path / "data") == sorted(found)
    assert server.seen == []


def test_a_wrong_file_is_refused_with_both_digests_and_nothing_is_copied(server, tmp_path):
    archives = pair(server, tmp_path / "at")
    given = [tmp_path / "at" / "b.zip", tmp_path / "at" / NAME]
    given[1].write_bytes(OTHER)
    with pytest.raises(ValueError, match=r"at/a\.tar\.gz") as error:
        bring("own", archives, tmp_path / "data", given)
    for each in (sha256(OTHER), sha256(CONTENT), "Nothing is copied"):
        assert each in str(error.value)
    assert given[1].read_bytes() == OTHER
    assert not (tmp_path / "data").exists()


def test_a_file_that_changes_while_it_is_brought_is_refused(server, tmp_path):
    archives = pair(server, tmp_path / "at")
    given = tmp_path / "at" / NAME

    def change(stage, done, total):
        if done == total:
            given.write_bytes(OTHER)

    with pytest.raises(ValueError, match="changed while it was copied"):
        bring("own", archives, tmp_path / "data", [given], change)
    assert visible(tmp_path / "data") == []


def test_a_file_that_is_none_of_the_archives_is_refused_with_what_they_are(server, tmp_path):
    archives = pair(server, tmp_path / "at")
    (tmp_path / "photo.png").write_bytes(b"photo")
    with pytest.raises(ValueError, match=r"photo\.png") as error:
        bring("own", archives, tmp_path / "data", [tmp_path / "photo.png"])
    for archive in archives:
        assert f"{archive.name} with {archive.digest}" in str(error.value)


def test_what_is_not_there_to_be_brought_is_named(server, tmp_path):
    archives = pair(server, tmp_path / "at")
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name, what in {"absent": "no file", "pipe": "no file", "empty": NAME}.items():
        with pytest.raises((FileNotFoundError, ValueError), match=f"{name}.*{what}"):
            bring("own", archives, tmp_path / "data", [tmp_path / name])


def test_a_file_that_is_in_its_place_already_can_be_brought(server, tmp_path):
    archives = pair(server, tmp_path / "at")
    bring("own", archives, tmp_path / "at", [tmp_path / "at"])
    assert fetch_all("own", archives, tmp_path / "at", offline=True)
    assert (tmp_path / "at" / NAME).read_bytes() == CONTENT


def test_what_is_brought_takes_the_place_of_what_was_begun(server, tmp_path):
    archives = pair(server, tmp_path / "at")
    begun(server, archives[0], tmp_path / "data", CONTENT[:50_000])
    (tmp_path / "data" / NAME).write_bytes(b"wrong")
    (tmp_path / "data" / f".{NAME}-killed.partial.gz").write_bytes(b"half")
    bring("own", archives, tmp_path / "data", [tmp_path / "at" / NAME])
    assert visible(tmp_path / "data") == [NAME]
    assert (tmp_path / "data" / NAME).read_bytes() == CONTENT
