"""References from docstrings: a name of gleam is linked to where it is documented, whatever alias it is written as."""

import importlib
from functools import cache

from docutils.utils import get_source_line
from sphinx.util.nodes import make_refnode


@cache
def named(path):
    """The object that a dotted path names, None if there is none."""
    first, *rest = path.split(".")
    try:
        found = importlib.import_module(first)
        for name in rest:
            if not hasattr(found, name):
                importlib.import_module(f"{found.__name__}.{name}")
            found = getattr(found, name)
    except (ImportError, AttributeError):
        return None
    return found


def identity(found):
    """Where a function, class, property or module is defined, whatever it is called here; None for other objects."""
    found = getattr(found, "fget", None) or found
    name = getattr(found, "__qualname__", None) or getattr(found, "__name__", None)
    return name and (getattr(found, "__module__", None), name)


def documented(env, path):
    """Name and entry in the reference of what a dotted path names, whatever it is called there; None if it has none."""
    objects = env.get_domain("py").objects
    if path in objects and not objects[path].aliased:
        return path, objects[path]
    wanted = identity(named(path))
    for name, entry in objects.items() if wanted else ():
        if not entry.aliased and identity(named(name)) == wanted:
            return name, entry
    return None


def link_alias(app, env, node, contnode):
    """Link a name that Sphinx does not know.

    What exists but is not in the reference becomes plain text. A name that does not exist is left, which is a warning.
    """
    if node.get("refdomain") != "py":
        return None
    where = (get_source_line(node)[0] or "").rpartition("docstring of ")[2].split(".")  # such as gleam.Strategy.step
    homes = [node.get("py:module"), *(".".join(where[:i]) for i in range(len(where), 0, -1))]
    homes += [getattr(named(home), "__module__", None) for home in homes if home]
    target = node["reftarget"].lstrip(".")
    for path in [target, *(f"{home}.{target}" for home in [*homes, "builtins"] if home)]:
        if named(path) is not None:
            if not (found := documented(env, path)):
                return contnode
            name, entry = found
            return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, contnode, name)
        parent, _, name = path.rpartition(".")
        if parent and name in getattr(named(parent), "__annotations__", ()):
            return contnode  # a field of a dataclass
    return None


def setup(app):
    """Connect; called by gleam_book."""
    app.connect("missing-reference", link_alias)
