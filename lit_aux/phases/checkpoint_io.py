"""How the Trainer writes and reads checkpoint files: whole or not at all, and checked."""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.fabric.utilities.cloud_io import _is_local_file_protocol
from lightning.fabric.utilities.types import _PATH

from lit_aux.phases.state import check_archive, load_plainly
from lit_aux.pickles import write_weights

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes a file beside the one that it replaces, and reads what is not damaged.

    Lightning's own writes where ``$TMPDIR`` is and copies from there, which a kill may cut off in the middle
    of the only file. Addresses such as ``s3://`` are left to Lightning.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint; the file is as before until all of it is on the disk."""
        if storage_options is not None or not _is_local_file_protocol(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(str(path).removeprefix("file://"))
        target.parent.mkdir(parents=True, exist_ok=True)
        write_weights(target, checkpoint)

    def load_checkpoint(
        self, path: _PATH, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint on the CPU.

        Raises:
            ConfigurationError: If it is missing, damaged or no checkpoint, or would run code though nobody
                said ``weights_only=False``.
        """
        if not _is_local_file_protocol(path):
            return super().load_checkpoint(path, weights_only=weights_only)
        target = str(path).removeprefix("file://")
        if weights_only is False:
            check_archive(target, "ckpt_path")
            return super().load_checkpoint(target, weights_only=False)
        # not mapped: what is restored is changed in place, and outlives the file
        content: dict[str, Any] = load_plainly(target, mmap=False)
        return content


def write_checkpoints_atomically(trainer: "Trainer") -> None:
    """Let a Trainer write its checkpoints so, unless it or its strategy has a way of its own."""
    strategy = trainer.strategy
    if strategy._checkpoint_io is None:
        with suppress(
            NotImplementedError
        ):  # DeepSpeed and FSDP's shards are folders that they write themselves
            strategy.checkpoint_io = WholeCheckpointIO()
