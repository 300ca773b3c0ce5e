"""What a GPU computes, beside the CPU: `pytest -m gpu`. With GLEAM_DEVICE=cpu: the CPU beside itself, small."""

import os

import pytest
import torch
from gpu.checks import checks
from gpu.probes import At

DEVICE = os.environ.get("GLEAM_DEVICE", "cuda")
IS_GPU = DEVICE.startswith("cuda")
LARGE = {"shapes": {"2D": (96, 80), "2D + time": (6, 48, 40)}, "n_features": 20}
SMALL = {"shapes": {"2D": (24, 16), "2D + time": (2, 24, 16)}, "n_features": 4}
AT = At(DEVICE, **(LARGE if IS_GPU else SMALL))

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        IS_GPU and not torch.cuda.is_available(), reason="there is no GPU (GLEAM_DEVICE=cpu does without)"
    ),
]


@pytest.mark.parametrize("name", checks())
def test_the_device_agrees(name):
    check = checks()[name]
    if check.compiles and not IS_GPU:
        pytest.skip("compiling is tried on a GPU only")
    assert check.error(AT) <= check.bound


def test_what_is_wrong_is_seen():
    """The same step in modules has other gradients, and bf16 rounds."""
    from gpu import probes

    from gleam import EndToEnd, Greedy

    whole, in_modules = (probes.gradients(AT, strategy)[1:] for strategy in (EndToEnd(), Greedy(2)))
    assert probes.relative_error([torch.cat(in_modules)], whole) > 0.1
    assert checks()["bf16 beside fp32, losses, PGD"].error(AT) > 1e-6
