"""Bytes of live tensors, counted as they come and go."""

import weakref
from collections import Counter
from dataclasses import dataclass

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass(eq=False)
class _Block:
    size: int
    kind: str


class LiveBytes(TorchDispatchMode):
    """Context that counts the bytes of live tensors made inside it on the kind of ``device``; ``peak`` is the maximum.

    Those in ``held`` count from the start. Unlike hooks on saved tensors it also sees what checkpointing computes anew.
    """

    def __init__(self, held=(), *, device="cpu"):
        super().__init__()
        self.blocks = weakref.WeakKeyDictionary()
        self.device_type = torch.device(device).type
        self.live = self.peak = 0
        self.alive, self.at_peak = set(), set()
        self.label("held", held)

    @property
    def split(self):
        """Bytes at the peak by kind: those of :meth:`label`, and activations."""
        total = Counter()
        for block in self.at_peak:
            total[block.kind] += block.size
        return dict(total)

    def label(self, kind, tensors):
        """Count ``tensors``, if they are not counted yet, and name them ``kind`` in :attr:`split` from the start."""
        for tensor in tensors:
            if tensor.device.type == self.device_type:
                self._add(tensor.untyped_storage())
                self.blocks[tensor.untyped_storage()].kind = kind

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = {t.untyped_storage() for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.device.type == self.device_type:
                if tensor.untyped_storage() not in given:  # else a view, or written in place: not made here
                    self._add(tensor.untyped_storage())
        return result

    def _add(self, storage):
        if storage in self.blocks:
            return
        self.blocks[storage] = block = _Block(storage.nbytes(), "activations")
        self.alive.add(block)
        self.live += block.size
        if self.live > self.peak:
            self.peak, self.at_peak = self.live, set(self.alive)
        weakref.finalize(storage, self._remove, block).atexit = False

    def _remove(self, block):
        self.alive.discard(block)
        self.live -= block.size
