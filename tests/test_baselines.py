import pytest
import torch
from problems import random_batch

from gleam import baselines, metrics, physics
from gleam.fourier import fft2


def objective(x, batch, lamda):
    """0.5 ||A x - y||^2 + lamda ||W x||_1, which FISTA minimises."""
    import sigpy

    wavelet = sigpy.linop.Wavelet(x.shape[1:], wave_name="db4")
    l1 = sum(abs(wavelet(one.numpy())).sum() for one in x)
    return 0.5 * (batch.sense.forward(x) - batch.kspace).abs().square().sum().item() + lamda * l1


def test_zero_filled_is_the_adjoint(batch):
    torch.testing.assert_close(baselines.zero_filled(batch), batch.sense.adjoint(batch.kspace))


def test_wavelet_lowers_its_objective():
    batch = random_batch(n=2, shape=(32, 24))
    values = [objective(baselines.wavelet(0.02, n_iterations=n)(batch), batch, 0.02) for n in (1, 5, 50)]
    assert objective(batch.zero_filled, batch, 0.02) > values[0] > values[1] > values[2]


def test_fully_sampled_wavelet_without_weight_returns_the_image():
    batch = random_batch(n=1, shape=(32, 24))
    full = physics.Batch.undersample(
        fft2(batch.sens_maps * batch.target[:, None]), torch.ones_like(batch.mask), batch.sens_maps, batch.target
    )
    image = baselines.wavelet(0.0, n_iterations=60)(full)
    assert image.dtype == full.target.dtype
    assert metrics.nrmse(image, full.target).item() < 1e-3


def test_weight_is_chosen_on_validation(splits):
    _, val, _ = splits
    best, scores = baselines.choose_lamda([1e-3, 0.02, 5.0], val, n_slices=2)
    assert best == min(scores, key=scores.get) and len(scores) == 3
    assert scores[5.0] > scores[best]


def test_negative_weight_is_refused():
    with pytest.raises(ValueError, match="lamda=-1"):
        baselines.wavelet(-1)
