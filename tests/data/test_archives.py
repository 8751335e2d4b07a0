"""An archive comes out whole and in its folder, or not at all, whatever is in it."""

import gzip
import io
import os
import random
import stat
import struct
import tarfile
import tracemalloc
import warnings
import zipfile

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from attrreg.data import archives
from attrreg.data.archives import digest_of, gunzip, unpack
from attrreg.files import remove_partial

FORMATS = ["a.tar", "a.tar.gz", "a.tgz", "a.tar.bz2", "a.tar.xz", "a.zip"]
MEGABYTE = 2**20
NOISE = random.Random(0).randbytes(3000)
CONTENTS = {
    "a.txt": b"first",
    "deep/er/b.bin": NOISE,
    "deep/empty": b"",
    "größe 文/-x .jpg": b"odd name",
    "blocks": bytes(1024),
}


def write_tar(path, members):
    """Write a tar archive of members: bytes, or headers that are changed so."""
    packing = {".gz": "gz", ".tgz": "gz", ".bz2": "bz2", ".xz": "xz"}.get(path.suffix, "")
    with tarfile.open(path, f"w:{packing}") as archive:
        for name, what in members:
            member = tarfile.TarInfo(name)
            if isinstance(what, bytes):
                member.size = len(what)
            else:
                for key, value in what.items():
                    setattr(member, key, value)
            content = what if isinstance(what, bytes) else bytes(member.size)
            archive.addfile(member, io.BytesIO(content))


def write_zip(path, members):
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        warnings.simplefilter("ignore", UserWarning)  # of duplicates
        for name, what in members:
            member = zipfile.ZipInfo()
            member.filename, member.compress_type = name, zipfile.ZIP_DEFLATED
            for key, value in {} if isinstance(what, bytes) else what.items():
                setattr(member, key, value)
            archive.writestr(member, what if isinstance(what, bytes) else b"content")


def write(path, members):
    members = list(members.items()) if isinstance(members, dict) else members
    (write_zip if path.suffix == ".zip" else write_tar)(path, members)
    return path


def found(folder):
    """Return what lies in a folder: the contents of files by name; links are none."""
    assert not [path for path in folder.rglob("*") if path.is_symlink()]
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def refused(path, target, what, limit=MEGABYTE, **options):
    """Unpack what must be refused; nothing is left of it."""
    before = sorted(target.parent.rglob("*"))
    with pytest.raises(ValueError, match=what) as error:
        unpack(path, target, limit, **options)
    assert str(path) in str(error.value)
    assert sorted(target.parent.rglob("*")) == before
    return str(error.value)


@pytest.mark.parametrize("name", FORMATS)
def test_members_come_out_as_they_went_in(tmp_path, name):
    path = write(tmp_path / name, CONTENTS)
    unpack(path, tmp_path / "below" / "x", MEGABYTE)
    assert found(tmp_path / "below" / "x") == CONTENTS
    assert [each.name for each in (tmp_path / "below").iterdir()] == ["x"]


@pytest.mark.parametrize("name", ["a.tar", "a.zip"])
def test_an_empty_folder_can_be_filled_and_a_full_one_not(tmp_path, name):
    path = write(tmp_path / name, CONTENTS)
    (tmp_path / "x").mkdir()
    unpack(path, tmp_path / "x", MEGABYTE)
    with pytest.raises(ValueError, match="is there already"):
        unpack(path, tmp_path / "x", MEGABYTE)
    assert found(tmp_path / "x") == CONTENTS


@pytest.mark.parametrize("name", ["a.tar.gz", "a.zip"])
def test_only_what_is_wanted_is_unpacked(tmp_path, name):
    path = write(tmp_path / name, [(f"./{key}", value) for key, value in CONTENTS.items()])
    asked = []
    unpack(path, tmp_path / "x", MEGABYTE, lambda each: asked.append(each) or "deep" in each)
    assert sorted(asked) == sorted(CONTENTS)
    assert found(tmp_path / "x") == {key: CONTENTS[key] for key in ("deep/er/b.bin", "deep/empty")}


@pytest.mark.parametrize("name", ["a.tar", "a.zip"])
def test_folders_are_made_also_when_they_are_empty_or_come_late(tmp_path, name):
    folder = {"type": tarfile.DIRTYPE, "mode": 0} if name == "a.tar" else b""
    members = [("./", folder), ("a/b.txt", b"b"), ("a/", folder), ("a/", folder), ("c/d/", folder)]
    unpack(write(tmp_path / name, members), tmp_path / "x", MEGABYTE)
    assert found(tmp_path / "x") == {"a/b.txt": b"b"}
    assert (tmp_path / "x" / "c" / "d").is_dir()


@pytest.mark.parametrize("name", FORMATS)
def test_progress_is_told_up_to_the_whole(tmp_path, name):
    path = write(tmp_path / name, {str(number): NOISE for number in range(20)})
    told = []
    unpack(path, tmp_path / "x", MEGABYTE, report=lambda *each: told.append(each))
    assert {stage for stage, _, _ in told} == {f"unpacking {name}"}
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    assert all(done <= total for _, done, total in told)


OUTSIDE = [
    *("../up.txt", "a/../../up.txt", "a/..", "..", "/etc/up.txt", "//up.txt"),
    *("C:/up.txt", "./c:up.txt", "a\\..\\up.txt", "\\up.txt"),
]


@pytest.mark.parametrize("member", OUTSIDE)
@pytest.mark.parametrize("name", ["a.tar", "a.zip"])
def test_members_outside_of_the_folder_are_refused_by_name(tmp_path, name, member):
    path = write(tmp_path / name, [("good.txt", b"good"), (member, b"bad")])
    assert repr(member) in refused(path, tmp_path / "below" / "x", "outside|not allowed")
    refused(path, tmp_path / "x", "outside|not allowed", wanted=lambda each: False)


def test_a_name_that_ends_early_is_refused(tmp_path):
    path = write(tmp_path / "a.zip", {"good.txtX.exe": b"bad"})
    path.write_bytes(path.read_bytes().replace(b"txtX", b"txt\0"))
    refused(path, tmp_path / "x", "not allowed")


@pytest.mark.parametrize("depth", [50, 2000])
@pytest.mark.parametrize("name", ["a.tar", "a.zip"])
def test_folders_within_folders_come_to_an_end(tmp_path, name, depth):
    member = "a/" * depth + "b"
    path = write(tmp_path / name, {member: b"deep"})
    if depth == 50:
        unpack(path, tmp_path / "x", MEGABYTE)
        assert found(tmp_path / "x") == {member: b"deep"}
    else:
        refused(path, tmp_path / "x", "not allowed")


@pytest.mark.parametrize("name", ["a.tar", "a.zip"])
def test_a_name_that_is_too_long_for_the_disk_is_told(tmp_path, name):
    path = write(tmp_path / name, {"a" * 300: b"long"})
    assert "cannot be written" in refused(path, tmp_path / "x", "too long")


LINKS = {
    "a symbolic link": {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
    "a hard link": {"type": tarfile.LNKTYPE, "linkname": "good.txt"},
    "a named pipe": {"type": tarfile.FIFOTYPE},
    "a device": {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3},
    "a device ": {"type": tarfile.BLKTYPE},
    "of an unknown type": {"type": b"Z"},
}


@pytest.mark.parametrize(("kind", "member"), LINKS.items(), ids=LINKS)
@pytest.mark.parametrize("name", ["a.tar", "a.tar.xz"])
def test_links_and_devices_in_tar_archives_are_refused_by_name(tmp_path, name, kind, member):
    path = write(tmp_path / name, [("good.txt", b"good"), ("odd", member)])
    assert f"member 'odd' is {kind.strip()}" in refused(path, tmp_path / "x", "odd")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK])
def test_links_and_devices_in_zip_archives_are_refused_by_name(tmp_path, kind):
    attributes = {"create_system": 3, "external_attr": (kind | 0o777) << 16}
    path = write(tmp_path / "a.zip", [("good.txt", b"good"), ("odd", attributes)])
    assert "member 'odd' is a" in refused(path, tmp_path / "x", "odd")


def test_nothing_is_written_through_a_link(tmp_path):
    (tmp_path / "outside").mkdir()
    link = {"type": tarfile.SYMTYPE, "linkname": str(tmp_path / "outside")}
    path = write(tmp_path / "a.tar", [("link", link), ("link/bad.txt", b"bad")])
    refused(path, tmp_path / "x", "a symbolic link")
    unpack(path, tmp_path / "x", MEGABYTE, lambda name: name != "link")
    assert found(tmp_path / "x") == {"link/bad.txt": b"bad"}
    assert found(tmp_path / "outside") == {}


@pytest.mark.parametrize("first", ["a.txt", "./a.txt", "a.txt/b", "a.txt/"])
@pytest.mark.parametrize("name", ["a.tar", "a.zip"])
def test_a_name_that_comes_twice_is_refused(tmp_path, name, first):
    folder = {"type": tarfile.DIRTYPE} if name == "a.tar" else b""
    members = [(first, folder if first.endswith("/") else b"first"), ("a.txt", b"second")]
    for order in (members, members[::-1]):
        path = write(tmp_path / name, order)
        assert "has the name of another" in refused(path, tmp_path / "x", "a.txt")


@pytest.mark.parametrize("name", ["a.tar", "a.zip"])
def test_nothing_becomes_a_program(tmp_path, name):
    mode = {"mode": 0o7777} if name == "a.tar" else {"external_attr": 0o107777 << 16}
    unpack(write(tmp_path / name, {"a": mode, "b/c": mode}), tmp_path / "x", MEGABYTE)
    for each in ("a", "b/c"):
        assert stat.S_IMODE((tmp_path / "x" / each).stat().st_mode) & 0o7133 == 0
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o755


@pytest.mark.parametrize("name", FORMATS)
def test_more_bytes_than_declared_are_not_unpacked(tmp_path, name):
    path = write(tmp_path / name, {"a": bytes(600), "b": bytes(600)})
    assert "1,199 bytes" in refused(path, tmp_path / "x", "more than", limit=1199)
    refused(path, tmp_path / "x", "more than", limit=1199, wanted=lambda each: each == "a")
    unpack(path, tmp_path / "x", 1200)


def test_the_number_of_members_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MEMBERS", 5)
    path = write(tmp_path / "a.tar.gz", {str(number): b"" for number in range(6)})
    refused(path, tmp_path / "x", "more than the 5 members")


def test_a_zip_archive_that_hides_its_size_is_found_out(tmp_path):
    path = write(tmp_path / "a.zip", {"bomb": bytes(5_000_000)})
    size = struct.pack("<I", 5_000_000)
    assert path.read_bytes().count(size) == 2
    path.write_bytes(path.read_bytes().replace(size, struct.pack("<I", 100)))
    refused(path, tmp_path / "x", "damaged", limit=1000)


@pytest.mark.parametrize("name", FORMATS)
def test_large_members_need_little_memory(tmp_path, name):
    path = write(tmp_path / name, {"large": bytes(30_000_000)})
    tracemalloc.start()
    unpack(path, tmp_path / "x", 30_000_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000  # of which xz takes half


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
@pytest.mark.parametrize("size", [50_000_000, -512])
def test_a_header_cannot_fill_the_memory_or_turn_back(tmp_path, kind, size):
    header = {"type": kind, "size": size}
    path = tmp_path / "a.tar.gz"
    with gzip.open(path, "wb") as file:
        file.write(tar_header("bomb", header))
        for _ in range(50):
            file.write(bytes(1_000_000))
    tracemalloc.start()
    refused(path, tmp_path / "x", "damaged")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12_000_000


def tar_header(name, changes):
    member = tarfile.TarInfo(name)
    for key, value in changes.items():
        setattr(member, key, value)
    return member.tobuf(tarfile.GNU_FORMAT)


def test_a_member_of_negative_size_does_not_come_again_and_again(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MEMBERS", 50)
    path = tmp_path / "a.tar"
    path.write_bytes(tar_header("a", {}) + tar_header("b", {"size": -512}) + bytes(10240))
    refused(path, tmp_path / "x", "damaged", wanted=lambda each: False)


def test_many_members_need_little_memory(tmp_path):
    path = write_gzip(tmp_path / "a.tar.gz", tar_header("a", {}) * 5_000 + bytes(10240))
    tracemalloc.start()
    unpack(path, tmp_path / "x", MEGABYTE, lambda each: False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000


def test_an_encrypted_archive_is_refused_and_says_so(tmp_path):
    path = write(tmp_path / "a.zip", {"secret": b"content"})
    content = bytearray(path.read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    assert "member 'secret' is encrypted" in refused(path, tmp_path / "x", "secret")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_archive_of_unusual_compression_is_refused(tmp_path, method):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        archive.writestr("a", NOISE)
    refused(tmp_path / "a.zip", tmp_path / "x", "unusual way")


@pytest.mark.parametrize("name", FORMATS)
def test_an_archive_that_is_cut_short_anywhere_is_refused(tmp_path, name):
    path = write(tmp_path / name, CONTENTS)
    whole = path.read_bytes()
    end = len(whole)
    if name == "a.tar":  # it is filled up with zeros, of which one block is enough
        with tarfile.open(path) as archive:
            end = archive.getmember("blocks").offset_data + 1024 + 511
    for length in {*range(0, end, max(1, end // 40)), *range(0, end, 512), end - 1}:
        path.write_bytes(whole[:length])
        assert "prepare the dataset again" in refused(path, tmp_path / "x", "damaged")


@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_archive_is_refused_or_comes_out_right(tmp_path, name):
    path = write(tmp_path / name, CONTENTS)
    whole, chance = path.read_bytes(), random.Random(1)
    refusals = 0
    for number in range(60):
        damaged = bytearray(whole)
        damaged[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        target = tmp_path / "out" / str(number)
        try:
            unpack(path, target, MEGABYTE)
        except ValueError:
            assert list(target.parent.glob(f"*{number}*")) == []
            refusals += 1
            continue
        # A tar archive alone has sums of its headers only.
        assert name == "a.tar" or found(target) == CONTENTS
    assert refusals > 0


def test_a_damaged_header_is_not_taken_for_the_end(tmp_path):
    path = write(tmp_path / "a.tar", {"a": b"a", "b": b"b"})
    content = bytearray(path.read_bytes())
    content[1024] ^= 1
    path.write_bytes(content)
    refused(path, tmp_path / "x", "without an end mark")


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_what_follows_a_tar_archive_is_not_read_for_ever(tmp_path, name):
    path = write(tmp_path / name, CONTENTS)
    opened = gzip.open if name.endswith("gz") else open
    with opened(path, "ab") as file:
        for _ in range(40):
            file.write(bytes(MEGABYTE))
    refused(path, tmp_path / "x", "more follows")


@pytest.mark.parametrize("name", ["a.rar", "a.gz", "a.txt", "a", "tar"])
def test_other_kinds_of_archives_are_refused_with_those_allowed(tmp_path, name):
    (tmp_path / name).write_bytes(b"content")
    assert ".tar.gz" in refused(tmp_path / name, tmp_path / "x", "no archive")


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("content", [b"", b"<html>log in</html>", NOISE])
def test_what_is_no_archive_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, tmp_path / "x", "damaged")


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interruption_leaves_nothing(tmp_path, error):
    path = write(tmp_path / "a.tar.gz", CONTENTS)

    def stop(name):
        if name == "blocks":
            raise error
        return True

    with pytest.raises(error):
        unpack(path, tmp_path / "x", MEGABYTE, stop)
    assert [each.name for each in tmp_path.iterdir()] == ["a.tar.gz"]


def test_what_a_killed_process_left_is_found_by_the_name_of_the_folder(tmp_path):
    path = write(tmp_path / "a.tar.gz", CONTENTS)
    for target in ("x", ".x-abc.partial"):
        process = os.fork()
        if process == 0:
            unpack(path, tmp_path / target, MEGABYTE, lambda name: name != "blocks" or os._exit(9))
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 9
        assert len(list(tmp_path.iterdir())) == 2
        remove_partial(tmp_path / "x")
        assert [each.name for each in tmp_path.iterdir()] == ["a.tar.gz"]


PARTS = st.one_of(
    st.sampled_from(
        ["..", ".", "", "a", "A", "b", "c:", "con", " ", "~", "*", "-rf", "é", "e\u0301"]
    ),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6),
)
NAMES = st.lists(PARTS, min_size=1, max_size=4).map("/".join)


@settings(max_examples=150, deadline=None)
@given(st.lists(NAMES, min_size=1, max_size=4), st.sampled_from(["a.tar", "a.zip"]))
@example(["a/b", "a/b/../../../c"], "a.tar")
@example(["./a", "a"], "a.zip")
def test_whatever_its_members_are_called_an_archive_stays_in_its_folder(
    tmp_path_factory, names, kind
):
    root = tmp_path_factory.mktemp("names")
    target = root / "below" / "x"
    path = write(root / kind, [(name, name.encode()) for name in names])
    try:
        unpack(path, target, MEGABYTE)
    except ValueError:
        assert [each for each in root.iterdir() if each != path] in ([], [target.parent])
        assert not target.parent.exists() or not list(target.parent.iterdir())
        return
    assert sorted(root.iterdir()) == sorted([path, target.parent])
    assert list(target.parent.iterdir()) == [target]
    files = [name for name in names if not (kind == "a.zip" and name.endswith("/"))]
    expected = {os.path.normpath(name): name.encode() for name in files}
    assert found(target) == {name: expected[name] for name in found(target)}
    assert len(found(target)) == len(files)


def write_gzip(path, content):
    path.write_bytes(gzip.compress(content))
    return path


@pytest.mark.parametrize("content", [b"", NOISE, bytes(3 * MEGABYTE)])
def test_a_gzip_file_gives_what_it_holds_up_to_its_limit(tmp_path, content):
    path = write_gzip(tmp_path / "a.gz", content)
    assert gunzip(path, len(content)) == content
    if content:
        with pytest.raises(ValueError, match=r"a\.gz holds more than"):
            gunzip(path, len(content) - 1)


def test_a_gzip_bomb_does_not_fill_the_memory(tmp_path):
    path = write_gzip(tmp_path / "a.gz", bytes(60_000_000))
    tracemalloc.start()
    with pytest.raises(ValueError, match="more than the 1,000 bytes"):
        gunzip(path, 1000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12_000_000


def test_a_gzip_file_that_is_cut_short_or_changed_anywhere_is_named(tmp_path):
    path = write_gzip(tmp_path / "a.gz", CONTENTS["a.txt"] * 50)
    whole = path.read_bytes()
    for length in range(2, len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"a\.gz is damaged"):
            gunzip(path, MEGABYTE)
    for place in range(10, len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=r"a\.gz (is damaged|holds more)"):
            gunzip(path, MEGABYTE)


@pytest.mark.parametrize("content", [b"", b"\x1f", b"plain", b"PK\x03\x04"])
def test_what_is_not_compressed_is_refused(tmp_path, content):
    (tmp_path / "a.gz").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.gz is not compressed by gzip"):
        gunzip(tmp_path / "a.gz", MEGABYTE)


def test_a_missing_archive_is_named(tmp_path):
    for read in (gunzip, lambda path, limit: unpack(path, tmp_path / "x", limit)):
        with pytest.raises(FileNotFoundError, match=r"absent\.tar\.gz"):
            read(tmp_path / "absent.tar.gz", 10)
    assert list(tmp_path.iterdir()) == []


def test_a_digest_is_that_of_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert digest_of(tmp_path / "a", "md5", "a") == "md5:900150983cd24fb0d6963f7d28e17f72"
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert digest_of(tmp_path / "a", "sha256", "a") == f"sha256:{known}"
