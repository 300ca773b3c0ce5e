"""What a training step costs: peak memory and seconds, warmed up, methods interleaved in one run.

How the peak is counted, on CUDA and on a CPU, is in :mod:`gleam.cost.step`.
"""

import statistics
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import torch

from gleam.cost.prediction import explained
from gleam.cost.step import Step, is_cuda, synchronize
from gleam.processes.allocator import keep_freed_memory


@dataclass(frozen=True)
class Cost:
    """What one method's training step costs; seconds are medians over rounds.

    ``step_seconds``: each round's; ``peak_bytes``: see ``memory_kind``; ``split``: the bytes at that moment by kind,
    weights, optimizer, gradients, data (the batch) and activations (everything else), which add up to ``peak_bytes``.
    On CUDA they are those of live tensors, and one more, workspace, is what the allocator held beyond them.

    ``forward_seconds`` and ``backward_seconds`` (with update and recomputation) are the parts of Fig. 7, and
    ``module_seconds`` has both for each module; None and empty if a step never calls the network's iterations, as in
    the replay of a CUDA graph.
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
    def measured(cls, step_seconds, split, device, **parts):
        """The cost of a step on ``device`` from the seconds of each round and the bytes at its peak by kind."""
        kind = "max_memory_allocated" if is_cuda(device) else "peak of live tensors"
        name = torch.cuda.get_device_name(device) if is_cuda(device) else "CPU"
        median = statistics.median(step_seconds)
        return cls(median, sum(split.values()), kind, name, tuple(step_seconds), split=split, **parts)

    @property
    def working_bytes(self):
        """Peak without weights and optimizer, which grow with the network whatever the method."""
        return self.peak_bytes - self.split["weights"] - self.split["optimizer"]


def measure(methods, batch, *, n_rounds=7, n_warmup=2, device="cpu"):
    """Cost of one training step for each of ``methods``, a dict of name to (network, strategy), on ``batch``.

    Rounds run every method once, in turn, so that a drift of the machine's speed falls on all alike: ratios of
    ``step_seconds`` of one round are paired. The networks are left untouched. Returns a dict of name to :class:`Cost`.
    Raises MemoryError if a step does not fit on the device, with what would (:func:`gleam.prediction.explained`).
    """
    keep_freed_memory()
    steps, peaks = {}, {}
    for name, (network, strategy) in methods.items():
        with explained(network, strategy, lambda: batch, device=device):
            steps[name] = Step(network, strategy, batch, device=device)
            peaks[name] = steps[name].peak_split()
            steps[name].settle()  # before the hooks of laps, which must not be recorded
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


def paired(steps, *, n_rounds=7, n_warmup=2, device="cpu"):
    """Seconds that each of ``steps``, a dict of name to callable without arguments, takes in each round.

    Every round runs each once, in turn. On CUDA a call is waited for at both of its ends and nowhere between. Returns a
    dict of name to a tuple of ``n_rounds`` seconds; the ``n_warmup`` rounds before them do not count.
    """
    seconds = {name: [] for name in steps}
    for i in range(n_warmup + n_rounds):
        for name, step in steps.items():
            elapsed = timed(step, device)
            if i >= n_warmup:
                seconds[name].append(elapsed)
    return {name: tuple(times) for name, times in seconds.items()}


def paired_ratio(cost, other):
    """Median over rounds of the time of ``cost`` over that of ``other``, both from one call of :func:`measure`."""
    return statistics.median(a / b for a, b in zip(cost.step_seconds, other.step_seconds, strict=True))


class _Laps:
    """Calls ``step`` and notes when the forward pass of each module begins and ends, without waiting for the device.

    Only the first pass of a call counts; checkpointing runs iterations again on the way back.
    """

    def __init__(self, step):
        self.step, self.laps = step, []
        self.modules = step.strategy.modules(step.network)
        self.hooks = []
        for m, module in enumerate(self.modules):
            n_calls = sum(iteration is module[-1] for iteration in module)  # an iteration may occur again
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
        """Take the hooks off."""
        for hook in self.hooks:
            hook.remove()

    def medians(self, n_rounds):
        """Seconds of forward and backward passes over the last ``n_rounds`` calls, as fields of :class:`Cost`."""
        n = len(self.modules)
        if any(len(stamps) != 2 * n + 1 for stamps in self.laps):
            return {}
        chain = [key for m in range(n) for key in (("begin", m), ("end", m))] + [("begin", n)]
        laps = [[_between(s[a], s[b]) for a, b in pairwise(chain)] for s in self.laps[-n_rounds:]]
        medians = [statistics.median(times) for times in zip(*laps, strict=True)]
        return {
            "forward_seconds": statistics.median(sum(lap[::2]) for lap in laps),
            "backward_seconds": statistics.median(sum(lap[1::2]) for lap in laps),
            "module_seconds": tuple(zip(medians[::2], medians[1::2], strict=True)),
        }


def _between(a, b):
    return b - a if isinstance(a, float) else a.elapsed_time(b) / 1000


def timed(step, device):
    """Seconds of ``step()``; on a GPU it is waited for at both ends."""
    synchronize(device)
    started = time.perf_counter()
    step()
    synchronize(device)
    return time.perf_counter() - started
