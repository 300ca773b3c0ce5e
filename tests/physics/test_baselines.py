import itertools
import math
from functools import partial

import pytest
import torch
from joblib import parallel_config
from problems import complex_normal, random_batch, unit_maps

from gleam import baselines, masks, metrics, physics
from gleam.physics.fourier import fft2, fft2c, fftshift2, ifft2, ifftshift2

LAMDAS = {"lamda_wavelet": 0.003, "lamda_space": 0.01, "lamda_time": 0.03}


def sampled(target, maps, mask):
    """The noiseless batch of ``target`` (batch, [time,] y, x) under a centred ``mask`` ([time,] y, x)."""
    mask = torch.from_numpy(ifftshift2(mask)).expand(len(target), *mask.shape)[:, None]
    return physics.Batch.undersample(fft2(maps * target.unsqueeze(1)), mask, maps, target)


@pytest.fixture(scope="module")
def series():
    """A disc that beats, with a phase, 6 frames of 32 x 24 under a k-t mask."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 24), indexing="ij")
    radius = 0.5 + 0.2 * torch.cos(2 * torch.pi * torch.arange(6) / 6)[:, None, None]
    target = ((y**2 + x**2 < radius**2) + 0.3) * torch.exp(1j * x)
    return sampled(target[None], unit_maps(1, 4, 1, 32, 24), masks.kt_variable_density((6, 32, 24), 3, seed=0))


def test_zero_filled_is_the_adjoint(batch):
    torch.testing.assert_close(baselines.zero_filled(batch), batch.sense.adjoint(batch.kspace))


def test_objective_of_an_image_known_by_hand():
    batch = random_batch(n=2, n_frames=4)
    flat = torch.ones_like(batch.target)
    misfit = baselines.objective(flat, batch)
    expected = 0.5 * (batch.sense.forward(flat) - batch.kspace).abs().square().sum((1, 2, 3, 4))
    torch.testing.assert_close(misfit, expected)
    for lamda in ("lamda_space", "lamda_time"):  # neighbours are taken around the edges: a flat image has no variation
        torch.testing.assert_close(baselines.objective(flat, batch, **{lamda: 7.0}), misfit)
    flat[:, 2, 5, 5] += 3  # differs from four neighbours in space, two in time, by 3 each
    added = [
        baselines.objective(flat, batch, **{name: 7.0}) - baselines.objective(flat, batch)
        for name in ("lamda_space", "lamda_time")
    ]
    torch.testing.assert_close(added[0], torch.full((2,), 7.0 * 4 * 3), rtol=1e-4, atol=0)
    torch.testing.assert_close(added[1], torch.full((2,), 7.0 * 2 * 3), rtol=1e-4, atol=0)


def test_wavelet_lowers_its_objective():
    batch = random_batch(n=2, shape=(32, 24))
    objective = partial(baselines.objective, batch=batch, lamda_wavelet=0.02)
    plain = partial(baselines.wavelet, 0.02, cycle_spinning=False)
    values = [objective(plain(n_iterations=n)(batch)).sum() for n in (1, 5, 50)]
    assert objective(0 * batch.target).sum() > values[0] > values[1] > values[2]
    assert objective(batch.zero_filled).sum() > values[2]


def over_shifts(image, batch, lamda):
    """The objective of the whole batch, its l1 norm averaged over 8 x 8 shifts of the wavelets' grid."""
    misfit = baselines.objective(image, batch).sum()
    norms = [
        (baselines.objective(image.roll((i, j), (-2, -1)), batch, lamda_wavelet=lamda)
         - baselines.objective(image.roll((i, j), (-2, -1)), batch)).sum()
        for i in range(8) for j in range(8)
    ]  # fmt: skip
    return misfit + torch.stack(norms).mean()


def test_cycle_spinning_lowers_the_objective_averaged_over_shifts(series):
    batch, lamda = frame(series, 0), 0.05
    one_grid = baselines.wavelet(lamda, n_iterations=200, cycle_spinning=False)(batch)
    images = [baselines.wavelet(lamda, n_iterations=n)(batch) for n in (5, 50, 200, 400)]
    values = [over_shifts(image, batch, lamda) for image in images]
    assert over_shifts(batch.zero_filled, batch, lamda) > values[0] > values[1] > values[2]
    assert over_shifts(one_grid, batch, lamda) > values[2]
    assert baselines.objective(one_grid, batch, lamda_wavelet=lamda) < baselines.objective(
        images[2], batch, lamda_wavelet=lamda
    )
    assert (images[3] - images[2]).norm() < 0.02 * images[3].norm()  # it comes to rest although the shifts go on


def test_shifts_are_the_same_for_every_slice_and_call(series):
    images = baselines.wavelet(0.05, n_iterations=20)(series)
    torch.testing.assert_close(baselines.wavelet(0.05, n_iterations=20)(series), images, rtol=0, atol=0)
    for t in (0, 4):
        torch.testing.assert_close(baselines.wavelet(0.05, n_iterations=20)(frame(series, t)), images[:, t])


def test_wavelet_without_shifts_is_sigpys_app(series):
    from sigpy.mri.app import L1WaveletRecon

    for keep_out in ([], [7]):  # whole lines measured, and not
        mask = series.mask[:, :, 0].expand(-1, -1, -1, 24).clone()
        mask[..., 0, keep_out] = 1 - mask[..., 0, keep_out]
        kspace = series.kspace[:, :, 0] * mask
        maps, (target, start) = series.sens_maps[:, :, 0], (x[:, 0] for x in (series.target, series.zero_filled))
        image = baselines.wavelet(0.05, n_iterations=40, cycle_spinning=False)(
            physics.Batch(kspace, mask, maps, start, target, series.scale)
        )
        centred = (fft2c(ifft2(kspace)), fftshift2(mask), maps)
        y, weights, maps = (x[0].numpy() for x in centred)
        weights = weights.repeat(len(y), 0)
        app = L1WaveletRecon(
            y * weights, maps, 0.05, weights=weights, wave_name="db2", alpha=1.0, max_iter=40, show_pbar=False
        )
        torch.testing.assert_close(image[0], torch.from_numpy(app.run()), rtol=0, atol=1e-4)


def test_spatiotemporal_lowers_its_objective(series):
    objective = partial(baselines.objective, batch=series, **LAMDAS)
    images = [baselines.spatiotemporal(**LAMDAS, n_iterations=n)(series) for n in (5, 20, 80, 320)]
    values = [objective(image).item() for image in images]
    assert objective(series.zero_filled).item() > values[0] > values[1] > values[2]
    assert values[2] < 1.01 * values[3]
    for seed in range(5):
        moved = images[3] + 0.01 * complex_normal(*series.target.shape, seed=seed)
        assert objective(moved).item() > values[3]
    for other in (series.target, baselines.wavelet(0.003)(series)):
        assert objective(other).item() > values[3]


@pytest.mark.parametrize("backend", ["threading", pytest.param("loky", marks=pytest.mark.slow)])
def test_slices_and_series_shared_out_give_the_same_images(backend):
    batch = random_batch(n=3, n_frames=2, shape=(16, 12))
    for method in (baselines.wavelet(0.02, n_iterations=3), baselines.spatiotemporal(**LAMDAS, n_iterations=3)):
        expected = method(batch)  # first, since SigPy's functions warn when two threads compile them at once
        with parallel_config(backend=backend, n_jobs=2):
            torch.testing.assert_close(method(batch), expected, rtol=0, atol=0)


def test_each_weight_does_its_part_and_the_result_is_better(series):
    image = baselines.spatiotemporal(**LAMDAS)(series)
    assert metrics.nrmse(image, series.target) < 0.5 * metrics.nrmse(series.zero_filled, series.target)
    for name in LAMDAS:
        more = baselines.spatiotemporal(**{**LAMDAS, name: 0.3})(series)
        norm = partial(baselines.objective, batch=series, **{name: 1.0})
        norms = [(norm(x) - baselines.objective(x, series)).item() for x in (more, image)]
        assert norms[0] < norms[1]


def test_one_weight_alone_is_the_wavelet_baseline():
    batch = random_batch(n=1, n_frames=3, acceleration=2)  # masks that change along the readout too
    method = baselines.wavelet(0.05, n_iterations=200, cycle_spinning=False)
    reference = method(batch)
    image = baselines.spatiotemporal(0.05, 0, 0, n_iterations=200)(batch)
    assert (image - reference).norm() < 1e-2 * reference.norm()
    torch.testing.assert_close(method(frame(batch, 2)), reference[:, 2])


@pytest.mark.parametrize("method", [baselines.wavelet(0.01), baselines.spatiotemporal(0.01, 0.01, 0.01)])
def test_maps_that_are_not_normalised_do_not_diverge(series, method):
    maps = 3 * series.sens_maps
    start = 3 * series.zero_filled
    image = method(physics.Batch(series.kspace, series.mask, maps, start, series.target, series.scale))
    assert metrics.nrmse(3 * image, series.target) < metrics.nrmse(series.zero_filled, series.target)


def frame(batch, t):
    """Frame ``t`` of a batch of series as a batch of images."""
    return physics.Batch(
        batch.kspace[:, :, t], batch.mask[:, :, t], batch.sens_maps[:, :, 0],
        batch.zero_filled[:, t], batch.target[:, t], batch.scale,
    )  # fmt: skip


def test_whole_readouts_take_the_shorter_transform_to_the_same_image(series):
    assert (series.mask == series.mask[..., :1]).all()
    keep = series.mask.clone()
    keep[..., 0, 0, 0, 7] = 1 - keep[..., 0, 0, 0, 7]  # one sample more or less: A along the readout is needed again
    other = physics.Batch(series.kspace * keep, keep, *(getattr(series, n) for n in FIELDS))
    a, b = (baselines.spatiotemporal(**LAMDAS, n_iterations=50)(one) for one in (series, other))
    assert 0 < (a - b).norm() < 0.02 * a.norm()
    assert abs(baselines.objective(b, other, **LAMDAS) / baselines.objective(a, series, **LAMDAS) - 1) < 0.02


FIELDS = ("sens_maps", "zero_filled", "target", "scale")


@pytest.mark.parametrize("n_frames", [None, 3])
@pytest.mark.parametrize("method", [baselines.wavelet, lambda lamda, **n: baselines.spatiotemporal(lamda, 0, 0, **n)])
def test_fully_sampled_without_weight_returns_the_image(method, n_frames):
    time = () if n_frames is None else (n_frames,)
    mask = torch.ones(*time, 32, 24, dtype=bool).numpy()
    full = sampled(complex_normal(2, *time, 32, 24), unit_maps(2, 3, *(1 for _ in time), 32, 24), mask)
    image = method(0.0, n_iterations=60)(full)
    assert image.dtype == full.target.dtype
    assert (metrics.nrmse(image, full.target) < 1e-3).all()


def test_weight_is_chosen_on_validation(splits):
    _, val, _ = splits
    best, scores = baselines.choose_lamda([1e-3, 0.02, 5.0], val, n_slices=2)
    assert best == min(scores, key=scores.get) and {1e-3, 0.02, 5.0} <= set(scores)
    assert scores[5.0] > scores[best]


class Method:
    """A method whose nRMSE is |log10(weight / best)|, summed over its weights; a weight of 0 counts as 1e-6."""

    def __init__(self, *best):
        self.best, self.tried = best, []

    def __call__(self, *lamdas):
        self.tried.append(lamdas)
        error = sum(abs(math.log10(max(lamda, 1e-6) / best)) for lamda, best in zip(lamdas, self.best, strict=True))
        return lambda batch: batch.target * (1 + error)


@pytest.mark.parametrize("best", [2e-5, 0.02, 3.0])
def test_a_grid_goes_on_until_the_best_weight_has_a_neighbour_on_both_sides(series, best):
    method = Method(best)
    grid = [0.003, 0.01, 0.03]
    lamda, scores = baselines.choose_lamda(grid, [series], make=method)
    assert set(grid) < set(scores) or best == 0.02
    assert abs(math.log10(lamda / best)) < 0.5 * math.log10(math.sqrt(10)) + 1e-6
    assert min(scores) < lamda < max(scores) and scores[lamda] == min(scores.values())
    assert len(method.tried) == len(scores) == len(set(method.tried))  # none is tried twice
    ordered = sorted(scores)
    ratios = [b / a for a, b in itertools.pairwise(ordered)]
    assert ratios == pytest.approx([math.sqrt(10)] * len(ratios), rel=0.06)  # 0.003 to 0.01 is not quite 10 ** 0.5


def test_a_search_that_ends_at_its_limit_says_so(series):
    for best in (1e-9, 1e9):
        with pytest.warns(UserWarning, match="is where the search ended"):
            _, scores = baselines.choose_lamda([0.1, 1.0], [series], make=Method(best), n_extensions=2)
        assert len(scores) == 4
    assert baselines.choose_lamda([0, 0.1, 1.0], [series], make=Method(1e-9))[0] == 0  # nothing is below 0
    best, scores = baselines.choose_lamda([0.1], [series], make=Method(1e-9))  # one weight is fixed
    assert best == 0.1 and len(scores) == 1


def test_several_weights_are_searched_one_at_a_time(series):
    method = Method(1e-4, 6e-6, 10.0)
    grids = ([0.01, 0.1, 1.0], [0.0, 1e-5, 1e-4], [0.5, 5.0])
    best, scores = baselines.choose_lamda(grids, [series], make=method)
    assert best == pytest.approx((1e-4, 1e-5, 5.0), abs=0) and (0.1, 1e-5, 5.0) in scores
    for axis in range(3):  # tried on both sides, and no better
        others = [k for k in scores if all(k[i] == best[i] for i in range(3) if i != axis)]
        assert min(k[axis] for k in others) < best[axis] < max(k[axis] for k in others)
        assert min(map(scores.get, others)) == scores[best]
    assert len(scores) < 20


def test_scores_are_those_of_the_method(series):
    make = partial(baselines.spatiotemporal, n_iterations=20)
    best, scores = baselines.choose_lamda(([0.003], [0.01, 0.03], [0.03]), [series], make=make)
    assert scores[best] == metrics.nrmse(make(*best)(series), series.target).item() == min(scores.values())


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: baselines.wavelet(-1), "lamda=-1 of compressed sensing must be a number of at least 0"),
        (lambda: baselines.wavelet(float("nan")), "lamda=nan"),
        (lambda: baselines.wavelet(0.1, n_iterations=0), "n_iterations=0 must be a whole"),
        (lambda: baselines.wavelet(float("inf")), "lamda=inf"),
        (lambda: baselines.choose_lamda([], None), "lamdas is empty"),
        (lambda: baselines.choose_lamda(([0.1], []), None), "grid .* of weights: expected one weight"),
        (lambda: baselines.choose_lamda([0, 0.1], None), "at least two above 0"),
        (lambda: baselines.spatiotemporal(0.1, -0.1, 0.1), "lamda_space=-0.1"),
        (lambda: baselines.spatiotemporal(0.1, 0.1, float("nan")), "lamda_time=nan"),
        (
            lambda: baselines.spatiotemporal(0, 0, 0.1)(random_batch()),
            r"needs series .* but the batch holds \(24, 20\)",
        ),
        (lambda: baselines.spatiotemporal(0, 0, 0.1)(random_batch(n_frames=1)), "at least 2 frames"),
    ],
)
def test_bad_weights_and_batches_are_named(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()
