"""Files appear whole or not at all."""

import errno
import fcntl
import os
import signal
from pathlib import Path

import pytest

from lit_aux.files import atomic_folder, atomic_path, atomic_write, remove_parts


@pytest.mark.parametrize("content", ["one\nµ\n", b"\x00\xff"])
def test_a_file_is_replaced(content: str | bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("before")
    atomic_write(path, content)
    assert path.read_bytes() == (content if isinstance(content, bytes) else content.encode())
    assert [found.name for found in tmp_path.iterdir()] == ["a.txt"]


def test_a_block_that_fails_leaves_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("before")

    def fill() -> None:
        with atomic_path(path) as part:
            part.write_text("half")
            assert path.read_text() == "before"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill()
    assert [(found.name, found.read_text()) for found in tmp_path.iterdir()] == [("a.txt", "before")]


def test_two_at_once_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with atomic_path(path) as one, atomic_path(path) as other:
        assert one != other
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one"


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        atomic_write(tmp_path / "nowhere" / "a.txt", "")


@pytest.mark.parametrize("count", [1, 3])
def test_what_a_killed_writer_leaves_is_removed_by_the_next(count: int, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for _ in range(count):
        child = os.fork()
        if child == 0:
            with atomic_path(path) as part:
                part.write_text("half")
                os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)
        assert len(list(tmp_path.iterdir())) == 1
    atomic_write(path, "whole")
    assert [(found.name, found.read_text()) for found in tmp_path.iterdir()] == [("a.txt", "whole")]


def test_what_is_being_written_and_what_is_others_stays(tmp_path: Path) -> None:
    others = [".a.part", f".b.txt.{'0' * 31}g.part", f"a.{'0' * 32}.part"]
    for name in others:
        (tmp_path / name).write_text("mine")
    (tmp_path / f".b.txt.{'0' * 32}.part").write_text("left")
    with atomic_path(tmp_path / "a.txt") as part:
        part.write_text("one")
        remove_parts(tmp_path)
        assert part.read_text() == "one"
    assert sorted(found.name for found in tmp_path.iterdir()) == sorted([*others, "a.txt"])
    remove_parts(tmp_path / "nowhere")


def test_where_files_cannot_be_locked_age_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    old, young = (tmp_path / f".a.{digit * 32}.part" for digit in "01")
    for part in (old, young):
        part.write_text("half")
    os.utime(old, (0, 0))
    atomic_write(tmp_path / "a", "whole")
    assert sorted(tmp_path.iterdir()) == sorted([young, tmp_path / "a"])


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_whoever_may_read_files_here_may_read_those_of_writers_that_close_theirs(
    umask: int, tmp_path: Path
) -> None:
    before = os.umask(umask)
    try:
        (tmp_path / "plain").touch()
        with atomic_path(tmp_path / "a") as part:
            part.write_text("a")
            part.chmod(0o600)
        with atomic_folder(tmp_path / "folder") as whole:
            (whole / "b").touch(mode=0o600)
    finally:
        os.umask(before)
    expected = (tmp_path / "plain").stat().st_mode
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "folder" / "b").stat().st_mode == expected
