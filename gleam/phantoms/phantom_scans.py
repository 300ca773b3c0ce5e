"""Phantoms as the scans of a split: drawn by processes and measured straight into memory."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from gleam.datasets.prepare import coil_maps
from gleam.datasets.resident import Memory
from gleam.datasets.scans import Scans, Storage
from gleam.files import described
from gleam.phantoms.acquire import white_noise
from gleam.phantoms.generate import n_worthwhile
from gleam.phantoms.scan import BRAIN_FOV_MM, KNEE_FOV_MM, SCANS, cropped, draw
from gleam.phantoms.subject import name as subject_name
from gleam.phantoms.subject import sizes
from gleam.physics.fourier import fft2, fft2c, ifft2
from gleam.processes.pool import in_processes

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
        found = []
        for job in self.jobs:
            settings, kind = job["settings"], job["settings"]["kind"]
            n_coils = sizes(job)[3 if kind == "knee" else 1]
            frames = [settings["n_frames"]] if kind == "heart" else []
            found.append((settings["n_slices"], n_coils, *frames, *settings["matrix"]))
        return found

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
        with ThreadPoolExecutor(n_threads) as threads:
            measured: deque[Future] = deque()
            for i, images in _drawn(self.jobs, self.n_jobs):
                measured.append(threads.submit(measure, self.jobs[i], images, volumes[i], self.device, self.calibrate))
                # no more subjects are held than are measured at a time
                while len(measured) > n_threads or (measured and measured[0].done()):
                    yield measured.popleft().result()
            while measured:
                yield measured.popleft().result()

    def storage(self) -> Storage:
        """The memory of `device`, drawn when it is first needed."""
        return Memory("phantoms", self, self.device)


def _drawn(jobs, n_jobs):
    """Yield (number, images) of each subject as it is drawn, in processes if worthwhile."""
    n_processes = n_worthwhile(jobs, n_jobs)
    cut = []  # (first, last + 1) slices of the parts that one process draws at a time
    for settings in (job["settings"] for job in jobs):
        n_all = settings["n_slices"]
        n = max(1, VOXELS_PER_TASK // (math.prod(settings["matrix"]) * settings.get("n_frames", 1)))
        n = n if n_processes > 1 else n_all
        cut.append([(start, min(start + n, n_all)) for start in range(0, n_all, n)])
    parts = {(i, k): (json.dumps(job), *part) for i, job in enumerate(jobs) for k, part in enumerate(cut[i])}
    drawn = [[None] * len(own) for own in cut]
    for (i, k), part in in_processes(_draw, parts, n_processes, work="drawing phantoms"):
        drawn[i][k] = part.result()
        if all(one is not None for one in drawn[i]):
            images, drawn[i] = np.concatenate(drawn[i]), []  # without holding the parts
            yield i, images


def _draw(part):
    job, start, stop = part
    return _scan(job).images(start, stop)


@lru_cache(maxsize=2)
def _scan(job):
    return draw(json.loads(job))


def measure(
    job: dict,
    images: np.ndarray,
    volume: dict[str, Tensor],
    device: torch.device,
    calibrate: Callable[[np.ndarray], np.ndarray] | None = None,
) -> None:
    """Measure one subject.

    Parameters
    ----------
    job : dict
        The subject, from :func:`gleam.phantoms.generate.planned`.
    images : array
        The noise-free images of the subject (:meth:`gleam.phantoms.scan.Scan.images`).
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
    scan = draw(job)  # anew: its noise begins where a measurement begins
    noise_free = torch.from_numpy(images).to(device)
    single = torch.complex128 if device.type == "cuda" else torch.complex64  # on GPUs TF32 might be allowed
    coils = scan.coils.as_arrays(lambda array: torch.from_numpy(array).to(device, single))
    factor, sigma = scan.scales(noise_free, coils)
    for index, part in scan.coil_images(noise_free, coils):
        noise = torch.from_numpy(white_noise(scan.noise, (*part.shape[:-2], *scan.encoded))).to(device)
        noise = torch.fft.ifftn(torch.fft.ifftshift(noise, scan.axes), dim=scan.axes, norm="ortho")
        noise = cropped(torch.fft.fftshift(noise, scan.axes), scan.recon)
        kspace = fft2(factor * cropped(part, scan.recon) + sigma * noise)
        volume["kspace"][index] = (kspace.swapaxes(0, 1) if kspace.ndim == 4 else kspace).to(torch.complex64)
    for s in range(scan.n_slices):
        coil_images = ifft2(volume["kspace"][s].to(device))
        if calibrate is None:  # the coils' own, with sum_c |S_c|^2 = 1
            bare: Any = coils.bare(slice(None), slice(s, s + 1))
            maps = cropped((bare / coils.bare_rss[s : s + 1])[:, 0], scan.recon).reshape(volume["sens_maps"][s].shape)
        else:
            maps = torch.from_numpy(_calibrated(coil_images, calibrate, job, s)).to(device)
        volume["sens_maps"][s] = maps.to(torch.complex64)
        volume["target"][s] = (maps.conj() * coil_images).sum(0).to(torch.complex64)


def _calibrated(coil_images, calibrate, job, s):
    try:
        return coil_maps(fft2c(coil_images).cpu().numpy(), calibrate)
    except ValueError as error:
        raise ValueError(f"{subject_name(job)}, slice {s}: {error}") from None
