import io
from functools import partial

import numpy as np
import pytest

from gleam import masks
from gleam.physics import discs

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
    slope = discs.slope_of((160, 128), 12, 10)
    radius = 1 + slope * (outer_distance[:, None] + outer_distance[None]) / 2
    assert (gaps >= radius - 1e-9).all()
    rings = [
        mask.ravel()[(d >= a) & (d < a + 0.25)].mean()
        for d in [discs.distance_from_center((160, 128)).ravel()]
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


SERIES = [((20, 80, 64), 10, 4), ((20, 72, 64), 10, 4), ((20, 192, 16), 10, 6), ((7, 81, 8), 4, 5), ((20, 64, 8), 1, 4)]


@pytest.mark.parametrize(("shape", "acceleration", "n_center"), SERIES)
def test_kt_variable_density(shape, acceleration, n_center):
    make = partial(masks.kt_variable_density, shape, acceleration, n_center=n_center)
    mask = make(seed=1)
    assert mask.shape == shape and mask.dtype == bool
    assert (mask == make(seed=1)).all() and (acceleration == 1 or (mask != make(seed=2)).any())
    assert (mask == mask[..., :1]).all()  # whole readouts: nothing of kx is lost
    lines = mask[..., 0]
    assert lines.sum() == round(lines.size / acceleration)  # the overall R, to the line
    assert np.ptp(lines.sum(axis=1)) <= 1
    start = shape[1] // 2 - n_center // 2
    assert lines[:, start : start + n_center].all()


def test_frames_of_a_kt_mask_complement_each_other_and_thin_outwards():
    n_frames, n_y, n_center = 20, 80, 4
    for seed in range(5):
        lines = masks.kt_variable_density((n_frames, n_y, 2), 10, n_center=n_center, seed=seed)[..., 0]
        outer = np.delete(lines, range(n_y // 2 - n_center // 2, n_y // 2 - n_center // 2 + n_center), axis=1)
        assert not (outer[1:] & outer[:-1]).any()  # no line twice in a row
        assert outer.any(axis=0).mean() > 0.75  # of 80 draws from 76 lines; independent draws reach 0.62
        assert len({frame.tobytes() for frame in lines}) == n_frames
    lines = np.mean([masks.kt_variable_density((20, 80, 2), 8, seed=seed)[..., 0] for seed in range(40)], axis=(0, 1))
    near, middle, far = (lines[a:b].mean() for a, b in ((26, 38), (13, 26), (0, 13)))
    assert 1 > near > 1.3 * middle > 1.3 * 1.2 * far > 0


def test_achieved_acceleration_of_stacks_and_of_series():
    mask = np.zeros((2, 3, 4, 5), bool)
    mask[:, :, :, 0] = True
    mask[1, 0] = True
    np.testing.assert_array_equal(masks.achieved_acceleration(mask), [[5, 5, 5], [1, 5, 5]])
    np.testing.assert_allclose(masks.achieved_acceleration(mask, masks.SERIES), [5, 60 / 28])
    assert masks.achieved_acceleration(mask[0, 0]) == 5
    assert masks.achieved_acceleration(mask[0, 0], measured=(1, 3, 0, 2)) == 2


PINNED = {1: [311524, 291056, 665248]}


def test_existing_seeds_keep_their_masks():
    """Banks on disk and records name seeds: a generator that changes must raise masks.VERSION."""
    made = (
        masks.poisson_disc((48, 40), 6, n_calibration=8, seed=3),
        masks.random_columns((16, 96), 4, seed=3),
        masks.kt_variable_density((6, 48, 8), 4, seed=3),
    )
    assert [int(np.flatnonzero(mask).sum()) for mask in made] == PINNED[masks.VERSION]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (partial(masks.poisson_disc, (32, 32), 4, n_calibration=0), "n_calibration=0 leaves no centre to calibrate"),
        (partial(masks.poisson_disc, (32, 32), 4, n_calibration=2.5), "n_calibration=2.5 .* whole number"),
        (partial(masks.random_columns, (32, 32), 4, center_fraction=0), "center_fraction=0 leaves no centre"),
        (partial(masks.random_columns, (32, 32), 4, center_fraction=-0.1), "center_fraction=-0.1 leaves no centre"),
        (partial(masks.kt_variable_density, (8, 64, 32), 4, n_center=0), "n_center=0 leaves no centre to calibrate"),
        (
            partial(masks.kt_variable_density, (8, 64, 32), 10, n_center=7),
            "leaves 51 lines for 8 frames, fewer than n_center=7 in each",
        ),
        (partial(masks.kt_variable_density, (64, 32), 4), r"three sizes \(n_frames, n_y, n_x\), each at least 2"),
        (partial(masks.kt_variable_density, (1, 64, 32), 4), "three sizes"),  # one frame is no series
        (partial(masks.kt_variable_density, (8, 64, 32), 0.5), "at least 1"),
        (partial(masks.poisson_disc, (32, 32), 16, n_calibration=20), "n_calibration=20"),
        (partial(masks.poisson_disc, (32, 32), 1, n_calibration=4), "cannot be met within 5 %"),
        (partial(masks.kt_variable_density, (4, 32, 8), 4, n_center=4.0), "n_center=4.0 leaves no centre"),
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
    masks.kt_variable_density((4, 48, 40), 4, seed=0)
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
    written = file.read_bytes()
    others = [io.BytesIO() for _ in range(3)]  # as from an earlier version, which wrote no digest
    for stream, other in zip(others, (np.zeros_like(made), made[:, :8], np.full(made.shape, np.nan)), strict=True):
        np.save(stream, other)
    flipped = [bytearray(written) for _ in range(20)]
    for content, bit in zip(flipped, np.random.default_rng(0).integers(8 * len(written), size=20), strict=True):
        content[bit // 8] ^= 1 << bit % 8
    for damaged in (written[:200], b"", written[:-32], *(stream.getvalue() for stream in others), *flipped):
        file.write_bytes(damaged)
        assert (masks.bank(generate, 5, seed=1, cache_dir=tmp_path) == made).all()
        assert file.read_bytes() == written
