"""Backpropagation that keeps activations in host memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import final
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from gleam.networks import protocol
from gleam.physics.batch import Batch
from gleam.physics.losses import Loss, complex_l1
from gleam.strategies.base import WholeNetwork
from gleam.strategies.greedy import EndToEnd


@final
@dataclass(frozen=True, repr=False)
class Offloaded(WholeNetwork):
    """Backpropagation that keeps activations in host memory and fetches each when the backward pass needs it.

    Weights and the batch stay on the device.

    Parameters
    ----------
    loss : callable
        Of (image, batch).

    Notes
    -----
    On CUDA the host memory is pinned, and no copy makes the host wait. A CPU has no second memory: copies go to another
    part of the same one, which :class:`gleam.cost.memory.LiveBytes` does not count. So on a CPU the time is real and
    the bytes are those that a device would keep, but nothing is saved.
    """

    loss: Loss | Sequence[Loss] = complex_l1

    is_capturable = False

    def propagate(self, iterations: Sequence[nn.Module], x: Tensor, batch: Batch) -> Tensor:
        """Run `iterations` on `x`; copy each tensor that the backward pass needs to the host, once."""
        weights = [t for iteration in iterations for t in (*iteration.parameters(), *iteration.buffers())]
        at = protocol.device_of(x, batch.target.device)
        staying: list[Tensor] = list(weights)
        # the batch has a copy on every device of the network (Batch.to)
        for device in {at, *(t.device for t in weights)}:
            staying += protocol.tensors_in(protocol.on_device(batch, device))
        storages = {t.untyped_storage().data_ptr() for t in staying}
        with saved_tensors_hooks(partial(_to_host, storages, WeakKeyDictionary()), _from_host):
            return EndToEnd().propagate(iterations, x, batch)


def _to_host(staying, copies, tensor):
    """(device, copy on the host, whether conjugated) of `tensor`, or the tensor itself if its storage is in `staying`.

    `copies` holds the earlier copies of each storage, since one layer often keeps the same tensor as the last one.
    """
    storage = tensor.untyped_storage()
    if storage.data_ptr() in staying:
        return tensor.detach()
    known = copies.setdefault(storage, {})
    view = tensor.dtype, tensor.shape, tensor.stride(), tensor.storage_offset(), tensor.is_conj(), tensor.is_neg()
    if view not in known:
        # Copied as it lies in memory and conjugated on the way back: the host must not compute on a copy in transfer.
        values = (tensor.conj() if tensor.is_conj() else tensor).resolve_neg()
        known[view] = _empty_on_host(values).copy_(values, non_blocking=tensor.is_cuda)
    return tensor.device, known[view], tensor.is_conj()


def _from_host(packed):
    if isinstance(packed, torch.Tensor):
        return packed
    device, copy, is_conj = packed
    # on a CPU a clone: whoever counts memory sees a tensor come back, as on a GPU
    tensor = copy.clone() if device.type == "cpu" else copy.to(device, non_blocking=True)
    return tensor.conj() if is_conj else tensor


def _empty_on_host(like):
    """Host memory for `like`, with its strides; for a tensor on a CPU memory of NumPy, which is not counted."""
    if like.device.type != "cpu":
        return torch.empty_like(like, device="cpu", pin_memory=like.is_cuda)
    strides = torch.empty_like(like, device="meta").stride()
    memory = torch.from_numpy(np.empty(like.numel() * like.element_size(), np.uint8))
    return memory.view(like.dtype).as_strided(like.shape, strides)
