"""Count the bytes of live tensors while they are made and freed."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass(eq=False)  # two blocks of one size are not the same
class _Block:
    size: int
    kind: str


class LiveBytes(TorchDispatchMode):
    """Context that counts the bytes of live tensors on the kind of `device`.

    Unlike hooks on saved tensors it also counts what checkpointing computes again.

    Parameters
    ----------
    held : iterable of Tensor
        Tensors that exist before and are counted from the start.
    device : str or torch.device
        Only tensors on a device of this type are counted.

    Attributes
    ----------
    live, peak : int
        Bytes of the tensors that are alive, and their maximum.
    trace : list of int
        `live` after each operation.
    """

    def __init__(self, held: Iterable[Tensor] = (), *, device: str | torch.device = "cpu") -> None:
        super().__init__()
        self.blocks: weakref.WeakKeyDictionary[Any, _Block] = weakref.WeakKeyDictionary()
        self.device_type = torch.device(device).type
        self.live = self.peak = 0
        self.trace: list[int] = []
        self.alive: set[_Block] = set()
        self.at_peak: set[_Block] = set()
        self.label("held", held)

    @property
    def split(self) -> dict[str, int]:
        """Bytes at the peak by kind: the kinds of :meth:`label`, and activations."""
        total: Counter[str] = Counter()
        for block in self.at_peak:
            total[block.kind] += block.size
        return dict(total)

    def label(self, kind: str, tensors: Iterable[Tensor]) -> None:
        """Count `tensors`, unless already counted, as `kind` in :attr:`split`, also at an earlier peak."""
        for tensor in tensors:
            if tensor.device.type == self.device_type:
                self._add(tensor.untyped_storage())
                self.blocks[tensor.untyped_storage()].kind = kind

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = {t.untyped_storage() for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.device.type == self.device_type:
                if tensor.untyped_storage() not in given:  # else it is a view or was written in place
                    self._add(tensor.untyped_storage())
        self.trace.append(self.live)
        return result

    def _add(self, storage):
        if storage in self.blocks:
            return
        self.blocks[storage] = block = _Block(storage.nbytes(), "activations")
        self.alive.add(block)
        self.live += block.size
        if self.live > self.peak:
            self.peak, self.at_peak = self.live, set(self.alive)  # blocks and not sums: they may be labelled later
        weakref.finalize(storage, self._remove, block).atexit = False  # when its last tensor is gone

    def _remove(self, block):
        self.alive.discard(block)
        self.live -= block.size
