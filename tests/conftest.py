"""An empty working folder and no global seed for every test."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from lit_aux.runs.processes import _Server

if (
    "PYTEST_XDIST_WORKER" in os.environ
):  # several processes share the cores: one thread each, before torch starts
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Give each test an empty working folder, no global seed and one thread."""
    monkeypatch.chdir(tmp_path)
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    yield
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        os.environ.pop(name, None)


@pytest.fixture(scope="module")
def one_server() -> Iterator[None]:
    """Let all sweeps of these tests fork from one server: what real runs import takes a while."""
    started: dict[tuple[str, ...], _Server] = {}
    start, close = _Server.__init__, _Server.close

    def begin(self: _Server, modules: Iterable[str], threads: int) -> None:
        key = (*modules, str(threads))
        if key not in started:
            start(self, key[:-1], threads)
            started[key] = self
        vars(self).update(vars(started[key]))

    with patch.object(_Server, "__init__", begin), patch.object(_Server, "close", lambda self: None):
        yield
    for server in started.values():
        close(server)
