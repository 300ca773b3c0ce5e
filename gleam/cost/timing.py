"""Measured cost of a training step: peak memory and seconds, after warm-up, methods interleaved in one run.

:mod:`gleam.cost.step` says how the peak is counted on CUDA and on a CPU.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from gleam.cost.prediction import explained
from gleam.cost.step import Step, is_cuda, synchronize
from gleam.files import whole_number
from gleam.physics.batch import Batch
from gleam.processes.allocator import keep_freed_memory
from gleam.strategies.base import Strategy


@dataclass(frozen=True)
class Cost:
    """Cost of the training step of one method.

    Attributes
    ----------
    seconds_per_step : float
        Median over rounds.
    peak_bytes : int
        Peak memory of a step.
    memory_kind : str
        How the peak was counted.
    device : str
        Name of the device.
    step_seconds : tuple of float
        Seconds of the step in each round.
    split : dict
        Bytes at the peak by kind, which add up to `peak_bytes`: weights, optimizer, gradients, data (the batch) and
        activations (everything else). On CUDA these are live tensors, and one more kind, workspace, is what the
        allocator held beyond them.
    forward_seconds, backward_seconds : float or None
        The parts of Fig. 7, medians over rounds; the backward part includes update and recomputation. None if a step
        never calls the network's iterations, as in the replay of a CUDA graph.
    module_seconds : tuple of (float, float)
        Forward and backward seconds of each module; empty in the same case.
    """

    seconds_per_step: float
    peak_bytes: int
    memory_kind: str
    device: str
    step_seconds: tuple
    split: dict = field(default_factory=dict)
    forward_seconds: float | None = None
    backward_seconds: float | None = None
    module_seconds: tuple = ()

    @classmethod
    def measured(
        cls, step_seconds: Sequence[float], split: dict[str, int], device: str | torch.device, **parts: Any
    ) -> Cost:
        """The cost of a step on `device` from the seconds of each round and the bytes at the peak by kind.

        `parts` are further fields of :class:`Cost`.
        """
        kind = "max_memory_allocated" if is_cuda(device) else "peak of live tensors"
        name = torch.cuda.get_device_name(device) if is_cuda(device) else "CPU"
        median = statistics.median(step_seconds)
        return cls(median, sum(split.values()), kind, name, tuple(step_seconds), split=split, **parts)

    @property
    def working_bytes(self) -> int:
        """Peak bytes without weights and optimizer, which grow with the network whatever the method."""
        return self.peak_bytes - self.split["weights"] - self.split["optimizer"]


def measure(
    methods: Mapping[str, tuple[nn.Module, Strategy]] | Mapping[str, Strategy],
    batch: Batch,
    *,
    network: nn.Module | None = None,
    n_rounds: int = 7,
    n_warmup: int = 2,
    device: str | torch.device = "cpu",
) -> dict[str, Cost]:
    """Measure the cost of one training step for each of several methods.

    Parameters
    ----------
    methods : dict of name to (network, strategy), or of name to strategy
        The first where the networks of the methods differ, for example in depth; the second with `network`, to compare
        strategies on one network. Networks are not changed.
    batch : Batch
    network : Module, optional
        That of all methods.
    n_rounds : int
        Each round runs every method once, in turn, so that a drift of the machine's speed affects all alike: ratios of
        `step_seconds` of one round are paired.
    n_warmup : int
        Rounds before them that do not count.
    device : str or torch.device

    Returns
    -------
    dict of name to :class:`Cost`

    Raises
    ------
    MemoryError
        If a step does not fit on the device; it says what would fit (:func:`gleam.prediction.explained`).
    """
    n_rounds, n_warmup = whole_number(n_rounds, "n_rounds"), whole_number(n_warmup, "n_warmup", 0)
    keep_freed_memory()
    steps, peaks = {}, {}
    given: Any = methods if network is None else {name: (network, strategy) for name, strategy in methods.items()}
    for name, (of_method, strategy) in given.items():
        with explained(of_method, strategy, lambda: batch, device=device):
            steps[name] = Step(of_method, strategy, batch, device=device)
            peaks[name] = steps[name].peak_split()
            steps[name].settle()  # before _Laps adds hooks, which must not be recorded
    laps = {name: _Laps(step) for name, step in steps.items()}
    try:
        seconds = paired(laps, n_rounds=n_rounds, n_warmup=n_warmup, device=device)
    finally:
        for lap in laps.values():
            lap.remove()
    return {
        name: Cost.measured(times, peaks[name], device, **laps[name].medians(n_rounds))
        for name, times in seconds.items()
    }


def paired(
    steps: Mapping[str, Callable[[], object]],
    *,
    n_rounds: int = 7,
    n_warmup: int = 2,
    device: str | torch.device = "cpu",
) -> dict[str, tuple[float, ...]]:
    """Measure the seconds of several callables in each of `n_rounds` rounds.

    Parameters
    ----------
    steps : dict of name to callable
        Callables without arguments. Each round calls each of them once, in turn.
    n_rounds, n_warmup : int
        Rounds that count, and rounds before them that do not.
    device : str or torch.device
        On CUDA it is synchronised before and after a call and nowhere between.

    Returns
    -------
    dict of name to tuple of float
        Seconds of each round.
    """
    n_rounds, n_warmup = whole_number(n_rounds, "n_rounds"), whole_number(n_warmup, "n_warmup", 0)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for i in range(n_warmup + n_rounds):
        for name, step in steps.items():
            elapsed = timed(step, device)
            if i >= n_warmup:
                seconds[name].append(elapsed)
    return {name: tuple(times) for name, times in seconds.items()}


def paired_ratio(cost: Cost, other: Cost) -> float:
    """Median over rounds of the ratio of step times, `cost` / `other`, both from one call of :func:`measure`."""
    return median_ratio(cost.step_seconds, other.step_seconds)


def median_ratio(seconds: Sequence[float], others: Sequence[float]) -> float:
    """Median over rounds of `seconds` / `others`."""
    return statistics.median(a / b for a, b in zip(seconds, others, strict=True))


class _Laps:
    """Calls `step` and notes when the forward pass of each module begins and ends, without synchronising.

    Only the first pass of a call counts, since checkpointing runs iterations again in the backward pass.
    """

    def __init__(self, step):
        self.step, self.laps = step, []
        self.modules = step.strategy.modules(step.network)
        self.hooks = []
        for m, module in enumerate(self.modules):
            n_calls = sum(iteration is module[-1] for iteration in module)  # an iteration may occur twice
            self.hooks += [
                module[0].register_forward_pre_hook(partial(self._note, ("begin", m), 1)),
                module[-1].register_forward_hook(partial(self._note, ("end", m), n_calls)),
            ]

    def _note(self, key, at_call, *_):
        self.n_calls[key] += 1
        if self.n_calls[key] == at_call:
            self.stamps[key] = self._now()

    def _now(self):
        if not is_cuda(self.step.device):
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.step.device))
        return event

    def __call__(self):
        self.n_calls, self.stamps = Counter(), {}
        started = self._now()
        with explained(self.step.network, self.step.strategy, lambda: self.step.batch, device=self.step.device):
            self.step()
        self.laps.append(self.stamps | {("begin", 0): started, ("begin", len(self.modules)): self._now()})

    def remove(self):
        """Remove the hooks."""
        for hook in self.hooks:
            hook.remove()

    def medians(self, n_rounds):
        """Seconds of forward and backward passes over the last `n_rounds` calls, as fields of :class:`Cost`."""
        n = len(self.modules)
        if any(len(stamps) != 2 * n + 1 for stamps in self.laps):  # a replay of a CUDA graph calls no hooks
            return {}
        chain = [key for m in range(n) for key in (("begin", m), ("end", m))] + [("begin", n)]
        laps = [
            # events of CUDA count in milliseconds
            [s[a].elapsed_time(s[b]) / 1000 if is_cuda(self.step.device) else s[b] - s[a] for a, b in pairwise(chain)]
            for s in self.laps[-n_rounds:]  # without those of the warm-up
        ]
        medians = [statistics.median(times) for times in zip(*laps, strict=True)]
        return {
            "forward_seconds": statistics.median(sum(lap[::2]) for lap in laps),
            "backward_seconds": statistics.median(sum(lap[1::2]) for lap in laps),
            "module_seconds": tuple(zip(medians[::2], medians[1::2], strict=True)),
        }


def timed(step: Callable[[], object], device: str | torch.device) -> float:
    """Seconds of `step()`; a GPU is synchronised before and after."""
    synchronize(device)
    started = time.perf_counter()
    step()
    synchronize(device)
    return time.perf_counter() - started
