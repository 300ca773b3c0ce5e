"""Runs that one can find again, and their networks."""

import numpy as np
import pytest
import torch

import gleam
from gleam import Greedy
from gleam.training import checkpoints

SETTINGS = {"n_steps": 4, "batch_size": 2, "validate_every": 2, "learning_rate": 3e-3}


class Mine(torch.nn.Module):
    def __init__(self, n_features=4, n_iterations=2):
        super().__init__()
        self.iterations = gleam.unrolled.pgd(n_iterations, n_features).iterations

    def start(self, batch):
        return batch.zero_filled


@pytest.fixture
def folder(splits, tmp_path):
    """Runs of a PGD, a MoDL and somebody's network."""
    for network in (gleam.unrolled.pgd(2, 4, step_size=1.0), gleam.unrolled.modl(2, 4, mu=0.5), Mine()):
        gleam.fit(network, *splits[:2], Greedy(2), run_dir=tmp_path / "runs", **SETTINGS)
    return tmp_path / "runs"


def run_of(folder, what):
    table = gleam.runs(folder)
    (name,) = table.index[table.network.str.contains(what, regex=False)]
    return folder / name


def test_a_table_says_what_was_trained_on_what(folder, tmp_path):
    table = gleam.runs(folder)
    assert len(table) == 3 and table.best_nrmse.is_monotonic_increasing and table.index.name == "run"
    row = table.loc[run_of(folder, "pgd(").name]
    assert row.network == "pgd(n_iterations=2, n_features=4, n_dims=2, step_size=1.0, seed=0)"
    assert row.strategy == "Greedy(n_modules=2, within=EndToEnd())" and row["mask"] == "small_disc"
    assert (row.R, row.steps, row["of"], row.subjects) == (3, 4, 4, 3) and row.date.startswith("20")
    assert table.network.str.startswith("Mine of ").sum() == 1
    assert gleam.runs(tmp_path / "nothing").empty


@pytest.mark.parametrize("what", ["pgd(", "modl("])
def test_a_network_is_made_again_and_reconstructs_as_it_did(what, folder, splits):
    run = run_of(folder, what)
    batch = splits[2][0]
    network = gleam.load(run)
    made = {"pgd(": lambda: gleam.unrolled.pgd(2, 4, step_size=1.0), "modl(": lambda: gleam.unrolled.modl(2, 4, mu=0.5)}
    trained = made[what]()
    gleam.fit(trained, *splits[:2], Greedy(2), run_dir=folder, **SETTINGS)  # from the checkpoint
    assert torch.equal(gleam.reconstruct(network, batch), gleam.reconstruct(trained, batch)) and not network.training
    again = gleam.load(run / "checkpoint.safetensors", network=made[what]())
    assert torch.equal(gleam.reconstruct(again, batch), gleam.reconstruct(network, batch))


def test_weights_do_not_go_into_a_network_of_other_physics(folder):
    run = run_of(folder, "pgd(")
    says = (
        r"weights of a network with iterations\.0\.step_size = 1\.0, and this one has iterations\.0\.step_size = 2\.0"
    )
    with pytest.raises(ValueError, match=says):
        gleam.load(run, network=gleam.unrolled.pgd(2, 4))
    with pytest.raises(ValueError, match=says):
        gleam.load(run, network=gleam.unrolled.Unrolled(gleam.unrolled.pgd(2, 4).iterations))
    assert gleam.load(run, network=gleam.unrolled.pgd(2, 4, step_size=1.0, seed=5))


def test_a_network_that_was_changed_after_it_was_made_is_not_made_again_wrongly(splits, tmp_path):
    network = gleam.unrolled.pgd(2, 4)
    for iteration in network.iterations:
        iteration.step_size = 0.5
    gleam.fit(network, *splits[:2], Greedy(2), run_dir=tmp_path / "runs", **SETTINGS)
    (name,) = gleam.runs(tmp_path / "runs").index
    with pytest.raises(ValueError, match=r"with iterations\.0\.step_size = 0\.5"):
        gleam.load(tmp_path / "runs" / name)


def test_numbers_of_numpy_do_not_end_a_run(splits, tmp_path):
    network = gleam.unrolled.pgd(2, np.int64(4))
    gleam.fit(network, *splits[:2], Greedy(2), run_dir=tmp_path / "runs", **SETTINGS)
    assert len(gleam.runs(tmp_path / "runs")) == 1


def test_what_cannot_be_loaded_says_why(folder, tmp_path):
    mine = run_of(folder, "Mine")
    with pytest.raises(ValueError, match="does not say how its network was made; give an untrained one as network="):
        gleam.load(mine)
    assert isinstance(gleam.load(mine, network=Mine()), Mine)
    with pytest.raises(ValueError, match=r"do not fit a Mine like this \(.*"):
        gleam.load(mine, network=Mine(n_iterations=3))
    with pytest.raises(ValueError, match=r"out_channels = 4, and this one has .* = 8"):
        gleam.load(mine, network=Mine(8))
    with pytest.raises(ValueError, match="does not exist; expected the folder of a run"):
        gleam.load(tmp_path / "elsewhere")
    (mine / "checkpoint.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is not a checkpoint of this program"):
        gleam.runs(folder)


def test_a_checkpoint_from_before_is_listed(folder):
    path = run_of(folder, "Mine") / "checkpoint.safetensors"
    found = checkpoints.load(path)
    checkpoints.save(path, found.fit, found.weights, {}, found.optimizer_state)
    row = gleam.runs(folder).loc[path.parent.name]
    assert row.network == "" and row.steps == 4


def test_settings_that_a_foreign_module_does_not_show_name_another_run(splits):
    from gleam.training.identity import run_identity

    class Scaled(torch.nn.Module):
        def __init__(self, scale):
            super().__init__()
            self.weight, self.scale = torch.nn.Parameter(torch.ones(())), scale

        def forward(self, x, batch):
            return self.scale * self.weight * x

    names = [
        run_identity(gleam.unrolled.Unrolled([Scaled(s)]), gleam.EndToEnd(), *splits[:2], {"seed": 0})
        for s in (1.0, 2.0, 1.0)
    ]
    assert names[0] == names[2] != names[1]


@pytest.mark.parametrize("consistent", [True, False])
def test_weights_of_a_network_with_final_data_consistency_load_into_no_other(consistent, splits, tmp_path):
    gleam.fit(
        gleam.unrolled.pgd(2, 4, consistent=consistent), *splits[:2], Greedy(2), run_dir=tmp_path / "runs", **SETTINGS
    )
    (name,) = gleam.runs(tmp_path / "runs").index
    with pytest.raises(ValueError, match=f"network with consistent = {consistent}, and this one has"):
        gleam.load(tmp_path / "runs" / name, gleam.unrolled.pgd(2, 4, consistent=not consistent))
    same = gleam.unrolled.pgd(2, 4, consistent=consistent)
    assert gleam.load(tmp_path / "runs" / name, same) is same
