"""A real scheduler and real workers on the loopback interface."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

from toys import until

_QUIET = {"DASK_DISTRIBUTED__WORKER__MEMORY__TERMINATE": "False", "DASK_LOGGING__DISTRIBUTED": "error"}
_SCHEDULER = """
import asyncio, sys
from distributed import Scheduler
async def main():
    async with Scheduler(host="127.0.0.1", port=0, dashboard=False, scheduler_file=sys.argv[1]) as scheduler:
        await scheduler.finished()
asyncio.run(main())
"""
_WORKER = """
import asyncio, json, sys
from distributed import Worker
async def main():
    file, folder, resources = sys.argv[1:]
    options = dict(nthreads=1, dashboard=False, local_directory=folder, resources=json.loads(resources))
    async with Worker(scheduler_file=file, host="127.0.0.1", **options) as worker:
        await worker.finished()
asyncio.run(main())
"""


class LocalCluster:
    """A scheduler and its workers, each a process of its own, which can be killed.

    Args:
        folder: Where they work; the scheduler file lies there, too, in place of that of another before.
        path: Where workers find modules.
    """

    def __init__(self, folder: Path, path: Sequence[Path] = ()) -> None:
        self.folder, self.file = folder, folder / "scheduler.json"
        self.file.unlink(missing_ok=True)
        found = [*map(str, path), os.environ.get("PYTHONPATH", "")]
        self._environment = {
            **os.environ,
            **_QUIET,
            "PYTHONPATH": os.pathsep.join(found),
            "OMP_NUM_THREADS": "1",
        }
        self.workers: list[subprocess.Popen[bytes]] = []
        self.scheduler = self._start(_SCHEDULER, str(self.file))
        until(lambda: self.file.is_file() and self.file.read_text().rstrip().endswith("}"), seconds=60)

    @property
    def address(self) -> str:
        """The scheduler's address."""
        address: str = json.loads(self.file.read_text())["address"]
        return address

    def add_worker(self, **resources: float) -> "subprocess.Popen[bytes]":
        """Start a worker of one thread, in a working folder of its own."""
        home = Path(mkdtemp(prefix="worker", dir=self.folder))
        self.workers.append(self._start(_WORKER, str(self.file), str(home), json.dumps(resources), here=home))
        return self.workers[-1]

    def _start(self, program: str, *arguments: str, here: Path | None = None) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            env=self._environment,
            cwd=here or self.folder,
            start_new_session=True,
            stdout=(self.folder / "output.txt").open("ab"),
            stderr=subprocess.STDOUT,
        )

    def closed(self, seconds: float) -> bool:
        """Return whether every worker ends by itself in time."""
        try:
            until(lambda: all(worker.poll() is not None for worker in self.workers), seconds)
        except AssertionError:
            return False
        return True

    def kill(self) -> None:
        """End everything."""
        for process in (*self.workers, self.scheduler):
            process.send_signal(signal.SIGKILL)
            process.wait()


@contextmanager
def cluster(folder: Path, workers: int, *path: Path, **resources: float) -> Iterator[LocalCluster]:
    """Start a scheduler and workers; kill them in the end."""
    folder.mkdir(parents=True, exist_ok=True)
    made = LocalCluster(folder, path)
    try:
        for _ in range(workers):
            made.add_worker(**resources)
        yield made
    finally:
        made.kill()
