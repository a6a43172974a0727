"""Pretrained networks are made once, however many ask at the same time."""

import threading
import time
from pathlib import Path

import pytest
import torch

from lit_aux.phases.store import claimed_files, write_tensor


def test_who_comes_second_waits_and_finds_the_files(tmp_path: Path) -> None:
    files = [tmp_path / "store" / f"{seed}.pt" for seed in range(3)]
    made: list[Path] = []

    def ask(wanted: list[Path]) -> None:
        with claimed_files(path for path in wanted if not path.is_file()):
            for path in [path for path in wanted if not path.is_file()]:
                made.append(path)
                time.sleep(0.05)
                write_tensor(path, torch.ones(2))

    asked = ([0, 1, 2], [2, 1, 0], [1], [2, 0], [0, 1, 2])
    threads = [threading.Thread(target=ask, args=([files[i] for i in some],)) for some in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert sorted(made) == files
    assert sorted(path for path in (tmp_path / "store").iterdir()) == files


def test_files_that_nobody_shares_are_made_at_the_same_time(tmp_path: Path) -> None:
    both = threading.Barrier(2, timeout=10)

    def ask(name: str) -> None:
        with claimed_files([tmp_path / name]):
            both.wait()

    threads = [threading.Thread(target=ask, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not both.broken


def test_who_does_not_wait_leaves_files_to_the_other(tmp_path: Path) -> None:
    with claimed_files([tmp_path / "a.pt"]) as mine:
        assert mine
        with claimed_files([tmp_path / "b.pt", tmp_path / "a.pt"], wait=False) as theirs:
            assert not theirs
        with claimed_files([tmp_path / "b.pt"], wait=False) as free:  # nothing of it was kept
            assert free
    with claimed_files([], wait=False) as nothing:
        assert nothing


def test_a_failure_leaves_the_claim_to_others(tmp_path: Path) -> None:
    with pytest.raises(KeyError), claimed_files([tmp_path / "a.pt"]):
        raise KeyError
    with claimed_files([tmp_path / "a.pt"]):
        write_tensor(tmp_path / "a.pt", torch.arange(3))
    assert torch.load(tmp_path / "a.pt", weights_only=True).tolist() == [0, 1, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]
