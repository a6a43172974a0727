"""Carries out a slice of a teacher-student grid: one batch of students, one fit."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lit_aux.data import DiagonalTeacherDataModule, ReLUTeacherDataModule, TeacherDataModule
from lit_aux.errors import unknown_name
from lit_aux.experiments.grids import experiment
from lit_aux.experiments.measures import measures_of
from lit_aux.experiments.options import Options
from lit_aux.experiments.protocol import Protocol
from lit_aux.experiments.run import Emit, OnStep, Run
from lit_aux.functional.ridge import BestRidge, best_ridge
from lit_aux.functional.tangent import relu_features, relu_tangent_kernel
from lit_aux.integrators import Exact, GradientDescent, GradientFlow, Integrator, TorchOptimizer
from lit_aux.models import DiagonalNet, ReLUNet, StudentNet
from lit_aux.modules import AuxiliaryModule, MultiTaskModule, PretrainFinetuneModule, SingleTaskModule
from lit_aux.phases import PhaseSettings, PhaseTrainer
from lit_aux.phases.store import claimed_files, read_tensor, write_tensor


def train_slice(runs: Sequence[Run], options: Options, progress: OnStep, emit: Emit) -> None:
    """Carry out runs that differ in seed and teacher, as one batch of students.

    Args:
        runs: Of one experiment.
        options: How they are carried out.
        progress: Told after every block how many runs are under way and how many gradients they have cost.
        emit: Given each run with its numbers and its measures, after the block in which it ended.
    """
    groups: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        assert run.protocol is not None
        protocol = run.protocol
        # Nothing that is published of diagonal networks depends on n_main; ReLU batches and limits do.
        n_main = None if protocol.network == "diagonal" else run.axes["n_main"]
        key = (run.setup, run.axes.get("rescale"), protocol.init_scale, protocol.readout_scale, n_main)
        groups.setdefault(key, []).append(run)
    before: TeacherDataModule | None = None
    for group in groups.values():
        current = _Slice(group, options, progress, emit, before)
        current.carry_out()
        before = current.data


def train_again(run: Run, options: Options, callbacks: Sequence[Callback]) -> StudentNet:
    """Carry out one run that trains, and return its network.

    Args:
        run: Of any setup but those that ridge regression solves.
        options: How it is carried out.
        callbacks: Present in its last phase.
    """
    return _Slice([run], options, lambda *_: None, lambda *_: None, None).train(callbacks)


class _Slice:
    """Runs that share protocol, setup and rescale factor."""

    def __init__(
        self,
        runs: Sequence[Run],
        options: Options,
        progress: OnStep,
        emit: Emit,
        before: TeacherDataModule | None,
    ) -> None:
        self.runs, self.options, self.progress, self.emit = list(runs), options, progress, emit
        self.setup = self.runs[0].setup
        assert self.runs[0].protocol is not None
        self.protocol: Protocol = self.runs[0].protocol
        self.data = data_of(self.runs, options)
        if before is not None:
            self.data.share_inputs(before)
        self.order = match(self.runs, self.data)

    def carry_out(self) -> None:
        """Train, or solve, and tell each run's row and measures."""
        ridge = self.protocol.network == "relu" and self.setup.endswith(("(LP)", "(NTK)"))
        self._solve() if ridge else self.train()

    def train(self, callbacks: Sequence[Callback] = ()) -> StudentNet:
        """Train all runs as one batch, with callbacks in the measured phase; return the network."""
        net = self._network()
        settings = self._settings(pretraining=False)
        module: AuxiliaryModule
        tasks = self.data.num_classes
        if self.setup == "STL":
            module = SingleTaskModule(net, tasks, settings=settings)
        elif self.setup == "MTL":
            module = MultiTaskModule(net, tasks, settings=settings)
        else:
            probe = self.setup.endswith("(LP)")
            pretrained = self.setup.startswith("PT+FT")
            rescale = self.runs[0].axes.get("rescale")
            module = PretrainFinetuneModule(
                net,
                tasks,
                pretrain_tasks=[],
                finetune="probe" if probe else "full",
                finetune_settings=settings,
                readout="reset" if pretrained else "keep",
                readout_scale=self.protocol.readout_scale / self.protocol.init_scale,
                rescale=rescale if pretrained else None,
                rescale_preset="backbone",
            )
            if pretrained:
                self._load_pretrained(net)

        def ended(row: dict[str, Any]) -> None:
            measures = measures_of(net, self.data, row, module.phases[-1].name)
            self.emit(self.order[row["replica"]], _columns(row, len(self.runs)), measures)

        fit(module, self.data, self.options.device, self.progress, ended, callbacks)
        return net

    @property
    def seeds(self) -> list[int]:
        return [int(cell["seed"]) for cell in self.data.replicas]

    def _network(self) -> StudentNet:
        """Return the network as the measured phase finds it, but for what was pretrained."""
        net = network_of(self.protocol, self.seeds, self.data.num_classes)
        net.draw_from(self.data, ["aux", "main"] if self.setup == "MTL" else ["main"])
        return net

    def _settings(self, *, pretraining: bool) -> PhaseSettings:
        p = self.protocol
        lr = p.pretrain_lr if pretraining else p.lr
        steps = p.pretrain_max_steps if pretraining else p.max_steps
        limit = p.pretrain_divergence_limit if pretraining else p.divergence_limit
        options = self.options.of_pretraining(p.network) if pretraining else self.options
        integrator = integrator_of(options, lr, limit, None if pretraining else p.batch_size)
        flow = isinstance(integrator, GradientFlow | Exact)
        return PhaseSettings(
            integrator=integrator,
            stop_at_training_loss=p.threshold,
            max_flow_time=lr * steps if flow else None,
            max_evaluations=self.options.max_evaluations if flow else steps,
            test_every=None if pretraining else self.options.stride,
            patience=None if flow or pretraining or p.network == "diagonal" else self.options.patience,
            test_unit=lr,
            test_thinning=1.25 if p.network == "relu" else 1.1,
        )

    # Pretraining

    def _load_pretrained(self, net: StudentNet) -> None:
        """Put pretrained weights into the network; those that nobody has trained yet are trained now."""
        files = {seed: self._file(seed) for seed in dict.fromkeys(self.seeds)}
        # ReLU students share no products, so that each process may train other seeds, and none twice
        together = [[*files]] if self.protocol.network == "diagonal" else [[seed] for seed in files]
        for wait in (False, True):
            for seeds in together:
                missing = [files[seed] for seed in seeds if not files[seed].is_file()]
                with claimed_files(missing, wait=wait) as mine:
                    if mine and (left := [seed for seed in seeds if not files[seed].is_file()]):
                        self._pretrain(left, files)
        weights = {seed: read_tensor(path) for seed, path in files.items()}
        names = list(net.weights())
        theta = torch.stack([weights[seed] for seed in self.seeds])
        net.unpack(theta, torch.arange(net.replicas), names)

    def _pretrain(self, seeds: list[int], files: dict[int, Path]) -> None:
        some = {run.axes["seed"]: run for run in self.runs}
        data = data_of([some[seed] for seed in seeds], self.options)
        net = network_of(self.protocol, [int(cell["seed"]) for cell in data.replicas], data.num_classes)
        net.draw_from(data, ["aux"])
        settings = self._settings(pretraining=True)
        module = MultiTaskModule(net, data.num_classes, train_tasks=["aux"], settings=settings)
        fit(module, data, self.options.device, self.progress)
        theta = net.pack(torch.arange(net.replicas), list(net.weights())).cpu()
        for row, cell in zip(theta, data.replicas, strict=True):
            write_tensor(files[int(cell["seed"])], row.clone())

    def _file(self, seed: int) -> Path:
        """Name the file by all that pretraining depends on."""
        later = {"lr", "readout_scale", "max_steps", "batch_size", "divergence_limit"}
        protocol = {k: v for k, v in asdict(self.protocol).items() if k not in later}
        published = experiment(self.runs[0].experiment).output_scale
        scales = {"pretrain": self.options.output_scales(published)["pretrain"]}
        numbers = self.options.of_pretraining(self.protocol.network).of_results(self.protocol.network, scales)
        numbers.pop("patience", None)
        key = json.dumps([seed, protocol, numbers, torch.__version__], sort_keys=True, default=str)
        name = hashlib.blake2b(key.encode(), digest_size=12).hexdigest()
        assert self.options.store is not None
        return Path(self.options.store) / f"{self.protocol.network}-{seed}-{name}.pt"

    # Ridge baselines

    def _solve(self) -> None:
        """Fit readouts, or tangent features, of networks at their start by ridge regression."""
        import time

        net = self._network()
        if self.setup.startswith("PT+FT"):
            self._load_pretrained(net)
            net.reset_readout(self.protocol.readout_scale / self.protocol.init_scale, ["main"])
        first, readout = net.first["weight"].detach(), net.readout["weight"].detach()
        output = net.task_slice("main").start
        kind = "tangent" if self.setup.endswith("(NTK)") else "readout"
        for members in self._sharing():
            began = time.monotonic()
            head = members[0]
            train, test = self.data.train_set(head, "main"), self.data.test_set(head, "main")
            targets = torch.cat([self.data.train_set(r, "main")[1] for r in members], dim=1)
            wanted = torch.cat([self.data.test_set(r, "main")[1] for r in members], dim=1)
            best = ridge_baseline(
                first[head], readout[head, output], cast(Any, kind), (train[0], targets), (test[0], wanted)
            )
            seconds = (time.monotonic() - began) / len(members)
            for column, replica in enumerate(members):
                loss = float(best.loss_best[column])
                row = {
                    "solver": "ridge",
                    "loss_best": loss,
                    "loss_final": loss,
                    "steps": 0,
                    "converged": True,
                }
                row |= {"train_loss": float(best.train_loss[column]), "seconds": seconds}
                measure = {"phase": "probe", "step": 0, "layer": "", "measure": "alpha"}
                self.emit(self.order[replica], row, [{**measure, "value": float(best.alpha[column])}])

    def _sharing(self) -> list[list[int]]:
        """Return the replicas in groups that share inputs and network."""
        groups: dict[Any, list[int]] = {}
        for replica in range(len(self.data.replicas)):
            groups.setdefault(self.data.inputs_key("train", replica, "main"), []).append(replica)
        return list(groups.values())


def integrator_of(options: Options, lr: float, divergence: float, batch_size: int | None) -> Integrator:
    """Return the integrator that the options name, at the published learning rate."""
    if options.integrator == "gradient_flow":
        return GradientFlow(options.tolerance)
    if options.integrator == "exact":
        return Exact(lr)
    if options.integrator == "gradient_descent":
        return GradientDescent(lr, batch_size=batch_size, divergence=divergence)
    kind = getattr(torch.optim, options.integrator)
    return TorchOptimizer(lambda p: kind(p, lr=lr), batch_size=batch_size, divergence=divergence)


def network_of(protocol: Protocol, seeds: Sequence[int], tasks: dict[str, int]) -> StudentNet:
    """Return the student that a protocol describes, one replica a seed given."""
    common: dict[str, Any] = {
        "tasks": tasks,
        "init_scale": protocol.init_scale,
        "seeds": list(seeds),
        "dtype": protocol.dtype,
    }
    if protocol.network == "diagonal":
        return DiagonalNet(protocol.in_features, **common)
    return ReLUNet(protocol.in_features, hidden=protocol.hidden or 1000, **common)


def data_of(runs: Sequence[Run], options: Options) -> TeacherDataModule:
    """Return the data of runs, one replica each."""
    protocol = runs[0].protocol
    assert protocol is not None
    common: dict[str, Any] = {name: getattr(protocol, name) for name in ("k_aux", "n_aux", "in_features")}
    common |= {"n_test": protocol.n_test, "sampling": options.sampling, "dtype": protocol.dtype}
    cells = [cell_of(run) for run in runs]
    common["output_scale"] = runs[0].options.get("output_scale", "sqrt")
    if protocol.network == "diagonal":
        return DiagonalTeacherDataModule(cells=cells, **common)
    return ReLUTeacherDataModule(cells=cells, **common)


def cell_of(run: Run) -> dict[str, Any]:
    """Return the run's values of the data's axes."""
    names = ("seed", "n_main", "overlap", "k_main", "correlation", "magnitude")
    cell = {name: run.axes[name] for name in names if name in run.axes}
    if "correlation" in cell:
        cell["correlation"] = "|".join(repr(float(c)) for c in cell["correlation"])
    return cell


def match(runs: Sequence[Run], data: TeacherDataModule) -> list[Run]:
    """Return the run of each replica."""
    by_cell = {tuple(sorted(cell_of(run).items())): run for run in runs}
    return [by_cell[tuple(sorted(cell.items()))] for cell in data.replicas]


def _columns(row: dict[str, Any], together: int) -> dict[str, Any]:
    """Return what the results table holds of a replica; the time of a batch is divided among its replicas."""
    names = ("solver", "loss_best", "loss_final", "train_loss", "steps", "converged")
    return {name: row[name] for name in names} | {"seconds": row["seconds"] / together}


Ended = Callable[[dict[str, Any]], None]


def fit(
    module: AuxiliaryModule,
    data: TeacherDataModule,
    device: str,
    progress: OnStep,
    ended: Ended | None = None,
    callbacks: Sequence[Callback] = (),
) -> None:
    """Train a module on a device, quietly.

    Args:
        module: With students.
        data: Their data.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ...
        progress: Told after every block how many replicas are under way, and how many gradients they have
            cost.
        ended: Given the results of each replica after the block in which it ended.
        callbacks: More of Lightning's.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = device.partition(":")
    trainer = PhaseTrainer(
        accelerator="gpu" if kind == "cuda" else kind,
        devices=[int(number or 0)] if kind == "cuda" else 1,
        callbacks=[_Watch(progress, ended), *callbacks],
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        phase_store=False,
        test_after_phase=False,
        use_distributed_sampler=False,
    )
    trainer.fit(module, datamodule=data)
    module.cpu()


class _Watch(Callback):
    """Tells how a slice gets on."""

    def __init__(self, progress: OnStep, ended: Ended | None) -> None:
        self.progress, self.ended = progress, ended
        self._told = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count replicas under way and the gradients that they have cost; hand over those that have ended."""
        students = cast(AuxiliaryModule, pl_module).students
        if students is None or students.run is None or students.run.state is None:
            return
        state = students.run.state
        self.progress(len(state.rows), int(state.counts.evaluations.max()))
        if self.ended is not None:
            for row in students.results.get(students.run.phase.name, [])[self._told :]:
                self._told += 1
                self.ended(row)


Kind = Literal["readout", "tangent"]
"""Linear probe of the hidden layer, or the network linearised in all of its weights (NTK)."""


@torch.no_grad()
def ridge_baseline(
    first: Tensor,
    readout: Tensor,
    kind: Kind,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    alphas: Tensor | None = None,
) -> BestRidge:
    """Fit ridge regression, with intercept, on features of a ReLU network with one hidden layer.

    All columns of the targets share the network and the inputs, and one decomposition serves them all. As
    published, the penalty is the best one on the test set, for each target by itself.

    Args:
        first: Weights of the first layer, (H, d).
        readout: Weights of the readout, (H,); the probe does not read them.
        kind: ``"readout"`` takes the hidden activations, ``"tangent"`` the gradients by all weights.
        train: Inputs (n, d) and targets (n, T).
        test: Inputs (m, d) and targets (m, T).
        alphas: Penalties, (A,); by default 100 from 1e-5 to 1e10.

    Returns:
        One entry a column of the targets; float64 throughout, whatever came in.

    Raises:
        ConfigurationError: If the kind is unknown or shapes do not fit.
    """
    if kind not in get_args(Kind):
        raise unknown_name("kind", kind, get_args(Kind))
    x, x_test = train[0].to(torch.float64), test[0].to(torch.float64)
    if kind == "readout":
        weight = first.to(torch.float64)
        inputs, inputs_test = relu_features(weight, x), relu_features(weight, x_test)
    else:
        inputs = relu_tangent_kernel(first, readout, x)
        inputs_test = relu_tangent_kernel(first, readout, x_test, x)
    return best_ridge(inputs, train[1], inputs_test, test[1], alphas, kernel=kind == "tangent")
