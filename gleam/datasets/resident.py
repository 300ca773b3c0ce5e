"""Slices held in memory, on the device that trains or pinned for it, with batches made there ahead of time."""

import math
from collections import deque
from dataclasses import fields
from functools import cached_property
from weakref import WeakValueDictionary

import torch
from tqdm.auto import tqdm

from gleam.datasets.slices import ARRAYS, Split
from gleam.execution import numbered_device
from gleam.physics.sense import Batch

N_STEPS_AHEAD = 3  # of the host: each step not yet done keeps its batch in memory
RESERVE_SHARE = 0.25  # of a GPU's memory, kept for training


class Resident(Split):
    """``slices`` (:class:`gleam.datasets.Slices`) with all arrays in memory: the same batches, made on ``device``.

    Everything is read once, with a progress bar. On a GPU what fits is held there but for ``reserve_bytes``, which is
    left free for training (default: a quarter of the GPU's memory); the rest, file by file, stays in pinned memory of
    the host, and its slices are copied as batches need them. Masks lie on the device. A training batch is made on a
    stream of its own while the step before it runs, so that the GPU waits neither for data nor for the host.

    Pickled, as for another process, it leaves the arrays behind and reads them again there.

    Raises ValueError if neither memory holds the data or the device is not there, OSError for a damaged file.
    """

    def __init__(self, slices, device, *, reserve_bytes=None, volumes=None):
        """``volumes``: what is already held, from :func:`hold`, one dictionary per file; default: read now, or those of
        ``slices`` if they are resident on this device.
        """
        device = numbered_device(device)
        if isinstance(slices, type(self)):
            volumes = slices._volumes if volumes is None and slices.device == device else volumes
            slices = slices.slices
        self.slices, self.device, self.reserve_bytes = slices, device, reserve_bytes
        self._volumes = hold(slices, self.device, reserve_bytes=reserve_bytes) if volumes is None else volumes

    def __getstate__(self):
        return {name: getattr(self, name) for name in ("slices", "device", "reserve_bytes")}

    @cached_property
    def _volumes(self):
        return hold(self.slices, self.device, reserve_bytes=self.reserve_bytes)

    @cached_property
    def _banks(self):
        return {}

    @cached_property
    def _ahead(self):
        return _Ahead(self.device) if self.device.type == "cuda" else None

    def describe(self):
        """As that of the slices: where they are held changes no result."""
        return self.slices.describe()

    def training_batch(self, step, batch_size, seed):
        """As :meth:`gleam.datasets.Slices.training_batch`, on the device; that of the next step is begun."""
        make = super().training_batch
        return self._ahead(make, step, batch_size, seed) if self._ahead else make(step, batch_size, seed)

    def _epoch(self, epoch, batch_size, seed):
        return self.slices._epoch(epoch, batch_size, seed)

    def _made(self, indices, numbers, n_masks):
        where = [self.index[i] for i in indices]
        kspace, sens_maps, target = (
            _stacked([self._volumes[file][key][number] for file, number in where], self.device) for key in ARRAYS
        )
        bank = self._bank(n_masks, *self._size_and_measured(indices))
        mask = torch.stack([bank[number] for number in numbers])[:, None]  # views: an index would be a copy to wait for
        return Batch.undersample(kspace, mask, sens_maps, target)

    def _bank(self, n_masks, size, measured):
        key = n_masks, size, measured
        if key not in self._banks:
            self._banks[key] = torch.from_numpy(self.slices.masks(size, n_masks, measured)).to(self.device)
        return self._banks[key]


def _as_of_slices(name):
    return property(lambda self: getattr(self.slices, name), doc=f"``{name}`` of the slices.")


for _name in ("name", "make_mask", "n_masks", "seed", "cache_dir", "shapes", "measured", "subjects", "is_phantom",
              "aspect", "acquisition", "n_left_out", "fingerprint"):  # fmt: skip
    setattr(Resident, _name, _as_of_slices(_name))


class _Ahead:
    """Makes the batch of one step while the step before runs on the GPU.

    The batch is made on a stream of its own; whoever asks for it has its stream wait for that, not the host. The host
    stops only when it is more than N_STEPS_AHEAD steps ahead of the GPU, which would fill the memory with batches.
    """

    def __init__(self, device):
        self.device, self.stream = device, torch.cuda.Stream(device)
        self.begun, self.steps = {}, deque()

    def __call__(self, make, step, *settings):
        current = torch.cuda.current_stream(self.device)
        self._keep_near(current)
        batch, ready = self.begun.pop((step, *settings), None) or self._begin(make, step, *settings)
        self.begun = {(step + 1, *settings): self._begin(make, step + 1, *settings)}
        current.wait_event(ready)
        for field in fields(batch):  # its memory belongs to the other stream, which must not reuse it before this one
            getattr(batch, field.name).record_stream(current)
        return batch

    def _begin(self, make, step, *settings):
        with torch.cuda.stream(self.stream):
            batch, ready = make(step, *settings), torch.cuda.Event()
            ready.record(self.stream)
        return batch, ready

    def _keep_near(self, current):
        done = torch.cuda.Event(blocking=True)  # when the steps begun so far are done
        done.record(current)
        self.steps.append(done)
        if len(self.steps) > N_STEPS_AHEAD:
            self.steps.popleft().synchronize()


def on_device(slices, device):
    """``slices`` on a GPU: a :class:`Resident`, with the arrays of the same files that are held there already.

    On a CPU, or where no memory holds them, ``slices`` themselves, which read files; in the second case a line says so.
    """
    device = numbered_device(device)
    if device.type == "cpu":
        return slices
    key = slices.files, str(device)
    try:
        volumes = _HELD.get(key) or _Volumes(hold(slices, device))
    except ValueError as error:
        tqdm.write(f"{error}; now files are read")
        return slices
    _HELD[key] = volumes
    return Resident(slices, device, volumes=volumes)


class _Volumes(list):
    """What :func:`hold` returns, for as long as anybody uses it."""


_HELD = WeakValueDictionary()  # by files and device: other masks on the same slices need no second copy


def hold(slices, device, *, reserve_bytes=None):
    """All arrays of ``slices`` in memory: per file a dictionary of ``kspace``, ``sens_maps`` and ``target`` tensors."""
    device = numbered_device(device)
    places = _places(slices, device, reserve_bytes)
    volumes = [_empty(shape, place) for shape, place in zip(slices.shapes, places, strict=True)]
    for _ in tqdm(slices.fill(volumes), total=len(volumes), desc=f"{slices.name} into memory", unit="file"):
        pass
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # once: from here on every stream may read them
    return volumes


def host_bytes_available():
    """Memory of the host that a process may still take, in bytes; None where the system does not say."""
    try:
        with open("/proc/meminfo") as file:
            return next(1024 * int(line.split()[1]) for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None


def _places(slices, device, reserve_bytes):
    """Per file: the GPU, "pinned" or the CPU. Raises ValueError if the memories are too small."""
    sizes = [[8 * math.prod(shape) for shape in array_shapes(shape).values()] for shape in slices.shapes]
    free = 0
    if device.type == "cuda":
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info(device)
        free -= RESERVE_SHARE * total if reserve_bytes is None else reserve_bytes
    left, places, on_host = free, [], 0
    for arrays in sizes:
        if device.type == "cpu":
            places.append(device)
            on_host += sum(arrays)
        elif sum(arrays) <= left:
            places.append(device)
            left -= sum(arrays)
        else:
            places.append("pinned")
            on_host += sum(2 ** (n - 1).bit_length() for n in arrays)  # torch pins powers of two
    available = host_bytes_available()
    if available is not None and on_host > 0.9 * available:
        gpu = f"{max(free, 0) / 1e9:.1f} GB free for them on {device} and " if device.type == "cuda" else ""
        raise ValueError(
            f"the {len(slices)} slices of {slices.name} need {sum(map(sum, sizes)) / 1e9:.1f} GB of memory; there are "
            f"{gpu}{available / 1e9:.1f} GB on the host; take fewer subjects, or read files with gleam.datasets.Slices"
        )
    return places


def array_shapes(shape):
    """Shapes of the arrays that go with k-space of ``shape`` (slice, coil, [time,] y, x), by name."""
    n_slices, n_coils, *time, n_y, n_x = shape
    return {
        "kspace": tuple(shape),
        "sens_maps": (n_slices, n_coils, *[1 for _ in time], n_y, n_x),
        "target": (n_slices, *time, n_y, n_x),
    }


def _empty(shape, place):
    options = {"pin_memory": True} if place == "pinned" else {"device": place}
    return {key: torch.empty(one, dtype=torch.complex64, **options) for key, one in array_shapes(shape).items()}


def _stacked(views, device):
    """Tensors of one shape as one on ``device``, without waiting for those that come from pinned memory."""
    if all(view.device == device for view in views):
        return torch.stack(views)
    out = torch.empty((len(views), *views[0].shape), dtype=views[0].dtype, device=device)
    for place, view in zip(out, views, strict=True):
        place.copy_(view, non_blocking=True)
    return out
