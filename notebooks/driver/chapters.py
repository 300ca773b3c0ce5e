"""Chapters: which there are, and what parameters they declare."""

import ast
import re
from dataclasses import dataclass
from pathlib import Path

import nbformat

TABLE = re.compile(r"""["'](tab-[^"'\s]+)["']""")  # labels of tables in code; an f-string may fill in {a part}


@dataclass(frozen=True)
class Chapter:
    """A clean notebook, and where its executed copy goes."""

    name: str
    source: Path
    published: Path
    declared: dict  # names assigned in its cell tagged `parameters`, with their values where these are literals


def discover(root):
    """All chapters, notebooks/[0-9][0-9]_*.ipynb, in order."""
    found = sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    return [Chapter(p.stem, p, root / "book" / "chapters" / p.name, _declared(p)) for p in found]


def read_notebook(path):
    """A notebook in the current format. Raises OSError, with a sentence, if the file is damaged or something else."""
    try:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        return notebook
    except (AttributeError, KeyError, TypeError, ValueError, nbformat.ValidationError) as error:
        raise OSError(f"{path.parent.name}/{path.name} is not a whole notebook: restore it.") from error


def _declared(path):
    declared = {}
    for cell in read_notebook(path).cells:
        if "parameters" in cell.metadata.get("tags", []):
            try:
                tree = ast.parse(cell.source)
            except SyntaxError as error:
                raise OSError(f"notebooks/{path.name}: the parameters cell is not Python ({error.msg}).") from error
            for node in ast.walk(tree):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    declared.setdefault(node.id, None)  # assigned, but perhaps not a literal
                elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
                    declared |= {target.id: node.value.value for target in node.targets if hasattr(target, "id")}
    return declared


def select(chapters, wanted):
    """Chapters named by text such as "01 04_mridata": numbers or beginnings of names, or all if the text is empty."""
    words = re.split(r"[\s,]+", wanted.strip()) if wanted.strip() else []
    names = set()
    for word in words:
        prefix = word.removesuffix(".ipynb")
        # "4" means the chapter 04, and not all those that begin with 4
        prefix = f"{int(prefix):02d}_" if prefix.isdecimal() else prefix
        matches = [chapter.name for chapter in chapters if chapter.name.startswith(prefix)]
        if not matches:
            known = ", ".join(chapter.name for chapter in chapters) or "none yet"
            raise ValueError(f"Unknown chapter '{word}': the chapters are {known}.")
        names.update(matches)
    return [chapter for chapter in chapters if not words or chapter.name in names]


def label_pattern(label):
    """A label found by `TABLE` as a regular expression: what an f-string fills in is a word."""
    return re.sub(r"\{[^}]*\}", r"\\w+", label)
