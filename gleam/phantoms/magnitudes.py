"""Raw files from magnitude images of real anatomy: simulated receive coils, phase and noise in fastMRI's layout.

Such a file is neither a phantom nor a measurement, and it says so: its acquisition is "real anatomy, simulated coils
and noise", and the system vendor in its ISMRMRD header is "GLEAM simulated coils".
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from gleam.datasets.volume import REAL_ANATOMY
from gleam.files import digest, is_whole_number, whole_number
from gleam.phantoms import acquire
from gleam.phantoms.scan import KNEE_FOV_MM, axis, cropped
from gleam.phantoms.write import header_xml, is_current, write_fastmri
from gleam.physics.fourier import fft2c, ifft2c

VENDOR = "GLEAM simulated coils"
VERSION = 1  # raise it when what is written changes: files of an older version are then written anew
EXPECTED = "magnitude images (subject, y, x), finite and not negative, as .npy"


def write(
    source: str | Path,
    out_dir: str | Path,
    *,
    matrix: tuple[int, int] | None = None,
    noise: float = 0.03,
    n_coils: int = 8,
    n_versions: int = 1,
    max_shift: int = 6,
    fov_mm: tuple[float, float] = KNEE_FOV_MM[1:],
    name: str = "subject",
    seed: int = 0,
    progress: bool = True,
) -> list[list[Path]]:
    """Write every image of `source` as raw files, once per version.

    Each version has its own coils, smooth phase and noise. Version 0 shows the image as it is, for validation and test.
    The other versions are training data: the image may be mirrored left to right, and it is shifted. All versions of a
    subject have the same patient id, so that no subject gets into two splits. A file depends only on the image, `seed`,
    subject and version; one that exists with the same settings is kept.

    Parameters
    ----------
    source : path
        `.npy` of magnitudes (subject, y, x), any unit. Their shading and noise count as anatomy.
    out_dir : path
        Folder for `<name>_01_v0.h5`, ...
    matrix : (int, int), optional
        (y, x) of k-space, at most that of the images: the centre of k-space is kept. Default: that of the images.
    noise : float
        Standard deviation per real channel of one coil over the 95th percentile of the magnitude, at `matrix`.
    n_coils : int
        Loops around the field of view; the root sum of squares of their sensitivities is 1 everywhere.
    n_versions : int
        Files per subject.
    max_shift : int
        Largest shift along y and x, in pixels of the image given; pixels that leave on one side enter on the other.
    fov_mm : (float, float)
        Field of view (y, x), by default that of mridata.org's 3D FSE knees.
    name : str
        Beginning of the names of files and of the patient ids.
    seed : int
        Of all random numbers.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    list of lists of Path
        The files of each subject, one per version.

    Raises
    ------
    FileNotFoundError
        If `source` does not exist.
    ValueError
        If `source` does not hold such images, one of them is empty, or an argument makes no sense.
    """
    images = _read(source)
    sides = list(matrix or images.shape[1:])
    fits = [is_whole_number(n, most=limit) for n, limit in zip(sides, images.shape[1:], strict=False)]
    if len(sides) != 2 or not all(fits):
        raise ValueError(
            f"matrix={matrix!r} must be two whole numbers, at most those of the images, {images.shape[1:]}"
        )
    for what, value, least in (("n_coils", n_coils, 1), ("n_versions", n_versions, 1), ("max_shift", max_shift, 0)):
        whole_number(value, what, least)
    if not 0 <= noise < math.inf:
        raise ValueError(f"noise={noise!r} must be a number of at least 0")
    size = [int(n) for n in sides]  # as JSON can hold it
    common = {"matrix": size, "noise": noise, "n_coils": n_coils, "max_shift": max_shift, "fov_mm": list(fov_mm)}
    paths = [
        [Path(out_dir) / f"{name}_{subject + 1:02d}_v{version}.h5" for version in range(n_versions)]
        for subject in range(len(images))
    ]
    with tqdm(total=len(images) * n_versions, desc="coils and noise", unit="file", disable=not progress) as bar:
        for subject, image in enumerate(images):
            for version, path in enumerate(paths[subject]):
                settings = {"code": VERSION, "seed": seed, "subject": subject, "version": version, **common}
                _write_one(path, image, settings, f"{name}-{subject + 1:02d}")
                bar.update()
    return paths


def _read(source):
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected {EXPECTED}")
    try:
        images = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); expected {EXPECTED}") from None
    if not isinstance(images, np.ndarray) or images.ndim != 3 or 0 in images.shape or images.dtype.kind not in "fiu":
        found = f"{images.dtype} {images.shape}" if isinstance(images, np.ndarray) else "an archive of arrays"
        raise ValueError(f"{path}: holds {found}; expected {EXPECTED}")
    images = images.astype(np.float32)
    for number, image in enumerate(images):
        if not np.isfinite(image).all() or image.min() < 0 or not image.any():
            raise ValueError(
                f"{path}: image {number} has NaN, infinite or negative pixels, or only zeros; expected {EXPECTED}"
            )
    return images


def _write_one(path, image, settings, patient_id):
    max_shift = settings["max_shift"]
    # numbers of their own, so that a change in one leaves the others as they are
    of_view, of_coils, of_phase, of_noise = (
        np.random.default_rng(s)
        for s in np.random.SeedSequence([settings[key] for key in ("seed", "subject", "version")]).spawn(4)
    )
    mirrored, shift = bool(of_view.integers(2)), of_view.integers(-max_shift, max_shift + 1, 2).tolist()
    if settings["version"] == 0:  # for validation and test: as it is
        mirrored, shift = False, [0, 0]
    settings = settings | {"mirrored": mirrored, "shift": shift, "image": digest(image.tobytes().hex())[:16]}
    header = _header(settings)
    if is_current(path, header):
        return
    image = np.roll(image[:, ::-1] if mirrored else image, shift, axis=(0, 1))
    grid = [np.zeros(1), *(axis(n, fov) for n, fov in zip(image.shape, settings["fov_mm"], strict=True))]
    maps = unit_maps(of_coils, settings["n_coils"], grid, settings["fov_mm"])
    kspace = fft2c(image * acquire.turned(acquire.Phase(of_phase)(grid)) * maps)
    # the centre of k-space: a smaller matrix is a lower resolution, not a smaller field of view
    kspace = np.ascontiguousarray(cropped(kspace, settings["matrix"]), np.complex64)
    sigma = settings["noise"] * float(np.percentile(acquire.rss(ifft2c(kspace)), 95))
    kspace = acquire.add_noise(of_noise, kspace, sigma)
    total = acquire.rss(ifft2c(kspace))
    write_fastmri(path, kspace[None], total[None], header, acquisition=REAL_ANATOMY, patient_id=patient_id)


def unit_maps(
    rng: np.random.Generator, n_coils: int, grid: Sequence[np.ndarray], fov_mm: Sequence[float]
) -> np.ndarray:
    """Sensitivities of loops around the field of view whose root sum of squares is 1 everywhere.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of the positions, sizes and phases of the loops.
    n_coils : int
        Number of loops.
    grid : three 1D arrays
        Positions (s, y, x) in mm; only the first along s is used.
    fov_mm : (float, float)
        Field of view (y, x) in mm.

    Returns
    -------
    array, shape (coil, y, x)
        complex64.
    """
    coils = acquire.Coils(rng, n_coils, grid, [0.6 * side for side in fov_mm], 60)
    maps: Any = coils.bare(slice(None))
    return (maps / coils.bare_rss)[:, 0]


def _header(settings):
    (n_y, n_x), (fov_y, fov_x) = settings["matrix"], settings["fov_mm"]
    size, fov = (n_y, n_x, 1), (fov_y, fov_x, 1.0)
    return header_xml(
        encoded=size, encoded_fov_mm=fov, recon=size, recon_fov_mm=fov, n_slices=1, n_coils=settings["n_coils"],
        field_strength=0, protocol=REAL_ANATOMY, settings=json.dumps(settings, sort_keys=True), vendor=VENDOR,
    )  # fmt: skip
