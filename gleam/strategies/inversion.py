"""Memory-efficient learning: backpropagation that recovers the inputs of iterations from their outputs.

An iteration is a module called as ``iteration(x, batch)`` that has a method ``inverse(x_next, batch)``.

Recovered inputs are checked. A residual cannot do that: that one step forward from the recovered input gives the output
it was recovered from says nothing of the output, which was recovered itself, and errors grow from step to step. So 251
numbers are kept of each true input, its signature, from which the error of the recovered one is estimated.
"""

import math
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from gleam import execution
from gleam.physics.sense import Batch
from gleam.physics.solvers import NotConverged
from gleam.strategies.base import WholeNetwork


class InversionWarning(UserWarning):
    """An inversion was not accurate enough and was replaced."""


class Monitor:
    """Counts inversions and those that had to be replaced."""

    def __init__(self):
        self.has_warned = False
        self._clear()

    def _clear(self):
        self.n_inversions, self.fallbacks, self.largest_error = 0, Counter(), 0.0

    def accept(self, error):
        """Note an inversion with relative error ``error``."""
        self.n_inversions += 1
        self.largest_error = max(self.largest_error, error)

    def replace(self, i, reason):
        """Note that the inversion of iteration ``i`` was replaced; the first time, warn."""
        self.n_inversions += 1
        self.fallbacks[i] += 1
        if not self.has_warned:
            self.has_warned = True
            warnings.warn(
                f"iteration {i} could not be inverted ({reason}); its input was computed again from a checkpoint. Only "
                "the first time is reported here, diagnostics() of the strategy and the history of a fit count them",
                InversionWarning,
                stacklevel=2,
            )

    def diagnostics(self):
        """Since last asked: n_inversions; n_fallbacks; fallbacks_at, a list of [iteration of its module, how often];
        inversion_error, the largest one that was accepted.
        """
        found = {
            "n_inversions": self.n_inversions, "n_fallbacks": self.fallbacks.total(),
            "fallbacks_at": sorted(map(list, self.fallbacks.items())), "inversion_error": self.largest_error,
        }  # fmt: skip
        self._clear()
        return found


def combined(diagnostics):
    """The :meth:`Monitor.diagnostics` of several processes as one."""
    places = Counter()
    for one in diagnostics:
        places.update({i: n for i, n in one["fallbacks_at"]})
    return {
        "n_inversions": sum(one["n_inversions"] for one in diagnostics), "n_fallbacks": places.total(),
        "fallbacks_at": sorted(map(list, places.items())),
        "inversion_error": max(one["inversion_error"] for one in diagnostics),
    }  # fmt: skip


@final
@dataclass(frozen=True)
class Invertible(WholeNetwork):
    """Memory-efficient learning: backpropagation that keeps few images and recovers the others by inversion (Eq. 11).

    Of the inputs of N iterations ``n_checkpoints`` are kept, evenly over the unroll (more than N keeps all, which is
    :class:`Checkpointed`). On the way back each of the others is recovered from the iteration's output by
    ``iteration.inverse(x_next, batch)``, and the iteration is computed again from there. With one checkpoint the one
    that is kept is the start of the unroll, which costs nothing, since the batch holds it; with none it is recovered as
    well.

    An inversion can fail, and errors grow from one to the next: this module tells the relative error of each
    recovered input from a signature. Where it is above ``tolerance`` the inputs down to the nearest checkpoint are
    computed again, forward, and no gradient is taken at the wrong place. The first time this happens there is an
    :class:`InversionWarning`; :meth:`diagnostics` counts.
    """

    is_capturable, needs_fp32 = False, True

    n_checkpoints: int = 1
    tolerance: float = 1e-5
    monitor: Monitor = field(default_factory=Monitor, repr=False, compare=False)

    def __post_init__(self):
        if not hasattr(self.n_checkpoints, "__index__") or self.n_checkpoints < 0:
            raise ValueError(f"n_checkpoints={self.n_checkpoints!r} must be a whole number of at least 0")
        if not self.tolerance > 0:
            raise ValueError(f"tolerance={self.tolerance!r} of an inversion must be greater than 0")

    def propagate(self, iterations: Sequence[nn.Module], x: Tensor, batch: Batch) -> Tensor:
        """Run ``iterations`` on ``x``; keep checkpoints and signatures. ValueError if one of them has no inverse."""
        for iteration in iterations:
            if not hasattr(iteration, "inverse"):
                raise ValueError(
                    f"{self} needs iterations with a method inverse(x_next, batch), which {type(iteration).__name__} "
                    "lacks; gleam.unrolled.modl has it"
                )
        places = {i * len(iterations) // self.n_checkpoints for i in range(self.n_checkpoints)}
        return propagate_by_inversion(iterations, x, batch, places, self.tolerance, self.monitor)

    def diagnostics(self) -> dict:
        """What the monitor noticed since it was last asked (:meth:`Monitor.diagnostics`)."""
        return self.monitor.diagnostics()


def propagate_by_inversion(iterations, x, batch, places, tolerance, monitor):
    """Run ``iterations`` on ``x``; keep the inputs of those numbered in ``places`` and recover the others on the way
    back.

    An input that comes back with a relative error above ``tolerance``, or whose inverse raises
    :class:`gleam.solvers.NotConverged`, is computed again from the nearest one below that is known, and so are those
    between. ``monitor`` takes notes. The decision waits for the device once per inversion.
    """
    parameters = {id(p): p for iteration in iterations for p in _trained(iteration)}
    return _ByInversion.apply(iterations, batch, places, tolerance, monitor, x, *parameters.values())


class _ByInversion(torch.autograd.Function):
    """All iterations as one step of autograd, which keeps images only."""

    @staticmethod
    def forward(ctx, iterations, batch, places, tolerance, monitor, x, *parameters):
        start, inputs, signatures = x, {}, []
        for i, iteration in enumerate(iterations):
            if i in places:
                inputs[i] = x
            signatures.append(_signature(x))
            x = iteration(x, batch)
        ctx.places, ctx.parameters = list(inputs), parameters
        ctx.autocast = execution.autocast_as_now(x.device.type)
        ctx.way_back = lambda *saved: _Inputs(iterations, batch, tolerance, monitor, *saved)
        ctx.save_for_backward(x, start, *signatures, *inputs.values())
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        x_next, start, *saved = ctx.saved_tensors
        n = len(saved) - len(ctx.places)
        inputs = ctx.way_back(start, saved[:n], dict(zip(ctx.places, saved[n:], strict=True)))
        totals = {}
        for i in reversed(range(n)):
            with ctx.autocast():
                x = inputs.before(i, x_next)
                gradient, own = _local_gradients(inputs.iterations[i], x, inputs.batch, gradient)
            for p, g in own:
                totals[id(p)] = totals[id(p)] + g if id(p) in totals else g
            x_next = x
        return None, None, None, None, None, gradient, *[totals.get(id(p)) for p in ctx.parameters]


def _local_gradients(iteration, x, batch, gradient):
    """Gradients with respect to the input and to each parameter of one iteration, computed again from ``x``."""
    parameters = _trained(iteration)
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        y = iteration(x, batch)
    to_x, *own = torch.autograd.grad(y, [x, *parameters], gradient, allow_unused=True)
    to_x = torch.zeros_like(x) if to_x is None else to_x
    return to_x, [(p, g) for p, g in zip(parameters, own, strict=True) if g is not None]


def _trained(iteration):
    return [p for p in iteration.parameters() if p.requires_grad]


@dataclass
class _Inputs:
    """The inputs of ``iterations`` on the way back: ``kept``, recovered or, where that fails, computed again."""

    iterations: list
    batch: object
    tolerance: float
    monitor: Monitor
    start: torch.Tensor
    signatures: list
    kept: dict

    def before(self, i, x_next):
        """Input of iteration ``i``, whose output is ``x_next``."""
        if i not in self.kept:
            x = self._recovered(i, x_next)
            if x is not None:
                return x
            self._compute_again(i)
        return self.kept.pop(i)

    def _recovered(self, i, x_next):
        try:
            x = self.iterations[i].inverse(x_next, self.batch)
        except NotConverged as failure:
            self.monitor.replace(i, str(failure))
            return None
        error = _relative_error(_signature(x), self.signatures[i])
        if math.isfinite(error) and error <= self.tolerance:
            self.monitor.accept(error)
            return x
        self.monitor.replace(i, f"it left a relative error of {error:.1g}, tolerance={self.tolerance:g}")
        return None

    def _compute_again(self, last):
        first = max((i for i in self.kept if i < last), default=0)
        x = self.kept.setdefault(first, self.start)
        for i in range(first, last):
            self.kept[i + 1] = x = self.iterations[i](x, self.batch)


def inversion_errors(network, batch):
    """Relative error with which the input of each iteration comes back if all are recovered from the output alone.

    A list of N numbers, the largest over the batch; inf from where an inverse did not converge. No checkpoint, no
    fallback, and the truth is kept to compare with: a diagnosis, not a step.
    """
    errors = [math.inf] * len(network.iterations)
    with torch.no_grad():
        *inputs, x = network.iterates(batch)
        for i in reversed(range(len(inputs))):
            try:
                x = network.iterations[i].inverse(x, batch)
            except NotConverged:
                break
            errors[i] = _relative_error(x, inputs[i])
    return errors


_N_SUMS = 251  # a prime, so that no row or column of an image falls into few of them


def _signature(x):
    """Sums of x (batch, ...) over 251 sets of pixels, interleaved, with random signs.

    Linear in x, and ||signature(e)|| estimates ||e|| to several percent, also if e is large in one row or place alone.
    """
    flat = x.flatten(1)
    generator = torch.Generator(x.device).manual_seed(0)
    signs = 1 - 2 * torch.randint(2, flat.shape[1:], generator=generator, device=x.device, dtype=torch.int8)
    signed = torch.nn.functional.pad(flat * signs, (0, -flat.shape[1] % _N_SUMS))
    return signed.unflatten(1, (-1, _N_SUMS)).sum(1)


def _relative_error(x, truth):
    """||x - truth|| / ||truth||, the largest over the batch; the only place where the host waits."""
    difference, size = (torch.linalg.vector_norm(v.flatten(1), dim=1) for v in (x - truth, truth))
    return float((difference / size.clamp_min(torch.finfo(size.dtype).tiny)).max())
