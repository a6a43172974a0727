"""The first checkpoint of a phase: held in memory until it is due or somebody wants it, and then the same."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.utilities.exceptions import SIGTERMException
from resume_helpers import Dying, Killed, in_process, outcome
from torch import Tensor, nn
from toys import ToyData, toy_module, toy_trainer

from lit_aux.errors import NonFiniteLossError
from lit_aux.phases import PhaseCheckpoint, PhaseSettings, PhaseTrainer
from lit_aux.phases import checkpoint as checkpoints
from lit_aux.phases.checkpoint import _copied


class Looking(Callback):
    """Notes after each epoch but the last whether the phase's file is there."""

    def __init__(self) -> None:
        self.there: list[bool] = []

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch:
            self.there.append(file_of(trainer, pl_module.phase.name).exists())


def file_of(trainer: Any, phase: str) -> Path:
    return Path(trainer.log_dir) / "checkpoints" / f"{phase}.ckpt"


def fit(
    root: Path, *extra: Callback, ckpt_path: str | None = None, epochs: int = 4, **settings: Any
) -> tuple[PhaseTrainer, nn.Module]:
    """Pretrain and finetune for as many epochs, with momenta and dropout that a resume must restore."""
    torch.manual_seed(5)
    each = {
        "max_epochs": epochs,
        "optimizer": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        **settings,
    }
    model = toy_module(pretrain_settings=PhaseSettings(**each), finetune_settings=PhaseSettings(**each))
    trainer = toy_trainer(root, callbacks=[*extra], phase_store=False)
    trainer.fit(model, datamodule=ToyData(), ckpt_path=ckpt_path)
    return trainer, model


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the toy network's file seem to cost hours."""
    monkeypatch.setattr(checkpoints, "_RATE", 1.0)


def weights_in(path: Path) -> tuple[int, dict[str, Tensor]]:
    content = torch.load(path, weights_only=True)
    return content["epoch"], content["state_dict"]


@pytest.mark.parametrize(("rate", "expected"), [(None, [True] * 3), (1.0, [False] * 3)])
def test_small_states_are_saved_at_once_and_large_ones_at_the_end(
    rate: float | None, expected: list[bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if rate is not None:
        monkeypatch.setattr(checkpoints, "_RATE", rate)
    looking = Looking()
    trainer, model = fit(tmp_path, looking)
    assert looking.there == expected * 2
    _, weights = weights_in(file_of(trainer, "finetune"))
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("hook", "kill", "raised"),
    [
        ("on_train_epoch_end", in_process, Killed),
        ("on_train_epoch_end", lambda: os.kill(os.getpid(), signal.SIGTERM), SIGTERMException),
        ("on_train_end", in_process, Killed),
    ],
)
def test_an_exception_and_a_signal_leave_what_was_held(
    hook: str, kill: Callable[[], Any], raised: type[BaseException], tmp_path: Path, held: None
) -> None:
    whole, expected = fit(tmp_path / "whole")
    dying = Dying(hook, "finetune", 2, kill)
    with pytest.raises(raised):
        fit(tmp_path / "cut", dying)
    (path,) = (tmp_path / "cut").rglob("finetune.ckpt")
    assert weights_in(path)[0] == 0, "the first epoch's end"
    resumed, model = fit(tmp_path / "cut", ckpt_path="last")
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in expected.state_dict().items())
    assert outcome(resumed) == outcome(whole)


def test_what_is_held_is_what_would_have_been_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("written", "held"):
        with pytest.raises(Killed):
            fit(tmp_path / name, Dying("on_train_epoch_end", "pretrain", 1, in_process))
        monkeypatch.setattr(checkpoints, "_RATE", 1.0)
    # where epochs are fast the file is of the first epoch in both: Dying comes before the checkpoint
    files = [next((tmp_path / name).rglob("pretrain.ckpt")) for name in ("written", "held")]
    one, other = (torch.load(file, weights_only=True) for file in files)
    assert one.keys() == other.keys()
    for key in ("epoch", "global_step", "loops", "lr_schedulers"):
        assert one[key] == other[key], key
    assert all(torch.equal(value, other["state_dict"][name]) for name, value in one["state_dict"].items())
    states = [content["optimizer_states"][0]["state"] for content in (one, other)]
    momenta = [[state["momentum_buffer"] for state in each.values()] for each in states]
    assert momenta[0]
    assert all(torch.equal(a, b) for a, b in zip(*momenta, strict=True))


def test_who_asks_for_the_file_finds_it(tmp_path: Path, held: None) -> None:
    class Asking(Callback):
        paths: list[str] = []

        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 2:
                path = trainer.checkpoint_callback.best_model_path
                assert Path(path) == file_of(trainer, pl_module.phase.name)
                assert weights_in(Path(path))[0] == 0
                self.paths.append(path)

    asking = Asking()
    fit(tmp_path, asking)
    assert len(asking.paths) == 2


def test_a_loss_that_is_not_finite_names_the_file(tmp_path: Path, held: None) -> None:
    class Breaking(Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 2:
                with torch.no_grad():
                    next(pl_module.net.parameters()).fill_(float("nan"))

    with pytest.raises(NonFiniteLossError, match=r"last good checkpoint: (.*pretrain\.ckpt)") as raised:
        fit(tmp_path, Breaking())
    path = Path(str(raised.value).rpartition("last good checkpoint: ")[2])
    assert all(bool(value.isfinite().all()) for value in weights_in(path)[1].values())


def test_the_first_file_is_due_when_its_share_is_reached_or_after_half_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = {"now": 0.0}
    monkeypatch.setattr(
        checkpoints, "time", SimpleNamespace(monotonic=lambda: clock["now"], strftime=time.strftime)
    )

    class Ticking(Callback):
        """Lets each epoch take ten seconds."""

        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            clock["now"] += 10

    saved: dict[float, list[bool]] = {}
    for seconds in (0.1, 0.3, 100.0):  # what saving is taken to cost: 5, 15 and 5,000 seconds' share
        monkeypatch.setattr(checkpoints, "_size", lambda *_, seconds=seconds: seconds * checkpoints._RATE)
        monkeypatch.setattr(checkpoints, "_MOST_HELD", 1 << 60)
        looking = Looking()
        fit(tmp_path / str(seconds), Ticking(), looking, epochs=5)
        saved[seconds] = looking.there[:4]
    assert saved == {
        0.1: [True] * 4,
        0.3: [False] + [True] * 3,
        100.0: [False, False, True, True],
    }


def test_nothing_is_held_that_is_large_or_that_several_processes_save(
    tmp_path: Path, held: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_MOST_HELD", "_can_hold"):
        with monkeypatch.context() as patch:
            patch.setattr(checkpoints, name, 0 if name == "_MOST_HELD" else lambda _: False)
            looking = Looking()
            fit(tmp_path / name, looking)
        assert looking.there[0], name


def test_what_cannot_be_copied_is_written_at_once(tmp_path: Path, held: None) -> None:
    class Uncopyable(Callback):
        def state_dict(self) -> dict[str, Any]:
            return {"odd": Odd()}

    class Odd(dict[str, int]):
        def __deepcopy__(self, memo: Any) -> Any:
            raise TypeError("not to be copied")

        def __reduce__(self) -> Any:
            return dict, ()

    looking = Looking()
    fit(tmp_path, Uncopyable(), looking)
    assert looking.there[0]


def test_copies_share_what_was_shared_and_nothing_with_the_original() -> None:
    weight = torch.arange(6.0).view(2, 3)
    content = {"a": weight.detach(), "b": [weight.detach(), weight.t()], "n": 1}
    copied = _copied(content)
    assert copied["a"].data_ptr() == copied["b"][0].data_ptr() != weight.data_ptr()
    weight.zero_()
    assert torch.equal(copied["a"], torch.arange(6.0).view(2, 3))
    assert torch.equal(copied["b"][1], torch.arange(6.0).view(2, 3).t())
    assert copied["n"] == 1


def test_a_budget_of_one_saves_every_epoch(tmp_path: Path, held: None) -> None:
    looking = Looking()
    fit(tmp_path, looking, PhaseCheckpoint(budget=1.0))
    assert all(looking.there)
