"""What two processes see, and that an evaluation of a single image does not leave one of them waiting."""

import subprocess
import sys

SCRIPT = """
import sys
import torch
from lightning import LightningModule, Trainer
from lit_aux.data import DigitsDataModule

class Module(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.BatchNorm1d(64), torch.nn.Linear(64, 3))
        self.trained, self.counts = [], torch.zeros(1)

    def training_step(self, batch, batch_idx):
        self.trained.append(len(batch["main"][1]))
        return self.net(batch["main"][0]).square().mean()

    def on_validation_epoch_start(self):
        self.counts.zero_()

    def validation_step(self, batch, batch_idx):
        for x, y in batch.values():
            self.net(x)
            self.counts += len(y)

    test_step = validation_step

    def on_validation_epoch_end(self):
        total = self.trainer.strategy.reduce(self.counts.clone(), reduce_op="sum")
        sizes = self.all_gather(torch.tensor(self.trained))
        assert sizes.tolist() == [[4, 4, 3]] * 2, sizes
        if self.trainer.is_global_zero:
            print("validated", int(total), flush=True)

    def on_test_epoch_end(self):
        total = self.trainer.strategy.reduce(self.counts.clone(), reduce_op="sum")
        if self.trainer.is_global_zero:
            print("tested", int(total), flush=True)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=.1)

data = DigitsDataModule(n_main=21, n_val=1, n_test=3, size=8, channels=1, batch_size=4, seed=0)
data.set_phase(["main"])
trainer = Trainer(accelerator="cpu", devices=2, strategy="ddp_fork", max_epochs=1, logger=False,
                  enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
                  num_sanity_val_steps=0)
if __name__ == "__main__":
    module = Module()
    trainer.fit(module, data)
    trainer.test(module, data)
"""


def test_every_image_is_evaluated_once_over_two_processes(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=120, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "validated 1" in done.stdout
    assert "tested 3" in done.stdout
