"""Phantoms as the scans of a split: drawn by processes and measured straight into memory."""

from __future__ import annotations

import contextlib
import json
import math
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import final

import numpy as np
import torch
from torch import Tensor

from gleam.datasets.prepare import _maps, _one_thread_each
from gleam.datasets.resident import Memory
from gleam.datasets.scans import Scans, Storage
from gleam.files import described, end_with_parent
from gleam.phantoms.acquire import white_noise
from gleam.phantoms.generate import n_worthwhile
from gleam.phantoms.scan import BRAIN_FOV_MM, KNEE_FOV_MM, SCANS, cropped, draw
from gleam.phantoms.subject import name as subject_name
from gleam.phantoms.subject import sizes
from gleam.physics.fourier import fft2, fft2c, ifft2

TRUE_MAPS = "the phantom's own coil sensitivities, normalised"
VOXELS_PER_TASK = 1_500_000  # drawn at once by a process: a second's work, and 12 MB to hand over
N_THREADS = 4  # subjects measured at the same time on a GPU: drawing the noise takes longest, on one core


@final
@dataclass(frozen=True, eq=False, repr=False)
class PhantomScans(Scans):
    """Phantoms as scans: known from their settings before they are drawn, and drawn straight into memory.

    Parameters
    ----------
    jobs : list of dict
        The subjects, from :func:`gleam.phantoms.generate.planned`.
    calibrate : callable or None
        Centred k-space (coil, y, x) to sensitivity maps; None: the phantom's own sensitivities, normalised.
    device : torch.device
        Where k-space is computed.
    n_jobs : int
        Processes that draw.
    """

    jobs: list[dict]
    calibrate: Callable[[np.ndarray], np.ndarray] | None
    device: torch.device
    n_jobs: int

    @cached_property
    def shapes(self) -> list[tuple[int, ...]]:
        """(slice, coil, [time,] y, x) of each subject."""
        return [_shape(job) for job in self.jobs]

    @cached_property
    def subjects(self) -> list[str]:
        """Name of each subject."""
        return [subject_name(job) for job in self.jobs]

    @property
    def is_phantom(self) -> bool:
        """True."""
        return True

    @property
    def aspect(self) -> float:
        """Height over width of a pixel, from the field of view of the first subject."""
        if not self.jobs:
            return 1.0
        (n_y, n_x), kind = self.jobs[0]["settings"]["matrix"], self.jobs[0]["settings"]["kind"]
        fov = {"knee": KNEE_FOV_MM[1:], "brain": BRAIN_FOV_MM, "heart": (n_y, n_x)}[kind]
        return (fov[0] / n_y) / (fov[1] / n_x)

    @property
    def acquisition(self) -> str:
        """Kind of scan, from the first subject."""
        return SCANS[self.jobs[0]["settings"]["kind"]].acquisition if self.jobs else ""

    @property
    def n_left_out(self) -> int:
        """0: every slice has maps, or an error is raised."""
        return 0

    @property
    def identity(self) -> list:
        """Settings of the subjects, and what the maps are."""
        return [[job["settings"] for job in self.jobs], self._maps_are]

    @property
    def _maps_are(self):
        return TRUE_MAPS if self.calibrate is None else described(self.calibrate)

    def description(self) -> dict:
        """Says that there were no raw files, and what the maps are."""
        return {"source": "simulated straight into memory, without raw files", "sens_maps": self._maps_are}

    def fill(self, volumes: Sequence[dict[str, Tensor]]) -> Iterator[None]:
        """Draw and measure all subjects into `volumes`; yields when each is done, in any order."""
        n_threads = N_THREADS if self.device.type == "cuda" else 1
        with _drawn(self.jobs, self.n_jobs) as drawn, ThreadPoolExecutor(n_threads) as threads:
            measuring = [
                threads.submit(measure, job, images, volume, self.device, self.calibrate)
                for job, images, volume in zip(self.jobs, drawn, volumes, strict=True)
            ]
            try:
                yield from (done.result() for done in as_completed(measuring))
            finally:
                for one in measuring:
                    one.cancel()

    def storage(self) -> Storage:
        """The memory of `device`, drawn when it is first needed."""
        return Memory("phantoms", self, self.device)


def _shape(job):
    settings, kind = job["settings"], job["settings"]["kind"]
    n_coils = sizes(job)[3 if kind == "knee" else 1]
    return settings["n_slices"], n_coils, *([settings["n_frames"]] if kind == "heart" else []), *settings["matrix"]


@contextlib.contextmanager
def _drawn(jobs, n_jobs):
    """Per subject a function without arguments that returns its images, drawn meanwhile in processes if worthwhile."""
    n_processes = n_worthwhile(jobs, n_jobs)
    if n_processes == 1:
        yield [partial(_draw, json.dumps(job), 0, None) for job in jobs]
        return
    spawned = multiprocessing.get_context("spawn")
    with _one_thread_each(), ProcessPoolExecutor(n_processes, spawned, end_with_parent) as pool:
        try:
            parts = [[pool.submit(_draw, json.dumps(job), *part) for part in _parts(job)] for job in jobs]
            yield [partial(_joined, own) for own in parts]
        finally:
            pool.shutdown(cancel_futures=True)


def _parts(job):
    """(first, last + 1) slices of the parts that one process draws at a time."""
    settings = job["settings"]
    n = max(1, VOXELS_PER_TASK // (math.prod(settings["matrix"]) * settings.get("n_frames", 1)))
    return [(start, min(start + n, settings["n_slices"])) for start in range(0, settings["n_slices"], n)]


def _joined(parts: list[Future]):
    try:
        images = np.concatenate([part.result() for part in parts])
        parts.clear()  # or the images of all subjects would stay in memory
        return images
    except BrokenProcessPool:
        raise OSError(
            "a process that draws phantoms ended: for want of memory (give a smaller n_jobs), or because the calling "
            'script lacks if __name__ == "__main__":, which new processes need'
        ) from None


def _draw(job, start, stop):
    return _scan(job).images(start, stop)


@lru_cache(maxsize=2)
def _scan(job):
    return draw(json.loads(job))


def measure(
    job: dict,
    images: Callable[[], np.ndarray],
    volume: dict[str, Tensor],
    device: torch.device,
    calibrate: Callable[[np.ndarray], np.ndarray] | None = None,
) -> None:
    """Measure one subject.

    Parameters
    ----------
    job : dict
        The subject, from :func:`gleam.phantoms.generate.planned`.
    images : callable
        Returns the noise-free images of the subject (:meth:`gleam.phantoms.scan.Scan.images`).
    volume : dict of Tensor
        Filled in place: `kspace` (slice, coil, [time,] y, x), `sens_maps` and `target`, on any device.
    device : torch.device
        Where it is computed.
    calibrate : callable, optional
        As for :func:`gleam.phantoms.simulated.knees`. Raises ValueError, naming the slice, if it leaves no map.

    Notes
    -----
    Noise is added to images, after its own inverse transform, and not to k-space. The transform is linear, so the sum
    is the same, and only of the noise is computed what the readers of raw files crop.
    """
    scan = draw(job)
    noise_free = torch.from_numpy(images()).to(device)
    single = torch.complex128 if device.type == "cuda" else torch.complex64  # on GPUs TF32 might be allowed
    coils = scan.coils.as_arrays(lambda array: torch.from_numpy(array).to(device, single))
    factor, sigma = scan.scales(noise_free, coils)
    for index, part in scan.coil_images(noise_free, coils):
        noise = torch.from_numpy(white_noise(scan.noise, (*part.shape[:-2], *scan.encoded))).to(device)
        noise = cropped(_centred_ifft(noise, scan.axes), scan.recon)
        kspace = fft2(factor * cropped(part, scan.recon) + sigma * noise)
        volume["kspace"][index] = (kspace.swapaxes(0, 1) if kspace.ndim == 4 else kspace).to(torch.complex64)
    for s in range(scan.n_slices):
        coil_images = ifft2(volume["kspace"][s].to(device))
        if calibrate is None:
            maps = _true_maps(coils, s, scan.recon).reshape(volume["sens_maps"][s].shape)
        else:
            maps = torch.from_numpy(_calibrated(coil_images, calibrate, job, s)).to(device)
        volume["sens_maps"][s] = maps.to(torch.complex64)
        volume["target"][s] = (maps.conj() * coil_images).sum(0).to(torch.complex64)


def _centred_ifft(kspace, axes):
    return torch.fft.fftshift(torch.fft.ifftn(torch.fft.ifftshift(kspace, axes), dim=axes, norm="ortho"), axes)


def _true_maps(coils, s, shape):
    """Sensitivities (coil, y, x) of slice `s` with sum_c |S_c|^2 = 1."""
    level = slice(s, s + 1)
    return cropped((coils.bare(slice(None), level) / coils.bare_rss[level])[:, 0], shape)


def _calibrated(coil_images, calibrate, job, s):
    try:
        return _maps(fft2c(coil_images).cpu().numpy(), calibrate)
    except ValueError as error:
        raise ValueError(f"{subject_name(job)}, slice {s}: {error}") from None
