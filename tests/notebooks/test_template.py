"""The template of a new chapter: it keeps the rules, runs, and becomes a page of the book."""

import shutil
from pathlib import Path

import nbformat
import pytest
import run
from driver import chapters, student

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = ROOT / "notebooks" / "template.ipynb"
SETTINGS = """
common: {device: cpu, precision: fp32}
phantoms:
  knee: {n_train: 2, n_val: 1, n_test: 2, n_slices: 4, matrix: [48, 40], n_coils: 4, seed: 0}
18_template: {n_features: 4, n_iterations: 2, n_modules: 2, acceleration: 4, n_steps: 20, validate_every: 10}
"""


@pytest.fixture
def project(tmp_path):
    """A copy of the book, with the template as its only chapter that runs."""
    shutil.copytree(ROOT / "book", tmp_path / "book", ignore=shutil.ignore_patterns("chapters", "__pycache__"))
    shutil.copytree(ROOT / "data" / "published", tmp_path / "data" / "published")
    shutil.copy(ROOT / "_config.yml", tmp_path)
    (tmp_path / "gleam").symlink_to(ROOT / "gleam")
    notebooks = tmp_path / "notebooks"
    notebooks.mkdir()
    (notebooks / "driver").symlink_to(ROOT / "notebooks" / "driver")
    shutil.copy(TEMPLATE, notebooks / "18_template.ipynb")
    for chapter in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"):  # the pages link to them
        title = nbformat.v4.new_markdown_cell(f"# {chapter.stem}")
        nbformat.write(nbformat.v4.new_notebook(cells=[title]), notebooks / chapter.name)
    (notebooks / "quick.yaml").write_text(SETTINGS)
    toc = tmp_path / "book" / "_toc.yml"
    last = "      - file: chapters/16_generalisation\n"
    toc.write_text(toc.read_text().replace(last, f"{last}      - file: chapters/18_template\n"))
    return tmp_path


@pytest.mark.slow
def test_the_template_runs_and_becomes_a_page(project, capsys):
    assert run.main(["all", "--profile", "quick", "--chapters", "18", "--jobs", "1"], project) == 0, capsys.readouterr()
    page = (project / "_build" / "html" / "chapters" / "18_template.html").read_text()
    assert 'id="tab-template"' in page and 'id="fig-template"' in page and "min to run (this build)" in page
    assert len(list((project / "_work" / "quick" / "records" / "template").glob("*.json"))) == 3


def test_its_student_edition_has_a_gap_and_no_solution():
    made = student.student_edition(chapters.read_notebook(TEMPLATE))
    assert [cell.source for cell in made.cells if "gap" in cell.metadata.get("tags", [])] == [
        "# Exercise 1: your code here\n"
    ]
    assert "Solution" not in "".join(cell.source for cell in made.cells)
