"""The book's settings: an unknown key would be ignored without a word, so look for one here."""

import re
import shutil
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace

import gleam_book
import nbformat
import pytest
import yaml
from driver import book
from jupyter_book.config import get_final_config, validate_yaml

ROOT = Path(__file__).resolve().parents[2]
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text())
TOC = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text())


def test_every_key_is_known_to_jupyter_book():
    validate_yaml(CONFIG, raise_on_errors=True)
    known = yaml.safe_load((files("jupyter_book") / "default_config.yml").read_text())
    for key, value in CONFIG.items():
        assert key in known, f"unknown key '{key}' in _config.yml"
        if isinstance(value, dict) and key != "sphinx":
            assert set(value) <= set(known[key]), f"unknown key under '{key}' in _config.yml"


def test_files_named_in_the_settings_exist():
    sphinx = CONFIG["sphinx"]["config"]
    book = ROOT / "book"
    names = [CONFIG["logo"], CONFIG["html"]["favicon"], *sphinx["bibtex_bibfiles"], *sphinx["html_static_path"]]
    names += [f"_assets/{name}" for name in sphinx["html_css_files"]]
    assert [name for name in names if not (book / name).exists()] == []


def test_pages_need_no_server_and_no_network():
    sphinx = CONFIG["sphinx"]["config"]
    assert {"sphinx_thebe", "sphinx.ext.intersphinx"}.isdisjoint(sphinx["extensions"])
    assert not sphinx["mathjax_path"].startswith("http")
    assert sphinx["nb_ipywidgets_js"] == {}


def test_contents_name_existing_pages():
    entries = [entry for part in TOC["parts"] for entry in part["chapters"]]
    pages = [TOC["root"], *(entry["file"] for entry in entries)]
    chapters = {f"chapters/{path.stem}" for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")}
    assert chapters <= set(pages)  # those made by a build
    assert [page for page in set(pages) - chapters if not (ROOT / "book" / f"{page}.md").is_file()] == []


def test_every_cited_work_is_in_the_references():
    keys = set(re.findall(r"^@\w+\{(\w+),", (ROOT / "book" / "references.bib").read_text(), re.MULTILINE))
    texts = [*(ROOT / "book").glob("*.md"), *(ROOT / "notebooks").glob("*.ipynb")]
    cited = {
        key.strip()
        for t in texts
        for group in re.findall(r"\{cite\w*(?::\w+)?\}`([^`]+)`", t.read_text())
        for key in group.split(",")
    }
    assert cited
    assert cited - keys == set()


def settings(url):
    """Sphinx's settings as Jupyter Book makes them where the repository has this address."""
    config = CONFIG | {"repository": CONFIG["repository"] | {"url": url}}
    made, _ = get_final_config(user_yaml=config, cli_config={"latex_individualpages": False})
    made = SimpleNamespace(**made)
    gleam_book.show_buttons(None, made)
    return made.html_theme_options


@pytest.mark.parametrize("url", ["", None, "https://example.org/someone/book"])
def test_buttons_are_shown_where_the_repository_has_an_address(url):
    options = settings(url)
    assert options["search_bar_text"] == CONFIG["sphinx"]["config"]["html_theme_options"]["search_bar_text"]
    buttons = {key: value for key, value in options.items() if re.fullmatch(r"use_(?!fullscreen).*_button", key)}
    assert len(buttons) == 4 and set(buttons.values()) == {bool(url)}
    assert bool(options["launch_buttons"]) == bool(url)


@pytest.fixture
def small_book(tmp_path):
    """Builds a chapter and a page with the real settings, but for the address: (folder of the pages, their links)."""

    def build(url):
        (tmp_path / "book" / "chapters").mkdir(parents=True)
        for name in ("_assets", "_ext"):
            shutil.copytree(ROOT / "book" / name, tmp_path / "book" / name)
        shutil.copy(ROOT / "book" / "references.bib", tmp_path / "book")
        config = CONFIG | {"repository": CONFIG["repository"] | {"url": url}}
        (tmp_path / "_config.yml").write_text(yaml.safe_dump(config))
        chapters = ["chapters/01_problem", "page"]
        (tmp_path / "book" / "_toc.yml").write_text(
            yaml.safe_dump({"format": "jb-book", "root": "intro", "chapters": [{"file": name} for name in chapters]})
        )
        for name in ("intro", "page"):
            (tmp_path / "book" / f"{name}.md").write_text(f"# The {name}\n")
        cells = [nbformat.v4.new_markdown_cell("# A chapter", id="a")]
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
        nbformat.write(notebook, tmp_path / "book" / "chapters" / "01_problem.ipynb")
        log = book._jupyter_book(tmp_path, tmp_path / "next", "quick")
        assert log == ""
        pages = tmp_path / "next" / "_build" / "html"
        return {page: _links(pages / f"{page}.html") for page in ("intro", *chapters)}

    return build


def _links(page):
    return set(re.findall(r'href="(https?://[^"]*)"', page.read_text()))


@pytest.mark.slow
def test_buttons_lead_to_the_clean_notebook_and_the_page(small_book):
    url = "https://github.com/someone/book"
    links = small_book(url)
    issue = f"{url}/issues/new?title=Issue%20on%20page%20%2F{{}}.html&body=Your%20issue%20content%20here."
    for page, source in (("chapters/01_problem", "notebooks/01_problem.ipynb"), ("page", "book/page.md")):
        wanted = {url, f"{url}/blob/main/{source}?plain=1", f"{url}/edit/main/{source}", issue.format(page)}
        if source.endswith(".ipynb"):
            wanted.add(f"https://mybinder.org/v2/gh/someone/book/main?urlpath=lab/tree/{source}")
        assert {link for link in links[page] if "someone" in link} == wanted


@pytest.mark.slow
def test_pages_lead_nowhere_without_an_address(small_book):
    for page, links in small_book("").items():
        assert {link for link in links if "github.com" in link or "mybinder" in link} == set(), page
