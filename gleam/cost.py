"""What a training step costs: peak memory and seconds, warmed up, methods interleaved in one run.

On CUDA the peak is ``torch.cuda.max_memory_allocated`` after a reset. On a CPU it is the peak of live tensor bytes,
counted as tensors come and go; it holds what a step keeps (weights, optimizer, gradients, activations, the batch) but
not the scratch space inside a kernel, so it is comparable between methods and not with a GPU's figure.
"""

import copy
import statistics
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise

import torch

from gleam import processes
from gleam.allocator import keep_freed_memory
from gleam.memory import LiveBytes
from gleam.parallel import ParallelGreedy
from gleam.runs import BETAS, can_fuse
from gleam.strategies import Greedy, parameters_by_module

KINDS = ("weights", "optimizer", "gradients", "data", "activations")


@dataclass(frozen=True)
class Cost:
    """What one method's training step costs; seconds are medians over rounds.

    ``step_seconds``: each round's; ``peak_bytes``: see ``memory_kind``; ``split``: the bytes at that moment by kind,
    weights, optimizer, gradients, data (the batch) and activations (everything else), which add up to ``peak_bytes``.
    On CUDA they are those of live tensors, and one more, workspace, is what the allocator held beyond them.

    ``forward_seconds`` and ``backward_seconds`` (with update and recomputation) are the parts of Fig. 7, and
    ``module_seconds`` has both for each module; None and empty if the strategy never calls the network's iterations.
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

    @property
    def working_bytes(self):
        """Peak without weights and optimizer, which grow with the network whatever the method."""
        return self.peak_bytes - self.split["weights"] - self.split["optimizer"]


def measure(methods, batch, *, n_rounds=7, n_warmup=2, device="cpu"):
    """Cost of one training step for each of ``methods``, a dict of name to (network, strategy), on ``batch``.

    Rounds run every method once, in turn, so that a drift of the machine's speed falls on all alike: ratios of
    ``step_seconds`` of one round are paired. The networks are left untouched. Returns a dict of name to :class:`Cost`.
    """
    keep_freed_memory()
    steps = {name: _Step(network, strategy, batch, device) for name, (network, strategy) in methods.items()}
    peaks = {name: step.peak_split() for name, step in steps.items()}
    laps = {name: _Laps(step) for name, step in steps.items()}
    try:
        seconds = paired(laps, n_rounds=n_rounds, n_warmup=n_warmup, device=device)
    finally:
        for lap in laps.values():
            lap.remove()
    return {
        name: Cost(
            statistics.median(times), sum(peaks[name].values()), _memory_kind(device), _name_of(device), times,
            split=peaks[name], **laps[name].medians(n_rounds),
        )
        for name, times in seconds.items()
    }  # fmt: skip


def measure_parallel(network, batch, *, n_processes=2, n_modules=None, n_steps=24, n_rounds=5, device="cpu"):
    """Cost of GLEAM in one process beside that of P-GLEAM in ``n_processes`` on this machine, block by block.

    A round trains ``n_steps`` steps in one process while the others rest, then as many in all of them by Algorithm 2,
    then pipelined. Filling and draining the pipeline is in the time of its block. Each process has one thread, or the
    GPU of its number. Returns a dict of name, "GLEAM", "P-GLEAM, in turn" and "P-GLEAM, pipelined", to :class:`Cost`;
    ``step_seconds`` are the means of each block, peaks those of the process that needs most. A script that calls this
    needs ``if __name__ == "__main__":``.
    """
    n_modules = n_modules or len(network.iterations)
    methods = {
        "GLEAM": Greedy(n_modules),
        "P-GLEAM, in turn": ParallelGreedy(n_modules, pipelined=False),
        "P-GLEAM, pipelined": ParallelGreedy(n_modules),
    }
    of_processes = processes.launch(
        _measure_blocks, n_processes, network, batch, methods, n_steps, n_rounds, device, n_threads=1
    )
    largest = {name: max((one[name] for one in of_processes), key=lambda c: c.peak_bytes) for name in methods}
    return {
        name: replace(largest[name], seconds_per_step=cost.seconds_per_step, step_seconds=cost.step_seconds)
        for name, cost in of_processes[0].items()
    }


def _measure_blocks(network, batch, methods, n_steps, n_rounds, device):
    keep_freed_memory()
    team = processes.join()
    steps = {name: _Step(network, strategy, batch, device) for name, strategy in methods.items()}
    peaks = {}
    for name, step in steps.items():
        team.wait_for_all()
        peaks[name] = step.peak_split()
    seconds = paired(
        {name: partial(_block, team, step, n_steps) for name, step in steps.items()},
        n_rounds=n_rounds, n_warmup=1, device=device,
    )  # fmt: skip
    return {
        name: Cost(
            statistics.median(times) / n_steps, sum(peaks[name].values()), _memory_kind(device), _name_of(device),
            tuple(t / n_steps for t in times), split=peaks[name],
        )
        for name, times in seconds.items()
    }  # fmt: skip


def _block(team, step, n_steps):
    """From when all processes have come here until all are done."""
    team.wait_for_all()
    if isinstance(step.strategy, ParallelGreedy) or team.is_first:
        for _ in range(n_steps):
            step()
    if isinstance(step.strategy, ParallelGreedy):
        step.strategy.finish()
    if _is_cuda(step.device):
        torch.cuda.synchronize(step.device)
    team.wait_for_all()


def paired(steps, *, n_rounds=7, n_warmup=2, device="cpu"):
    """Seconds that each of ``steps``, a dict of name to callable without arguments, takes in each round.

    Every round runs each once, in turn. On CUDA a call is waited for at both of its ends and nowhere between. Returns a
    dict of name to a tuple of ``n_rounds`` seconds; the ``n_warmup`` rounds before them do not count.
    """
    seconds = {name: [] for name in steps}
    for i in range(n_warmup + n_rounds):
        for name, step in steps.items():
            elapsed = _seconds(step, device)
            if i >= n_warmup:
                seconds[name].append(elapsed)
    return {name: tuple(times) for name, times in seconds.items()}


def paired_ratio(cost, other):
    """Median over rounds of the time of ``cost`` over that of ``other``, both from one call of :func:`measure`."""
    return statistics.median(a / b for a, b in zip(cost.step_seconds, other.step_seconds, strict=True))


def peak_split(network, strategy, batch, *, device="cpu"):
    """Bytes by kind at the peak of one training step, as in :class:`Cost`; their sum is the peak."""
    return _Step(network, strategy, batch, device).peak_split()


class _Step:
    """One training step of a copy of ``network``, to be called again and again."""

    def __init__(self, network, strategy, batch, device):
        self.network, self.batch = copy.deepcopy(network).to(device).train(), batch.to(device)
        self.strategy, self.device = strategy, device
        groups = parameters_by_module(strategy, self.network)
        self.optimizers = [torch.optim.Adam(group, lr=1e-5, betas=BETAS, fused=can_fuse(group)) for group in groups]

    def __call__(self):
        self.strategy.step(self.network, self.batch, self.optimizers)

    def peak_split(self):
        """Bytes by kind at the peak of a step."""
        self()  # the optimizer's state exists from here on
        live = LiveBytes(device=self.device)
        for kind, tensors in self._held().items():
            live.label(kind, tensors)
        with live, _labelled_gradients(live, self.network):
            self()
        split = {kind: live.split.get(kind, 0) for kind in KINDS}
        if not _is_cuda(self.device):
            return split
        return split | {"workspace": self._allocated_at_peak() - sum(split.values())}

    def _held(self):
        state = [t for optimizer in self.optimizers for s in optimizer.state.values() for t in s.values()]
        held = {
            "weights": [*self.network.parameters(), *self.network.buffers()],
            "optimizer": state, "data": vars(self.batch).values(),
        }  # fmt: skip
        return {kind: [t for t in tensors if torch.is_tensor(t)] for kind, tensors in held.items()}

    def _allocated_at_peak(self):
        held = [t for tensors in self._held().values() for t in tensors if _is_cuda(t.device)]
        held = sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in held}.values())
        torch.cuda.synchronize(self.device)
        others = torch.cuda.memory_allocated(self.device) - held  # other methods' networks
        torch.cuda.reset_peak_memory_stats(self.device)
        self()
        torch.cuda.synchronize(self.device)
        return torch.cuda.max_memory_allocated(self.device) - others


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
        if not _is_cuda(self.step.device):
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.step.device))
        return event

    def __call__(self):
        self.n_calls, self.stamps = Counter(), {}
        started = self._now()
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


def _seconds(step, device):
    if _is_cuda(device):
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    step()
    if _is_cuda(device):
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _memory_kind(device):
    return "max_memory_allocated" if _is_cuda(device) else "peak of live tensors"


def _name_of(device):
    return torch.cuda.get_device_name(device) if _is_cuda(device) else "CPU"


def _is_cuda(device):
    return torch.device(device).type == "cuda"


@contextmanager
def _labelled_gradients(live, network):
    """Gradients are known as such once they are there, wherever the peak came before."""
    hooks = [
        p.register_post_accumulate_grad_hook(lambda p: live.label("gradients", [p.grad]))
        for p in network.parameters()
        if p.requires_grad
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
