"""Writers of the raw formats: ISMRMRD as on mridata.org and as OCMR's cine, and fastMRI's multicoil HDF5.

Each file has a real ISMRMRD XML header. Its system vendor is "GLEAM phantom", so that no phantom is taken for a person.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from gleam.datasets import hdf5
from gleam.datasets.headers import PHANTOM_VENDOR, PROTON_HZ_PER_TESLA

LINES_PER_BLOCK = 4096
LAST_IN_MEASUREMENT = 1 << 24  # flag 25: the format counts from 1

COUNTERS = [
    (name, "<u2")
    for name in (
        "kspace_encode_step_1",
        "kspace_encode_step_2",
        "average",
        "slice",
        "contrast",
        "phase",
        "repetition",
        "set",
        "segment",
    )
] + [("user", "<u2", (8,))]
# AcquisitionHeader of ISMRMRD, version 1
HEAD = np.dtype([
    ("version", "<u2"), ("flags", "<u8"), ("measurement_uid", "<u4"), ("scan_counter", "<u4"),
    ("acquisition_time_stamp", "<u4"), ("physiology_time_stamp", "<u4", (3,)), ("number_of_samples", "<u2"),
    ("available_channels", "<u2"), ("active_channels", "<u2"), ("channel_mask", "<u8", (16,)), ("discard_pre", "<u2"),
    ("discard_post", "<u2"), ("center_sample", "<u2"), ("encoding_space_ref", "<u2"), ("trajectory_dimensions", "<u2"),
    ("sample_time_us", "<f4"), ("position", "<f4", (3,)), ("read_dir", "<f4", (3,)), ("phase_dir", "<f4", (3,)),
    ("slice_dir", "<f4", (3,)), ("patient_table_position", "<f4", (3,)), ("idx", COUNTERS), ("user_int", "<i4", (8,)),
    ("user_float", "<f4", (8,))])  # fmt: skip
FLOATS = h5py.vlen_dtype(np.dtype("<f4"))
LINE = np.dtype([("head", HEAD), ("traj", FLOATS), ("data", FLOATS)])


def _element(name, content):
    if isinstance(content, dict):
        content = "".join(_element(key, value) for key, value in content.items())
    elif isinstance(content, (list, tuple)):
        return "".join(_element(name, item) for item in content)
    else:
        content = str(content).replace("&", "&amp;").replace("<", "&lt;")
    return f"<{name}>{content}</{name}>"


def _space(matrix, fov_mm):
    sides = "xyz"
    return {
        "matrixSize": dict(zip(sides, matrix, strict=True)),
        "fieldOfView_mm": {k: f"{v:.4f}" for k, v in zip(sides, fov_mm, strict=True)},
    }


def header_xml(
    *,
    encoded: Sequence[int],
    encoded_fov_mm: Sequence[float],
    recon: Sequence[int],
    recon_fov_mm: Sequence[float],
    n_slices: int,
    n_coils: int,
    field_strength: float,
    protocol: str,
    settings: str,
    n_frames: int | None = None,
    sequence: dict[str, Any] | None = None,
    vendor: str = PHANTOM_VENDOR,
) -> str:
    """The ISMRMRD header of a Cartesian scan, as XML.

    Parameters
    ----------
    encoded, recon : three int
        Matrix (x, y, z) measured and reconstructed; x is the readout.
    encoded_fov_mm, recon_fov_mm : three float
        Their fields of view (x, y, z).
    n_slices, n_coils : int
        Number of slices and of receive channels.
    field_strength : float
        In tesla.
    protocol : str
        Name of the protocol.
    settings : str
        A short text that says how the file was made. It is kept as a user parameter, named after `vendor`:
        `gleam_phantom`.
    n_frames : int, optional
        Frames of a series.
    sequence : dict, optional
        Sequence parameters by their ISMRMRD names.
    vendor : str
        Vendor of the system.
    """

    def limit(n):
        return {"minimum": 0, "maximum": n - 1, "center": n // 2}

    limits = {f"kspace_encoding_step_{axis}": limit(n) for axis, n in enumerate(encoded)}
    limits["slice"] = limit(n_slices)
    if n_frames is not None:
        limits["phase"] = limit(n_frames)
    document = {
        "measurementInformation": {"patientPosition": "FFS" if encoded[2] > 1 else "HFS", "protocolName": protocol},
        "acquisitionSystemInformation": {
            "systemVendor": vendor,
            "systemFieldStrength_T": field_strength,
            "receiverChannels": n_coils,
        },
        "experimentalConditions": {"H1resonanceFrequency_Hz": round(PROTON_HZ_PER_TESLA * field_strength)},
        "encoding": {
            "encodedSpace": _space(encoded, encoded_fov_mm),
            "reconSpace": _space(recon, recon_fov_mm),
            "encodingLimits": limits,
            "trajectory": "cartesian",
        },
        **({"sequenceParameters": sequence} if sequence else {}),
        "userParameters": {"userParameterString": {"name": vendor.lower().replace(" ", "_"), "value": settings}},
    }
    body = "".join(_element(key, value) for key, value in document.items())
    return f'<?xml version="1.0"?>\n<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">{body}</ismrmrdHeader>'


def write_mridata(path: str | Path, kspace: np.ndarray, header: str) -> None:
    """Write centred 3D k-space as ISMRMRD HDF5, whole or not at all.

    There is one acquisition per (step 1, step 2), each with all channels; step 1 runs faster.

    Parameters
    ----------
    path : path
        File to write.
    kspace : array, shape (coil, readout, step 1, step 2)
        complex64.
    header : str
        From :func:`header_xml`.
    """
    _, _, n_1, n_2 = kspace.shape

    def blocks():
        for start in range(0, n_1 * n_2, LINES_PER_BLOCK):
            counter = np.arange(start, min(start + LINES_PER_BLOCK, n_1 * n_2))
            step_1, step_2 = counter % n_1, counter // n_1
            counters = {"kspace_encode_step_1": step_1, "kspace_encode_step_2": step_2}
            yield counters, np.moveaxis(kspace[:, :, step_1, step_2], -1, 0)

    _write_lines(path, header, n_1 * n_2, blocks())


def write_ocmr(
    path: str | Path,
    series: Iterable[np.ndarray],
    shape: tuple[int, int, int],
    header: str,
    *,
    levels_mm: Sequence[float],
) -> None:
    """Write centred 2D cine k-space in OCMR's layout of ISMRMRD HDF5, whole or not at all.

    There is one acquisition per (slice, frame, step 1), each with all channels; step 1 runs fastest. The counter
    `phase` is the frame.

    Parameters
    ----------
    path : path
        File to write.
    series : iterable of arrays, shape (frame, coil, step 1, readout)
        complex64, one per slice, so that no more than one slice has to be in memory.
    shape : (int, int, int)
        Numbers of (slice, frame, step 1).
    header : str
        From :func:`header_xml`.
    levels_mm : sequence of float
        Positions of the slices.
    """
    step_1 = np.arange(shape[2])

    def blocks():
        for number, kspace in enumerate(series):
            for frame, lines in enumerate(kspace):
                counters = {"kspace_encode_step_1": step_1, "slice": number, "phase": frame}
                yield {**counters, "position": (float(levels_mm[number]), 0, 0)}, lines.swapaxes(0, 1)

    _write_lines(path, header, int(np.prod(shape)), blocks())


def is_current(path: str | Path, text: str) -> bool:
    """Whether the raw file `path` exists and its ISMRMRD header contains `text`, which says how it was made."""
    try:
        with h5py.File(path) as file:
            header = file["dataset/xml"][0] if "dataset" in file else file["ismrmrd_header"][()]
    except (OSError, KeyError):
        return False
    return text in header.decode()


def _write_lines(path, header, n_lines, blocks):
    """Write acquisitions from blocks of (counters, samples (line, coil, readout)), in the layout of package `ismrmrd`.

    Its own `append_acquisition` takes a millisecond per line, so lines are written in blocks.
    """
    first = next(blocks := iter(blocks))  # tells how much room a line takes
    with hdf5.written(path, n_lines * (HEAD.itemsize + 8 * first[1][0].size)) as file:
        _write_blocks(file, header, n_lines, itertools.chain([first], blocks))


def _write_blocks(file, header, n_lines, blocks):
    group = file.create_group("dataset")
    group.create_dataset("xml", data=[header.encode()], dtype=h5py.special_dtype(vlen=bytes))
    lines = group.create_dataset("data", (n_lines,), dtype=LINE, maxshape=(None,), chunks=(min(1024, n_lines),))
    start = 0
    for counters, samples in blocks:
        block = np.zeros(len(samples), LINE)
        scan_counter = np.arange(start, start + len(samples))
        block["head"] = _heads(scan_counter, counters, n_lines, *samples.shape[1:])
        samples = np.ascontiguousarray(samples, np.complex64)
        for row, line in zip(block, samples.reshape(len(samples), -1).view(np.float32), strict=True):
            row["traj"], row["data"] = np.empty(0, np.float32), line  # a Cartesian line has no trajectory
        lines[start : start + len(samples)] = block
        start += len(samples)


def _heads(scan_counter, counters, n_lines, n_coils, n_readout):
    heads = np.zeros(len(scan_counter), HEAD)
    heads["version"] = 1
    heads["scan_counter"] = scan_counter
    heads["flags"][scan_counter == n_lines - 1] |= LAST_IN_MEASUREMENT
    heads["number_of_samples"], heads["center_sample"] = n_readout, n_readout // 2
    heads["available_channels"] = heads["active_channels"] = n_coils
    heads["sample_time_us"] = 10
    heads["read_dir"], heads["phase_dir"], heads["slice_dir"] = (0, 0, 1), (0, 1, 0), (1, 0, 0)
    for name, value in counters.items():
        # all others are encoding counters
        (heads if name == "position" else heads["idx"])[name] = value
    return heads


def write_fastmri(
    path: str | Path,
    kspace: np.ndarray,
    reconstruction_rss: np.ndarray,
    header: str,
    *,
    acquisition: str,
    patient_id: str,
) -> None:
    """Write k-space in fastMRI's layout, whole or not at all.

    Parameters
    ----------
    path : path
        File to write.
    kspace : array, shape (slice, coil, readout, phase encode)
        Centred; written as complex64.
    reconstruction_rss : array, shape (slice, y, x)
        Root sum of squares of the fully sampled coil images, cropped to the recon matrix; written as float32.
    header : str
        From :func:`header_xml`.
    acquisition, patient_id : str
        Attributes of the file.
    """
    with hdf5.written(path, 8 * kspace.size + 4 * reconstruction_rss.size) as file:
        file.create_dataset("kspace", data=kspace.astype(np.complex64, copy=False))
        file.create_dataset("reconstruction_rss", data=reconstruction_rss.astype(np.float32, copy=False))
        file.create_dataset("ismrmrd_header", data=header.encode(), dtype=h5py.special_dtype(vlen=bytes))
        file.attrs["acquisition"] = acquisition
        file.attrs["max"] = float(reconstruction_rss.max())
        file.attrs["norm"] = float(np.linalg.norm(reconstruction_rss))
        file.attrs["patient_id"] = patient_id
