"""The book's settings: an unknown key would be ignored without a word, so look for one here."""

from importlib.resources import files
from pathlib import Path

import yaml
from jupyter_book.config import validate_yaml

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
    import re

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
