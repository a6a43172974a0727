"""One ``lit-aux fit`` of a configuration that is made here, not read from a file."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from lit_aux.errors import NonFiniteLossError

Fit = Callable[[list[str]], Any]


def fit_config(
    config: Mapping[str, Any],
    fit: Fit,
    arguments: Sequence[str] = (),
    output: Path | None = None,
) -> Path:
    """Fit a configuration; a fit that is refused at once leaves no folder behind.

    Args:
        config: The whole configuration; the run writes into its ``trainer.default_root_dir``.
        fit: Carries out the arguments of ``lit-aux`` in this process; raises when the run fails.
        arguments: More options of ``lit-aux fit``.
        output: File that takes what the fit prints; by default it is printed.

    Returns:
        The run's folder: the newest one with a ``summary.json``.

    Raises:
        NonFiniteLossError: If the loss became infinite; the folders stay.
    """
    root = Path(config["trainer"]["default_root_dir"])
    new = [folder for folder in (root, *root.parents) if not folder.exists()]
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as temporary:
        file = Path(temporary) / "config.yaml"
        file.write_text(yaml.safe_dump(dict(config), sort_keys=False))
        try:
            with _kept(output):
                fit(["fit", "--config", str(file), *arguments])
        except BaseException as error:
            if not isinstance(error, NonFiniteLossError):
                _tidy(root, new, output)
            raise
    newest = max(root.rglob("summary.json"), key=lambda path: path.stat().st_mtime)
    return newest.parent


@contextmanager
def _kept(output: Path | None) -> Iterator[None]:
    """Let a file take what is printed."""
    if output is None:
        yield
        return
    with output.open("w") as file, redirect_stdout(file):
        yield


def _tidy(root: Path, new: Sequence[Path], output: Path | None) -> None:
    """Remove the folders of a fit that wrote nothing into them."""
    if output is not None and not any(root.glob("version_*")):
        output.unlink(missing_ok=True)
    for folder in new:
        with suppress(OSError):  # others have put files there, or the fit itself took it away
            folder.rmdir()
