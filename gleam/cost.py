"""What a training step costs: peak memory and seconds, warmed up, methods interleaved in one run.

On CUDA the peak is ``torch.cuda.max_memory_allocated`` after a reset. On a CPU it is the peak of live tensor bytes,
counted as tensors come and go; it holds what a step keeps (weights, optimizer, gradients, activations, the batch) but
not the scratch space inside a kernel, so it is comparable between methods and not with a GPU's figure.
"""

import copy
import statistics
import time
import weakref
from dataclasses import dataclass

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gleam.strategies import parameters_by_module
from gleam.training import BETAS, can_fuse


@dataclass(frozen=True)
class Cost:
    """``seconds_per_step``: median over rounds; ``step_seconds``: each round; ``peak_bytes``: see ``memory_kind``."""

    seconds_per_step: float
    peak_bytes: int
    memory_kind: str
    device: str
    step_seconds: tuple


def measure(methods, batch, *, n_rounds=7, n_warmup=2, device="cpu"):
    """Cost of one training step for each of ``methods``, a dict of name to (network, strategy), on ``batch``.

    Rounds run every method once, in turn, so that a drift of the machine's speed falls on all alike: ratios of
    ``step_seconds`` of one round are paired. The networks are left untouched. Returns a dict of name to :class:`Cost`.
    """
    batch = batch.to(device)
    steps = {name: _stepper(network, strategy, batch, device) for name, (network, strategy) in methods.items()}
    peaks = {name: _peak_bytes(step, device) for name, step in steps.items()}
    seconds = {name: [] for name in steps}
    for i in range(n_warmup + n_rounds):
        for name, step in steps.items():
            elapsed = _seconds(step, device)
            if i >= n_warmup:
                seconds[name].append(elapsed)
    kind = "max_memory_allocated" if _is_cuda(device) else "peak of live tensors"
    where = torch.cuda.get_device_name(device) if _is_cuda(device) else "CPU"
    return {
        name: Cost(statistics.median(times), peaks[name], kind, where, tuple(times)) for name, times in seconds.items()
    }


def paired_ratio(cost, other):
    """Median over rounds of the time of ``cost`` over that of ``other``, both from one call of :func:`measure`."""
    return statistics.median(a / b for a, b in zip(cost.step_seconds, other.step_seconds, strict=True))


def _stepper(network, strategy, batch, device):
    network = copy.deepcopy(network).to(device).train()
    groups = parameters_by_module(strategy, network)
    optimizers = [torch.optim.Adam(group, lr=1e-5, betas=BETAS, fused=can_fuse(group)) for group in groups]
    step = lambda: strategy.step(network, batch, optimizers)  # noqa: E731
    step.tensors = [*network.parameters(), batch.kspace, batch.mask, batch.sens_maps, batch.target, batch.zero_filled]
    step.optimizers = optimizers
    return step


def _seconds(step, device):
    if _is_cuda(device):
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    step()
    if _is_cuda(device):
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _peak_bytes(step, device):
    step()  # the optimizer's state exists from here on
    if not _is_cuda(device):
        with LiveBytes(held=[*step.tensors, *_optimizer_tensors(step.optimizers)]) as live:
            step()
        return live.peak
    torch.cuda.synchronize(device)
    others = torch.cuda.memory_allocated(device) - _bytes([*step.tensors, *_optimizer_tensors(step.optimizers)])
    torch.cuda.reset_peak_memory_stats(device)
    step()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - others


def _optimizer_tensors(optimizers):
    return [t for optimizer in optimizers for s in optimizer.state.values() for t in s.values() if torch.is_tensor(t)]


def _bytes(tensors):
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def _is_cuda(device):
    return torch.device(device).type == "cuda"


class LiveBytes(TorchDispatchMode):
    """Context that counts the bytes of live tensors made inside it, plus those in ``held``; ``peak`` is the maximum.

    Unlike hooks on saved tensors it also sees what checkpointing computes again.
    """

    def __init__(self, held=()):
        super().__init__()
        self.seen = weakref.WeakKeyDictionary()
        self.live = self.peak = 0
        for tensor in held:
            self._add(tensor)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor)
        return result

    def _add(self, tensor):
        storage = tensor.untyped_storage()
        if storage in self.seen:
            return
        self.seen[storage] = size = storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._remove, size).atexit = False

    def _remove(self, size):
        self.live -= size
