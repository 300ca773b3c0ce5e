"""What the chapters would get from a profile, read without the packages that run notebooks."""

import json
from pathlib import Path

import yaml

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
CHAPTERS = "04_mridata", "05_fastmri", "06_cine"


def parameters(profile):
    """Parameters of each of the chapters with the paper's tables, by name of the chapter, and "phantoms"."""
    settings = yaml.safe_load((NOTEBOOKS / f"{profile}.yaml").read_text(encoding="utf-8"))
    found = {"phantoms": settings["phantoms"]}
    for chapter in CHAPTERS:
        declared = _declared(NOTEBOOKS / f"{chapter}.ipynb")
        given = settings.get("common", {}) | (settings.get(chapter) or {})
        found[chapter] = declared | {name: value for name, value in given.items() if name in declared}
    return found


def _declared(path):
    """Defaults of a chapter, from its cell tagged `parameters`."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    source = next("".join(c["source"]) for c in cells if "parameters" in c["metadata"].get("tags", []))
    values = {}
    exec(source, values)  # assignments of literals
    del values["__builtins__"]
    return values
