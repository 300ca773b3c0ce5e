"""Damaged data in a run: what is wrong is named, at the first validation or mini-batch that meets it."""

import json
import shutil
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import gleam
from gleam import Greedy
from gleam.training import checkpoints
from gleam.training.faults import first_divergence

SETTINGS = {"n_steps": 20, "batch_size": 2, "validate_every": 2, "learning_rate": 3e-3}


def network():
    return gleam.unrolled.pgd(3, 4, seed=1)


def damage(split, what, number=1, scan=0):
    """The split with one slice of a scan changed: a sample that is not finite, or nothing but zeros."""
    path = split.source[scan].with_name(f"damaged-{split.source[scan].name}")
    shutil.copy(split.source[scan], path)
    with h5py.File(path, "r+") as file:
        if what == "zeros":
            file["kspace"][number] = file["target"][number] = 0
        else:
            array, value = what
            kept = file[array][number]
            kept[..., 0, 0] = value
            file[array][number] = kept
    return replace(split, source=(*split.source[:scan], path, *split.source[scan + 1 :]))


@pytest.mark.parametrize(
    ("what", "says"),
    [
        (("kspace", np.nan), "its (kspace|zero_filled) is not finite"),
        (("target", np.inf), "its target is not finite"),
        (("sens_maps", np.nan), "its sens_maps is not finite"),
        ("zeros", "its target is zero everywhere"),
    ],
    ids=str,
)
def test_a_slice_that_cannot_be_scored_stops_the_run_at_the_first_validation(what, says, splits, tmp_path):
    train, val, _ = splits
    heard, net, bad = [], network(), damage(val, what)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    for _ in range(2):  # the second call does not find a run that is called complete
        with pytest.raises(ValueError, match=rf"subject val0, slice 1 cannot be scored: {says}"):
            gleam.fit(net, train, bad, Greedy(3), run_dir=tmp_path / "r", callback=heard.append, **SETTINGS)
    assert not heard and not list(tmp_path.glob("r/*/checkpoint.safetensors"))
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


def test_a_checkpoint_without_a_score_is_not_a_finished_run(splits, tmp_path):
    gleam.fit(network(), *splits[:2], Greedy(3), run_dir=tmp_path, **SETTINGS)
    (path,) = tmp_path.glob("*/checkpoint.safetensors")
    found = checkpoints.load(path)
    fit = replace(found.fit, best_step=None, best_nrmse=float("inf"))
    checkpoints.save(path, fit, found.weights, {}, found.optimizer_state, found.about)
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors holds no finite validation nRMSE; delete it"):
        gleam.fit(network(), *splits[:2], Greedy(3), run_dir=tmp_path, **SETTINGS)


@pytest.mark.parametrize("strategy", [Greedy(3), gleam.Fast(Greedy(3), "fp32")], ids=repr)
def test_bad_data_are_told_from_a_high_learning_rate(strategy, splits, tmp_path):
    train, val, _ = splits
    says = r"diverged at step \d of 20, module [123] of 3: .* lower learning_rate=1e\+30"
    with pytest.raises(ValueError, match=says):
        gleam.fit(network(), train, val, strategy, run_dir=tmp_path, **SETTINGS | {"learning_rate": 1e30})
    bad = damage(train, ("sens_maps", np.nan), scan=2)
    says = r"the (sens_maps|zero_filled) of subject train2, slice 1 is not finite; .* \(found at step"
    with pytest.raises(ValueError, match=says):
        gleam.fit(network(), bad, val, strategy, run_dir=tmp_path, **SETTINGS)


def test_the_first_divergence_is_the_earliest_module_of_the_earliest_step():
    losses = torch.ones(5, 3)
    losses[3, 1:], losses[4] = float("nan"), float("inf")
    assert first_divergence([list(row) for row in losses]) == (3, 1)
    assert first_divergence([list(row) for row in losses[:3]]) is None


@pytest.fixture
def kept(splits, tmp_path):
    """The checkpoint of a finished run."""
    gleam.fit(network(), *splits[:2], Greedy(3), run_dir=tmp_path / "runs", **SETTINGS | {"n_steps": 4})
    return next(tmp_path.glob("runs/*/checkpoint.safetensors"))


def test_a_checkpoint_with_a_flipped_bit_is_refused_or_the_same(kept):
    written, whole, n_refused = kept.read_bytes(), checkpoints.load(kept), 0
    for bit in np.random.default_rng(0).integers(8 * len(written), size=40):
        content = bytearray(written)
        content[bit // 8] ^= 1 << bit % 8
        kept.write_bytes(content)
        try:
            found = checkpoints.load(kept)
        except ValueError as error:
            assert "checkpoint.safetensors is not a checkpoint of this program" in str(error)
            n_refused += 1
        else:
            assert found.fit == whole.fit and all(torch.equal(found.best[k], v) for k, v in whole.best.items())
    assert n_refused > 30


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"n_steps_done": 12}, "digest differs"),
        ({"n_steps_done": 12, "digests": None}, "history does not end at step 12"),
        ({"n_steps_done": "4", "digests": None}, "its field 'n_steps_done' is of another type"),
        ({"best_step": [4], "digests": None}, "its field 'best_step' is of another type"),
        ({"settings": 3, "digests": None}, "its field 'settings' is of another type"),
    ],
    ids=str,
)
def test_words_of_a_checkpoint_that_were_changed_are_refused_by_all_who_read_them(change, says, kept, tmp_path):
    tensors, words = load_file(kept), json.loads(safe_open(kept, "pt").metadata()["run"])
    if "digests" in change:  # as in files from before they had any
        del words["digest"], words["digest_of_words"]
    words["fit"] |= {name: value for name, value in change.items() if name != "digests"}
    save_file(tensors, kept, metadata={"run": json.dumps(words)})
    for read in (checkpoints.load, checkpoints.load_fit, lambda path: gleam.runs(path.parents[1])):
        with pytest.raises(ValueError, match=rf"is not a checkpoint of this program \(.*{says}"):
            read(kept)


def test_a_checkpoint_that_may_not_be_read_is_not_called_damaged(kept):
    kept.unlink()
    kept.mkdir()  # root may read any file, but no folder
    with pytest.raises(OSError, match=r"^cannot read .*checkpoint\.safetensors: Is a directory$"):
        checkpoints.load(kept)


def test_a_complete_run_in_a_folder_that_cannot_be_written_is_used(splits, tmp_path, monkeypatch):
    short = SETTINGS | {"n_steps": 4}
    whole = gleam.fit(network(), *splits[:2], Greedy(3), run_dir=tmp_path, **short)

    def refused(*_):
        raise OSError("cannot write training.lock: Read-only file system")

    monkeypatch.setattr("gleam.training.run.locked", refused)
    assert gleam.fit(network(), *splits[:2], Greedy(3), run_dir=tmp_path, **short) == whole
    with pytest.raises(OSError, match="Read-only file system"):
        gleam.fit(network(), *splits[:2], Greedy(3), run_dir=tmp_path, **short | {"seed": 1})
