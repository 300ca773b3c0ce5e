"""Records that are archived together belong together."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from made_records import make

from gleam import records
from gleam.records.archive import archive

DEVICE = {"device": "CPU (x86_64)", "date": "2026-12-01"}


def build(folder, methods=("End-to-end", "GLEAM"), **changes):
    """Records of a build of the profile standard, seed 3."""
    settings = {"seed": 3} | changes.pop("settings", {})
    fields = {"profile": "standard", "environment": DEVICE, "results_version": records.RESULTS_VERSION}
    data = {"is_phantom": True, "test": {"fingerprint": changes.pop("fingerprint", "a")}}
    for method in methods:
        records.save(replace(make(method), data=data, settings=settings, **(fields | changes)), folder)
    (folder / "mridata_pgd_R12" / "compare.png").write_bytes(b"picture")
    return folder


def test_records_and_pictures_go_to_a_folder_of_device_profile_and_seed(tmp_path):
    build(tmp_path / "build")
    folder, n = archive(tmp_path / "build", tmp_path / "results", profile="standard", seed=3)
    assert (folder.name, n) == ("cpu-standard-seed3", 2)
    assert set(records.load_experiment(folder, "mridata_pgd_R12")) == {"End-to-end", "GLEAM"}
    assert (folder / "mridata_pgd_R12" / "compare.png").read_bytes() == b"picture"
    build(tmp_path / "later", ["CS"])
    archive(tmp_path / "later", tmp_path / "results", profile="standard", seed=3)
    assert len(records.load_experiment(folder, "mridata_pgd_R12")) == 3  # those of before are kept


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": {"seed": 1}}, r"gleam\.json: is of seed 1, not 3"),
        ({"profile": "quick"}, "is of profile quick, not standard"),
        ({"results_version": 1}, "is of results version 1, not"),
        ({"fingerprint": "b"}, "was tested on other data"),
        ({"environment": {"device": "NVIDIA H200"}}, "are of cpu and nvidia-h200; expected one device"),
    ],
)
def test_what_does_not_belong_together_is_refused_and_nothing_written(changes, message, tmp_path):
    build(tmp_path / "build", ["End-to-end"])
    build(tmp_path / "build", ["GLEAM"], **changes)
    with pytest.raises(ValueError, match=message):
        archive(tmp_path / "build", tmp_path / "results", profile="standard", seed=3)
    assert not (tmp_path / "results").exists()


def test_older_records_of_other_data_or_version_are_not_mixed_with_new_ones(tmp_path):
    for changes in ({"fingerprint": "b"}, {"results_version": 1}):
        old = tmp_path / "results" / "cpu-standard-seed3"
        build(old, ["CS"], **changes)
        build(tmp_path / "build")
        with pytest.raises(ValueError, match=r"cs\.json|archive again"):
            archive(tmp_path / "build", tmp_path / "results", profile="standard", seed=3)
        assert list(records.load_experiment(old, "mridata_pgd_R12")) == ["CS"]


def test_an_empty_build_says_what_was_expected(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no record; expected those of a build of the profile standard"):
        archive(tmp_path / "build", tmp_path / "results", profile="standard")


def test_tables_take_the_papers_sizes_first_then_standard_of_the_first_seed(tmp_path):
    build(tmp_path / "cpu-standard-seed1", ["CS"])
    build(tmp_path / "cpu-quick", ["CS"], profile="quick")
    assert records.archived(tmp_path, "mridata_pgd_R12") == {}
    build(tmp_path / "cpu-standard", ["GLEAM"])
    found = records.archived(tmp_path, "mridata_pgd_R12")
    assert list(found) == ["GLEAM"]
    assert records.table({}, archived=found).index[0][0] == "Profile standard, archived"
    assert records.archive_caption(found).startswith("*Profile standard, archived*: CPU (x86_64), 2026-12-01")
    build(tmp_path / "nvidia-h200", ["End-to-end"], profile="paper", environment={"date": "2020-01-01"})
    assert list(records.archived(tmp_path, "mridata_pgd_R12")) == ["End-to-end"]


def test_a_note_says_where_compressed_sensing_is_ahead_and_when_it_was_passed():
    def scored(method, psnr, **fields):
        rows = [{"subject": "a", "slice": 0, "psnr": psnr, "ssim_object": psnr / 50}]
        return replace(make(method), scores=rows, **fields)

    cs = scored("CS", 31.0, n_parameters=None, cost=None, settings={"validation_nrmse": 0.2})
    runs = {"CS": cs, "End-to-end": scored("End-to-end", 30.0), "GLEAM": scored("GLEAM", 32.0)}
    note = records.baseline_note(runs)
    assert "behind it: End-to-end (PSNR 30.00 against 31.00, SSIM of the object 0.600 against 0.620)." in note
    assert "GLEAM (" not in note and "archived" not in note
    history = [{"step": s, "nrmse": e, "seconds": 1.0} for s, e in ((100, 0.3), (200, 0.19))]
    long = {"CS": cs, "End-to-end": scored("End-to-end", 33.0, history=history, profile="standard")}
    assert "was below that of compressed sensing after 200 steps" in records.baseline_note(runs, long)
    assert records.baseline_note({"CS": cs, "End-to-end": scored("End-to-end", 30.9)}) == "", "too small to matter"
    assert records.baseline_note({"CS": cs, "GLEAM": runs["GLEAM"]}) == ""


def test_depth_and_training_are_told_apart_by_the_deep_network(tmp_path):
    deep = "End-to-end, as deep"
    experiment = SimpleNamespace(name="mridata_pgd_R12")
    own = records.Build(str(tmp_path / "work"), archive=str(tmp_path / "results"))
    shallow = {name: replace(make(name), method=name) for name in ("End-to-end", "GLEAM")}
    assert own.depth_and_training(experiment, shallow) == "Neither this build nor the archived run has that row yet."
    build(tmp_path / "results" / "cpu-standard", [*shallow, deep])
    said = own.depth_and_training(experiment, shallow)
    assert said.startswith(f"In the archived run:\n\n- Depth. {deep} against End-to-end in these 2 subjects: ")
    assert f"\n- Training. GLEAM against {deep} in these 2 subjects: " in said
    assert own.depth_and_training(experiment, shallow | {deep: make(deep)}).startswith("In this build:\n\n- Depth. ")
