"""Runs that one can find again: what is in a folder of checkpoints or archived weights, and the network of one."""

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
        The `run_dir` of :func:`gleam.fit`, or a folder of archived records, such as `results/cpu-standard`.

    Returns
    -------
    DataFrame
        One row per run, with its name in the folder as index: network, strategy, data, mask and R of the training data,
        steps done and planned, lowest validation nRMSE and its step, PSNR in the test (of archived weights), precision,
        seed, and date. Empty if there is no run.

    Raises
    ------
    ValueError
        If a file of that name is no checkpoint; the message names it.
    """
    paths = sorted(Path(folder).glob("*/*.safetensors"))
    names = [path.parent.name if path.name == checkpoints.NAME else f"{path.parent.name}/{path.stem}" for path in paths]
    rows = {name: _row(path) for name, path in zip(names, paths, strict=True)}
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
        "psnr": about.get("scores", {}).get("psnr"),
        "precision": fit.settings.get("precision"),
        "seed": fit.settings["seed"],
        "date": about.get("date", ""),
    }


def load(run: str | Path, network: nn.Module | None = None) -> nn.Module:
    """The network of a training run with the weights of its lowest validation nRMSE, ready to reconstruct.

    Parameters
    ----------
    run : path
        Folder of a run, `run_dir`/<name>, or its checkpoint; or archived weights, such as
        `results/cpu-standard/fastmri_pgd/gleam`, with or without a suffix.
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
        If there is no checkpoint, if it was changed, if it does not say how its network was made and none is given, or
        if the given network is another one.
    """
    path = find(run)
    found = checkpoints.load(path)
    recipe = found.about.get("recipe")
    if network is None:
        if not recipe or recipe["function"] not in MAKERS:
            raise ValueError(f"{path} does not say how its network was made; give an untrained one as network=")
        network = MAKERS[recipe["function"]](**recipe["arguments"])
    theirs, ours = found.about.get("attributes", {}), attributes(network)
    our_recipe: Any = getattr(network, "recipe", None)
    if recipe and our_recipe and recipe["function"] == our_recipe["function"]:
        theirs, ours = theirs | _switches(recipe), ours | _switches(our_recipe)
    # a step size or mu that is not learned is in no state dict: loading weights would not notice another one
    if changed := [name for name in theirs if ours.get(name) != theirs[name]]:
        here = f"{changed[0]} = {ours.get(changed[0])}" if changed[0] in ours else f"no {changed[0]}"
        raise ValueError(
            f"{path} has the weights of a network with {changed[0]} = {theirs[changed[0]]}, and this one has {here}; "
            "give the one that was trained as network="
        )
    try:
        network.load_state_dict(found.best)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(f"the weights in {path} do not fit a {type(network).__name__} like this ({reason})") from error
    return network.eval()


def _switches(recipe):
    """What a recipe says and no attribute of a part of the network shows."""
    # recipes from before the argument existed do not have it
    return {"consistent": recipe["arguments"].get("consistent", False)}


def find(run: str | Path) -> Path:
    """The file of a run that :func:`load` is given; ValueError if there is none."""
    path = Path(run)
    # a record or model card stands for the weights beside it
    beside = path.with_suffix("") if path.suffix in (".json", ".md") else path
    for one in (path / checkpoints.NAME, Path(f"{beside}.safetensors"), path):
        if one.is_file() and one.suffix == ".safetensors":
            return one
    raise ValueError(
        f"{path} {'holds no weights' if path.exists() else 'does not exist'}; expected the folder of a run, such as "
        "one that gleam.runs lists, or archived weights"
    )


def network_in_words(network: nn.Module) -> str:
    """How a network was made, such as `pgd(n_iterations=8, ...)`, or its class and number of parameters."""
    recipe: Any = getattr(network, "recipe", None)
    if not recipe:
        return f"{type(network).__name__} of {sum(p.numel() for p in network.parameters()):,} parameters"
    arguments = ", ".join(f"{name}={value!r}" for name, value in recipe["arguments"].items())
    return f"{recipe['function']}({arguments})"
