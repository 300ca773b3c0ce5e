"""Small problems that many tests share: random batches, and prepared files of a few slices."""

import h5py
import numpy as np
import torch

from gleam import masks, physics
from gleam.physics.fourier import fft2, ifftshift2


def complex_normal(*shape, seed=0, dtype=torch.complex64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def unit_maps(*shape, seed=0, dtype=torch.complex64):
    maps = complex_normal(*shape, seed=seed, dtype=dtype)
    return maps / maps.abs().square().sum(1, keepdim=True).sqrt()


def random_batch(n=2, n_coils=3, shape=(24, 20), n_frames=None, acceleration=3, seed=0):
    """A batch of random images: 2D, or a series if ``n_frames`` is given."""
    time = [] if n_frames is None else [n_frames]
    target = complex_normal(n, *time, *shape, seed=seed)
    maps = unit_maps(n, n_coils, *[1] * len(time), *shape, seed=seed + 1)
    n_masks = n * (n_frames or 1)
    mask = np.stack(
        [ifftshift2(masks.poisson_disc(shape, acceleration, n_calibration=4, seed=i)) for i in range(n_masks)]
    )
    mask = torch.from_numpy(mask).reshape(n, 1, *time, *shape)
    return physics.Batch.undersample(fft2(maps * target.unsqueeze(1)), mask, maps, target)


def write_prepared(path, n_slices=3, n_coils=3, shape=(24, 20), seed=0):
    """A prepared file as gleam.datasets.prepare writes it, holding smooth random objects."""
    generator = np.random.default_rng(seed)
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    centers = generator.uniform(-0.4, 0.4, (n_slices, 4, 2, 1, 1))
    blobs = np.exp(-((y - centers[:, :, 0]) ** 2 + (x - centers[:, :, 1]) ** 2) / 0.1)
    target = blobs.sum(1).astype(np.complex64)
    maps = unit_maps(n_slices, n_coils, *shape, seed=seed).numpy()
    with h5py.File(path, "w") as file:
        file["kspace"] = fft2(maps * target[:, None])
        file["sens_maps"], file["target"] = maps, target
        file.attrs.update(subject=path.stem, is_phantom=True, acquisition="3D FSE")
    return path


def small_disc(shape, *, seed, acceleration):
    return masks.poisson_disc(shape, acceleration, n_calibration=4, seed=seed)
