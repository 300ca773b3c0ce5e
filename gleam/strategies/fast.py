"""Faster steps for any strategy: convolutions in a smaller number format, and CUDA graphs.

In a smaller format weights and feature maps are also laid out with channels last, as matrix units (tensor cores, AMX)
need them. On GPUs the whole step is recorded as a CUDA graph and replayed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any, final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gleam import execution
from gleam.networks import protocol
from gleam.networks.convolutions import lay_out
from gleam.physics.batch import Batch
from gleam.processes.team import Team
from gleam.strategies.base import Strategy

AUTO = "auto"
N_WARMUP_STEPS = 3  # ordinary steps: cuDNN tries its algorithms and the optimizers make their state


@final
@dataclass(frozen=True)
class Fast(Strategy):
    """A strategy with its convolutions in a smaller number format and, on CUDA, its steps replayed as a graph.

    The mathematics is that of `strategy`. Data consistency, losses, weights and updates stay float32 and complex64. In
    bf16 and tf32 weights and feature maps have their channels last in memory.

    Parameters
    ----------
    strategy : Strategy
        How a step is taken.
    precision : "auto", "bf16", "tf32" or "fp32"
        Number format of convolutions; tf32 exists on CUDA only. "auto": bf16 where the device is fast in it
        (:func:`gleam.execution.has_fast_bf16`), else fp32; memory-efficient learning always gets fp32, since its
        inversions need it and would all fall back to recomputation in a smaller format. :meth:`settled` decides;
        :func:`gleam.fit` asks once for all processes of a run and records the answer.
    compiled : bool
        As in :func:`gleam.execution.using`.
    captured : bool
        On CUDA, record the whole step with its updates once, after a few ordinary steps, and launch it as one from
        then on, so that the device never waits for the host. A batch of another shape takes an ordinary step. All
        steps are ordinary on a CPU, for strategies that wait for the device within a step, on several devices, and
        for networks that draw random numbers.
    channel_multiple : int
        As in :func:`gleam.execution.using`; channels are padded on CUDA only.

    Raises
    ------
    ValueError
        For another precision, or if `channel_multiple` is not valid.

    Notes
    -----
    In your own network, cast the output of convolutions to float32 before `torch.view_as_complex`. On a CPU, do not use
    `nn.Conv3d` in bf16 on series with fewer frames than its kernel: the gradients of oneDNN are wrong there. The
    convolutions of :mod:`gleam.networks.convolutions` avoid that.
    """

    strategy: Strategy
    precision: str = AUTO
    compiled: bool = False
    captured: bool = True
    channel_multiple: int = 8

    def __post_init__(self):
        execution.check("fp32" if self.precision == AUTO else self.precision, self.channel_multiple)

    @property
    def is_capturable(self) -> bool:
        """As `strategy`."""
        return self.strategy.is_capturable

    @property
    def is_captured(self) -> bool:
        """Whether steps on CUDA are recorded: `captured`, if `strategy` allows it."""
        return self.captured and self.strategy.is_capturable

    @property
    def loss(self) -> Any:
        """As `strategy`."""
        return self.strategy.loss

    @property
    def needs_fp32(self) -> bool:
        """As `strategy`."""
        return self.strategy.needs_fp32

    @property
    def is_pipelined(self) -> bool:
        """As `strategy`."""
        return self.strategy.is_pipelined

    @property
    def team(self) -> Team:
        """As `strategy`."""
        return self.strategy.team

    @property
    def replica(self) -> int:
        """As `strategy`."""
        return self.strategy.replica

    @property
    def propagation(self) -> Strategy:
        """As `strategy`."""
        return self.strategy.propagation

    @property
    def equivalent(self) -> Fast:
        """The same options around the strategy that trains the same weights in one process."""
        return replace(self, strategy=self.strategy.equivalent)

    @property
    def eager(self) -> Fast:
        """The same without CUDA graphs: allocations inside a replay cannot be measured."""
        return replace(self, captured=False)

    def settled(self, device: str | torch.device) -> Fast:
        """The same with "auto" replaced by the number format for `device`."""
        if self.precision != AUTO:
            return self
        is_fast = execution.has_fast_bf16(device) and not self.needs_fp32
        return replace(self, precision="bf16" if is_fast else "fp32")

    def modules(self, network: nn.Module) -> list[Sequence[nn.Module]]:
        """Those of `strategy`."""
        return self.strategy.modules(network)

    def mine(self, network: nn.Module) -> list[int]:
        """Those of `strategy`."""
        return self.strategy.mine(network)

    def propagate(self, iterations: Sequence[nn.Module], x: Tensor, batch: Batch) -> Tensor:
        """As `strategy`, with convolutions in this precision."""
        with self._execution(protocol.device_of(x, batch.target.device).type):
            return self.strategy.propagate(iterations, x, batch)

    def step(self, network: nn.Module, batch: Batch, optimizers: Sequence[Optimizer]) -> list[Tensor]:
        """One step of `strategy` in this precision, on CUDA from a graph if possible; returns its losses."""
        if self.settled(batch.target.device).precision != "fp32":
            lay_out(network, optimizers)
        with self._execution(batch.target.device.type):
            if batch.target.is_cuda and self.is_captured:
                return self._replay(optimizers[0])(network, batch, optimizers)
            return self.strategy.step(network, batch, optimizers)

    def diagnostics(self) -> dict:
        """Those of `strategy`."""
        return self.strategy.diagnostics()

    def finish(self) -> None:
        """As `strategy`."""
        self.strategy.finish()

    def _replay(self, optimizer):
        made_by, replay = _REPLAYS.get(optimizer, (None, None))
        if made_by != self:
            replay = Replay(self.strategy)
            _REPLAYS[optimizer] = self, replay
        return replay

    def _execution(self, device_type):
        return execution.using(
            self.settled(device_type).precision,
            device_type=device_type,
            compiled=self.compiled,
            channel_multiple=self.channel_multiple if device_type == "cuda" else 1,
        )


# One per optimizer. The optimizer is deleted when a training run ends, and then the memory of its graph is freed.
_REPLAYS: WeakKeyDictionary[Optimizer, Replay] = WeakKeyDictionary()


class Replay:
    """Steps of a strategy: a few ordinary ones, then a recorded one that is replayed.

    The first shape of batch met `N_WARMUP_STEPS` + 1 times is recorded; other shapes take ordinary steps. Each call is
    exactly one step of training; a recording itself runs nothing.

    Parameters
    ----------
    strategy : Strategy
        Whose steps they are.
    record : callable, optional
        `record(step, device)` records a call of `step` and returns (function that replays it, its result).
    offset : callable, optional
        `offset(device)` counts the random numbers drawn on the device.
    """

    def __init__(
        self,
        strategy: Strategy,
        *,
        record: Callable[[Callable, torch.device], tuple[Callable, list[Tensor]]] | None = None,
        offset: Callable[[torch.device], int] | None = None,
    ):
        self.strategy = strategy
        self.record, self.offset = record or _record_graph, offset or _random_offset
        self.n_steps: Counter[tuple] = Counter()
        self.recorded: tuple | None = None
        self.replay: Any = None
        self.is_ordinary = False

    def __call__(self, network: nn.Module, batch: Batch, optimizers: Sequence[Optimizer]) -> list[Tensor]:
        """One step on `batch`; returns the losses."""
        shapes = _shapes(batch)
        if self.is_ordinary or self.recorded not in (None, shapes):
            return self.strategy.step(network, batch, optimizers)
        self.n_steps[shapes] += 1
        if self.n_steps[shapes] <= N_WARMUP_STEPS:
            return self._warm_up(network, batch, optimizers)
        if self.recorded is None:
            self.recorded = shapes
            self._capture(network, batch, optimizers)
        for mine, new in zip(_tensors(self.batch), _tensors(batch), strict=True):
            mine.copy_(new, non_blocking=True)
        self.replay()
        return [loss.clone() for loss in self.losses]  # the next replay writes into the same memory

    def _warm_up(self, network, batch, optimizers):
        """An ordinary step that also finds out whether a graph can replace it."""
        device = batch.target.device
        offsets, before = [], self.offset(device)

        def note(*_):
            offsets.append(self.offset(device))

        hooks = [iteration.register_forward_hook(note) for iteration in network.iterations]
        try:
            losses = self.strategy.step(network, batch, optimizers)
        finally:
            for hook in hooks:
                hook.remove()
        # gleam.fit seeds the generator anew before each iteration, which sets the count to 0
        draws = not {*offsets, self.offset(device)} <= {before, 0}
        is_fused = all(group.get("fused") for optimizer in optimizers for group in optimizer.param_groups)
        self.is_ordinary |= draws or not is_fused or any(p.device != device for p in network.parameters())
        return losses

    def _capture(self, network, batch, optimizers):
        # A batch of its own, into which later batches are copied. Operators derived from it (Batch.sense) are computed
        # inside the recording, so a replay computes them from the new contents.
        own = self.batch = type(batch)(*(t.clone() for t in _tensors(batch)))
        with _capturable(optimizers):
            try:
                self.replay, self.losses = self.record(
                    lambda: self.strategy.step(network, own, optimizers), batch.target.device
                )
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                raise RuntimeError(
                    f"a step of {self.strategy} with this network cannot be recorded as a CUDA graph, since it may not "
                    f"wait for the device ({str(error).splitlines()[0]}); give gleam.Fast captured=False"
                ) from error


@contextmanager
def _capturable(optimizers):
    """Mark optimizers as capturable, which torch requires in a recording and warns of outside one."""
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    for group in groups:
        group["capturable"] = True
    try:
        yield
    finally:
        for group in groups:
            group["capturable"] = False


def _tensors(batch):
    return [getattr(batch, f.name) for f in fields(batch)]


def _shapes(batch):
    return tuple((t.shape, t.dtype) for t in _tensors(batch))


def _random_offset(device):
    return torch.cuda.default_generators[device.index].get_offset()


def _record_graph(step, device):
    graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream(device)
    try:
        with torch.cuda.device(device), torch.cuda.graph(graph, stream=torch.cuda.Stream(device)):
            losses = step()
    finally:
        torch.cuda.set_stream(before)  # a recording that failed leaves its own stream behind
    return graph.replay, losses
