"""Jobs carried out by the workers of a Dask cluster, on however many machines."""

import logging
import pickle
import socket
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from lit_aux.errors import ClusterError, ConfigurationError, not_installed, one_line, with_class
from lit_aux.runs.job import End, Event, Job, Tell
from lit_aux.runs.processes import Children
from lit_aux.storage import StorageError

_CONNECT = 20.0  # seconds for a scheduler to answer
_LOOK = 0.5  # seconds between two looks whether a job is still wanted
_PACKAGES = ("lit_aux", "torch", "lightning", "numpy")
_GPU = "GPU"
_TALKERS = ("distributed", "tornado", "asyncio")


class Cluster:
    """Carries out jobs on the workers of a Dask cluster, each in a child process of its worker.

    Rows come back as they are found, over the network. The jobs of a worker that dies are carried out
    elsewhere. Where workers declare a resource ``GPU``, a job asks for one.

    Args:
        address: Of the scheduler, ``tcp://host:8786``, or the scheduler file that it has written.

    Raises:
        ConfigurationError: If Dask is not installed, or no scheduler answers.
    """

    immediate = False

    def __init__(self, address: str) -> None:
        self.address = address
        self._client = _connect(address)
        _silence()
        self._topic = f"lit-aux-{uuid.uuid4().hex}"
        self._jobs: dict[int, tuple[Job, Tell]] = {}
        self._open: set[Future[Any]] = set()
        self._client.subscribe_topic(self._topic, self._take)
        self._gpu = any(_GPU in worker["resources"] for worker in self._workers().values())
        asked = {"resources": {_GPU: 1}} if self._gpu else {}
        self._executor = self._client.get_executor(pure=False, **asked)

    @property
    def width(self) -> int:
        """How many jobs the workers carry out at the same time; 1 where there is none yet."""
        count: int = sum(worker["nthreads"] for worker in self._workers().values())
        return max(1, count)

    def notes(self) -> list[str]:
        """Return what is to be known of the workers before anything begins, a line each."""
        if not self._workers():
            return [f"{self.address} has no worker yet; runs begin as soon as there is one"]
        ours = versions()
        lines = []
        try:
            found = self._client.run(versions)
        except Exception as error:  # they import this module to tell
            raise ConfigurationError(
                f"--cluster {self.address}: its workers lack lit_aux, or have another version "
                f"({with_class(error)}); install this one there"
            ) from None
        for worker, theirs in found.items():
            other = [
                f"{name} {theirs[name]} (here {ours[name]})" for name in ours if theirs[name] != ours[name]
            ]
            if other:
                lines.append(f"worker {worker} has {', '.join(other)}")
        return lines

    def submit(self, job: Job, tell: Tell) -> None:
        """Take a job, to be carried out as soon as a worker is free."""
        number = len(self._jobs)
        self._jobs[number] = job, tell
        future: Future[Any] = self._executor.submit(_carry_out, pickle.dumps(job), self._topic, number)
        self._open.add(future)
        future.add_done_callback(lambda done: self._end(number, done))

    def stop(self) -> None:
        """Let workers end what is under way, and begin nothing more."""
        waiting = [future for future in self._open if not future.done()]
        for future in waiting:
            future.cancel()
        with suppress(Exception):
            self._executor.shutdown(wait=False)
        with suppress(Exception):
            self._client.close(timeout=5)

    def _workers(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self._client.scheduler_info()["workers"]
        return found

    def _take(self, event: Any) -> None:
        """Take what a worker tells."""
        number, kind, content = pickle.loads(event[1])
        job, tell = self._jobs[number]
        tell(Event(kind, job, number, content))

    def _end(self, number: int, future: "Future[Any]") -> None:
        job, tell = self._jobs[number]
        self._open.discard(future)
        try:
            end, rows = future.result()
        except CancelledError:
            lost = ClusterError(f"--cluster {self.address}: the connection to the scheduler was lost")
            tell(Event("broken", job, number, lost))
            return
        except StorageError as error:
            tell(Event("broken", job, number, error))
            return
        except Exception as error:
            from distributed import KilledWorker

            killed = isinstance(error, KilledWorker)
            end = End("every worker that carried it out died" if killed else with_class(error))
            tell(Event("end", job, number, end))
            return
        for content in rows:  # those that were not told before
            tell(Event("rows", job, number, content))
        tell(Event("end", job, number, end))


def _silence() -> None:
    """Let Dask say nothing of connections that are lost or closed: one line of ours says it."""
    for name in [*logging.root.manager.loggerDict, *_TALKERS]:
        if name.partition(".")[0] in _TALKERS:
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)


def _connect(address: str) -> Any:
    try:
        import distributed
    except ImportError:
        raise not_installed(f"--cluster {address}", "Dask", "cluster") from None
    is_file = "://" not in address and (address.endswith(".json") or Path(address).is_file())
    if is_file and not Path(address).is_file():
        raise ConfigurationError(f"--cluster {address}: there is no such scheduler file")
    place = {"scheduler_file": address} if is_file else {"address": address}
    try:
        client: Any = distributed.Client
        return client(**place, timeout=_CONNECT, set_as_default=False, name="lit-aux")
    except (OSError, ValueError, TimeoutError, KeyError, TypeError) as error:
        reason = one_line(error)
        raise ConfigurationError(f"--cluster {address}: no scheduler answers ({reason})") from None


def versions() -> dict[str, str]:
    """Return the versions on which numbers may depend, without importing anything large."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"Python": f"{sys.version_info.major}.{sys.version_info.minor}"}
    for name in _PACKAGES:
        try:
            found[name] = version(name.replace("_", "-"))
        except PackageNotFoundError:
            found[name] = "none"
    return found


# What workers do

_OWN: dict[int, tuple[Children, "SimpleQueue[int]"]] = {}
_MAKING = threading.Lock()


def _carry_out(pickled: bytes, topic: str, number: int) -> tuple[End, list[Any]]:
    """Carry out a job in a child process of this worker; return how it ended, and all of its rows."""
    from distributed import get_worker

    worker = get_worker()
    rows: list[Any] = []
    try:
        job: Job = pickle.loads(pickled)
        if job.folder is not None:
            job.folder.parent.mkdir(parents=True, exist_ok=True)
    except Exception as error:
        return End(f"worker {worker.address} on {socket.gethostname()}: {with_class(error)}"), []
    children, places = _children_of(worker)

    def tell(event: Event) -> None:
        if event.kind == "rows":
            rows.append(event.content)
        worker.log_event(topic, pickle.dumps((number, event.kind, event.content)))

    place = places.get()
    try:
        worker.log_event(topic, pickle.dumps((number, "begin", None)))
        with _while_wanted(worker, lambda: children.kill(job)):
            return children.carry_out(job, place, tell), rows
    finally:
        places.put(place)


def _children_of(worker: Any) -> tuple[Children, "SimpleQueue[int]"]:
    """Return the child processes of this worker, and its free places."""
    with _MAKING:
        if id(worker) not in _OWN:
            threads = worker.state.nthreads
            places: SimpleQueue[int] = SimpleQueue()
            for place in range(threads):
                places.put(place)
            _OWN[id(worker)] = Children(threads), places
        return _OWN[id(worker)]


@contextmanager
def _while_wanted(worker: Any, drop: Callable[[], None]) -> Iterator[None]:
    """Call a function once nobody waits for this task any more."""
    key, over = worker.get_current_task(), threading.Event()

    def watch() -> None:
        while not over.wait(_LOOK):
            task = worker.state.tasks.get(key)
            if task is None or task.state in ("cancelled", "released", "forgotten"):
                drop()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
