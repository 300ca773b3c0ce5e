"""One training run: its loop, its checkpoint, and the state shared between processes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from gleam.datasets.slices import Slices
from gleam.files import locked, named
from gleam.processes.team import Team
from gleam.strategies.base import Strategy
from gleam.strategies.updates import Accumulated, optimizers, set_learning_rate
from gleam.training import checkpoints
from gleam.training.arguments import check_masks
from gleam.training.checkpoints import Fit
from gleam.training.evaluation import evaluate
from gleam.training.faults import check_scores, data_fault, first_divergence
from gleam.training.identity import attributes, run_identity
from gleam.training.runs import network_in_words
from gleam.training.seeding import seeded


class TrainingRun:
    """The state of one training run, and its checkpoint.

    Parameters
    ----------
    network, train, val, strategy
        As in :func:`gleam.fit`.
    settings : dict
        Everything else that decides the result; part of the run's name.
    run_dir : Path
        The checkpoint is `run_dir`/<name of the run>/checkpoint.safetensors.
    device : device
        Where the batch goes.
    team : Team
        The processes that share the run.
    optimizer : callable, optional
        As in :func:`gleam.fit`; its name is one of the settings.
    """

    def __init__(
        self,
        network: nn.Module,
        train: Slices,
        val: Slices,
        strategy: Strategy,
        settings: dict,
        run_dir: Path,
        device: torch.device,
        team: Team,
        optimizer: Callable | None = None,
    ):
        self.network, self.train_data, self.val, self.strategy = network, train, val, strategy
        self.device, self.team = device, team
        self.n_batches = settings.get("n_accumulated", 1)
        rates = learning_rates_at(0, settings, len(strategy.modules(network)))
        # rates[0] serves to make them all: before each step every optimizer gets the rate of its module
        self.optimizers: Any = optimizers(
            strategy, network, learning_rate=rates[0], weight_decay=settings["weight_decay"], make=optimizer
        )
        if self.n_batches > 1:
            self.strategy = strategy.eager  # a recorded step updates every time
            self.optimizers = [Accumulated(one, self.n_batches) for one in self.optimizers]
        self.mine = strategy.mine(network)
        name = run_identity(network, strategy.equivalent, train, val, settings, optimizer)
        self.path = run_dir / name / checkpoints.NAME
        self.fit = Fit(settings)
        self.best: dict[str, torch.Tensor] = {}

    @contextmanager
    def opened(self, name: object) -> Iterator[None]:
        """Lock the run and start from its checkpoint; in a team the first process holds the lock for all.

        Raises ValueError if the processes of a team do not see the same run at the same step.
        """
        waiting = f"{name}: another process trains this very network, waiting for it"
        lock = self.path.with_name("training.lock")
        with ExitStack() as stack:
            if self.team.is_first:
                try:
                    stack.enter_context(locked(lock, waiting))
                except OSError:
                    # of a complete run nothing is written, so its folder need not be writable
                    n_done = checkpoints.load_fit(self.path).n_steps_done if self.path.exists() else None
                    if n_done != self.fit.settings["n_steps"]:
                        raise
            self.team.wait_for_all()  # nobody reads the checkpoint before the first process has the lock
            self.resume()
            steps = self.team.merge({self.team.rank: [self.path.parent.name, self.fit.n_steps_done]})
            if any(other != steps[self.team.rank] for other in steps.values()):
                found = ", ".join(
                    f"process {rank}: {run} at step {step}" for rank, (run, step) in sorted(steps.items())
                )
                raise ValueError(
                    f"the processes do not see the same run under run_dir={str(self.path.parent.parent)!r} ({found}); "
                    "give all of them the same arguments, networks with the same initial weights, and a folder that "
                    "they share"
                )
            yield
            self.team.wait_for_all()  # the lock is held until the last process is done

    def train(
        self, name: str, max_seconds: float | None = None, callback: Callable[[int, list, dict], Any] | None = None
    ) -> None:
        """Take all steps that are left, with a progress bar.

        Training stops at the first validation after `max_seconds`, or if `callback` returns something true.
        """
        n_steps, deadline = self.fit.settings["n_steps"], time.perf_counter() + (max_seconds or math.inf)
        # a complete run takes no step: its checkpoint holds all of them, and `fit` loads the result from there
        done = self.fit.n_steps_done
        # masks that cannot be made are found now and not in the middle of the training
        if done < n_steps and isinstance(self.train_data, Slices) and isinstance(self.val, Slices):
            check_masks(self.train_data, self.val)
        self.team.report(done)
        hidden = done == n_steps or not self.team.shows_progress
        with tqdm(total=n_steps, initial=done, desc=name, unit="step", disable=hidden) as bar:
            while self.fit.n_steps_done < n_steps:
                self.train_until_validation(bar)
                self.validate()
                self.save()
                last = self.fit.history[-1]
                bar.set_postfix(loss=f"{last['loss'][-1]:.4f}", val_nrmse=f"{last['nrmse']:.4f}")
                is_over = time.perf_counter() > deadline
                if callback is not None and self.team.is_first:
                    is_over |= bool(callback(last["step"], list(last["loss"]), {"nrmse": last["nrmse"]}))
                if self.team.merge({"is_over": is_over})["is_over"]:  # the first process decides for all
                    break

    def train_until_validation(self, bar: tqdm) -> None:
        """Take the steps up to the next validation; ValueError if a loss is not finite."""
        settings, started, losses = self.fit.settings, time.perf_counter(), []
        first = self.fit.n_steps_done
        # the next multiple of validate_every, so that a resumed run validates at the same steps
        last = min(settings["n_steps"], (first // settings["validate_every"] + 1) * settings["validate_every"])
        self.network.train()
        self.strategy.diagnostics()  # clears counts of steps before this run, such as measurements of cost
        is_cuda = torch.device(self.device).type == "cuda"
        devices = list(range(torch.cuda.device_count())) if is_cuda else []  # `seeded` seeds all of them
        # fork_rng restores the generators of torch afterwards, so training does not change random numbers elsewhere
        with torch.random.fork_rng(devices), seeded(self.network, settings["seed"], self.strategy.replica) as seed:
            for step in range(first, last):
                rates = learning_rates_at(step, settings, len(self.optimizers))
                for optimizer, rate in zip(self.optimizers, rates, strict=True):
                    set_learning_rate(optimizer, rate)
                for i in range(step * self.n_batches, (step + 1) * self.n_batches):
                    seed(i)
                    batch = self.train_data.training_batch(i, settings["batch_size"], settings["seed"])
                    # tensors, turned to numbers after the last step only: a number would wait for the device
                    losses.append(self.strategy.step(self.network, batch.to(self.device), self.optimizers))
                bar.update()
                self.team.report(step + 1)
        self.losses = self.exchange([torch.stack(of_module).mean().item() for of_module in zip(*losses, strict=True)])
        if not all(map(math.isfinite, self.losses)):
            raise ValueError(self._diverged(first, losses))
        self.fit.n_steps_done = last
        self.fit.seconds += time.perf_counter() - started

    def _diverged(self, first: int, losses: list) -> str:
        """Where the first loss of the team is not finite, and whether the data or the learning rate are the reason."""
        found = self.team.merge({self.team.rank: first_divergence(losses)}).values()
        i, m = min(one for one in found if one is not None)  # the first mini-batch, and in it the first module
        step, settings, n_modules = first + i // self.n_batches, self.fit.settings, len(self.optimizers)
        number = first * self.n_batches + i
        batch = self.train_data.training_batch(number, settings["batch_size"], settings["seed"])
        where = f"step {step + 1} of {settings['n_steps']}, module {m + 1} of {n_modules}"
        if fault := data_fault(self.train_data, batch):
            return f"{fault} (found at {where})"
        if number == 0:
            return (
                f"the loss {named(self.strategy.loss)} is not finite at the first batch; expected a finite number from "
                "the untrained network"
            )
        rate = learning_rates_at(step, settings, n_modules)[m]
        return f"training diverged at {where}: the loss is not finite, and the data are; lower learning_rate={rate:g}"

    def exchange(self, losses: list[float]) -> list[float]:
        """Bring the weights of all modules to every process of the team; returns the losses of all modules."""
        if self.team.size == 1:
            return losses
        self.strategy.finish()  # what is still on its way would be mixed up with the weights
        state = self.network.state_dict()
        owners = _module_of_key(self.strategy, self.network)
        everything = self.team.merge(
            {key: state[key] for key, m in owners.items() if m in self.mine} | {m: losses[m] for m in self.mine}
        )
        self.network.load_state_dict({key: everything[key] for key in state})
        return [everything[m] for m in range(len(losses))]

    def validate(self) -> None:
        """Add a row to the history, and keep the weights if their nRMSE is the lowest so far.

        Raises ValueError, naming subject and slice, if a score is not finite.
        """
        part: dict[str, Any] = {} if self.team.size == 1 else {"part": (self.team.rank, self.team.size)}
        table = evaluate(self.network, self.val, device=self.device, scores=("nrmse",), **part)
        scores = self.team.merge(table["nrmse"].to_dict())
        check_scores(self.val, scores)
        nrmse = float(np.mean([scores[i] for i in sorted(scores)]))
        fit = self.fit
        row = {"step": fit.n_steps_done, "loss": self.losses, "nrmse": nrmse, "seconds": fit.seconds}
        fit.history.append(row | self.strategy.diagnostics())
        if nrmse < fit.best_nrmse:
            fit.best_nrmse, fit.best_step = nrmse, fit.n_steps_done
            self.best = {key: value.detach().clone() for key, value in self.network.state_dict().items()}

    def save(self) -> None:
        """Write the checkpoint: the first process writes, with the optimizer states of all."""
        tensors: dict[str, torch.Tensor] = {}
        for m in self.mine:
            found = self.optimizers[m].state_dict()
            state = found["state"]  # by number of the parameter
            if "optimizer" in self.fit.settings:  # one of your own may also change numbers of its group
                (group,) = found["param_groups"]
                numbers = {name: value for name, value in group.items() if type(value) in (int, float) and name != "lr"}
                state = state | {"group": {name: torch.tensor(v, dtype=torch.float64) for name, v in numbers.items()}}
            for i, values in state.items():
                tensors |= {f"{m}.{i}.{name}": torch.as_tensor(v) for name, v in values.items() if v is not None}
        tensors = self.team.merge(tensors)
        if self.team.is_first:
            best = {} if self.fit.best_step == self.fit.n_steps_done else self.best  # the same weights are written once
            checkpoints.save(self.path, self.fit, self.network.state_dict(), best, tensors, self.about())

    def about(self) -> dict[str, Any]:
        """What the checkpoint says of network, data and date, so that the run can be found and loaded again."""
        data = {"train": self.train_data, "val": self.val}
        return {
            "network": network_in_words(self.network),
            "recipe": getattr(self.network, "recipe", None),
            "attributes": attributes(self.network),
            "date": datetime.now(UTC).date().isoformat(),
            **{name: split.describe() for name, split in data.items() if hasattr(split, "describe")},
        }

    def resume(self) -> None:
        """Load the checkpoint if there is one; ValueError if it does not belong to this run."""
        if not self.path.exists():
            return
        found = checkpoints.load(self.path)
        found.check(self.fit.settings, self.network, {m: self.optimizers[m] for m in self.mine})
        if found.fit.best_step is None:  # earlier ones went on without a score
            raise ValueError(f"{self.path} holds no finite validation nRMSE; delete it to train anew")
        self.fit, self.best = found.fit, found.best
        self.network.load_state_dict(found.weights)
        for m in self.mine:
            optimizer = self.optimizers[m]
            weights = dict(enumerate(optimizer.param_groups[0]["params"]))
            state = {
                # with the strides of the weights, since the fused kernel goes through both in the order of memory
                i: {
                    name: torch.empty_like(weights[i]).copy_(t) if t.ndim and t.shape == weights[i].shape else t
                    for name, t in of_weight.items()
                }
                for i, of_weight in found.state_of(m).items()
            }
            (group,) = optimizer.state_dict()["param_groups"]
            groups = [group | {name: type(group[name])(v) for name, v in found.numbers_of(m).items()}]  # int stays int
            optimizer.load_state_dict({"state": state, "param_groups": groups})


def _module_of_key(strategy, network):
    """For each key of the network's state dict the module that trains it; the first one if outside all iterations."""
    names = {}
    for name, part in network.named_modules(remove_duplicate=False):  # an iteration may have several names
        names.setdefault(id(part), []).append(f"{name}.")
    prefixes = [
        tuple(name for iteration in module for name in names[id(iteration)]) for module in strategy.modules(network)
    ]
    return {
        key: next((m for m, prefix in enumerate(prefixes) if key.startswith(prefix)), 0) for key in network.state_dict()
    }


def learning_rates_at(step: int, settings: dict, n_modules: int) -> list[float]:
    """Learning rate of each module at `step`: linear warm-up, then a cosine from the first to the final rate."""
    n_warmup, n_steps = settings["n_warmup_steps"], settings["n_steps"]
    given = [settings["learning_rate"], settings["final_learning_rate"]]
    rates = [value if isinstance(value, list | tuple) else [value] * n_modules for value in given]
    if step < n_warmup:
        return [first * (step + 1) / n_warmup for first in rates[0]]
    falling = (1 + math.cos(math.pi * (step - n_warmup) / max(1, n_steps - n_warmup))) / 2
    return [final + (first - final) * falling for first, final in zip(*rates, strict=True)]
