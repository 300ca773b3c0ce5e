"""Reconstructions without training: zero-filled, and compressed sensing by SigPy.

Each is a function `batch -> image`, which :func:`gleam.evaluate` takes like a network.
"""

from __future__ import annotations

import functools
import itertools
import math
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from gleam.files import whole_number
from gleam.metrics import nrmse
from gleam.physics.batch import Batch
from gleam.physics.sparse import l1_terms, primal_dual, wavelet_slice

Method = Callable[[Batch], Tensor]


def zero_filled(batch: Batch) -> Tensor:
    """A^H y: coil-combined inverse FFT of the measured samples."""
    return batch.zero_filled


def wavelet(lamda: float, *, n_iterations: int = 100, cycle_spinning: bool = True) -> Method:
    """Compressed sensing with l1-wavelet regularisation, slice by slice.

    Parameters
    ----------
    lamda : float
        Weight of the l1 norm in normalised units, at least 0. The paper has 0.12, 0.07, 0.06 for knees at R = 4, 12, 16
        and 0.001 for brains.
    n_iterations : int
        Iterations of FISTA, at least 1.
    cycle_spinning : bool
        Threshold in each iteration after a random circular shift. Without it: SigPy's `L1WaveletRecon`, with the
        wavelet of this module.

    Returns
    -------
    callable
        :class:`gleam.physics.Batch` to images (batch, [time,] y, x). The frames of a series are reconstructed one by
        one, each as a slice. Within `joblib.parallel_config(n_jobs=8)` eight processes share the slices.

    Raises
    ------
    ValueError
        If `lamda` or `n_iterations` is out of range.

    Notes
    -----
    Section V-B2 of the paper; FISTA made of SigPy's parts. Wavelet thresholding depends on the position of the grid of
    the wavelets, which shows as blocks in the image. With cycle spinning (Coifman & Donoho 1995; in iterations,
    Figueiredo & Nowak 2003), as in BART's `pics`, each iteration shifts the image, thresholds it and shifts it back.
    The shifts are from 0 to 2**levels - 1 along each axis, since others give the same but at the borders; they are the
    same for every slice and every call. Random shifts keep the iterates moving, so the mean of the last quarter of them
    is returned.
    """
    _check_weights(n_iterations, lamda=lamda)
    return functools.partial(_wavelet, lamda=lamda, n_iterations=n_iterations, cycle_spinning=cycle_spinning)


def spatiotemporal(lamda_wavelet: float, lamda_space: float, lamda_time: float, *, n_iterations: int = 200) -> Method:
    """Compressed sensing of a series with l1-wavelets and total variation in space and in time.

    Parameters
    ----------
    lamda_wavelet, lamda_space, lamda_time : float
        Weights of :func:`objective` in normalised units, at least 0. The paper has 0.05 for TV in space and 0.01 for TV
        in time; it states none for the wavelets.
    n_iterations : int
        Iterations of the primal-dual method, at least 1.

    Returns
    -------
    callable
        :class:`gleam.physics.Batch` of series to images (batch, time, y, x); for several processes see
        :func:`wavelet`. It raises ValueError if `lamda_time` > 0 and the batch holds 2D images or series of one frame.

    Raises
    ------
    ValueError
        If a weight or `n_iterations` is out of range.

    Notes
    -----
    Section V-B2 of the paper. Proximal gradient descent for the data with a dual step for the three l1 norms, which
    together have no simple proximal operator (Condat 2013, Algorithm 3.1), made of SigPy's parts.
    """
    lamdas = {"lamda_wavelet": lamda_wavelet, "lamda_space": lamda_space, "lamda_time": lamda_time}
    _check_weights(n_iterations, **lamdas)
    return functools.partial(_spatiotemporal, **lamdas, n_iterations=n_iterations)


def objective(
    image: Tensor, batch: Batch, *, lamda_wavelet: float = 0, lamda_space: float = 0, lamda_time: float = 0
) -> Tensor:
    """The function that compressed sensing minimises: data misfit plus weighted l1 norms.

    Parameters
    ----------
    image : complex Tensor, shape (batch, [time,] y, x)
    batch : Batch
        The measured data.
    lamda_wavelet, lamda_space, lamda_time : float
        Weights of the l1 norms in normalised units.

    Returns
    -------
    Tensor, shape (batch,)

    Notes
    -----
    `1/2 ||A x - y||^2 + lamda_wavelet ||W x||_1 + lamda_space (||D_y x||_1 + ||D_x x||_1) + lamda_time ||D_t x||_1`

    W: 2D wavelets (Daubechies 2) of each frame. D: differences to the previous neighbour, periodic, since a heart beats
    periodically and there is air at the borders of the field of view. :func:`spatiotemporal` minimises this with three
    weights, :func:`wavelet` without cycle spinning with one. With cycle spinning, :func:`wavelet` approximately
    minimises its mean over all shifts of the grid of the wavelets.
    """
    lamdas = (lamda_wavelet, lamda_space, lamda_time)
    misfit = (batch.sense.forward(image) - batch.kspace).abs().square().flatten(1).sum(1) / 2
    norms = [[lamda * np.abs(op(x)).sum() for op, lamda in l1_terms(x.shape, *lamdas)] for x in image.cpu().numpy()]
    return misfit + torch.tensor([float(np.sum(one)) for one in norms]).to(misfit)


def choose_lamda(
    lamdas: Sequence[float] | Sequence[Sequence[float]],
    val: Sequence[Batch],
    *,
    n_slices: int = 8,
    make: Callable[..., Method] = wavelet,
    n_extensions: int = 6,
) -> tuple[float | tuple[float, ...], dict]:
    """Find the weight with the lowest mean nRMSE on `n_slices` evenly spread slices of `val`.

    Parameters
    ----------
    lamdas : sequence of float, or sequence of sequences of float
        A geometric grid of weights. For a method of several weights, such as `make=spatiotemporal`, one grid for
        each. A grid of one weight fixes it; 0 may be a candidate beside at least two others.
    val : sequence of Batch
        Slices with targets, such as :class:`gleam.datasets.Slices`.
    n_slices : int
    make : callable
        Weights -> method, which is batch -> image.
    n_extensions : int
        Largest number of weights that are added to a grid at either end.

    Returns
    -------
    best : float, or tuple of float
    scores : dict
        Mean nRMSE of every weight, or tuple of weights, that was tried.

    Raises
    ------
    ValueError
        If `lamdas` or a grid is empty, if a grid holds 0 and only one other weight, so that it has no ratio, or if a
        slice cannot be scored.

    Warns
    -----
    UserWarning
        If the best weight lies where `n_extensions` ended the search.

    Notes
    -----
    With one weight, the whole grid is tried and the search starts from its best weight. With several, it starts from
    the middle of every grid and changes one weight at a time as long as the score falls. Past its ends a grid goes on
    by its ratio, but never below 0. At the end, no neighbour of any weight on either side is better.
    """
    if not len(lamdas):
        raise ValueError("lamdas is empty; expected at least one weight, or one grid of weights for each")
    n_slices, n_extensions = whole_number(n_slices, "n_slices"), whole_number(n_extensions, "n_extensions", 0)
    several = np.ndim(lamdas[0]) > 0
    grids = [_extended(grid, n_extensions) for grid in (lamdas if several else [lamdas])]
    numbers = [int(i) for i in np.linspace(0, len(val) - 1, min(n_slices, len(val)))]
    slices = [val[i] for i in numbers]
    scores: dict[tuple[float, ...], float] = {}

    def score(place):
        key = tuple(grid[i] for (grid, _), i in zip(grids, place, strict=True))
        if key not in scores:  # each is tried once
            method = make(*key)
            of_slices = [nrmse(method(one), one.target).item() for one in slices]
            if wrong := [i for i, value in zip(numbers, of_slices, strict=True) if not math.isfinite(value)]:
                raise ValueError(f"val[{wrong[0]}] cannot be scored: it is empty or holds values that are not finite")
            scores[key] = float(np.mean(of_slices))
        return scores[key]

    if several:
        place = tuple(given[len(given) // 2] for _, given in grids)
    else:
        place = min(((i,) for i in grids[0][1]), key=score)
    start = None
    while place != start:  # until no step of any weight, up or down, lowers the score
        start = place
        for axis, step in itertools.product(range(len(grids)), (-1, 1)):
            beside = (*place[:axis], place[axis] + step, *place[axis + 1 :])
            while 0 <= beside[axis] < len(grids[axis][0]) and score(beside) < score(place):
                place, beside = beside, (*place[:axis], beside[axis] + step, *place[axis + 1 :])
    best = min(scores, key=scores.__getitem__)
    for lamda, (grid, _) in zip(best, grids, strict=True):
        if len(grid) > 1 and lamda in (grid[0], grid[-1]) and lamda > 0:
            warnings.warn(
                f"best weight {lamda:g} is where the search ended; expected a grid nearer to it", stacklevel=2
            )
    return (best, scores) if several else (best[0], {key[0]: value for key, value in scores.items()})


def _extended(lamdas, n_extensions):
    """The grid in ascending order, continued at both ends by its ratio, and the indices of the given weights."""
    grid = sorted({float(lamda) for lamda in lamdas})
    # 0 has no ratio to the next weight
    positive = [lamda for lamda in grid if lamda > 0]
    if not grid or (len(grid) > 1 and len(positive) < 2):
        raise ValueError(f"grid {list(lamdas)!r} of weights: expected one weight, or at least two above 0 and maybe 0")
    if len(grid) == 1:
        return grid, range(1)
    ratio = (positive[-1] / positive[0]) ** (1 / (len(positive) - 1))
    steps = range(1, n_extensions + 1)
    below = [grid[0] / ratio**i for i in reversed(steps)] if grid[0] > 0 else []
    return [*below, *grid, *(grid[-1] * ratio**i for i in steps)], range(len(below), len(below) + len(grid))


def _check_weights(n_iterations, **lamdas):
    for name, lamda in lamdas.items():
        if not 0 <= lamda < math.inf:
            raise ValueError(f"{name}={lamda!r} of compressed sensing must be a number of at least 0")
    whole_number(n_iterations, "n_iterations")


def _wavelet(batch, *, lamda, n_iterations, cycle_spinning):
    kspace, mask, sens_maps = (x.cpu().numpy() for x in (batch.kspace, batch.mask, batch.sens_maps))
    frames = [
        ((b, slice(None), *t), (b, slice(None), *(0 for _ in t))) for b, *t in np.ndindex(*batch.target.shape[:-2])
    ]
    images = _each(
        wavelet_slice,
        ((kspace[frame], mask[frame], sens_maps[maps], lamda, n_iterations, cycle_spinning) for frame, maps in frames),
    )
    return torch.from_numpy(np.stack(images).reshape(batch.target.shape)).to(batch.target)


def _each(function, arguments):
    """Results of `function(*one)` for each of `arguments`, in as many processes as joblib is configured for."""
    from joblib import Parallel, delayed

    return Parallel()(delayed(function)(*one) for one in arguments)


def _spatiotemporal(batch, *, lamda_wavelet, lamda_space, lamda_time, n_iterations):
    lamdas = lamda_wavelet, lamda_space, lamda_time
    l1_terms(tuple(batch.target.shape[1:]), *lamdas)  # checks the batch before other processes start
    arrays = (x.cpu().numpy() for x in (batch.kspace, batch.mask, batch.sens_maps, batch.zero_filled))
    images = _each(primal_dual, ((*one, lamdas, n_iterations) for one in zip(*arrays, strict=True)))
    return torch.from_numpy(np.stack(images)).to(batch.target)
