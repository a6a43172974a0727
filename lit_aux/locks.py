"""Claims on what processes share, of one machine or of several, by files that say who holds them."""

import errno
import os
import re
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLease, Timeout

_CANNOT = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)
_LEASE = 120.0
"""Seconds after which a claim that its holder has not renewed is another's, where files cannot be locked."""
_AGAIN = 60.0
_SIGNED = re.compile(r"process \d+ on [\w.-]+ since [\d: -]+")
Say = Callable[[str], object]


def to_stderr(line: str) -> None:
    """Print a line for whoever waits."""
    print(line, file=sys.stderr, flush=True)


class Lock:
    """A claim that one process has at a time; the file is there while it is held, and says by whom.

    The system frees what a dead process held. On file systems that cannot lock (some NFS, FUSE and Lustre
    mounts: ENOLCK, ENOSYS), the claim is a file that its holder renews; one that was not renewed for two
    minutes, by the clock of who waits, is taken over, whichever machine its holder was on.

    Args:
        path: The file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock: BaseFileLock = FileLock(self.path, fallback_to_soft=False, thread_local=False)
        self._said = -_AGAIN

    @property
    def held(self) -> bool:
        """Whether this object holds the claim."""
        return self._lock.is_locked

    def acquire(self) -> bool:
        """Ask for the claim without waiting; return whether it is this process's now.

        Raises:
            OSError: If the file cannot be written.
        """
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            return False
        except OSError as error:
            if error.errno not in _CANNOT or isinstance(self._lock, SoftFileLease):
                raise
            lease = self.path.with_name(f"{self.path.name}.lease")
            self._lock = SoftFileLease(lease, lease_duration=_LEASE, thread_local=False)
            return self.acquire()
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        with suppress(OSError):  # of a full disk: the claim holds all the same
            self.path.write_text(f"process {os.getpid()} on {socket.gethostname()} since {since}\n")
        return True

    def wait(
        self, what: str, *, say: Say = to_stderr, poll: float = 0.2, timeout: float = float("inf")
    ) -> None:
        """Wait for the claim, and say now and then who holds it.

        Args:
            what: What is claimed, for people.
            say: Prints a line.
            poll: Seconds between attempts.
            timeout: Most seconds to wait.

        Raises:
            TimeoutError: If it was another's all the time.
            OSError: If the file cannot be written.
        """
        end = time.monotonic() + timeout
        while not self.acquire():
            if time.monotonic() > end:
                raise TimeoutError(f"{self.path}: held by {self.holder()}")
            self.tell(what, say)
            time.sleep(poll)

    def tell(self, what: str, say: Say) -> None:
        """Say who is waited for: at once, and again every minute."""
        if time.monotonic() - self._said >= _AGAIN:
            self._said = time.monotonic()
            say(f"waiting for {what}: {self.holder()} holds {self.path}; if it is stuck, end it")

    def holder(self) -> str:
        """Return who holds the claim, in words: process, machine and since when."""
        try:
            text = self.path.read_text(errors="replace")[:200].strip()
        except OSError:
            text = ""
        return text if _SIGNED.fullmatch(text) else "another process"

    def release(self) -> None:
        """Let others have it, and remove the file."""
        if not self.held:
            return
        with suppress(OSError):  # whoever opened it meanwhile sees that it is gone, and asks anew
            self.path.unlink(missing_ok=True)
        self._lock.release()


def remove_dead(folder: Path, pattern: str = "*.lock") -> None:
    """Remove lock files that processes which were killed have left in a folder.

    Args:
        folder: One that holds no other files of the pattern.
        pattern: Of their names.
    """
    with suppress(OSError):
        for path in folder.glob(pattern):
            lock = Lock(path)
            with suppress(OSError):
                if lock.acquire():
                    lock.release()
