"""Checkpoints of training runs: one safetensors file each, written whole, read without pickle, and checked.

Archived weights (:mod:`gleam.records.weights`) have the same form, without the state of an optimizer.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from gleam.files import digest, written_whole

NAME = "checkpoint.safetensors"  # of the file, in the folder of its run


@dataclass
class Fit:
    """What a training run did.

    Attributes
    ----------
    settings : dict
        Strategy, number format, and the arguments of :func:`gleam.fit` that decide the result.
    history : list of dict
        One row per validation: step, loss per module, nRMSE, seconds so far, and the diagnostics of the strategy.
    n_steps_done : int
        Training steps taken so far.
    best_step, best_nrmse
        Step and value of the lowest validation nRMSE.
    seconds : float
        Time of training, without validations.
    """

    settings: dict
    history: list = field(default_factory=list)
    n_steps_done: int = 0
    best_step: int | None = None
    best_nrmse: float = math.inf
    seconds: float = 0.0


@dataclass
class Checkpoint:
    """The content of a checkpoint's file.

    Attributes
    ----------
    path : Path
        The file.
    fit : Fit
        What the run has done so far.
    weights, best : dict
        State dicts of the network: the current one, and the one of the lowest validation nRMSE so far.
    optimizer_state : dict
        Tensors named "module.parameter.name", with numbers for module and parameter, or "module.group.name".
    about : dict
        What it says of network, data and date (empty in earlier ones).
    """

    path: Path
    fit: Fit
    weights: dict
    best: dict
    optimizer_state: dict
    about: dict = field(default_factory=dict)

    def state_of(self, m: int) -> dict[int, dict[str, Tensor]]:
        """State of the optimizer of module `m`, by number of the parameter."""
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in _under(f"{m}.", self.optimizer_state).items():
            i, name = key.split(".", 1)
            if i != "group":  # those are for `numbers_of`
                state.setdefault(int(i), {})[name] = value
        return state

    def numbers_of(self, m: int) -> dict[str, float]:
        """Numbers that an optimizer of one's own keeps for module `m` as a whole, such as an estimated step size."""
        return {name: value.item() for name, value in _under(f"{m}.group.", self.optimizer_state).items()}

    def check(self, settings: dict, network: nn.Module, optimizers: Mapping[int, Optimizer]) -> None:
        """Check that a run can go on from here.

        Parameters
        ----------
        settings : dict
            Those of the run.
        network : Module
            The network that it trains.
        optimizers : dict
            Of module number to the optimizer that trains it.

        Raises
        ------
        ValueError
            If settings, shapes of weights or shapes of optimizer states differ.
        """
        if self.fit.settings != settings:
            raise ValueError(f"{self.path} is a checkpoint of a run with other settings; delete it to train anew")
        here, there = ({k: tuple(v.shape) for k, v in state.items()} for state in (network.state_dict(), self.weights))
        if here != there:
            key = min(k for k in here.keys() | there.keys() if here.get(k) != there.get(k))
            raise ValueError(
                f"{self.path} is a checkpoint of another network or version: {key} is {there.get(key, 'missing')} "
                f"there and {here.get(key, 'missing')} here; delete it to train anew"
            )
        # an optimizer of one's own may keep state of any shape
        for m, optimizer in {} if "optimizer" in settings else optimizers.items():
            shapes = dict(enumerate(p.shape for p in optimizer.param_groups[0]["params"]))
            for i, state in self.state_of(m).items():  # a parameter that the network does not use has no state
                if i not in shapes or not {v.shape for v in state.values()} <= {torch.Size(), shapes[i]}:
                    raise ValueError(f"{self.path} holds the state of another optimizer; delete it to train anew")


def save(
    path: Path,
    fit: Fit,
    weights: Mapping[str, Tensor],
    best: Mapping[str, Tensor],
    optimizer_state: Mapping[str, Tensor],
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint, whole or not at all.

    The arguments are the attributes of :class:`Checkpoint`; `best` is empty if it is the same as `weights`. `about` is
    what :func:`load_words` returns. Equal arguments give equal files, and :func:`load` checks their digest. Raises
    OSError if the file cannot be written.
    """
    tensors = {f"optimizer.{key}": value for key, value in optimizer_state.items()}
    tensors |= {f"network.{key}": value for key, value in weights.items()}
    tensors |= {f"best.{key}": value for key, value in best.items()}
    # safetensors refuses tensors that share memory, and stores contiguous ones only
    tensors = {key: value.detach().clone(memory_format=torch.contiguous_format) for key, value in tensors.items()}
    with written_whole(path) as temporary:
        # somebody's data may describe themselves with any object
        words = json.loads(json.dumps({"fit": asdict(fit), "about": dict(about or {})}, default=str))
        words["digest"] = _digest(words, tensors)
        words["digest_of_words"] = digest([words["fit"], words["about"]])  # for those who read nothing else
        # one entry: safetensors writes several in random order
        save_file(tensors, temporary, metadata={"run": json.dumps(words)})


def load(path: Path) -> Checkpoint:
    """Read a checkpoint to the CPU.

    Raises ValueError, naming the file, if it is not one or was changed, and OSError if it may not be read.
    """
    with _readable(path):
        fit, words = _words(path)
        tensors = load_file(path)  # to the CPU: several processes that load to the first GPU could fill its memory
        if words.get("digest") not in (None, _digest(words, tensors)):  # earlier ones have none
            raise ValueError("its content is not what was written: the digest differs")
    weights = _under("network.", tensors)
    best = _under("best.", tensors) or weights  # not written twice
    return Checkpoint(path, fit, weights, best, _under("optimizer.", tensors), words["about"])


def load_fit(path: Path) -> Fit:
    """Read only the :class:`Fit` of a checkpoint. Raises ValueError as :func:`load`."""
    return load_words(path)[0]


def load_words(path: Path) -> tuple[Fit, dict[str, Any]]:
    """Read the :class:`Fit` of a checkpoint and what it says of network, data and date (empty in earlier ones).

    Raises ValueError as :func:`load`.
    """
    with _readable(path):
        fit, words = _words(path)
        return fit, words["about"]


def _words(path):
    """The :class:`Fit` of a checkpoint and all of its words, whose types and digest are checked."""
    with safe_open(path, "pt") as file:
        found = file.metadata()
    if "run" in found:
        words = json.loads(found["run"])
    else:  # earlier ones
        words = {"fit": json.loads(found["fit"]), "about": json.loads(found.get("about", "{}"))}
    if words.get("digest_of_words") not in (None, digest([words["fit"], words["about"]])):
        raise ValueError("its words are not what was written: the digest differs")
    fit = Fit(**words["fit"])
    types = {"settings": dict, "history": list, "n_steps_done": int, "best_nrmse": int | float, "seconds": int | float}
    wrong = [name for name, kind in types.items() if not isinstance(getattr(fit, name), kind)]
    wrong += [] if fit.best_step is None or isinstance(fit.best_step, int) else ["best_step"]
    if wrong or not isinstance(words["about"], dict):
        raise ValueError(f"its field '{(*wrong, 'about')[0]}' is of another type")
    if fit.n_steps_done < 0 or (fit.history and fit.history[-1]["step"] != fit.n_steps_done):
        raise ValueError(f"its history does not end at step {fit.n_steps_done}")
    return fit, words


def _digest(words, tensors):
    """Digest of all that a checkpoint holds."""
    found = []
    for key, tensor in sorted(tensors.items()):
        raw = tensor.contiguous().reshape(-1).view(torch.uint8).cpu().numpy()  # NumPy knows no bf16
        found.append([key, str(tensor.dtype), list(tensor.shape), hashlib.sha256(raw).hexdigest()])
    return digest([words["fit"], words["about"], found])


@contextmanager
def _readable(path):
    """Damage becomes a ValueError that says what to do; a file that may not be read is not damaged."""
    try:
        open(path, "rb").close()
    except OSError as error:  # safetensors would say that there is no such file
        raise type(error)(f"cannot read {path}: {error.strerror}") from error
    try:
        yield
    except Exception as error:
        cure = "delete it to train anew" if Path(path).name == NAME else "restore the file"
        raise ValueError(f"{path} is not a checkpoint of this program ({error}); {cure}") from error


def _under(prefix, tensors):
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
