"""Training with any strategy: resumable, several runs side by side, one run in several processes."""

import copy
import math
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import torch
from tqdm.auto import tqdm

from gleam.cost.prediction import explained
from gleam.execution import checked_device, numbered_device
from gleam.files import end_with_parent
from gleam.processes.allocator import keep_freed_memory
from gleam.processes.launching import launch
from gleam.strategies.parallel import spread
from gleam.training.run import Run


def fit(
    network,
    train,
    val,
    strategy,
    *,
    n_steps,
    batch_size,
    run_dir,
    learning_rate=1e-4,
    final_learning_rate=None,
    n_warmup_steps=0,
    weight_decay=1e-4,
    validate_every=None,
    seed=0,
    device="cpu",
    name=None,
    max_seconds=None,
):
    """Train ``network`` with ``strategy`` and leave it with the weights of the lowest validation nRMSE (Section V-C4).

    Adam with the paper's betas; one optimizer per module of the strategy. The step size is constant at
    ``learning_rate`` or, if ``final_learning_rate`` is given, falls to it along a cosine after a linear warm-up.
    Each validation (``validate_every`` steps, by default 10 in a run) also writes a checkpoint under ``run_dir``, in a
    folder named after everything that decides the result. Called again with the same arguments, ``fit`` goes on from
    there, or returns at once when the run is complete; on a CPU the weights are those of an uninterrupted run.

    ``network`` needs ``iterations`` and ``start(batch)`` (:mod:`gleam.unrolled`); ``train`` and ``val`` are
    :class:`gleam.datasets.Slices` or anything with their ``training_batch(step, batch_size, seed)``,
    ``batches(batch_size)``, ``index``, ``subjects`` and ``fingerprint``. ``batch_size``: slices per step; ``seed``: of
    their order and masks; ``name``: for the progress bar.

    ``device``: one, or a list of them to spread the modules over (:func:`gleam.parallel.spread`). On a GPU convolutions
    are in TF32, torch's default, unless ``strategy`` is a :class:`gleam.Fast` of another precision. With
    :class:`gleam.ParallelGreedy` under torchrun every process calls ``fit`` with the same arguments; "cuda" is then the
    GPU of its number, ``run_dir`` a folder that all of them see, and ``val.batches`` also takes ``part=(i, n)``.
    The run is the same as with ``Greedy``, and one goes on with what the other has begun.

    Returns a :class:`Fit`. Raises ValueError for settings that make no sense, if training diverges, or without the GPU
    that ``device`` asks for; MemoryError if a step does not fit there, with what would; OSError if another process of
    the run fails. After a failure the network is as it was given, and the same call finds its checkpoint.
    """
    devices = _devices(device)
    _check_settings(
        n_steps=n_steps,
        batch_size=batch_size,
        validate_every=validate_every,
        learning_rate=learning_rate,
        max_seconds=max_seconds,
    )
    _check_slices(train=train, val=val)
    keep_freed_memory()
    team = strategy.team
    with team.telling_failures():
        devices = [numbered_device(d) for d in devices]
        strategy = _agreed(strategy, devices[0], team)
        settings = {
            "strategy": repr(strategy.equivalent), "precision": strategy.precision,
            "n_steps": n_steps, "batch_size": batch_size, "learning_rate": learning_rate,
            "final_learning_rate": learning_rate if final_learning_rate is None else final_learning_rate,
            "n_warmup_steps": n_warmup_steps, "weight_decay": weight_decay, "seed": seed,
            "validate_every": validate_every or max(1, math.ceil(n_steps / 10)),
        }  # fmt: skip
        network.to(devices[0]) if len(devices) == 1 else spread(network, strategy, devices)
        run = Run(network, train, val, strategy, settings, Path(run_dir), devices[0], team)
        says_what_fits = explained(
            network, strategy, lambda: train.training_batch(0, batch_size, seed), device=devices[0],
            n_devices=max(len(devices), team.size), note=lambda: _what_is_kept(run),
        )  # fmt: skip
        with _as_it_was_on_failure(network), says_what_fits, run.held(name or strategy):
            run.train(name or settings["strategy"], max_seconds)
        network.load_state_dict(run.best)
    return run.fit


def fit_parallel(network, train, val, strategy, *, n_processes, n_steps, name=None, **arguments):
    """:func:`fit` by ``n_processes`` new processes on this machine: P-GLEAM from a notebook, in one call.

    ``strategy``: a :class:`gleam.ParallelGreedy`; the others are those of :func:`fit`. There is one progress bar; no
    process outlives the call, and an interrupt ends them all. On a CPU each process has its share of the threads that
    this one would use, and on GPUs the card of its number. Networks and data sets of your own have to be importable.
    Returns a :class:`Fit` and leaves the weights in ``network``. Raises what :func:`fit` raises in any of them.
    """
    if strategy.equivalent == strategy:
        raise ValueError(f"{strategy} trains in one process: give gleam.ParallelGreedy, or call gleam.fit")
    strategy = _with_number_format(arguments | {"strategy": strategy})["strategy"]
    arguments |= {"train": train, "val": val, "n_steps": n_steps, "name": name}
    if n_processes != 1:
        copied = {"network": copy.deepcopy(network).cpu(), "strategy": strategy}
        with tqdm(total=n_steps, desc=name or repr(strategy.equivalent), unit="step") as bar:
            more = lambda n: bar.update(n - bar.n) if n > bar.n else None  # noqa: E731
            launch(_fit_one, n_processes, arguments | copied, on_progress=more)
            bar.update(n_steps - bar.n)
    return fit(network, strategy=strategy.equivalent, **arguments)


def fit_all(runs, *, n_jobs=1, on_done=None):
    """Several independent calls of :func:`fit`, ``n_jobs`` at a time, each in a process of its own.

    ``runs``: dict of key to the arguments of :func:`fit`, as a dict. The processes leave their checkpoints in
    ``run_dir``, from where the networks given are then filled. On CPU cores this scales better than threads inside
    one run. A script that calls this needs ``if __name__ == "__main__":``. ``on_done(key, network, fit)`` is called as
    soon as a run is complete and its network filled, whatever becomes of the others. Returns a dict of key to
    :class:`Fit`; raises what a run raises, after the others have finished.
    """
    runs = {key: _with_number_format(arguments) for key, arguments in runs.items()}
    if n_jobs > 1 and len(runs) > 1:
        context = multiprocessing.get_context("spawn")
        n_threads = max(1, torch.get_num_threads() // n_jobs)
        with ProcessPoolExecutor(min(n_jobs, len(runs)), context, _start_worker, (n_threads,)) as pool:
            keys = {pool.submit(_fit_one, arguments): key for key, arguments in runs.items()}
            done = (keys[future] for future in as_completed(keys) if future.exception() is None)
            fits = {key: _done(key, runs, on_done) for key in done}
            _raise_first(keys)
        return {key: fits[key] for key in runs}
    return {key: _done(key, runs, on_done) for key in runs}


def _done(key, runs, on_done):
    found = fit(**runs[key])  # at once if another process has trained it
    if on_done is not None:
        on_done(key, runs[key]["network"], found)
    return found


@contextmanager
def _as_it_was_on_failure(network):
    """Initial weights name a run and begin every other one: after a failure they are those of before."""
    initial = {key: value.detach().to("cpu", copy=True) for key, value in network.state_dict().items()}
    try:
        yield
    except BaseException:
        network.load_state_dict(initial)
        network.zero_grad(set_to_none=True)
        raise


def _with_number_format(arguments):
    """Arguments of :func:`fit` with the number format decided by this process, for the new ones that will train."""
    device = arguments.get("device", "cpu")
    device = device[0] if isinstance(device, list | tuple) and device else device
    with suppress(RuntimeError, TypeError):  # no device: the run itself will say so
        return arguments | {"strategy": arguments["strategy"].settled(device)}
    return arguments


def _agreed(strategy, device, team):
    """``strategy`` with its number format decided: for "auto" by what the first process of the team is fast in."""
    own = strategy.settled(device)
    first = team.merge({"precision": own.precision})["precision"]
    return replace(own, precision=first) if own != strategy and first else own


def _what_is_kept(run):
    if run.path.exists():
        return f"what was trained so far is kept in {run.path.parent}, and where there is room the same call goes on"
    return ""


def _devices(device):
    devices = list(device) if isinstance(device, list | tuple) else [device]
    if not devices:
        raise ValueError("device=[] names no device; expected one, or a list of them")
    if any(checked_device(d).type == "cuda" for d in devices):
        n_processes, n_gpus = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), torch.cuda.device_count()
        if n_processes > n_gpus:
            raise ValueError(f"{n_processes} processes on this machine need a GPU each, and it has {n_gpus}")
    return devices


def _start_worker(n_threads):
    end_with_parent()
    torch.set_num_threads(n_threads)


def _raise_first(futures):
    for future in futures:
        try:
            future.result()
        except BrokenProcessPool:
            raise OSError(
                "a training process ended: for want of memory (give a smaller n_jobs, the runs go on from their "
                'checkpoints), or because the calling script lacks if __name__ == "__main__":, which new processes need'
            ) from None


def _fit_one(arguments):
    # torch hands tensors to other processes as shared memory: train a copy, the caller's weights are the run's identity
    fit(**arguments | {"network": copy.deepcopy(arguments["network"])})


def _check_slices(**splits):
    for name, split in splits.items():
        if hasattr(split, "index") and not len(split.index):
            raise ValueError(f"{name} has no slices; a run needs some to train on and some to validate on")


def _check_settings(**settings):
    for name, value in settings.items():
        if value is not None and not value > 0:
            raise ValueError(f"{name}={value!r} must be greater than 0")
