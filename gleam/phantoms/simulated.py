"""Phantoms straight into memory: the subjects of :mod:`gleam.phantoms` without raw and prepared files.

The anatomy, coils, noise and splits are those that the raw files hold, so the k-space samples are the same to
rounding. Files of the paper's sizes take more than 100 GB of disk and hours of calibration; this takes neither.
"""

import contextlib
import json
import math
import multiprocessing
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from gleam import phantoms
from gleam.datasets.prepare import _maps, _one_thread_each
from gleam.datasets.resident import Resident, hold
from gleam.datasets.slices import Split
from gleam.datasets.splits import SPLITS
from gleam.execution import numbered_device
from gleam.files import described, digest, end_with_parent, n_cores
from gleam.phantoms.acquire import white_noise
from gleam.phantoms.brain_anatomy import check_tissue_maps
from gleam.phantoms.generate import n_worthwhile, planned
from gleam.phantoms.scan import BRAIN_FOV_MM, KNEE_FOV_MM, SCANS, cropped, draw
from gleam.phantoms.subject import name as subject_name
from gleam.phantoms.subject import sizes
from gleam.physics import masks
from gleam.physics.fourier import fft2, fft2c, ifft2

TRUE_MAPS = "the phantom's own coil sensitivities, normalised"
VOXELS_PER_TASK = 1_500_000  # drawn at once by a process: a second's work, and 12 MB to hand over
N_THREADS = 4  # subjects measured at the same time on a GPU: drawing the noise takes longest, on one core


def knees(
    *, acceleration, n_calibration=20, n_masks=128, mask_seed=0, calibrate=None, device="cpu", n_jobs=None,
    cache_dir=None, **subjects,
):  # fmt: skip
    """Knee phantoms in memory: (train, val, test), each a :class:`gleam.datasets.Resident` on ``device``.

    ``subjects``: the arguments of :func:`gleam.phantoms.knee` but ``out_dir`` and ``n_jobs``: n_train, n_val,
    n_test, n_slices, matrix, n_coils, noise, seed. ``acceleration``, ``n_calibration``, ``n_masks`` and ``cache_dir``
    (None: banks of masks are kept in memory) as in :func:`gleam.datasets.knees`; ``mask_seed`` is its ``seed``.

    ``calibrate``: centred k-space (coil, y, x) to sensitivity maps, as for :func:`gleam.datasets.prepare.prepare`; it
    runs slice by slice in this process. None: no calibration, the maps are the phantom's own sensitivities divided by
    their root sum of squares. ``n_jobs``: processes that draw, default one per core; a script that calls this needs
    ``if __name__ == "__main__":``.

    A split of no subjects is empty. Raises ValueError, with a sentence, on a bad argument, if the memory of the device
    and its host cannot hold the data, or if ``calibrate`` leaves no map of a slice.
    """
    make_mask = partial(masks.poisson_disc, acceleration=acceleration, n_calibration=n_calibration)
    return _splits(phantoms.knee, subjects, make_mask, n_masks, mask_seed, calibrate, device, n_jobs, cache_dir)


def brains(
    *, acceleration, center_fraction=0.04, n_masks=128, mask_seed=0, calibrate=None, device="cpu", n_jobs=None,
    cache_dir=None, **subjects,
):  # fmt: skip
    """Brain phantoms in memory, as :func:`knees`: ``subjects`` are those of :func:`gleam.phantoms.brain`, the
    masks those of :func:`gleam.datasets.brains`. Raises ModuleNotFoundError, at once, without nilearn's tissue maps.
    """
    check_tissue_maps()
    make_mask = partial(masks.random_columns, acceleration=acceleration, center_fraction=center_fraction)
    return _splits(phantoms.brain, subjects, make_mask, n_masks, mask_seed, calibrate, device, n_jobs, cache_dir)


def hearts(
    *, acceleration, n_center=4, n_masks=128, mask_seed=0, calibrate=None, device="cpu", n_jobs=None, cache_dir=None,
    **subjects,
):  # fmt: skip
    """Series of beating hearts in memory, as :func:`knees`: ``subjects`` are those of
    :func:`gleam.phantoms.heart`, the masks those of :func:`gleam.datasets.hearts`.
    """
    make_mask = partial(masks.kt_variable_density, acceleration=acceleration, n_center=n_center)
    return _splits(phantoms.heart, subjects, make_mask, n_masks, mask_seed, calibrate, device, n_jobs, cache_dir)


def _splits(write, subjects, make_mask, n_masks, mask_seed, calibrate, device, n_jobs, cache_dir):
    device, jobs = numbered_device(device), planned(write, **subjects)
    everything = Phantoms(
        f"{write.__name__} phantoms", jobs, make_mask=make_mask, n_masks=n_masks, seed=mask_seed, cache_dir=cache_dir,
        calibrate=calibrate, device=device, n_jobs=n_cores() if n_jobs is None else n_jobs,
    )  # fmt: skip
    for size in {shape[2:] for shape in everything.shapes}:
        make_mask(size, seed=0)  # raises before anything is drawn
    volumes, splits = iter(hold(everything, device)), []
    for i, split in enumerate(SPLITS):
        own = [job for job in jobs if job["split"] == split]
        slices = replace(everything, name=split, jobs=own, seed=3 * mask_seed + i)
        splits.append(Resident(slices, device, volumes=[next(volumes) for _ in own]))
    return tuple(splits)


@dataclass(eq=False, repr=False)
class Phantoms(Split):
    """What is known about the subjects ``jobs`` (:func:`.phantoms.generate.planned`) before they are drawn.

    Like :class:`gleam.datasets.Slices`, but it can only :meth:`fill` a :class:`gleam.datasets.Resident`.
    """

    name: str
    jobs: list
    _: KW_ONLY
    make_mask: Callable
    n_masks: int
    seed: int
    cache_dir: str | Path | None
    calibrate: Callable | None
    device: torch.device
    n_jobs: int
    is_phantom: ClassVar = True
    n_left_out: ClassVar = 0

    @cached_property
    def shapes(self):
        """(slice, coil, [time,] y, x) of each subject."""
        return [_shape(job) for job in self.jobs]

    @cached_property
    def subjects(self):
        """Name of each subject."""
        return [subject_name(job) for job in self.jobs]

    @property
    def acquisition(self):
        """Kind of scan."""
        return SCANS[self.jobs[0]["settings"]["kind"]].acquisition if self.jobs else ""

    @property
    def aspect(self):
        """Height over width of a pixel."""
        if not self.jobs:
            return 1.0
        (n_y, n_x), kind = self.jobs[0]["settings"]["matrix"], self.jobs[0]["settings"]["kind"]
        fov = {"knee": KNEE_FOV_MM[1:], "brain": BRAIN_FOV_MM, "heart": (n_y, n_x)}[kind]
        return (fov[0] / n_y) / (fov[1] / n_x)

    @cached_property
    def fingerprint(self):
        """Identity of the data and masks."""
        settings = [job["settings"] for job in self.jobs]
        return digest([settings, self._maps_are, described(self.make_mask), self.n_masks, self.seed])[:16]

    @property
    def _maps_are(self):
        return TRUE_MAPS if self.calibrate is None else described(self.calibrate)

    def describe(self):
        """As that of other splits; it also says that there were no raw files, and what the maps are."""
        source = "simulated straight into memory, without raw files"
        return super().describe() | {"source": source, "sens_maps": self._maps_are}

    def fill(self, volumes):
        """Draw and measure all subjects into ``volumes`` (see :func:`.resident.hold`); yields as they are done."""
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


def measure(job, images, volume, device, calibrate=None):
    """Measure one subject into ``volume``, computing on ``device``.

    ``images``: a function that returns the noise-free images of the subject (see :meth:`.scan.Scan.images`);
    ``volume``: a dictionary of tensors ``kspace`` (slice, coil, [time,] y, x), ``sens_maps`` and ``target``, wherever
    they lie. Noise is added to images and not to k-space, to which it is brought first: the transform is linear, and
    what the readers of raw files crop need not be computed but for the noise.
    """
    scan = draw(job)
    images = torch.from_numpy(images()).to(device)
    single = torch.complex128 if device.type == "cuda" else torch.complex64  # on GPUs TF32 might be allowed
    coils = scan.coils.as_arrays(lambda array: torch.from_numpy(array).to(device, single))
    factor, sigma = scan.scales(images, coils)
    for index, part in scan.coil_images(images, coils):
        noise = white_noise(scan.noise, (*part.shape[:-2], *scan.encoded))
        noise = cropped(_centred_ifft(torch.from_numpy(noise).to(device), scan.axes), scan.recon)
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
    """Sensitivities (coil, y, x) of slice ``s`` with sum_c |S_c|^2 = 1."""
    level = slice(s, s + 1)
    return cropped((coils.bare(slice(None), level) / coils.bare_rss[level])[:, 0], shape)


def _calibrated(coil_images, calibrate, job, s):
    try:
        return _maps(fft2c(coil_images).cpu().numpy(), calibrate)
    except ValueError as error:
        raise ValueError(f"{subject_name(job)}, slice {s}: {error}") from None
