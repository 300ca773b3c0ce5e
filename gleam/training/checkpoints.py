"""Checkpoints of training runs: one safetensors file each, written whole, read without pickle, and checked."""

import json
import math
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from gleam.files import written_whole


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


@dataclass
class Checkpoint:
    """What a file holds: a :class:`Fit`, the state dict ``weights`` of the network, that of the lowest validation nRMSE
    so far (``best``), and ``optimizer_state``, tensors named "module.parameter.name"."""

    path: Path
    fit: Fit
    weights: dict
    best: dict
    optimizer_state: dict

    def state_of(self, m):
        """State of the optimizer of module ``m``, by number of the parameter."""
        state = {}
        for key, value in _under(f"{m}.", self.optimizer_state).items():
            i, name = key.split(".", 1)
            state.setdefault(int(i), {})[name] = value
        return state

    def check(self, settings, network, optimizers):
        """Raise ValueError unless a run of ``settings`` that trains ``network`` can go on from here.

        ``optimizers``: dict of module to the one that trains it.
        """
        if self.fit.settings != settings:
            raise ValueError(f"{self.path} is a checkpoint of a run with other settings; delete it to train anew")
        self._check_weights(network)
        for m, optimizer in optimizers.items():
            self._check_state(m, optimizer)

    def _check_weights(self, network):
        own, found = ({k: tuple(v.shape) for k, v in state.items()} for state in (network.state_dict(), self.weights))
        if own != found:
            key = min(k for k in own.keys() | found.keys() if own.get(k) != found.get(k))
            raise ValueError(
                f"{self.path} is a checkpoint of another network or version: {key} is {found.get(key, 'missing')} "
                f"there and {own.get(key, 'missing')} here; delete it to train anew"
            )

    def _check_state(self, m, optimizer):
        shapes = dict(enumerate(p.shape for p in optimizer.param_groups[0]["params"]))
        for i, state in self.state_of(m).items():  # a parameter that has no part in the network has none
            found = {name: value.shape for name, value in state.items()}
            if found != {"step": torch.Size(), "exp_avg": shapes.get(i), "exp_avg_sq": shapes.get(i)}:
                raise ValueError(f"{self.path} holds the state of another optimizer; delete it to train anew")


def save(path, fit, weights, best, optimizer_state):
    """Write a checkpoint; ``best`` is empty where it is ``weights``. Raises OSError if it cannot be written."""
    tensors = {f"optimizer.{key}": value for key, value in optimizer_state.items()}
    tensors |= {f"network.{key}": value for key, value in weights.items()}
    tensors |= {f"best.{key}": value for key, value in best.items()}
    # shared weights are saved twice, and all in one layout
    tensors = {key: value.detach().clone(memory_format=torch.contiguous_format) for key, value in tensors.items()}
    with written_whole(path) as temporary:
        save_file(tensors, temporary, metadata={"fit": json.dumps(asdict(fit))})


def load(path):
    """A :class:`Checkpoint` on the CPU. Raises ValueError, naming the file, if it is none."""
    fit = load_fit(path)
    with _readable(path):
        tensors = load_file(path)  # to the CPU: of several processes none may crowd the first GPU
    weights = _under("network.", tensors)
    return Checkpoint(path, fit, weights, _under("best.", tensors) or weights, _under("optimizer.", tensors))


def load_fit(path):
    """Only its :class:`Fit`. Raises ValueError as :func:`load`."""
    with _readable(path), safe_open(path, "pt") as file:
        return Fit(**json.loads(file.metadata()["fit"]))


@contextmanager
def _readable(path):
    try:
        yield
    except Exception as error:
        raise ValueError(f"{path} is not a checkpoint of this program ({error}); delete it to train anew") from error


def _under(prefix, tensors):
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
