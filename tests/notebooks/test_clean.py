"""The chapters as they are committed: no outputs, no functions, but parameters, words for figures, and exercises."""

import ast
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
# whose subject is code of one's own
HOW_TO = ("17_advice", "11_your_network", "12_your_data", "13_your_scan", "14_inverse_problem")
CHAPTERS = [*sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb")), NOTEBOOKS / "template.ipynb"]
pytestmark = pytest.mark.skipif(not CHAPTERS, reason="there is no chapter yet")


@pytest.fixture(params=CHAPTERS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_no_output_was_saved(notebook):
    assert [cell.source for cell in code(notebook) if cell.outputs or cell.execution_count is not None] == []
    assert {"papermill", "language_info", "widgets"}.isdisjoint(notebook.metadata)


def test_there_is_one_cell_of_parameters(notebook):
    tagged = [cell for cell in code(notebook) if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    assert any(isinstance(node, ast.Assign) for node in ast.parse(tagged[0].source).body)


def test_only_a_how_to_page_defines_something(notebook, request):
    if request.node.callspec.params["notebook"].stem in HOW_TO:
        return
    defining = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    trees = [ast.parse(cell.source) for cell in code(notebook)]
    assert [node.name for tree in trees for node in ast.walk(tree) if isinstance(node, defining)] == []


def test_it_begins_with_a_title_and_ends_with_exercises(notebook):
    markdown = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    assert notebook.cells[0].cell_type == "markdown"
    assert notebook.cells[0].source.startswith("# ")
    headings = [line for text in markdown for line in text.splitlines() if line.startswith("## ")]
    assert "exercise" in headings[-1].lower()


def test_every_figure_has_words_for_those_who_cannot_see_it(notebook):
    for cell in code(notebook):
        settings = cell.metadata.get("mystnb", {})
        if "figure" in settings:
            assert settings.get("image", {}).get("alt", "").strip(), settings["figure"].get("name")
