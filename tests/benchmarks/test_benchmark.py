import json
import sys
from pathlib import Path

import pytest
import torch

from gleam import execution, unrolled
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
    assert found["pipelined_over_gleam"] is None and found["fast_over_gleam"] is None


def test_the_prediction_that_is_furthest_off_counts():
    rows = {"End-to-end": {"step_seconds": [1.0, 1.0], "seconds_per_step": 1.0}}
    rows |= {"GLEAM": rows["End-to-end"], "Checkpointed": rows["End-to-end"]}
    memory = {"PGD": {"GLEAM": {"4": 1}}}
    quartiles = {"a": [0.9, 1.0, 1.1], "b": [0.7, 0.8, 1.2], "c": [0.9, 1.1, 1.2]}
    prediction = {"PGD": {name: {"predicted_over_measured": q} for name, q in quartiles.items()}}
    found = benchmark.measures({"PGD": rows, "MoDL": rows}, memory, prediction=prediction)
    assert found["predicted_over_measured"] == quartiles["b"]
    row = {"predicted_seconds": [0.8], "step_seconds": [1.0], "predicted_over_measured": quartiles["b"]}
    assert benchmark._prediction_line("PGD", row).endswith("off by more than 15 %")


def test_fast_steps_are_held_against_ours_and_those_of_others():
    def rows(fast, fast_end_to_end, peer, autocast):
        seconds = {"GLEAM": 1.0, "End-to-end": 1.1, "Checkpointed": 1.3, "GLEAM, fast": fast}
        seconds |= {"End-to-end, fast": fast_end_to_end, "a": peer, "b": 9.0, "a, autocast": autocast}
        return {name: {"seconds_per_step": s, "step_seconds": [s, s]} for name, s in seconds.items()}

    networks = {"PGD": rows(0.2, 0.25, 2.0, 0.8), "MoDL": rows(0.6, 0.3, 1.5, 0.9)}
    psnr = {"fp32": [30.0, 31.0], "bf16": [30.1, 30.8]}
    found = benchmark.measures(networks, {"PGD": {"GLEAM": {"4": 1}}}, psnr=psnr)
    assert {name: q[1] for name, q in found.items() if q and ("fast" in name or "bf16" in name)} == pytest.approx({
        "gleam_over_fastest_peer": 1 / 1.5, "fast_over_gleam": 0.2, "fast_modl_over_modl": 0.6,
        "fast_over_fastest_peer_pgd": 0.1, "fast_over_fastest_peer_modl": 0.4,
        "fast_over_fastest_peer_autocast": 0.6 / 0.9, "fast_gleam_over_end_to_end": 0.8, "bf16_psnr_shift_db": -0.05,
    })  # fmt: skip


def test_short_runs_in_two_number_formats():
    psnr = benchmark.psnr_by_format(matrix=(32, 32), n_features=3, n_steps=2, seeds=(0,))
    assert psnr.keys() == {"fp32", "bf16"} and psnr["fp32"] != psnr["bf16"]


@pytest.mark.parametrize("is_fast", [True, False])
def test_rows_in_bf16_are_there_where_it_is_fast(is_fast, batch, monkeypatch):
    monkeypatch.setattr(execution, "has_fast_bf16", lambda device_type: is_fast)
    monkeypatch.setattr(peers, "PEERS", {"plain PyTorch": peers.plain})
    rows = compare.compare(unrolled.pgd, TINY, n_rounds=1, n_warmup=0)
    ends = {name for name in rows if name.endswith((compare.FAST, compare.AUTOCAST))}
    assert ends == ({"GLEAM, fast", "End-to-end, fast", "plain PyTorch, autocast"} if is_fast else set())
    if is_fast:
        assert 1e-4 < rows["plain PyTorch, autocast"]["difference"] < compare.TOLERANCE_OF_BF16


@pytest.mark.slow
def test_two_processes_are_timed_in_paired_blocks():
    seconds = benchmark.measure_parallel(TINY, n_steps=2, n_rounds=2)
    assert list(seconds) == ["gleam", "pipelined", "sequential"]
    assert all(len(times) == 2 and min(times) > 0 for times in seconds.values())
    assert set(benchmark.over_gleam(seconds)) == set(benchmark.MEASURES[:2])


def test_a_run_prints_its_measures_last_and_writes_them(tmp_path, capsys):
    benchmark.main([*ARGUMENTS, "--n-steps", "0", "--n-training-steps", "0", "--out", str(tmp_path)])
    last = [line.split() for line in capsys.readouterr().out.splitlines()[-14:]]
    assert [name for name, _ in last] == list(benchmark.MEASURES)
    assert last[0][1] == last[-1][1] == "missing"
    (path,) = tmp_path.iterdir()
    record = json.loads(path.read_text())
    rows = record["networks"]["PGD"]
    assert len(rows["End-to-end"]["step_seconds"]) == record["n_rounds"] == 3
    assert float(last[2][1]) == pytest.approx(record["measures"]["gleam_over_end_to_end"][1], abs=1e-3)
    predicted = record["time_prediction"]["MoDL"]["GLEAM, 2 modules"]
    assert len(predicted["predicted_seconds"]) == len(predicted["step_seconds"]) == 3
    assert record["memory"]["PGD"]["End-to-end"]["3"] > record["memory"]["PGD"]["End-to-end"]["2"]
