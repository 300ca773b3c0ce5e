"""One phantom subject from its settings to its raw file: drawn, measured by coils with noise, written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from gleam.phantoms import acquire, write
from gleam.phantoms.scan import cropped, draw, streams
from gleam.physics.fourier import fftc, ifftc


def settings_text(job: dict) -> str:
    """The settings of a subject as the file states them; equal text means equal pixels."""
    return json.dumps(job["settings"], sort_keys=True)


def name(job: dict) -> str:
    """Name of the subject, as the readers of the file's format return it."""
    stem = Path(job["path"]).stem
    return f"phantom-{stem}" if job["settings"]["kind"] == "brain" else stem


def sizes(job: dict) -> tuple[int, ...]:
    """The numbers in a subject's row of the split list, in the order of its columns."""
    n_coils, (n_y, n_x), n_slices = streams(job)[3], job["settings"]["matrix"], job["settings"]["n_slices"]
    if job["settings"]["kind"] == "knee":
        return n_slices, n_y, n_x, n_coils
    if job["settings"]["kind"] == "heart":
        return n_slices, n_coils, job["settings"]["n_frames"], n_y, n_x
    return n_slices, n_coils, 2 * n_y, n_x, n_y, n_x


def write_subject(job: dict) -> str:
    """Draw, measure and write one subject; `job` is made by :mod:`.plan`. Returns the path of the file."""
    scan = draw(job)
    header = write.header_xml(
        **scan.header,
        n_coils=scan.n_coils,
        field_strength=scan.field_strength,
        protocol=scan.acquisition,
        settings=settings_text(job),
    )
    _write(scan, header, job)
    return job["path"]


def _measured(scan):
    """Yield (index, k-space with noise) in the order of :meth:`.scan.Scan.coil_images`: centred, the encoded matrix."""
    images = scan.images()
    factor, sigma = scan.scales(images, scan.coils)
    for index, part in scan.coil_images(images, scan.coils):
        part = part if factor == 1.0 else part * np.float32(factor)
        # zeros where the oversampled field of view reaches beyond the image
        sides = [((m - n + 1) // 2, (m - n) // 2) for n, m in zip(part.shape[-2:], scan.encoded, strict=True)]
        part = np.pad(part, [(0, 0)] * (part.ndim - 2) + sides) if np.any(sides) else part
        yield index, acquire.add_noise(scan.noise, fftc(part.astype(np.complex64, copy=False), scan.axes), sigma)


def _write(scan, header, job):
    path, kind, measured = job["path"], job["settings"]["kind"], _measured(scan)
    if kind == "knee":
        kspace = np.empty((scan.n_coils, scan.n_slices, *scan.encoded), np.complex64)
        for (_, coil), part in measured:  # coil by coil, of all slices
            kspace[coil] = part
        write.write_mridata(path, kspace, header)
    elif kind == "brain":
        kspace = np.stack([part for _, part in measured])
        rss = cropped(acquire.rss(np.moveaxis(ifftc(kspace, (2, 3)), 1, 0)), scan.recon)
        write.write_fastmri(path, kspace, rss, header, acquisition=scan.acquisition, patient_id=name(job))
    else:
        shape = scan.n_slices, scan.n_frames, scan.encoded[0]
        write.write_ocmr(path, (part for _, part in measured), shape, header, levels_mm=scan.levels)
