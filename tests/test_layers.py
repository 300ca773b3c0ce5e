"""The rooms of the core: imports run downward only, without circles in a room; nobody asks a strategy what it has."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "gleam"
LAYERS = [  # lowest first; rooms of one layer know nothing of each other
    ["files"], ["execution"], ["metrics"], ["processes"], ["physics"], ["networks", "datasets"],
    ["strategies", "phantoms"], ["cost"], ["training"], ["records"],
]  # fmt: skip
ROOMS = [room for layer in LAYERS for room in layer]
MODULES = sorted(ROOT.rglob("*.py"))


def imports(path):
    """Modules of gleam that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            yield from ([f"gleam.{a.name}" for a in node.names] if node.module == "gleam" else [node.module])


def room(name):
    return next(i for i, layer in enumerate(LAYERS) if name.split(".")[1] in layer)


def dotted(path):
    return ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_downward_only(path):
    if path == ROOT / "__init__.py":
        return
    for imported in (i for i in imports(path) if i.startswith("gleam.")):
        same_room = dotted(path).split(".")[1] == imported.split(".")[1]
        assert same_room or room(imported) < room(dotted(path)), f"{dotted(path)} imports {imported}"


def test_no_circle_within_a_room():
    """A package's `__init__` hands names on; apart from it the modules of a room form no circle."""
    known = {dotted(path): set(imports(path)) for path in MODULES if path.name != "__init__.py"}
    uses = {name: {i for i in found if i in known} for name, found in known.items()}
    while free := [name for name, found in uses.items() if not found]:
        uses = {name: found - set(free) for name, found in uses.items() if name not in free}
    assert not uses


def test_private_names_stay_in_their_module():
    for path in MODULES:
        tree = ast.parse(path.read_text())
        froms = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module.startswith("gleam")]
        names = [(node.module, alias.asname or alias.name, alias.name) for node in froms for alias in node.names]
        assert not [name for _, _, name in names if name.startswith("_")], path
        modules = {own for module, own, name in names if f"{module}.{name}" in {dotted(p) for p in MODULES}}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
                assert node.attr == "__name__" or not node.attr.startswith("_"), f"{path}: {ast.unparse(node)}"


def test_every_entry_is_a_room():
    entries = {p.name.removesuffix(".py") for p in ROOT.iterdir() if p.name not in ("__pycache__", "py.typed")}
    assert entries - {"__init__"} == set(ROOMS) and len(ROOMS) <= 12


def test_a_strategy_is_never_asked_what_it_has():
    """Whatever anyone may ask of a strategy is declared by `gleam.strategies.Strategy`."""
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            is_probe = isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "hasattr")
            assert not (is_probe and "strategy" in ast.unparse(node.args[0])), f"{path}: {ast.unparse(node)}"


def test_core_imports_without_optional_packages():
    """Packages of the extras are imported where they are used (figures and widgets are not part of the core)."""
    optional = [
        "sigpy",
        "ismrmrd",
        "joblib",
        "nilearn",
        "requests",
        "papermill",
        "matplotlib",
        "IPython",
        "skimage",
        "scipy",
    ]
    blocked = "; ".join(f"sys.modules[{name!r}] = None" for name in optional)
    command = [sys.executable, "-c", f"import sys; {blocked}; import gleam, gleam.datasets"]
    assert subprocess.run(command, capture_output=True, text=True, cwd=ROOT.parent).stderr == ""
