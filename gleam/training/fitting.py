"""Training with any strategy: resumable, several runs in parallel, one run in several processes."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gleam.cost.prediction import explained
from gleam.datasets.slices import Slices
from gleam.execution import checked_device, numbered_device
from gleam.physics.losses import named
from gleam.processes.allocator import keep_freed_memory
from gleam.strategies.base import Strategy
from gleam.strategies.parallel import spread
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
    positive: dict[str, Any] = {"n_steps": n_steps, "batch_size": batch_size, "validate_every": validate_every}
    positive |= {"learning_rate": learning_rate, "max_seconds": max_seconds}
    for counted, value, least in (("n_accumulated", n_accumulated, 1), ("n_warmup_steps", n_warmup_steps, 0)):
        if not hasattr(value, "__index__") or value < least:
            raise ValueError(f"{counted}={value!r} must be a whole number of at least {least}")
    _check_kinds(network, positive, final_learning_rate, {"optimizer": optimizer, "callback": callback})
    _check(positive, {"train": train, "val": val})
    keep_freed_memory()
    team = strategy.team
    with team.telling_failures():
        devices = [numbered_device(d) for d in devices]
        own: Any = strategy.settled(devices[0])
        # "auto" may differ between machines: all processes take the number format of the first
        precision = team.merge({"precision": own.precision})["precision"]
        strategy = replace(own, precision=precision) if own != strategy and precision else own
        settings: dict[str, Any] = {
            "strategy": repr(strategy.equivalent), "precision": strategy.precision,
            "n_steps": n_steps, "batch_size": batch_size, "learning_rate": learning_rate,
            "final_learning_rate": learning_rate if final_learning_rate is None else final_learning_rate,
            "n_warmup_steps": n_warmup_steps, "weight_decay": weight_decay, "seed": seed,
            "validate_every": validate_every or max(1, math.ceil(n_steps / 10)),
        }  # fmt: skip
        # what is as usual is not named, so that runs from before keep their names
        settings |= {"optimizer": named(optimizer)} if optimizer else {}
        settings |= {"n_accumulated": n_accumulated} if n_accumulated > 1 else {}
        _check_rates(settings, len(strategy.parts(network)))
        network.to(devices[0]) if len(devices) == 1 else spread(network, strategy, devices)
        run = TrainingRun(network, train, val, strategy, settings, Path(run_dir), devices[0], team, optimizer)
        kept = f"what was trained so far is kept in {run.path.parent}; the same call continues where memory is enough"
        memory_advice = explained(
            network,
            strategy,
            lambda: train.training_batch(0, batch_size, seed),
            device=devices[0],
            n_devices=max(len(devices), team.size),
            note=lambda: kept if run.path.exists() else "",
        )
        with _unchanged_on_failure(network), memory_advice, run.held(name or strategy):
            run.train(name or settings["strategy"], max_seconds, callback)
        network.load_state_dict(run.best)
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


def _check_rates(settings, n_modules):
    for name in ("learning_rate", "final_learning_rate"):
        if isinstance(settings[name], Sequence):
            settings[name] = [float(rate) for rate in settings[name]]
            if len(settings[name]) != n_modules:
                raise ValueError(f"{name} has {len(settings[name])} rates for {n_modules} modules; expected one each")


def _check_kinds(network, positive, final_learning_rate, functions):
    if missing := [name for name in ("iterations", "start") if not hasattr(network, name)]:
        raise ValueError(
            f"network is a {type(network).__name__} without {missing[0]}; expected `iterations`, an nn.ModuleList, and "
            "start(batch), as those of gleam.unrolled and gleam.adapt have"
        )
    for name in ("n_steps", "batch_size", "validate_every"):
        if positive[name] is not None and not hasattr(positive[name], "__index__"):
            raise ValueError(f"{name}={positive[name]!r} must be a whole number")
    rates = {"learning_rate": positive["learning_rate"], "final_learning_rate": final_learning_rate}
    for name, value in rates.items():
        each = value if isinstance(value, list | tuple) else [value]
        if not all(isinstance(rate, Real) or (name.startswith("final") and value is None) for rate in each):
            raise ValueError(f"{name}={value!r} must be a number, or a list of numbers with one per module")
        if any(rate is not None and not 0 <= rate < math.inf for rate in each):
            raise ValueError(f"{name}={value!r} must be finite and not negative")
    for name, value in functions.items():
        if value is not None and not callable(value):
            raise ValueError(f"{name}={value!r} is no function; see gleam.fit for what it is called with")


def _check(positive, splits):
    for name, value in positive.items():
        if not all(v is None or v > 0 for v in (value if isinstance(value, list | tuple) else [value])):
            raise ValueError(f"{name}={value!r} must be greater than 0")
    for name, split in splits.items():
        if not hasattr(split, "fingerprint"):
            raise TypeError(
                f"{name} is a {type(split).__name__}; expected slices, such as those of gleam.datasets.files, or an "
                "object with training_batch, batches, index, subjects and fingerprint"
            )
        if hasattr(split, "index") and not len(split.index):
            raise ValueError(f"{name} has no slices; a run needs some to train on and some to validate on")
