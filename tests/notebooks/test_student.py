"""The student edition: no solution and no check is left, and what remains runs from top to bottom."""

import ast
import builtins
import re
from pathlib import Path

import nbformat
import pytest
import run
from driver import chapters, student

ROOT = Path(__file__).resolve().parents[2]
CHAPTERS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
FOLDED = ":::{dropdown} Solution\nBecause.\n:::"


def edition(path):
    return student.student_edition(chapters.read_notebook(path))


def code(notebook):
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_no_solution_and_no_check_is_left(path):
    whole, made = chapters.read_notebook(path), edition(path)
    nbformat.validate(made)
    text = "\n".join(cell.source for cell in made.cells)
    assert "} Solution" not in text and "{record}" not in text and "{time}" not in text
    prose = "\n".join(cell.source for cell in made.cells if cell.cell_type == "markdown")
    assert not re.search(r"\{(doc|cite(?::t)?|term|numref|published|archived)\}|\]\(\.\./|\{figure\}", prose)
    assert not any(isinstance(node, ast.Assert) for source in code(made) for node in ast.walk(ast.parse(source)))
    solutions = [cell for cell in whole.cells if "solution" in cell.metadata.get("tags", [])]
    gaps = [cell for cell in made.cells if "gap" in cell.metadata.get("tags", [])]
    assert len(gaps) == len(solutions) > 0 and gaps[-1].source == f"# Exercise {len(gaps)}: your code here\n"


def top_level(tree):
    """Names that code reads when it runs, and names that it makes; what a function or lambda has inside is left out."""
    inner = [
        name.arg
        for node in ast.walk(tree)
        if isinstance(node, ast.Lambda | ast.FunctionDef)
        for name in ast.walk(node.args)
        if isinstance(name, ast.arg)
    ]
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    made = {node.id for node in names if not isinstance(node.ctx, ast.Load)}
    made |= {
        (alias.asname or alias.name).split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    made |= {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    made |= {node.name for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler) and node.name}
    return {node.id for node in names} - made - set(inner), made


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_no_cell_needs_a_name_that_only_a_removed_cell_makes(path):
    known = set(dir(builtins))
    for source in code(edition(path)):
        read, made = top_level(ast.parse(source))
        assert read <= known, f"{sorted(read - known)} in: {source}"
        known |= made


def test_a_cell_that_needs_a_solution_would_be_found():
    read, made = top_level(ast.parse("import numpy as np\nfor i in x: y = np.sum(i, key=lambda z: z + w)"))
    assert read == {"x", "w"} and made == {"np", "i", "y"}


def test_the_text_of_a_solution_goes_and_the_exercise_stays():
    exercise = ":::{admonition} Exercise 1\nWhy?\n:::"
    cells = [nbformat.v4.new_markdown_cell(f"{exercise}\n\n{FOLDED}\n\nBy {{record}}`a/b:psnr:.1f` dB.")]
    made = student.student_edition(nbformat.v4.new_notebook(cells=cells))
    assert made.cells[0].source == f"{exercise}\n\nBy … dB."


def test_what_only_the_book_can_show_becomes_text():
    drawing = "```{figure} ../_assets/a.svg\n:name: fig-a\n:width: 480px\n:alt: A line.\n\nIt rises.\n```"
    made_figure = {"mystnb": {"figure": {"name": "fig-b", "caption": "It falls. {knee}"}}}
    text = (
        "# One\n\n- **Time:** {time}.\n\nBy {record}`a/b:psnr:.1f` dB, {published}`I/12/GLEAM:psnr:.1f` in print. "
        "{numref}`fig-b` and {numref}`tab-c`; see {doc}`10_greedy`, {doc}`/about`, {cite}`ying2007,ozturkler2022`, "
        "{term}`activations <activation>`, Eq. {eq}`eq-modl`, [the claims](../claims), {numref}`tab-elsewhere`."
    )
    cells = [
        nbformat.v4.new_markdown_cell(drawing),
        nbformat.v4.new_markdown_cell(text),
        nbformat.v4.new_code_cell('table(x, "tab-c")', metadata=made_figure),
        nbformat.v4.new_markdown_cell("In {numref}`tab-c` and $$x$$ (eq-x), Eq. {eq}`eq-x`."),
    ]
    made = student.student_edition(nbformat.v4.new_notebook(cells=cells)).cells
    nbformat.validate(nbformat.v4.new_notebook(cells=made))
    picture, prose, _, caption, last = (cell.source for cell in made)
    assert picture == "![A line.](_assets/a.svg)\n\n**Figure 1.** It rises."
    assert caption == "**Figure 2.** It falls." and last == "In the table above and $$x$$ (eq-x), Eq. {eq}`eq-x`."
    for shown in (
        "By … dB, 40.1 in print. Figure 2 and the table below;", "*… stands for",
        "[What greedy training means](10_greedy.ipynb), *About the data and the numbers* in the book, ",
        "([Ying and Sheng, 2007](https://doi.org/10.1002/mrm.21245); [Ozturkler et al., 2022](https", "activations,",
        "see [Unrolled networks: physics and a CNN in turn](02_unrolled.ipynb), the claims, the book's table.",
    ):  # fmt: skip
        assert shown in prose, prose


def test_a_list_of_the_chapters_in_the_order_of_the_book_comes_first(tmp_path):
    (cell,) = student.start(chapters.discover(ROOT)).cells
    names = re.findall(r"\((\d\d_\w+)\.ipynb\)", cell.source)
    assert names.index("10_greedy") == 2 and sorted(names) == [path.stem for path in CHAPTERS]
    assert min([*names, student.START]) == student.START


def test_assertions_go_and_other_lines_stay():
    assert student.without_assertions("x = 1\nassert x, (\n    x\n)\nx + 1") == "x = 1\nx + 1"


def test_make_student_writes_beside_the_notebooks_and_keeps_what_a_student_wrote(tmp_path, capsys):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "book" / "_assets").mkdir(parents=True)
    (tmp_path / "book" / "_assets" / "drawing.svg").write_text("<svg/>")
    cells = [nbformat.v4.new_code_cell("1", metadata={"tags": ["solution"]})]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "notebooks" / "01_one.ipynb")
    assert run.main(["student"], tmp_path) == 0
    written = tmp_path / "student" / "01_one.ipynb"
    assert (tmp_path / "student" / "_assets" / "drawing.svg").read_text() == "<svg/>"
    assert code(nbformat.read(written, as_version=4)) == ["# Exercise 1: your code here\n"]
    written.write_text("mine")
    assert run.main(["student"], tmp_path) == 0
    assert written.read_text() == "mine" and "left alone" in capsys.readouterr().out
