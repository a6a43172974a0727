"""Runs per minute of finetunings in one batch, beside the same runs one after another.

ResNet-18 on 32 x 32 pixels, of random images: whole runs from the seed to the end, of 100 epochs each. On a
CPU, where ``lit-aux sweep`` makes no batches, four short runs show what they would cost.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.loggers import CSVLogger

from benchmarks.silence import in_silence
from lit_aux import PhaseSettings, PhaseTrainer
from lit_aux.batched import fit_together
from lit_aux.data import ArraysDataModule
from lit_aux.models import TimmBackbone
from lit_aux.modules import SingleTaskModule

Clock = Callable[[], float]
Row = tuple[str, float, str]
_SGD: Any = partial(torch.optim.SGD, lr=0.01, momentum=0.9)


def _run(folder: Path, n: int, epochs: int, seed: int, network: str) -> None:
    """Carry out one run."""
    seed_everything(seed, verbose=False)
    images = torch.randn(n, 3, 32, 32)
    data = ArraysDataModule({"main": (images, images.mean((1, 2, 3)) > 0)}, test_fraction=0, batch_size=20)
    settings = PhaseSettings(max_epochs=epochs, optimizer=_SGD)
    module = SingleTaskModule(TimmBackbone(network), {"main": 2}, settings=settings)
    options: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False}
    PhaseTrainer(default_root_dir=folder, logger=CSVLogger(folder), **options).fit(module, data)


@in_silence
def _seconds(together: bool, clock: Clock, count: int, **how: Any) -> float:
    with TemporaryDirectory() as folder:
        runs = [partial(_run, Path(folder, str(seed)), seed=seed, **how) for seed in range(count)]
        begin = clock()
        if together:
            for end in fit_together(runs):
                if end.error or end.reason:
                    raise RuntimeError(f"a run was not in the batch: {end}")
        else:
            for run in runs:
                run()
        return clock() - begin


def benchmark_batched(
    repetitions: int = 3, clock: Clock = time.perf_counter, quick: bool = False
) -> list[Row]:
    """Return rows of what was measured, its value, and the target; ``quick`` tells nothing, but soon."""
    on_gpu = torch.cuda.is_available()
    count, epochs = (16, 100) if on_gpu and not quick else (4, 10)
    how: dict[str, Any] = {
        "network": "test_resnet" if quick else "resnet18",
        "epochs": 2 if quick else epochs,
    }
    rows: list[Row] = []
    for n in (20, 200) if on_gpu else (20,):
        turns: dict[bool, list[float]] = {True: [], False: []}
        for turn in range(repetitions):
            for together in (True, False) if turn % 2 else (False, True):
                turns[together].append(_seconds(together, clock, count, n=n, **how))
        what = f"{count} runs of {n} images on a {'GPU' if on_gpu else 'CPU'}"
        rows += [
            (f"{what}, one by one: runs per minute", 60 * count / median(turns[False]), ""),
            (f"{what}, in a batch: runs per minute", 60 * count / median(turns[True]), ""),
        ]
        ratio = median(a / b for a, b in zip(turns[False], turns[True], strict=True))
        rows.append((f"{what}: times as many in a batch", ratio, ">= 5" if on_gpu else ""))
    return rows
