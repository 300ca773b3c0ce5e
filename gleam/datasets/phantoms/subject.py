"""One phantom subject from its settings to its file: anatomy, phase, coils, noise, format."""

import json
from pathlib import Path

import numpy as np

from gleam.datasets.phantoms import acquire, write
from gleam.datasets.phantoms.brain_anatomy import Brain
from gleam.datasets.phantoms.heart_anatomy import THICKNESS_MM, Heart
from gleam.datasets.phantoms.heart_motion import Breathing, breathe
from gleam.datasets.phantoms.knee_anatomy import Knee
from gleam.fourier import fftc, ifftc

KNEE_FOV_MM = (120.0, 160.0, 153.6)
KNEE_CENTRE_MM = 5.0
BRAIN_FOV_MM = (224.0, 224.0)
BRAIN_LEVELS_MM = (-14.0, 62.0)
BRAIN_SPACING_MM = 5.5
BRAIN_RSS_SCALE = 4e-4  # raw fastMRI files have images of this order
FIELD_STRENGTH_T = 2.8936
HEART_FIELD_STRENGTHS_T = (1.494, 2.8936)
BLOOD_PHASE = 0.35  # radians: what fast flow adds to the phase of blood
N_STILLS = 5  # the chest drifts by less than a millimetre in a fifth of a series
SLAB = 16  # slices drawn at once: bounds the memory of a full-size volume


def settings_text(job):
    """What the file says about how it was made; equal text means equal pixels."""
    return json.dumps(job["settings"], sort_keys=True)


def streams(job):
    """Independent generators for anatomy, acquisition and noise, and the number of coils and noise level drawn."""
    anatomy, acquisition, noise = (
        np.random.default_rng(s) for s in np.random.SeedSequence(job["settings"]["subject"]).spawn(3)
    )
    low, high = job["settings"]["n_coils"]
    n_coils = int(acquisition.integers(low, high + 1))
    return anatomy, acquisition, noise, n_coils, float(acquisition.uniform(*job["settings"]["noise"]))


def sizes(job):
    """The numbers of a subject's row in the split list, in the order of its columns."""
    n_coils, (n_y, n_x), n_slices = streams(job)[3], job["settings"]["matrix"], job["settings"]["n_slices"]
    if job["settings"]["kind"] == "knee":
        return n_slices, n_y, n_x, n_coils
    if job["settings"]["kind"] == "heart":
        return n_slices, n_coils, job["settings"]["n_frames"], n_y, n_x
    return n_slices, n_coils, 2 * n_y, n_x, n_y, n_x


def axis(n, fov_mm, centre=0.0):
    """Positions in mm of ``n`` pixels; index n // 2 lies at ``centre``."""
    return centre + (np.arange(n) - n // 2) * (fov_mm / n)


def _coil_images(anatomy, rng, grid, n_coils, radii, half_length):
    """Noise-free coil images (coil, slice, y, x), and their combined 95th percentile, to which the noise is held."""
    n_slices = len(grid[0])
    starts = range(0, n_slices, SLAB)
    magnitude = np.concatenate([anatomy.image((grid[0][i : i + SLAB], *grid[1:])) for i in starts])
    image = magnitude * np.exp(1j * acquire.smooth_phase(rng, grid)).astype(np.complex64)
    coils = acquire.biot_savart_maps(rng, n_coils, grid, radii, half_length)
    coils *= image
    return coils, float(np.percentile(acquire.rss(coils), 95))


def write_subject(job):
    """Draw, measure and write one subject; ``job`` as made by :mod:`.generate`. Returns the file's path."""
    anatomy, acquisition, noise, n_coils, level = streams(job)
    make = {"knee": _write_knee, "brain": _write_brain, "heart": _write_heart}[job["settings"]["kind"]]
    make(job, anatomy, acquisition, noise, n_coils, level)
    return job["path"]


def _write_knee(job, anatomy, acquisition, noise, n_coils, level):
    shape = (job["settings"]["n_slices"], *job["settings"]["matrix"])
    grid = [axis(n, fov, c) for n, fov, c in zip(shape, KNEE_FOV_MM, (KNEE_CENTRE_MM, 0, 0), strict=True)]
    kspace, scale = _coil_images(Knee(anatomy), acquisition, grid, n_coils, (94, 90), 60)
    for coil in range(n_coils):
        kspace[coil] = fftc(kspace[coil], (0, 1, 2))
    acquire.add_noise(noise, kspace, level * scale)
    spaces = {"encoded": shape, "encoded_fov_mm": KNEE_FOV_MM, "recon": shape, "recon_fov_mm": KNEE_FOV_MM}
    header = write.header_xml(
        **spaces,
        n_slices=1,
        n_coils=n_coils,
        field_strength=FIELD_STRENGTH_T,
        protocol="3D FSE",
        settings=settings_text(job),
    )
    write.write_mridata(job["path"], kspace, header)


def _write_brain(job, anatomy, acquisition, noise, n_coils, level):
    n_slices, (n_y, n_x) = job["settings"]["n_slices"], job["settings"]["matrix"]
    low, high = BRAIN_LEVELS_MM
    spacing = min(BRAIN_SPACING_MM, (high - low) / n_slices) * acquisition.uniform(0.92, 1.0)
    levels = acquisition.uniform(low, high - spacing * (n_slices - 1)) + spacing * np.arange(n_slices)
    grid = [levels, *(axis(n, fov) for n, fov in zip((n_y, n_x), BRAIN_FOV_MM, strict=True))]
    coils, scale = _coil_images(Brain(anatomy), acquisition, grid, n_coils, (128, 118), 60)
    coils *= BRAIN_RSS_SCALE / scale
    n_pad = n_y // 2
    padded = np.pad(coils.swapaxes(0, 1), ((0, 0), (0, 0), (n_pad, n_y - n_pad), (0, 0)))
    kspace = acquire.add_noise(noise, fftc(padded, (2, 3)), level * BRAIN_RSS_SCALE)
    rss = acquire.rss(np.moveaxis(ifftc(kspace, (2, 3)), 1, 0))[:, n_pad : n_pad + n_y]
    fov = (*BRAIN_FOV_MM, spacing)
    header = write.header_xml(
        encoded=(2 * n_y, n_x, 1),
        encoded_fov_mm=(2 * fov[0], *fov[1:]),
        recon=(n_y, n_x, 1),
        recon_fov_mm=fov,
        n_slices=n_slices,
        n_coils=n_coils,
        field_strength=FIELD_STRENGTH_T,
        protocol="AXT2",
        settings=settings_text(job),
    )
    patient = f"phantom-{Path(job['path']).stem}"
    write.write_fastmri(job["path"], kspace, rss, header, acquisition="AXT2", patient_id=patient)


def _write_heart(job, anatomy, acquisition, noise, n_coils, level):
    n_slices, n_frames, matrix = (job["settings"][name] for name in ("n_slices", "n_frames", "matrix"))
    heart = Heart(anatomy)
    levels, spacing = heart.ventricles.levels(n_slices)
    thickness = min(THICKNESS_MM, spacing) if n_slices > 1 else THICKNESS_MM
    fov = heart.field_of_view(matrix)
    n_y, n_x = matrix
    grid = [levels, axis(n_y, fov[0]), axis(2 * n_x, 2 * fov[1])]  # the readout is oversampled twofold
    images = _heart_series(heart, Breathing(anatomy, n_slices), acquisition, grid, n_frames, thickness)
    middle = (levels - levels.mean(), grid[1], grid[2] - heart.chest.centre_x)
    radii = heart.chest.half_y + 45, heart.chest.half_x + 45
    coils = np.moveaxis(acquire.biot_savart_maps(acquisition, n_coils, middle, radii, 70), 1, 0)
    scale = _combined_percentile(images, coils, np.s_[n_x - n_x // 2 : n_x + (n_x + 1) // 2])
    series = (
        acquire.add_noise(noise, fftc(image[:, None] * maps, (2, 3)), level * scale)
        for image, maps in zip(images, coils, strict=True)
    )
    header = write.header_xml(
        encoded=(2 * n_x, n_y, 1),
        encoded_fov_mm=(2 * fov[1], fov[0], thickness),
        recon=(n_x, n_y, 1),
        recon_fov_mm=(fov[1], fov[0], thickness),
        n_slices=n_slices,
        n_coils=n_coils,
        field_strength=float(acquisition.choice(HEART_FIELD_STRENGTHS_T)),
        protocol="cine_bSSFP_sax",
        settings=settings_text(job),
        n_frames=n_frames,
        sequence={"TR": f"{heart.cycle.rr_ms / n_frames:.2f}", "TE": 1.4, "TI": 0, "flipAngle_deg": 50,
                  "sequence_type": "bSSFP", "echo_spacing": 2.8},
    )  # fmt: skip
    write.write_ocmr(job["path"], series, (n_slices, n_frames, n_y), header, levels_mm=levels)


def _heart_series(heart, breathing, rng, grid, n_frames, thickness):
    """Complex images (slice, frame, y, x): the beating heart, banding, background phase, phase of moving blood."""
    n_slices = len(grid[0])
    images = np.empty((n_slices, n_frames, len(grid[1]), len(grid[2])), np.complex64)
    centred = (grid[0] - grid[0].mean(), *grid[1:])
    steady = acquire.banding(rng, centred) * np.exp(1j * acquire.smooth_phase(rng, centred))
    in_blood = acquire.smooth_phase(rng, centred)
    in_blood -= in_blood.mean()
    for s in range(n_slices):
        here = [grid[0][s : s + 1], *grid[1:]]
        stills = [heart.still(breathe(here, breathing.shift(s, k / N_STILLS))) for k in range(N_STILLS + 1)]
        for n in range(n_frames):
            t = n / n_frames
            k, rest = divmod(t * N_STILLS, 1)
            still = (1 - rest) * stills[int(k)] + rest * stills[int(k) + 1]
            magnitude, blood = heart.image(breathe(here, breathing.shift(s, t)), t, thickness, still)
            moving = BLOOD_PHASE * heart.cycle.flow(t) * np.clip(in_blood[s], -1, 1) * blood[0]
            images[s, n] = magnitude[0] * steady[s] * np.exp(1j * moving)
    return images


def _combined_percentile(images, coils, columns):
    """The 95th percentile of the root-sum-of-squares image inside the recon's columns."""
    sensitivity = np.stack([acquire.rss(maps) for maps in coils])[:, None, :, columns]
    return float(np.percentile(np.abs(images[..., columns]) * sensitivity, 95))
