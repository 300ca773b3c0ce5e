"""The cost of P-GLEAM compared with GLEAM on one machine, in alternating blocks of one run."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from gleam import processes
from gleam.cost.step import Step, synchronize
from gleam.cost.timing import Cost, paired
from gleam.execution import checked_device
from gleam.files import whole_number
from gleam.physics.batch import Batch
from gleam.processes.allocator import keep_freed_memory
from gleam.processes.launching import launch
from gleam.strategies.greedy import Greedy
from gleam.strategies.parallel import ParallelGreedy


def measure(
    network: nn.Module,
    batch: Batch,
    *,
    n_processes: int = 2,
    n_modules: int | None = None,
    n_steps: int = 24,
    n_rounds: int = 5,
    device: str = "cpu",
) -> dict[str, Cost]:
    """Measure GLEAM in one process and P-GLEAM in `n_processes` on this machine, in alternating blocks.

    Parameters
    ----------
    network : nn.Module
    batch : Batch
    n_processes : int
        Each has one thread, or the GPU of its number.
    n_modules : int, optional
        Default: one module per iteration.
    n_steps : int
        Steps of a block.
    n_rounds : int
        In each round one process trains a block while the others rest, then all train a block by Algorithm 2, then a
        block pipelined. Filling and draining the pipeline counts as time of its block.
    device : str

    Returns
    -------
    dict
        :class:`Cost` of "GLEAM", "P-GLEAM, in turn" and "P-GLEAM, pipelined". `step_seconds` are the means of each
        block; the peaks are those of the process that needs most.

    Notes
    -----
    A script that calls this needs `if __name__ == "__main__":`.
    """
    checked_device(device)
    iterations: Any = network.iterations
    n_modules = len(iterations) if n_modules is None else n_modules
    n_steps, n_rounds = whole_number(n_steps, "n_steps"), whole_number(n_rounds, "n_rounds")
    methods = {
        "GLEAM": Greedy(n_modules),
        "P-GLEAM, in turn": ParallelGreedy(n_modules, pipelined=False),
        "P-GLEAM, pipelined": ParallelGreedy(n_modules),
    }
    of_processes = launch(_measure_blocks, n_processes, network, batch, methods, n_steps, n_rounds, device, n_threads=1)
    largest = {name: max((one[name] for one in of_processes), key=lambda c: c.peak_bytes) for name in methods}
    # of time any process will do: all begin and end a block together
    return {
        name: replace(largest[name], seconds_per_step=cost.seconds_per_step, step_seconds=cost.step_seconds)
        for name, cost in of_processes[0].items()
    }


def _measure_blocks(network, batch, methods, n_steps, n_rounds, device):
    """The costs of :func:`measure` as one of its processes sees them."""
    keep_freed_memory()
    team = processes.join()
    steps = {name: Step(network, strategy, batch, device=device) for name, strategy in methods.items()}
    peaks = {}
    for name, step in steps.items():
        team.wait_for_all()  # a step of P-GLEAM needs all processes
        peaks[name] = step.peak_split()
    seconds = paired(
        {name: partial(_block, team, step, n_steps) for name, step in steps.items()},
        n_rounds=n_rounds,
        n_warmup=1,
        device=device,
    )
    return {name: Cost.measured([t / n_steps for t in times], peaks[name], device) for name, times in seconds.items()}


def _block(team, step, n_steps):
    """One block: from when all processes are ready until all have finished."""
    team.wait_for_all()
    if isinstance(step.strategy, ParallelGreedy) or team.is_first:
        for _ in range(n_steps):
            step()
    if isinstance(step.strategy, ParallelGreedy):
        step.strategy.finish()
    synchronize(step.device)
    team.wait_for_all()
