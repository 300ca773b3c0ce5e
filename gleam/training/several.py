"""Several training runs in parallel, and one run in several processes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import suppress

import torch
from torch import nn
from tqdm.auto import tqdm

from gleam.datasets.slices import Slices
from gleam.files import whole_number
from gleam.processes.launching import launch
from gleam.processes.pool import in_processes
from gleam.processes.sending import packed, unpacked
from gleam.strategies.parallel import ParallelGreedy
from gleam.training.arguments import settings
from gleam.training.checkpoints import Fit
from gleam.training.fitting import fit
from gleam.training.identity import sources, tell


def fit_parallel(
    network: nn.Module,
    train: Slices,
    val: Slices,
    strategy: ParallelGreedy,
    *,
    n_processes: int,
    n_steps: int,
    name: str | None = None,
    **arguments,
) -> Fit:
    """:func:`fit` by `n_processes` new processes on this machine: P-GLEAM from a notebook, in one call.

    There is one progress bar. No process outlives the call, and an interrupt ends them all. On a CPU the processes
    share the threads that this one would use; on GPUs each has the card of its number. Networks, masks and losses may
    be defined in a notebook's cell. The trained weights are left in `network`.

    Parameters
    ----------
    strategy : ParallelGreedy
    n_processes : int
        How many processes to start; with 1 this process trains.
    network, train, val, n_steps, name, **arguments
        As in :func:`fit`.

    Returns
    -------
    Fit

    Raises
    ------
    ValueError
        If `strategy` trains in one process only, or if an argument cannot be sent to another process. Also what
        :func:`fit` raises in any of the processes.
    """
    if strategy.equivalent == strategy:
        raise ValueError(f"{strategy} trains in one process: give gleam.ParallelGreedy, or call gleam.fit")
    strategy = _with_number_format(arguments | {"strategy": strategy})["strategy"]
    arguments |= {"train": train, "val": val, "n_steps": n_steps, "name": name}
    settings(**arguments)
    if whole_number(n_processes, "n_processes") != 1:
        _without_callback(arguments)
        # a copy on the CPU: each process brings it to its own device
        sent = arguments | {"network": unpacked(packed(network)).cpu(), "strategy": strategy}
        with tqdm(total=n_steps, desc=name or repr(strategy.equivalent), unit="step") as bar:
            launch(_fit_one, n_processes, _with_sources(sent), on_progress=lambda n: bar.update(max(0, n - bar.n)))
            bar.update(n_steps - bar.n)  # progress is asked for now and then, so the last steps may be missing
    return fit(network, strategy=strategy.equivalent, **arguments)  # loads the complete run from its checkpoint


def fit_all(runs: dict, *, n_jobs: int = 1, on_done: Callable | None = None) -> dict:
    """Several independent calls of :func:`fit`, `n_jobs` at a time, in as many worker processes.

    On CPU cores this scales better than threads inside one run. The processes leave checkpoints in `run_dir`, from
    which the given networks are then filled. Networks and strategies may be classes of a notebook's cell.

    Parameters
    ----------
    runs : dict
        Of key to the arguments of :func:`fit`, as a dict.
    n_jobs : int
        How many run at a time; with 1 they run in this process.
    on_done : callable, optional
        Called as `on_done(key, network, fit)` as soon as a run is complete and its network filled, even if others fail.

    Returns
    -------
    dict
        Of key to :class:`Fit`.

    Raises
    ------
    ValueError
        If an argument cannot be sent to another process.
    OSError
        If a process dies. Also what :func:`fit` raises in a run, after the others have finished; numbers that make no
        sense are found before the first one begins.
    """
    for arguments in runs.values():  # before the first one is trained
        settings(**inspect.signature(fit).bind(**arguments).arguments)
    runs = {key: _with_number_format(arguments) for key, arguments in runs.items()}
    n_jobs = whole_number(n_jobs, "n_jobs")
    if n_jobs == 1 or len(runs) <= 1:
        return {key: _fit_and_report(key, runs, on_done) for key in runs}
    for arguments in runs.values():
        _without_callback(arguments)
    work = {key: _with_sources(arguments) for key, arguments in runs.items()}
    n_threads, fits, failures = max(1, torch.get_num_threads() // n_jobs), {}, {}
    for key, trained in in_processes(_fit_one, work, n_jobs, work="training", n_threads=n_threads):
        if error := trained.exception():
            failures[key] = error
        else:
            fits[key] = _fit_and_report(key, runs, on_done)
    for key in runs:  # in their order, not in that of time
        if key in failures:
            raise failures[key]
    return {key: fits[key] for key in runs}


def _fit_and_report(key, runs, on_done):
    found = fit(**runs[key])  # returns at once if another process has trained it
    if on_done is not None:
        on_done(key, runs[key]["network"], found)
    return found


def _with_number_format(arguments):
    """Arguments of :func:`fit` with the number format chosen in this process, for new processes that will train."""
    device = arguments.get("device", "cpu")
    device = device[0] if isinstance(device, list | tuple) and device else device
    with suppress(RuntimeError, TypeError):  # not a device: fit will raise the error
        return arguments | {"strategy": arguments["strategy"].settled(device)}
    return arguments


def _without_callback(arguments):
    if arguments.get("callback") is not None:
        raise ValueError("callback= is called in the process that trains; with new processes leave it out, or use fit")


def _with_sources(arguments):
    """Work for :func:`_fit_one`: a new process cannot read the source of what a notebook's cell defines."""
    network, strategy = arguments["network"], arguments["strategy"].equivalent
    return arguments, sources(network, strategy, arguments.get("optimizer"))


def _fit_one(work):
    arguments, sources = work
    tell(sources)
    fit(**arguments)
