import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from problems import write_prepared
from safetensors.torch import load_file

import gleam
from gleam import execution, files, metrics, strategies
from gleam.strategies.greedy import Checkpointed, EndToEnd, Greedy
from gleam.training import checkpoints, identity
from gleam.training import run as runs

SETTINGS = {
    "n_steps": 12,
    "batch_size": 2,
    "validate_every": 4,
    "learning_rate": 3e-3,
    "n_warmup_steps": 2,
    "final_learning_rate": 0,
}

FAST = gleam.Fast(Greedy(3), "bf16")


def network(seed=0):
    return gleam.unrolled.pgd(n_iterations=3, n_features=4, seed=seed)


def weights(net):
    return torch.cat([p.detach().ravel() for p in net.parameters()])


class Killed(Exception):
    pass


@pytest.fixture
def steps(monkeypatch):
    """Counts training steps in ``steps.done``; raises Killed once ``steps.left`` are done."""

    class Steps:
        done, left = 0, float("inf")

    real = strategies.greedy.decoupled_step

    def step(*args):
        if Steps.done >= Steps.left:
            raise Killed
        Steps.done += 1
        return real(*args)

    for module in (strategies.base, strategies.greedy):
        monkeypatch.setattr(module, "decoupled_step", step)
    return Steps


STRATEGIES = [EndToEnd(), Checkpointed(), Greedy(3), Greedy(2, within=Checkpointed()), FAST]


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_killed_and_resumed_equals_uninterrupted(strategy, splits, tmp_path, steps):
    train, val, _ = splits
    whole = network()
    expected = gleam.fit(whole, train, val, strategy, run_dir=tmp_path / "whole", **SETTINGS)
    steps.done, steps.left = 0, 7
    with pytest.raises(Killed):
        gleam.fit(network(), train, val, strategy, run_dir=tmp_path / "killed", **SETTINGS)
    steps.done, steps.left = 0, 8  # from the checkpoint at step 4
    resumed = network()
    fit = gleam.fit(resumed, train, val, strategy, run_dir=tmp_path / "killed", **SETTINGS)
    assert torch.equal(weights(whole), weights(resumed))
    assert [row["loss"] for row in fit.history] == [row["loss"] for row in expected.history]
    assert fit.n_steps_done == 12 and (fit.best_step, fit.best_nrmse) == (expected.best_step, expected.best_nrmse)


SCRIPT = """
import sys, time
sys.path[:0] = sys.argv[3:]
from problems import *
from test_training import *
from dataclasses import dataclass
from functools import partial
import torch
torch.set_num_threads(1)
folder = Path(sys.argv[1])
files = {name: (folder / f"{name}0.h5",) for name in ("train", "val")}
make_mask = partial(small_disc, acceleration=3)
train, val = (gleam.datasets.Slices(name, files[name], make_mask, 4, i) for i, name in enumerate(files))
settings = {**SETTINGS, "n_steps": 120, "validate_every": 10}
net = network()
fit = gleam.fit(net, train, val, Greedy(3), run_dir=folder / sys.argv[2], **settings)
print(fit.n_steps_done, identity.weights_digest(net))
"""


@pytest.mark.slow
def test_a_run_killed_by_the_system_goes_on_where_it_was(splits, tmp_path):
    here = Path(__file__).parent
    command, paths = [sys.executable, "-c", SCRIPT, str(tmp_path)], [str(here), str(here.parent), str(here.parents[1])]
    process = subprocess.Popen([*command, "run", *paths], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("run/*/checkpoint.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (checkpoint,) = tmp_path.glob("run/*/checkpoint.safetensors")
    done = checkpoints.load_fit(checkpoint).n_steps_done
    assert 0 < done < 120
    again, whole = (subprocess.run([*command, d, *paths], capture_output=True, text=True) for d in ("run", "whole"))
    assert f"{done}/120" in again.stderr, "the bar starts where the run was"
    assert again.stdout.startswith("120 ") and again.stdout == whole.stdout, again.stderr


def test_runs_side_by_side_equal_runs_in_turn(splits, tmp_path):
    train, val, _ = splits

    def runs(folder):
        shared = {"train": train, "val": val, "run_dir": tmp_path / folder, **SETTINGS}
        return {s: {"network": network(), "strategy": s, "name": str(s), **shared} for s in (EndToEnd(), FAST)}

    in_turn, side_by_side = runs("a"), runs("b")
    expected, fits = gleam.fit_all(in_turn), gleam.fit_all(side_by_side, n_jobs=2)
    for strategy in expected:
        assert torch.equal(weights(in_turn[strategy]["network"]), weights(side_by_side[strategy]["network"]))
        assert fits[strategy].best_nrmse == expected[strategy].best_nrmse


@pytest.mark.slow
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_each_run_of_several_is_reported_when_it_is_complete_whatever_becomes_of_others(splits, tmp_path, n_jobs):
    train, val, _ = splits
    shared = {"train": train, "val": val, "strategy": Greedy(3), "run_dir": tmp_path, **SETTINGS}
    runs = {name: {"network": network(), **shared} for name in ("good", "bad")}
    runs["bad"]["learning_rate"] = 1e30
    seen = {}
    with pytest.raises(ValueError, match="diverged"):
        gleam.fit_all(runs, n_jobs=n_jobs, on_done=lambda name, net, fit: seen.update({name: (weights(net), fit)}))
    assert list(seen) == ["good"] and torch.equal(weights(runs["bad"]["network"]), weights(network()))
    trained, fit = seen["good"]
    assert fit.n_steps_done == SETTINGS["n_steps"] and not torch.equal(trained, weights(network()))


@pytest.mark.parametrize("strategy", [FAST, EndToEnd()], ids=str)
def test_a_run_resumed_with_the_same_network_equals_uninterrupted(strategy, splits, tmp_path, steps):
    """As when a cell is run again: the weights may still lie in memory as Fast has brought them."""
    train, val, _ = splits
    whole, net = network(), network()
    gleam.fit(whole, train, val, strategy, run_dir=tmp_path / "whole", **SETTINGS)
    initial = {key: value.clone() for key, value in net.state_dict().items()}
    gleam.fit(net, train, val, FAST, run_dir=tmp_path / "other", **SETTINGS)  # leaves channels last
    net.load_state_dict(initial)
    steps.done, steps.left = 0, 7
    with pytest.raises(Killed):
        gleam.fit(net, train, val, strategy, run_dir=tmp_path / "killed", **SETTINGS)
    steps.done, steps.left = 0, 8
    gleam.fit(net, train, val, strategy, run_dir=tmp_path / "killed", **SETTINGS)
    assert torch.equal(weights(whole), weights(net))


@pytest.mark.slow
@pytest.mark.parametrize("is_fast", [True, False])
def test_the_number_format_is_decided_by_this_process_once_and_kept(is_fast, splits, tmp_path, monkeypatch):
    """Also for processes that would decide otherwise: those of fit_all are new and know nothing of the patch."""
    monkeypatch.setattr(execution, "has_fast_bf16", lambda device_type: is_fast)
    train, val, _ = splits
    shared = {"train": train, "val": val, "run_dir": tmp_path, **SETTINGS}
    networks = {s: network() for s in (gleam.Fast(Greedy(3)), gleam.Fast(EndToEnd()))}
    fits = gleam.fit_all({s: {"network": net, "strategy": s, **shared} for s, net in networks.items()}, n_jobs=2)
    precision = "bf16" if is_fast else "fp32"
    assert {fit.settings["precision"] for fit in fits.values()} == {precision}
    explicit = network()
    gleam.fit(explicit, train, val, gleam.Fast(Greedy(3), precision), run_dir=tmp_path / "explicit", **SETTINGS)
    assert torch.equal(weights(explicit), weights(networks[gleam.Fast(Greedy(3))]))


def test_scores_do_not_depend_on_the_layout_that_weights_were_trained_in(splits, tmp_path):
    train, val, test = splits
    trained, loaded = (gleam.unrolled.pgd(2, 16, seed=0) for _ in range(2))
    for net in (trained, loaded):  # the second one finds the checkpoint
        gleam.fit(net, train, val, gleam.Fast(Greedy(2), "bf16"), run_dir=tmp_path, **SETTINGS)
    kernel, same_kernel = (net.iterations[0].denoiser.body[1].first.weight for net in (trained, loaded))
    assert not kernel.is_contiguous() and same_kernel.is_contiguous()
    assert torch.equal(*(gleam.reconstruct(net, test[0]) for net in (trained, loaded)))


def test_a_finished_run_returns_at_once_with_its_best_weights(splits, tmp_path, steps):
    train, val, _ = splits
    first = network()
    done = gleam.fit(first, train, val, Greedy(3), run_dir=tmp_path, **SETTINGS)
    steps.done, steps.left = 0, 0
    second = network()
    again = gleam.fit(second, train, val, Greedy(3), run_dir=tmp_path, **SETTINGS)
    assert again == done and torch.equal(weights(first), weights(second))


def test_the_same_run_in_two_places_is_trained_once(splits, tmp_path, steps):
    """Two chapters that need one network: the second waits for the first."""
    train, val, _ = splits
    networks, runs = [network(), network()], []
    with ThreadPoolExecutor(2) as pool:
        for net in networks:  # one after the other has begun: Python's parser, which names a run, is not for threads
            runs.append(pool.submit(gleam.fit, net, train, val, EndToEnd(), run_dir=tmp_path, **SETTINGS))
            while not steps.done and not runs[0].done():
                time.sleep(0.01)
        fits = [run.result() for run in runs]
    assert steps.done == SETTINGS["n_steps"] and fits[0] == fits[1]
    assert torch.equal(*map(weights, networks))


def test_a_lock_is_held_by_one_at_a_time(tmp_path, capsys):
    def take():
        with files.locked(tmp_path / "run" / "x.lock", "waiting"):
            return True

    with ThreadPoolExecutor(1) as pool:
        with files.locked(tmp_path / "run" / "x.lock"):
            second = pool.submit(take)
            with pytest.raises(TimeoutError):
                second.result(timeout=0.3)
        assert second.result(timeout=10)
    assert capsys.readouterr().out == "waiting\n"


def test_the_kept_weights_are_those_of_the_lowest_validation_nrmse(splits, tmp_path):
    train, val, _ = splits
    net = network()
    fit = gleam.fit(net, train, val, EndToEnd(), run_dir=tmp_path, **SETTINGS)
    values = [row["nrmse"] for row in fit.history]
    assert fit.best_nrmse == min(values) and fit.best_step == 4 * (1 + values.index(min(values)))
    assert gleam.evaluate(net, val)["nrmse"].mean() == pytest.approx(fit.best_nrmse, rel=1e-6)
    assert fit.best_nrmse < gleam.evaluate(gleam.baselines.zero_filled, val)["nrmse"].mean()


@pytest.mark.parametrize("change", [{"seed": 1}, {"learning_rate": 1e-3}, {"n_steps": 8}, {"batch_size": 1}])
def test_other_settings_are_another_run(change, splits, tmp_path):
    train, val, _ = splits
    settings = {**SETTINGS, "n_steps": 4}
    gleam.fit(network(), train, val, Greedy(3), run_dir=tmp_path, **settings)
    gleam.fit(network(), train, val, Greedy(3), run_dir=tmp_path, **{**settings, **change})
    assert len(list(tmp_path.glob("*/checkpoint.safetensors"))) == 2


def test_each_module_has_its_own_loss_in_the_history(splits, tmp_path):
    train, val, _ = splits
    fit = gleam.fit(network(), train, val, Greedy(3), run_dir=tmp_path, **SETTINGS)
    assert [len(row["loss"]) for row in fit.history] == [3, 3, 3]


@pytest.mark.parametrize(
    ("change", "words"),
    [({"n_steps": 0}, "n_steps=0"), ({"batch_size": -1}, "batch_size=-1"), ({"learning_rate": 0}, "learning_rate=0")],
)
def test_settings_that_make_no_sense(change, words, splits, tmp_path):
    train, val, _ = splits
    with pytest.raises(ValueError, match=words):
        gleam.fit(network(), train, val, Greedy(3), run_dir=tmp_path, **{**SETTINGS, **change})


@pytest.mark.parametrize("strategy", [Greedy(3), gleam.Fast(Greedy(3))], ids=["greedy", "fast"])
def test_a_run_in_calls_of_limited_time_is_the_run_in_one(strategy, splits, tmp_path):
    train, val, _ = splits
    whole, parts, n_steps_done = network(), network(), []
    expected = gleam.fit(whole, train, val, strategy, run_dir=tmp_path / "whole", **SETTINGS)
    while not n_steps_done or n_steps_done[-1] < SETTINGS["n_steps"]:
        part = network()
        fit = gleam.fit(part, train, val, strategy, run_dir=tmp_path / "parts", max_seconds=1e-9, **SETTINGS)
        n_steps_done.append(fit.n_steps_done)
    gleam.fit(parts, train, val, strategy, run_dir=tmp_path / "parts", **SETTINGS)
    assert n_steps_done == [4, 8, 12]
    assert torch.equal(weights(parts), weights(whole))
    assert [row["loss"] for row in fit.history] == [row["loss"] for row in expected.history]


def test_a_checkpoint_of_another_network_is_named(splits, tmp_path):
    train, val, _ = splits
    for folder, net in {"own": network(), "foreign": gleam.unrolled.pgd(n_iterations=2, n_features=4)}.items():
        gleam.fit(net, train, val, Greedy(2), run_dir=tmp_path / folder, **SETTINGS)
    (path,), (foreign,) = ((tmp_path / f).glob("*/checkpoint.safetensors") for f in ("own", "foreign"))
    path.write_bytes(foreign.read_bytes())
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors is a checkpoint of another network .*missing there"):
        gleam.fit(network(), train, val, Greedy(2), run_dir=tmp_path / "own", **SETTINGS)


@pytest.mark.parametrize(
    ("strategy", "change", "words"),
    [
        (gleam.Fast(Greedy(3)), {}, "of a run with other settings"),
        (Greedy(1), {}, "of a run with other settings"),
        (Greedy(3), {"n_steps": 4}, "of a run with other settings"),
        (Greedy(3), None, "the state of another optimizer"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(strategy, change, words, splits, tmp_path):
    train, val, _ = splits
    gleam.fit(network(), train, val, Greedy(3), run_dir=tmp_path / "own", **SETTINGS)
    gleam.fit(network(), train, val, strategy, run_dir=tmp_path / "other", **{**SETTINGS, **(change or {})})
    (path,), (other,) = ((tmp_path / f).glob("*/checkpoint.safetensors") for f in ("own", "other"))
    path.write_bytes(other.read_bytes())
    if change is None:  # the same run, but for one shape
        found = checkpoints.load(path)
        found.optimizer_state["1.0.exp_avg"] = found.optimizer_state["1.0.exp_avg"][:1]
        checkpoints.save(path, found.fit, found.weights, {}, found.optimizer_state)
    net = network()
    before = weights(net)
    with pytest.raises(ValueError, match=rf"checkpoint\.safetensors .*{words}; delete it to train anew"):
        gleam.fit(net, train, val, Greedy(3), run_dir=tmp_path / "own", **SETTINGS)
    assert torch.equal(weights(net), before)


def test_weights_are_in_a_checkpoint_once(splits, tmp_path):
    train, val, _ = splits
    net = network()
    fit = gleam.fit(net, train, val, EndToEnd(), run_dir=tmp_path, **SETTINGS)
    (path,) = tmp_path.glob("*/checkpoint.safetensors")
    tensors = load_file(path)
    assert any(key.startswith("best.") for key in tensors) == (fit.best_step < fit.n_steps_done)
    best = checkpoints.load(path).best
    assert all(torch.equal(best[key], value) for key, value in net.state_dict().items())


def test_divergence_is_said_and_nothing_finished_is_lost(splits, tmp_path):
    train, val, _ = splits
    settings = {**SETTINGS, "n_warmup_steps": 0}
    with pytest.raises(ValueError, match=r"diverged at step 2 of 12, module 1 of 1: .* and the data are; lower"):
        gleam.fit(network(), train, val, EndToEnd(), run_dir=tmp_path, **{**settings, "learning_rate": 1e30})


@pytest.mark.parametrize("n_good", [0, 6])
def test_out_of_memory_says_what_fits_and_keeps_the_run(n_good, splits, tmp_path, monkeypatch):
    train, val, _ = splits
    whole, net, calls = network(), network(), []
    expected = gleam.fit(whole, train, val, EndToEnd(), run_dir=tmp_path / "whole", **SETTINGS)
    real = strategies.greedy.decoupled_step

    def step(*args):
        calls.append(real(*args))  # gradients and weights have changed when it fails
        if len(calls) == n_good + 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return calls[-1]

    for module in (strategies.base, strategies.greedy):
        monkeypatch.setattr(module, "decoupled_step", step)
    with pytest.raises(MemoryError, match=r"EndToEnd\(\) needs about .*gleam\.Greedy\(2\) needs") as raised:
        gleam.fit(net, train, val, EndToEnd(), run_dir=tmp_path / "full", **SETTINGS)
    assert ("what was trained so far is kept in" in str(raised.value)) == (n_good > 4)
    assert torch.equal(weights(net), weights(network())) and all(p.grad is None for p in net.parameters())
    calls[:] = [None] * 100
    again = gleam.fit(net, train, val, EndToEnd(), run_dir=tmp_path / "full", **SETTINGS)
    assert len(calls) == 112 - (4 if n_good > 4 else 0), "from the checkpoint"
    assert torch.equal(weights(net), weights(whole)) and again.best_nrmse == expected.best_nrmse


def test_a_broken_checkpoint_is_named(splits, tmp_path):
    train, val, _ = splits
    gleam.fit(network(), train, val, Greedy(3), run_dir=tmp_path, **SETTINGS)
    (path,) = tmp_path.glob("*/checkpoint.safetensors")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors is not a checkpoint"):
        gleam.fit(network(), train, val, Greedy(3), run_dir=tmp_path, **SETTINGS)


def test_an_unwritable_folder_is_named(splits, tmp_path):
    train, val, _ = splits
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write .*file/"):
        gleam.fit(network(), train, val, Greedy(3), run_dir=tmp_path / "file", **SETTINGS)


def test_learning_rate_warms_up_and_falls():
    settings = {"learning_rate": 1.0, "final_learning_rate": 0.1, "n_warmup_steps": 4, "n_steps": 20}
    rates = [rate for step in range(20) for rate in runs.learning_rates_at(step, settings, 1)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0] and rates[4] == 1.0
    assert all(a > b for a, b in pairwise(rates[4:])) and rates[-1] < 0.12
    constant = {**settings, "final_learning_rate": 1.0, "n_warmup_steps": 0}
    assert {rate for step in range(20) for rate in runs.learning_rates_at(step, constant, 1)} == {1.0}
    two = settings | {"learning_rate": [1.0, 0.5]}
    assert [runs.learning_rates_at(step, two, 2)[0] for step in range(20)] == rates
    assert runs.learning_rates_at(4, two, 2)[1] == 0.5


def test_identity_of_code_is_blind_to_comments_docstrings_and_names_of_local_variables():
    bare = identity.normalised("def f(x):\n    y = x + 1\n    return y\n")
    commented = 'def f(x):\n    """What it does."""\n    total = x + 1  # why\n    return total\n'
    assert identity.normalised(commented) == bare
    assert identity.normalised("def f(x):\n    y = x + 2\n    return y\n") != bare
    assert identity.normalised("def f(x):\n    y = x + 1\n    return x\n") != bare


def test_only_code_of_your_own_is_part_of_a_runs_identity():
    """The project's is represented by the results version."""

    class Own(torch.nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    @dataclass(frozen=True)
    class Mine(gleam.strategies.base.WholeNetwork):
        def propagate(self, iterations, x, batch):
            return EndToEnd().propagate(iterations, x, batch)

    network = gleam.unrolled.pgd(1, 2)
    assert identity.sources(network, gleam.Greedy(1)) == {}
    (inner,) = identity.sources(network, gleam.Fast(gleam.Greedy(1, within=Mine()))).values()
    assert "propagate" in inner
    network.more = Own(1, 1)
    (source,) = identity.sources(network, gleam.Greedy(1)).values()
    assert "forward" in source


def test_evaluation_is_per_slice_in_file_order_and_matches_the_metrics(splits):
    *_, test = splits
    table = gleam.evaluate(gleam.baselines.zero_filled, test, batch_size=4)
    assert list(table.index) == list(range(6)) and list(table["slice"]) == [0, 1, 2] * 2
    assert list(table["subject"]) == ["test0"] * 3 + ["test1"] * 3
    for i in range(6):
        one = test[i]
        assert table["psnr"][i] == pytest.approx(metrics.psnr(one.zero_filled, one.target).item(), rel=1e-5)
        assert table["nrmse"][i] == pytest.approx(metrics.nrmse(one.zero_filled, one.target).item(), rel=1e-5)
        assert table["ssim"][i] == pytest.approx(metrics.ssim(one.zero_filled, one.target).item(), rel=1e-4)


def test_training_batches_are_a_function_of_their_step(splits):
    train, *_ = splits
    a, b = (train.training_batch(5, 2, seed=0) for _ in range(2))
    assert torch.equal(a.kspace, b.kspace) and torch.equal(a.mask, b.mask)
    assert not torch.equal(a.kspace, train.training_batch(5, 2, seed=1).kspace)


def test_an_epoch_sees_every_slice_once_under_changing_masks(splits):
    train, *_ = splits
    n_batches = train._n_batches(2)
    epochs = [
        [i for step in range(e * n_batches, (e + 1) * n_batches) for i in train._epoch(e, 2, 0)[step % n_batches]]
        for e in (0, 1)
    ]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(9)) and epochs[0] != epochs[1]
    masks = {train.training_batch(step, 1, seed=0).mask.numpy().tobytes() for step in range(30)}
    assert len(masks) == 4  # the whole bank


def test_a_volume_keeps_one_mask_at_test_and_splits_share_none(splits):
    train, val, test = splits
    volume = [test[i].mask for i in range(6)]
    assert all(torch.equal(volume[0], m) for m in volume[:3]) and not torch.equal(volume[0], volume[3])
    seen = [{data[i].mask.numpy().tobytes() for i in range(len(data))} for data in (val, test)]
    seen.append({train.training_batch(step, 1, seed=0).mask.numpy().tobytes() for step in range(40)})
    assert sum(map(len, seen)) == len(set.union(*seen)) == 1 + 2 + 4


def test_batches_never_mix_shapes(tmp_path, splits):
    files = [
        write_prepared(tmp_path / "a.h5"),
        write_prepared(tmp_path / "b.h5", n_coils=5),
        write_prepared(tmp_path / "c.h5", n_slices=2),
    ]
    mixed = gleam.datasets.Slices("train", tuple(files), splits[0].make_mask, 4, 0)
    seen = [i for step in range(mixed._n_batches(4)) for i in mixed._epoch(0, 4, 0)[step]]
    assert sorted(seen) == list(range(8))
    for step in range(mixed._n_batches(4)):
        mixed.training_batch(step, 4, 0)
    assert sorted(i for indices, _ in mixed.batches(4) for i in indices) == list(range(8))


def test_data_and_masks_decide_the_fingerprint(splits):
    train, val, _ = splits
    assert train.fingerprint == gleam.datasets.Slices("other", train.source, train.make_mask, 4, 0).fingerprint
    others = [
        gleam.datasets.Slices("x", train.source, train.make_mask, 4, 1),
        gleam.datasets.Slices("x", train.source[:2], train.make_mask, 4, 0),
        val,
    ]
    assert len({train.fingerprint, *(o.fingerprint for o in others)}) == 4


class Cascade(torch.nn.Module):
    def __init__(self, power=1):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(0.5 + 0j))
        self.dropout = torch.nn.Dropout(0.2)
        self.power = power

    def forward(self, x, batch):
        step = batch.sense.normal(x) - batch.sense.adjoint(batch.kspace)
        return x - self.weight**self.power * self.dropout(torch.view_as_real(step))[..., 0]


class Foreign(torch.nn.Module):
    """No ``forward``, complex weights shared between iterations, dropout."""

    def __init__(self, cascade):
        super().__init__()
        self.iterations = torch.nn.ModuleList([cascade, cascade, Cascade()])

    def start(self, batch):
        return batch.zero_filled


@pytest.mark.parametrize("strategy", [EndToEnd(), Checkpointed()], ids=str)
def test_somebody_elses_network_trains_and_resumes(strategy, splits, tmp_path, steps):
    train, val, _ = splits
    torch.manual_seed(1)
    whole, resumed = Foreign(Cascade()), Foreign(Cascade())
    gleam.fit(whole, train, val, strategy, run_dir=tmp_path / "whole", **SETTINGS)
    torch.manual_seed(2)
    steps.done, steps.left = 0, 7
    with pytest.raises(Killed):
        gleam.fit(Foreign(Cascade()), train, val, strategy, run_dir=tmp_path / "killed", **SETTINGS)
    steps.left = 99
    gleam.fit(resumed, train, val, strategy, run_dir=tmp_path / "killed", **SETTINGS)
    assert identity.weights_digest(whole) == identity.weights_digest(resumed)


def test_dropout_is_the_same_with_and_without_checkpoints(splits, tmp_path):
    networks = Foreign(Cascade()), Foreign(Cascade())
    for net, strategy in zip(networks, (EndToEnd(), Checkpointed()), strict=True):
        gleam.fit(net, *splits[:2], strategy, run_dir=tmp_path, **{**SETTINGS, "n_steps": 4})
    for p, q in zip(*(net.parameters() for net in networks), strict=True):
        torch.testing.assert_close(p, q)


class Doubled(Cascade):
    def forward(self, x, batch):
        return 2 * super().forward(x, batch)


def test_what_is_not_in_the_weights_makes_another_run_too(splits, tmp_path):
    step_sizes = [gleam.unrolled.pgd(2, 4, step_size=step_size) for step_size in (2.0, 0.5)]
    networks = [*step_sizes, Foreign(Cascade()), Foreign(Doubled())]
    for net in networks:
        gleam.fit(net, *splits[:2], EndToEnd(), run_dir=tmp_path, **{**SETTINGS, "n_steps": 4})
    assert len(list(tmp_path.glob("*/checkpoint.safetensors"))) == 4


def test_a_gpu_that_is_not_there_is_said(splits, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device='cuda' needs a GPU"):
        gleam.fit(network(), *splits[:2], Greedy(3), run_dir=tmp_path, device="cuda", **SETTINGS)


def test_a_damaged_prepared_file_is_named(tmp_path):
    path = write_prepared(tmp_path / "a.h5")
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(OSError, match=r"a\.h5 is no prepared file or damaged"):
        len(gleam.datasets.Slices("x", (path,), None))
