"""``reproduce`` and ``sweep`` that are killed, or children, or Dask: no row is lost, changed or doubled."""

from pathlib import Path

import pytest
from killed_clusters import kill_cluster
from killed_commands import REPRODUCE, kill_command, sweep_words
from killed_runs import afresh


@pytest.mark.slow
def test_reproduce_goes_on(tmp_path: Path) -> None:
    words = [*REPRODUCE, "--jobs=2"]
    tally = afresh(kill_command, words, "out/results.csv", tmp_path, 20, seed=2)
    assert tally.killed.total() >= 20
    assert not tally.bad, "\n".join(tally.bad)


@pytest.mark.slow
def test_a_sweep_goes_on(tmp_path: Path) -> None:
    words = sweep_words(tmp_path / "sweep.yaml")
    (tmp_path / "runs").mkdir()
    tally = afresh(kill_command, words, "out/results.csv", tmp_path / "runs", 20, seed=2)
    assert tally.killed.total() >= 20
    assert not tally.bad, "\n".join(tally.bad)


@pytest.mark.slow
@pytest.mark.parametrize(("whom", "count"), [("worker", 3), ("scheduler", 2)])
def test_a_sweep_on_a_cluster_goes_on(whom: str, count: int, tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="needs the extra cluster")
    tally = kill_cluster(whom, tmp_path, count, seed=2)
    assert tally.killed.total() >= count
    assert not tally.bad, "\n".join(tally.bad)
