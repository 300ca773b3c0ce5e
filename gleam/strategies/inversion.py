"""Memory-efficient learning: backpropagation that recovers the inputs of iterations from their outputs.

An iteration is a module called as `iteration(x, batch)` with a method `inverse(x_next, batch)`.

Every recovered input is checked against a signature of the true one: 251 numbers kept from the forward pass, from which
the error is estimated. A residual would not do. One step forward from the recovered input may well reproduce the output
it was recovered from, but that output was recovered too, and errors grow from step to step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from gleam import execution
from gleam.files import whole_number
from gleam.networks import protocol
from gleam.physics.batch import Batch
from gleam.physics.losses import Loss, complex_l1
from gleam.physics.solvers import NotConverged
from gleam.strategies.base import WholeNetwork
from gleam.strategies.greedy import as_before, buffers_of
from gleam.strategies.monitor import Monitor


@final
@dataclass(frozen=True, repr=False)
class Invertible(WholeNetwork):
    """Memory-efficient learning: backpropagation that keeps few images and recovers the others by inversion (Eq. 11).

    In the backward pass the input of an iteration is recovered from its output by `iteration.inverse(x_next, batch)`,
    and the iteration is computed again from there. If the relative error of a recovered input is above `tolerance`, or
    the inverse raises :class:`gleam.solvers.NotConverged`, the inputs down to the nearest checkpoint are recomputed
    forward. So no gradient is taken at a wrong input. The first time this happens there is an
    :class:`gleam.strategies.InversionWarning`; :meth:`diagnostics` counts all.

    Parameters
    ----------
    n_checkpoints : int
        Number of inputs that are kept, evenly spaced over the N iterations. With 1 that is the start of the unroll,
        which costs nothing, since the batch holds it; with 0 the start is recovered as well. From N on all are kept
        and nothing is inverted, as with :class:`Checkpointed`.
    tolerance : float
        Largest relative error of a recovered input.
    monitor : Monitor
        Counts inversions; by default a new one.
    loss : callable
        Of (image, batch).

    Raises
    ------
    ValueError
        If `n_checkpoints` is no whole number of at least 0, or `tolerance` is not greater than 0.
    """

    is_capturable, needs_fp32 = False, True

    n_checkpoints: int = 1
    tolerance: float = 1e-5
    monitor: Monitor = field(default_factory=Monitor, repr=False, compare=False)
    loss: Loss | Sequence[Loss] = complex_l1

    def __post_init__(self):
        whole_number(self.n_checkpoints, "n_checkpoints", least=0)
        if not self.tolerance > 0:
            raise ValueError(f"tolerance={self.tolerance!r} of an inversion must be greater than 0")

    def propagate(self, iterations: Sequence[nn.Module], x: Tensor, batch: Batch) -> Tensor:
        """Run `iterations` on `x`; keep checkpoints and signatures.

        Raises ValueError if an iteration has no inverse, if `x` is no tensor, or if the batch has learned parts.
        """
        learned = any(t.requires_grad for t in protocol.tensors_in(batch))
        if learned or not isinstance(x, Tensor):
            why = "a batch with learned parts (setup)" if learned else f"iterates of type {type(x).__name__}"
            raise ValueError(f"{self} cannot train {why}: take gleam.Checkpointed, which needs about as little memory")
        for iteration in iterations:
            if not hasattr(iteration, "inverse"):
                raise ValueError(
                    f"{self} needs iterations with a method inverse(x_next, batch), which {type(iteration).__name__} "
                    "lacks; gleam.unrolled.modl has it"
                )
        # evenly spaced, from the start on
        places = {i * len(iterations) // self.n_checkpoints for i in range(self.n_checkpoints)}
        # given as inputs, so that autograd asks for their gradients; each once, also if iterations share it
        parameters = {id(p): p for iteration in iterations for p in _trained(iteration)}
        return _ByInversion.apply(iterations, batch, places, self.tolerance, self.monitor, x, *parameters.values())

    def diagnostics(self) -> dict:
        """Counts and errors of inversions since the last call (:meth:`Monitor.diagnostics`)."""
        return self.monitor.diagnostics()


class _ByInversion(torch.autograd.Function):
    """All iterations as one operation of autograd, which keeps the inputs numbered in `places` and signatures."""

    @staticmethod
    def forward(ctx, iterations, batch, places, tolerance, monitor, x, *parameters):
        start, inputs, signatures, buffers = x, {}, [], []
        for i, iteration in enumerate(iterations):
            if i in places:
                inputs[i] = x
            signatures.append(_signature(x))
            # as they are before the iteration, for its second computation
            buffers.append(buffers_of(iteration))
            x = iteration(x, batch)
        ctx.places, ctx.parameters = list(inputs), parameters
        ctx.autocast = execution.autocast_as_now(x.device.type)
        ctx.make_inputs = lambda *saved: _Inputs(iterations, batch, tolerance, monitor, buffers, *saved)
        ctx.save_for_backward(x, start, *signatures, *inputs.values())  # sliced in this order in backward
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        x_next, start, *saved = ctx.saved_tensors
        n = len(saved) - len(ctx.places)
        inputs = ctx.make_inputs(start, saved[:n], dict(zip(ctx.places, saved[n:], strict=True)))
        totals = {}
        for i in reversed(range(n)):
            with ctx.autocast():
                x = inputs.before(i, x_next)
                with as_before(inputs.iterations[i], inputs.buffers[i]):
                    gradient, to_weights = _local_gradients(inputs.iterations[i], x, inputs.batch, gradient)
            for p, g in to_weights:  # summed, since iterations may share a parameter
                totals[id(p)] = totals[id(p)] + g if id(p) in totals else g
            x_next = x
        return None, None, None, None, None, gradient, *[totals.get(id(p)) for p in ctx.parameters]


def _local_gradients(iteration, x, batch, gradient):
    """Gradients with respect to the input and each parameter of one iteration, which is computed again from `x`."""
    parameters = _trained(iteration)
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        y = iteration(x, batch)
    to_x, *to_weights = torch.autograd.grad(y, [x, *parameters], gradient, allow_unused=True)
    to_x = torch.zeros_like(x) if to_x is None else to_x
    return to_x, [(p, g) for p, g in zip(parameters, to_weights, strict=True) if g is not None]


def _trained(iteration):
    return [p for p in iteration.parameters() if p.requires_grad]


@dataclass
class _Inputs:
    """The inputs of the iterations in the backward pass: kept, recovered or, where that fails, computed again."""

    iterations: Sequence[nn.Module]
    batch: Batch
    tolerance: float
    monitor: Monitor
    buffers: list
    start: Tensor
    signatures: list
    kept: dict

    def before(self, i, x_next):
        """Input of iteration `i`, whose output is `x_next`."""
        if i not in self.kept:
            x = self._recovered(i, x_next)
            if x is not None:
                return x
            # from the nearest checkpoint, or the start, forward to x(i); what lies between is kept for the next calls
            first = max((k for k in self.kept if k < i), default=0)
            x = self.kept.setdefault(first, self.start)
            for k in range(first, i):
                with as_before(self.iterations[k], self.buffers[k]):
                    self.kept[k + 1] = x = self.iterations[k](x, self.batch)
        return self.kept.pop(i)  # asked for once: its memory is free after the iteration

    def _recovered(self, i, x_next):
        try:
            x = self.iterations[i].inverse(x_next, self.batch)
        except NotConverged as failure:  # any other error is one of the iteration and is not hidden
            self.monitor.replace(i, str(failure))
            return None
        error = _relative_error(_signature(x), self.signatures[i])
        if math.isfinite(error) and error <= self.tolerance:
            self.monitor.accept(error)
            return x
        self.monitor.replace(i, f"it left a relative error of {error:.1g}, tolerance={self.tolerance:g}")
        return None


def inversion_errors(network: nn.Module, batch: Batch) -> list[float]:
    """Errors of the inputs of all iterations if they are recovered one after the other from the output alone.

    A diagnosis, not a training step: no checkpoint and no fallback, and the true inputs are kept to compare with.

    Parameters
    ----------
    network : Module
        With `iterates(batch)`, such as :class:`gleam.networks.unrolled.Unrolled`.
    batch : Batch

    Returns
    -------
    list of float
        Relative error of the input of each iteration, the largest over the batch; inf from where an inverse did not
        converge.
    """
    iterations: Any = network.iterations
    iterates: Any = network.iterates
    errors = [math.inf] * len(iterations)
    with torch.no_grad():
        *inputs, x = iterates(batch)
        for i in reversed(range(len(inputs))):
            try:
                x = iterations[i].inverse(x, batch)
            except NotConverged:
                break
            errors[i] = _relative_error(x, inputs[i])
    return errors


def gradient(network: nn.Module, strategy: WholeNetwork, batch: Batch, loss: Loss = complex_l1) -> Tensor:
    """The gradient of a loss with respect to all weights, as one vector, as `strategy` computes it; no update.

    With :class:`gleam.EndToEnd` it is that of backpropagation.
    """
    unrolled: Any = network
    image = strategy.propagate(unrolled.iterations, unrolled.start(batch), batch)
    parts = torch.autograd.grad(loss(image, batch), list(network.parameters()))
    return torch.cat([part.ravel() for part in parts])


_N_SUMS = 251  # a prime, so that the pixels of a row or column are spread over many of the sums


def _signature(x):
    """Sums of x (batch, ...) over 251 sets of pixels, interleaved, with random signs.

    Linear in x, and ||signature(e)|| estimates ||e|| to several percent, also if e is large in one row or place alone.
    """
    flat = x.flatten(1)
    generator = torch.Generator(x.device).manual_seed(0)  # the same signs in both passes
    signs = 1 - 2 * torch.randint(2, flat.shape[1:], generator=generator, device=x.device, dtype=torch.int8)
    signed = torch.nn.functional.pad(flat * signs, (0, -flat.shape[1] % _N_SUMS))
    return signed.unflatten(1, (-1, _N_SUMS)).sum(1)


def _relative_error(x, truth):
    """||x - truth|| / ||truth||, the largest over the batch; a number of Python, so the host waits for the device."""
    difference, size = (torch.linalg.vector_norm(v.flatten(1), dim=1) for v in (x - truth, truth))
    return float((difference / size.clamp_min(torch.finfo(size.dtype).tiny)).max())
