"""The coefficients of several tasks with the least group norm, a prediction of multi-task training."""

from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor

from lit_aux.errors import ConfigurationError
from lit_aux.functional._group_polish import polished
from lit_aux.functional._group_program import GroupProgram, solve_cone_program
from lit_aux.functional._row_space import RowSpace
from lit_aux.functional._scale import safe_scale

_NOTHING = 1e-10
"""Share of the largest coefficient below which one that least squares gives passes for 0."""
_DONE = 1e-12
"""Where other supports are not tried any more."""
_WORST = 1e-7
"""Largest duality gap, and misfit, of what is returned."""


def minimal_group_norm(inputs: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    r"""Return the coefficients B that fit every task with the least :math:`\sum_d (\sum_t B_{td}^2)^{1/2}`.

    The least squared norm of a diagonal network's weights is twice that, so weight decay that goes to 0 ends
    here (Dai, Karzand & Srebro, 2021). As a prediction of multi-task training by gradient flow it is a
    heuristic (Lippl & Lindsey, arXiv 2310.02396): both find the same sparse teacher from enough rows, but
    where rows are few the flow may end far away, however small its start. For one task it is basis pursuit,
    the least l1 norm, to which the flow does go as its start becomes small. Compare with `l12_norm` and
    `group_penalty`.

    A second-order cone program, solved by Clarabel through cvxpy (``pip install "lit-aux[theory]"``) and then
    by Newton's method on the features that are used: what is left are rounding errors, and exact zeros for
    features that are not used. Where that does not come off, as where several B are equally good, the norm
    is at most 1e-7 of itself above the least. Tasks whose inputs have rank D leave nothing to choose; they
    are solved by least squares beforehand. Seconds for D = 1000; inputs whose columns differ in size by
    factors of 1e4 and more may be refused.

    Args:
        inputs: X (n_t, D) of each task.
        targets: y (n_t,) of each task.

    Returns:
        B (T, D), float64, on the device of the first inputs; computed on the CPU.

    Raises:
        ConfigurationError: For shapes that do not fit, values that are not finite, targets that no
            coefficients give, without cvxpy and Clarabel, and where the solver gets nowhere.

    Example:
        >>> import torch
        >>> from lit_aux.functional import minimal_group_norm
        >>> one_task = minimal_group_norm([torch.eye(2)], [torch.tensor([1.0, 0.0])])
        >>> one_task.round(decimals=3)
        tensor([[1., 0.]], dtype=torch.float64)
    """
    tasks = _tasks(inputs, targets)
    d = inputs[0].shape[1]
    free = [t for t, (rows, y) in enumerate(tasks) if len(rows) < d and bool((y != 0).any())]
    beta = torch.zeros(len(tasks), d, dtype=torch.float64)
    for t, (rows, y) in enumerate(tasks):
        if len(rows) == d:
            beta[t] = y @ rows  # orthonormal rows: the least-squares coefficients
    if free:
        nearest = [
            torch.linalg.lstsq(tasks[t][0], tasks[t][1][:, None], driver="gelsy").solution for t in free
        ]
        scale = max(float(size.abs().max()) for size in (beta, *nearest))
        fixed = (beta / scale).norm(dim=0)
        program = GroupProgram(
            rows=[tasks[t][0] for t in free],
            targets=[tasks[t][1] / scale for t in free],
            fixed=torch.where(fixed > _NOTHING, fixed, 0.0),
        )
        beta[free] = scale * _least(program)
    return beta.to(inputs[0].device)


def _tasks(inputs: Sequence[Tensor], targets: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Return independent rows of length 1 of each task, and their targets; D orthonormal ones pin B."""
    if not len(inputs) or len(inputs) != len(targets):
        raise ConfigurationError(
            f"targets: of {len(targets)} tasks, inputs of {len(inputs)}; give both of each"
        )
    tasks = []
    for t, (x, y) in enumerate(zip(inputs, targets, strict=True)):
        _check(t, x, y, inputs[0].shape[-1:])
        exact, x, y = (
            x.dtype == y.dtype == torch.float64,
            x.detach().cpu().double(),
            y.detach().cpu().double(),
        )
        unit = safe_scale(x.abs().max())
        space = RowSpace.of(x / unit, exact=exact)
        try:
            wanted = space.targets(y[None] / unit)[0]
        except ConfigurationError as error:
            raise ConfigurationError(
                f"targets[{t}]: no coefficients give them; {len(x)} inputs of rank {space.rank} fit only "
                "targets of a linear teacher without noise"
            ) from error
        length = space.rows.norm(dim=1)
        tasks.append((space.rows / length[:, None], wanted / length))
    return tasks


def _check(t: int, x: Tensor, y: Tensor, width: torch.Size) -> None:
    if x.ndim != 2 or 0 in x.shape or x.shape[1:] != width:
        wanted = f"(n, {width[0]})" if t and width else "(n, D)"
        raise ConfigurationError(f"inputs[{t}]: its shape is {tuple(x.shape)}; give inputs {wanted}")
    if y.shape != x.shape[:1]:
        raise ConfigurationError(f"targets[{t}]: its shape is {tuple(y.shape)}; give targets ({len(x)},)")
    for name, value in (("inputs", x), ("targets", y)):
        if not bool(value.isfinite().all()):
            raise ConfigurationError(f"{name}[{t}]: it holds values that are not finite")


def _least(program: GroupProgram) -> Tensor:
    """Return the best B (T, D) that solver and Newton's method find."""
    found, status = solve_cone_program(program)
    best, least = found, torch.inf
    for solution in chain(polished(program, found), map(program.fitted, [found])):
        misfit, gap = program.misfit(solution.beta), program.gap(solution)
        if max(misfit, gap) < least:
            best, least = solution, max(misfit, gap)
        if least <= _DONE:
            break
    if not least <= _WORST:
        raise ConfigurationError(
            f"inputs: the solver of the cone program ended as {status}, {least:.1g} from the optimum; inputs "
            "whose columns differ less in size are solved more easily"
        )
    return best.beta
