"""What makes one training run another: the code, the network's layers, the weights it starts from."""

import ast
import inspect
import textwrap
from functools import cache

from gleam.files import digest


def code_digest(modules):
    """Digest of the source of ``modules``, blind to comments and docstrings."""
    return digest([without_docstrings(inspect.getsource(module)) for module in modules])


@cache
def without_docstrings(source):
    """The syntax tree of ``source`` as text, without docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            node.body = body[1:]
    return ast.dump(tree)


def sources(network, strategy):
    """Source of the strategy and of every layer that is not torch's own: a changed ``forward`` makes another run."""
    classes = {type(part) for part in (strategy, *network.modules())}
    own = sorted((c for c in classes if not c.__module__.startswith("torch.")), key=lambda c: c.__qualname__)
    return [_source(c) for c in own]


def _source(made):
    try:
        return without_docstrings(textwrap.dedent(inspect.getsource(made)))
    except (OSError, TypeError):  # typed into an interpreter that keeps no source
        return made.__qualname__


def weights_digest(network):
    """Digest of a network's weights."""
    return digest([[key, value.cpu().numpy().tobytes().hex()] for key, value in network.state_dict().items()])
