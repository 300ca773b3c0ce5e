import json
import sys
from pathlib import Path

import pytest
import torch

from gleam import unrolled
from gleam.metrics import complex_l1

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import benchmark
import compare
import peers

TINY = compare.Sizes((20, 16), 3, 2, 2, 4, 3, (2, 3))
ARGUMENTS = "--shape 20 16 --n-coils 2 --n-iterations 2 --n-features 3 --n-rounds 3 --memory-iterations 2 3".split()


@pytest.fixture(scope="module")
def batch():
    return compare.random_batch(TINY)


def image_and_gradient(image, module, batch):
    reconstruction = image()
    gradient = torch.autograd.grad(complex_l1(reconstruction, batch.target), list(module.parameters()))
    return reconstruction.detach(), torch.cat([g.flatten() for g in gradient])


@pytest.mark.parametrize("name", peers.PEERS)
@pytest.mark.parametrize("make", [unrolled.pgd, unrolled.modl])
def test_others_compute_the_same_image_and_gradient(name, make, batch):
    network = make(2, 4, **({"mu": 1.0} if make is unrolled.modl else {}))  # converged after ten steps
    try:
        module, image = peers.PEERS[name](network, batch)
    except peers.NotInstalled as reason:
        pytest.skip(str(reason))
    ours = image_and_gradient(lambda: network(batch), network, batch)
    for a, b in zip(image_and_gradient(image, module, batch), ours, strict=True):
        assert torch.linalg.vector_norm(a - b) < 1e-4 * torch.linalg.vector_norm(b)
    assert sum(p.numel() for p in module.parameters()) == sum(p.numel() for p in network.parameters())


def test_what_is_missing_or_broken_is_a_row_with_its_reason(batch, monkeypatch):
    def broken(network, batch):
        raise TypeError("another interface")

    def undefined(network, batch):
        return torch.nn.Linear(1, 1), lambda: batch.target * torch.nan

    missing = {"missing": lambda network, batch: peers.imported("no_such_package"), "broken": broken}
    missing["undefined"] = undefined
    monkeypatch.setattr(peers, "PEERS", missing | {"plain PyTorch": peers.plain})
    rows = compare.compare(unrolled.pgd, TINY, n_rounds=2, n_warmup=0)
    assert rows["missing"]["note"].startswith("not installed: ModuleNotFoundError")
    assert rows["broken"]["note"] == "does not run: TypeError: another interface"
    assert rows["undefined"]["note"] == "does not run: ValueError: its image is not finite"
    assert len(rows["plain PyTorch"]["step_seconds"]) == 2 and rows["plain PyTorch"]["note"] == ""


def test_other_mathematics_is_told(batch, monkeypatch):
    def halved(network, batch):
        module, image = peers.plain(network, batch)
        return module, lambda: image() / 2

    monkeypatch.setattr(peers, "PEERS", {"halved": halved})
    row = compare.peer_rows(unrolled.pgd(2, 4), batch)["halved"]
    assert row.note == "its image differs by 5e-01" and row.difference == pytest.approx(0.5, rel=1e-3)


def test_peer_memory_is_that_of_gleam_end_to_end_or_more(batch, monkeypatch):
    monkeypatch.setattr(peers, "PEERS", {"plain PyTorch": peers.plain})
    rows = compare.compare(unrolled.pgd, TINY, n_rounds=1, n_warmup=0)
    peaks = [rows[name]["peak_bytes"] for name in ("GLEAM, 2 modules", "End-to-end", "plain PyTorch")]
    assert 0 < peaks[0] < peaks[1] < peaks[2]


def test_ratios_are_paired_within_a_round():
    assert compare.ratio([2.0, 20.0, 200.0], [1.0, 10.0, 100.0]) == [2.0, 2.0, 2.0]
    assert compare.ratio([1.0, 2.0, 3.0, 4.0, 5.0], [1.0] * 5) == [2.0, 3.0, 4.0]


def test_of_two_networks_the_worse_one_counts():
    def rows(gleam, others):
        seconds = {"GLEAM": gleam, "End-to-end": 1.0, "Checkpointed": 1.3} | others
        return {name: {"seconds_per_step": s, "step_seconds": [s, s]} for name, s in seconds.items()}

    networks = {"PGD": rows(0.8, {"a": 1.6, "b": 2.0}), "MoDL": rows(0.9, {"a": 2.0, "b": 1.0})}
    memory = {"PGD": {"GLEAM": {"4": 100, "8": 101}, "End-to-end": {"4": 1, "8": 9}}, "MoDL": {"GLEAM": {"4": 50}}}
    found = benchmark.measures(networks, memory)
    assert list(found) == list(benchmark.MEASURES)
    medians = {name: q[1] for name, q in found.items() if q}
    assert medians == pytest.approx({
        "gleam_over_end_to_end": 0.9, "checkpointed_over_end_to_end": 1.3, "gleam_over_fastest_peer": 0.9,
        "memory_spread_over_n": 0.01,
    })  # fmt: skip
    assert found["pipelined_over_gleam"] is None


@pytest.mark.slow
def test_two_processes_are_timed_in_paired_blocks():
    seconds = benchmark.measure_parallel(TINY, n_steps=2, n_rounds=2)
    assert list(seconds) == ["gleam", "pipelined", "sequential"]
    assert all(len(times) == 2 and min(times) > 0 for times in seconds.values())
    assert set(benchmark.over_gleam(seconds)) == set(benchmark.MEASURES[:2])


def test_a_run_prints_its_measures_last_and_writes_them(tmp_path, capsys):
    benchmark.main([*ARGUMENTS, "--n-steps", "0", "--out", str(tmp_path)])
    last = [line.split() for line in capsys.readouterr().out.splitlines()[-6:]]
    assert [name for name, _ in last] == list(benchmark.MEASURES)
    (path,) = tmp_path.iterdir()
    record = json.loads(path.read_text())
    rows = record["networks"]["PGD"]
    assert len(rows["End-to-end"]["step_seconds"]) == record["n_rounds"] == 3
    assert float(last[2][1]) == pytest.approx(record["measures"]["gleam_over_end_to_end"][1], abs=1e-3)
    assert record["memory"]["PGD"]["End-to-end"]["3"] > record["memory"]["PGD"]["End-to-end"]["2"]
