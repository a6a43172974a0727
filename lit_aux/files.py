"""Files that appear whole or not at all."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a path beside a file; what is written there takes the file's place when the block has ended well.

    Until then the file is as it was. Nothing else is left where the block raises.

    Args:
        path: The file; its folder is there.

    Raises:
        OSError: If it cannot be put in its place.
    """
    # process numbers are not enough: machines that share a folder have the same ones
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        yield part
        part.replace(path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all; it is on the disk when this returns.

    Args:
        path: The file; its folder is there.
        content: What it shall hold; text is written as UTF-8.

    Raises:
        OSError: If it cannot be written; the file is as before then.
    """
    with whole(path) as part, part.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
