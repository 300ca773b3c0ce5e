from dataclasses import fields

import numpy as np
import pytest
import torch
from problems import complex_normal, random_batch, unit_maps

import gleam
from gleam import execution, fourier, physics
from gleam.physics.batch import Batch
from gleam.physics.sense import Sense

# every linear operator of the project: (operator, shape of its input, shape of its output)
SHAPE = (12, 9)


def sense(n_frames=None, dtype=torch.complex128, varies=SHAPE):
    """With a mask that is constant where ``varies`` has 1."""
    time = [] if n_frames is None else [n_frames]
    maps = unit_maps(2, 4, *[1] * len(time), *SHAPE, dtype=dtype)
    mask = (torch.rand(2, 1, *time, *varies, generator=torch.Generator().manual_seed(0)) < 0.3).to(maps.real.dtype)
    return Sense(maps, mask), (2, *time, *SHAPE), (2, 4, *time, *SHAPE)


OPERATORS = {
    "2D": sense(), "2D + time": sense(n_frames=5),
    "columns": sense(varies=(1, SHAPE[1])), "rows": sense(varies=(SHAPE[0], 1)),
    "columns + time": sense(n_frames=5, varies=(1, SHAPE[1])), "rows + time": sense(n_frames=5, varies=(SHAPE[0], 1)),
    "whole frames": sense(n_frames=5, varies=(1, 1)),
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATORS)
def test_adjointness_by_the_dot_product(name):
    operator, image_shape, kspace_shape = OPERATORS[name]
    x, y = (
        complex_normal(*shape, seed=s, dtype=torch.complex128) for s, shape in enumerate((image_shape, kspace_shape))
    )
    assert operator.forward(x).shape == kspace_shape and operator.adjoint(y).shape == image_shape
    left, right = torch.vdot(y.ravel(), operator.forward(x).ravel()), torch.vdot(operator.adjoint(y).ravel(), x.ravel())
    torch.testing.assert_close(left, right)


@pytest.mark.parametrize("name", OPERATORS)
def test_normal_is_adjoint_of_forward_and_does_not_expand(name):
    operator, image_shape, _ = OPERATORS[name]
    x = complex_normal(*image_shape, dtype=torch.complex128)
    torch.testing.assert_close(operator.normal(x), operator.adjoint(operator.forward(x)))
    assert operator.normal(x).norm() <= x.norm()


@pytest.mark.parametrize("name", [name for name in OPERATORS if not name.startswith("2D")])
def test_the_transform_along_whole_lines_cancels(name):
    operator, image_shape, kspace_shape = OPERATORS[name]
    full = Sense(operator.sens_maps, operator.mask.expand(2, 1, *kspace_shape[2:]).clone())
    x, y = (complex_normal(*shape, dtype=torch.complex128) for shape in (image_shape, kspace_shape))
    torch.testing.assert_close(operator.normal(x), full.normal(x))
    torch.testing.assert_close(operator.forward(x), full.forward(x))
    torch.testing.assert_close(operator.adjoint(y), full.adjoint(y))
    assert torch.equal(physics.without_readout(full.mask), operator.mask)
    assert physics.without_readout(full.mask.numpy()).shape == operator.mask.shape


def test_only_axes_along_which_every_mask_is_constant_are_cut():
    mask = torch.ones(3, 6, 5)
    mask[1, 2] = 0
    assert physics.without_readout(mask).shape == (3, 6, 1)
    mask[2, :, 4] = 0
    assert physics.without_readout(mask) is mask


@pytest.mark.parametrize("name", OPERATORS)
def test_a_shift_is_added_with_its_gradient(name):
    operator, image_shape, _ = OPERATORS[name]
    x = complex_normal(*image_shape, dtype=torch.complex128).requires_grad_()
    learned = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    expected = operator.adjoint(operator.forward(x)) + 0.3 * x
    torch.testing.assert_close(operator.normal(x, 0.3), expected)
    torch.testing.assert_close(operator.normal(x, learned), expected)
    found = [torch.autograd.grad(y.abs().square().sum(), x)[0] for y in (operator.normal(x, 0.3), expected)]
    torch.testing.assert_close(*found)
    (slope,) = torch.autograd.grad(operator.normal(x, learned).real.sum(), learned)
    torch.testing.assert_close(slope, x.detach().real.sum())


@pytest.mark.parametrize("n_coils", [1, 2])
@pytest.mark.parametrize("name", OPERATORS)
def test_groups_of_coils_add_up(name, n_coils, monkeypatch):
    operator, image_shape, _ = OPERATORS[name]
    x = complex_normal(*image_shape, dtype=torch.complex128)
    expected, seen, fft = operator.normal(x), [], physics.sense.fft_unscaled
    monkeypatch.setattr(physics.sense, "fft_unscaled", lambda k, axes: seen.append(k.shape[1]) or fft(k, axes))
    monkeypatch.setattr(physics.sense, "AT_ONCE", n_coils * x.numel() + 1)
    torch.testing.assert_close(operator.normal(x), expected)
    assert max(seen) == n_coils and sum(seen) == 2 * operator.sens_maps.shape[1]


@pytest.mark.parametrize("name", OPERATORS)
def test_normal_has_the_gradient_that_autograd_finds_step_by_step(name):
    operator, image_shape, _ = OPERATORS[name]
    x, other = (complex_normal(*image_shape, seed=s, dtype=torch.complex128).requires_grad_() for s in (0, 1))
    found = [torch.autograd.grad((f(x) * other).abs().sum(), x)[0]
             for f in (operator.normal, lambda x: operator.adjoint(operator.forward(x)))]  # fmt: skip
    torch.testing.assert_close(*found)
    assert torch.autograd.gradgradcheck(lambda x: operator.normal(x).abs().square(), x, fast_mode=True)


def test_full_sampling_inverts():
    operator, image_shape, _ = OPERATORS["2D"]
    full = Sense(operator.sens_maps, torch.ones_like(operator.mask))
    x = complex_normal(*image_shape, dtype=torch.complex128)
    torch.testing.assert_close(full.normal(x), x)


def test_a_series_is_its_frames():
    operator, image_shape, _ = OPERATORS["2D + time"]
    x = complex_normal(*image_shape, dtype=torch.complex128)
    for t in range(image_shape[1]):
        frame = Sense(operator.sens_maps[:, :, 0], operator.mask[:, :, t])
        torch.testing.assert_close(operator.normal(x)[:, t], frame.normal(x[:, t]))


@pytest.mark.parametrize(
    ("maps", "mask"),
    [((2, 4, 8, 8), (2, 4, 8, 8)), ((2, 4, 8, 8), (2, 1, 8, 6)), ((4, 8, 8), (1, 8, 8)), ((1, 4, 8, 8), (2, 1, 8, 8))],
)
def test_shapes_that_do_not_fit_are_named(maps, mask):
    with pytest.raises(ValueError, match=r"sens_maps of shape.*mask of shape"):
        Sense(torch.ones(maps, dtype=torch.complex64), torch.ones(mask))


@pytest.mark.parametrize("n_frames", [None, 4])
def test_batch_is_normalised_by_the_zero_filled_image(n_frames):
    batch = random_batch(n_frames=n_frames)
    magnitude = batch.zero_filled.abs() if n_frames is None else batch.zero_filled.abs().mean(1)
    torch.testing.assert_close(torch.quantile(magnitude.flatten(1), 0.95, dim=1), torch.ones(2))
    torch.testing.assert_close(batch.sense.adjoint(batch.kspace), batch.zero_filled)
    torch.testing.assert_close(batch.kspace, batch.sense.forward(batch.target))


@pytest.mark.parametrize("unit", [1e-20, 1e-6, 1.0, 1e12])
@pytest.mark.parametrize("size", [4, 9, 60])
def test_normalisation_knows_neither_units_nor_air(unit, size):
    """A square of ``size`` pixels, of 96 x 80: where it fills little, adding air changes nothing."""
    image = torch.zeros(1, 96, 80, dtype=torch.complex64)
    image[:, 20 : 20 + size, 15 : 15 + size] = 1 + 0.2 * complex_normal(1, size, size)
    sens_maps = (image != 0).to(torch.complex64)[:, None]
    plain, scaled = (_undersampled(image * u, sens_maps) for u in (1.0, unit))
    torch.testing.assert_close(scaled.target, plain.target, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scaled.scale / unit, plain.scale, rtol=1e-4, atol=0)
    assert 1 < plain.target.abs().max() < 5
    if size < 10:
        padded = _undersampled(*(torch.nn.functional.pad(x, (40, 40, 48, 48)) for x in (image, sens_maps)))
        torch.testing.assert_close(padded.scale, plain.scale)


def _undersampled(image, sens_maps):
    """All of k-space, so that the zero-filled image is the image."""
    mask = torch.ones(1, 1, *image.shape[-2:])
    return Batch.undersample(Sense(sens_maps, mask).forward(image), mask, sens_maps, image)


def test_an_empty_slice_stays_finite():
    zero = torch.zeros(1, 2, 8, 8, dtype=torch.complex64)
    batch = Batch.undersample(zero, torch.ones(1, 1, 8, 8), zero, zero[:, 0])
    assert batch.zero_filled.isfinite().all() and (batch.scale == 1).all()


def test_a_slice_of_centred_arrays_becomes_the_same_batch():
    batch = random_batch(n=1, shape=(11, 8))
    kspace = fourier.fft2c(batch.sens_maps * batch.target[:, None])[0].numpy()
    mask = fourier.fftshift2(batch.mask[0, 0]).bool().numpy()
    again = Batch.from_slice(kspace, mask, batch.sens_maps[0].numpy())
    for name in ("kspace", "mask", "sens_maps", "zero_filled", "target"):
        torch.testing.assert_close(getattr(again, name), getattr(batch, name), rtol=1e-4, atol=1e-5)


def test_a_slice_that_was_undersampled_at_the_scanner_can_be_reconstructed_and_not_scored():
    batch = random_batch(n=1, shape=(11, 8))
    kspace = fourier.fft2c(fourier.ifft2(batch.kspace))[0].numpy()
    mask, maps = fourier.fftshift2(batch.mask[0, 0]).bool().numpy(), batch.sens_maps[0].numpy()
    measured = Batch.from_measured(kspace, maps, mask)
    for name in ("kspace", "mask", "zero_filled"):
        torch.testing.assert_close(getattr(measured, name), getattr(batch, name), rtol=1e-4, atol=1e-5)
    assert measured.target.isnan().all() and torch.equal(Batch.from_measured(kspace * mask, maps).mask, measured.mask)
    assert gleam.reconstruct(gleam.unrolled.pgd(2, 4), measured).isfinite().all()
    with pytest.raises(ValueError, match=r"not fully sampled and has no target; .*Batch\.from_measured"):
        Batch.from_slice(kspace * mask, mask, maps)
    for other in (np.ones_like(mask), mask * (np.arange(mask.shape[1]) % 2 == 0)):  # all, and some of the measured
        with pytest.raises(ValueError, match="kspace is zero between its samples"):
            Batch.from_slice(kspace * mask, other, maps)
    padded = np.array(kspace)
    padded[..., :2], padded[..., -2:] = 0, 0
    assert Batch.from_slice(padded, mask, maps).target.isfinite().all(), "zeros at both ends are padding"
    with pytest.raises(ValueError, match=r"samples where mask is 0; .* not in FFT order"):
        Batch.from_measured(kspace, maps, batch.mask[0, 0].numpy())


GOOD = {"kspace": np.ones((3, 8, 6), np.complex128), "mask": np.ones((8, 6)), "sens_maps": np.ones((3, 8, 6), complex)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mask": np.ones((6, 8))}, r"mask \(6, 8\)"),
        ({"sens_maps": np.ones((2, 8, 6), complex)}, r"sens_maps \(2, 8, 6\)"),
        ({"kspace": np.ones((1, 8, 6), complex)}, r"kspace \(1, 8, 6\)"),
        ({"kspace": np.ones((3, 8, 6))}, "kspace is torch.float64"),
        ({"kspace": np.full((3, 8, 6), np.nan + 0j)}, "kspace .* holds NaN"),
        ({"sens_maps": np.zeros((3, 8, 6), complex)}, "sens_maps are empty"),
        ({"mask": np.zeros((8, 6))}, "mask measures nothing"),
        ({"mask": np.full((8, 6), 2.5)}, "values other than 0 and 1"),
    ],
)
def test_arrays_that_do_not_fit_are_named(change, words):
    assert Batch.from_slice(**GOOD).kspace.dtype == torch.complex64
    with pytest.raises(ValueError, match=words):
        Batch.from_slice(**{**GOOD, **change})


@pytest.mark.parametrize("learned", [(True, False), (False, True), (False, False)])
def test_maps_and_masks_can_be_learned(learned):
    operator, image_shape, _ = OPERATORS["2D"]
    maps, mask = operator.sens_maps.clone(), torch.rand_like(operator.mask.double())
    learned_op = Sense(maps.requires_grad_(learned[0]), mask.requires_grad_(learned[1]))
    x = complex_normal(*image_shape, dtype=torch.complex128).requires_grad_()
    torch.testing.assert_close(learned_op.normal(x), learned_op.adjoint(learned_op.forward(x)))
    asked = [t for t in (maps, mask) if t.requires_grad]
    assert all(g.abs().max() > 0 for g in torch.autograd.grad(learned_op.normal(x).abs().sum(), [x, *asked]))


def test_coils_are_combined_alike_with_and_without_a_compiler(monkeypatch):
    operator, image_shape, _ = OPERATORS["2D"]
    x = complex_normal(*image_shape, dtype=torch.complex128)
    expected = operator.normal(x)
    monkeypatch.setattr(execution, "compiled", lambda function: function)
    with execution.using(device_type="cpu", compiled=True):
        torch.testing.assert_close(operator.normal(x), expected)


def test_batches_are_joined_as_they_were_parted():
    batch = random_batch(n=4)
    again = Batch.joined([batch.part(i, 4) for i in range(4)])
    for f in fields(Batch):
        assert torch.equal(getattr(again, f.name), getattr(batch, f.name)), f.name
