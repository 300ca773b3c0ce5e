"""A split of a data set as mini-batches: masks drawn or fixed, k-space undersampled and normalised."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import final

import numpy as np
import torch

from gleam.datasets.padding import whole
from gleam.datasets.scans import PreparedFiles, Scans, Storage
from gleam.files import described, digest, whole_number
from gleam.physics.batch import Batch
from gleam.physics.fourier import ifftshift2
from gleam.physics.masks import bank
from gleam.physics.sense import without_readout


@final
@dataclass(frozen=True)
class Slices:
    """The slices or series of one split (training, validation or test) of a data set.

    `slices[i]` is one slice under the fixed mask of its scan, as a batch of one. :meth:`training_batch` draws masks.

    Parameters
    ----------
    name : str
        Of the split, for messages.
    source : Scans or tuple of paths
        The scans; paths stand for :class:`gleam.datasets.scans.PreparedFiles`, one per scan.
    make_mask : callable
        Mask generator that takes `shape`, (y, x) or, for slices that are series, (time, y, x), and `seed`; its other
        arguments are bound by `functools.partial`.
    n_masks : int
        Size of the bank that training draws from.
    seed : int
        Of the masks.
    cache_dir : path, optional
        Where banks of masks are kept; None: in memory.
    storage : Storage, optional
        Where arrays are read from; None: from `source`. :func:`gleam.datasets.resident.resident` puts them in memory.

    Raises
    ------
    ValueError
        If `n_masks` < 1, `seed` < 0, or one of them is no whole number.
    """

    name: str
    source: Scans | tuple[str | Path, ...]
    make_mask: Callable[..., np.ndarray]
    n_masks: int = 128
    seed: int = 0
    cache_dir: str | Path | None = None
    storage: Storage | None = None

    def __post_init__(self) -> None:
        for name, value, least in (("n_masks", self.n_masks, 1), ("seed of the masks", self.seed, 0)):
            whole_number(value, name, least)

    def __reduce__(self):  # what is computed from these stays behind
        state = self.name, self.source, self.make_mask, self.n_masks, self.seed, self.cache_dir, self.storage
        return Slices, state

    @cached_property
    def scans(self) -> Scans:
        """The scans, with their metadata."""
        return self.source if isinstance(self.source, Scans) else PreparedFiles(self.source)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """(slice, coil, [time,] y, x) of each scan."""
        return self.scans.shapes

    @property
    def subjects(self) -> list[str]:
        """Subject of each scan."""
        return self.scans.subjects

    @property
    def measured(self) -> list[tuple[int, int, int, int]]:
        """(y0, y1, x0, x1) of each scan, the part of centred k-space that was measured; outside of it is padding."""
        return self.scans.measured

    @property
    def is_phantom(self) -> bool:
        """Whether any of the scans is a phantom rather than a measurement."""
        return self.scans.is_phantom

    @property
    def aspect(self) -> float:
        """Height over width of a pixel, for figures."""
        return self.scans.aspect

    @property
    def acquisition(self) -> str:
        """Kind of scan."""
        return self.scans.acquisition

    @property
    def n_left_out(self) -> int:
        """Slices of the raw files that have no sensitivity maps and are not here."""
        return self.scans.n_left_out

    @property
    def index(self) -> list[tuple[int, int]]:
        """(scan number, slice number) of each slice."""
        return self.scans.index

    @cached_property
    def fingerprint(self) -> str:
        """Identity of the data and masks; equal fingerprints give equal batches."""
        return digest([*self.scans.identity, described(self.make_mask), self.n_masks, self.seed])[:16]

    def describe(self) -> dict:
        """Facts about this split, for a record.

        Returns
        -------
        dict
            Counts of subjects and slices, sizes, kind of scan, mask and fingerprint. `n_left_out` is the number of
            slices without sensitivity maps; they are not in the split.
        """
        sizes = sorted({tuple(int(n) for n in shape[1:]) for shape in self.shapes})
        return {
            "n_subjects": len(set(self.subjects)), "n_slices": len(self), "is_phantom": self.is_phantom,
            "n_left_out": self.n_left_out, "acquisition": self.acquisition,
            "coil_time_y_x" if any(len(size) == 4 for size in sizes) else "coil_y_x": sizes,
            "mask": described(self.make_mask), "fingerprint": self.fingerprint, **self.scans.description(),
        }  # fmt: skip

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, i: int) -> Batch:
        return self.batch([range(len(self))[i]])

    def batch(self, indices: Sequence[int]) -> Batch:
        """The slices `indices`, all of one shape and padding, each under the fixed mask of its scan."""
        return self._made(indices, [self.index[i][0] for i in indices], len(self.shapes))

    def batches(self, batch_size: int, part: tuple[int, int] = (0, 1)) -> Iterator[tuple[list[int], Batch]]:
        """The whole split in order, for evaluation; a batch never mixes shapes or paddings.

        Parameters
        ----------
        batch_size : int
        part : (int, int)
            (i, n): only every n-th batch from the i-th on, for process i of n.

        Yields
        ------
        indices : list of int
        batch : Batch
        """
        for indices in _grouped(self.scans, range(len(self)), batch_size)[part[0] :: part[1]]:
            yield indices, self.batch(indices)

    def training_batch(self, step: int, batch_size: int, seed: int) -> Batch:
        """The mini-batch of a training step: slices in random order, a mask for each drawn from the bank.

        It depends on the arguments only, so a resumed or a parallel run sees the same batches. In every epoch each
        slice comes once; the last batch of a shape may be smaller. In the memory of a GPU, the batch of the next step
        is begun meanwhile.
        """
        return self._maker(self._drawn, step, batch_size, seed)

    def masks(self, size: Sequence[int], n_masks: int, measured: tuple[int, int, int, int] | None = None) -> np.ndarray:
        """Bank of masks for slices of one size, in FFT order.

        Parameters
        ----------
        size : sequence of int
            ([time,] y, x).
        n_masks : int
        measured : tuple of int, optional
            (y0, y1, x0, x1): masks are made for this part and are False in the padding around it, so that R is over
            measured positions. None: no padding.

        Returns
        -------
        ndarray of bool, shape (mask, [time,] y, x)
            y or x is 1 where whole lines are measured (:func:`gleam.physics.sense.without_readout`).
        """
        return _bank(self.make_mask, tuple(size), n_masks, measured or whole(size), self.seed, self.cache_dir)

    @cached_property
    def _arrays(self):
        return self.scans.storage() if self.storage is None else self.storage

    @cached_property
    def _maker(self):
        return self._arrays.maker()

    @cached_property
    def _banks(self):
        return {}

    def _drawn(self, step, batch_size, seed):
        epoch, position = divmod(step, self._n_batches(batch_size))
        indices = self._epoch(epoch, batch_size, seed)[position]
        # 1 for masks, 0 for the order of slices: numbers of their own
        numbers = np.random.default_rng([seed, 1, step]).integers(self.n_masks, size=len(indices))
        return self._made(indices, numbers.tolist(), self.n_masks)

    def _made(self, indices, numbers, n_masks):
        """The batch of slices `indices` under the masks `numbers` of the bank of `n_masks`."""
        where = [self.index[i] for i in indices]
        kspace, sens_maps, target = self._arrays.read(where)
        (_, *size), measured = _kind(self.scans, where[0][0])
        key = n_masks, tuple(size), measured
        if key not in self._banks:
            self._banks[key] = torch.from_numpy(self.masks(size, n_masks, measured)).to(self._arrays.device)
        bank = self._banks[key]  # on the device
        mask = torch.stack([bank[number] for number in numbers])[:, None]  # views: an index would be a copy to wait for
        return Batch.undersample(kspace, mask, sens_maps, target)

    def _n_batches(self, batch_size):
        n_slices = {}
        for f, shape in enumerate(self.shapes):
            kind = _kind(self.scans, f)
            n_slices[kind] = n_slices.get(kind, 0) + shape[0]
        return sum(math.ceil(n / batch_size) for n in n_slices.values())

    def _epoch(self, epoch, batch_size, seed):
        return _epoch(self.scans, epoch, batch_size, seed)


def _kind(scans, f):
    """(shape, measured) of a scan's slices (coil, [time,] y, x): the slices of a batch have the same."""
    return tuple(scans.shapes[f][1:]), scans.measured[f]


def _grouped(scans, order, batch_size):
    """The slices of `order` in batches of one kind."""
    groups, kinds = {}, [_kind(scans, f) for f in range(len(scans.shapes))]
    for i in order:
        groups.setdefault(kinds[scans.index[i][0]], []).append(i)
    return [g[a : a + batch_size] for g in groups.values() for a in range(0, len(g), batch_size)]


@lru_cache(maxsize=4)  # by scans, not by slices, whose arrays it would keep in memory
def _epoch(scans, epoch, batch_size, seed):
    """The batches of an epoch, in random order."""
    generator = np.random.default_rng([seed, 0, epoch])
    batches = _grouped(scans, generator.permutation(len(scans.index)).tolist(), batch_size)
    return [batches[i] for i in generator.permutation(len(batches))]


@lru_cache(maxsize=64)
def _bank(make_mask, size, n_masks, measured, seed, cache_dir):
    """Masks (mask, [time,] y, x) in FFT order, y or x 1 where whole lines are measured: found here, once."""
    (*time, n_y, n_x), (y0, y1, x0, x1) = size, measured
    masks = bank(partial(make_mask, (*time, y1 - y0, x1 - x0)), n_masks, seed=seed, cache_dir=cache_dir)
    off_center = n_y // 2 - y0 - (y1 - y0) // 2, n_x // 2 - x0 - (x1 - x0) // 2  # a line where the ends differ, or none
    masks = np.roll(masks, off_center, axis=(-2, -1))
    return without_readout(ifftshift2(np.pad(masks, [(0, 0), *[(0, 0) for _ in time], (y0, n_y - y1), (x0, n_x - x1)])))
