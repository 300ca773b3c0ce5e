"""Coil sensitivity maps of one slice from the centre of its k-space, through SigPy."""

import numpy as np


class EmptyMapsError(ValueError):
    """No sensitivity map is left of a slice: it holds too little signal for the settings."""


def jsense(kspace, *, kernel_width=8, calibration_width=20, n_iterations=10, n_inner_iterations=10):
    """Sensitivity maps by JSENSE (Ying & Sheng 2007, in the form of Uecker et al. 2008, without regularisation).

    ``kspace``: (coil, y, x), centred; only its central ``calibration_width`` squared is used. Returns maps (coil, y,
    x) complex64, centred, with sum_c |S_c|^2 = 1 everywhere (JSENSE knows no background); zero if the slice is all
    zeros. Kernel 8 is the paper's; 20 is its masks' centre and its code's width.

    This is SigPy's ``JsenseRecon`` whose convolutions, there taken coil by coil, are one FFT over all coils: the same
    maps to 1e-3, seven times as fast. Raises ValueError on a k-space of the wrong shape or size, or without a measured
    centre.
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
    app.alg = _alternation(app)
    return _normalised(app.run())


def espirit(kspace, *, kernel_width=6, calibration_width=24, crop=0.1):
    """Sensitivity maps by ESPIRiT (Uecker et al. 2014), the first set only.

    ``kspace``: (coil, y, x), centred; its central ``calibration_width`` squared is used. Returns maps (coil, y, x)
    complex64, centred, with sum_c |S_c|^2 = 1 where the largest eigenvalue exceeds ``crop``, else 0; zero if the slice
    is all zeros.

    The paper says kernel 8 on 12 x 12. That gives 25 equations for 64 unknowns per coil, and the eigenvalues of true
    signal fall far below 1: no map is left at SigPy's usual crop of 0.95. Kernel 6 at crop 0.1, as in the authors'
    code, covers the object. Still, 12 x 12 are few for real scans of many coils: 24 x 24, as in BART, give better maps.

    This is SigPy's ``EspiritCalib``, run on one interleaved part of the pixels after another, so that the matrices of a
    part stay in the processor's cache: the same maps to 1e-5, on large slices in about half the time and memory.

    Raises ValueError on a k-space of the wrong shape or size, or without a measured centre, EmptyMapsError (a
    ValueError) if no map is left.
    """
    kspace = _checked(kspace, kernel_width, calibration_width)
    maps = np.zeros_like(kspace)
    live = kspace.any(axis=(1, 2))  # SigPy takes phases relative to the first coil, which therefore must not be dead
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

    ESPIRiT is a computation per pixel on a polynomial that the central k-space alone determines. The central part of
    k-space stands for every n-th pixel, and a linear phase on it moves these by one.
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
    """``kspace`` as complex64 of largest magnitude 1, so that no unit of the scanner under- or overflows."""
    kspace = np.asarray(kspace)
    if kspace.ndim != 3 or kspace.dtype.kind != "c":
        raise ValueError(f"kspace is {kspace.dtype} {kspace.shape}; expected complex (coil, y, x)")
    if not 0 < kernel_width <= calibration_width <= min(kspace.shape[1:]):
        raise ValueError(
            f"kernel_width {kernel_width} and calibration_width {calibration_width} do not fit a slice of "
            f"{kspace.shape[1]} x {kspace.shape[2]}; expected kernel <= calibration <= both sides"
        )
    n_missing = _n_missing(kspace, calibration_width)
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


def _n_missing(kspace, width):
    y, x = (slice(n // 2 - width // 2, n // 2 - width // 2 + width) for n in kspace.shape[1:])
    return int((kspace[:, y, x] == 0).all(axis=0).sum())


def _normalised(maps):
    """Divide by the root sum of squares; zero where there is none, or where it is not finite."""
    norm = np.linalg.norm(maps, axis=0)
    support = np.isfinite(norm) & (norm > 0)
    return np.where(support, maps / np.where(support, norm, 1), 0).astype(np.complex64)


def _alternation(app):
    """The alternating least squares of ``app``, a JsenseRecon, with convolutions by FFT.

    The calibration region holds the *valid* part of image kernel * coil kernel, which wrapping at the size of the image
    kernel does not reach: one circular FFT of that size is exact.
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
