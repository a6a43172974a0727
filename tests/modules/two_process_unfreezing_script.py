"""What ``test_unfreezing.py`` runs under two processes: ``python ... FOLDER``."""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.callbacks import BackboneFinetuning
from torch import nn

EPOCHS = 4
UNFREEZE = {0: ["net.readout.*"], 1: ["net.backbone.4.*"], 3: ["net.backbone.*"]}


class Watch(Callback):
    """Notes of each epoch what trains, what has moved and what the optimizer has a state of."""

    changes_training = False

    def __init__(self) -> None:
        self.training: list[set[str]] = []
        self.moved: list[set[str]] = []
        self.stated: list[set[str]] = []
        self.modes: list[dict[str, bool]] = []
        self.statistics: list[set[str]] = []
        self.weights: list[Any] = []
        self._epoch = -1

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch == self._epoch:
            return
        self._epoch = trainer.current_epoch
        self.training.append({n for n, p in pl_module.named_parameters() if p.requires_grad})
        self.modes.append(
            {n: m.training for n, m in pl_module.named_modules() if [*m.parameters(recurse=False)]}
        )
        self._before = {n: p.detach().clone() for n, p in pl_module.state_dict().items()}

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.weights.append(torch.cat([p.detach().flatten() for p in pl_module.parameters()]))
        if batch_idx + 1 < trainer.num_training_batches:
            return
        state = trainer.optimizers[0].state
        named = dict(pl_module.named_parameters())
        self.moved.append({n for n, p in named.items() if not torch.equal(p, self._before[n])})
        self.stated.append({n for n, p in named.items() if state.get(p)})
        now = pl_module.state_dict()
        moved = {n for n in now if "running_mean" in n and not torch.equal(now[n], self._before[n])}
        self.statistics.append({n.removesuffix(".running_mean") for n in moved})


class Save(Callback):
    """Leaves a checkpoint in the middle of an epoch."""

    def __init__(self, path: Path, epoch: int, batch: int) -> None:
        self.path, self.at = path, (epoch, batch)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (trainer.current_epoch, batch_idx) == self.at:
            trainer.save_checkpoint(self.path)


def network() -> nn.Module:
    """Return a backbone whose last layer is called as that of the toys."""
    parts = [nn.Flatten(), nn.Linear(64, 9), nn.Tanh(), nn.Identity(), nn.Linear(9, 8), nn.Tanh()]
    return nn.Sequential(*parts)


RUNS: dict[str, dict[str, Any]] = {
    "plain": {"unfreeze": UNFREEZE},
    "PCGrad": {"unfreeze": UNFREEZE, "module": {"aggregator": "PCGrad"}},
    "uncertainty": {"unfreeze": UNFREEZE, "module": {"weighting": "uncertainty"}},
    "backbone": {"callbacks": [1]},
    "balanced": {"data": {"balance_batches": True}},
}


def run(name: str, folder: Path, processes: int, ckpt_path: Path | None = None) -> Any:
    """Train a module on digits, in joint batches of twelve; return it and what was watched."""
    from lit_aux.data import DigitsDataModule
    from lit_aux.modules import MultiTaskModule
    from lit_aux.phases import Phase, PhaseTrainer

    seed_everything(0, verbose=False)
    options = dict(RUNS[name])
    extra, served = options.pop("module", {}), options.pop("data", {})
    options["callbacks"] = [
        BackboneFinetuning(epoch, lambda _: 1.5, backbone_initial_lr=0.05)
        for epoch in options.get("callbacks", [])
    ]
    size = 12 // processes
    data = DigitsDataModule(
        n_main=24, n_aux=24, n_val=8, n_test=8, size=8, channels=1, batch_size=size, seed=0, **served
    )
    phase = Phase(name="train", tasks=["main", "aux"], optimizer=sgd, max_epochs=EPOCHS, **options)
    module = MultiTaskModule(network(), data.num_classes, num_features=8, phases=[phase], **extra)
    watch = Watch()
    several = {"devices": 2, "strategy": "ddp"} if processes > 1 else {"devices": 1}
    trainer = PhaseTrainer(
        accelerator="cpu",
        precision="64-true",
        default_root_dir=folder / "runs",
        callbacks=[watch, *([] if ckpt_path else [Save(folder / f"{name}-{processes}.ckpt", 2, 0)])],
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        **several,
    )
    trainer.fit(module, datamodule=data, ckpt_path=None if ckpt_path is None else str(ckpt_path))
    weights = {n: p.detach().clone() for n, p in module.named_parameters()}
    return {"training": watch.training, "weights": weights, "rank": trainer.global_rank}


def sgd(parameters: Any) -> Any:
    return torch.optim.SGD(parameters, lr=0.3, momentum=0.9, weight_decay=0.1)


if __name__ == "__main__":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.set_num_threads(1)
    root = Path(sys.argv[1])
    for each in RUNS:
        found = run(each, root, 2)
        torch.save(found, root / f"{each}-{found['rank']}.pt")
        found = run(each, root, 2, root / f"{each}-2.ckpt")
        torch.save(found, root / f"{each}-again-{found['rank']}.pt")
