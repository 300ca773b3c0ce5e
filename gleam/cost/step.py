"""One training step of a copy of a network, to be called again and again, and the bytes that it holds at its peak.

On CUDA the peak is ``torch.cuda.max_memory_allocated`` after a reset. On a CPU it is the peak of live tensor bytes,
counted as tensors come and go; it holds what a step keeps (weights, optimizer, gradients, activations, the batch) but
not the scratch space inside a kernel, so it is comparable between methods and not with a GPU's figure.
"""

import copy
from contextlib import contextmanager

import torch

from gleam.cost.memory import LiveBytes
from gleam.execution import checked_device
from gleam.strategies.base import optimizers
from gleam.strategies.fast import N_WARMUP_STEPS

KINDS = ("weights", "optimizer", "gradients", "data", "activations")


def peak_split(network, strategy, batch, *, device="cpu"):
    """Bytes by kind at the peak of one training step, as :meth:`Step.peak_split` has them; their sum is the peak."""
    return Step(network, strategy, batch, device=device).peak_split()


class Step:
    """One training step of a copy of ``network`` with Adam on ``batch``, both brought to ``device``; call it.

    Raises what :func:`gleam.strategies.optimizers` raises.
    """

    def __init__(self, network, strategy, batch, *, device="cpu"):
        device = checked_device(device)
        self.network, self.batch = copied(network, device).train(), batch.to(device)
        self.strategy, self.device = strategy, device
        self.optimizers = optimizers(strategy, self.network, learning_rate=1e-5)

    def __call__(self):
        self.strategy.step(self.network, self.batch, self.optimizers)

    def settle(self):
        """Take the steps after which all are alike: the ordinary ones before a recording, and the recording."""
        if is_cuda(self.device) and self.strategy.is_captured:
            for _ in range(N_WARMUP_STEPS + 1):
                self()

    def peak_split(self):
        """Bytes at the peak of a step by kind: :data:`KINDS`, where activations are all that is none of the others.

        On CUDA those are of live tensors, and there is one more, workspace: what the allocator held beyond them.
        """
        self._eagerly()  # the optimizer's state exists from here on, and cuDNN has tried its algorithms
        live = LiveBytes(device=self.device)
        for kind, tensors in self._held().items():
            live.label(kind, tensors)
        with live, _labelled_gradients(live, self.network):
            self._eagerly()
        split = {kind: live.split.get(kind, 0) for kind in KINDS}
        if not is_cuda(self.device):
            return split
        held = [t for tensors in self._held().values() for t in tensors]
        beyond = allocated_at_peak(self._eagerly, held, self.device) - sum(split.values())
        split["activations"] += min(0, beyond)  # compiled layers keep fewer than they do under a counter
        return split | {"workspace": max(0, beyond)}

    def _eagerly(self):
        """One step without a CUDA graph, in whose replay nothing is seen to be allocated."""
        self.strategy.eager.step(self.network, self.batch, self.optimizers)

    def _held(self):
        state = [t for optimizer in self.optimizers for s in optimizer.state.values() for t in s.values()]
        held = {
            "weights": [*self.network.parameters(), *self.network.buffers()],
            "optimizer": state, "data": vars(self.batch).values(),
        }  # fmt: skip
        return {kind: [t for t in tensors if torch.is_tensor(t)] for kind, tensors in held.items()}


def allocated_at_peak(step, held, device):
    """Bytes on the GPU at the peak of ``step()``: of the tensors ``held`` before and of all that it allocates."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in held if is_cuda(t.device)}
    synchronize(device)
    others = torch.cuda.memory_allocated(device) - sum(storages.values())  # such as other methods' networks
    torch.cuda.reset_peak_memory_stats(device)
    step()
    synchronize(device)
    return torch.cuda.max_memory_allocated(device) - others


def copied(network, device):
    """A copy of ``network`` on ``device``; nothing is allocated where the network is, which may be full."""
    copies = {id(b): b.detach().to(device, copy=True) for b in network.buffers()}
    for p in network.parameters():
        copies[id(p)] = torch.nn.Parameter(p.detach().to(device, copy=True), requires_grad=p.requires_grad)
    return copy.deepcopy(network, copies)  # takes those as already made


def is_cuda(device):
    """Whether ``device``, by name or as ``torch.device``, is a GPU of CUDA."""
    return torch.device(device).type == "cuda"


def synchronize(device):
    """Wait until ``device`` has done all that it was given; on a CPU that is always so."""
    if is_cuda(device):
        torch.cuda.synchronize(device)


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
