"""Files of pretrained networks: written whole, and by one process at a time."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from torch import Tensor

from lit_aux.errors import ConfigurationError
from lit_aux.locks import Lock
from lit_aux.pickles import read_weights, unreadable, write_weights


@contextmanager
def claimed(files: Iterable[Path]) -> Iterator[None]:
    """Be the only process that makes these files; wait while another makes one of them.

    Within, look again which of them are missing. A process that is killed leaves its claims to the others.

    Args:
        files: Those that are missing; their folder is made.
    """
    with ExitStack() as held:
        for path in sorted(set(files)):  # all in the same order, so that no two wait for each other
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = Lock(path.with_name(f".{path.name}.lock"))
            lock.wait(f"the pretrained network {path.name}")
            held.callback(lock.release)
        yield


def read(path: Path) -> Tensor:
    """Read the weights of one network.

    Raises:
        ConfigurationError: If the file is damaged or holds something else, naming it.
    """
    try:
        found = read_weights(path)
    except Exception as error:
        raise ConfigurationError(
            f"{path}: {unreadable(path, error)}; remove it, and it is trained again"
        ) from None
    if not isinstance(found, Tensor):
        raise ConfigurationError(
            f"{path}: holds no weights of pretraining; remove it, and it is trained again"
        )
    return found


def write(path: Path, weights: Tensor) -> None:
    """Write weights whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_weights(path, weights)
