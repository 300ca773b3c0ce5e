"""Small raw files in the real layouts, for the tests of readers and preparation."""

import h5py
import ismrmrd
import numpy as np

from gleam.physics.fourier import ifft2c

SPACE = (
    "<matrixSize><x>{}</x><y>{}</y><z>{}</z></matrixSize>"
    "<fieldOfView_mm><x>200</x><y>200</y><z>200</z></fieldOfView_mm>"
)


def header(encoded, recon=None, *, centers=(None, None), vendor="", tesla="", trajectory="cartesian", protocol=""):
    """An ISMRMRD header; parts left empty are absent."""
    steps = "".join(
        f"<{step}><minimum>0</minimum><maximum>999</maximum><center>{center}</center></{step}>"
        for step, center in zip(("kspace_encoding_step_1", "kspace_encoding_step_2"), centers, strict=True)
        if center is not None
    )
    system = (f"<systemVendor>{vendor}</systemVendor>" if vendor else "") + (
        f"<systemFieldStrength_T>{tesla}</systemFieldStrength_T>" if tesla else ""
    )
    measurement = (
        f"<measurementInformation><patientPosition>HFS</patientPosition><protocolName>{protocol}</protocolName>"
    )
    return (
        '<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">'
        f"{measurement + '</measurementInformation>' if protocol else ''}"
        f"<acquisitionSystemInformation>{system}</acquisitionSystemInformation>"
        "<experimentalConditions><H1resonanceFrequency_Hz>0</H1resonanceFrequency_Hz></experimentalConditions>"
        f"<encoding><encodedSpace>{SPACE.format(*encoded)}</encodedSpace>"
        f"<reconSpace>{SPACE.format(*(recon or encoded))}</reconSpace>"
        f"<encodingLimits>{steps}</encodingLimits><trajectory>{trajectory}</trajectory></encoding></ismrmrdHeader>"
    )


def line(samples, *, step_1=0, step_2=0, flags=(), center_sample=None, **counters):
    """One acquisition of ``samples`` (coil, readout), made by the ismrmrd package."""
    acquisition = ismrmrd.Acquisition.from_array(np.ascontiguousarray(samples, np.complex64))
    acquisition.center_sample = samples.shape[1] // 2 if center_sample is None else center_sample
    acquisition.idx.kspace_encode_step_1, acquisition.idx.kspace_encode_step_2 = step_1, step_2
    for name, value in counters.items():
        setattr(acquisition.idx, name, value)
    for flag in flags:
        acquisition.set_flag(flag)
    return acquisition


def raster(kspace, **more):
    """The acquisitions of ``kspace`` (coil, readout, step 1, step 2)."""
    steps = [(i, j) for j in range(kspace.shape[3]) for i in range(kspace.shape[2])]
    return [line(kspace[:, :, i, j], step_1=i, step_2=j, **more) for i, j in steps]


def write_ismrmrd(path, xml, lines):
    """Write with the ismrmrd package."""
    with ismrmrd.Dataset(str(path), "dataset") as dataset:
        dataset.write_xml_header(xml)
        for one in lines:
            dataset.append_acquisition(one)
    return path


def write_fastmri(path, kspace, xml=None, **attributes):
    """Write fastMRI's layout."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["kspace"] = kspace
        if xml is not None:
            file["ismrmrd_header"] = xml
        file.attrs.update(attributes)
    return path


def write_mat(path, kspace, name="kspace_full", *, userblock=b"MATLAB 7.3 MAT-file"):
    """CMRxRecon's layout: (slice, coil, time, y, x), or without slices, as MATLAB's (x, y, coil, [slice,] time)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    axes = (2, 0, 1, 3, 4) if kspace.ndim == 5 else (1, 0, 2, 3)
    values = np.empty(kspace.transpose(axes).shape, [("real", np.float32), ("imag", np.float32)])
    values["real"], values["imag"] = kspace.transpose(axes).real, kspace.transpose(axes).imag
    with h5py.File(path, "w", userblock_size=512) as file:
        file[name] = values
    with open(path, "r+b") as file:
        file.write(userblock)
    return path


def noise(shape, seed=0):
    """Complex Gaussian noise, complex64."""
    generator = np.random.default_rng(seed)
    return (generator.standard_normal(shape) + 1j * generator.standard_normal(shape)).astype(np.complex64)


def coil_images(shape, n_coils=4, sigma=0.02, seed=0):
    """(coil, y, x): discs seen by coils around them, with noise."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    image = 1.0 * (x**2 + y**2 < 0.7) + 0.5 * ((x - 0.3) ** 2 + y**2 < 0.1)
    angles = 2 * np.pi * np.arange(n_coils)[:, None, None] / n_coils
    distance = (x - 1.2 * np.cos(angles)) ** 2 + (y - 1.2 * np.sin(angles)) ** 2
    maps = np.exp(-distance / 2) * np.exp(1j * (angles + x * np.cos(angles)))
    return (image * maps + sigma * noise((n_coils, *shape), seed)).astype(np.complex64)


def relative_maps(kspace):
    """A calibration that needs no package: coil images over their root sum of squares."""
    images = ifft2c(kspace)
    return images / np.linalg.norm(images, axis=0)
