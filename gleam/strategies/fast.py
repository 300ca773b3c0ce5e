"""Any strategy at the speed of the device: convolutions in a smaller number format and the layout of matrix units, on
GPUs the step replayed as a CUDA graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from gleam import execution
from gleam.networks.convolutions import lay_out
from gleam.physics.sense import Batch
from gleam.processes.team import Team
from gleam.strategies.base import Strategy

AUTO = "auto"
N_WARMUP_STEPS = 3  # in which cuDNN tries its algorithms and the optimizers make their state


@final
@dataclass(frozen=True)
class Fast(Strategy):
    """``strategy`` with its convolutions in ``precision``, and on CUDA its step captured as a graph and replayed.

    The mathematics is that of ``strategy``; data consistency, losses, weights and updates stay float32 and complex64.
    In your own network, cast the output of convolutions to float32 before ``torch.view_as_complex``. On a CPU do not
    use ``nn.Conv3d`` in bf16 on series with fewer frames than its kernel: oneDNN's gradients are wrong there. (The
    convolutions of :mod:`gleam.networks.convolutions` avoid that.)

    ``precision``: "bf16", "tf32" (CUDA alone has it), "fp32" or, by default, "auto": bf16 where the device is fast in
    it (:func:`gleam.execution.has_fast_bf16`), else fp32. With "auto" memory-efficient learning is trained in fp32: its
    inversions need it, and in a smaller format each would be replaced by a computation forward. :meth:`settled`
    decides; :func:`gleam.fit` asks once, for all processes of a run, and notes the answer. In bf16 and tf32 weights and
    feature maps have their channels last in memory.

    ``compiled`` and ``channel_multiple`` are those of :func:`gleam.execution.using`; only on CUDA are channels padded.

    ``captured``: on CUDA the whole step, updates included, is recorded once, after a few ordinary steps, and from then
    on launched as one, so that the host does not hold up the device. A batch of another shape takes an ordinary step.
    Strategies that wait for the device within a step, those of several devices, and networks that draw random numbers
    take ordinary steps throughout. On a CPU nothing is captured.
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
        """As ``strategy``."""
        return self.strategy.is_capturable

    @property
    def is_captured(self) -> bool:
        """Whether a step is recorded: if the strategy allows it."""
        return self.captured and self.strategy.is_capturable

    @property
    def needs_fp32(self) -> bool:
        """As ``strategy``."""
        return self.strategy.needs_fp32

    @property
    def is_pipelined(self) -> bool:
        """As ``strategy``."""
        return self.strategy.is_pipelined

    @property
    def team(self) -> Team:
        """As ``strategy``."""
        return self.strategy.team

    @property
    def replica(self) -> int:
        """As ``strategy``."""
        return self.strategy.replica

    @property
    def propagation(self) -> Strategy:
        """As ``strategy``."""
        return self.strategy.propagation

    @property
    def equivalent(self) -> Fast:
        """The same around what trains the same weights in one process."""
        return replace(self, strategy=self.strategy.equivalent)

    @property
    def eager(self) -> Fast:
        """The same without capture: what is allocated in a replay cannot be seen."""
        return replace(self, captured=False)

    def settled(self, device: str | torch.device) -> Fast:
        """The same with the number format that "auto" stands for on ``device``."""
        if self.precision != AUTO:
            return self
        is_fast = execution.has_fast_bf16(device) and not self.needs_fp32
        return replace(self, precision="bf16" if is_fast else "fp32")

    def modules(self, network: nn.Module) -> list[Sequence[nn.Module]]:
        """Those of ``strategy``."""
        return self.strategy.modules(network)

    def mine(self, network: nn.Module) -> list[int]:
        """Those of ``strategy``."""
        return self.strategy.mine(network)

    def propagate(self, iterations: Sequence[nn.Module], x: Tensor, batch: Batch) -> Tensor:
        """As ``strategy`` does, in this precision."""
        with self._execution(x.device.type):
            return self.strategy.propagate(iterations, x, batch)

    def step(self, network: nn.Module, batch: Batch, optimizers: Sequence[torch.optim.Optimizer]) -> list[Tensor]:
        """One step of ``strategy``; returns its losses."""
        if self.settled(batch.target.device).precision != "fp32":
            lay_out(network, optimizers)
        with self._execution(batch.target.device.type):
            if batch.target.is_cuda and self.is_captured:
                return self._replay(optimizers[0])(network, batch, optimizers)
            return self.strategy.step(network, batch, optimizers)

    def diagnostics(self) -> dict:
        """Those of ``strategy``."""
        return self.strategy.diagnostics()

    def finish(self) -> None:
        """As ``strategy`` does."""
        self.strategy.finish()

    def _replay(self, optimizer):
        made_by, replay = _REPLAYS.get(optimizer, (None, None))
        if made_by != self:
            replay = Replay(self.strategy)
            _REPLAYS[optimizer] = self, replay
        return replay

    def _execution(self, device_type):
        return execution.using(
            self.settled(device_type).precision, device_type=device_type, compiled=self.compiled,
            channel_multiple=self.channel_multiple if device_type == "cuda" else 1,
        )  # fmt: skip


_REPLAYS = WeakKeyDictionary()  # by optimizer, whose end is the end of a training run: then the graph's memory is free


class Replay:
    """Steps of ``strategy``: a few ordinary ones, then one recording for the shape met most, replayed ever after.

    Each call is exactly one step of training; a recording runs nothing. ``record(step, device)`` records ``step`` and
    returns (what replays it, its result); ``offset(device)`` counts the random numbers drawn there.
    """

    def __init__(self, strategy, *, record=None, offset=None):
        self.strategy = strategy
        self.record, self.offset = record or _record_graph, offset or _random_offset
        self.n_steps, self.recorded, self.replay, self.is_ordinary = Counter(), None, None, False

    def __call__(self, network, batch, optimizers):
        """One step on ``batch``; returns the losses."""
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
        device = batch.target.device
        offsets, before = [], self.offset(device)
        note = lambda *_: offsets.append(self.offset(device))  # noqa: E731
        hooks = [iteration.register_forward_hook(note) for iteration in network.iterations]
        try:
            losses = self.strategy.step(network, batch, optimizers)
        finally:
            for hook in hooks:
                hook.remove()
        draws = not {*offsets, self.offset(device)} <= {before, 0}  # 0: seeded anew within the step
        is_fused = all(group.get("fused") for optimizer in optimizers for group in optimizer.param_groups)
        self.is_ordinary |= draws or not is_fused or any(p.device != device for p in network.parameters())
        return losses

    def _capture(self, network, batch, optimizers):
        # a batch of its own, whose derived operators are then computed inside the recording, from what was copied in
        own = self.batch = type(batch)(*(t.clone() for t in _tensors(batch)))
        with _capturable(optimizers):
            step = lambda: self.strategy.step(network, own, optimizers)  # noqa: E731
            try:
                self.replay, self.losses = self.record(step, batch.target.device)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                raise RuntimeError(
                    f"a step of {self.strategy} with this network cannot be recorded as a CUDA graph, since it may not "
                    f"wait for the device ({str(error).splitlines()[0]}); give gleam.Fast captured=False"
                ) from error


@contextmanager
def _capturable(optimizers):
    """What torch asks of optimizers in a recording, and warns of outside one; the fused kernel is the same."""
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
