"""Steps recorded as a CUDA graph and replayed, so that the device never waits for the host."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gleam.physics.batch import Batch
from gleam.strategies.base import Strategy

N_WARMUP_STEPS = 3  # ordinary steps: cuDNN tries its algorithms and the optimizers make their state


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
        self.record = record or _record_graph
        self.offset = offset or (lambda device: torch.cuda.default_generators[device.index].get_offset())
        self.n_steps: Counter[tuple] = Counter()
        self.recorded: tuple | None = None
        self.replay: Any = None
        self.is_ordinary = False

    def __call__(self, network: nn.Module, batch: Batch, optimizers: Sequence[Optimizer]) -> list[Tensor]:
        """One step on `batch`; returns the losses."""
        shapes = tuple((t.shape, t.dtype) for t in _tensors(batch))
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
        static = self.batch = type(batch)(*(t.clone() for t in _tensors(batch)))
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        for group in groups:
            group["capturable"] = True  # torch requires it in a recording and warns of it outside one
        try:
            self.replay, self.losses = self.record(
                lambda: self.strategy.step(network, static, optimizers), batch.target.device
            )
        except torch.OutOfMemoryError:  # a RuntimeError, too
            raise
        except RuntimeError as error:
            raise RuntimeError(
                f"a step of {self.strategy} with this network cannot be recorded as a CUDA graph, since it may not "
                f"wait for the device ({str(error).splitlines()[0]}); give gleam.Fast captured=False"
            ) from error
        finally:
            for group in groups:
                group["capturable"] = False


def _tensors(batch):
    return [getattr(batch, f.name) for f in fields(batch)]


def _record_graph(step, device):
    graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream(device)
    try:
        with torch.cuda.device(device), torch.cuda.graph(graph, stream=torch.cuda.Stream(device)):
            losses = step()
    finally:
        torch.cuda.set_stream(before)  # a recording that failed leaves its own stream behind
    return graph.replay, losses
