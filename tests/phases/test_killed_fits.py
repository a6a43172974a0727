"""Fits that are killed at random instants and at chosen file operations, and resumed: nothing is lost."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from killed_runs import afresh, kill_fits

SHARED = Path("/dev/shm")


@pytest.fixture
def folders(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """Two folders, on different file systems where there is a second one."""
    here = tmp_path / "here"
    here.mkdir()
    there = Path(tempfile.mkdtemp(dir=SHARED if os.access(SHARED, os.W_OK) else tmp_path))
    yield here, there
    shutil.rmtree(there)


@pytest.mark.parametrize("count", [4, pytest.param(100, marks=pytest.mark.slow)])
def test_a_fit_that_is_killed_goes_on_as_if_nothing_had_been(count: int, folders: tuple[Path, Path]) -> None:
    tally, _ = afresh(kill_fits, folders, count, seed=4)
    assert tally.killed.total() >= count
    assert tally.resumed > count / 3
    assert not tally.bad, "\n".join(tally.bad)
