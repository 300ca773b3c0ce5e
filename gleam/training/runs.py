"""Runs that one can find again: what is in a folder of checkpoints, and the network of one of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from gleam.networks import unrolled
from gleam.training import checkpoints
from gleam.training.identity import attributes

# what a checkpoint may name as the maker of its network
MAKERS: dict[str, Callable[..., nn.Module]] = {"pgd": unrolled.pgd, "modl": unrolled.modl}


def runs(folder: str | Path) -> pd.DataFrame:
    """All training runs in a folder, the best first.

    Parameters
    ----------
    folder : path
        The `run_dir` of :func:`gleam.fit`.

    Returns
    -------
    DataFrame
        One row per run, with its folder as index: network, strategy, data, mask and R of the training data, steps
        done and planned, lowest validation nRMSE and its step, precision, seed, and date. Empty if there is no run.

    Raises
    ------
    ValueError
        If a file of that name is no checkpoint; the message names it.
    """
    rows = {path.parent.name: _row(path) for path in sorted(Path(folder).glob(f"*/{checkpoints.NAME}"))}
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("run")
    return table.sort_values("best_nrmse", kind="stable") if len(table) else table


def _row(path):
    fit, about = checkpoints.load_words(path)
    train: dict[str, Any] = about.get("train") or {}
    mask = train.get("mask") or {}
    return {
        "network": about.get("network", ""),
        "strategy": fit.settings["strategy"],
        "data": train.get("acquisition", ""),
        "subjects": train.get("n_subjects"),
        "mask": mask.get("function", "").rpartition(".")[2],
        "R": mask.get("arguments", {}).get("acceleration"),
        "steps": fit.n_steps_done,
        "of": fit.settings["n_steps"],
        "best_nrmse": fit.best_nrmse,
        "best_step": fit.best_step,
        "precision": fit.settings.get("precision"),
        "seed": fit.settings["seed"],
        "date": about.get("date", ""),
    }


def load(run: str | Path, network: nn.Module | None = None) -> nn.Module:
    """The network of a training run with the weights of its lowest validation nRMSE, ready to reconstruct.

    Parameters
    ----------
    run : path
        Folder of a run, `run_dir`/<name>, or its checkpoint.
    network : Module, optional
        An untrained network of the same kind, into which the weights are loaded. Not needed for those that
        :func:`gleam.unrolled.pgd` and :func:`gleam.unrolled.modl` have made: the checkpoint holds their arguments.

    Returns
    -------
    Module
        On the CPU, in evaluation mode.

    Raises
    ------
    ValueError
        If there is no checkpoint, if it does not say how its network was made and none is given, or if the given
        network is another one.
    """
    path = Path(run)
    path = path / checkpoints.NAME if path.is_dir() else path
    if not path.is_file():
        raise ValueError(f"{path} does not exist; expected the folder of a run, such as one that gleam.runs lists")
    _, about = checkpoints.load_words(path)
    recipe = about.get("recipe")
    if network is None:
        if not recipe or recipe["function"] not in MAKERS:
            raise ValueError(f"{path} does not say how its network was made; give an untrained one as network=")
        network = MAKERS[recipe["function"]](**recipe["arguments"])
    theirs, ours = about.get("attributes", {}), attributes(network)
    if changed := [name for name in theirs if ours.get(name) != theirs[name]]:
        found = f"{changed[0]} = {ours.get(changed[0])}" if changed[0] in ours else f"no {changed[0]}"
        raise ValueError(
            f"{path} has the weights of a network with {changed[0]} = {theirs[changed[0]]}, and this one has {found}; "
            "give the one that was trained as network="
        )
    try:
        network.load_state_dict(checkpoints.load(path).best)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(f"the weights in {path} do not fit a {type(network).__name__} like this ({reason})") from error
    return network.eval()


def described(network: nn.Module) -> str:
    """How a network was made, such as `pgd(n_iterations=8, ...)`, or its class and number of parameters."""
    recipe: Any = getattr(network, "recipe", None)
    n_parameters = sum(p.numel() for p in network.parameters())
    return _text(recipe) if recipe else f"{type(network).__name__} of {n_parameters:,} parameters"


def _text(recipe):
    arguments = ", ".join(f"{name}={value!r}" for name, value in recipe["arguments"].items())
    return f"{recipe['function']}({arguments})"
