"""fastMRI's multicoil files (fastmri.med.nyu.edu): HDF5 with `kspace` (slice, coil, readout, phase encode)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from gleam.datasets import hdf5, headers, padding
from gleam.datasets.splits import visible
from gleam.datasets.volume import Volume
from gleam.physics.batch import LEAST_SHARE
from gleam.physics.fourier import fftc, ifftc

EXPECTED = "a fastMRI multicoil file (HDF5 with 'kspace')"
FOLDER = Path("fastmri") / "multicoil_val"


def read(path: str | Path) -> Volume:
    """Read one fastMRI multicoil file.

    Parameters
    ----------
    path : path
        The file.

    Returns
    -------
    gleam.datasets.volume.Volume
        Of slices (slice, coil, y, x).

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    OSError
        If it is not HDF5, or truncated.
    ValueError
        If it holds no multicoil k-space, NaN, or a header that cannot be read, is undersampled, or has partial Fourier.
        Each message names the file.

    Notes
    -----
    The readout is oversampled twofold. Each coil image is therefore cropped about its centre to the header's recon
    matrix, (min(recon x, rows), min(recon y, columns)); nothing is ever padded. A file without `ismrmrd_header` (own
    data) keeps the size of its k-space; one without attributes has its stem as the subject. Columns of zeros at both
    ends are padding (:mod:`gleam.datasets.padding`), as in many real files: they stay, and `measured` leaves them out.

    If the header's matrix has as many samples and lines as the file has columns and rows, the two axes are exchanged in
    the file. They are exchanged back, and `notes` says so, as it does if the header's matrix is another one.
    """
    return _read(Path(path), undersampled=False)


def read_measured(path: str | Path) -> Volume:
    """Same as :func:`read`, but an undersampled scan is taken as well; its columns are not cropped."""
    return _read(Path(path), undersampled=True)


def _read(path, undersampled):
    with hdf5.opened(path, expected=EXPECTED) as file:
        # before the header is read: HDF5 loops for ever in a damaged text of variable length
        hdf5.check_heaps(path)
        data, header = _checked(file, path, undersampled), _header(file, path)
        is_exchanged, notes = _axes(data.shape[-2:], header)
        raw = _Exchanged(data) if is_exchanged else data
        # where undersampling is refused below, slice 0 need not be read twice
        first = raw[0] if undersampled else np.ones((1, *raw.shape[-2:]), bool)
        of_points, used = _is_of_points(first), first.any(axis=(0, 1))
        is_full = not undersampled or ("mask" not in file and not of_points and padding.is_full(used[None]))
        shape = raw.shape[-2:]
        if header:
            shape = tuple(min(recon, n) for recon, n in zip(header.recon, shape, strict=False))
        if not is_full:  # an image with aliases cannot be cropped along the phase encoding
            shape = raw.shape[-2] if of_points else shape[0], raw.shape[-1]
        kspace = np.empty((*raw.shape[:2], *shape), np.complex64)
        columns = np.empty((len(raw), raw.shape[-1]), bool)
        for s in range(len(raw)):  # one slice at a time: 16 slices of 20 coils take 0.8 GB
            full = raw[s]
            hdf5.check_values(full, path, f" of slice {s}")
            columns[s] = full.any(axis=(0, 1))
            if not undersampled and _is_of_points(full):
                raise ValueError(
                    f"{path}: is undersampled, slice {s} has samples of zero between others; expected a fully sampled "
                    "scan (gleam.datasets.formats.read_measured takes this one)"
                )
            kspace[s] = _cropped(full, shape, (-2, -1) if is_full else (-2,))
        spacing = (header.spacing[2], *header.spacing[:2]) if header else (1.0, 1.0, 1.0)
        if notes and not is_exchanged:  # the field of view belongs to the samples that are there
            y, x = (mm * m / n for mm, m, n in zip(spacing[1:], header.encoded, raw.shape[-2:], strict=False))
            spacing = (spacing[0], y, x)
        lines = padding.measured_lines(columns, path) if is_full else (0, raw.shape[-1])
        measured = padding.cropped(*lines, raw.shape[-1], shape[-1])
        return Volume(
            kspace=kspace,
            subject=hdf5.attribute(file, "patient_id", path.stem),
            is_phantom=header is not None and header.is_phantom,
            acquisition=hdf5.attribute(file, "acquisition", "unknown"),
            field_strength=header.field_strength if header else None,
            aspect=spacing[1] / spacing[2],
            measured=(0, shape[0], *measured),
            spacing=spacing,
            readout="y",
            is_full=is_full,
            notes=notes,
        )


def find(data_dir: str | Path, acquisition: str | None = None, field_strength: float | None = None) -> list[Path]:
    """Sorted paths of the files in `data_dir`/fastmri/multicoil_val, found without reading their k-space.

    Parameters
    ----------
    data_dir : path
        Folder of the data set.
    acquisition : str, optional
        Only files whose attribute is this, such as "AXT2".
    field_strength : float, optional
        Only files whose header is within 10 % of it, in tesla (2.8936 T counts as 3 T).

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    """
    folder = Path(data_dir) / FOLDER
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; expected fastMRI's multicoil_val in it")
    paths = visible(folder, "*.h5")
    if (acquisition, field_strength) == (None, None):
        return paths
    kept = []
    for path in paths:
        found, tesla = stated(path)
        is_strength = field_strength is None or (tesla is not None and is_near(tesla, field_strength))
        if acquisition in (None, found) and is_strength:
            kept.append(path)
    return kept


def stated(path: str | Path) -> tuple[str | None, float | None]:
    """Acquisition and field strength in tesla that the file `path` states; None for what it does not state."""
    with hdf5.opened(path, expected=EXPECTED) as file:
        header = _header(file, path)
        return hdf5.attribute(file, "acquisition"), header.field_strength if header else None


def check_stated(paths: Iterable[str | Path], acquisition: str | None, field_strength: float | None) -> None:
    """Raise ValueError if one of `paths` states another acquisition or field strength (tesla); None: any is taken."""
    if (acquisition, field_strength) == (None, None):
        return
    for path in paths:
        found, tesla = stated(path)
        if acquisition is not None and found not in (None, acquisition):
            raise ValueError(f"{path}: is {found}, not {acquisition}; take it off the split list")
        if field_strength is not None and tesla is not None and not is_near(tesla, field_strength):
            raise ValueError(f"{path}: was measured at {tesla} T, not {field_strength} T; take it off the split list")


def is_near(field_strength: float, nominal: float) -> bool:
    """Whether a field strength is within 10 % of the `nominal` one: 2.8936 T counts as 3 T."""
    return abs(field_strength - nominal) <= 0.1 * nominal


def _checked(file, path, undersampled):
    """The k-space data set, checked but not yet read."""
    raw = hdf5.dataset(file, "kspace", path, EXPECTED)
    if raw.ndim != 4 or raw.dtype.kind != "c" or 0 in raw.shape:
        raise ValueError(f"{path}: 'kspace' is {raw.dtype} {raw.shape}; expected complex (slice, coil, y, x)")
    # as the files of fastMRI's test and challenge sets do
    if "mask" in file and not undersampled:
        raise ValueError(f"{path}: is undersampled (holds a 'mask'); expected full k-space, as in multicoil_val")
    return raw


def _is_of_points(kspace):
    """Whether single samples are missing in the rows and columns of k-space (coil, y, x) that hold any."""
    sampled = kspace.any(axis=0)
    inside = sampled[sampled.any(axis=1)][:, sampled.any(axis=0)]
    return inside.size > 0 and inside.mean() < LEAST_SHARE


def _header(file, path):
    name = "ismrmrd_header"
    return headers.parse(hdf5.first(hdf5.dataset(file, name, path, "XML")), path) if name in file else None


class _Exchanged:
    """K-space of a file whose last two axes are exchanged, as it should be, a slice at a time."""

    def __init__(self, data):
        self.data, self.shape = data, (*data.shape[:-2], *data.shape[:-3:-1])

    def __getitem__(self, s):
        return np.ascontiguousarray(self.data[s].swapaxes(-1, -2))

    def __len__(self):
        return len(self.data)


def _axes(shape, header):
    """Whether readout and phase encoding are exchanged in k-space of `shape` (y, x), and notes on that."""
    if header is None or (matrix := header.encoded[:2]) == shape:
        return False, ()
    said = f"k-space has {shape[0]} x {shape[1]} samples, and the header's matrix (readout, phase encoding) is "
    said += f"{matrix[0]} x {matrix[1]}"
    if matrix == shape[::-1]:
        return True, (f"{said}: the two axes of k-space were exchanged",)
    return False, (f"{said}: rows are taken for the readout",)


def _cropped(kspace, shape, axes):
    """K-space of images cropped along `axes`; FFTs along y alone leave columns of zeros as they are."""
    if kspace.shape[-2:] == shape:
        return kspace
    y, x = (slice(n // 2 - m // 2, n // 2 - m // 2 + m) for n, m in zip(kspace.shape[-2:], shape, strict=True))
    return fftc(ifftc(kspace, axes)[..., y, x], axes)
