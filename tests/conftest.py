"""Fixtures that many tests share."""

from functools import partial

import pytest
import torch
from problems import random_batch, small_disc, write_prepared

from gleam.datasets.slices import Slices

torch.set_num_threads(1)


def pytest_addoption(parser):
    parser.addoption("--sample", action="store_true", help="a tenth of the tests marked `faults`")


@pytest.fixture
def batch():
    return random_batch()


@pytest.fixture
def splits(tmp_path):
    """(train, val, test) of random smooth objects: 3, 1 and 2 files of 3 slices."""
    make_mask = partial(small_disc, acceleration=3)
    counts = {"train": 3, "val": 1, "test": 2}
    return tuple(
        Slices(
            split, tuple(write_prepared(tmp_path / f"{split}{k}.h5", seed=10 * i + k) for k in range(n)),
            make_mask, n_masks=4, seed=i, cache_dir=tmp_path,
        )
        for i, (split, n) in enumerate(counts.items())
    )  # fmt: skip
