from functools import partial

import numpy as np
import pytest

from gleam import masks

DISCS = [
    ((320, 256), 4, 20),
    ((320, 256), 12, 20),
    ((320, 256), 16, 20),
    ((128, 96), 12, 10),
    ((96, 80), 16, 8),
    ((96, 96), 8, 10),
]


@pytest.mark.parametrize(("shape", "acceleration", "n_calibration"), DISCS)
def test_poisson_disc(shape, acceleration, n_calibration):
    mask = masks.poisson_disc(shape, acceleration, n_calibration=n_calibration, seed=3)
    again = masks.poisson_disc(shape, acceleration, n_calibration=n_calibration, seed=3)
    other = masks.poisson_disc(shape, acceleration, n_calibration=n_calibration, seed=4)
    assert mask.shape == shape and mask.dtype == bool
    assert (mask == again).all() and (mask != other).any()
    assert masks.achieved_acceleration(mask) == pytest.approx(acceleration, rel=0.05)
    y, x = (n // 2 - n_calibration // 2 for n in shape)
    assert mask[y : y + n_calibration, x : x + n_calibration].all()
    assert not mask[0, 0] and not mask[0, -1] and not mask[-1, 0]


def test_poisson_disc_keeps_its_distance_and_thins_outwards():
    mask = masks.poisson_disc((160, 128), 12, n_calibration=10, seed=0)
    points = np.argwhere(mask)
    distance = np.hypot(*((points - [80, 64]) / [80, 64]).T)
    outer, outer_distance = points[distance > 0.2], distance[distance > 0.2]
    gaps = np.linalg.norm(outer[:, None] - outer[None], axis=-1) + 1e9 * np.eye(len(outer))
    slope = masks._slope((160, 128), 12, 10)
    radius = 1 + slope * (outer_distance[:, None] + outer_distance[None]) / 2
    assert (gaps >= radius - 1e-9).all()
    rings = [
        mask.ravel()[(d >= a) & (d < a + 0.25)].mean()
        for d in [masks._distance_from_center((160, 128)).ravel()]
        for a in (0.2, 0.45, 0.7)
    ]
    assert rings[0] > rings[1] > rings[2] > 0


@pytest.mark.parametrize(("n_columns", "acceleration"), [(384, 8), (312, 8), (128, 8), (96, 4), (180, 8)])
def test_random_columns(n_columns, acceleration):
    make = partial(masks.random_columns, (64, n_columns), acceleration, center_fraction=0.04)
    mask = make(seed=1)
    assert (mask == mask[:1]).all()
    assert masks.achieved_acceleration(mask) == pytest.approx(acceleration, rel=0.05)
    n_center = round(0.04 * n_columns)
    start = n_columns // 2 - n_center // 2
    assert mask[0, start : start + n_center].all()
    assert (mask == make(seed=1)).all() and (mask != make(seed=2)).any()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (partial(masks.poisson_disc, (32, 32), 16, n_calibration=20), "n_calibration=20"),
        (partial(masks.poisson_disc, (32, 32), 1, n_calibration=4), "cannot be met within 5 %"),
        (partial(masks.poisson_disc, (32,), 4), "two sizes"),
        (partial(masks.random_columns, (32, 32), 0.5), "at least 1"),
        (partial(masks.random_columns, (32, 64), 8, center_fraction=0.5), "center_fraction=0.5"),
        (partial(masks.random_columns, (32, 33), 20), "cannot be met within 5 %"),
    ],
)
def test_impossible_masks_are_refused_in_a_sentence(make, words):
    with pytest.raises(ValueError, match=words):
        make(seed=0)


def test_global_random_state_is_not_touched():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    masks.poisson_disc((48, 40), 4, n_calibration=6, seed=0)
    masks.random_columns((48, 40), 4, seed=0)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


def test_bank_is_made_once_and_read_ever_after(tmp_path):
    generate = partial(masks.random_columns, (16, 64), acceleration=4)
    made = masks.bank(generate, 5, seed=1, cache_dir=tmp_path)
    (file,) = tmp_path.iterdir()
    stamp = file.stat().st_mtime_ns
    assert (masks.bank(generate, 5, seed=1, cache_dir=tmp_path) == made).all()
    assert file.stat().st_mtime_ns == stamp
    assert len({mask.tobytes() for mask in made}) == 5
    assert (masks.bank(generate, 5, seed=2, cache_dir=tmp_path) != made).any()
    assert len(list(tmp_path.iterdir())) == 2


def test_a_damaged_bank_is_made_again(tmp_path):
    generate = partial(masks.random_columns, (16, 64), acceleration=4)
    made = masks.bank(generate, 5, seed=1, cache_dir=tmp_path)
    (file,) = tmp_path.iterdir()
    for damaged in (file.read_bytes()[:200], b""):
        file.write_bytes(damaged)
        assert (masks.bank(generate, 5, seed=1, cache_dir=tmp_path) == made).all()
