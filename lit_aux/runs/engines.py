"""Where jobs are carried out: in this process, or in child processes of this machine."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Protocol

from lit_aux.errors import ConfigurationError
from lit_aux.runs.folder import read_outcome
from lit_aux.runs.job import End, Event, Job, Row, Tell
from lit_aux.runs.processes import Children, collected


class Engine(Protocol):
    """Carries out jobs, as an executor of ``concurrent.futures`` carries out calls.

    Attributes:
        immediate: Whether a job is carried out while it is submitted.
    """

    immediate: bool

    @property
    def width(self) -> int:
        """How many jobs are carried out at the same time."""
        ...

    def submit(self, job: Job, tell: Tell) -> None:
        """Take a job; all that happens to it is told, its end or what broke last."""
        ...

    def stop(self) -> None:
        """End what is under way and begin nothing more; nothing is told after this returns."""
        ...


class Here:
    """Carries out each job in this process, at once."""

    immediate = True
    width = 1

    def submit(self, job: Job, tell: Tell) -> None:
        """Carry out a job; whatever it raises is raised."""
        tell(Event("begin", job))
        job.work(_Telling(job, tell), *job.arguments)
        tell(Event("end", job, 0, End()))

    def stop(self) -> None:
        """Do nothing: nothing is under way."""


class _Telling:
    """Reports within this process."""

    def __init__(self, job: Job, tell: Tell) -> None:
        self._job, self._tell = job, tell

    def step(self, active: int, steps: int) -> None:
        self._tell(Event("step", self._job, 0, (active, steps)))

    def rows(self, run: str, rows: Sequence[Row], measures: Sequence[Row]) -> None:
        self._tell(Event("rows", self._job, 0, (run, list(rows), list(measures))))

    def note(self, text: str) -> None:
        self._tell(Event("note", self._job, 0, text))


def check_for_cluster(jobs: int | None) -> None:
    """Refuse a number of processes at a time where a cluster carries jobs out.

    Raises:
        ConfigurationError: If there is one.
    """
    if jobs is not None:
        raise ConfigurationError(f"--jobs {jobs}: is of this machine; leave it to the cluster's workers")


def workers_of(address: str) -> Engine:
    """Return the workers of a Dask cluster, and say what is to be known of them.

    Args:
        address: Of the scheduler, or its file.

    Raises:
        ConfigurationError: If there is none, or Dask is not installed.
    """
    from lit_aux.runs.cluster import Cluster

    found = Cluster(address)
    for note in found.notes():
        print(f"note: {note}", flush=True)
    return found


class Folders(Here):
    """Carries out nothing: takes the rows of jobs whose folders say that they have ended."""

    def submit(self, job: Job, tell: Tell) -> None:
        """Tell a job's rows."""
        assert job.folder is not None
        tell(Event("begin", job))
        outcome = read_outcome(job.folder)
        end = End("it has not ended") if outcome is None else collected(job, outcome, 0, tell)
        tell(Event("end", job, 0, end))


class Processes:
    """Carries out several jobs at a time, each in a child process that a thread of this one looks after.

    Args:
        jobs: How many.
    """

    immediate = False

    def __init__(self, jobs: int) -> None:
        self.width = jobs
        self._children = Children(jobs)
        self._threads = ThreadPoolExecutor(jobs, thread_name_prefix="run")
        self._places: SimpleQueue[int] = SimpleQueue()
        for place in range(jobs):
            self._places.put(place)

    def prepare(self, job: Job) -> None:
        """Import what a job needs while this process does something else."""
        self._children.prepare(job.imports)

    def submit(self, job: Job, tell: Tell) -> None:
        """Take a job, to be carried out as soon as a thread is free."""
        self._threads.submit(self._carry_out, job, tell)

    def stop(self) -> None:
        """End the child processes and wait for the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._children.kill()
        self._threads.shutdown()
        self._children.close()

    def _carry_out(self, job: Job, tell: Tell) -> None:
        place = self._places.get()
        try:
            if job.parts:
                tell(Event("begin", job, place))
                end = self._children.carry_out(job, place, tell)
                if end.error:
                    tell(Event("note", job, place, f"{job.title}: {end.error}; each is tried by itself"))
            for one in job.parts or (job,):
                tell(Event("begin", one, place))
                tell(Event("end", one, place, self._children.carry_out(one, place, tell)))
        except BaseException as error:
            tell(Event("broken", job, place, error))
        finally:
            self._places.put(place)
