"""Faster steps for any strategy: convolutions in a smaller number format, and CUDA graphs.

In a smaller format weights and feature maps are also laid out with channels last, as matrix units (tensor cores, AMX)
need them. On GPUs the whole step is recorded as a CUDA graph and replayed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gleam import execution
from gleam.networks import protocol
from gleam.networks.convolutions import lay_out
from gleam.physics.batch import Batch
from gleam.physics.losses import splitting
from gleam.processes.team import Team
from gleam.strategies.base import Strategy
from gleam.strategies.recorded import Replay

AUTO = "auto"


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
        """Whether steps on CUDA are recorded (`captured`, if `strategy` allows it and its loss draws no samples)."""
        return self.captured and self.strategy.is_capturable and not splitting(self.loss)

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
        """The same without CUDA graphs, since allocations inside a replay cannot be measured."""
        return replace(self, captured=False)

    def settled(self, device: str | torch.device) -> Fast:
        """The same with "auto" replaced by the number format for `device`."""
        if self.precision != AUTO:
            return self
        # tf32 is never chosen: where it exists, bf16 is fast as well
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
        if self.settled(batch.target.device).precision != "fp32":  # in fp32 the layout is that of the input
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
        if made_by != self:  # other options, so another step
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
