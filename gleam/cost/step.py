"""One training step of a copy of a network, which can be repeated, and the bytes that it holds at its peak.

On CUDA the peak is `torch.cuda.max_memory_allocated` after a reset. On a CPU it is the peak of live tensor bytes,
counted while tensors are made and freed. That includes what a step keeps (weights, optimizer, gradients, activations,
the batch) but not the scratch memory inside a kernel: it can be compared between methods, not with a GPU's figure.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from gleam.cost.memory import LiveBytes
from gleam.execution import checked_device
from gleam.physics.batch import Batch
from gleam.strategies.base import Strategy
from gleam.strategies.recorded import N_WARMUP_STEPS
from gleam.strategies.updates import optimizers

KINDS = ("weights", "optimizer", "gradients", "data", "activations")


def peak_split(
    network: nn.Module, strategy: Strategy, batch: Batch, *, device: str | torch.device = "cpu"
) -> dict[str, int]:
    """Bytes by kind at the peak of one training step (:meth:`Step.peak_split`); their sum is the peak."""
    return Step(network, strategy, batch, device=device).peak_split()


class Step:
    """One training step of a copy of a network; call it to take the step.

    Parameters
    ----------
    network : nn.Module
        It is copied and not changed.
    strategy : Strategy
        How the step is taken, with Adam.
    batch : Batch
        Brought to `device`, as the copy is.
    device : str or torch.device

    Raises
    ------
    ValueError
        If the device is not there, and as :func:`gleam.strategies.updates.parameters_by_module`.
    """

    def __init__(
        self, network: nn.Module, strategy: Strategy, batch: Batch, *, device: str | torch.device = "cpu"
    ) -> None:
        device = checked_device(device)
        self.network, self.batch = copied(network, device).train(), batch.to(device)
        self.strategy, self.device = strategy, device
        self.optimizers = optimizers(strategy, self.network, learning_rate=1e-5)

    def __call__(self) -> None:
        """Take the step."""
        self.strategy.step(self.network, self.batch, self.optimizers)

    def settle(self) -> None:
        """Take the first steps, which differ from the later ones if a CUDA graph is recorded; else do nothing."""
        if is_cuda(self.device) and self.strategy.is_captured:
            for _ in range(N_WARMUP_STEPS + 1):
                self()

    def peak_split(self) -> dict[str, int]:
        """Bytes at the peak of a step by kind (:data:`KINDS`); activations are everything that has no other kind.

        On CUDA these are bytes of live tensors, and one more kind, "workspace", is what the allocator held beyond them.
        """
        self._eagerly()  # the first step makes the optimizer's state, and cuDNN tries its algorithms
        live = LiveBytes(device=self.device)
        for kind, tensors in self._held().items():
            live.label(kind, tensors)
        with live, ExitStack() as hooks:
            for p in (p for p in self.network.parameters() if p.requires_grad):
                # labelled as soon as they exist, wherever the peak is
                hook = p.register_post_accumulate_grad_hook(lambda p: live.label("gradients", [p.grad]))
                hooks.callback(hook.remove)
            self._eagerly()
        split = {kind: live.split.get(kind, 0) for kind in KINDS}
        if not is_cuda(self.device):
            return split
        held = [t for tensors in self._held().values() for t in tensors]
        beyond = allocated_at_peak(self._eagerly, held, self.device) - sum(split.values())
        split["activations"] += min(0, beyond)  # compiled layers keep fewer tensors than seen by LiveBytes
        return split | {"workspace": max(0, beyond)}

    def trace(self) -> list[int]:
        """Bytes of live tensors on the device after each operation of a step, beyond those that are held between steps.

        Operations are those of torch, forward and backward; a fused kernel is one.
        """
        self._eagerly()  # as in peak_split
        held = [t for tensors in self._held().values() for t in tensors]
        live = LiveBytes(held, device=self.device)
        between = live.live
        with live:
            self._eagerly()
        return [n_bytes - between for n_bytes in live.trace]

    def _eagerly(self):
        """Take a step without a CUDA graph, since allocations cannot be seen in its replay."""
        self.strategy.eager.step(self.network, self.batch, self.optimizers)

    def _held(self):
        """Tensors that exist between steps, by kind. (Gradients do not: an update frees them.)"""
        state = [t for optimizer in self.optimizers for s in optimizer.state.values() for t in s.values()]
        held = {
            "weights": [*self.network.parameters(), *self.network.buffers()],
            "optimizer": state,
            "data": vars(self.batch).values(),
        }
        return {kind: [t for t in tensors if torch.is_tensor(t)] for kind, tensors in held.items()}


def allocated_at_peak(step: Callable[[], object], held: Iterable[Tensor], device: str | torch.device) -> int:
    """Bytes on the GPU at the peak of `step()`: the tensors `held` before it plus everything that it allocates."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in held if is_cuda(t.device)}
    synchronize(device)
    others = torch.cuda.memory_allocated(device) - sum(storages.values())  # for example the networks of other methods
    torch.cuda.reset_peak_memory_stats(device)
    step()
    synchronize(device)
    return torch.cuda.max_memory_allocated(device) - others


def copied(network: nn.Module, device: str | torch.device) -> nn.Module:
    """A copy of `network` on `device`; allocates nothing on the network's own device, which may be full."""
    copies = {id(b): b.detach().to(device, copy=True) for b in network.buffers()}
    for p in network.parameters():
        copies[id(p)] = torch.nn.Parameter(p.detach().to(device, copy=True), requires_grad=p.requires_grad)
    return copy.deepcopy(network, copies)  # uses the copies that were made


def is_cuda(device: str | torch.device) -> bool:
    """Whether the device is a CUDA GPU."""
    return torch.device(device).type == "cuda"


def synchronize(device: str | torch.device) -> None:
    """Wait until a GPU has finished its work; does nothing on a CPU."""
    if is_cuda(device):
        torch.cuda.synchronize(device)
