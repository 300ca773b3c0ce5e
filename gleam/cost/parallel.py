"""What P-GLEAM costs beside GLEAM on one machine, block by block in one run."""

from dataclasses import replace
from functools import partial

from gleam import processes
from gleam.cost.step import Step, synchronize
from gleam.cost.timing import Cost, paired
from gleam.execution import checked_device
from gleam.processes.allocator import keep_freed_memory
from gleam.processes.launching import launch
from gleam.strategies.base import Greedy
from gleam.strategies.parallel import ParallelGreedy


def measure(network, batch, *, n_processes=2, n_modules=None, n_steps=24, n_rounds=5, device="cpu"):
    """Cost of GLEAM in one process beside that of P-GLEAM in ``n_processes`` on this machine, block by block.

    A round trains ``n_steps`` steps in one process while the others rest, then as many in all of them by Algorithm 2,
    then pipelined. Filling and draining the pipeline is in the time of its block. Each process has one thread, or the
    GPU of its number. Returns a dict of name, "GLEAM", "P-GLEAM, in turn" and "P-GLEAM, pipelined", to :class:`Cost`;
    ``step_seconds`` are the means of each block, peaks those of the process that needs most. A script that calls this
    needs ``if __name__ == "__main__":``.
    """
    checked_device(device)
    n_modules = n_modules or len(network.iterations)
    methods = {
        "GLEAM": Greedy(n_modules),
        "P-GLEAM, in turn": ParallelGreedy(n_modules, pipelined=False),
        "P-GLEAM, pipelined": ParallelGreedy(n_modules),
    }
    of_processes = launch(_measure_blocks, n_processes, network, batch, methods, n_steps, n_rounds, device, n_threads=1)
    largest = {name: max((one[name] for one in of_processes), key=lambda c: c.peak_bytes) for name in methods}
    return {
        name: replace(largest[name], seconds_per_step=cost.seconds_per_step, step_seconds=cost.step_seconds)
        for name, cost in of_processes[0].items()
    }


def _measure_blocks(network, batch, methods, n_steps, n_rounds, device):
    keep_freed_memory()
    team = processes.join()
    steps = {name: Step(network, strategy, batch, device=device) for name, strategy in methods.items()}
    peaks = {}
    for name, step in steps.items():
        team.wait_for_all()
        peaks[name] = step.peak_split()
    seconds = paired(
        {name: partial(_block, team, step, n_steps) for name, step in steps.items()},
        n_rounds=n_rounds, n_warmup=1, device=device,
    )  # fmt: skip
    return {name: Cost.measured([t / n_steps for t in times], peaks[name], device) for name, times in seconds.items()}


def _block(team, step, n_steps):
    """From when all processes have come here until all are done."""
    team.wait_for_all()
    if isinstance(step.strategy, ParallelGreedy) or team.is_first:
        for _ in range(n_steps):
            step()
    if isinstance(step.strategy, ParallelGreedy):
        step.strategy.finish()
    synchronize(step.device)
    team.wait_for_all()
