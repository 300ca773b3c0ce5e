"""Images written to a file that other programs read: NIfTI or HDF5, and a picture beside it."""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from gleam.datasets import hdf5
from gleam.files import check_room, check_writable, written_whole
from gleam.training.raw_files import Reconstructed

ENDINGS = (".nii", ".nii.gz", ".h5")


def check_output(out: str | Path, *, overwrite: bool = False) -> Path:
    """Check that images can be written to `out`, and return the path of the picture beside it.

    Raises
    ------
    ValueError
        If `out` has another ending than `ENDINGS`, if it or the picture exists and `overwrite` is False, or if NIfTI is
        asked for where nibabel is not installed.
    OSError
        If the folder cannot be written.
    """
    out = Path(out)
    ending = next((one for one in ENDINGS if out.name.lower().endswith(one)), None)
    if ending is None or len(out.name) == len(ending):  # a name that is only an ending would be hidden
        raise ValueError(f"{out}: expected a name that ends in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}")
    if ending != ".h5" and find_spec("nibabel") is None:
        raise ValueError(f"{out}: NIfTI needs the package nibabel (pip install nibabel); .h5 does not")
    picture = out.with_name(out.name[: -len(ending)] + ".png")
    for path in (out, picture):
        if path.exists() and not (overwrite and path.is_file()):
            raise ValueError(f"{path} exists already; choose another name or overwrite it with --force")
    check_writable(out.parent)
    return picture


def write_images(out: str | Path, found: Reconstructed, label: str) -> None:
    """Write reconstructed images, whole or not at all.

    Parameters
    ----------
    out : path
        Ends in .nii or .nii.gz for magnitudes (float32), in .h5 for complex images.
    found : Reconstructed
        Of :func:`gleam.training.raw_files.reconstruct_file`.
    label : str
        What the images are and must not be used for; kept in the file.

    Notes
    -----
    NIfTI has the axes (x, y, slice, [time]), and an affine of the voxel size that shows rows downwards, as the picture
    does. Position and orientation of the patient are not known: they are not in all raw formats.

    HDF5 has `reconstruction` (slice, [time,] y, x), with attributes. Both are in the units of the raw file.
    """
    out = Path(out)
    if out.suffix.lower() == ".h5":
        with hdf5.written(out, found.images.nbytes) as file:
            images = file.create_dataset("reconstruction", data=found.images.numpy())
            images.attrs.update(
                network=found.about["network"],
                run=found.about["run"],
                acceleration=found.acceleration,
                spacing_mm=found.spacing,
                subject=found.source["subject"],
                label=label,
            )
        return
    with written_whole(out) as temporary:
        check_room(out, found.images.nbytes // 2)  # float32 takes half of complex64
        content = _nifti(found, label)
        # mtime=0: the same bytes each time
        temporary.write_bytes(gzip.compress(content, mtime=0) if out.suffix.lower() == ".gz" else content)


def _nifti(found, label):
    import nibabel

    magnitude = found.images.abs().numpy().astype(np.float32)
    z, y, x = found.spacing
    affine = np.diag([-x, -y, z, 1])
    # the middle of the image is at the origin
    affine[:2, 3] = np.array([x, y]) * (np.array(magnitude.shape[:-3:-1]) - 1) / 2
    order = (2, 1, 0) if magnitude.ndim == 3 else (3, 2, 0, 1)  # from (slice, [time,] y, x)
    image = nibabel.Nifti1Image(magnitude.transpose(order), affine)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = label.encode()[:79]  # the field has 80 bytes, with a zero at the end
    return image.to_bytes()
