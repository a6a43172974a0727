"""Files appear whole or not at all."""

from pathlib import Path

import pytest

from lit_aux.files import whole, write_whole


@pytest.mark.parametrize("content", ["one\nµ\n", b"\x00\xff"])
def test_a_file_is_replaced(content: str | bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("before")
    write_whole(path, content)
    assert path.read_bytes() == (content if isinstance(content, bytes) else content.encode())
    assert [found.name for found in tmp_path.iterdir()] == ["a.txt"]


def test_a_block_that_fails_leaves_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("before")

    def fill() -> None:
        with whole(path) as part:
            part.write_text("half")
            assert path.read_text() == "before"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill()
    assert [(found.name, found.read_text()) for found in tmp_path.iterdir()] == [("a.txt", "before")]


def test_two_at_once_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with whole(path) as one, whole(path) as other:
        assert one != other
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one"


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        write_whole(tmp_path / "nowhere" / "a.txt", "")
