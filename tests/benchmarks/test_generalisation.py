"""The lesions of benchmarks/generalisation.py, what is measured of them, and what it says without data."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import generalisation
import lesions


@pytest.fixture(scope="module")
def knee():
    """An even disc in air, on the grid of the real knees, with lesions and without."""
    y, x = (np.linspace(-1, 1, n) for n in (320, 256))
    image = (np.hypot(y[:, None], x) < 0.9).astype(np.float32) + 0.01
    return image, *lesions.lesioned(image, 0)


def test_lesions_lie_apart_in_tissue_and_have_the_contrast_asked_for(knee):
    image, changed, discs = knee
    assert sorted((d, s) for *_, d, s in discs) == [(d, s) for d in lesions.LESIONS_MM for s in (-1, 1)]
    assert np.isclose(changed.max() / image.max(), 1.5) and np.isclose((changed / image).min(), 0.5)
    for i, (y, x, d, _) in enumerate(discs):
        assert all(np.hypot(y - v, x - u) > (d + e) / 2 for v, u, e, _ in discs[:i])
    assert (changed[image < 0.5] == image[image < 0.5]).all()


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_contrast_kept_is_the_share_of_the_change_that_is_reconstructed(knee, share):
    image, changed, discs = knee
    scores = lesions.lesion_scores((image + share * (changed - image), image), (changed, image), discs)
    assert all(np.isclose(value, share, atol=1e-4) for name, value in scores.items() if name.startswith("contrast"))
    assert scores["nrmse_same_place"] == 0 and (scores["nrmse_lesions"] == 0) == (share == 1)


def test_without_data_it_says_so_in_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["generalisation.py", str(tmp_path)])
    assert generalisation.main() == 2
    assert capsys.readouterr().err.strip().endswith("does not exist; expected the data of data/README.md")


def test_every_experiment_has_methods_of_each_training():
    for kind, trainings in generalisation.TESTED.items():
        names = list(generalisation.methods_for(kind))
        assert names[:2] == ["Zero-filled", "CS"] and names[-1] == f"GLEAM, from {trainings[-1]}"
