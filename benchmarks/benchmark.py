"""A training step of GLEAM beside those of what one would use instead, in one process and paired round by round.

``make benchmark`` runs it; README.md beside it says what is compared and how to read the table.
"""

import argparse
import math
import os
import statistics
import sys
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from compare import NETWORKS, Sizes, compare, memory_over_n, random_batch, ratio

from gleam import files, parallel_cost, records, unrolled
from gleam.allocator import keep_freed_memory

ROOT = Path(__file__).parents[1]
N_PROCESSES = 2
SCHEDULES = {"gleam": "GLEAM", "pipelined": "P-GLEAM, pipelined", "sequential": "P-GLEAM, in turn"}
MEASURES = (
    "pipelined_over_gleam", "sequential_over_gleam", "gleam_over_end_to_end", "checkpointed_over_end_to_end",
    "gleam_over_fastest_peer", "memory_spread_over_n",
)  # fmt: skip


def measures(networks, memory, parallel=None):
    """Quartiles of each of :data:`MEASURES`, of two networks those of the worse; None where it was not measured."""
    found = dict.fromkeys(MEASURES) | (over_gleam(parallel) if parallel else {})
    ratios = [_ratios(rows) for rows in networks.values()]
    found |= {name: max((one[name] for one in ratios), key=lambda q: q[1]) for name in ratios[0]}
    peaks = [next(iter(methods.values())).values() for methods in memory.values()]
    return found | {"memory_spread_over_n": [max((max(p) - min(p)) / min(p) for p in peaks)] * 3}


def _ratios(rows):
    seconds = {name: row["step_seconds"] for name, row in rows.items() if "step_seconds" in row}
    gleam, end_to_end, checkpointed, *others = seconds
    fastest = min(others, key=lambda name: rows[name]["seconds_per_step"])
    return {
        "gleam_over_end_to_end": ratio(seconds[gleam], seconds[end_to_end]),
        "checkpointed_over_end_to_end": ratio(seconds[checkpointed], seconds[end_to_end]),
        "gleam_over_fastest_peer": ratio(seconds[gleam], seconds[fastest]),
    }


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


def run(sizes, *, n_rounds, n_steps, n_blocks, device="cpu"):
    """Everything, as the content of the record."""
    networks = {name: compare(make, sizes, n_rounds=n_rounds, device=device) for name, make in NETWORKS.items()}
    memory = {name: memory_over_n(make, sizes, device) for name, make in NETWORKS.items()}
    # last, and on two cores: two processes that share one would say nothing
    can_share = n_steps and torch.device(device).type == "cpu" and files.n_cores() >= N_PROCESSES
    parallel = measure_parallel(sizes, n_steps=n_steps, n_rounds=n_blocks) if can_share else None
    return {
        "sizes": asdict(sizes), "n_rounds": n_rounds, "n_steps": n_steps, "environment": records.environment(device),
        "peer_versions": {name: _version(name) for name in ("deepinv", "mrpro", "torchvision")},
        "load_average": list(os.getloadavg()), "keeps_freed_memory": keep_freed_memory(),
        "memory_kind": "peak of live tensors" if torch.device(device).type != "cuda" else "max_memory_allocated",
        "networks": networks, "memory": memory, "parallel_step_seconds": parallel,
        "measures": measures(networks, memory, parallel),
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
    if record["parallel_step_seconds"]:
        lines += [
            "",
            f"PGD on {N_PROCESSES} processes, {record['n_steps']} steps in a block: seconds per step, time over "
            "GLEAM in one of them (quartiles over rounds), speed-up",
        ]
        lines += _parallel_lines(record["parallel_step_seconds"])
    values = {name: math.nan if q is None else q[1] for name, q in record["measures"].items()}
    return "\n".join([*lines, "", *(f"{name} {value:.3f}" for name, value in values.items())])


def _parallel_lines(seconds):
    ratios = {"gleam_over_gleam": [1.0] * 3} | over_gleam(seconds)
    for (name, times), (low, median, high) in zip(seconds.items(), ratios.values(), strict=True):
        spread = f"[{low:.3f} .. {high:.3f}]"
        yield f"  {name:20s}{statistics.median(times):8.4f}{median:8.3f}  {spread:18s}{1 / median:8.2f}"


def _line(method, row):
    if "over_gleam" not in row:
        return f"  {method:20s}{'-':>8s}"
    low, median, high = row["over_gleam"]
    spread, peak = f"[{low:.3f} .. {high:.3f}]", row["peak_bytes"] / 1e6
    agrees = "" if row["difference"] is None else f"{row['difference']:9.0e}"
    return f"  {method:20s}{row['seconds_per_step']:8.4f}{median:8.3f}  {spread:18s}{peak:8.1f}{agrees}"


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", type=int, nargs=2, default=Sizes.shape, metavar=("Y", "X"))
    for name in ("n_coils", "batch_size", "n_iterations", "n_features"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(Sizes, name))
    parser.add_argument("--memory-iterations", type=int, nargs="+", default=Sizes.memory_iterations)
    parser.add_argument("--n-rounds", type=int, default=7)
    parser.add_argument("--n-steps", type=int, default=24, help="in a block of the two processes; 0: without them")
    parser.add_argument("--n-blocks", type=int, default=4, help="rounds of such blocks")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--n-threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "benchmark")
    a = parser.parse_args(arguments)
    keep_freed_memory()  # before anything is allocated: all rows run under the same setting
    torch.set_num_threads(a.n_threads)
    sizes = Sizes(tuple(a.shape), a.n_coils, a.batch_size, a.n_iterations, a.n_features)
    sizes = replace(sizes, memory_iterations=tuple(a.memory_iterations))
    record = run(sizes, n_rounds=a.n_rounds, n_steps=a.n_steps, n_blocks=a.n_blocks, device=a.device)
    path = a.out / f"{records.slug(record['environment']['device'])}.json"
    files.write_json(path, record)
    print(report(record))


if __name__ == "__main__":
    sys.exit(main())
