"""The book's own markup as plain Markdown, for notebooks that are read in JupyterLab and not as pages of the book."""

import re
import sys
from functools import cache
from pathlib import Path

import nbformat

from driver.chapters import TABLE, label_pattern, read_notebook
from driver.pages import label_caption

NOTEBOOKS = Path(__file__).resolve().parents[1]
BOOK = NOTEBOOKS.parent / "book"
# a role of the book; before {eq} the words "Eq. " belong to it
ROLE = re.compile(r"(?:Eq\. (?=\{eq\}))?\{(doc|cite(?::t)?|term|numref|eq|published)\}`([^`]*)`")
# a link to a file above the notebooks, but not a picture
LINK_OUT = re.compile(r"(?<!!)\[([^\]]*)\]\(\.\./[^)]*\)")
EQUATION = re.compile(r"\$\$\s*\((eq-[\w-]+)\)")
DRAWING = re.compile(
    r"```\{figure\} (?P<file>\S+)\n:name: (?P<name>\S+)\n(?::\w+: .*\n)*?:alt: (?P<alt>.*)\n(?::\w+: .*\n)*"
    r"\n(?P<caption>.*?)\n```",
    re.DOTALL,
)
sys.path.append(str(BOOK / "_ext"))  # for book_numbers


class Plain:
    """A notebook whose figures have captions as text, and what its cells refer to.

    Captions of figures that code makes lie in the metadata of its cell, which JupyterLab does not show. They become
    cells of their own. A figure has a number; a table is above or below.

    Parameters
    ----------
    notebook : nbformat.NotebookNode
        Is changed.
    """

    def __init__(self, notebook):
        self.figures, cells = {}, []
        for cell in notebook.cells:
            cells.append(cell)
            figure = cell.metadata.get("mystnb", {}).get("figure", {})
            if cell.cell_type == "markdown":
                cell.source = DRAWING.sub(
                    lambda m: f"![{m['alt']}]({m['file']})\n\n{self._caption(m['name'], m['caption'])}", cell.source
                )
            elif "caption" in figure:
                label_caption(cell)
                text = self._caption(figure.get("name"), figure["caption"])
                cells.append(nbformat.v4.new_markdown_cell(text, id=f"{cell.id}-caption"))
        notebook.cells = cells
        self.tables = [
            (label_pattern(label), place)
            for place, cell in enumerate(cells)
            for label in TABLE.findall(cell.source)
            if cell.cell_type == "code"
        ]
        self.headings = {i: h for i, cell in enumerate(cells) for h in re.findall(r"^#+ (.*)$", cell.source, re.M)}
        self.equations = {label for cell in cells for label in EQUATION.findall(cell.source)}

    def _caption(self, name, text):
        self.figures[name] = len(self.figures) + 1
        return f"**Figure {self.figures[name]}.** {text}"

    def text(self, source, place):
        """Text of cell number `place` with roles written out, and without links that lead out of the folder."""

        def written(match):
            role, content = match.groups()
            # {cite:t} is `_cite_t`, and so on
            found = getattr(self, f"_{role.replace(':', '_')}")(content, place)
            before = source[: match.start()].rstrip(" -*")
            begins_a_sentence = before[-1:] in ("", ".", "\n")
            return found[0].upper() + found[1:] if begins_a_sentence else found

        return LINK_OUT.sub(r"\1", ROLE.sub(written, source))

    def _numref(self, label, place):
        if label in self.figures:
            return f"Figure {self.figures[label]}"
        found = next((at for pattern, at in self.tables if re.fullmatch(pattern, label)), None)
        if found is None:
            return "the book's table"
        places = [at for _, at in self.tables]
        nearest = (
            max((p for p in places if p < place), default=None),
            min((p for p in places if p > place), default=None),
        )
        # "above" and "below" only where no other table comes between
        if found in nearest and places.count(found) == 1:
            return "the table above" if found < place else "the table below"
        return f"the table under *{self.headings[max(at for at in self.headings if at < found)]}*"

    def _eq(self, label, place):
        if label in self.equations:
            return f"Eq. {{eq}}`{label}`"
        (chapter,) = (path for path in NOTEBOOKS.glob("[0-9]*.ipynb") if f"({label})" in path.read_text("utf-8"))
        return f"see {self._doc(chapter.stem, place)}"

    def _doc(self, name, place):
        if "/" in name:
            return f"*{title(BOOK / (name.strip('/') + '.md'))}* in the book"
        return f"[{title(NOTEBOOKS / f'{name}.ipynb')}]({name}.ipynb)"

    def _cite(self, keys, place):
        found = [_source(key.strip()) for key in keys.split(",")]
        return "(" + "; ".join(_linked(f"{who}, {year}", address) for who, year, address in found) + ")"

    def _cite_t(self, key, place):
        who, year, address = _source(key)
        return _linked(f"{who} ({year})", address)

    def _term(self, content, place):
        return content.partition(" <")[0]

    def _published(self, reference, place):
        from book_numbers import evaluate, look_up_published  # here and not above: it brings torch along

        return evaluate(reference, look_up_published).replace("-", "−")


@cache
def title(path):
    """The heading of a notebook or a page."""
    text = read_notebook(path).cells[0].source if path.suffix == ".ipynb" else path.read_text(encoding="utf-8")
    return re.search(r"^# (.*)$", text, re.MULTILINE)[1]


def _source(key):
    """Authors in short, year, and address of a publication."""
    entry = _references().entries[key]
    names = [" ".join(person.last_names).strip("{}") for person in entry.persons["author"]]
    who = names[0] + (" et al." if len(names) > 2 else f" and {names[1]}" if len(names) == 2 else "")
    address = f"https://doi.org/{entry.fields['doi']}" if "doi" in entry.fields else entry.fields.get("url", "")
    return who, entry.fields["year"], address


def _linked(text, address):
    return f"[{text}]({address})" if address else text


@cache
def _references():
    from pybtex.database import parse_file

    return parse_file(str(BOOK / "references.bib"))
