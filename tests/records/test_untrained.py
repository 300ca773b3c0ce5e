"""The rows without training: the weight of compressed sensing is searched once for the same data, and said exactly."""

from functools import partial

import pytest
import torch
from problems import small_disc, write_prepared

import gleam
from gleam import records
from gleam.records import untrained as module

GRIDS = {"wavelet": [0.01, 0.05], "several": [[0.01, 0.05], [0.02]]}


def shrink(lamda, other=0.0):
    """A stand-in for compressed sensing that takes no time: the zero-filled image, smaller."""
    return partial(_shrunk, by=lamda + other)


def _shrunk(batch, *, by):
    return (1 - by) * batch.zero_filled


@pytest.fixture
def val(tmp_path):
    path = write_prepared(tmp_path / "one.h5")
    return gleam.datasets.Slices("val", (path,), partial(small_disc, acceleration=3), cache_dir=tmp_path)


@pytest.fixture
def searches(monkeypatch):
    """Counts the searches."""
    found, search = [], module.choose_lamda
    monkeypatch.setattr(module, "choose_lamda", lambda *args, **options: found.append(1) or search(*args, **options))
    return found


@pytest.mark.filterwarnings("ignore:best weight")
@pytest.mark.parametrize("lamdas", GRIDS.values(), ids=GRIDS)
def test_a_search_is_made_once_and_comes_back_as_it_was(lamdas, val, searches, tmp_path):
    build = records.Build(str(tmp_path / "work"))
    first, again = (build.untrained(lamdas, val, make=shrink) for _ in range(2))
    assert len(searches) == 1
    assert (again.lamda, again.tried, again.settings) == (first.lamda, first.tried, first.settings)
    assert first.tried[first.lamda] == min(first.tried.values())
    assert first.validation_nrmse == gleam.evaluate(first.methods["CS"], val)["nrmse"].mean()
    example = val[0]
    assert torch.equal(first.methods["CS"](example), again.methods["CS"](example))


@pytest.mark.filterwarnings("ignore:best weight")
def test_another_grid_other_slices_or_a_damaged_file_are_searched_anew(val, searches, tmp_path):
    build = records.Build(str(tmp_path / "work"))
    for n, options in enumerate([{}, {"n_slices": 1}, {"lamdas": [0.02, 0.05]}], start=1):
        build.untrained(**{"lamdas": GRIDS["wavelet"], "val": val, "make": shrink} | options)
        assert len(searches) == n
    for path in (tmp_path / "work" / "cache").glob("lamda-*.json"):
        path.write_text("{}")
    build.untrained(GRIDS["wavelet"], val, make=shrink)
    assert len(searches) == 4


def test_records_tell_one_weight_from_several():
    one, several = (records.Untrained({}, lamda, {}, 0.2).settings["CS"] for lamda in (0.01, (0.01, 0.02)))
    assert one == {"lamda": 0.01, "validation_nrmse": 0.2}
    assert several == {"lamdas": (0.01, 0.02), "validation_nrmse": 0.2}


def test_a_build_keeps_the_record_of_anything_measured(val, tmp_path):
    build = records.Build(str(tmp_path / "work"), "quick")
    kept = build.keep("depth", "GLEAM", (val,), measures={"n_falls": 2})
    assert records.load_experiment(build.records_dir, "depth")["GLEAM"].measures == kept.measures == {"n_falls": 2}
    assert kept.profile == "quick" and "val" in kept.data
