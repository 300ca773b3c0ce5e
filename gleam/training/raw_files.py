"""A raw file through the network of a run: read, calibrated, undersampled if it is not, reconstructed, and scored."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from gleam.datasets import formats
from gleam.datasets.prepare import prepare
from gleam.datasets.slices import Slices
from gleam.execution import checked_device
from gleam.physics import calibration, masks
from gleam.physics.batch import Batch
from gleam.physics.fourier import central, fftshift2, ifft2c, ifftshift2
from gleam.physics.sense import without_readout
from gleam.training import checkpoints
from gleam.training.evaluation import SCORES, reconstruct
from gleam.training.runs import find, load

# by the mask of the training: maps as the loaders of knees, brains and hearts make them
CALIBRATIONS: dict[str, dict[str, Any]] = {
    "poisson_disc": {"method": "jsense", "kernel_width": 8, "calibration_width": 20},
    "random_columns": {"method": "espirit", "kernel_width": 6, "calibration_width": 24},
    "kt_variable_density": {"method": "espirit", "kernel_width": 8, "calibration_width": 24},
}
METHODS = {"jsense": "JSENSE", "espirit": "ESPIRiT"}
PATTERNS = {"poisson_disc": "single points", "random_columns": "whole columns", "kt_variable_density": "whole rows"}
FAR = 1.5  # ratio of two accelerations from which on they are called different


@dataclass(frozen=True)
class Reconstructed:
    """The images of a raw file, in its units.

    Attributes
    ----------
    images, zero_filled : complex Tensor, shape (slice, [time,] y, x)
        By the network, and what it started from. A slice without signal is zero.
    target : Tensor or None
        The fully sampled images; None if the scan was undersampled.
    scores : DataFrame or None
        Rows "Zero-filled" and "Reconstruction": means over the slices with signal. None without target.
    acceleration : float
        R of the samples that were used.
    spacing : (float, float, float)
        mm between slices, rows and columns.
    source : dict
        What the file says: subject, acquisition, is_phantom; and n_coils.
    about : dict
        What the run says of its network and training.
    warnings : list of str
        In what the scan is unlike the training.
    maps : str
        How the sensitivity maps were estimated.
    notes : list of str
        What its reader says of the file, such as axes that were exchanged.
    """

    images: Tensor
    zero_filled: Tensor
    target: Tensor | None
    scores: pd.DataFrame | None
    acceleration: float
    spacing: tuple[float, float, float]
    source: dict[str, Any]
    about: dict[str, Any]
    warnings: list[str]
    maps: str
    notes: list[str]


def reconstruct_file(
    run: str | Path,
    path: str | Path,
    *,
    acceleration: float | None = None,
    slices: tuple[int | None, int | None] = (None, None),
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> Reconstructed:
    """Reconstruct a raw file of any known format with the network of a run.

    A fully sampled file is undersampled by one mask like those of the training, and scored. One that was undersampled
    at the scanner is reconstructed as it is.

    Parameters
    ----------
    run : path
        As in :func:`gleam.load`.
    path : path
        The raw file (:mod:`gleam.datasets.formats`).
    acceleration : float, optional
        R for a fully sampled file; default: that of the training.
    slices : (int, int)
        The first slice, and the one after the last; None: from the first, to the last.
    seed : int
        Of the mask.
    device : str or device
        Where to reconstruct.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    Reconstructed

    Raises
    ------
    ValueError, OSError
        If the run or the file cannot be read, or if they do not go together.

    Notes
    -----
    Sensitivity maps are estimated as for the training, from the centre of k-space: of a fully sampled file all of it,
    as in the book, else as much as was measured. The phase of an image depends on them, and a network knows only the
    phases of its training. Where the run does not say how its maps were made, or they cannot be made so here, the image
    is left nearly without phase: by JSENSE, or by maps of ESPIRiT that take in the phase of the centre of k-space.
    """
    device, file = checked_device(device), find(run)
    network = load(file).to(device)
    about = {"run": file.parent.name} | checkpoints.load_words(file)[1]
    name = _checked(about, file, path)
    settings, maps = _calibration(about["train"], name)
    calibrate = partial(maps_of_centre, **settings)
    read = partial(formats.read_measured, slices=slices)
    with tempfile.TemporaryDirectory(prefix="gleam-") as folder:
        (prepared,) = prepare([path], read=read, calibrate=calibrate, cache_dir=folder, n_jobs=1, progress=False)
        with h5py.File(prepared) as scan:
            left_out = [int(n) for n in scan.attrs.get("left_out", ())]
            mask, measured = _mask(scan, about["train"]["mask"], acceleration, seed, path)  # one, or one per slice
            numbers = tqdm(range(len(scan["kspace"])), "reconstructing", unit="slice", disable=not progress)
            found = [_one_slice(network, scan, s, mask[s % len(mask)], device) for s in numbers]
            spacing: Any = tuple(map(float, scan.attrs["spacing"]))
            source = {key: scan.attrs[key] for key in ("subject", "acquisition", "is_phantom")}
            source["n_coils"] = scan["kspace"].shape[1]
            notes = [str(note) for note in scan.attrs.get("notes", ())]
            is_full = "mask" not in scan
    images, zero_filled, target = (torch.stack(one) for one in zip(*found, strict=True))
    scores = _scores({"Zero-filled": zero_filled, "Reconstruction": images}, target) if is_full else None
    achieved = float(masks.achieved_acceleration(measured, tuple(range(measured.ndim))))
    return Reconstructed(
        images=_with_empty(images, left_out),
        zero_filled=_with_empty(zero_filled, left_out),
        target=_with_empty(target, left_out) if is_full else None,
        scores=scores,
        acceleration=achieved,
        spacing=spacing,
        source=source,
        about=about,
        warnings=_warnings(name, about, source, achieved, mask, left_out),
        maps=maps,
        notes=notes,
    )


def maps_of_centre(
    kspace: np.ndarray, *, method: str, kernel_width: int, calibration_width: int, phase: bool = False, **settings: Any
) -> np.ndarray:
    """Sensitivity maps (coil, y, x) from as much of the centre of centred k-space as was measured.

    Parameters
    ----------
    kspace : complex array, shape (coil, y, x)
    method : "jsense" or "espirit"
        Function of :mod:`gleam.calibration`.
    kernel_width, calibration_width : int
        As there, the second at most.
    phase : bool
        Whether the maps take in the phase of the image that the centre of k-space shows.
    settings
        Further arguments of the function.
    """
    measured: Any = kspace.any(axis=0)
    width = min(calibration_width, *measured.shape)
    while width > 1 and not measured[central(measured.shape, width)].all():
        width -= 1
    make: Any = getattr(calibration, method)
    maps = make(kspace, kernel_width=min(kernel_width, width), calibration_width=width, **settings)
    if not phase:
        return maps
    window = np.zeros(measured.shape)
    # a Hann window without its zeros at the ends: its image of low resolution has no ringing
    window[central(window.shape, width)] = np.outer(*[np.hanning(width + 2)[1:-1]] * 2)
    image = np.sum(np.conj(maps) * ifft2c(kspace * window), axis=0)
    return maps * np.exp(1j * np.angle(image)).astype(np.complex64)


def _calibration(train, name):
    """Settings of :func:`maps_of_centre` for maps like those of the training, and what they are in words."""
    told = train.get("sens_maps")
    module, _, method = told["function"].rpartition(".") if isinstance(told, dict) else ("", "", "")
    if module in ("gleam.calibration", calibration.__name__) and not told.get("positional"):
        return {"method": method} | told["arguments"], f"{METHODS[method]}, as in the training"
    settings = CALIBRATIONS.get(name, CALIBRATIONS["random_columns"])
    why = "those of the training were made otherwise" if told else "the run does not say how those of its training were"
    if settings["method"] == "jsense":
        return settings, f"JSENSE, which leaves the image nearly without phase; {why}"
    return settings | {"phase": True}, f"ESPIRiT with the phase of the image in them; {why}"


def _checked(about, file, path):
    """Name of the training's masks; ValueError if the run does not say, or if the file is of another kind."""
    train = about.get("train") or {}
    if "mask" not in train:
        raise ValueError(
            f"{file} does not say what it was trained on; expected a run of this version or archived weights"
        )
    of_series, is_series = "coil_time_y_x" in train, formats.is_series(path)
    if of_series != is_series:
        kinds = {True: "series over time", False: "single images"}
        raise ValueError(f"{path}: holds {kinds[is_series]}, and the network of {file} reconstructs {kinds[of_series]}")
    return train["mask"]["function"].rpartition(".")[2]


def _mask(scan, trained, acceleration, seed, path):
    """Masks (n, [time,] y, x) in FFT order, one per slice or for all, and the centred ones without padding around."""
    if "mask" in scan:
        if acceleration is not None:
            raise ValueError(f"{path}: was undersampled at the scanner, so no other acceleration can be chosen for it")
        whole = scan["mask"][:]
        return without_readout(ifftshift2(whole)), whole
    module, _, name = trained["function"].rpartition(".")
    if module not in ("gleam.masks", masks.__name__) or trained.get("positional"):
        raise ValueError(
            f"{path}: is fully sampled, and the masks of the training, {trained['function']}, are not here"
        )
    arguments = trained["arguments"] | ({} if acceleration is None else {"acceleration": acceleration})
    make = partial(getattr(masks, name), **arguments)
    y0, y1, x0, x1 = measured = tuple(map(int, scan.attrs["measured"]))
    size = scan["target"].shape[1:]
    drawn = Slices("the file", (), make, seed=seed).masks(size, 1, measured)
    return drawn, fftshift2(np.broadcast_to(drawn, (1, *size)))[..., y0:y1, x0:x1]


def _one_slice(network: nn.Module, scan: Any, s: int, mask: np.ndarray, device: torch.device) -> Sequence[Tensor]:
    """Image, zero-filled image and target of a slice, in the units of the file."""
    arrays = scan["kspace"][s], mask[None], scan["sens_maps"][s], scan["target"][s]
    batch = Batch.undersample(*(torch.from_numpy(array)[None] for array in arrays)).to(device)
    found = reconstruct(network, batch), batch.zero_filled, batch.target
    return [(image[0] * batch.scale).cpu() for image in found]


def _scores(images, target):
    table = {
        name: {score: float(function(image, target).mean()) for score, function in SCORES.items()}
        for name, image in images.items()
    }
    return pd.DataFrame.from_dict(table, orient="index")


def _with_empty(images, left_out):
    """The images with zeros at the numbers of slices that were left out."""
    whole = torch.zeros((len(images) + len(left_out), *images.shape[1:]), dtype=images.dtype)
    whole[[s for s in range(len(whole)) if s not in left_out]] = images
    return whole


def _warnings(name, about, source, achieved, mask, left_out):
    train, said = about["train"], []
    trained = train["mask"]["arguments"].get("acceleration")
    # an axis of length 1 is the readout (gleam.physics.sense)
    found = "whole columns" if mask.shape[-2] == 1 else "whole rows" if mask.shape[-1] == 1 else "single points"
    if source["acquisition"] != train["acquisition"]:
        said.append(f"the file says {source['acquisition']!r}, and the network was trained on {train['acquisition']!r}")
    if trained and not 1 / FAR < achieved / trained < FAR:
        said.append(
            f"R = {achieved:.1f} is far from the R = {trained:g} of the training; the network was not made for it"
        )
    if found != PATTERNS.get(name, found):
        said.append(f"measured are {found}, and the network was trained on {PATTERNS[name]}: it was not made for this")
    if left_out:
        said.append(f"no sensitivity map is left of slice {', '.join(map(str, left_out))}: zero in the output")
    return said
