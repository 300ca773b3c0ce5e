"""What decides the result of a training run: data, settings, weights, the results version, and code of your own."""

from __future__ import annotations

import ast
import inspect
import textwrap
from functools import cache

from torch import nn

from gleam.files import digest
from gleam.strategies.base import Strategy

RESULTS_VERSION = 2  # raise it when tests/test_golden.py fails for a good reason: older results then stand alone


def run_identity(network: nn.Module, strategy: Strategy, train, val, settings: dict) -> str:
    """Name of a training run: runs of one name have the same result.

    The project's own code is represented by `RESULTS_VERSION`, which a test of golden numbers guards. So comments,
    docstrings and renamed variables keep what was trained.
    """
    own = [settings, repr(network), sources(network, strategy), weights_digest(network)]
    return digest([RESULTS_VERSION, *own, train.fingerprint, val.fingerprint])[:12]


def sources(network: nn.Module, strategy: Strategy) -> list[str]:
    """Source of the strategy and the layers that are neither torch's nor gleam's: a new `forward` is a new run."""
    classes = {type(part) for part in (strategy, *network.modules())}
    own = (c for c in classes if c.__module__.partition(".")[0] not in ("torch", "gleam"))
    return [_source(c) for c in sorted(own, key=lambda c: c.__qualname__)]


def _source(made):
    try:
        return normalised(textwrap.dedent(inspect.getsource(made)))
    except (OSError, TypeError):  # typed into an interpreter that keeps no source
        return made.__qualname__


@cache
def normalised(source: str) -> str:
    """The syntax tree of `source` as text: comments, docstrings and names of local variables make no difference."""
    tree = ast.parse(source)
    stored = [n for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    numbers = {name: f"_{i}" for i, name in enumerate(dict.fromkeys(node.id for node in stored))}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            node.id = numbers.get(node.id, node.id)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)


def weights_digest(network: nn.Module) -> str:
    """Digest of a network's weights."""
    return digest([[key, value.cpu().numpy().tobytes().hex()] for key, value in network.state_dict().items()])
