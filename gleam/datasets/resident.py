"""Splits in the memory of the device that trains, or pinned for it, with batches made there ahead of time."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Any, final
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from tqdm.auto import tqdm

from gleam.datasets.scans import Scans, Storage
from gleam.datasets.slices import Slices
from gleam.datasets.volume import ARRAYS, array_shapes
from gleam.execution import numbered_device
from gleam.physics.batch import Batch

N_STEPS_AHEAD = 3  # of the host: each step not yet done keeps its batch in memory
RESERVE_SHARE = 0.25  # of a GPU's memory, kept for training


def resident(
    slices: Slices,
    device: str | torch.device,
    *,
    reserve_bytes: int | None = None,
    volumes: list[dict[str, Tensor]] | None = None,
) -> Slices:
    """The same split with all arrays in memory and batches made on `device`; also `gleam.datasets.Resident`.

    Everything is read once, with a progress bar. On a GPU what fits is kept there; the rest, scan by scan, stays in
    pinned memory of the host, and its slices are copied when batches need them. Masks are on the device. A training
    batch is made on a stream of its own while the step before it runs, so that the GPU waits neither for data nor for
    the host.

    When pickled, as for another process, the result leaves the arrays behind and reads them again there.

    Parameters
    ----------
    slices : Slices
        If they are in memory for this device already, nothing is read.
    device : str or torch.device
    reserve_bytes : int, optional
        Memory of the GPU that is left free for training; default: a quarter of it.
    volumes : list of dict of Tensor, optional
        Arrays that are in memory already, from :func:`hold`.

    Returns
    -------
    Slices
        Equal batches, fingerprint and description.

    Raises
    ------
    ValueError
        If neither memory is large enough or the device is not there.
    OSError
        For a damaged file.
    """
    device = numbered_device(device)
    if volumes is None and slices.storage is not None:
        volumes = slices.storage.volumes_on(device)
    if volumes is None:
        volumes = hold(slices.scans, device, name=slices.name, reserve_bytes=reserve_bytes)
    memory = Memory(slices.name, slices.scans, device, reserve_bytes=reserve_bytes, volumes=volumes)
    return replace(slices, storage=memory)


def on_device(slices: Slices, device: str | torch.device) -> Slices:
    """`slices` in the memory of a GPU, sharing the arrays of the same files that are there already.

    On a CPU, or where no memory is large enough, `slices` themselves, which read files; in the second case a message
    says so. Raises ValueError if the device is not there, OSError for a damaged file.
    """
    device = numbered_device(device)
    if device.type == "cpu":
        return slices
    key = slices.scans, str(device)
    memory = _MEMORIES.get(key)
    if memory is None:
        try:
            volumes = hold(slices.scans, device, name=slices.name)
        except ValueError as error:
            tqdm.write(f"{error}; now files are read")
            return slices
        memory = _MEMORIES[key] = Memory(slices.name, slices.scans, device, volumes=volumes)
    return replace(slices, storage=memory)


@final
class Memory(Storage):
    """Arrays of scans in the memory of a device or, pinned, of its host.

    Parameters
    ----------
    name : str
        Of the split, for messages.
    scans : Scans
    device : torch.device
        With its number if it is a GPU.
    reserve_bytes : int, optional
        As for :func:`resident`.
    volumes : list of dict of Tensor, optional
        From :func:`hold`; None: read when they are first needed.
    """

    def __init__(
        self,
        name: str,
        scans: Scans,
        device: torch.device,
        *,
        reserve_bytes: int | None = None,
        volumes: list[dict[str, Tensor]] | None = None,
    ) -> None:
        self.name, self.scans, self.device, self.reserve_bytes = name, scans, device, reserve_bytes
        self._volumes = volumes

    def __reduce__(self):  # without arrays
        return partial(Memory, reserve_bytes=self.reserve_bytes), (self.name, self.scans, self.device)

    @property
    def volumes(self) -> list[dict[str, Tensor]]:
        """The arrays of each scan, by name."""
        if self._volumes is None:
            self._volumes = hold(self.scans, self.device, name=self.name, reserve_bytes=self.reserve_bytes)
        return self._volumes

    def volumes_on(self, device: torch.device) -> list[dict[str, Tensor]] | None:
        """The arrays of each scan if this memory is for `device`, else None."""
        return self.volumes if self.device == device else None

    def read(self, where: Sequence[tuple[int, int]]) -> list[Tensor]:
        """The arrays of slices (scan number, slice number), each stacked on the device."""
        return [_stacked([self.volumes[f][key][s] for f, s in where], self.device) for key in ARRAYS]

    def maker(self) -> Callable[..., Batch]:
        """On a GPU batches are made ahead, for each split on its own; on a CPU when they are asked for."""
        return _Ahead(self.device) if self.device.type == "cuda" else super().maker()


# by scans and device: other masks on the same slices need no second copy
_MEMORIES: WeakValueDictionary[tuple[Scans, str], Memory] = WeakValueDictionary()


def hold(
    scans: Scans, device: str | torch.device, *, name: str, reserve_bytes: int | None = None
) -> list[dict[str, Tensor]]:
    """All arrays of `scans` in memory.

    Parameters
    ----------
    scans : Scans
    device : str or torch.device
    name : str
        For the progress bar and messages.
    reserve_bytes : int, optional
        Memory of a GPU that is left free; default: a quarter of it.

    Returns
    -------
    list of dict of Tensor
        `kspace`, `sens_maps` and `target` of each scan, on the device or in pinned memory.

    Raises
    ------
    ValueError
        If the memories are too small or the device is not there.
    """
    device = numbered_device(device)
    volumes = []
    for shape, place in zip(scans.shapes, _places(scans, device, name, reserve_bytes), strict=True):
        options: dict[str, Any] = {"pin_memory": True} if place == "pinned" else {"device": place}
        arrays = array_shapes(shape).items()
        volumes.append({key: torch.empty(one, dtype=torch.complex64, **options) for key, one in arrays})
    for _ in tqdm(scans.fill(volumes), total=len(volumes), desc=f"{name} into memory", unit="file"):
        pass
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # once: from here on every stream may read them
    return volumes


class _Ahead:
    """Makes the batch of one step while the step before runs on the GPU.

    The batch is made on a stream of its own. The stream of the caller waits for it, the host does not. The host waits
    only when it is more than N_STEPS_AHEAD steps ahead of the GPU: further batches would fill the memory.
    """

    def __init__(self, device):
        self.device, self.stream = device, torch.cuda.Stream(device)
        self.begun, self.steps = {}, deque()

    def __call__(self, make, step, *settings):
        current = torch.cuda.current_stream(self.device)
        done = torch.cuda.Event(blocking=True)  # when the steps begun so far are done
        done.record(current)
        self.steps.append(done)
        if len(self.steps) > N_STEPS_AHEAD:
            self.steps.popleft().synchronize()
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


def host_bytes_available() -> int | None:
    """Memory of the host that a process may still take, in bytes; None where the system does not say."""
    try:
        with open("/proc/meminfo") as file:
            return next(1024 * int(line.split()[1]) for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None


def _places(scans, device, name, reserve_bytes):
    """Per scan: the GPU, "pinned" or the CPU. Raises ValueError if the memories are too small."""
    sizes = [[8 * math.prod(shape) for shape in array_shapes(shape).values()] for shape in scans.shapes]
    free = 0
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what torch keeps for later counts as taken otherwise
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
            f"the {len(scans.index)} slices of {name} need {sum(map(sum, sizes)) / 1e9:.1f} GB of memory; there are "
            f"{gpu}{available / 1e9:.1f} GB on the host; take fewer subjects, or read files with gleam.datasets.Slices"
        )
    return places


def _stacked(views, device):
    """Tensors of one shape as one on `device`, without waiting for those that come from pinned memory."""
    if all(view.device == device for view in views):
        return torch.stack(views)
    out = torch.empty((len(views), *views[0].shape), dtype=views[0].dtype, device=device)
    for place, view in zip(out, views, strict=True):
        place.copy_(view, non_blocking=True)
    return out
