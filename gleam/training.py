"""Training with any strategy: resumable, several runs side by side."""

import copy
import json
import math
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm

from gleam import (
    convolutions,
    denoisers,
    evaluation,
    fourier,
    inversion,
    masks,
    metrics,
    physics,
    solvers,
    strategies,
    unrolled,
)  # fmt: skip
from gleam.allocator import keep_freed_memory
from gleam.datasets import slices
from gleam.evaluation import evaluate
from gleam.files import digest, end_with_parent, locked, written_whole
from gleam.identity import code_digest, sources, weights_digest
from gleam.parallel import spread
from gleam.processes import ALONE, launch
from gleam.strategies import parameters_by_module

BETAS = (0.9, 0.999)
DECIDING = [
    convolutions, denoisers, evaluation, fourier, inversion, masks, metrics, physics, slices, solvers, strategies,
    unrolled, sys.modules[__name__],
]  # fmt: skip


@dataclass
class Fit:
    """What a training run did. ``history`` has one row per validation: step, loss per module, nRMSE, seconds so far,
    and what the strategy noticed."""

    settings: dict
    history: list = field(default_factory=list)
    n_steps_done: int = 0
    best_step: int | None = None
    best_nrmse: float = math.inf
    seconds: float = 0.0


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

    ``device``: one, or a list of them to spread the modules over (:func:`gleam.parallel.spread`). With
    :class:`gleam.ParallelGreedy` under torchrun every process calls ``fit`` with the same arguments; "cuda" is then the
    GPU of its number, and ``run_dir`` a folder that all of them see. The run is the same as with ``Greedy``, and one
    goes on with what the other has begun.

    Returns a :class:`Fit`. Raises ValueError for settings that make no sense, if training diverges, or without the GPU
    that ``device`` asks for; OSError if another process of the run fails.
    """
    devices = _devices(device)
    _check_settings(n_steps=n_steps, batch_size=batch_size, validate_every=validate_every, learning_rate=learning_rate)
    settings = {
        "strategy": repr(_in_one_process(strategy)), "n_steps": n_steps, "batch_size": batch_size,
        "learning_rate": learning_rate,
        "final_learning_rate": learning_rate if final_learning_rate is None else final_learning_rate,
        "n_warmup_steps": n_warmup_steps, "weight_decay": weight_decay, "seed": seed,
        "validate_every": validate_every or max(1, math.ceil(n_steps / 10)),
    }  # fmt: skip
    keep_freed_memory()
    team = getattr(strategy, "team", ALONE)
    with team.telling_failures():
        network.to(devices[0]) if len(devices) == 1 else spread(network, strategy, devices)
        run = _Run(network, train, val, strategy, settings, Path(run_dir), devices[0], team)
        with run.held(name or strategy):
            run.train(name or settings["strategy"])
        network.load_state_dict(run.best)
    return run.fit


def fit_parallel(network, train, val, strategy, *, n_processes, **arguments):
    """:func:`fit` by ``n_processes`` new processes on this machine: P-GLEAM from a notebook, in one call.

    ``strategy``: a :class:`gleam.ParallelGreedy`; ``arguments``: those of :func:`fit`. There is one progress bar; no
    process outlives the call, and an interrupt ends them all. On a CPU each process has one of the threads that this
    one would use, and on GPUs the card of its number. Returns a :class:`Fit` and leaves the weights in ``network``.
    Raises what :func:`fit` raises in any of them.
    """
    if not hasattr(strategy, "equivalent"):
        raise ValueError(
            f"{strategy} trains in one process: take gleam.ParallelGreedy, or gleam.fit without n_processes"
        )
    everything = {"network": network, "train": train, "val": val, "strategy": strategy} | arguments
    n_steps = arguments["n_steps"]
    with tqdm(total=n_steps, desc=arguments.get("name") or repr(strategy.equivalent), unit="step") as bar:
        launch(_fit_one, n_processes, everything, on_progress=lambda n: bar.update(n - bar.n) if n > bar.n else None)
        bar.update(n_steps - bar.n)
    return fit(**everything | {"strategy": strategy.equivalent})


def fit_all(runs, *, n_jobs=1):
    """Several independent calls of :func:`fit`, ``n_jobs`` at a time, each in a process of its own.

    ``runs``: dict of key to the arguments of :func:`fit`, as a dict. The processes leave their checkpoints in
    ``run_dir``, from where the networks given are then filled. On CPU cores this scales better than threads inside
    one run. A script that calls this needs ``if __name__ == "__main__":``. Returns a dict of key to :class:`Fit`;
    raises what a run raises, after the others have finished.
    """
    if n_jobs > 1 and len(runs) > 1:
        context = multiprocessing.get_context("spawn")
        n_threads = max(1, torch.get_num_threads() // n_jobs)
        with ProcessPoolExecutor(min(n_jobs, len(runs)), context, _start_worker, (n_threads,)) as pool:
            futures = [pool.submit(_fit_one, arguments) for arguments in runs.values()]
            wait(futures)
            _raise_first(futures)
    return {key: fit(**arguments) for key, arguments in runs.items()}


def _devices(device):
    devices = list(device) if isinstance(device, list | tuple) else [device]
    if any(torch.device(d).type == "cuda" for d in devices) and not torch.cuda.is_available():
        raise ValueError(f"device={device!r} needs a GPU and there is none; take device='cpu' (the quick profile)")
    return devices


def _in_one_process(strategy):
    """The strategy that trains the same weights in one process: what names a run."""
    return getattr(strategy, "equivalent", strategy)


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


class _Run:
    """State of one training run and its checkpoint; ``team``: the processes that share it."""

    def __init__(self, network, train, val, strategy, settings, run_dir, device, team):
        self.network, self.train_data, self.val, self.strategy = network, train, val, strategy
        self.device, self.team = device, team
        groups = parameters_by_module(strategy, network)
        self.mine = list(getattr(strategy, "mine", range(len(groups))))
        self.optimizers = [
            torch.optim.Adam(group, betas=BETAS, weight_decay=settings["weight_decay"], fused=can_fuse(group))
            for group in groups
        ]
        identity = [
            settings,
            repr(network),
            sources(network, _in_one_process(strategy)),
            weights_digest(network),
            train.fingerprint,
            val.fingerprint,
            code_digest(DECIDING),
        ]
        self.path = run_dir / digest(identity)[:12] / "checkpoint.safetensors"
        self.fit = Fit(settings)
        self.best = {}

    @contextmanager
    def held(self, name):
        """Hold the run's lock and start from its checkpoint; of a team the first process holds it for all."""
        waiting = f"{name}: another process trains this very network, waiting for it"
        lock = self.path.with_name("training.lock")
        with locked(lock, waiting) if self.team.is_first else nullcontext():
            self.team.wait_for_all()
            self.resume()
            self.check_agreement()
            yield
            self.team.wait_for_all()

    def check_agreement(self):
        steps = self.team.merge({self.team.rank: [self.path.parent.name, self.fit.n_steps_done]})
        if any(other != steps[self.team.rank] for other in steps.values()):
            found = ", ".join(f"process {rank}: {name} at step {step}" for rank, (name, step) in sorted(steps.items()))
            raise ValueError(
                f"the processes do not see the same run under run_dir={str(self.path.parent.parent)!r} ({found}); give "
                "all of them the same arguments, and a folder that they share"
            )

    def train(self, name):
        """All steps that are left, with a progress bar."""
        n_steps = self.fit.settings["n_steps"]
        done = self.fit.n_steps_done
        self.team.report(done)
        hidden = done == n_steps or not self.team.shows_progress
        with tqdm(total=n_steps, initial=done, desc=name, unit="step", disable=hidden) as bar:
            while self.fit.n_steps_done < n_steps:
                self.train_until_validation(bar)
                self.validate()
                self.save()
                last = self.fit.history[-1]
                bar.set_postfix(loss=f"{last['loss'][-1]:.4f}", val_nrmse=f"{last['nrmse']:.4f}")

    def train_until_validation(self, bar):
        settings, started, losses = self.fit.settings, time.perf_counter(), []
        first = self.fit.n_steps_done
        last = min(settings["n_steps"], (first // settings["validate_every"] + 1) * settings["validate_every"])
        self.network.train()
        _findings(self.strategy)  # those of steps outside this run are not its own
        with torch.random.fork_rng(), self.seeded() as seed:
            for step in range(first, last):
                seed(step)
                rate = learning_rate_at(step, settings)
                for optimizer in self.optimizers:
                    optimizer.param_groups[0]["lr"] = rate
                batch = self.train_data.training_batch(step, settings["batch_size"], settings["seed"]).to(self.device)
                losses.append(self.strategy.step(self.network, batch, self.optimizers))
                bar.update()
                self.team.report(step + 1)
        self.losses = self.share([torch.stack(of_module).mean().item() for of_module in zip(*losses, strict=True)])
        if not all(map(math.isfinite, self.losses)):
            raise ValueError(
                f"training diverged before step {last}: the loss is not finite; lower learning_rate={rate:g}"
            )
        self.fit.n_steps_done = last
        self.fit.seconds += time.perf_counter() - started

    @contextmanager
    def seeded(self):
        """Yield ``seed(step)``, which makes random numbers a function of (seed, step, iteration) for the step to come.

        So dropout goes on after a kill as it would have gone on without, and in another process too.
        """
        numbers, now = {id(iteration): i for i, iteration in enumerate(self.network.iterations)}, []

        def seed(step):
            now[:] = [step]
            torch.manual_seed(_seed_of(now, self.fit.settings))

        def reseed(iteration, _):
            torch.manual_seed(_seed_of([*now, numbers[id(iteration)]], self.fit.settings))

        with ExitStack() as hooks:
            for iteration in self.network.iterations:
                hooks.callback(iteration.register_forward_pre_hook(reseed).remove)
            yield seed

    def share(self, losses):
        """Bring the weights and losses of all modules to every process of the team."""
        if self.team.size == 1:
            return losses
        self.strategy.finish()
        state = self.network.state_dict()
        owners = _module_of_key(self.strategy, self.network)
        everything = self.team.merge(
            {key: state[key] for key, m in owners.items() if m in self.mine} | {m: losses[m] for m in self.mine}
        )
        self.network.load_state_dict({key: everything[key] for key in state})
        return [everything[m] for m in range(len(losses))]

    def validate(self):
        part = {} if self.team.size == 1 else {"part": (self.team.rank, self.team.size)}
        table = evaluate(self.network, self.val, device=self.device, scores=("nrmse",), **part)
        scores = self.team.merge(table["nrmse"].to_dict())
        nrmse = float(np.mean([scores[i] for i in sorted(scores)]))
        fit = self.fit
        row = {"step": fit.n_steps_done, "loss": self.losses, "nrmse": nrmse, "seconds": fit.seconds}
        fit.history.append(row | _findings(self.strategy))
        if nrmse < fit.best_nrmse:
            fit.best_nrmse, fit.best_step = nrmse, fit.n_steps_done
            self.best = {key: value.detach().clone() for key, value in self.network.state_dict().items()}

    def save(self):
        tensors = {}
        for m in self.mine:
            for i, state in self.optimizers[m].state_dict()["state"].items():
                tensors |= {f"optimizer.{m}.{i}.{key}": value for key, value in state.items()}
        tensors = self.team.merge(tensors)
        if self.team.is_first:
            tensors |= {f"network.{key}": value for key, value in self.network.state_dict().items()}
            tensors |= {f"best.{key}": value for key, value in self.best.items()}
            tensors = {key: value.detach().clone() for key, value in tensors.items()}  # shared weights are saved twice
            with written_whole(self.path) as temporary:
                save_file(tensors, temporary, metadata={"fit": json.dumps(asdict(self.fit))})

    def resume(self):
        if not self.path.exists():
            return
        try:
            tensors = load_file(self.path, device=self.device)
            with safe_open(self.path, "pt") as file:
                self.fit = Fit(**json.loads(file.metadata()["fit"]))
        except Exception as error:
            raise ValueError(
                f"{self.path} is not a checkpoint of this program ({error}); delete it to train anew"
            ) from error
        self.network.load_state_dict(_under("network.", tensors))
        self.best = _under("best.", tensors)
        for m in self.mine:
            state = {}
            for key, value in _under(f"optimizer.{m}.", tensors).items():
                i, name = key.split(".", 1)
                state.setdefault(int(i), {})[name] = value
            self.optimizers[m].load_state_dict({**self.optimizers[m].state_dict(), "state": state})


def _module_of_key(strategy, network):
    """For each key of the network's state the module that trains it: the first one for what is outside all."""
    names = {id(part): name for name, part in network.named_modules()}
    prefixes = [tuple(f"{names[id(iteration)]}." for iteration in module) for module in strategy.modules(network)]
    return {
        key: next((m for m, prefix in enumerate(prefixes) if key.startswith(prefix)), 0) for key in network.state_dict()
    }


def _findings(strategy):
    return getattr(strategy, "findings", dict)()


def _seed_of(where, settings):
    """Seed of torch's generator at step and iteration ``where``."""
    return int(digest([settings["seed"], *where])[:15], 16)


def learning_rate_at(step, settings):
    """Step size of Adam at ``step``: linear warm-up, then a cosine from the first to the final rate."""
    first, final, n_warmup = (settings[k] for k in ("learning_rate", "final_learning_rate", "n_warmup_steps"))
    if step < n_warmup:
        return first * (step + 1) / n_warmup
    progress = (step - n_warmup) / max(1, settings["n_steps"] - n_warmup)
    return final + (first - final) * (1 + math.cos(math.pi * progress)) / 2


def can_fuse(parameters):
    """Whether Adam's fused kernel takes ``parameters``; it does not take complex ones."""
    return all(p.is_floating_point() for p in parameters)


def _under(prefix, tensors):
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _check_settings(**settings):
    for name, value in settings.items():
        if value is not None and not value > 0:
            raise ValueError(f"{name}={value!r} must be greater than 0")
