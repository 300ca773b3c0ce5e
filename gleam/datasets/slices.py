"""Prepared slices or series as mini-batches: masks drawn or fixed, undersampled and normalised."""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path

import h5py
import numpy as np
import torch

from gleam.datasets.padding import whole
from gleam.files import described, digest
from gleam.physics.fourier import ifftshift2
from gleam.physics.masks import bank
from gleam.physics.sense import Batch, without_readout

ARRAYS = ("kspace", "sens_maps", "target")


class Split:
    """One split (training, validation or test) of a data set: which slices a batch holds, under which masks.

    This is all but the arrays themselves and what is known about them. A class of splits has the attributes ``name``,
    ``make_mask``, ``n_masks``, ``seed`` and ``cache_dir`` of :class:`Slices`, the properties ``shapes``, ``subjects``,
    ``is_phantom``, ``aspect``, ``acquisition``, ``n_left_out`` and ``fingerprint``, and ``_made``, which makes a batch.
    One whose k-space may be padded with zeros has its own ``measured``.
    """

    def __post_init__(self):  # of those that are dataclasses
        for name, value, least in (("n_masks", self.n_masks, 1), ("seed of the masks", self.seed, 0)):
            if not hasattr(value, "__index__") or value < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, not {value!r}")

    @cached_property
    def index(self):
        """One (file number, slice number) per slice."""
        return [(f, s) for f, shape in enumerate(self.shapes) for s in range(shape[0])]

    @cached_property
    def measured(self):
        """(y0, y1, x0, x1) of each file: the part of centred k-space that was measured, outside of it is padding."""
        return [whole(shape) for shape in self.shapes]

    def describe(self):
        """What a record has to say about this split; ``n_left_out``: slices without sensitivity maps, not in it."""
        sizes = sorted({tuple(int(n) for n in shape[1:]) for shape in self.shapes})
        return {
            "n_subjects": len(set(self.subjects)), "n_slices": len(self), "is_phantom": self.is_phantom,
            "n_left_out": self.n_left_out, "acquisition": self.acquisition,
            "coil_time_y_x" if any(len(size) == 4 for size in sizes) else "coil_y_x": sizes,
            "mask": described(self.make_mask), "fingerprint": self.fingerprint,
        }  # fmt: skip

    def __len__(self):
        return len(self.index)

    def __getitem__(self, i):
        return self.batch([range(len(self))[i]])

    def batch(self, indices):
        """:class:`gleam.physics.Batch` of slices ``indices``, each under its volume's fixed mask.

        They must be of one shape and padding.
        """
        return self._made(indices, [self.index[i][0] for i in indices], len(self.shapes))

    def batches(self, batch_size, part=(0, 1)):
        """(indices, batch) over the whole split in order, for evaluation; a batch never mixes shapes or paddings.

        ``part=(i, n)``: only every n-th batch from the i-th on, for process i of n.
        """
        for indices in self._grouped(range(len(self)), batch_size)[part[0] :: part[1]]:
            yield indices, self.batch(indices)

    def training_batch(self, step, batch_size, seed):
        """The mini-batch of training step ``step``: slices in random order, a mask for each drawn from the bank.

        It is a function of its arguments alone, so a resumed or a parallel run sees the same batches. In every epoch
        each slice comes once; the last batch of a shape may be smaller.
        """
        epoch, position = divmod(step, self._n_batches(batch_size))
        indices = self._epoch(epoch, batch_size, seed)[position]
        numbers = np.random.default_rng([seed, 1, step]).integers(self.n_masks, size=len(indices))
        return self._made(indices, numbers.tolist(), self.n_masks)

    def masks(self, size, n_masks, measured=None):
        """Bank of ``n_masks`` masks (mask, [time,] y, x) in FFT order for slices of ``size``, a NumPy array.

        They are made for the part ``measured``, (y0, y1, x0, x1), and False in the padding about it, so that R is over
        measured positions; None: nothing is padding. As :func:`gleam.physics.without_readout` leaves them.
        """
        return _bank(self.make_mask, tuple(size), n_masks, measured or whole(size), self.seed, self.cache_dir)

    @cached_property
    def _kinds(self):
        """(shape, measured) of each file's slices (coil, [time,] y, x): the slices of a batch have the same."""
        return [(tuple(shape[1:]), measured) for shape, measured in zip(self.shapes, self.measured, strict=True)]

    def _size_and_measured(self, indices):
        (_, *size), measured = self._kinds[self.index[indices[0]][0]]
        return tuple(size), measured

    def _grouped(self, order, batch_size):
        groups = {}
        for i in order:
            groups.setdefault(self._kinds[self.index[i][0]], []).append(i)
        return [g[a : a + batch_size] for g in groups.values() for a in range(0, len(g), batch_size)]

    def _n_batches(self, batch_size):
        n_slices = {}
        for kind, shape in zip(self._kinds, self.shapes, strict=True):
            n_slices[kind] = n_slices.get(kind, 0) + shape[0]
        return sum(math.ceil(n / batch_size) for n in n_slices.values())

    @lru_cache(maxsize=4)  # noqa: B019  (a handful of small objects live as long as the process)
    def _epoch(self, epoch, batch_size, seed):
        generator = np.random.default_rng([seed, 0, epoch])
        batches = self._grouped(generator.permutation(len(self)).tolist(), batch_size)
        return [batches[i] for i in generator.permutation(len(batches))]


@dataclass(frozen=True)
class Slices(Split):
    """The slices of one split (training, validation or test) of a data set.

    ``files``: prepared HDF5 files (:mod:`gleam.datasets.prepare`), one per scan; ``make_mask``: a mask generator that
    takes ``shape``, (y, x) or, for slices that are series, (time, y, x), and ``seed``, its other arguments bound by
    ``functools.partial``; ``n_masks``: size of the bank that training draws from; ``seed``: of the masks;
    ``cache_dir``: where banks are kept.

    ``slices[i]`` is one slice under its volume's fixed mask, as a batch of one. :meth:`training_batch` draws.
    """

    name: str
    files: tuple
    make_mask: object
    n_masks: int = 128
    seed: int = 0
    cache_dir: Path | None = None

    @cached_property
    def shapes(self):
        """(slice, coil, [time,] y, x) of each file."""
        return [_opened(file)["kspace"].shape for file in self.files]

    @cached_property
    def subjects(self):
        """Subject of each file."""
        return [str(_opened(file).attrs["subject"]) for file in self.files]

    @cached_property
    def measured(self):
        """(y0, y1, x0, x1) of each file: the part of centred k-space that was measured, outside of it is padding."""
        return [
            tuple(map(int, _opened(file).attrs.get("measured", whole(shape))))
            for file, shape in zip(self.files, self.shapes, strict=True)
        ]

    @property
    def is_phantom(self):
        """Whether any of the files holds a phantom rather than a measurement."""
        return any(bool(_opened(file).attrs["is_phantom"]) for file in self.files)

    @property
    def aspect(self):
        """Height over width of a pixel, for figures."""
        return float(_opened(self.files[0]).attrs.get("aspect", 1.0)) if self.files else 1.0

    @property
    def acquisition(self):
        """Kind of scan, as the first file says."""
        return str(_opened(self.files[0]).attrs["acquisition"]) if self.files else ""

    @property
    def n_left_out(self):
        """How many slices of the raw files have no sensitivity maps and are not here."""
        return sum(len(_opened(file).attrs.get("left_out", ())) for file in self.files)

    @cached_property
    def fingerprint(self):
        """Identity of the data and masks: equal fingerprints give equal batches."""
        return digest([[Path(f).name for f in self.files], described(self.make_mask), self.n_masks, self.seed])[:16]

    def fill(self, volumes):
        """Read everything into ``volumes``, one dictionary of tensors of the files' shapes per file; yields per file.

        The keys are ``kspace``, ``sens_maps`` and ``target``. Raises OSError, naming the file, if one is damaged.
        """
        for file, volume in zip(self.files, volumes, strict=True):
            for key, tensor in volume.items():
                for number, one in enumerate(tensor):
                    one.copy_(torch.from_numpy(_read(file, key, number)))
            yield file

    def _made(self, indices, numbers, n_masks):
        """The batch of slices ``indices`` under the masks ``numbers`` of the bank of ``n_masks``."""
        where = [self.index[i] for i in indices]
        arrays = [np.stack([_read(self.files[file], key, number) for file, number in where]) for key in ARRAYS]
        size, measured = self._size_and_measured(indices)
        bank = self.masks(size, n_masks, measured)
        mask = np.stack([bank[number] for number in numbers])[:, None]
        kspace, sens_maps, target, mask = (torch.from_numpy(x) for x in (*arrays, mask))
        return Batch.undersample(kspace, mask, sens_maps, target)


@lru_cache(maxsize=512)
def _opened(file):
    try:
        opened = h5py.File(file, "r")
        opened["kspace"], opened["sens_maps"], opened["target"], opened.attrs["subject"]
        return opened
    except (OSError, KeyError) as error:
        raise OSError(f"{file} is no prepared file or damaged ({error}); delete it, and it is prepared again") from None


def _read(file, key, number):
    try:
        return _opened(file)[key][number]
    except OSError as error:
        raise OSError(f"{file} is damaged ({error}); delete it, and it is prepared again") from None


@lru_cache(maxsize=64)
def _bank(make_mask, size, n_masks, measured, seed, cache_dir):
    """Masks (mask, [time,] y, x) in FFT order, y or x 1 where whole lines are measured: found here, once."""
    (*time, n_y, n_x), (y0, y1, x0, x1) = size, measured
    masks = bank(partial(make_mask, (*time, y1 - y0, x1 - x0)), n_masks, seed=seed, cache_dir=cache_dir)
    off_center = n_y // 2 - y0 - (y1 - y0) // 2, n_x // 2 - x0 - (x1 - x0) // 2  # a line where the ends differ, or none
    masks = np.roll(masks, off_center, axis=(-2, -1))
    return without_readout(ifftshift2(np.pad(masks, [(0, 0), *[(0, 0) for _ in time], (y0, n_y - y1), (x0, n_x - x1)])))
