"""One training run with any strategy: its arguments are checked, and it goes on from its checkpoint."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gleam.cost.prediction import explained
from gleam.datasets.slices import Slices
from gleam.execution import checked_device, numbered_device
from gleam.files import named
from gleam.processes.allocator import keep_freed_memory
from gleam.strategies.base import Strategy
from gleam.strategies.parallel import spread
from gleam.training.arguments import check_kinds, check_rates, settings
from gleam.training.checkpoints import Fit
from gleam.training.run import TrainingRun


def fit(
    network: nn.Module,
    train: Slices,
    val: Slices,
    strategy: Strategy,
    *,
    n_steps: int,
    batch_size: int,
    run_dir: str | Path,
    learning_rate: float | Sequence[float] = 1e-4,
    final_learning_rate: float | Sequence[float] | None = None,
    n_warmup_steps: int = 0,
    weight_decay: float = 1e-4,
    validate_every: int | None = None,
    seed: int = 0,
    device: str | torch.device | Sequence[str | torch.device] = "cpu",
    name: str | None = None,
    max_seconds: float | None = None,
    optimizer: Callable | None = None,
    n_accumulated: int = 1,
    callback: Callable[[int, list, dict], Any] | None = None,
) -> Fit:
    """Train a network and leave it with the weights of the lowest validation nRMSE (Section V-C4).

    Each validation also writes a checkpoint under `run_dir`, in a folder named after everything that decides the
    result. Called again with the same arguments, `fit` goes on from there, or returns at once if the run is complete.
    On a CPU the weights are then those of an uninterrupted run.

    Parameters
    ----------
    network : Module
        With `iterations` and `start(batch)`, as those of :mod:`gleam.unrolled`; `setup(batch)` and `image(x, batch)`
        if it needs them (:mod:`gleam.networks.protocol`).
    train, val : Slices
        Data sets, or anything with the same `training_batch(step, batch_size, seed)`, `batches(batch_size)`, `index`,
        `subjects` and `fingerprint`.
    strategy : Strategy
        How a step is taken, and with which loss. Each of its modules has its own optimizer.
    n_steps, batch_size : int
        Steps of training, and slices per step.
    run_dir : path
        Folder of checkpoints; with several processes one that all of them see.
    learning_rate, final_learning_rate : float, or a sequence of them
        The rate is constant or, if the final one is given, falls to it along a cosine after a linear warm-up. A
        sequence has one rate per module.
    n_warmup_steps : int
        Length of the warm-up.
    weight_decay : float
        Of the optimizer.
    validate_every : int, optional
        Steps between validations; by default there are 10 in a run.
    seed : int
        Of the order of slices, of masks, and of random numbers inside the network: dropout is a function of seed, step
        and iteration.
    device : device, or a list of them
        A list spreads the modules over its devices (:func:`gleam.parallel.spread`).
    name : str, optional
        For the progress bar.
    max_seconds : float, optional
        Stop at the first validation after this time.
    optimizer : callable, optional
        Makes the optimizer of a module, as `optimizer(parameters, lr=, weight_decay=)`: a class of
        :mod:`torch.optim`, or a partial of one. Default: Adam with the paper's betas.
    n_accumulated : int
        Mini-batches per step, whose gradients are averaged.
    callback : callable, optional
        Called at each validation as `callback(step, losses, scores)`, for example to log them. It changes no result;
        if it returns something true, training stops there.

    Returns
    -------
    Fit

    Raises
    ------
    ValueError
        If an argument is not valid, if training diverges, or if there is no such GPU.
    MemoryError
        If a step does not fit on the device; the message says what would.
    OSError
        If a file cannot be written, or another process of the run fails.

    Notes
    -----
    After a failure the network is as it was given, and the same call finds its checkpoint. On a GPU convolutions are in
    TF32, torch's default, unless `strategy` is a :class:`gleam.Fast` of another precision. With
    :class:`gleam.ParallelGreedy` under torchrun every process calls `fit` with the same arguments; "cuda" is then the
    GPU of its number, and `val.batches` also takes `part=(i, n)`. The run is the same as with :class:`gleam.Greedy`:
    each can go on from the other's checkpoint.
    """
    devices = _devices(device)
    numbers = settings(
        n_steps=n_steps, batch_size=batch_size, learning_rate=learning_rate, final_learning_rate=final_learning_rate,
        n_warmup_steps=n_warmup_steps, weight_decay=weight_decay, seed=seed, validate_every=validate_every,
        n_accumulated=n_accumulated, max_seconds=max_seconds,
    )  # fmt: skip
    check_kinds(network, {"train": train, "val": val}, {"optimizer": optimizer, "callback": callback})
    keep_freed_memory()
    team = strategy.team  # of P-GLEAM: connects to the other processes and waits for them
    with team.telling_failures():
        devices = [numbered_device(d) for d in devices]  # after joining, which chooses the GPU of this process
        settled: Any = strategy.settled(devices[0])
        # "auto" may differ between machines: all processes take the number format of the first
        precision = team.merge({"precision": settled.precision})["precision"]
        strategy = replace(settled, precision=precision) if settled != strategy and precision else settled
        named_by: dict[str, Any] = {"strategy": repr(strategy.equivalent), "precision": strategy.precision, **numbers}
        named_by |= {"optimizer": named(optimizer)} if optimizer else {}  # one that is as usual is not named
        check_rates(named_by, len(strategy.parts(network)))
        network.to(devices[0]) if len(devices) == 1 else spread(network, strategy, devices)
        run = TrainingRun(network, train, val, strategy, named_by, Path(run_dir), devices[0], team, optimizer)
        kept = f"what was trained so far is kept in {run.path.parent}; the same call continues where memory is enough"
        memory_advice = explained(
            network,
            strategy,
            lambda: train.training_batch(0, numbers["batch_size"], numbers["seed"]),
            device=devices[0],
            n_devices=max(len(devices), team.size),
            note=lambda: kept if run.path.exists() else "",
        )
        with _unchanged_on_failure(network), memory_advice, run.opened(name or strategy):
            run.train(name or named_by["strategy"], max_seconds, callback)
        network.load_state_dict(run.best)  # not the last weights
    return run.fit


@contextmanager
def _unchanged_on_failure(network):
    """Restore the initial weights after a failure. They name the run, so the same call finds its checkpoint again."""
    initial = {key: value.detach().to("cpu", copy=True) for key, value in network.state_dict().items()}
    try:
        yield
    except BaseException:
        network.load_state_dict(initial)
        network.zero_grad(set_to_none=True)
        raise


def _devices(device):
    devices = list(device) if isinstance(device, list | tuple) else [device]
    if not devices:
        raise ValueError("device=[] names no device; expected one, or a list of them")
    if any(checked_device(d).type == "cuda" for d in devices):
        n_processes, n_gpus = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), torch.cuda.device_count()
        if n_processes > n_gpus:
            raise ValueError(f"{n_processes} processes on this machine need a GPU each, and it has {n_gpus}")
    return devices
