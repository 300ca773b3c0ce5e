"""Weights beside records: those of the very run, whole, small, and with a card that says what the record says."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import gleam
from gleam import records
from gleam.records import weights
from gleam.records.cards import card
from gleam.records.weights import archive_weights
from gleam.training import checkpoints

SETTINGS = {"n_steps": 4, "batch_size": 2, "validate_every": 2}


@pytest.fixture
def build(splits, tmp_path):
    """Records (results/cpu-standard/toy/*.json) and checkpoints (runs/) of two trainings."""
    for name, strategy in {"End-to-end": gleam.EndToEnd(), "GLEAM": gleam.Greedy(2)}.items():
        network = gleam.unrolled.pgd(2, 4, step_size=1.0)
        fit = gleam.fit(network, *splits[:2], strategy, run_dir=tmp_path / "runs", learning_rate=3e-3, **SETTINGS)
        scores = gleam.evaluate(network, splits[2])
        record = records.record("toy", name, scores, splits, profile="standard", network=network, fit=fit)
        records.save(record, tmp_path / "results" / "cpu-standard")
    cs = records.record("toy", "CS", scores, splits, profile="standard")
    records.save(cs, tmp_path / "results" / "cpu-standard")
    return tmp_path / "results" / "cpu-standard", tmp_path / "runs"


def test_weights_are_the_best_of_the_run_to_the_bit_and_load_by_every_name(build, splits):
    folder, runs = build
    assert set(archive_weights(folder, runs).values()) == {""} and not (folder / "toy" / "cs.md").exists()
    for run in runs.iterdir():
        best = checkpoints.load(run / checkpoints.NAME).best
        (name,) = (n for n in ("end-to-end", "gleam") if gleam.runs(folder).best_nrmse[f"toy/{n}"] ==
                   checkpoints.load_fit(run / checkpoints.NAME).best_nrmse)  # fmt: skip
        own = checkpoints.load(folder / "toy" / f"{name}.safetensors")
        assert own.about["run"] == run.name and not own.optimizer_state
        for suffix in ("", ".safetensors", ".json", ".md"):
            network = gleam.load(folder / "toy" / f"{name}{suffix}")
            assert all(torch.equal(value, best[key]) for key, value in network.state_dict().items())
        record = records.load(folder / "toy" / f"{name}.json")
        assert gleam.evaluate(network, splits[2])["psnr"].tolist() == record.table["psnr"].tolist()
        assert own.about["scores"]["psnr"] == record.value("psnr") == gleam.runs(folder).psnr[f"toy/{name}"]


def test_the_card_says_what_the_record_says(build):
    folder, runs = build
    archive_weights(folder, runs)
    record, text = records.load(folder / "toy" / "gleam.json"), (folder / "toy" / "gleam.md").read_text()
    for part in (
        "`pgd(n_iterations=2, n_features=4, n_dims=2, step_size=1.0, seed=0)`", f"{record.n_parameters:,} parameters",
        "phantoms (3D FSE): 3 subjects, 9 slices, 3 coils, matrix 24 x 20 (y, x)", "acceleration = 3", "Greedy(",
        "4 of 4 steps;", "batch_size = 2", f"| PSNR (dB) | {record.value('psnr'):.2f} |",
        "Tested on phantoms (3D FSE): 2 subjects", f"torch {record.environment['versions']['torch']}",
        "not for diagnosis", "not for images of patients",
        'gleam.load("results/cpu-standard/toy/gleam")', "MIT",
    ):  # fmt: skip
        assert part in text, part


def test_equal_runs_give_equal_files(build):
    folder, runs = build
    archive_weights(folder, runs)
    files = [*folder.glob("toy/*.safetensors"), *folder.glob("toy/*.md")]
    before = {path: path.read_bytes() for path in files}
    archive_weights(folder, runs)
    assert len(before) == 4 and {path: path.read_bytes() for path in files} == before
    for path in runs.glob("*/*.safetensors"):
        path.unlink()
    assert set(archive_weights(folder, runs).values()) == {""}, "weights without their run stay"
    assert {path: path.read_bytes() for path in files} == before


def test_a_changed_byte_is_refused_wherever_it_is(build):
    folder, runs = build
    archive_weights(folder, runs)
    path = folder / "toy" / "gleam.safetensors"
    whole = path.read_bytes()
    for place in (len(whole) - 3, len(whole) // 2, whole.index(b"n_subjects") + 12):
        changed = bytearray(whole)
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=r"gleam\.safetensors is not a checkpoint .*; restore the file"):
            gleam.load(path)
    path.write_bytes(whole)
    gleam.load(path)


@pytest.mark.parametrize("what", ["history", "settings", "steps", "data"])
def test_a_record_of_another_run_gets_no_weights_and_loses_older_ones(what, build):
    folder, runs = build
    archive_weights(folder, runs)
    path = folder / "toy" / "gleam.json"
    record = records.load(path)
    row = record.history[-1]
    changes = {
        "history": {"history": [*record.history[:-1], row | {"nrmse": row["nrmse"] * (1 + 1e-15)}]},
        "settings": {"settings": record.settings | {"seed": 1}},
        "steps": {"n_steps_done": 2},
        "data": {"data": record.data | {"train": record.data["train"] | {"fingerprint": "another"}}},
    }
    records.save(replace(record, **changes[what]), folder)
    said = archive_weights(folder, runs)
    assert said[folder / "toy" / "end-to-end.json"] == "" and str(path) in said[path]
    assert not path.with_suffix(".safetensors").exists() and not path.with_suffix(".md").exists()


def test_archived_weights_are_those_of_their_records_and_their_cards_are_current():
    found = sorted((Path(__file__).parents[2] / "results").rglob("*.safetensors"))
    assert found
    for path in found:
        record, archived = records.load(path.with_suffix(".json")), checkpoints.load(path)
        assert weights.belong(record, archived.fit), path
        text = card(record, archived.fit, archived.about, path.with_suffix(""))
        assert path.with_suffix(".md").read_text(encoding="utf-8") == text, f"{path}: archive it again"
        assert path.stat().st_size < 3.1e6 and gleam.load(path)


def test_seconds_alone_do_not_tell_runs_apart(build):
    folder, runs = build
    path = folder / "toy" / "gleam.json"
    content = json.loads(path.read_text())
    for row in content["history"]:
        row["seconds"] += 1
    path.write_text(json.dumps(content))
    assert archive_weights(folder, runs)[path] == ""


def test_what_is_too_large_or_cannot_be_made_again_is_left_out_with_a_sentence(build, monkeypatch):
    folder, runs = build
    monkeypatch.setattr(weights, "MAX_BYTES", 100)
    assert all("more than the 0 MB of an archive" in said for said in archive_weights(folder, runs).values())
    monkeypatch.undo()
    for path in runs.glob("*/*.safetensors"):
        found = checkpoints.load(path)
        about = found.about | {"recipe": None}
        checkpoints.save(path, found.fit, found.weights, found.best, found.optimizer_state, about)
    assert all("does not say how its network was made" in said for said in archive_weights(folder, runs).values())
    assert not list(folder.rglob("*.safetensors"))
