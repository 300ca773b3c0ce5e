"""Numbers from NumPy and elsewhere are those of Python, with equal names of runs, or are refused before training."""

from functools import partial

import numpy as np
import pytest
from problems import random_batch, write_prepared

import gleam
from gleam import Greedy, cost
from gleam.files import digest, finite_number, plain, whole_number
from gleam.training import identity
from gleam.training import run as running

SETTINGS = {"n_steps": 4, "batch_size": 2, "validate_every": 2, "learning_rate": 1e-3}
OF_NUMPY = {
    "n_steps": np.int64(4), "batch_size": np.uint8(2), "validate_every": np.int16(2), "seed": np.int32(0),
    "learning_rate": np.float32(1e-3), "weight_decay": np.float32(1e-4), "n_warmup_steps": np.int8(0),
    "final_learning_rate": np.float16(1e-3), "n_accumulated": np.int64(1),
}  # fmt: skip


@pytest.fixture
def names(monkeypatch):
    """Names of the runs that were asked for."""
    found, real = [], identity.run_identity
    monkeypatch.setattr(running, "run_identity", lambda *what: found.append(real(*what)) or found[-1])
    return found


def network(**more):
    return gleam.unrolled.pgd(2, 4, seed=1, **more)


def test_numbers_of_numpy_give_the_run_of_plain_ones(splits, tmp_path, names):
    plain_one = gleam.fit(network(), *splits[:2], Greedy(2), run_dir=tmp_path, **SETTINGS)
    net = gleam.unrolled.pgd(np.int64(2), np.int32(4), step_size=np.float32(2), seed=np.int64(1))
    found = gleam.fit(net, *splits[:2], Greedy(np.int64(2)), run_dir=tmp_path, **SETTINGS | OF_NUMPY)
    gleam.fit_all({"a": {"network": net, "train": splits[0], "val": splits[1], "strategy": Greedy(2),
                         "run_dir": tmp_path, **SETTINGS | OF_NUMPY}}, n_jobs=np.int64(1))  # fmt: skip
    assert found == plain_one and len(set(names[:2])) == 1 and repr(Greedy(np.int64(2))) == repr(Greedy(2))
    rates = [np.float32(1e-3), np.float64(1e-4)]
    for given in (rates, tuple(rates), [1e-3, 1e-4]):
        gleam.fit(network(), *splits[:2], Greedy(2), run_dir=tmp_path, **SETTINGS | {"learning_rate": given})
    assert len(set(names[-3:])) == 1


@pytest.mark.parametrize(
    "wrong",
    [{"n_steps": 1e2}, {"n_steps": "4"}, {"n_steps": True}, {"n_steps": 2.5}, {"batch_size": None}, {"seed": -1},
     {"seed": "a"}, {"n_warmup_steps": 1.0}, {"weight_decay": -1e-4}, {"weight_decay": "0"}, {"max_seconds": -1},
     {"learning_rate": float("nan")}, {"learning_rate": True}, {"learning_rate": None},
     {"final_learning_rate": float("inf")}, {"validate_every": 0}, {"batch_size": np.array([2, 3])},
     {"weight_decay": np.float32("inf")}],
    ids=str,
)  # fmt: skip
def test_numbers_that_make_no_sense_are_refused_by_name_before_anything_is_trained(wrong, splits, tmp_path):
    ((name, _),) = wrong.items()
    own = {"network": network(), "train": splits[0], "val": splits[1], "strategy": Greedy(2), "run_dir": tmp_path / "r"}
    good, bad = own | SETTINGS, own | SETTINGS | wrong
    with pytest.raises(ValueError, match=rf"^{name}=.* must be "):
        gleam.fit(**bad)
    with pytest.raises(ValueError, match=rf"^{name}=.* must be "):
        gleam.fit_all({"good": good, "bad": bad}, n_jobs=2)
    with pytest.raises(ValueError, match=rf"^{name}=.* must be "):
        gleam.fit_parallel(**bad | {"strategy": gleam.ParallelGreedy(2)}, n_processes=2)
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda batch, data: gleam.evaluate(network(), data, batch_size=2.0), "batch_size"),
        (lambda batch, data: gleam.plan(network(), batch, "1 GB", n_rounds=0), "n_rounds"),
        (lambda batch, data: cost.measure({}, batch, n_rounds=1.5), "n_rounds"),
        (lambda batch, data: cost.measure({}, batch, n_warmup=-1), "n_warmup"),
        (lambda batch, data: cost.parallel.measure(network(), batch, n_steps=0), "n_steps"),
        (lambda batch, data: gleam.baselines.choose_lamda([0.1], data, n_slices=0), "n_slices"),
        (lambda batch, data: gleam.baselines.choose_lamda([0.1], data, n_extensions=0.5), "n_extensions"),
        (lambda batch, data: gleam.unrolled.pgd(2.0, 4), "n_iterations"),
        (lambda batch, data: gleam.unrolled.modl(2, "4"), "n_features"),
        (lambda batch, data: gleam.fit_all({}, n_jobs=0), "n_jobs"),
    ],
)
def test_every_function_names_a_number_that_makes_no_sense(call, name, splits):
    with pytest.raises(ValueError, match=rf"^{name}=.* must be a whole number of at least"):
        call(random_batch(), splits[1])


def test_a_number_is_written_as_it_was_given():
    assert [plain(np.float32(text)) for text in ("0.001", "0.1", "8")] == [0.001, 0.1, 8.0]
    assert digest([np.float32(0.1), np.int8(3)]) == digest([0.1, 3]) and plain("x") == "x"
    assert type(whole_number(np.int64(3), "n")) is int and type(finite_number(np.float64(3), "x")) is float
    assert type(finite_number(1, "x")) is int  # as before: the names of runs stay


def test_masks_of_every_shape_are_made_before_training(splits, tmp_path):
    from gleam import masks

    make_mask = partial(masks.random_columns, acceleration=8)
    files = [write_prepared(tmp_path / f"{n}.h5", shape=(24, n)) for n in (24, 20)]
    good = gleam.datasets.Slices("train", (files[0],), make_mask, 4)
    bad = gleam.datasets.Slices("val", (files[0], files[1]), make_mask, 4)
    for train, val in ((good, bad), (bad, good)):
        with pytest.raises(ValueError, match=r"cannot be met within 5 % on a 24 x 20 grid"):
            gleam.fit(network(), train, val, Greedy(2), run_dir=tmp_path / "r", **SETTINGS)
    assert not list(tmp_path.glob("r/*/checkpoint.safetensors"))
