"""Whether a person sits before a desktop, and opening files there."""

import os
import sys
import webbrowser
from pathlib import Path

_ELSEWHERE = ("CI", "SSH_CONNECTION", "SSH_CLIENT", "SSH_TTY", "SLURM_JOB_ID", "LOCAL_RANK")
"""Variables of sessions and processes in which no window opens, or not before the one who asked."""
SWITCH = "LIT_AUX_DISPLAY"


def has_display() -> bool:
    """Whether a window may open: an interactive terminal of a desktop session, not SSH, CI or a job.

    ``LIT_AUX_DISPLAY=0`` in the environment says no.
    """
    terminal = all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout))
    if os.environ.get(SWITCH) == "0" or not terminal or any(map(os.environ.get, _ELSEWHERE)):
        return False
    return sys.platform in ("darwin", "win32") or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))


def open_file(path: Path) -> bool:
    """Open a file in the browser where there is a display; return whether it was.

    A browser of the terminal, which would take it over, opens nothing.

    Args:
        path: The file: a page or a picture.
    """
    if not has_display():
        return False
    try:
        browser = webbrowser.get()
        waits = isinstance(browser, webbrowser.GenericBrowser)
        if waits and not isinstance(browser, webbrowser.BackgroundBrowser):
            return False
        return browser.open(path.resolve().as_uri())
    except (webbrowser.Error, OSError):
        return False
