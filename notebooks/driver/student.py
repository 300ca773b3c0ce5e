"""The student edition: the chapters without solutions and checks, with gaps to fill, made from the same notebooks.

Left out are cells tagged `solution`, which become gaps, those tagged `checks`, the folded solutions in the text, and
assertions between other lines. Cells that the book folds are folded in JupyterLab. What remains runs as it stands.
"""

import ast
import re

import nbformat

from driver.chapters import discover, read_notebook
from driver.files import write_text

FOLDER = "student"  # beside notebooks/, so that paths in the chapters stay right
GAP = "# Exercise {}: your code here\n"
SOLUTION = re.compile(r"^(:::+)\{dropdown\} (?:Solution|Answer)\b.*?^\1\s*$\n*", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"\{(?:record|archived|published)\}`[^`]*`")


def write(root):
    """Write the student edition of every chapter into student/, but leave alone what a student has changed there."""
    for chapter in discover(root):
        path = root / FOLDER / chapter.source.name
        if path.exists():
            print(f"{FOLDER}/{path.name}: is there, and left alone", flush=True)
        else:
            write_text(path, nbformat.writes(student_edition(read_notebook(chapter.source))))
            print(f"{FOLDER}/{path.name}: written", flush=True)
    for picture in (root / "book" / "_assets").glob("*.svg"):
        write_text(root / FOLDER / "_assets" / picture.name, picture.read_text(encoding="utf-8"))
    return True


def student_edition(notebook):
    """The notebook without what a student is to find out."""
    kept, n_gaps = [], 0
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if cell.cell_type == "markdown":
            text = NUMBER.sub("…", SOLUTION.sub("", cell.source)).replace("{time}", "see the book")
            cell.source = text.replace("../_assets/", "_assets/").strip()  # JupyterLab shows nothing from outside
            if text.startswith("# ") and "…" in text:
                cell.source += "\n\n*… stands for a number that the cells below measure, or that stands in the book.*"
        elif "solution" in tags:
            n_gaps += 1
            cell.source, cell.metadata["tags"] = GAP.format(n_gaps), ["gap"]
        else:
            cell.source = without_assertions(cell.source)
            if {"hide-input", "hide-cell"} & set(tags):
                cell.metadata["jupyter"] = {"source_hidden": True}
        if cell.source and "checks" not in tags:
            kept.append(cell)
    notebook.cells = kept
    return notebook


def without_assertions(source):
    """The code without the statements that begin with `assert`."""
    lines = source.splitlines(keepends=True)
    for node in ast.parse(source).body[::-1]:
        if isinstance(node, ast.Assert):
            del lines[node.lineno - 1 : node.end_lineno]
    return "".join(lines).rstrip("\n")
