"""What is written is there whole or not at all."""

import contextlib
import os
import shutil
import stat

import pytest

from attrreg.files import (
    new_directory,
    path_name,
    read_json,
    remove_partial,
    write_json,
    writing,
)


class Stop(BaseException):
    """Stands for an interruption."""


def interrupt(writer, error):
    """Write half of what is to be written."""
    with writer as temporary:
        half = temporary / "half.txt" if temporary.is_dir() else temporary
        half.write_text("half")
        raise error


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_with_its_whole_content_or_not_at_all(tmp_path):
    path = tmp_path / "below" / "table.csv"
    with writing(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
        assert temporary.suffix == path.suffix
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    assert names(path.parent) == ["table.csv"]


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt, Stop])
def test_an_interrupted_file_leaves_what_was_there(tmp_path, error):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(error):
        interrupt(writing(path), error)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["table.csv"]


def test_a_directory_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "below" / "s0"
    with new_directory(path) as temporary:
        (temporary / "a.txt").write_text("a")
        assert not path.exists()
    assert (path / "a.txt").read_text() == "a"
    assert names(path.parent) == ["s0"]


def test_a_directory_replaces_an_older_one_with_all_it_held(tmp_path):
    path = tmp_path / "s0"
    for text in ("old", "new"):
        with new_directory(path) as temporary:
            (temporary / f"{text}.txt").write_text(text)
    assert names(path) == ["new.txt"]
    assert names(tmp_path) == ["s0"]


def test_a_directory_may_hold_directories(tmp_path):
    with new_directory(tmp_path / "s0") as temporary:
        (temporary / "maps").mkdir()
        (temporary / "maps" / "a.txt").write_text("a")
    assert (tmp_path / "s0" / "maps" / "a.txt").read_text() == "a"


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt, Stop])
@pytest.mark.parametrize("was_there", [False, True])
def test_an_interrupted_directory_leaves_what_was_there(tmp_path, error, was_there):
    path = tmp_path / "s0"
    if was_there:
        path.mkdir()
        (path / "old.txt").write_text("old")
    with pytest.raises(error):
        interrupt(new_directory(path), error)
    assert names(tmp_path) == (["s0"] if was_there else [])
    if was_there:
        assert names(path) == ["old.txt"]


def test_a_directory_that_is_replaced_is_never_seen_in_part(tmp_path, monkeypatch):
    path = tmp_path / "s0"
    for text in ("old", "new"):
        if text == "new":
            monkeypatch.setattr(shutil, "rmtree", killed_while_removing)
        with contextlib.suppress(Stop), new_directory(path) as temporary:
            for number in range(3):
                (temporary / f"{number}.txt").write_text(text)
    texts = [file.read_text() for file in path.iterdir()]
    assert texts in (["old"] * 3, ["new"] * 3)


def killed_while_removing(folder, **_):
    """Remove one file of a folder; then the process is gone."""
    for file in list(folder.glob("*"))[:1]:
        file.unlink()
        raise Stop


def test_files_and_directories_can_be_read_by_others(tmp_path):
    umask = os.umask(0o022)
    try:
        with new_directory(tmp_path / "s0") as temporary:
            write_json(temporary / "run.json", {})
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "s0").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "s0" / "run.json").stat().st_mode) == 0o644


def test_only_the_leftovers_of_the_same_path_are_removed(tmp_path):
    for name in ("s1", ".s1-abc.partial", ".s1-def.partial", ".s10-abc.partial", ".s1.lock"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text("a")
    (tmp_path / ".s1-ghi.partial.json").write_text("{")
    remove_partial(tmp_path / "s1")
    assert names(tmp_path) == [".s1.lock", ".s10-abc.partial", "s1"]


def test_what_a_killed_writer_of_a_file_left_is_found_by_its_path(tmp_path):
    path = tmp_path / "dataset.json"
    killed = writing(path)
    killed.__enter__()  # and never left
    assert len(names(tmp_path)) == 1
    remove_partial(path)
    assert names(tmp_path) == []


def test_json_comes_back_as_it_went(tmp_path):
    value = {"name": "größer", "values": [1, 2.5, None, True], "nested": {"empty": {}}}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value


@pytest.mark.parametrize("content", [b"", b'{"digest": "ab', b"\xff\xfe\x00", b"{} {}"])
def test_a_file_that_is_not_json_is_named(tmp_path, content):
    path = tmp_path / "run.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"run\.json"):
        read_json(path)


def test_a_value_that_is_not_json_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, [1])
    with pytest.raises(TypeError):
        write_json(path, {1, 2})
    assert read_json(path) == [1]
    assert names(tmp_path) == ["a.json"]


def test_a_name_in_a_path_is_one_folder():
    assert path_name("reldrop-block/swapped") == "reldrop-block--swapped"
    assert path_name("digits") == "digits"
