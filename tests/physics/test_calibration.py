import numpy as np
import pytest
from raw_files import coil_images, noise

from gleam import calibration
from gleam.physics.calibration import espirit, jsense
from gleam.physics.fourier import fft2c, ifft2c
from gleam.physics.masks import kt_variable_density, random_columns

METHODS = [jsense, espirit]


def projection_error(kspace, maps):
    """||m - S S^H m|| / ||m||: what the maps cannot explain of the coil images."""
    images = ifft2c(kspace)
    return np.linalg.norm(images - maps * np.sum(maps.conj() * images, axis=0)) / np.linalg.norm(images)


@pytest.fixture(scope="module")
def kspace():
    return fft2c(coil_images((48, 40), n_coils=5))


@pytest.mark.parametrize("method", METHODS)
def test_maps_are_normalised_and_explain_the_coil_images(method, kspace):
    maps = method(kspace)
    assert maps.shape == kspace.shape
    assert maps.dtype == np.complex64
    power = np.sum(np.abs(maps) ** 2, axis=0)
    assert np.all((np.abs(power - 1) < 1e-4) | (power == 0))
    object_ = np.linalg.norm(ifft2c(kspace), axis=0) > 0.5
    assert np.all(power[object_] > 0)
    assert projection_error(kspace, maps) < 0.1  # noise alone is 0.07 here


@pytest.mark.parametrize("method", METHODS)
def test_only_the_centre_is_used_so_undersampling_does_not_matter(method, kspace):
    undersampled = np.zeros_like(kspace)
    undersampled[:, 12:36, 8:32] = kspace[:, 12:36, 8:32]
    np.testing.assert_allclose(method(undersampled), method(kspace), atol=1e-3)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_units_of_the_scanner_do_not_matter(method, kspace, scale):
    np.testing.assert_allclose(method(kspace * np.float32(scale)), method(kspace), atol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_same_maps_every_time_and_nothing_printed(method, kspace, capfd):
    np.testing.assert_array_equal(method(kspace), method(kspace))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("method", METHODS)
def test_slices_of_noise_and_of_nothing(method):
    maps = method(noise((4, 32, 32)))
    assert np.isfinite(maps).all()
    assert np.all(np.abs(maps) < 1.001)
    assert not method(np.zeros((4, 32, 32), np.complex64)).any()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("coil", [0, 2])
def test_a_dead_coil_gets_an_empty_map(method, kspace, coil):
    dead = kspace.copy()
    dead[coil] = 0
    maps = method(dead)
    assert not maps[coil].any()
    assert projection_error(dead, maps) < 0.1


@pytest.mark.parametrize(("kernel_width", "calibration_width"), [(8, 20), (5, 17)])
def test_jsense_is_sigpys(kspace, kernel_width, calibration_width):
    from sigpy.mri.app import JsenseRecon

    expected = JsenseRecon(kspace, kernel_width, calibration_width, show_pbar=False).run()
    maps = jsense(kspace, kernel_width=kernel_width, calibration_width=calibration_width)
    assert np.linalg.norm(maps - expected) < 1e-3 * np.linalg.norm(expected)


@pytest.mark.parametrize(
    ("shape", "n_coils", "calibration_width"), [((96, 84), 5, 12), ((75, 64), 3, 11), ((67, 60), 4, 12)]
)
def test_espirit_by_parts_is_sigpys(monkeypatch, shape, n_coils, calibration_width):
    from sigpy.mri.app import EspiritCalib

    kspace = fft2c(coil_images(shape, n_coils=n_coils))
    kspace /= abs(kspace).max()
    with np.errstate(invalid="ignore"):
        app = EspiritCalib(kspace, calib_width=calibration_width, kernel_width=6, crop=0.1, show_pbar=False)
        expected = calibration._normalised(app.run())
    for n_bytes in (1e3, 5e4):  # as if the cache were small: many parts
        monkeypatch.setattr(calibration, "_CACHE_BYTES", n_bytes)
        np.testing.assert_allclose(espirit(kspace, calibration_width=calibration_width), expected, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_a_centre_that_was_not_measured_is_named(method, kspace):
    mask = random_columns(kspace.shape[1:], 4, center_fraction=0.1, seed=0)  # 4 central columns
    width = {"calibration_width": 16}
    with pytest.raises(ValueError, match=r"samples of the central 16 x 16 .* too small a centre to calibrate on"):
        method(kspace * mask, **width)
    series = kspace[:, None] * kt_variable_density((8, *kspace.shape[1:]), 4, seed=0)
    frames = np.maximum((series != 0).sum(axis=1), 1)
    assert (series != 0).all(axis=0).any(axis=0)[16:32].any(axis=1).all()  # together the frames have the centre
    np.testing.assert_allclose(method(series.sum(axis=1) / frames, **width), method(kspace, **width), atol=1e-3)
    with pytest.raises(ValueError, match="too small a centre"):
        method(series[:, 0], **width)


def test_espirit_as_in_the_paper_is_empty_and_says_so(kspace):
    with pytest.raises(ValueError, match=r"kernel 8, calibration 12 and crop 0\.95 leaves empty maps; lower crop"):
        espirit(kspace, kernel_width=8, calibration_width=12, crop=0.95)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("bad", "arguments", "sentence"),
    [
        (np.ones((4, 32, 32)), {}, r"kspace is float64 \(4, 32, 32\); expected complex"),
        (noise((2, 4, 32, 32)), {}, r"\(2, 4, 32, 32\); expected complex \(coil, y, x\)"),
        (noise((4, 32, 8)), {}, "do not fit a slice of 32 x 8"),
        (noise((4, 32, 32)), {"kernel_width": 30}, "kernel_width 30 and calibration_width"),
        (np.full((4, 32, 32), np.nan, np.complex64), {}, "NaN"),
    ],
)
def test_bad_input_is_named(method, bad, arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        method(bad, **arguments)
