"""Training strategies: how one gradient step on one mini-batch is taken.

A strategy has two methods. ``modules(network)`` cuts the network's iterations into the parts that are updated on
their own; ``step(network, batch, optimizers)``, with one optimizer per module, makes one update and returns the list
of losses, one per module, detached, each where its module is. Any network that is a start plus a list of iterations
will do (:mod:`gleam.unrolled`).

How the activations inside a module are kept is a second, independent choice: ``propagate(iterations, x, batch)``.
A strategy may also have ``findings()``, a dict of what it noticed since it was last asked; it joins a run's history.
And ``is_capturable``: whether a step never asks the device for a value, nor another device for anything, so that
:class:`gleam.Fast` can record it as a CUDA graph; ``needs_fp32``: whether it gains nothing in a smaller number format.
"""

from dataclasses import dataclass, field
from functools import partial
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from gleam import execution
from gleam.inversion import Monitor, propagate_by_inversion
from gleam.metrics import complex_l1
from gleam.unrolled import split

BETAS = (0.9, 0.999)


class _Undivided:
    """The whole network as one module; subclasses say how its activations are kept."""

    is_capturable, needs_fp32 = True, False

    def modules(self, network):
        """One list with all iterations."""
        return split(network.iterations, 1)

    def step(self, network, batch, optimizers):
        """One update of the network from the loss of its last output."""
        return _decoupled_step(self.modules(network), self.propagate, network, batch, optimizers)

    def findings(self):
        """Nothing to report."""
        return {}


@dataclass(frozen=True)
class EndToEnd(_Undivided):
    """Backpropagation through the whole network, all activations kept (Eq. 9)."""

    def propagate(self, iterations, x, batch):
        """Run ``iterations`` on ``x`` and keep every activation."""
        for iteration in iterations:
            x = iteration(x, batch)
        return x


@dataclass(frozen=True)
class Checkpointed(_Undivided):
    """Backpropagation with a checkpoint per iteration: only x(i) is kept, the rest is computed again (Section V-B3)."""

    def propagate(self, iterations, x, batch):
        """Run ``iterations`` on ``x``; keep the input of each and compute its activations again on the way back."""
        for iteration in iterations:
            keeps_random_state = not execution.is_capturing()  # no random numbers are drawn in a captured step
            x = checkpoint(iteration, x, batch, use_reentrant=False, preserve_rng_state=keeps_random_state)
        return x


@dataclass(frozen=True)
class Offloaded(_Undivided):
    """Backpropagation whose activations wait in host memory, from where each is fetched when its turn comes.

    Weights and the batch stay where they are. On CUDA the host memory is pinned, and no copy makes the host wait. On a
    CPU there is nowhere to go: copies are made into another part of the same memory, one that
    :class:`gleam.memory.LiveBytes` does not see. So their time is real and the bytes are those that a device would
    keep, but nothing is saved.
    """

    is_capturable = False

    def propagate(self, iterations, x, batch):
        """Run ``iterations`` on ``x``; copy what is kept for the way back to the host, each tensor once."""
        weights = [t for iteration in iterations for t in (*iteration.parameters(), *iteration.buffers())]
        batches = [batch.to(device) for device in {x.device, *(t.device for t in weights)}]
        staying = weights + [t for b in batches for t in vars(b).values() if isinstance(t, torch.Tensor)]
        storages = {t.untyped_storage().data_ptr() for t in staying}
        with saved_tensors_hooks(partial(_to_host, storages, WeakKeyDictionary()), _from_host):
            return EndToEnd().propagate(iterations, x, batch)


def _to_host(staying, copies, tensor):
    """(device, copy on the host, whether conjugated) of ``tensor``; itself if its storage is among ``staying``.

    ``copies``: of each storage, what was copied of it before; the next layer often keeps what the last one kept.
    """
    storage = tensor.untyped_storage()
    if storage.data_ptr() in staying:
        return tensor.detach()
    known = copies.setdefault(storage, {})
    view = tensor.dtype, tensor.shape, tensor.stride(), tensor.storage_offset(), tensor.is_conj(), tensor.is_neg()
    if view not in known:  # as it lies in memory: the host must not work on a copy that is still under way
        values = (tensor.conj() if tensor.is_conj() else tensor).resolve_neg()
        known[view] = _empty_on_host(values).copy_(values, non_blocking=tensor.is_cuda)
    return tensor.device, known[view], tensor.is_conj()


def _from_host(packed):
    if isinstance(packed, torch.Tensor):
        return packed
    device, copy, is_conj = packed
    tensor = copy.clone() if device.type == "cpu" else copy.to(device, non_blocking=True)
    return tensor.conj() if is_conj else tensor


def _empty_on_host(like):
    """Host memory for ``like``, with its strides; that for a tensor on a CPU is numpy's."""
    if like.device.type != "cpu":
        return torch.empty_like(like, device="cpu", pin_memory=like.is_cuda)
    strides = torch.empty_like(like, device="meta").stride()
    memory = torch.from_numpy(np.empty(like.numel() * like.element_size(), np.uint8))
    return memory.view(like.dtype).as_strided(like.shape, strides)


@dataclass(frozen=True)
class Invertible(_Undivided):
    """Memory-efficient learning: backpropagation that keeps few images and recovers the others by inversion (Eq. 11).

    Of the inputs of N iterations ``n_checkpoints`` are kept, evenly over the unroll (more than N keeps all, which is
    :class:`Checkpointed`). On the way back each of the others is recovered from the iteration's output by
    ``iteration.inverse(x_next, batch)``, and the iteration is computed again from there. With one checkpoint the one
    that is kept is the start of the unroll, which costs nothing, since the batch holds it; with none it is recovered as
    well.

    An inversion can fail, and errors grow from one to the next: :mod:`gleam.inversion` tells the relative error of each
    recovered input from a signature. Where it is above ``tolerance`` the inputs down to the nearest checkpoint are
    computed again, forward, and no gradient is taken at the wrong place. The first time this happens there is an
    :class:`gleam.inversion.InversionWarning`; :meth:`findings` counts.
    """

    is_capturable, needs_fp32 = False, True

    n_checkpoints: int = 1
    tolerance: float = 1e-5
    monitor: Monitor = field(default_factory=Monitor, repr=False, compare=False)

    def __post_init__(self):
        if not hasattr(self.n_checkpoints, "__index__") or self.n_checkpoints < 0:
            raise ValueError(f"n_checkpoints={self.n_checkpoints!r} must be a whole number of at least 0")
        if not self.tolerance > 0:
            raise ValueError(f"tolerance={self.tolerance!r} of an inversion must be greater than 0")

    def propagate(self, iterations, x, batch):
        """Run ``iterations`` on ``x``; keep checkpoints and signatures. ValueError if one of them has no inverse."""
        for iteration in iterations:
            if not hasattr(iteration, "inverse"):
                raise ValueError(
                    f"{self} needs iterations with a method inverse(x_next, batch), which {type(iteration).__name__} "
                    "lacks; gleam.unrolled.modl has it"
                )
        places = {i * len(iterations) // self.n_checkpoints for i in range(self.n_checkpoints)}
        return propagate_by_inversion(iterations, x, batch, places, self.tolerance, self.monitor)

    def findings(self):
        """What the monitor noticed since it was last asked (:meth:`gleam.inversion.Monitor.findings`)."""
        return self.monitor.findings()


@dataclass(frozen=True)
class Greedy:
    """GLEAM (Algorithm 1, Eq. 10): ``n_modules`` modules, each with its own loss and update, no gradient between them.

    ``within`` is the strategy inside a module; ``Greedy(3, within=Checkpointed())`` also checkpoints each iteration.
    Modules differ by at most one iteration in length. ``Greedy(1)`` is end-to-end training.
    """

    n_modules: int
    within: EndToEnd | Checkpointed | Offloaded | Invertible = field(default_factory=EndToEnd)

    @property
    def is_capturable(self):
        """As ``within``."""
        return self.within.is_capturable

    @property
    def needs_fp32(self):
        """As ``within``."""
        return self.within.needs_fp32

    def modules(self, network):
        """The iterations cut into ``n_modules`` lists; ValueError if there are fewer iterations than modules."""
        return split(network.iterations, self.n_modules)

    def propagate(self, iterations, x, batch):
        """Run ``iterations`` on ``x`` as ``within`` does."""
        return self.within.propagate(iterations, x, batch)

    def step(self, network, batch, optimizers):
        """Forward, local loss, backward and update, module by module; the output passes on detached."""
        return _decoupled_step(self.modules(network), self.propagate, network, batch, optimizers)

    def findings(self):
        """Those of ``within``."""
        return self.within.findings()


def _decoupled_step(modules, propagate, network, batch, optimizers):
    """Algorithm 1. What passes on is x(m) from before the update of module m, as in the paper."""
    x, losses = network.start(batch), []
    for module, optimizer in zip(modules, optimizers, strict=True):
        x, loss = forward_module(propagate, module, x, batch)
        losses.append(update_module(loss, optimizer))
        x = x.detach()
    return losses


def forward_module(propagate, module, x, batch):
    """(x(m), its loss) for the input x(m-1) of a module."""
    x = propagate(module, x, batch)
    return x, complex_l1(x, batch.to(x.device).target)


def update_module(loss, optimizer, average=None):
    """Backward pass and update of one module; returns the loss, detached.

    ``average(loss, parameters)`` comes between the two, where several processes share a mini-batch.
    """
    if loss.requires_grad:
        with torch.autocast(loss.device.type, enabled=False):  # formats are those of the forward pass
            loss.backward()
    loss = loss.detach()
    if average:
        average(loss, [p for group in optimizer.param_groups for p in group["params"]])
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)  # gradients of one module at a time are what memory has to hold
    return loss


def parameters_by_module(strategy, network):
    """The network's parameters as one list per module of ``strategy``; those outside all iterations join the first.

    Raises ValueError if two modules share a parameter, since each has an update of its own, or if one has none.
    """
    groups = [[p for iteration in module for p in iteration.parameters()] for module in strategy.modules(network)]
    owners = [{id(p) for p in group} for group in groups]
    if sum(map(len, owners)) > len(set().union(*owners)):
        raise ValueError(f"{strategy} cannot train modules that share weights; give each iteration its own")
    known = set().union(*owners)
    if not all(groups):
        raise ValueError(f"module {groups.index([])} of {strategy} has no weights to train; cut the network otherwise")
    groups[0] += [p for p in network.parameters() if id(p) not in known]
    return [list({id(p): p for p in group}.values()) for group in groups]


def optimizers(strategy, network, *, learning_rate, weight_decay=0.0):
    """One Adam per module of ``strategy``, with the paper's betas (Section V-C4) and one fused kernel for all weights.

    On CUDA the learning rate is a tensor on the device, which a captured step reads anew each time; change it by
    :func:`set_learning_rate`. Raises what :func:`parameters_by_module` raises.
    """
    return [_adam(group, learning_rate, weight_decay) for group in parameters_by_module(strategy, network)]


def _adam(parameters, learning_rate, weight_decay):
    can_fuse = all(p.is_floating_point() for p in parameters)  # the fused kernel takes no complex ones
    if can_fuse and all(p.is_cuda for p in parameters):
        learning_rate = torch.tensor(learning_rate, device=parameters[0].device)
    return torch.optim.Adam(parameters, lr=learning_rate, betas=BETAS, weight_decay=weight_decay, fused=can_fuse)


def set_learning_rate(optimizer, rate):
    """Let the next steps of ``optimizer`` have the size ``rate``; nothing waits for the device."""
    (group,) = optimizer.param_groups
    if torch.is_tensor(group["lr"]):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate
