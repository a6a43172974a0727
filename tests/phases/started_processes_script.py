"""What ``test_started_processes.py`` runs: fits whose strategy starts processes of its own."""

import sys
import warnings
from pathlib import Path

import torch
from lightning.pytorch import seed_everything

sys.path += [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "callbacks")]

from callback_helpers import Foreign, train_loader, trainer, val_loader
from task_helpers import Stranger, data
from toys import TASKS, ToyData, toy_backbone, toy_trainer

from lit_aux.callbacks import (
    KMeansInertia,
    RepresentationDimensionality,
    StopAtTrainingLoss,
    TrajectoryLog,
    WeightRescaling,
    WiSEFT,
)
from lit_aux.modules import SingleTaskModule
from lit_aux.reporting import report


def plain(folder: Path, strategy: str) -> dict:
    """A stranger's Trainer: everything that was measured, by callback."""
    seed_everything(0, verbose=False)
    watching = [
        RepresentationDimensionality(["net.0", "net.5"]),
        KMeansInertia("net.5", [2]),
        WeightRescaling(0.5),
        StopAtTrainingLoss(100.0),
    ]
    options = {"strategy": strategy, "devices": 1}
    trainer(folder, *watching, **options).fit(Foreign(), train_loader(), val_loader())
    tasks = [TrajectoryLog(data=data()), WiSEFT([0, 1], data=data() | {"val": data()["train"]})]
    if strategy != "ddp_spawn":
        trainer(folder, *tasks, **options).fit(Stranger())
    assert not list(Path(trainer(folder).default_root_dir).glob("*.part"))
    return {
        "rows": [
            [repr(row) for row in each.results]
            for each in (*watching[:2], *tasks)
            if hasattr(each, "results")
        ],
        "best": tasks[1].best if strategy != "ddp_spawn" else None,
        "rescaled": (watching[2].names, watching[2].norm_before, watching[2].norm_after),
        "reason": watching[3].stop_reason,
    }


def phased(folder: Path, strategy: str) -> dict:
    """A run of one phase, with its summary."""
    seed_everything(1, verbose=False)
    measuring = RepresentationDimensionality(["net.backbone.0"], num_samples=10)
    options = {"strategy": strategy, "devices": 1}
    run = toy_trainer(folder, callbacks=[measuring], max_epochs=2, **options)
    module = SingleTaskModule(toy_backbone(), TASKS, task="main")
    run.fit(module, datamodule=ToyData())
    where = report(run)
    result = run.phase_results[0]
    return {
        "result": {k: v for k, v in result.asdict().items() if k not in ("seconds", "checkpoint")},
        "checkpoint": bool(result.checkpoint) and Path(result.checkpoint).is_file(),
        "rows": [repr(row) for row in measuring.results],
        "steps": (run.global_step, run.current_epoch),
        "files": sorted(path.name for path in where.iterdir()),
        "measures": (where / "measures.csv").read_text().count("pr_after"),
    }


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    here = Path(sys.argv[1])
    found = {
        (kind.__name__, strategy): kind(here / f"{kind.__name__}-{strategy}", strategy)
        for strategy in ("ddp_fork", "ddp_spawn", "ddp")  # what starts threads in this process comes last
        for kind in (plain, phased)
        if (kind, strategy) != (phased, "ddp_spawn")
    }
    torch.save(found, here / "found.pt")
