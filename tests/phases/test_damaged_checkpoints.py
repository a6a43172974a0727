"""Checkpoints and stored phases that are damaged, of another kind, or say what cannot be."""

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from toys import ToyData, toy_module, toy_trainer

from lit_aux.cli import AuxiliaryCLI, main
from lit_aux.errors import ConfigurationError
from lit_aux.phases import PhaseSettings, PhaseTrainer
from lit_aux.phases.checkpoint import WholeCheckpointIO
from lit_aux.phases.state import check_archive, check_finite, read_checkpoint

Content = dict[str, Any]


def fit(root: Path, **options: Any) -> tuple[PhaseTrainer, nn.Module]:
    seed_everything(3)
    ckpt_path = options.pop("ckpt_path", None)
    short = PhaseSettings(max_epochs=1)
    model = toy_module(pretrain_settings=short, finetune_settings=short, reestimate_batchnorm=False)
    quick = {"phase_store": False, "test_after_phase": False, "limit_val_batches": 0, "logger": False}
    trainer = toy_trainer(root, **{**quick, **options})
    trainer.fit(model, datamodule=ToyData(), ckpt_path=ckpt_path)
    return trainer, model


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return the checkpoint of a run's end."""
    trainer, _ = fit(tmp_path_factory.mktemp("written"))
    return Path(str(trainer.phase_results[1].checkpoint)).read_bytes()


class Runs:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("it-ran",)


def zeroed(content: bytes) -> bytes:
    """Return an archive in which the middle of its largest record is zeroed: its size is as before."""
    place = content.index(b"PK\x03\x04", 1) - 2500
    middle = max(place, len(content) // 3)
    return content[:middle] + bytes(2000) + content[middle + 2000 :]


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "text": lambda content: b"epoch,loss\n1,2\n",
    "flipped": flipped,
    "zeroed": zeroed,
    "pickle": lambda content: pickle.dumps({"state_dict": Runs()}),
}


@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_one_line(damage: str, verb: str, written: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad.ckpt"
    path.write_bytes(DAMAGE[damage](written))
    trainer = toy_trainer(tmp_path / "run", phase_store=False, logger=False)
    with pytest.raises(ConfigurationError, match=r"^ckpt_path: '.*bad\.ckpt' ") as error:
        getattr(trainer, verb)(toy_module(), datamodule=ToyData(), ckpt_path=str(path))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("verb", ["validate", "test"])
def test_the_command_line_says_it_in_one_line(
    verb: str,
    written: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    found = {verb: AuxiliaryCLI.subcommands()[verb]}  # building the other parsers takes a while
    monkeypatch.setattr(AuxiliaryCLI, "subcommands", staticmethod(lambda: found))
    monkeypatch.setattr("sys.argv", ["lit-aux"])
    with zipfile.ZipFile("code.ckpt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"state_dict": Runs()}, protocol=2))
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/version", "3\n")
    words = [
        *("--trainer.accelerator=cpu", "--model=lit_aux.modules.SingleTaskModule", "--ckpt_path=code.ckpt"),
        *("--model.backbone=lit_aux.models.TimmBackbone", "--model.backbone.name=test_resnet"),
        *(
            "--data=lit_aux.data.DigitsDataModule",
            "--trainer.enable_progress_bar=false",
            "--trainer.logger=false",
        ),
    ]
    assert main([verb, *words]) == 2
    (line,) = (text for text in capsys.readouterr().err.splitlines() if "error" in text)
    assert "code.ckpt" in line
    assert "wants to run code" in line
    assert "mkdir" in line
    assert "weights_only" not in line
    assert not Path("it-ran").exists()


def edited(**changes: Any) -> Callable[[Content], None]:
    return lambda content: content["lit_aux"].update(changes)


def without(*names: str) -> Callable[[Content], None]:
    def edit(content: Content) -> None:
        *above, last = names
        for name in above:
            content = content[name]
        del content[last]

    return edit


EDITS: dict[str, tuple[Callable[[Content], None], str]] = {
    "empty entry": (lambda c: c.update(lit_aux={}), "lacks 'phase'"),
    "entry of another kind": (lambda c: c.update(lit_aux=[1]), "says nothing of its phase"),
    "no entry": (without("lit_aux"), "names no phase"),
    "no random state": (without("lit_aux", "random_state"), "lacks 'random_state'"),
    "empty random state": (edited(random_state={}), "'random_state' that no generator takes"),
    "short random state": (
        lambda c: c["lit_aux"]["random_state"].update(torch=torch.zeros(3, dtype=torch.uint8)),
        "'random_state' that no generator takes",
    ),
    "phase 9": (edited(phase=9), "is of phase 9, the run has 0 to 1"),
    "phase -1": (edited(phase=-1), "is of phase -1"),
    "phase of text": (edited(phase="finetune"), "a 'phase' that is str"),
    "phase without its results": (edited(results=[]), "knows how 0 phases ended"),
    "a result of nothing": (edited(results=[{}]), "does not say how a phase went"),
    "a result of more": (edited(current={"name": "a", "tasks": [], "x": 1}), "does not say how a phase went"),
    "steps of text": (edited(logged_steps="many"), "a 'logged_steps' that is str"),
    "metrics of text": (edited(metrics="none"), "a 'metrics' that is str"),
    "no optimizer": (without("optimizer_states"), "lacks 'optimizer_states'"),
    "optimizer None": (lambda c: c.update(optimizer_states=None), "'optimizer_states' that is NoneType"),
    "too few optimizers": (
        lambda c: c.update(optimizer_states=[]),
        "has 0 optimizer_states, this run needs 1",
    ),
    "a foreign optimizer": (lambda c: c.update(optimizer_states=[{"a": 1}]), "cannot be restored here"),
    "no loops": (without("loops"), "lacks 'loops'"),
    "foreign loops": (lambda c: c.update(loops={"fit": 1}), "cannot be restored here"),
    "no weights": (lambda c: c.update(state_dict=None), "'state_dict' that is not made of tensors"),
    "weights of numbers": (
        lambda c: c.update(state_dict={"a": 1}),
        "'state_dict' that is not made of tensors",
    ),
    "foreign weights": (lambda c: c.update(state_dict={"a": torch.ones(1)}), "another network"),
    "no weights at all": (without("state_dict"), "holds no 'state_dict'"),
    "callbacks of text": (lambda c: c.update(callbacks="none"), "cannot be restored here"),
    "seconds that are none": (edited(seconds=float("nan")), "a 'seconds' of nan"),
    "steps below none": (edited(logged_steps=-5), "a 'logged_steps' of -5"),
    "options of numbers": (edited(depends={"options": 3}), "3.* in 'depends'"),
    "options in lists": (edited(depends={"options": {"a": [1]}}), "in 'depends'"),
    "data of numbers": (edited(files={"data of phase pretrain": 3}), "'3' in 'files'"),
    "limits in lists": (edited(limits={"phase finetune.max_epochs": [3]}), r"'\[3\]' in 'limits'"),
    "schedules of numbers": (edited(schedules=3), "a 'schedules' that is int"),
    "metrics that are none": (edited(metrics={"a": "b"}), "'b' in 'metrics'"),
    "continued nowhere": (edited(continued=["x"]), "'x' in 'continued'"),
    "another phase has ended": (edited(current={"name": "a", "tasks": []}), "says that a has ended"),
    "other phases before": (
        edited(results=[{"name": "a", "tasks": []}]),
        "tells of phases a before finetune",
    ),
    "steps of a phase below none": (
        edited(current={"name": "finetune", "tasks": [], "steps": -1}),
        "does not say how a phase went",
    ),
    "weights of whole numbers": (
        lambda c: c["state_dict"].update({"net.backbone.0.bias": torch.ones(12, dtype=torch.int32)}),
        "as int32, the network has float32",
    ),
    "sparse weights": (
        lambda c: c["state_dict"].update({"net.backbone.0.weight": torch.ones(12, 6).to_sparse()}),
        "as float32 sparse_coo, the network has float32",
    ),
    "weights without values": (
        lambda c: c["state_dict"].update({"net.backbone.0.bias": torch.ones(12, device="meta")}),
        "as float32 without values",
    ),
    "averages that are NaN": (
        lambda c: next(iter(c["optimizer_states"][0]["state"].values()))["exp_avg"].fill_(torch.nan),
        "'exp_avg' of Adam is NaN",
    ),
    "averages of another shape": (
        lambda c: next(iter(c["optimizer_states"][0]["state"].values())).update(exp_avg=torch.ones(2)),
        r"'exp_avg' of Adam has shape \(2,\)",
    ),
    "NaN weights": (
        lambda c: c["state_dict"]["net.backbone.0.weight"].fill_(torch.nan),
        r"the weights 'net\.backbone\.0\.weight' in '.*' are NaN or infinite",
    ),
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_file_that_says_what_cannot_be_is_one_line(edit: str, written: bytes, tmp_path: Path) -> None:
    path = tmp_path / "odd.ckpt"
    path.write_bytes(written)
    content = torch.load(path, weights_only=True)
    change, named = EDITS[edit]
    change(content)
    torch.save(content, path)
    with pytest.raises(ConfigurationError, match=rf"^ckpt_path: .*{named}") as error:
        fit(tmp_path / "run", ckpt_path=str(path))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_another_programs_file_is_one_line(tmp_path: Path) -> None:
    for content in ({"epoch": 3, "model": {}}, [1, 2], torch.ones(2)):
        torch.save(content, tmp_path / "theirs.ckpt")
        for verb in ("fit", "test"):
            trainer = toy_trainer(tmp_path / "run", phase_store=False, logger=False)
            with pytest.raises(ConfigurationError, match=r"^ckpt_path: '.*theirs\.ckpt'"):
                getattr(trainer, verb)(
                    toy_module(), datamodule=ToyData(), ckpt_path=str(tmp_path / "theirs.ckpt")
                )


def test_weights_that_are_not_finite_are_named_when_tested(written: bytes, tmp_path: Path) -> None:
    path = tmp_path / "nan.ckpt"
    path.write_bytes(written)
    content = torch.load(path, weights_only=True)
    content["state_dict"]["net.backbone.4.bias"][2] = -torch.inf
    torch.save(content, path)
    trainer = toy_trainer(tmp_path / "run", phase_store=False, logger=False)
    with pytest.warns(
        UserWarning, match=r"weights 'net\.backbone\.4\.bias' in '.*nan\.ckpt' are NaN or infinite"
    ):
        trainer.test(toy_module(), datamodule=ToyData(), ckpt_path=str(path), verbose=False)


def test_buffers_may_be_infinite() -> None:
    module = nn.Linear(2, 2)
    module.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    check_finite(module, module.state_dict(), "ckpt_path", "a")
    with pytest.raises(ConfigurationError, match="'bias'"):
        check_finite(module, {**module.state_dict(), "bias": torch.tensor([torch.nan, 0])}, "ckpt_path", "a")


def test_files_of_other_programs_are_named(written: bytes, tmp_path: Path) -> None:
    """Another zip archive, numpy's, torch's format of before 1.6, and a record that was cut out."""
    path = tmp_path / "theirs.ckpt"
    content = torch.load(io.BytesIO(written), weights_only=True)
    told = {}
    for kind in ("zip", "npz", "old", "cut"):
        if kind == "zip":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("a.txt", "mine")
        elif kind == "npz":
            with path.open("wb") as file:
                np.savez(file, a=np.ones(2))
        elif kind == "old":
            torch.save(content, path, _use_new_zipfile_serialization=False)
        else:
            path.write_bytes(written[200:])
        with pytest.raises(ConfigurationError, match=r"^ckpt_path: '.*theirs\.ckpt' is ") as error:
            read_checkpoint(path)
        told[kind] = str(error.value)
        assert "\n" not in told[kind]
        assert "enforce" not in told[kind]
    assert "before 1.6" in told["old"]


def test_the_records_of_a_file_do_not_bear_the_name_of_its_part(tmp_path: Path) -> None:
    """So that the same state is the same bytes."""
    for name in ("a.ckpt", "b.ckpt"):
        WholeCheckpointIO().save_checkpoint({"state_dict": {"a": torch.ones(3)}}, tmp_path / name)
    assert (tmp_path / "a.ckpt").read_bytes() == (tmp_path / "b.ckpt").read_bytes()


# The newest that can be used


def two(tmp_path: Path) -> tuple[Path, Path]:
    """Return the checkpoints of both phases of a run, the older one first."""
    fit(tmp_path)
    paths = [tmp_path / "checkpoints" / f"{name}.ckpt" for name in ("pretrain", "finetune")]
    for seconds, path in enumerate(paths):
        os.utime(path, (1e9 + seconds, 1e9 + seconds))
    return paths[0], paths[1]


@pytest.mark.parametrize("damage", ["truncated", "zeroed"])
def test_last_is_the_newest_that_can_be_read(damage: str, tmp_path: Path) -> None:
    _, expected = fit(tmp_path / "whole")
    older, newest = two(tmp_path / "cut")
    newest.write_bytes(DAMAGE[damage](newest.read_bytes()))
    with pytest.warns(UserWarning, match=rf"finetune\.ckpt' .*; going on from '{older}'"):
        trainer, model = fit(tmp_path / "cut", ckpt_path="last")
    assert trainer.continued[0]["checkpoint"] == str(older)
    for name, value in expected.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


def test_last_without_one_that_can_be_read(tmp_path: Path) -> None:
    for seconds, path in enumerate(two(tmp_path)):
        path.write_bytes(b"")
        os.utime(path, (2e9 + seconds, 2e9 + seconds))  # a clock that ticks rarely gives both one time
    with pytest.raises(
        ConfigurationError, match=r"finetune\.ckpt' is not a readable checkpoint: it is empty"
    ):
        fit(tmp_path, ckpt_path="last")


def test_last_passes_over_files_of_other_phases(written: bytes, tmp_path: Path) -> None:
    older, newest = two(tmp_path)
    newest.write_bytes(written)
    content = torch.load(newest, weights_only=True)
    content["lit_aux"]["phases"] = ["train"]
    torch.save(content, newest)
    with pytest.warns(UserWarning, match=rf"phases train, .*; going on from '{older}'"):
        trainer, _ = fit(tmp_path, ckpt_path="last")
    assert trainer.continued[0]["phase"] == "pretrain"


# How they are written


def test_every_checkpoint_is_written_beside_the_one_that_it_replaces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of ModelCheckpoint too; nothing is written where TMPDIR is."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    seen: list[Path] = []
    save = torch.save

    def watched(content: Any, file: Any, *args: Any, **kwargs: Any) -> None:
        seen.append(Path(file.name))
        save(content, file, *args, **kwargs)

    monkeypatch.setattr(torch, "save", watched)
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    temporary.chmod(0o500)
    before = temporary.stat().st_mtime_ns
    best = ModelCheckpoint(save_last=True)
    fit(tmp_path / "run", callbacks=[best])
    assert temporary.stat().st_mtime_ns == before
    found = {path for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert {path.name for path in found} >= {"pretrain.ckpt", "finetune.ckpt", "last.ckpt"}
    assert {path.parent for path in seen} == {path.parent for path in found}
    assert all(path.suffix == ".part" for path in seen)
    assert all(path.suffix == ".ckpt" for path in found)


def test_a_file_is_as_before_until_the_new_one_is_whole(
    written: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.ckpt"
    path.write_bytes(written)

    def torn(content: Any, part: Any) -> None:
        part.write(b"half")
        part.flush()
        assert path.read_bytes() == written
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", torn)
    with pytest.raises(KeyboardInterrupt):
        WholeCheckpointIO().save_checkpoint({}, path)
    assert [found.name for found in tmp_path.iterdir()] == ["a.ckpt"]
    assert path.read_bytes() == written


@pytest.mark.parametrize("record", [".data/serialization_id", "data.pkl", "data/0"])
def test_each_record_is_checked(record: str, written: bytes, tmp_path: Path) -> None:
    """By its own checksum, computed here anew from what is in it."""
    path = tmp_path / "a.ckpt"
    path.write_bytes(written)
    check_archive(path, "ckpt_path")
    with zipfile.ZipFile(path) as archive:
        (info,) = (one for one in archive.infolist() if one.filename.endswith(f"/{record}"))
    start = info.header_offset + 30 + len(info.filename)
    start += int.from_bytes(written[info.header_offset + 28 : info.header_offset + 30], "little")
    path.write_bytes(written[:start] + bytes([written[start] ^ 1]) + written[start + 1 :])
    with pytest.raises(ConfigurationError, match=rf"is damaged: .*{record}"):
        read_checkpoint(path)


# The store


def stored(root: Path) -> tuple[Path, Path]:
    """Return the store of a run, and the one entry in it."""
    fit(root / "first", phase_store=str(root / "store"))
    (entry,) = (root / "store").iterdir()
    return root / "store", entry


def lacking(name: str) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        content = torch.load(path, weights_only=True)
        del content[name]
        torch.save(content, path)

    return edit


def spoilt(path: Path) -> None:
    content = torch.load(path, weights_only=True)
    content["state_dict"]["net.backbone.0.weight"][0, 0] = torch.nan
    torch.save(content, path)


def another(path: Path) -> None:
    content = torch.load(path, weights_only=True)
    content["state_dict"]["net.backbone.0.weight"] = torch.ones(3)
    torch.save(content, path)


ENTRIES: dict[str, Callable[[Path], Any]] = {
    **{name: lambda path, way=way: path.write_bytes(way(path.read_bytes())) for name, way in DAMAGE.items()},
    "without a result": lacking("result"),
    "without steps": lacking("logged_steps"),
    "without weights": lacking("state_dict"),
    "NaN": spoilt,
    "another network": another,
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_an_entry_that_cannot_be_used_is_trained_anew(entry: str, tmp_path: Path) -> None:
    _, expected = fit(tmp_path / "alone")
    store, path = stored(tmp_path)
    ENTRIES[entry](path)
    with pytest.warns(UserWarning, match=r"trainer\.phase_store: .*; phase pretrain is trained anew") as said:
        trainer, model = fit(tmp_path / "second", phase_store=str(store))
    assert sum("trained anew" in str(one.message) for one in said) == 1
    assert [result.reused for result in trainer.phase_results] == [False, False]
    for name, value in expected.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    assert list(store.iterdir()) == [path]
    third, _ = fit(tmp_path / "third", phase_store=str(store))  # it has been replaced
    assert third.phase_results[0].reused


def test_an_entry_that_is_a_folder_stays(tmp_path: Path) -> None:
    store, path = stored(tmp_path)
    path.unlink()
    (path / "mine").mkdir(parents=True)
    with pytest.warns(UserWarning, match=r"trainer\.phase_store: .* is a folder.*trained anew"):
        trainer, _ = fit(tmp_path / "second", phase_store=str(store))
    assert [result.steps for result in trainer.phase_results] == [3, 3]
    assert [one.name for one in path.iterdir()] == ["mine"]
    assert list(store.iterdir()) == [path]


def test_a_store_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("mine")
    with pytest.raises(ConfigurationError, match=r"trainer\.phase_store: '.*store' cannot be used"):
        fit(tmp_path / "run", phase_store=str(tmp_path / "store"))
    assert (tmp_path / "store").read_text() == "mine"
