"""Writing and reading a ResNet-18's checkpoint, against Lightning's own way.

Lightning's writes where ``$TMPDIR`` is and copies from there, waits for no disk, and takes what it reads for
whole. Ours writes beside the file that it replaces, waits for the disk, and compares every record with its
checksum.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO

from lit_aux.models import TimmBackbone
from lit_aux.modules import SingleTaskModule
from lit_aux.phases.checkpoint import WholeCheckpointIO

Row = tuple[str, float, str]
Clock = Callable[[], float]


def checkpoint(name: str) -> dict[str, Any]:
    """Return what training with momentum writes: weights, as much again of the optimizer, and the rest.

    Args:
        name: A network of timm's.
    """
    module = SingleTaskModule(TimmBackbone(name), {"main": 10})
    weights = module.state_dict()
    momenta = {i: {"momentum_buffer": torch.randn_like(p)} for i, p in enumerate(module.parameters())}
    optimizer = {"state": momenta, "param_groups": [{"lr": 0.1, "params": [*momenta]}]}
    return {"state_dict": weights, "optimizer_states": [optimizer], "epoch": 1, "global_step": 100}


def _seconds(io: TorchCheckpointIO, content: dict[str, Any], path: Path, clock: Clock) -> tuple[float, float]:
    began = clock()
    io.save_checkpoint(content, path)
    written = clock()
    io.load_checkpoint(path, weights_only=True)
    return written - began, clock() - written


def benchmark_checkpoints(
    repetitions: int = 5, clock: Clock = time.perf_counter, quick: bool = False
) -> list[Row]:
    """Return rows of medians over alternating repetitions.

    Args:
        repetitions: How many.
        clock: Returns seconds.
        quick: Whether to take a network that is tiny, which shows nothing but that it runs.
    """
    content = checkpoint("test_resnet" if quick else "resnet18")
    ours, theirs = WholeCheckpointIO(), TorchCheckpointIO()
    rounds = []
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.ckpt"
        for _ in range(3 * repetitions + 1):
            pair = []
            for io in (theirs, ours):
                os.sync()  # what one has left to the system to write is not the other's to wait for
                pair.append(_seconds(io, content, path, clock))
            rounds.append(pair)
        size = path.stat().st_size / 1e6
    rounds = rounds[1:]
    (write, read), (our_write, our_read) = (
        tuple(median(column) for column in zip(*(pair[side] for pair in rounds), strict=True))
        for side in (0, 1)
    )
    return [
        ("checkpoint, megabytes", size, ""),
        ("Lightning's TorchCheckpointIO: writing, seconds", write, ""),
        ("Lightning's TorchCheckpointIO: reading, seconds", read, ""),
        ("ours: writing, seconds", our_write, ""),
        ("ours: reading with checksums, seconds", our_read, ""),
        (
            "writing and checking, times Lightning's",
            median(sum(mine) / sum(other) for other, mine in rounds),
            "<= 1.3",
        ),
    ]
