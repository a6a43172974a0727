"""Gradient flow by a stabilised explicit method, many replicas at once."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_aux.errors import ConfigurationError
from lit_aux.integrators.base import Integrator, finite_start
from lit_aux.integrators.chebyshev import coefficients, longest_step, stages_for
from lit_aux.integrators.objective import Kinked
from lit_aux.integrators.state import Floats, IntegratorState, Step, index_of
from lit_aux.ranges import Range, check

Mask = NDArray[np.bool_]
Rows = NDArray[np.int64]
Control = dict[str, NDArray[Any]]

POWER = 0
"""Stage of a replica whose curvature is being estimated."""
LANDING = -1
"""Stage of a replica that looks for its end on the chord of its last step."""
LANDINGS = 12
"""Most attempts to end just below the threshold."""
LENIENT_BELOW = 1e-2
"""Share of the loss at the start below which the error of a step may exceed the tolerance at kinks."""
MOST_LENIENT = 4.0
"""By how much, at most."""
NUDGE = 1e-3
"""Size of the gradient differences that tell the curvature, relative to the parameters: with much smaller
ones a single ReLU that turns on in between looks like a curvature of thousands."""


class GradientFlow(Integrator):
    """Follows dy/dt = -grad L(y) by second-order Runge-Kutta-Chebyshev steps with error control (RKC2).

    A step of s stages is stable for h * curvature up to .653 (s^2 - 1), so that stiff problems cost far fewer
    gradients than descent, and the end is the flow's whatever the tolerance's order of magnitude. Every
    replica has its own step, stages and end; in one evaluation of the batch each replica computes the
    gradient that *it* needs next, so none waits for another.

    Sommeijer, Shampine & Verwer, "RKC: an explicit solver for parabolic PDEs", J. Comp. Appl. Math. 88
    (1998).

    Args:
        tolerance: Error of a step relative to the norm of a replica's whole parameter vector.
        max_stages: Most stages of a step; fewer where rounding would reach a tenth of the tolerance (129 in
            float32 at the default).
        power_iterations: Gradient differences in an estimate of the curvature (half of them after the first).
        landing: The last step is shortened until the loss is between this share of the threshold and the
            threshold.

    Raises:
        ConfigurationError: If an option is out of range.

    Example:
        >>> from torch import tensor
        >>> from lit_aux.integrators import GradientFlow
        >>> def loss(w):
        ...     return (w - 3.0).square().sum()
        >>> found = GradientFlow().run(loss, tensor([0.0]), threshold=1e-6)
        >>> found.parameters.round(decimals=2)
        tensor([3.])
    """

    name = "gradient_flow"

    def __init__(
        self,
        tolerance: float = 1e-2,
        *,
        max_stages: int = 1000,
        power_iterations: int = 8,
        landing: float = 0.95,
    ) -> None:
        if tolerance not in Range(above=0, below=1):
            raise ConfigurationError(f"tolerance: {tolerance} must be between 0 and 1, such as 1e-2")
        check("max_stages", max_stages, Range(least=2, most=1_000_000))
        check("power_iterations", power_iterations, Range(least=2, most=1_000_000))
        check("landing", landing, Range(least=0, below=1))
        self.tolerance, self.max_stages = tolerance, max_stages  # keys of stored phases know the order
        self.power_iterations, self.landing = power_iterations, landing

    def _begin(self, state: IntegratorState) -> None:
        y = state.theta.clone()
        slope = torch.empty_like(y)
        losses = finite_start(state.objective.value_and_gradient(y, slope))
        slope.neg_()
        generator = torch.Generator().manual_seed(0)
        direction = torch.randn(y.shape[1], generator=generator, dtype=torch.float64).to(y)
        state.work = {
            "y": y,
            "slope": slope,
            "now": torch.empty_like(y),
            "old": torch.empty_like(y),
            "direction": slope / _norm(slope).clamp_min(1e-30)[:, None] + 0.1 * direction / direction.norm(),
            "f": torch.empty_like(y),
        }
        norms = _norm(y).double().cpu().numpy()
        state.control = _fresh(losses, norms, self.power_iterations)
        state.counts.loss[:] = losses
        state.counts.evaluations[:] = 1
        over = (losses < state.threshold) | (state.max_time <= 0)
        state.counts.converged[:] = losses < state.threshold
        if over.any():
            state.drop(over, y)
        if not state.finished:
            self._power(state, np.arange(len(state.rows)))

    def advance(self, state: IntegratorState, evaluations: int) -> IntegratorState:
        """Move every replica that is under way by ``evaluations`` gradients, in place."""
        if "start_loss" not in state.control:  # a checkpoint from before it was kept
            state.control["start_loss"] = state.control["loss"].copy()
        left = evaluations
        while left > 0 and not state.finished:
            left -= self._inner_stages(state, left - 1) + 1
            self._tick(state)
        state.update()
        return state

    def _inner_stages(self, state: IntegratorState, most: int) -> int:
        """Go on while all replicas are within a step, where nothing is decided; return how many gradients."""
        work, control = state.work, state.control
        stage, stages = control["stage"], control["stages"]
        count = min(most, int((stages - stage).min())) if (stage > POWER).all() else 0
        if count < 1:
            return 0
        pairs = zip(stages.tolist(), stage.tolist(), strict=True)
        tables = np.stack([coefficients(s)[j : j + count].T for s, j in pairs])  # (k, 5, count)
        tables[:, 3:] *= control["h"][:, None, None]
        tables[:, 3] *= -1  # f holds gradients here, not slopes
        for number in range(count):
            state.objective.value_and_gradient(work["now"], work["f"])
            _combine(work, tables[:, :, number].T)
        control["stage"] = stage + count
        state.counts.evaluations[state.rows] += count
        return count

    def _tick(self, state: IntegratorState) -> None:
        """Evaluate one gradient of every replica, each at the point that it needs next."""
        work, control = state.work, state.control
        losses = state.objective.value_and_gradient(work["now"], work["f"])
        work["f"].neg_()
        state.counts.evaluations[state.rows] += 1
        stage, stages = control["stage"], control["stages"]
        at_end = (stage == stages) & (stage != POWER)
        in_power, landing = stage == POWER, stage == LANDING
        inner = ~(at_end | in_power | landing)
        if inner.any():
            self._next_stage(state, inner)
        if in_power.any():
            self._after_power(state, np.flatnonzero(in_power))
        over = np.zeros(len(stage), dtype=bool)
        if at_end.any():
            over |= self._after_step(state, np.flatnonzero(at_end), losses)
        if landing.any():
            over |= self._after_landing(state, np.flatnonzero(landing), losses)
        if over.any():
            state.drop(over, work["y"])

    def _next_stage(self, state: IntegratorState, inner: Mask) -> None:
        """Form Y_{j+1} of the replicas inside a step; rows of the others are filled by what follows."""
        work, control = state.work, state.control
        rows = control["stage"]
        table = np.zeros((5, len(rows)))
        for i in np.flatnonzero(inner):
            table[:, i] = coefficients(int(control["stages"][i]))[rows[i]]
        table[3:] *= control["h"]
        if not inner.all():  # their points are still needed
            keep = index_of(np.flatnonzero(~inner), work["now"])
            kept = work["now"].index_select(0, keep)
        _combine(work, table)
        if not inner.all():
            work["now"].index_copy_(0, keep, kept)
        control["stage"] = np.where(inner, control["stage"] + 1, control["stage"])

    def _power(self, state: IntegratorState, rows: Rows) -> None:
        """Go to a point beside y, whose gradient tells the curvature in that direction."""
        work, control = state.work, state.control
        direction = _some(work["direction"], rows)
        size = _norm(direction).clamp_min(torch.finfo(direction.dtype).tiny)
        nudge = NUDGE * np.maximum(control["norm"][rows], 1e-8)
        control["nudge"][rows] = nudge
        scaled = direction * (torch.from_numpy(nudge).to(size) / size)[:, None]
        _put(work["now"], rows, _some(work["y"], rows) + scaled)
        control["stage"][rows] = POWER

    def _after_power(self, state: IntegratorState, rows: Rows) -> None:
        work, control = state.work, state.control
        change = _some(work["f"], rows) - _some(work["slope"], rows)
        size = _norm(change)
        found = size.double().cpu().numpy() / control["nudge"][rows]
        usable = np.isfinite(found) & (found > 0)
        known = torch.from_numpy(usable).to(size.device)[:, None]
        unit = change / size.clamp_min(torch.finfo(size.dtype).tiny)[:, None]
        _put(work["direction"], rows, torch.where(known, unit, _some(work["direction"], rows)))
        control["left"][rows] -= 1
        again = control["left"][rows] > 0
        done = rows[~again]
        if len(done):
            values = np.maximum(1.2 * np.where(usable, found, 0.0)[~again], 1e-12)
            control["curvature"][done] = values
            counts = state.counts
            globally = state.rows[done]
            counts.curvature[globally] = np.maximum(counts.curvature[globally], values)
            control["age"][done] = 0
            fresh = done[control["h"][done] == 0]
            control["h"][fresh] = 1 / control["curvature"][fresh]
            self._first_stage(state, done)
        if again.any():
            self._power(state, rows[again])

    def _first_stage(self, state: IntegratorState, rows: Rows) -> None:
        """Begin a step: choose its stages and form Y_1."""
        work, control = state.work, state.control
        curvature = control["curvature"][rows]
        left = state.max_time[state.rows[rows]] - state.counts.time[state.rows[rows]]
        most = self._most_stages(work["y"].dtype)
        h = np.minimum(control["h"][rows], longest_step(most, curvature))
        h = np.where(h > left, left, h)
        stages = np.minimum(stages_for(h, curvature), most)
        control["h"][rows], control["stages"][rows], control["stage"][rows] = h, stages, 1
        first = np.array([coefficients(int(s))[0, 3] for s in stages]) * h
        y, slope = _some(work["y"], rows), _some(work["slope"], rows)
        factor = torch.from_numpy(first).to(y)[:, None]
        _put(work["old"], rows, y)
        _put(work["now"], rows, torch.addcmul(y, slope, factor))

    def _most_stages(self, dtype: torch.dtype) -> int:
        """Return how many stages rounding allows: it grows with their square."""
        return min(self.max_stages, max(2, int((self.tolerance / (10 * torch.finfo(dtype).eps)) ** 0.5)))

    def _after_step(self, state: IntegratorState, rows: Rows, losses: Tensor) -> Mask:
        """Judge a step by its error and its loss, take it or try a shorter one; return who is done."""
        work, control = state.work, state.control
        h = control["h"][rows]
        y, end, slope, f = (_some(work[name], rows) for name in ("y", "now", "slope", "f"))
        half = torch.from_numpy(0.4 * h).to(y)[:, None]
        estimate = torch.sub(y, end).mul_(0.8).addcmul_(slope + f, half)
        measured = torch.stack([_norm(estimate), _norm(end), _some(losses, rows)])
        size, norm, loss = measured.double().cpu().numpy()
        scale = self.tolerance * np.maximum(control["norm"][rows], norm)
        if isinstance(state.objective, Kinked) and state.objective.kinked:
            scale *= _leniency(control, rows)
        with np.errstate(all="ignore"):
            error = size / np.maximum(scale, 1e-300)
            error = np.where(np.isfinite(error) & np.isfinite(loss), np.maximum(error, 1e-10), np.inf)
        globally = state.rows[rows]
        goal = state.threshold[globally]
        overshot = (loss < self.landing * goal) & (error <= 1) & (control["landings"][rows] < LANDINGS)
        accepted = (error <= 1) & ~overshot
        lands = self._find_landings(state, rows, overshot, (y, end), loss)
        if not accepted.all():
            _shorten(control, rows, error, overshot & ~lands, loss, goal)
            state.counts.rejected[globally[error > 1]] += 1
        if accepted.any():
            chosen = np.flatnonzero(accepted)
            self._accept(state, rows[accepted], tuple(_some(t, chosen) for t in (y, end, slope, f)))
            _adapt(control, rows[accepted], error[accepted], loss[accepted], norm[accepted])
        return self._go_on(state, rows, accepted, error > 1, lands)

    def _accept(self, state: IntegratorState, rows: Rows, parts: tuple[Tensor, ...]) -> None:
        """Move replicas to the end of their step."""
        globally = state.rows[rows]
        counts, control, work = state.counts, state.control, state.work
        start = counts.time[globally].copy()
        latest = state.max_time[globally]
        arrived = start + control["h"][rows]
        counts.time[globally] = np.where(arrived >= latest * (1 - 1e-12), latest, arrived)
        if state.observer is not None:
            stages = control["stages"][rows]
            y, end, slope, f = (part.clone() for part in parts)  # it may keep them
            step = Step(globally, start, counts.time[globally], y, end, slope, f, stages)
            state.observer.observe(step)
        for name, spare, part in (("y", "now", parts[1]), ("slope", "f", parts[3])):
            if part is work[spare]:  # all move, and what was there before is not needed any more
                work[name], work[spare] = part, work[name]
            else:
                _put(work[name], rows, part)
        counts.accepted[globally] += 1
        counts.stages[globally] += control["stages"][rows]

    def _go_on(self, state: IntegratorState, rows: Rows, accepted: Mask, rejected: Mask, lands: Mask) -> Mask:
        """Begin the next step of replicas that are neither done nor landing; return who is done."""
        control, counts, globally = state.control, state.counts, state.rows[rows]
        counts.loss[globally] = control["loss"][rows]
        below = control["loss"][rows] < state.threshold[globally]
        counts.converged[globally] = below
        stuck = control["h"][rows] <= 1e-14 * np.maximum(counts.time[globally], 1e-30)
        spent = counts.evaluations[globally] >= state.max_evaluations
        late = counts.time[globally] >= state.max_time[globally]
        over = np.zeros(len(state.rows), dtype=bool)
        over[rows] = below | stuck | spent | late
        old = (control["age"][rows] >= 25) | (rejected & (control["age"][rows] > 0))
        control["left"][rows[old]] = max(2, self.power_iterations // 2)
        over[rows] &= ~lands
        stays = ~over[rows] & ~lands
        if (old & stays).any():
            self._power(state, rows[old & stays])
        if (~old & stays).any():
            self._first_stage(state, rows[~old & stays])
        return over

    def _find_landings(
        self, state: IntegratorState, rows: Rows, overshot: Mask, ends: tuple[Tensor, Tensor], loss: Floats
    ) -> Mask:
        """Return who ends on the chord of the step that went too far, and go to a point on it.

        A chord that is as short as the error of a step is as good as the path, and a point on it costs one
        gradient; a shorter step costs one a stage.
        """
        if not overshot.any():
            return overshot
        work, control = state.work, state.control
        chord = ends[1] - ends[0]
        lengths = _norm(chord).double().cpu().numpy()
        lands = overshot & (lengths <= self.tolerance * control["norm"][rows])
        if lands.any():
            chosen = rows[lands]
            for name in ("low", "low_loss", "high", "high_loss", "share", "last_loss"):
                control.setdefault(name, np.zeros(len(state.rows)))
            control["low"][chosen], control["low_loss"][chosen] = 0.0, control["loss"][chosen]
            control["high"][chosen], control["high_loss"][chosen] = 1.0, loss[lands]
            control["last_loss"][chosen] = loss[lands]
            control["landings"][chosen], control["stage"][chosen] = 0, LANDING
            # no curvature is needed any more: the chord takes the place of its direction
            _put(work["direction"], chosen, _some(chord, np.flatnonzero(lands)))
            self._on_chord(state, chosen)
        return np.asarray(lands)

    def _on_chord(self, state: IntegratorState, rows: Rows) -> None:
        """Go to the point of a chord where the loss should be just below the threshold."""
        work, control = state.work, state.control
        low, high = control["low"][rows], control["high"][rows]
        goal = state.threshold[state.rows[rows]]
        with np.errstate(all="ignore"):
            fallen = np.log(control["low_loss"][rows] / ((1 + self.landing) / 2 * goal))
            whole = np.log(control["low_loss"][rows] / control["high_loss"][rows])
            between = np.clip(np.nan_to_num(fallen / whole, nan=0.5), 0.05, 0.95)
        between = np.where(control["landings"][rows] % 3 == 2, 0.5, between)  # halved now and then
        share = np.where(control["landings"][rows] < LANDINGS, low + between * (high - low), high)
        control["share"][rows] = share
        y, chord = (_some(work[name], rows) for name in ("y", "direction"))
        _put(work["now"], rows, torch.addcmul(y, chord, torch.from_numpy(share).to(y)[:, None]))

    def _after_landing(self, state: IntegratorState, rows: Rows, losses: Tensor) -> Mask:
        """End at the point of the chord if the loss is right, else go to another; return who is done."""
        work, control = state.work, state.control
        loss = _some(losses, rows).double().cpu().numpy()
        goal = state.threshold[state.rows[rows]]
        enough = loss < goal
        last = control["landings"][rows] >= LANDINGS
        landed = enough & ((loss >= self.landing * goal) | last)
        for name, side in (("high", enough), ("low", ~enough)):
            control[name][rows[side]] = control["share"][rows[side]]
            control[name + "_loss"][rows[side]] = loss[side]
        control["landings"][rows] += 1
        over = np.zeros(len(state.rows), dtype=bool)
        if not landed.all():
            self._on_chord(state, rows[~landed])
        if landed.any():
            done, value = rows[landed], loss[landed]
            # along the path the loss falls by the same factor in the same time
            with np.errstate(all="ignore"):
                fallen = np.log(control["loss"][done] / value)
                part = fallen / np.log(control["loss"][done] / control["last_loss"][done])
            control["h"][done] *= np.where(part <= 1, part, control["share"][done])
            control["loss"][done] = value
            self._accept(state, done, tuple(_some(work[name], done) for name in ("y", "now", "slope", "f")))
            state.counts.loss[state.rows[done]] = value
            state.counts.converged[state.rows[done]] = True
            over[done] = True
        return over


def _combine(work: dict[str, Tensor], table: Floats) -> None:
    """Form the next points from the last two and the slopes; ``table`` (5, k) holds their factors."""
    old, now, y, slope, f = (work[name] for name in ("old", "now", "y", "slope", "f"))
    if table.shape[1] == 1:
        c = table[:, 0].tolist()
        old.mul_(c[2]).add_(now, alpha=c[1]).add_(y, alpha=c[0])
        old.add_(f, alpha=c[3]).add_(slope, alpha=c[4])
    else:
        k = torch.from_numpy(table).to(old)[:, :, None]
        old.mul_(k[2]).addcmul_(now, k[1]).addcmul_(y, k[0]).addcmul_(f, k[3]).addcmul_(slope, k[4])
    work["old"], work["now"] = now, old


def _some(buffer: Tensor, rows: Rows) -> Tensor:
    """Return rows, which come in order: a copy, or the buffer itself if they are all."""
    return buffer if len(rows) == len(buffer) else buffer.index_select(0, index_of(rows, buffer))


def _put(buffer: Tensor, rows: Rows, values: Tensor) -> None:
    """Write rows, which come in order."""
    if len(rows) == len(buffer):
        buffer.copy_(values)
    else:
        buffer.index_copy_(0, index_of(rows, buffer), values)


def _norm(x: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(x, dim=1)
    return norms


def _fresh(losses: Floats, norms: Floats, power_iterations: int) -> Control:
    """Return what steers replicas that are about to begin: each with an estimate of its curvature."""
    n = len(losses)
    whole = ("stages", "age", "landings")
    numbers = ("h", "curvature", "h_before", "rate", "nudge")
    return {
        "stage": np.full(n, POWER),
        "left": np.full(n, power_iterations),
        "loss": losses,
        "start_loss": losses.copy(),
        "norm": norms,
        "error": np.ones(n),
        "direction": np.ones(n),
        **{name: np.zeros(n, dtype=np.int64) for name in whole},
        **{name: np.zeros(n) for name in numbers},
    }


def _leniency(control: Control, rows: Rows) -> Floats:
    """Return by how much the error of a step may exceed the tolerance where gradients have kinks.

    Most of the estimate is then of units that cross their kinks within the step, however short. While the
    loss is high that decides what they learn; when little is left to learn it decides nothing. Test losses
    of ReLU networks are as far from those of a tenth of the tolerance as without leniency, and a fifth of
    the gradients is saved. Smooth losses are spared: their ends would be up to twice as far from the limit.
    """
    with np.errstate(all="ignore"):  # losses may be zero or negative
        fallen = control["start_loss"][rows] / control["loss"][rows]
        factor = np.clip(np.sqrt(LENIENT_BELOW * fallen), 1.0, MOST_LENIENT)
    return np.where(np.isnan(factor), 1.0, factor)


def _shorten(control: Control, rows: Rows, error: Floats, overshot: Mask, loss: Floats, goal: Floats) -> None:
    """Choose the next attempt of steps that were too inaccurate, or went too far below the threshold."""
    h = control["h"][rows]
    with np.errstate(all="ignore"):
        shorter = h * np.clip(0.8 * error ** (-1 / 3), 0.1, 0.8)
        before = np.log(np.maximum(control["loss"][rows] / (0.975 * goal), 1.0))
        whole = np.log(np.maximum(control["loss"][rows] / np.maximum(loss, 1e-300), 1 + 1e-12))
        landing = h * np.clip(before / whole, 0.02, 0.98)
    h = np.where(error > 1, np.where(np.isfinite(error), shorter, 0.1 * h), h)
    control["h"][rows] = np.where(overshot, landing, h)
    control["landings"][rows] += overshot


def _adapt(control: Control, rows: Rows, error: Floats, loss: Floats, norm: Floats) -> None:
    """Choose the next step from this error and the one before."""
    h, before = control["h"][rows], control["h_before"][rows]
    plain = 0.8 * error ** (-1 / 3)
    trend = (control["error"][rows] / error) ** (1 / 3) * h / np.where(before > 0, before, h)
    factor = np.where(before > 0, np.minimum(plain * trend, 10.0), plain)
    factor = np.minimum(factor, _most_growth(control, rows, loss))
    control["h"][rows] = h * np.clip(factor, 0.1, 10.0)
    control["h_before"][rows], control["error"][rows] = h, error
    control["loss"][rows], control["norm"][rows] = loss, norm
    control["age"][rows] += 1


def _most_growth(control: Control, rows: Rows, loss: Floats) -> Floats:
    """Return by how much a step may grow while the loss falls fast.

    Near the end the error allows steps of any length. But a step damps what is stiff only by so much however
    long it is, and costs as many gradients as it has stages: its length climbs towards where the loss falls
    most per gradient. On a plateau, where long steps alone help, nothing holds it back.
    """
    with np.errstate(all="ignore"):
        fallen = np.log(control["loss"][rows] / np.maximum(loss, 1e-300))
    rate = fallen / control["stages"][rows]
    better = rate >= control["rate"][rows]
    direction = np.where(better, control["direction"][rows], -control["direction"][rows])
    fast = fallen > 0.5
    control["rate"][rows] = rate
    control["direction"][rows] = np.where(fast, direction, 1)
    return np.where(fast, np.where(direction > 0, 1.5, 1 / 1.5), np.inf)
