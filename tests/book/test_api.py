"""The API reference: every public name is in it, and names in docstrings become links."""

import importlib
import pkgutil
import re
from pathlib import Path
from types import ModuleType, SimpleNamespace

import book_api
import pytest
from docutils import nodes
from sphinx.domains.python import ObjectEntry

import gleam

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ["gleam", *(f"gleam.{found.name}" for found in pkgutil.iter_modules(gleam.__path__) if found.ispkg)]
NAME = re.compile(r"^\.\. (?:(currentmodule)|auto\w+|py:data):: (\S+)$", re.MULTILINE)


def listed():
    """Dotted names that the pages document."""
    for page in sorted((ROOT / "book" / "api").glob("*.md")):
        module = ""
        for is_module, name in NAME.findall(page.read_text()):
            if is_module:
                module = name
            else:
                yield name if name.startswith("gleam.") else f"{module}.{name}"


LISTED = list(listed())


def test_every_listed_name_exists_and_is_listed_once():
    assert [name for name in LISTED if book_api.named(name) is None] == []
    homes = [book_api.identity(book_api.named(name)) or name for name in LISTED]
    assert sorted({str(home) for home in homes if homes.count(home) > 1}) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_in_the_reference(package):
    known = {book_api.identity(book_api.named(name)) for name in LISTED} - {None}
    constants = {name.rpartition(".")[2] for name in LISTED}
    module = importlib.import_module(package)
    for name in module.__all__:
        public = getattr(module, name)
        if not isinstance(public, ModuleType):
            is_known = book_api.identity(public) in known if book_api.identity(public) else name in constants
            assert is_known, name


def test_every_listed_function_and_class_has_a_docstring():
    assert [
        name for name in LISTED if book_api.identity(book_api.named(name)) and not book_api.named(name).__doc__
    ] == []


def test_names_on_the_page_of_tasks_are_in_the_reference_and_in_the_chapter_that_they_lead_to():
    for row in (ROOT / "book" / "tasks.md").read_text().splitlines():
        names = re.findall(r"\{py:obj\}`([\w.]+)`", row)
        assert [name for name in names if name not in LISTED and name.rpartition(".")[0] not in LISTED] == []
        for chapter in re.findall(r"chapters/(\w+)\)", row):
            code = (ROOT / "notebooks" / f"{chapter}.ipynb").read_text()
            words = [name.rpartition(".")[2] for name in names] + re.findall(r"command `([^`]+)`", row)
            assert any(word in code for word in words), f"{chapter} has none of {words}"


@pytest.fixture
def link():
    """What becomes of a reference to a name, in the docstring of `gleam.Fit`, the only one that is documented."""
    objects = {"gleam.Fit": ObjectEntry("api/training", "gleam.Fit", "class", False)}
    env = SimpleNamespace(get_domain=lambda _: SimpleNamespace(objects=objects))
    app = SimpleNamespace(builder=SimpleNamespace(get_relative_uri=lambda _, target: f"{target}.html"))

    def made(target):
        node = nodes.reference(refdomain="py", reftarget=target, refdoc="index")
        node.source, node.line = "fit.py:docstring of gleam.Fit", 1
        return book_api.link_alias(app, env, node, nodes.literal(text=target))

    return made


@pytest.mark.parametrize("name", ["gleam.training.Fit", "gleam.training.checkpoints.Fit", "Fit", "training.Fit"])
def test_an_alias_leads_to_where_the_name_is_documented(link, name):
    assert link(name)["refuri"] == "api/training.html#gleam.Fit"


@pytest.mark.parametrize("name", ["gleam.files.digest", "ValueError", "torch.optim", "gleam.cost.Cost.peak_bytes"])
def test_what_exists_but_is_not_in_the_reference_is_plain_text(link, name):
    assert isinstance(link(name), nodes.literal)


def test_a_name_that_does_not_exist_stays_unresolved_which_is_a_warning(link):
    assert link("gleam.training.Fitt") is None
