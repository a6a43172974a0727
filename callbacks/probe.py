"""The probe: fixed inputs on which representations are compared, the same ones on every process."""

import copy
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, Subset
from torch.utils.data.sampler import RandomSampler, SequentialSampler

from lit_aux.callbacks._inputs import Inputs, Mask, joined, moved, part, resolved, slices
from lit_aux.callbacks._network import Reader
from lit_aux.callbacks._no_trace import fixed_rng
from lit_aux.callbacks._options import asked, check_source
from lit_aux.trees import tensors_of


def transfer(trainer: Trainer, module: LightningModule, batch: Any, loader: int = 0) -> Any:
    """Bring a batch to the device the way the Trainer's loops do, with the module's hooks."""
    batch = trainer.precision_plugin.convert_input(batch)
    batch = module._on_before_batch_transfer(batch, dataloader_idx=loader)
    return trainer.strategy.batch_to_device(batch, dataloader_idx=loader)


def collect_probe(
    trainer: Trainer,
    module: LightningModule,
    n: int,
    probe: Any,
    to_input: Callable[[Any], Any] | None,
    mask: Mask = None,
) -> list[Inputs]:
    """Return the probe's inputs as a list of pieces in CPU memory, equal on every process.

    Args:
        trainer: The Trainer, inside a fit.
        module: The module; its batch transfer hooks are applied as in validation.
        n: How many inputs to take from a loader.
        probe: ``None`` for the data module's own ``probe`` if it has one, else the first ``n`` inputs of the
            validation set (``n`` training inputs, drawn once with a fixed seed, where there is none); a
            loader, a function of the Trainer, or the inputs.
        to_input: Finds the input in a batch of a loader; by default the network is called as the module's own
            steps call it.
        mask: Which positions of padded inputs are real.

    Raises:
        ConfigurationError: If no input is found, or no mask where one is named.
    """
    if probe is None:
        probe = getattr(getattr(trainer, "datamodule", None), "probe", None)
    if callable(probe) and not isinstance(probe, Tensor):
        probe = asked("probe", probe, trainer)
    check_source("probe", probe, "loader, function of the Trainer, tensor or other inputs")
    reading = partial(Reader, trainer, module, to_input, mask=mask)
    with fixed_rng():
        if probe is None:
            combined, stochastic = _trainer_loaders(trainer)
            pieces = _from_loaders(reading(training=stochastic), n, combined, stochastic)
        elif isinstance(probe, Tensor | Mapping | tuple | list):
            pieces = [reading().given(trainer.precision_plugin.convert_input(probe))]
        else:
            pieces = _from_loaders(reading(own=False), n, CombinedLoader(probe, "sequential"), False)
    pieces = [moved(piece, "cpu") for piece in pieces]
    for piece, masks in zip(pieces, resolved([piece.masks for piece in pieces], mask), strict=True):
        piece.masks = masks
    return joined(pieces)


def _trainer_loaders(trainer: Trainer) -> tuple[CombinedLoader, bool]:
    """Return the validation loaders, or else the training loaders and True."""
    loop = trainer.fit_loop.epoch_loop.val_loop
    if trainer.val_dataloaders is None and trainer.enable_validation:
        # As the fit loop does itself where validation starts only later.
        trainer.validating = True
        loop.setup_data()
        trainer.training = True
    loaders = trainer.val_dataloaders
    if loaders is not None and not (isinstance(loaders, list | tuple | dict) and not loaders):
        return CombinedLoader(loaders, _mode(loop, "sequential")), False
    trainer.fit_loop.setup_data()
    return CombinedLoader(trainer.train_dataloader, _mode(trainer.fit_loop, "max_size_cycle")), True


def _mode(loop: Any, default: Any) -> Any:
    """How a loop combines its loaders."""
    return getattr(getattr(loop, "_combined_loader", None), "_mode", default)


def training_batches(trainer: Trainer) -> Generator[Any, None, None]:
    """Yield the training batches of this process without touching the fit's own iterators and generators.

    Consume under an isolated random state. The loaders are set up at the call, outside of it: the fit is
    about to do the same, and what that draws belongs to the fit.
    """
    trainer.fit_loop.setup_data()

    def batches() -> Generator[Any, None, None]:
        if trainer.train_dataloader is None:
            return
        combined = CombinedLoader(trainer.train_dataloader, _mode(trainer.fit_loop, "max_size_cycle"))
        with _detached(combined):
            for batch, _, _ in combined:
                yield batch

    return batches()


def _from_loaders(reader: Reader, n: int, combined: CombinedLoader, shuffle: bool) -> list[Inputs]:
    """Take the first ``n`` inputs of loaders, in evaluation mode as far as batch hooks can tell."""
    trainer = reader.trainer
    ordered = [_whole_set(loader, n, shuffle) for loader in combined.flattened]
    combined.flattened = [a or b for a, b in zip(ordered, combined.flattened, strict=True)]
    pieces: list[Inputs] = []
    stage, count = trainer.state.stage, 0
    trainer.validating = True
    try:
        with _detached(combined):
            for batch, _, loader in combined:
                inputs = reader(transfer(trainer, reader.module, batch, loader), loader)
                size = min(inputs.size, n - count)
                pieces.append(moved(part(inputs, inputs.size, 0, size), "cpu"))
                count += size
                if count >= n:
                    break
    finally:
        trainer.state.stage = stage
    return pieces if None not in ordered else _gather(trainer, pieces, n)


def _whole_set(loader: Any, n: int, shuffle: bool) -> Iterable[Any] | None:
    """Build a loader of ``n`` items or more in an order that no process, shuffle or resume changes.

    That needs to know what the loader would serve: a plain loader over an indexable data set, sampled in
    order, at random, or in shares by a distributed sampler; or one that can tell, as those of data modules
    here, whose batches of several tasks cannot be put together again from processes' shares. ``None`` for any
    other.
    """
    undivided = getattr(loader, "undivided", None)
    if callable(undivided):
        whole: Iterable[Any] = undivided()
        return whole
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return None
    sampler, plain = loader.sampler, (SequentialSampler, RandomSampler, DistributedSampler)
    wrapped = getattr(getattr(sampler, "dataset", None), "_sampler", sampler)
    if type(loader.batch_sampler).__name__ not in {"BatchSampler", "_IndexBatchSamplerWrapper"}:
        return None
    if not isinstance(sampler, plain) or not isinstance(wrapped, plain):
        return None
    total = len(loader.dataset)  # type: ignore[arg-type]
    order = torch.randperm(total).tolist() if shuffle else range(total)
    init = loader.worker_init_fn
    return DataLoader(
        Subset(loader.dataset, list(order[:n])),
        batch_size=loader.batch_size or getattr(loader.batch_sampler, "batch_size", None) or 64,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        # Lightning's own function gives each process other seeds; the probe must be the same on all.
        worker_init_fn=None if isinstance(init, partial) else init,
        multiprocessing_context=loader.multiprocessing_context,
    )


def _gather(trainer: Trainer, pieces: list[Inputs], n: int) -> list[Inputs]:
    """Make one probe out of what each process's loader served, interleaved as distributed samplers deal."""
    if trainer.world_size == 1:
        return pieces
    shards: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(shards, pieces)
    rows = [[row for piece in shard for row in slices(piece, 1)] for shard in shards]
    if all(_same(rows[0], other) for other in rows[1:]):
        return rows[0][:n]
    longest = max(len(shard) for shard in rows)
    return [shard[i] for i in range(longest) for shard in rows if i < len(shard)][:n]


def _same(a: list[Any], b: list[Any]) -> bool:
    """Whether two lists of inputs hold the same numbers."""
    pairs = zip(tensors_of(a), tensors_of(b), strict=True)
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in pairs)


@contextmanager
def _detached(combined: CombinedLoader) -> Iterator[None]:
    """Iterate copies of the loaders, then put back the generators they draw from.

    A persistent worker pool and the generators of samplers belong to the fit: used here, they would change
    the order of its batches.
    """
    originals = combined.flattened
    generators = {id(g): g for loader in originals for g in _generators(loader)}
    states = [(g, g.get_state()) for g in generators.values()]
    combined.flattened = [_shallow(loader) for loader in originals]
    try:
        yield
    finally:
        for generator, state in states:
            generator.set_state(state)


def _shallow(loader: Any) -> Any:
    """Copy a loader, not its data; without the worker pool, which is not shared."""
    try:
        clone = copy.copy(loader)
    except TypeError:
        return loader
    if isinstance(clone, DataLoader):
        clone.__dict__["_iterator"] = None
    return clone


def _generators(loader: Any, depth: int = 3) -> Iterator[torch.Generator]:
    """Find the torch generators that a loader and its samplers hold."""
    for value in list(getattr(loader, "__dict__", {}).values()):
        if isinstance(value, torch.Generator):
            yield value
        elif depth and hasattr(value, "__dict__") and not isinstance(value, Tensor | type):
            yield from _generators(value, depth - 1)
