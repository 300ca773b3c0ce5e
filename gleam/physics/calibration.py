"""Coil sensitivity maps of one slice from the centre of its k-space, through SigPy."""

from __future__ import annotations

import numpy as np

from gleam.physics.fourier import central


class EmptyMapsError(ValueError):
    """A slice has no sensitivity map: it holds too little signal for the settings."""


def jsense(
    kspace: np.ndarray,
    *,
    kernel_width: int = 8,
    calibration_width: int = 20,
    n_iterations: int = 10,
    n_inner_iterations: int = 10,
) -> np.ndarray:
    """Sensitivity maps of one slice by JSENSE.

    Parameters
    ----------
    kspace : complex array, shape (coil, y, x)
        Centred k-space, of which only the central square is used.
    kernel_width : int
        Width of the coils' kernels in k-space, in samples. The paper's is 8.
    calibration_width : int
        Width of the central square, in samples. The masks of the paper and its code have 20.
    n_iterations, n_inner_iterations : int
        Alternations between image and coils, and steps of conjugate gradients in each.

    Returns
    -------
    complex64 array, shape (coil, y, x)
        Centred maps with `sum_c |S_c|^2 = 1` everywhere (JSENSE knows no background); zero if the slice is all zeros.

    Raises
    ------
    ValueError
        If the k-space has the wrong shape or size, or if its centre is not measured.

    Notes
    -----
    Ying & Sheng 2007, in the form of Uecker et al. 2008, without regularisation. This is SigPy's `JsenseRecon` with its
    convolutions coil by coil replaced by one FFT over all coils: the same maps to 1e-3, seven times as fast.
    """
    kspace = _checked(kspace, kernel_width, calibration_width)
    if not kspace.any():
        return np.zeros_like(kspace)
    from sigpy.mri.app import JsenseRecon

    app = JsenseRecon(
        kspace,
        mps_ker_width=kernel_width,
        ksp_calib_width=calibration_width,
        max_iter=n_iterations,
        max_inner_iter=n_inner_iterations,
        show_pbar=False,
    )
    app.alg = _alternation(app)  # in place of SigPy's own, coil by coil
    return _normalised(app.run())


def espirit(kspace: np.ndarray, *, kernel_width: int = 6, calibration_width: int = 24, crop: float = 0.1) -> np.ndarray:
    """Sensitivity maps of one slice by ESPIRiT, the first set only.

    Parameters
    ----------
    kspace : complex array, shape (coil, y, x)
        Centred k-space, of which only the central square is used.
    kernel_width, calibration_width : int
        Widths of the kernel and of the central square, in samples.
    crop : float
        Maps are zero where the largest eigenvalue is at most this.

    Returns
    -------
    complex64 array, shape (coil, y, x)
        Centred maps with `sum_c |S_c|^2 = 1` where the largest eigenvalue exceeds `crop`, else 0; zero if the slice is
        all zeros.

    Raises
    ------
    ValueError
        If the k-space has the wrong shape or size, or if its centre is not measured.
    EmptyMapsError
        If no map is left.

    Notes
    -----
    Uecker et al. 2014. The paper states kernel 8 on 12 x 12. That gives 25 equations for 64 unknowns per coil, and the
    eigenvalues of true signal fall far below 1: no map is left at SigPy's usual crop of 0.95. Kernel 6 at crop 0.1, as
    in the authors' code, covers the object. For real scans of many coils 12 x 12 is small: 24 x 24, as in BART, gives
    better maps.

    This is SigPy's `EspiritCalib`, run on one interleaved part of the pixels after another, so that the matrices of a
    part stay in the processor's cache: the same maps to 1e-5, on large slices in about half the time and memory.
    """
    kspace = _checked(kspace, kernel_width, calibration_width)
    maps = np.zeros_like(kspace)
    live = kspace.any(axis=(1, 2))  # phases are relative to the first coil in SigPy, so that one needs signal
    if not live.any():
        return maps
    with np.errstate(divide="ignore", invalid="ignore"):
        maps[live] = _normalised(_espirit_by_parts(kspace[live], calibration_width, kernel_width, crop))
    if not maps.any():
        raise EmptyMapsError(
            f"ESPIRiT with kernel {kernel_width}, calibration {calibration_width} and crop {crop} leaves empty maps; "
            "lower crop, take a smaller kernel or a larger calibration"
        )
    return maps


def _espirit_by_parts(kspace, calibration_width, kernel_width, crop):
    """Maps (coil, y, x) from SigPy, every n-th pixel at a time.

    ESPIRiT solves one small problem per pixel, on a polynomial that the central k-space alone determines. The central
    part of k-space gives every n-th pixel, and a linear phase on it moves these pixels by one.
    """
    from sigpy import resize
    from sigpy.mri.app import EspiritCalib

    maps = np.empty_like(kspace)
    shape = kspace.shape[1:]
    side = max(calibration_width, int(np.sqrt(_CACHE_BYTES / kspace.itemsize) / len(kspace)))
    steps = [next(d for d in range(max(1, n // side), 0, -1) if n % d == 0) for n in shape]
    sides = [n // d for n, d in zip(shape, steps, strict=True)]
    center = resize(kspace, [len(kspace), *sides])
    for first in np.ndindex(*steps):
        y, x = (
            np.exp(2j * np.pi / n * (o - n // 2 + d * (m // 2)) * (np.arange(m) - m // 2))
            for n, d, m, o in zip(shape, steps, sides, first, strict=True)
        )
        part = (center * (y[:, None] * x)).astype(kspace.dtype)
        app = EspiritCalib(part, calib_width=calibration_width, kernel_width=kernel_width, crop=crop, show_pbar=False)
        maps[:, first[0] :: steps[0], first[1] :: steps[1]] = app.run()
    return maps


_CACHE_BYTES = 4e6  # for one matrix (coil, coil) per pixel


def _checked(kspace, kernel_width, calibration_width):
    """The k-space as complex64 with largest magnitude 1, so that no unit of a scanner under- or overflows."""
    kspace = np.asarray(kspace)
    if kspace.ndim != 3 or kspace.dtype.kind != "c":
        raise ValueError(f"kspace is {kspace.dtype} {kspace.shape}; expected complex (coil, y, x)")
    sides = kspace.shape[1:]
    if not 0 < kernel_width <= calibration_width <= min(sides):
        raise ValueError(
            f"kernel_width {kernel_width} and calibration_width {calibration_width} do not fit a slice of "
            f"{sides[0]} x {sides[1]}; expected kernel <= calibration <= both sides"
        )
    n_missing = int((kspace[:, *central(sides, calibration_width)] == 0).all(axis=0).sum())
    if n_missing and kspace.any():
        raise ValueError(
            f"{n_missing} samples of the central {calibration_width} x {calibration_width} of kspace are zero in every "
            "coil: the mask leaves too small a centre to calibrate on; expected all of it measured, or a smaller "
            "calibration_width"
        )
    largest = np.abs(kspace).max()
    if not np.isfinite(largest):
        raise ValueError("kspace holds NaN or infinite values; expected finite ones")
    return (kspace / largest if largest > 0 else kspace).astype(np.complex64)


def _normalised(maps):
    """Maps divided by their root sum of squares; zero where that is 0 or not finite."""
    norm = np.linalg.norm(maps, axis=0)
    support = np.isfinite(norm) & (norm > 0)
    return np.where(support, maps / np.where(support, norm, 1), 0).astype(np.complex64)


def _alternation(app):
    """The alternating least squares of `app`, a JsenseRecon, with convolutions by FFT.

    The calibration region holds only the *valid* part of image kernel * coil kernel. A circular FFT of the size of the
    image kernel is exact there, since the wrapped values lie outside the valid part.
    """
    import sigpy as sp

    grid, n_coils, first = list(app.img_ker.shape), app.num_coils, app.mps_ker_width - 1
    axes, stack = (-2, -1), [n_coils, *grid]

    def spectrum(kernel):
        padded = np.zeros([*kernel.shape[:-2], *grid], kernel.dtype)
        padded[..., : kernel.shape[-2], : kernel.shape[-1]] = kernel
        return np.fft.fft2(padded)

    def solve(unknown, embed, kernel):
        operator = (
            sp.linop.Resize(app.y.shape, stack, ishift=[0, first, first], oshift=[0, 0, 0])
            * sp.linop.IFFT(stack, axes=axes, center=False)
            * sp.linop.Multiply(embed.oshape, spectrum(kernel))
            * sp.linop.FFT(embed.oshape, axes=axes, center=False)
            * embed
        )
        sp.app.LinearLeastSquares(
            operator, app.y, unknown, lamda=app.lamda, max_iter=app.max_inner_iter, show_pbar=False
        ).run()

    pad = sp.linop.Resize(stack, app.mps_ker.shape, ishift=[0, 0, 0], oshift=[0, 0, 0])
    lift = sp.linop.Reshape([1, *grid], grid)
    return sp.alg.AltMin(
        lambda: solve(app.mps_ker, pad, app.img_ker),
        lambda: solve(app.img_ker, lift, app.mps_ker),
        max_iter=app.max_iter,
    )
