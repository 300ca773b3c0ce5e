"""Numbers that decide which records belong together.

Where one of them changes for a good reason, results made before and after cannot stand in one table: raise
``gleam.records.RESULTS_VERSION``, write the new numbers here, and make the archived records anew.
"""

import numpy as np
import pytest
import torch

import gleam
from gleam.phantoms import simulated
from gleam.records import RESULTS_VERSION

GOLDEN = {  # scale, mean of the zero-filled image; then nRMSE and SSIM of the object by PGD, by MoDL, by CS
    2: {
        "knee": (0.77735, 0.39682, 0.38395, 0.79778, 0.15363, 0.91785, 0.12669, 0.92775),
        "heart": (0.52892, 0.36335, 0.43164, 0.65822, 0.2333, 0.83981, 0.15224, 0.91695),
        "brain": (0.00034472, 0.42904, 0.55644, 0.44215, 0.2782, 0.70029, 0.25505, 0.71637),
    }
}
KNEES = dict(acceleration=4, n_calibration=6, n_masks=2, n_train=1, n_val=0, n_test=1, n_slices=4, matrix=(32, 32))
HEARTS = dict(
    acceleration=4, n_center=2, n_masks=2, n_train=1, n_val=0, n_test=1, n_slices=1, matrix=(32, 32), n_frames=4
)


BRAINS = dict(acceleration=4, center_fraction=0.2, n_masks=2, n_train=1, n_val=0, n_test=1, n_slices=2, matrix=(32, 32))
WAVELET, VARIATION = gleam.baselines.wavelet(0.01, n_iterations=20), gleam.baselines.spatiotemporal
BASELINES = {"knee": WAVELET, "brain": WAVELET, "heart": VARIATION(0.0, 0.005, 0.01, n_iterations=20)}


@pytest.mark.parametrize("name", ["knee", "brain", "heart"])
def test_data_networks_training_and_scores_are_those_of_this_results_version(name):
    make, settings, n_dims = {
        "knee": (simulated.knees, KNEES, 2),
        "brain": (simulated.brains, BRAINS, 2),
        "heart": (simulated.hearts, HEARTS, 3),
    }[name]
    train, _, test = make(**settings, n_coils=3, n_jobs=1)
    batch = train.training_batch(0, 1, 0)
    numbers = [batch.scale[0].item(), batch.zero_filled.abs().mean().item()]
    for make_network in (gleam.unrolled.pgd, gleam.unrolled.modl):
        network = make_network(2, 4, n_dims=n_dims, seed=0)
        strategy = gleam.Greedy(2)
        optimizers = gleam.strategies.optimizers(strategy, network, learning_rate=1e-3, weight_decay=1e-4)
        for step in range(3):
            strategy.step(network, train.training_batch(step, 1, 0), optimizers)
        numbers += [gleam.evaluate(network, test)[score].mean() for score in ("nrmse", "ssim_object")]
    table = gleam.evaluate(BASELINES[name], test)
    numbers += [table[score].mean() for score in ("nrmse", "ssim_object")]
    assert np.array(numbers) == pytest.approx(GOLDEN[RESULTS_VERSION][name], rel=2e-3)
    assert torch.isfinite(torch.tensor(numbers)).all()
