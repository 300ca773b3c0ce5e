import copy
import math
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from problems import random_batch, write_prepared
from teamwork import (
    SETTINGS,
    Deadly,
    KspaceNetwork,
    LearnedImage,
    Noisy,
    partly_frozen,
    repeated,
    splits,
    train_cases,
    train_steps,
)

import gleam
from gleam import Checkpointed, Fast, Greedy, Invertible, ParallelGreedy, unrolled
from gleam.losses import DataConsistent
from gleam.processes.launching import launch
from gleam.strategies import exchange
from gleam.strategies.parallel import assignment, spread
from gleam.training.identity import weights_digest
from gleam.training.run import _module_of_key

HERE = Path(__file__).parents[1]
pgd, modl = partial(unrolled.pgd, n_features=4, seed=1), partial(unrolled.modl, n_features=4, mu=4.0, n_cg=3, seed=1)
EQUAL = {  # number of processes: (network, strategy, sizes of the mini-batches)
    2: [
        (partial(pgd, 5), ParallelGreedy(5), [2, 2, 1]),
        (partial(pgd, 5), ParallelGreedy(5, pipelined=False), [2, 2, 1]),
        (partial(modl, 4), ParallelGreedy(3, within=Checkpointed()), [1]),
        (partial(modl, 2, lipschitz=0.9), ParallelGreedy(2, within=Invertible(), n_in_flight=1), [1]),
        (partial(pgd, 5), Fast(ParallelGreedy(5), "bf16"), [2, 2, 1]),
        (partial(KspaceNetwork, 4, 0.0), ParallelGreedy(4, loss=DataConsistent(0.5)), [2, 1]),
        (partial(KspaceNetwork, 4, 0.0), ParallelGreedy(3, pipelined=False, within=Checkpointed()), [1, 2]),
        (partial(modl, 4), Fast(ParallelGreedy(3, pipelined=False, within=Checkpointed()), "bf16"), [1, 2]),
    ],
    3: [
        (partial(pgd, 4), ParallelGreedy(4), [2, 1]),
        (partial(pgd, 7), ParallelGreedy(7, pipelined=False), [1]),
        (partial(pgd, 3), ParallelGreedy(3, n_in_flight=5), [1, 3]),
    ],
}
REPLICAS = {  # sums of shares, rounded in another order
    2: [
        (partial(pgd, 2), ParallelGreedy(2, n_replicas=2), [3, 2, 1]),
    ],
    4: [
        (partial(pgd, 3), ParallelGreedy(3, n_replicas=2), [3, 2, 1]),
        (partial(pgd, 3), ParallelGreedy(3, n_replicas=2, pipelined=False), [1, 2]),
        (partial(pgd, 2), ParallelGreedy(1, n_replicas=4), [5, 3]),
        (partial(partly_frozen, 2), ParallelGreedy(2, n_replicas=2), [1]),
    ],
}


def same(found, expected):
    """Whether the weights of every module are equal to the last bit."""
    return all(torch.equal(a, b) for m, n in zip(found, expected, strict=True) for a, b in zip(m, n, strict=True))


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("n_processes", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 4))])
def test_weights_are_those_of_one_process(n_processes):
    """To the last bit; with replicas up to rounding, for uneven batches and for some smaller than the replicas."""
    equal, close = EQUAL.get(n_processes, []), REPLICAS.get(n_processes, [])
    for_each_process = launch(train_cases, n_processes, equal + close)  # in one go: processes are slow to start
    assert len(for_each_process) == n_processes
    for number, (make, strategy, sizes) in enumerate(equal + close):
        expected = train_steps(make, strategy.equivalent, sizes)
        for results in for_each_process:
            if number < len(equal):
                assert same(results[number], expected), strategy
            else:
                torch.testing.assert_close(results[number], expected, rtol=1e-3, atol=2e-5)


def test_weights_that_only_one_process_has_are_refused():
    with pytest.raises(
        ValueError, match=r"image\(x, batch\) of LearnedImage uses weights of its own; .* setup\(batch\)"
    ):
        launch(train_steps, 2, LearnedImage, ParallelGreedy(4), [1])


@pytest.mark.parametrize("strategy", [ParallelGreedy(4), ParallelGreedy(2, pipelined=False, n_replicas=3)], ids=str)
def test_without_other_processes_it_is_greedy(strategy):
    found, expected = (train_steps(partial(pgd, 4), s, [2]) for s in (strategy, strategy.equivalent))
    assert same(found, expected)


@pytest.mark.parametrize(("n_modules", "n_devices"), [(8, 1), (8, 2), (8, 3), (5, 5), (7, 4)])
@pytest.mark.parametrize("pipelined", [True, False])
def test_every_module_has_one_device_and_shares_are_even(n_modules, n_devices, pipelined):
    shares = assignment(n_modules, n_devices, pipelined=pipelined)
    assert sorted(m for share in shares for m in share) == list(range(n_modules))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1 and len(shares) == n_devices
    steps = {b - a for share in shares for a, b in pairwise(share)}
    assert steps <= ({1} if pipelined else {n_devices})


@pytest.mark.parametrize("keywords", [{"n_replicas": 0}, {"n_in_flight": 0}, {"n_replicas": 1.5}], ids=str)
def test_senseless_numbers_are_refused(keywords):
    with pytest.raises(ValueError, match=rf"{next(iter(keywords))}=.* whole number"):
        ParallelGreedy(4, **keywords)


def test_more_devices_than_modules_are_refused():
    with pytest.raises(ValueError, match="3 devices cannot share n_modules=2"):
        ParallelGreedy(2).assignment(3)
    with pytest.raises(ValueError, match="3 devices cannot share n_modules=2"):
        spread(pgd(2), Greedy(2), ["cpu"] * 3)


def test_a_strategy_can_be_copied_and_sent(batch):
    used = ParallelGreedy(2)
    used.step(pgd(2), batch, [torch.optim.Adam(it.parameters()) for it in pgd(2).iterations])
    assert pickle.loads(pickle.dumps(used)) == copy.deepcopy(used) == ParallelGreedy(2)


@pytest.mark.parametrize("strategy", [Greedy(3), Greedy(2, within=Checkpointed()), gleam.EndToEnd()], ids=str)
def test_modules_spread_over_devices_train_as_on_one(strategy):
    def make():
        return spread(pgd(4), strategy, ["cpu", "cpu:0"][: len(strategy.modules(pgd(4)))])

    found, expected = (train_steps(m, strategy, [2, 1]) for m in (make, partial(pgd, 4)))
    assert same(found, expected)


def test_spreading_again_replaces_the_first(batch):
    network = spread(spread(pgd(4), Greedy(4), ["cpu", "cpu:0"]), Greedy(4), ["cpu"])
    assert [len(iteration._forward_pre_hooks) for iteration in network.iterations] == [1] * 4
    torch.testing.assert_close(network(batch), pgd(4)(batch))


def test_parts_of_a_batch_are_the_batch():
    batch = random_batch(n=5)
    parts = [batch.part(i, 3) for i in range(3)]
    assert [len(part) for part in parts] == [2, 2, 1]
    assert torch.equal(parts[1].kspace, batch.kspace[[1, 4]]) and len(batch.part(2, 8).target) == 1
    assert len(batch.part(6, 8)) == 0 and batch.part(0, 1) is batch


def test_an_iteration_that_occurs_twice_belongs_to_its_module():
    owners = _module_of_key(Greedy(2), repeated(4))
    assert {key.split(".")[1]: m for key, m in owners.items()} == {"0": 0, "1": 0, "2": 1, "3": 1}


@pytest.fixture
def prepared(tmp_path):
    for i, name in enumerate(("train", "val")):
        write_prepared(tmp_path / f"{name}0.h5", n_slices=4, seed=i)
    return splits(tmp_path)


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """(history, digest of the weights) of a run in one process."""
    folder = tmp_path_factory.mktemp("expected")
    for i, name in enumerate(("train", "val")):
        write_prepared(folder / f"{name}0.h5", n_slices=4, seed=i)
    network = Noisy()
    fit = gleam.fit(network, *splits(folder), Greedy(4), run_dir=folder / "run", **SETTINGS)
    return without_times(fit), weights_digest(network)


def without_times(fit):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in fit.history]


def test_parts_of_an_evaluation_are_the_evaluation(prepared):
    network, val = pgd(2), prepared[1]
    whole = gleam.evaluate(network, val, batch_size=3)
    parts = [gleam.evaluate(network, val, batch_size=3, part=(i, 3)) for i in range(3)]
    assert [len(part) for part in parts] == [3, 1, 0] and list(parts[2].columns) == list(whole.columns)
    assert gleam.evaluate(network, val, batch_size=3, part=(0, 1)).equals(whole)
    assert parts[0].equals(whole.iloc[:3]) and parts[1].equals(whole.iloc[3:])


@pytest.mark.slow
def test_a_killed_parallel_run_goes_on_in_one_process(prepared, expected, tmp_path, capsys):
    """With a checkpoint of two processes; the notebook's call tells what happened and leaves nothing running."""
    train, val = prepared
    deadly = Deadly(train, signal.SIGKILL, tmp_path / "marker")
    arguments = {"run_dir": tmp_path / "run", **SETTINGS}
    with pytest.raises(OSError, match=r"process 1 of 2 was killed by signal 9.*goes on from its checkpoint"):
        gleam.fit_parallel(Noisy(), deadly, val, ParallelGreedy(4), n_processes=2, **arguments)
    network = Noisy()
    fit = gleam.fit(network, train, val, Greedy(4), **arguments)
    assert f" {SETTINGS['validate_every']}/{SETTINGS['n_steps']}" in capsys.readouterr().err, "it starts where it was"
    assert (without_times(fit), weights_digest(network)) == expected


def test_a_run_of_one_process_goes_on_in_parallel(prepared, expected, tmp_path, capsys):
    train, val = prepared
    deadly = Deadly(train, ValueError("the magnet quenched"), tmp_path / "marker")
    arguments = {"run_dir": tmp_path / "run", **SETTINGS}
    with pytest.MonkeyPatch.context() as patch, pytest.raises(ValueError, match="quenched"):
        patch.setenv("RANK", "1")
        gleam.fit(Noisy(), deadly, val, Greedy(4), **arguments)
    capsys.readouterr()
    network, parallel = Noisy(), ParallelGreedy(4, pipelined=False)
    fit = gleam.fit_parallel(network, train, val, parallel, n_processes=2, name="P-GLEAM", **arguments)
    assert (without_times(fit), weights_digest(network)) == expected
    error = capsys.readouterr().err
    assert "P-GLEAM: 100%" in error and "Greedy" not in error, "one bar"


def test_fit_parallel_wants_a_parallel_strategy(prepared, tmp_path):
    with pytest.raises(ValueError, match="ParallelGreedy"):
        gleam.fit_parallel(Noisy(), *prepared, Greedy(4), n_processes=2, run_dir=tmp_path, **SETTINGS)


@pytest.mark.slow
def test_torchrun_restarts_after_a_failure_and_ends_with_the_same_weights(prepared, expected, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--max-restarts=1"]
    command += ["--standalone", str(HERE / "teamwork.py"), str(tmp_path), "the magnet quenched"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment())
    assert done.returncode == 0, done.stderr[-3000:]
    assert "ValueError: the magnet quenched" in done.stderr
    lines = sorted(line.split() for line in done.stdout.splitlines() if line.startswith("done"))
    assert [line[:3] for line in lines] == [["done", "0", "12"], ["done", "1", "12"]]
    assert {line[4] for line in lines} == {expected[1]}
    best = min(row["nrmse"] for row in expected[0])
    assert {float(line[3]) for line in lines} == {best} and math.isfinite(best)


@pytest.mark.slow
def test_two_nodes_restart_together_after_a_death_on_one(prepared, expected, tmp_path):
    """Two agents of torchrun, as on two machines; only one of them counts the restart."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--max-restarts=2"]
    command += ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{free_port()}"]
    script = [str(HERE / "teamwork.py"), str(tmp_path), "SIGKILL"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment()}
    nodes = [subprocess.Popen([*command, f"--rdzv-conf=is_host={host}", *script], **pipes) for host in (1, 0)]
    try:
        said = [node.communicate(timeout=150) for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    assert [node.returncode for node in nodes] == [0, 0], said
    lines = [line.split() for out, _ in said for line in out.splitlines() if line.startswith("done")]
    assert sorted(line[1] for line in lines) == ["0", "1"] and {line[4] for line in lines} == {expected[1]}


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ("the magnet quenched", "process 1 of 2 stopped: ValueError: the magnet quenched"),
        pytest.param("SIGKILL", "process 1 of 2 gave no sign of life", marks=pytest.mark.slow),
        pytest.param("SIGSTOP", "process 1 of 2 gave no sign of life for 30 s", marks=pytest.mark.slow),
    ],
)
def test_a_process_that_dies_stops_the_others_with_its_reason(end, reason, prepared, tmp_path):
    """Nobody looks after these two: no torchrun, no parent that waits for both."""
    port = str(free_port())
    command = [sys.executable, str(HERE / "teamwork.py"), str(tmp_path), end]
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment() | place | {"RANK": str(rank)})
        for rank in range(2)
    ]
    try:
        while not (tmp_path / "marker").exists() and processes[1].poll() is None:
            time.sleep(0.1)
        started = time.monotonic()
        error = processes[0].communicate(timeout=100)[1]
        assert time.monotonic() - started < 60
        assert processes[0].returncode == 1 and reason in error, error[-2000:]
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def environment():
    return os.environ | {"PYTHONPATH": f"{HERE}:{HERE.parent}", "OMP_NUM_THREADS": "1"}


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def test_the_same_run_whoever_trains_it(prepared, tmp_path):
    for strategy in (Greedy(4), ParallelGreedy(4), ParallelGreedy(4, n_in_flight=7, pipelined=False)):
        gleam.fit(Noisy(), *prepared, strategy, run_dir=tmp_path / "run", **SETTINGS)
    assert len(list((tmp_path / "run").iterdir())) == 1


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.randn(3, 4, dtype=torch.complex64).mT,
        torch.randn(3, 4, dtype=torch.complex64).conj(),
        torch.randn(4, 6)[1:, ::2],
        torch.ones(3, 1).expand(3, 4),
        torch.zeros(0, 3),
    ],
    ids=lambda t: str(tuple(t.stride())),
)
def test_a_tensor_is_sent_with_its_strides(tensor):
    """Sums over channels that lie last in memory are rounded otherwise than over others."""
    sent = exchange._dense(tensor)
    received = torch.empty_strided(sent.shape, sent.stride(), dtype=sent.dtype)
    exchange._bytes(received).copy_(exchange._bytes(sent))
    assert torch.equal(received, tensor)
    is_dense = tensor.is_contiguous() or tensor.mT.is_contiguous() or tensor.movedim(1, -1).is_contiguous()
    assert received.stride() == tensor.stride() or not is_dense
