"""What a checkpoint predicts, collected over batches and processes, and written to one file."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lit_aux.data import MultiTaskLoader
from lit_aux.errors import ConfigurationError
from lit_aux.outputs import check_output
from lit_aux.phases.answers import Answering, Answers
from lit_aux.phases.phased import phased, phased_data
from lit_aux.phases.prediction_files import Array, TaskPredictions, write_arrays, write_table

_KINDS = {".csv": "table of predictions", ".npz": "archive of predictions"}
_WRITERS = {".csv": write_table, ".npz": write_arrays}
_PARTS = ("outputs", "predictions", "probabilities", "labels")


def check_predictions(path: str, model: LightningModule, trainer: Trainer, ckpt_path: Any) -> Path:
    """Refuse, before anything is computed, what no predictions can be written to, or come from.

    Args:
        path: The file.
        model: What predicts.
        trainer: The Trainer.
        ckpt_path: A file that is read, or what stands for one.

    Raises:
        ConfigurationError: In one line.
    """
    suffix = Path(path).suffix
    if suffix not in _KINDS:
        raise ConfigurationError(
            f"output: {path!r} must end in .csv, or in .npz for arrays, which also hold outputs of any shape"
        )
    found = check_output("output", path, inputs=[] if ckpt_path is None else [ckpt_path], kind=_KINDS[suffix])
    nearest = next(folder for folder in found.parents if folder.exists())
    if not nearest.is_dir():
        raise ConfigurationError(f"output: {path!r} lies in {nearest}, which is a file; name another place")
    if phased(model).trains_itself:
        raise ConfigurationError(
            f"output: {path!r} cannot hold what students predict, one output for each replica; in Python, "
            "Trainer.predict returns it"
        )
    if not isinstance(model, Answering):
        raise ConfigurationError(
            f"output: {path!r} needs a module that says what its outputs mean; {type(model).__name__} has no "
            "method answers, as lit_aux's modules have"
        )
    if trainer.limit_predict_batches == 0:
        raise ConfigurationError("trainer.limit_predict_batches: 0 predicts nothing; leave it out")
    return found


class PredictionWriter(Callback):
    """Writes what a module predicts of all inputs, in the order of the data, each once.

    Args:
        path: The file, ``.csv`` or ``.npz``. It appears whole or not at all; of several processes the first
            one writes it.
    """

    changes_training = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self._batches: dict[str, list[TaskPredictions]] = {}

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget what another run has left."""
        self._batches = {}

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep a batch, in main memory.

        Raises:
            ConfigurationError: For outputs that are not by task, or do not fit into the file.
        """
        if not (isinstance(outputs, Mapping) and all(isinstance(v, Tensor) for v in outputs.values())):
            raise ConfigurationError(
                f"output: predict_step of {type(pl_module).__name__} gives a {type(outputs).__name__}; it "
                "must give {task: outputs}, as lit_aux's modules do"
            )
        assert isinstance(pl_module, Answering)
        for task, found in outputs.items():
            if self.path.suffix == ".csv" and found.ndim > 2:
                raise ConfigurationError(
                    f"output: {str(self.path)!r} has a row for each input, and outputs of task {task!r} are "
                    f"of shape {tuple(found.shape[1:])}; name a .npz file"
                )
            pair = batch.get(task) if isinstance(batch, Mapping) else None
            answers = pl_module.answers(task, found, None if pair is None else pair[1])
            if not answers.of_classes and answers.probabilities is None:
                answers = _in_units(trainer, task, answers)
            rows = self._rows(trainer, task, len(found), batch_idx, dataloader_idx)
            self._batches.setdefault(task, []).append(_kept(answers, rows, dataloader_idx))

    def _rows(
        self, trainer: Trainer, task: str, size: int, batch_idx: int, dataloader_idx: int
    ) -> tuple[Array, Array | None]:
        """Return numbers and names of the inputs of a batch."""
        loader = trainer.predict_loop._combined_loader.flattened[dataloader_idx]  # type: ignore[union-attr]
        if isinstance(loader, MultiTaskLoader) and task in loader.tasks:
            numbers = loader.indices(loader.epoch, batch_idx)[task].cpu().numpy()
            names = loader.tasks[task].names
            return numbers, None if names is None else np.array([names[i] for i in numbers], dtype=object)
        seen = getattr(getattr(loader, "batch_sampler", None), "seen_batch_indices", [])  # Lightning's own
        if batch_idx < len(seen) and len(seen[batch_idx]) == size:
            return np.array(seen[batch_idx], dtype=np.int64), None
        if trainer.world_size > 1:
            raise ConfigurationError(
                f"output: {str(self.path)!r} would not say which inputs are whose: of a "
                f"{type(loader).__name__} without batches of known inputs no process knows which it has; "
                "predict in one process"
            )
        before = sum(int((one.loaders == dataloader_idx).sum()) for one in self._batches.get(task, []))
        return np.arange(before, before + size), None

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather what the processes have, and write it."""
        own = {task: _joined(task, parts) for task, parts in self._batches.items()}
        self._batches = {}
        together = _gathered(trainer, own)
        if not trainer.is_global_zero:
            return
        assert isinstance(pl_module, Answering)
        found: dict[str, TaskPredictions] = {}
        for task in pl_module.tasks:
            if parts := [share[task] for share in together if task in share]:
                one = _ordered(_joined(task, parts))
                found[task] = replace(one, classes=_classes(trainer, task, one.outputs.shape[1]))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _WRITERS[self.path.suffix](self.path, found)
        rank_zero_info(f"Predictions: {self.path}")


def _in_units(trainer: Trainer, task: str, answers: Answers) -> Answers:
    """Return values as the data had them before they were standardized, say."""
    data = phased_data(trainer.datamodule)  # type: ignore[attr-defined]
    labels = None if answers.labels is None else data.in_units(task, answers.labels)
    return replace(answers, predictions=data.in_units(task, answers.predictions), labels=labels)


def _kept(answers: Answers, rows: tuple[Array, Array | None], loader: int) -> TaskPredictions:
    """Bring a batch to main memory, as numpy knows it."""
    arrays = {name: None if (t := getattr(answers, name)) is None else _array(t) for name in _PARTS}
    where = np.full(len(rows[0]), loader)
    return TaskPredictions(where, *rows, **arrays, of_classes=answers.of_classes)  # type: ignore[arg-type]


def _array(tensor: Tensor) -> Array:
    tensor = tensor.detach()
    tensor = tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor
    found: Array = tensor.cpu().numpy()
    return found


def _joined(task: str, parts: Sequence[TaskPredictions]) -> TaskPredictions:
    """Put parts one after another."""
    joined: dict[str, Any] = {"of_classes": parts[0].of_classes}
    for one in fields(TaskPredictions):
        arrays = [getattr(part, one.name) for part in parts]
        if one.name in joined or one.name == "classes":
            continue
        try:
            joined[one.name] = None if any(a is None for a in arrays) else np.concatenate(arrays)
        except ValueError:  # which never happens to one of the columns
            shapes = list(dict.fromkeys(a.shape[1:] for a in arrays))
            raise ConfigurationError(
                f"output: {one.name} of task {task!r} are of shapes {shapes[0]} and {shapes[1]}, which make "
                "no array; give inputs of one size"
            ) from None
    return TaskPredictions(**joined)


def _ordered(found: TaskPredictions) -> TaskPredictions:
    """Return inputs in the order of the data, each once: samplers repeat some to make processes equal."""
    order = np.lexsort((found.numbers, found.loaders))
    places = np.stack((found.loaders, found.numbers))[:, order]
    order = order[np.append(True, (places[:, 1:] != places[:, :-1]).any(0))]
    arrays = {f.name: getattr(found, f.name) for f in fields(found)}
    return replace(
        found, **{name: value[order] for name, value in arrays.items() if isinstance(value, np.ndarray)}
    )


def _gathered(trainer: Trainer, own: dict[str, TaskPredictions]) -> Sequence[dict[str, TaskPredictions]]:
    """Return, in the first process, what each of them has."""
    if trainer.world_size == 1:
        return [own]
    shares: list[Any] | None = [None] * trainer.world_size if trainer.is_global_zero else None
    torch.distributed.gather_object(own, shares)
    return shares or []


def _classes(trainer: Trainer, task: str, outputs: int) -> Sequence[str] | None:
    """Return the names of a task's classes or outputs, where the data know them."""
    names = phased_data(trainer.datamodule).names_of_classes(task)  # type: ignore[attr-defined]
    return names if names is not None and len(names) == outputs else None
