"""Downloads whose failure is told in one line."""

from collections.abc import Callable

from lit_aux.errors import ConfigurationError


def fetch(name: str, download: Callable[[], object]) -> None:
    """Run a download.

    Args:
        name: What is fetched.
        download: Does it.

    Raises:
        ConfigurationError: If it fails, with the reason.
    """
    try:
        download()
    except (OSError, RuntimeError, ValueError) as error:  # no network, no space, a wrong checksum
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigurationError(f"--data.download true: {name} could not be fetched ({reason})") from None
