"""``python -m lit_aux.runs.server``: imports what jobs need, once, and forks child processes on request.

It computes nothing and asks for no GPU, so that forking is safe; its environment is the one that it was
started with. It talks over a Unix socket, whose number is its argument. A line of modules to import comes
first; a byte with a socket asks for a child, which is served at that socket; what comes back is a line
``PID CODE`` for each child that has ended. It ends when the socket is closed.
"""

import json
import os
import select
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from multiprocessing.connection import Connection

_LOOK = 0.2  # seconds


def main(control: socket.socket) -> None:
    """Import, then fork until nobody asks any more."""
    asked = json.loads(_line(control))
    sys.path += [place for place in asked["path"] if place not in sys.path]
    with _while_wanted(control):
        for module in asked["modules"]:
            with suppress(Exception):  # whoever needs it will say what is missing
                import_module(module)
    ended, wake = os.pipe()
    for end in (ended, wake):
        os.set_blocking(end, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    while True:
        ready, _, _ = select.select([control.fileno(), ended], [], [])
        if ended in ready:
            with suppress(BlockingIOError):
                os.read(ended, 4096)
            _tell_of_ends(control)
        if control.fileno() in ready:
            content, sockets, _, _ = socket.recv_fds(control, 1, 1)
            if not content:
                return
            for theirs in sockets:
                if os.fork() == 0:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    for end in (ended, wake):
                        os.close(end)
                    control.close()
                    _be_child(theirs)
                os.close(theirs)


@contextmanager
def _while_wanted(control: socket.socket) -> Iterator[None]:
    """End at once, not only after a long import, where nobody is at the other end of the socket."""
    hangup = select.poll()
    hangup.register(control, 0)  # seen also behind requests that nobody has read yet

    def look(*_: object) -> None:
        if hangup.poll(0):
            os._exit(0)

    before = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, _LOOK, _LOOK)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _be_child(theirs: int) -> None:
    """Do what a child does, and end without what this process would do at its own end."""
    from lit_aux.runs.child import serve

    code = 1
    try:
        code = serve(Connection(theirs))
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        code = end.code if isinstance(end.code, int) else 1
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
        os._exit(code % 256)


def _tell_of_ends(control: socket.socket) -> None:
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            control.sendall(f"{pid} {os.waitstatus_to_exitcode(status)}\n".encode())


def _line(control: socket.socket) -> bytes:
    """Read up to the end of a line, and no further: sockets may follow."""
    found = b""
    while not found.endswith(b"\n"):
        byte = control.recv(1)
        if not byte:
            sys.exit(0)
        found += byte
    return found


if __name__ == "__main__":
    with suppress(ConnectionError):  # the runner was killed before it read what ended
        main(socket.socket(fileno=int(sys.argv[1])))
