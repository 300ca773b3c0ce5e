"""A training step of GLEAM beside those of what one would use instead, in one process and paired round by round.

``make benchmark`` runs it; README.md beside it says what is compared and how to read the table.
"""

import argparse
import itertools
import os
import statistics
import sys
import tempfile
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from compare import AUTOCAST, FAST, NETWORKS, Sizes, compare, memory_over_n, random_batch, ratio, time_prediction

from gleam import Fast, Greedy, evaluate, execution, files, fit, records, unrolled
from gleam.cost import parallel as parallel_cost
from gleam.phantoms import simulated
from gleam.processes.allocator import keep_freed_memory

ROOT = Path(__file__).parents[1]
N_PROCESSES = 2
TOLERANCE_OF_PREDICTION = 0.15  # of a step's time, relative
SCHEDULES = {"gleam": "GLEAM", "pipelined": "P-GLEAM, pipelined", "sequential": "P-GLEAM, in turn"}
MEASURES = (
    "pipelined_over_gleam", "sequential_over_gleam", "gleam_over_end_to_end", "checkpointed_over_end_to_end",
    "gleam_over_fastest_peer", "memory_spread_over_n", "predicted_over_measured",
    "fast_over_gleam", "fast_modl_over_modl", "fast_over_fastest_peer_pgd", "fast_over_fastest_peer_modl",
    "fast_over_fastest_peer_autocast", "fast_gleam_over_end_to_end", "bf16_psnr_shift_db",
)  # fmt: skip


def measures(networks, memory, parallel=None, psnr=None, prediction=None):
    """Quartiles of each of :data:`MEASURES`; None where it was not measured.

    ``networks``: dict of "PGD" and "MoDL" to their rows. Of two networks the worse one counts, unless a measure is of
    one: README.md says which.
    """
    pgd, modl = (_ratios(networks[name]) for name in NETWORKS)

    def worse(name):
        return max(pgd[name], modl[name], key=lambda q: q[1]) if {name} <= pgd.keys() & modl.keys() else None

    peaks = [next(iter(methods.values())).values() for methods in memory.values()]
    predicted = [row["predicted_over_measured"] for rows in (prediction or {}).values() for row in rows.values()]
    shift = psnr and statistics.mean(psnr["bf16"]) - statistics.mean(psnr["fp32"])
    found = (over_gleam(parallel) if parallel else {}) | {
        "gleam_over_end_to_end": worse("gleam_over_end_to_end"),
        "checkpointed_over_end_to_end": worse("checkpointed_over_end_to_end"),
        "gleam_over_fastest_peer": worse("gleam_over_peer"),
        # a single number has no quartiles: it stands for all three
        "memory_spread_over_n": [max((max(p) - min(p)) / min(p) for p in peaks)] * 3,
        "predicted_over_measured": max(predicted, key=lambda q: abs(q[1] - 1), default=None),
        "fast_over_gleam": pgd.get("fast_over_gleam"),
        "fast_modl_over_modl": modl.get("fast_over_gleam"),
        "fast_over_fastest_peer_pgd": pgd.get("fast_over_peer"),
        "fast_over_fastest_peer_modl": modl.get("fast_over_peer"),
        "fast_over_fastest_peer_autocast": worse("fast_over_autocast"),
        "fast_gleam_over_end_to_end": pgd.get("fast_over_end_to_end"),
        "bf16_psnr_shift_db": psnr and [shift] * 3,
    }
    return {name: found.get(name) for name in MEASURES}


def _ratios(rows):
    seconds = {name: row["step_seconds"] for name, row in rows.items() if "step_seconds" in row}
    # in the order of compare.own_rows
    gleam, end_to_end, checkpointed = list(seconds)[:3]
    fast, fast_end_to_end = f"GLEAM{FAST}", f"End-to-end{FAST}"
    peers = [name for name in list(seconds)[3:] if name not in (fast, fast_end_to_end)]
    peer, autocast = (
        min(
            (name for name in peers if name.endswith(AUTOCAST) == is_autocast),
            default=None,
            key=lambda name: rows[name]["seconds_per_step"],
        )
        for is_autocast in (False, True)
    )
    pairs = {
        "gleam_over_end_to_end": (gleam, end_to_end),
        "checkpointed_over_end_to_end": (checkpointed, end_to_end),
        "gleam_over_peer": (gleam, peer),
        "fast_over_gleam": (fast, gleam),
        "fast_over_peer": (fast, peer),
        "fast_over_autocast": (fast, autocast),
        "fast_over_end_to_end": (fast, fast_end_to_end),
    }
    return {name: ratio(seconds[a], seconds[b]) for name, (a, b) in pairs.items() if {a, b} <= seconds.keys()}


def over_gleam(seconds):
    """Quartiles of the two parallel measures, paired within a round."""
    return {f"{name}_over_gleam": ratio(times, seconds["gleam"]) for name, times in seconds.items() if name != "gleam"}


def measure_parallel(sizes, *, n_steps, n_rounds):
    """Seconds per step, by schedule, of each round of ``n_steps`` steps of PGD on two processes."""
    network = unrolled.pgd(sizes.n_iterations, sizes.n_features)
    costs = parallel_cost.measure(
        network, random_batch(sizes), n_processes=N_PROCESSES, n_steps=n_steps, n_rounds=n_rounds
    )
    return {name: costs[method].step_seconds for name, method in SCHEDULES.items()}


def psnr_by_format(*, matrix=(64, 48), n_features=16, n_steps=200, seeds=(0, 1, 2)):
    """PSNR (dB) on test slices after a short run of GLEAM on knee phantoms, by number format, one for each seed.

    With a step of 2t = 1 runs as short as these end near each other in fp32, 0.4 dB apart, so that a shift can be seen.
    """
    train, val, test = simulated.knees(
        acceleration=4, n_calibration=8, n_masks=16, n_train=4, n_val=1, n_test=2, n_slices=6, matrix=matrix, n_coils=8,
        seed=0, n_jobs=1,
    )  # fmt: skip
    settings = {"n_steps": n_steps, "batch_size": 2, "validate_every": n_steps, "weight_decay": 1e-4}
    settings |= {"learning_rate": 3e-3, "final_learning_rate": 0.0, "n_warmup_steps": n_steps // 5}
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        # both formats train from the same first weights and see the same batches
        for precision, seed in itertools.product(("fp32", "bf16"), seeds):
            network, name = unrolled.pgd(8, n_features, step_size=1.0, seed=seed), f"{precision}, seed {seed}"
            fit(network, train, val, Fast(Greedy(8), precision), seed=seed, run_dir=folder, name=name, **settings)
            found.setdefault(precision, []).append(float(evaluate(network, test, scores=("psnr",))["psnr"].mean()))
    return found


def run(sizes, *, n_rounds, n_steps, n_blocks, n_training_steps, device="cpu"):
    """Everything, as the content of the record."""
    networks = {name: compare(make, sizes, n_rounds=n_rounds, device=device) for name, make in NETWORKS.items()}
    memory = {name: memory_over_n(make, sizes, device) for name, make in NETWORKS.items()}
    prediction = {
        name: time_prediction(make, sizes, n_rounds=n_rounds, device=device) for name, make in NETWORKS.items()
    }
    # last, and on two cores: two processes that share one would say nothing
    can_share = n_steps and torch.device(device).type == "cpu" and files.n_cores() >= N_PROCESSES
    parallel = measure_parallel(sizes, n_steps=n_steps, n_rounds=n_blocks) if can_share else None
    trains = n_training_steps and torch.device(device).type == "cpu" and execution.has_fast_bf16("cpu")
    psnr = psnr_by_format(n_steps=n_training_steps) if trains else None
    return {
        "sizes": asdict(sizes), "n_rounds": n_rounds, "n_steps": n_steps, "environment": records.environment(device),
        "peer_versions": {name: _version(name) for name in ("deepinv", "mrpro", "torchvision")},
        "load_average": list(os.getloadavg()), "keeps_freed_memory": keep_freed_memory(),
        "memory_kind": "peak of live tensors" if torch.device(device).type != "cuda" else "max_memory_allocated",
        "networks": networks, "memory": memory, "parallel_step_seconds": parallel,
        "psnr_by_format": psnr, "time_prediction": prediction,
        "measures": measures(networks, memory, parallel, psnr, prediction),
    }  # fmt: skip


def _version(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def report(record):
    """The tables and, at the end, one line ``name value`` per measure."""
    lines = []
    for name, rows in record["networks"].items():
        lines += ["", f"{name}: seconds per step, time over that of GLEAM (quartiles over rounds), peak MB, same image"]
        lines += [_line(method, row) for method, row in rows.items()]
        lines += [f"  {method}: {row['note']}" for method, row in rows.items() if row["note"]]
    lines += ["", f"Peak without weights and optimizer, MB ({record['memory_kind']}), by number of iterations N"]
    for name, methods in record["memory"].items():
        for method, peaks in methods.items():
            values = "  ".join(f"N={n}: {peak / 1e6:6.1f}" for n, peak in peaks.items())
            lines.append(f"  {name + ', ' + method:26s}{values}")
    lines += ["", "gleam.plan: predicted seconds per step, measured, predicted over measured (quartiles over rounds)"]
    for network, rows in record["time_prediction"].items():
        lines += [_prediction_line(f"{network}, {method}", row) for method, row in rows.items()]
    if record["parallel_step_seconds"]:
        lines += [
            "",
            f"PGD on {N_PROCESSES} processes, {record['n_steps']} steps in a block: seconds per step, time over "
            "GLEAM in one of them (quartiles over rounds), speed-up",
        ]
        lines += _parallel_lines(record["parallel_step_seconds"])
    values = {name: "missing" if q is None else f"{q[1]:.3f}" for name, q in record["measures"].items()}
    return "\n".join([*lines, "", *(f"{name} {value}" for name, value in values.items())])


def _parallel_lines(seconds):
    ratios = {"gleam_over_gleam": [1.0] * 3} | over_gleam(seconds)
    for (name, times), (low, median, high) in zip(seconds.items(), ratios.values(), strict=True):
        spread = f"[{low:.3f} .. {high:.3f}]"
        yield f"  {name:20s}{statistics.median(times):8.4f}{median:8.3f}  {spread:18s}{1 / median:8.2f}"


def _prediction_line(name, row):
    predicted, measured = (statistics.median(row[key]) for key in ("predicted_seconds", "step_seconds"))
    low, median, high = row["predicted_over_measured"]
    note = "" if abs(median - 1) <= TOLERANCE_OF_PREDICTION else "  off by more than 15 %"
    return f"  {name:26s}{predicted:8.4f}{measured:8.4f}{median:8.3f}  [{low:.3f} .. {high:.3f}]{note}"


def _line(method, row):
    if "over_gleam" not in row:
        return f"  {method:28s}{'-':>8s}"
    low, median, high = row["over_gleam"]
    spread, peak = f"[{low:.3f} .. {high:.3f}]", row["peak_bytes"] / 1e6
    agrees = "" if row["difference"] is None else f"{row['difference']:9.0e}"
    return f"  {method:28s}{row['seconds_per_step']:8.4f}{median:8.3f}  {spread:18s}{peak:8.1f}{agrees}"


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", type=int, nargs=2, default=Sizes.shape, metavar=("Y", "X"))
    for name in ("n_coils", "batch_size", "n_iterations", "n_features"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(Sizes, name))
    parser.add_argument("--memory-iterations", type=int, nargs="+", default=Sizes.memory_iterations)
    parser.add_argument("--n-rounds", type=int, default=7)
    parser.add_argument("--n-steps", type=int, default=24, help="in a block of the two processes; 0: without them")
    parser.add_argument("--n-blocks", type=int, default=4, help="rounds of such blocks")
    parser.add_argument("--n-training-steps", type=int, default=200, help="of the runs in fp32 and bf16; 0: none")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--n-threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "benchmark")
    a = parser.parse_args(arguments)
    keep_freed_memory()  # before anything is allocated: all rows run under the same setting
    torch.set_num_threads(a.n_threads)
    sizes = Sizes(tuple(a.shape), a.n_coils, a.batch_size, a.n_iterations, a.n_features)
    sizes = replace(sizes, memory_iterations=tuple(a.memory_iterations))
    record = run(
        sizes, n_rounds=a.n_rounds, n_steps=a.n_steps, n_blocks=a.n_blocks, n_training_steps=a.n_training_steps,
        device=a.device,
    )  # fmt: skip
    path = a.out / f"{records.slug(record['environment']['device'])}.json"
    files.write_json(path, record)
    print(report(record))


if __name__ == "__main__":
    sys.exit(main())
