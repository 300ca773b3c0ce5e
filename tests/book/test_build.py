"""A small book is built for real: offline pages, and what must fail the build."""

import base64
import json
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from driver import book, chapters, pages

ROOT = Path(__file__).resolve().parents[2]
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


@pytest.fixture
def project(tmp_path):
    """A copy of the book with one chapter that has been run and one that has not."""
    shutil.copytree(ROOT / "book", tmp_path / "book", ignore=shutil.ignore_patterns("chapters", "__pycache__"))
    shutil.copy(ROOT / "_config.yml", tmp_path)
    shutil.copytree(ROOT / "data" / "published", tmp_path / "data" / "published")
    (tmp_path / "notebooks").mkdir()
    picture = tmp_path / "_work" / "quick" / "records" / "mridata_pgd_R12" / "compare.png"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(base64.b64decode(PIXEL))
    (tmp_path / "gleam").symlink_to(ROOT / "gleam")
    cells = [
        nbformat.v4.new_markdown_cell("# A chapter\n\nSee {numref}`fig-late` and {numref}`tab-late`."),
        nbformat.v4.new_code_cell("table('tab-late')", metadata={"mystnb": {"markdown_format": "myst"}}),
        nbformat.v4.new_code_cell("show()", metadata={"mystnb": {"figure": {"name": "fig-late", "caption": "A dot."}}}),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "notebooks" / "04_mridata.ipynb")
    others = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb") if "04" not in path.stem)
    for name in others:  # the pages link to them
        title = [nbformat.v4.new_markdown_cell(f"# {name}")]
        nbformat.write(nbformat.v4.new_notebook(cells=title), tmp_path / "notebooks" / f"{name}.ipynb")
    return tmp_path


def add_executed(project, metadata, output):
    """Put an executed chapter into the book."""
    cell = nbformat.v4.new_code_cell("show()", metadata=metadata, outputs=[output])
    cells = [nbformat.v4.new_markdown_cell("# Run"), cell]
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"language_info": {"name": "python"}})
    (project / "book" / "chapters").mkdir(exist_ok=True)
    nbformat.write(notebook, project / "book" / "chapters" / "01_problem.ipynb")


def image():
    return nbformat.v4.new_output("display_data", data={"image/png": PIXEL, "text/plain": "dot"})


@pytest.mark.slow
def test_pages_build_without_warning_and_load_nothing_from_the_network(project, capsys):
    pages.fill_in_missing(chapters.discover(project))
    add_executed(project, {"mystnb": {"image": {"alt": "a dot"}}}, image())
    assert book.build("quick", project), capsys.readouterr().err
    built = sorted((project / "_build" / "html").rglob("*.html"))
    assert len(built) > 5
    for page in built:
        loaded = re.findall(
            r"""<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=["'](?:https?:)?//[^"']*""", page.read_text()
        )
        assert loaded == [], page.name
    assert (
        "has not been run in this build" in (project / "_build" / "html" / "chapters" / "04_mridata.html").read_text()
    )
    assert (project / "_build" / "html" / "_static" / "mathjax" / "tex-chtml-full.js").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("output", "complaint"),
    [
        (image(), "without alternative text"),
        (nbformat.v4.new_output("display_data", data={"text/html": "<img src='x.png'>"}), "without alt"),
        (nbformat.v4.new_output("stream", name="stderr", text="UserWarning: look\n"), "stderr"),
    ],
)
def test_a_fault_on_a_page_fails_the_build_and_keeps_the_old_pages(project, capsys, output, complaint):
    old = project / "_build" / "html" / "index.html"
    old.parent.mkdir(parents=True)
    old.write_text("old")
    add_executed(project, {}, output)
    assert not book.build("quick", project)
    assert complaint in capsys.readouterr().err
    assert old.read_text() == "old"


def test_a_failed_build_is_reported_and_a_finished_one_is_not_repeated(project, monkeypatch, capsys):
    monkeypatch.setattr(book, "_jupyter_book", lambda *_: "intro.md:3: WARNING: nothing good\n")
    assert not book.build("quick", project)
    assert "nothing good" in capsys.readouterr().err

    def succeed(root, fresh, profile):
        (fresh / "_build" / "html").mkdir(parents=True)
        (fresh / "_build" / "html" / "index.html").write_text(json.dumps(profile))
        return ""

    monkeypatch.setattr(book, "_jupyter_book", succeed)
    assert book.build("quick", project)
    assert "done in" in capsys.readouterr().out
    assert book.build("quick", project)
    assert "book: up to date" in capsys.readouterr().out
    (project / "book" / "intro.md").write_text("# Changed")
    assert book.build("quick", project)
    assert "building" in capsys.readouterr().out
