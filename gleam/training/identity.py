"""What decides the result of a training run: data, settings, weights, the results version, and code of your own."""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Collection
from functools import cache
from typing import Any

from torch import nn

from gleam.datasets.slices import Slices
from gleam.files import digest, weights_digest
from gleam.strategies.base import Strategy

_told: dict[Any, str] = {}  # sources from the process that started this one

# Raise it when tests/test_golden.py fails for a good reason. Results of different versions are never put in one table.
RESULTS_VERSION = 2


def run_identity(
    network: nn.Module, strategy: Strategy, train: Slices, val: Slices, settings: dict, optimizer: Any = None
) -> str:
    """Name of a training run: runs of one name have the same result.

    Parameters
    ----------
    network : Module
        With its initial weights.
    strategy : Strategy
        How it is trained.
    train, val : Slices
        The data, of which the `fingerprint` counts.
    settings : dict
        All other settings that decide the result.
    optimizer : callable, optional
        What makes the optimizers, if it is not the usual.

    Returns
    -------
    str
        12 hexadecimal digits.

    Notes
    -----
    The project's own code is represented by `RESULTS_VERSION`, which tests/test_golden.py guards. So training results
    stay valid when comments, docstrings or names of variables change.
    """
    of_run = [settings, repr(network), list(sources(network, strategy, optimizer).values()), weights_digest(network)]
    foreign = {type(part) for part in network.modules() if not _is_known(type(part))}
    if numbers := attributes(network, foreign):  # which their `repr` may not show
        of_run.append(numbers)
    return digest([RESULTS_VERSION, *of_run, train.fingerprint, val.fingerprint])[:12]


def sources(network: nn.Module, strategy: Strategy, optimizer: Any = None) -> dict[Any, str]:
    """Source of strategy, losses, optimizer and layers that are not of torch or gleam: a change makes another run.

    Of class or function to :func:`normalised` text, or to the name of the class if Python cannot find its source.
    """
    strategies = _nested(strategy)
    classes = {type(part) for part in (*strategies, *network.modules())}
    classes |= {*_made_of([optimizer, *(s.loss for s in strategies)])}
    foreign = (c for c in classes if not _is_known(c))
    # sorted, since the order of a set differs between processes
    found = {c: _told.get(c, "") for c in sorted(foreign, key=lambda c: c.__qualname__)}
    for made in (c for c in found if not found[c]):
        try:
            found[made] = normalised(textwrap.dedent(inspect.getsource(made)))
        except (OSError, TypeError):  # defined in an interpreter that keeps no source
            found[made] = made.__qualname__
    return found


def attributes(network: nn.Module, kinds: Collection[type] | None = None) -> dict[str, Any]:
    """The numbers, texts and switches that the parts of a network hold beside their weights, such as a step size.

    Of parts whose class is in `kinds`, by default of all.
    """
    return {
        f"{name}.{key}".lstrip("."): value
        for name, part in network.named_modules()
        if kinds is None or type(part) in kinds
        for key, value in vars(part).items()
        # `training` is the mode of the moment
        if isinstance(value, int | float | str) and key != "training" and not key.startswith("_")
    }


def _is_known(kind):
    """Whether a class is of torch or of this project, whose versions stand elsewhere."""
    return kind.__module__.partition(".")[0] in ("torch", "gleam")


def tell(found: dict[Any, str]) -> None:
    """Take these :func:`sources` for granted: a new process cannot read those of a class of a script or notebook."""
    _told.update(found)


def _nested(strategy):
    """The strategy and those inside it, as of `Fast(Greedy(within=...))`."""
    inner = (value for value in vars(strategy).values() if isinstance(value, Strategy))
    return [strategy, *(one for value in inner for one in _nested(value))]


def _made_of(loss):
    """Functions and classes of a loss: those inside a list, a partial function or an object as well."""
    if isinstance(loss, list | tuple):
        return [one for part in loss for one in _made_of(part)]
    if isinstance(loss, functools.partial):
        return _made_of([loss.func, *loss.args, *loss.keywords.values()])
    if inspect.isfunction(loss) or isinstance(loss, type):
        return [loss]
    return [type(loss), *_made_of(list(getattr(loss, "__dict__", {}).values()))] if callable(loss) else []


@cache
def normalised(source: str) -> str:
    """The syntax tree of `source` as text: comments, docstrings and names of local variables make no difference."""
    tree = ast.parse(source)
    stored = [n for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    numbers = {name: f"_{i}" for i, name in enumerate(dict.fromkeys(node.id for node in stored))}
    for node in ast.walk(tree):  # arguments and attributes keep their names: callers use them
        if isinstance(node, ast.Name):
            node.id = numbers.get(node.id, node.id)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)
