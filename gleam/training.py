"""Training with any strategy: resumable, several runs side by side."""

import copy
import json
import math
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from pathlib import Path

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
from gleam.datasets import slices
from gleam.evaluation import evaluate
from gleam.files import digest, end_with_parent, locked, written_whole
from gleam.identity import code_digest, sources, weights_digest
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

    Returns a :class:`Fit`. Raises ValueError for settings that make no sense, if training diverges, or without the GPU
    that ``device`` asks for.
    """
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={device!r} needs a GPU and there is none; take device='cpu' (the quick profile)")
    _check_settings(n_steps=n_steps, batch_size=batch_size, validate_every=validate_every, learning_rate=learning_rate)
    settings = {
        "strategy": repr(strategy), "n_steps": n_steps, "batch_size": batch_size, "learning_rate": learning_rate,
        "final_learning_rate": learning_rate if final_learning_rate is None else final_learning_rate,
        "n_warmup_steps": n_warmup_steps, "weight_decay": weight_decay, "seed": seed,
        "validate_every": validate_every or max(1, math.ceil(n_steps / 10)),
    }  # fmt: skip
    network.to(device)
    run = _Run(network, train, val, strategy, settings, Path(run_dir), device)
    waiting = f"{name or strategy}: another process trains this very network, waiting for it"
    with locked(run.path.with_name("training.lock"), waiting):
        run.resume()
        with tqdm(total=n_steps, initial=run.fit.n_steps_done, desc=name or repr(strategy), unit="step") as bar:
            while run.fit.n_steps_done < n_steps:
                run.train_until_validation(bar)
                run.validate()
                run.save()
                bar.set_postfix(
                    loss=f"{run.fit.history[-1]['loss'][-1]:.4f}", val_nrmse=f"{run.fit.history[-1]['nrmse']:.4f}"
                )
    network.load_state_dict(run.best)
    return run.fit


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
    """State of one training run and its checkpoint."""

    def __init__(self, network, train, val, strategy, settings, run_dir, device):
        self.network, self.train, self.val, self.strategy, self.device = network, train, val, strategy, device
        groups = parameters_by_module(strategy, network)
        self.optimizers = [
            torch.optim.Adam(group, betas=BETAS, weight_decay=settings["weight_decay"], fused=can_fuse(group))
            for group in groups
        ]
        identity = [
            settings,
            repr(network),
            sources(network, strategy),
            weights_digest(network),
            train.fingerprint,
            val.fingerprint,
            code_digest(DECIDING),
        ]
        self.path = run_dir / digest(identity)[:12] / "checkpoint.safetensors"
        self.fit = Fit(settings)
        self.best = {}

    def train_until_validation(self, bar):
        settings, started, losses = self.fit.settings, time.perf_counter(), []
        first = self.fit.n_steps_done
        last = min(settings["n_steps"], (first // settings["validate_every"] + 1) * settings["validate_every"])
        self.network.train()
        _findings(self.strategy)  # those of steps outside this run are not its own
        with torch.random.fork_rng():
            for step in range(first, last):
                torch.manual_seed(_seed_of(step, settings))
                rate = learning_rate_at(step, settings)
                for optimizer in self.optimizers:
                    optimizer.param_groups[0]["lr"] = rate
                batch = self.train.training_batch(step, settings["batch_size"], settings["seed"]).to(self.device)
                losses.append(self.strategy.step(self.network, batch, self.optimizers))
                bar.update()
        self.losses = torch.stack(losses).mean(0).tolist()
        if not all(map(math.isfinite, self.losses)):
            raise ValueError(
                f"training diverged before step {last}: the loss is not finite; lower learning_rate={rate:g}"
            )
        self.fit.n_steps_done = last
        self.fit.seconds += time.perf_counter() - started

    def validate(self):
        nrmse = float(evaluate(self.network, self.val, device=self.device, scores=("nrmse",))["nrmse"].mean())
        fit = self.fit
        row = {"step": fit.n_steps_done, "loss": self.losses, "nrmse": nrmse, "seconds": fit.seconds}
        fit.history.append(row | _findings(self.strategy))
        if nrmse < fit.best_nrmse:
            fit.best_nrmse, fit.best_step = nrmse, fit.n_steps_done
            self.best = {key: value.detach().clone() for key, value in self.network.state_dict().items()}

    def save(self):
        tensors = {f"network.{key}": value for key, value in self.network.state_dict().items()}
        tensors |= {f"best.{key}": value for key, value in self.best.items()}
        for m, optimizer in enumerate(self.optimizers):
            for i, state in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{m}.{i}.{key}": value for key, value in state.items()}
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
        for m, optimizer in enumerate(self.optimizers):
            state = {}
            for key, value in _under(f"optimizer.{m}.", tensors).items():
                i, name = key.split(".", 1)
                state.setdefault(int(i), {})[name] = value
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _findings(strategy):
    return getattr(strategy, "findings", dict)()


def _seed_of(step, settings):
    """Seed of torch's generator at ``step``, so that dropout goes on after a kill as it would have gone on without."""
    return int(digest([settings["seed"], step])[:15], 16)


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
