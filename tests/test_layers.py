import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "gleam"
LAYERS = [
    "allocator", "execution", "files", "watching", "processes", "launching", "fourier", "masks", "solvers", "metrics",
    "convolutions", "denoisers", "calibration", "physics", "datasets", "baselines", "unrolled", "inversion",
    "strategies", "parallel", "fast", "memory", "step", "prediction", "evaluation", "identity", "checkpoints", "runs",
    "training", "cost", "parallel_cost", "roofline", "records", "figures", "widgets",
]  # fmt: skip
MODULES = sorted(ROOT.rglob("*.py"))


def imports(path):
    """Modules of gleam that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            yield from ([f"gleam.{a.name}" for a in node.names] if node.module == "gleam" else [node.module])


def layer(name):
    return LAYERS.index(name.split(".")[1])


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_downward_only(path):
    name = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
    if name == "gleam.__init__":
        return
    for imported in (i for i in imports(path) if i.startswith("gleam.")):
        same_package = name.split(".")[1] == imported.split(".")[1]
        assert same_package or layer(imported) < layer(name), f"{name} imports {imported}"


def test_every_module_has_a_layer():
    assert {p.relative_to(ROOT).parts[0].removesuffix(".py") for p in MODULES} - {"__init__"} <= set(LAYERS)


def test_core_imports_without_optional_packages():
    """Packages of the extras are imported where they are used (figures and widgets are not part of the core)."""
    optional = [
        "sigpy",
        "ismrmrd",
        "joblib",
        "nilearn",
        "pooch",
        "papermill",
        "matplotlib",
        "IPython",
        "skimage",
        "scipy",
    ]
    blocked = "; ".join(f"sys.modules[{name!r}] = None" for name in optional)
    command = [sys.executable, "-c", f"import sys; {blocked}; import gleam, gleam.datasets"]
    assert subprocess.run(command, capture_output=True, text=True, cwd=ROOT.parent).stderr == ""
