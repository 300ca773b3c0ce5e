"""The student edition: the chapters without solutions and checks, with gaps to fill, made from the same notebooks.

Left out are cells tagged `solution`, which become gaps, those tagged `checks`, the folded solutions in the text, and
assertions between other lines. Cells that the book folds are folded in JupyterLab. What remains runs as it stands.
Captions, references and links that only the book can show become text.
"""

import ast
import re
from pathlib import Path

import nbformat
import yaml

from driver.chapters import discover, read_notebook
from driver.files import write_text
from driver.plain import BOOK, Plain, title

START = "00_start.ipynb"
FOLDER = "student"  # beside notebooks/, so that paths in the chapters stay right
GAP = "# Exercise {}: your code here\n"
SOLUTION = re.compile(r"^(:::+)\{dropdown\} (?:Solution|Answer)\b.*?^\1\s*$\n*", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"\{(?:record|archived)\}`[^`]*`")
TIME = re.compile(r"^- .*\{time\}.*\n", re.MULTILINE)


def write(root):
    """Write the student edition of every chapter into student/, but leave alone what a student has changed there."""
    chapters = discover(root)
    make = {START: lambda: start(chapters)}
    make |= {c.source.name: lambda c=c: student_edition(read_notebook(c.source)) for c in chapters}
    for name, notebook in make.items():
        path = root / FOLDER / name
        if path.exists():
            print(f"{FOLDER}/{name}: is there, and left alone", flush=True)
        else:
            write_text(path, nbformat.writes(notebook()))
            print(f"{FOLDER}/{name}: written", flush=True)
    for picture in (root / "book" / "_assets").glob("*.svg"):
        write_text(root / FOLDER / "_assets" / picture.name, picture.read_text(encoding="utf-8"))
    return True


def start(chapters):
    """A notebook that lists the chapters in the order of the book."""
    parts = yaml.safe_load((BOOK / "_toc.yml").read_text(encoding="utf-8"))["parts"]
    there, lines = {chapter.name: chapter.source for chapter in chapters}, []
    for part in parts:
        names = [Path(entry["file"]).name for entry in part["chapters"]]
        listed = [f"1. [{title(there[name])}]({name}.ipynb)" for name in names if name in there]
        lines += [f"## {part['caption']}", "\n".join(listed)] if listed else []
    text = "\n\n".join(["# Where to start", "In this order; the numbers of the files say nothing.", *lines])
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text, id="start")])


def student_edition(notebook):
    """The notebook without what a student is to find out."""
    kept, n_gaps = [], 0
    plain = Plain(notebook)
    for i, cell in enumerate(notebook.cells):
        tags = cell.metadata.get("tags", [])
        if cell.cell_type == "markdown":
            text = plain.text(NUMBER.sub("…", TIME.sub("", SOLUTION.sub("", cell.source))), i)
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
    # from the end, so that the numbers of earlier lines stay right
    for node in ast.parse(source).body[::-1]:
        if isinstance(node, ast.Assert):
            del lines[node.lineno - 1 : node.end_lineno]
    return "".join(lines).rstrip("\n")
