"""Compressed sensing of one slice or series with SigPy: l1 norms of wavelets and of finite differences."""

from __future__ import annotations

import collections
import math

import numpy as np

SPACE, TIME = (-2, -1), (-3,)
WAVELET = "db2"  # as in BART; with cycle spinning better than SigPy's default, db4, on brains and on phantoms


def sense_operator(kspace: np.ndarray, mask: np.ndarray, sens_maps: np.ndarray) -> tuple:
    """A as an operator of SigPy, y, and a bound of ||A||^2; where whole lines are measured, A has no FFT along them."""
    from sigpy import linop

    whole = [axis for axis in SPACE if (mask == mask.take([0], axis)).all()][:1]
    if whole:
        kspace = np.fft.ifftn(kspace, axes=whole, norm="ortho").astype(kspace.dtype, copy=False)
    coils = linop.Multiply(kspace.shape[1:], sens_maps)
    fourier = linop.FFT(coils.oshape, axes=[axis for axis in SPACE if axis not in whole], center=False)
    squared_norm = float(np.square(np.abs(sens_maps)).sum(axis=0).max()) or 1.0  # 1 if the maps are normalised
    return linop.Multiply(coils.oshape, mask) * fourier * coils, kspace, squared_norm


def l1_terms(shape: tuple, lamda_wavelet: float, lamda_space: float, lamda_time: float) -> list[tuple]:
    """(operator, weight) of each l1 norm with a weight above 0, or else of the wavelets, for images of `shape`."""
    from sigpy import linop

    if lamda_time > 0 and (len(shape) < 3 or shape[0] < 2):
        raise ValueError(
            f"lamda_time={lamda_time!r} needs series (time, y, x) of at least 2 frames, but the batch holds {shape}; "
            "set it to 0 or take gleam.baselines.wavelet"
        )
    terms = [
        (linop.Wavelet(shape, axes=SPACE, wave_name=WAVELET), lamda_wavelet),
        (linop.FiniteDifference(shape, axes=SPACE), lamda_space),
        (linop.FiniteDifference(shape, axes=TIME), lamda_time),
    ]
    return [(operator, lamda) for operator, lamda in terms if lamda > 0] or terms[:1]


def wavelet_slice(
    kspace: np.ndarray,
    mask: np.ndarray,
    sens_maps: np.ndarray,
    lamda: float,
    n_iterations: int,
    cycle_spinning: bool,
) -> np.ndarray:
    """Minimise 1/2 ||A x - y||^2 + lamda ||W x||_1 by FISTA, for :func:`gleam.baselines.wavelet`."""
    import pywt
    from sigpy import alg, linop, prox

    sense, kspace, squared_norm = sense_operator(kspace, mask, sens_maps)
    zero_filled = sense.H(kspace)
    wavelets = linop.Wavelet(sense.ishape, wave_name=WAVELET)
    shrink = prox.UnitaryTransform(prox.L1Reg(wavelets.oshape, lamda), wavelets)
    n_shifts = 2 ** pywt.dwtn_max_level(sense.ishape, WAVELET) if cycle_spinning else 1
    generator = np.random.default_rng(0)

    def shrink_shifted(step, image):
        shift = generator.integers(n_shifts, size=2)
        return np.roll(shrink(step, np.roll(image, shift, SPACE)), -shift, SPACE)

    method = alg.GradientMethod(
        lambda image: sense.H(sense(image)) - zero_filled,
        np.zeros_like(zero_filled),
        1 / squared_norm,
        shrink_shifted,
        accelerate=True,
        max_iter=n_iterations,
    )
    n_latest = math.ceil(n_iterations / 4) if cycle_spinning else 1  # the last quarter
    latest: collections.deque[np.ndarray] = collections.deque(maxlen=n_latest)
    while not method.done():
        method.update()
        latest.append(method.x.copy())
    return np.mean(latest, axis=0)


def primal_dual(
    kspace: np.ndarray,
    mask: np.ndarray,
    sens_maps: np.ndarray,
    start: np.ndarray,
    lamdas: tuple[float, float, float],
    n_iterations: int,
    sigma: float = 0.05,
) -> np.ndarray:
    """Minimise 1/2 ||A x - y||^2 + sum lamda ||G x||_1 from `start`; `sigma` is the step of the dual variables."""
    from sigpy import alg, linop, prox

    sense, kspace, squared_norm = sense_operator(kspace, mask, sens_maps)
    terms = l1_terms(start.shape, *lamdas)
    image = start.copy()
    operator = linop.Vstack([one for one, _ in terms])
    dual = np.zeros(operator.oshape, image.dtype)
    limit = np.concatenate([np.full(np.prod(one.oshape), lamda, image.real.dtype) for one, lamda in terms])

    def project(step, dual):  # the same as prox.LInfProj, five times as fast
        return dual * (limit / np.maximum(np.abs(dual), limit.clip(1e-30)))

    def descend(dual):
        return operator.H(dual) + sense.H(sense(image) - kspace)

    tau = 1 / (squared_norm / 2 + 13 * sigma)  # 13 = 1 + 3 * 4: wavelets, and differences along 3 axes
    method = alg.PrimalDualHybridGradient(
        project, prox.NoOp(image.shape), operator, descend, image, dual, tau, sigma, max_iter=n_iterations
    )
    while not method.done():
        method.update()
    return image
