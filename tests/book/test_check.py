"""The check of the built book finds each kind of fault, on tiny pages in a real browser."""

import base64
import io
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest
from PIL import Image

from gleam.records.canvas import Figure

pytest.importorskip("websocket")
browser_module = pytest.importorskip("browser")
check = pytest.importorskip("check")
ROOT = Path(__file__).resolve().parents[2]
SEARCH = '<ul id="search-results"><li>found</li></ul>'
FRAME = "this.parentElement.querySelector('img').src = '{}.svg?' + this.value"
SLIDER = '<figure><img alt="x" src="a.svg"><input type="range" max="2" value="0" aria-label="x" oninput="{}"></figure>'


@pytest.fixture(scope="module")
def browser():
    program = browser_module.find_chromium()
    if program is None:
        pytest.skip("Chromium is not installed")
    with browser_module.Browser(program) as opened:
        yield opened


@pytest.fixture(scope="module")
def faults(tmp_path_factory, browser):
    """A function of the content of index.html to the faults of a site with this page and a search page."""
    site = tmp_path_factory.mktemp("site")
    for name, size in (("a", 12), ("small", 8)):
        (site / f"{name}.svg").write_text(
            '<svg xmlns="http://www.w3.org/2000/svg" width="300" height="20" viewBox="0 0 300 20">'
            f'<text font-size="{size}" y="15">words</text></svg>'
        )

    def found(content, search=SEARCH):
        for name, body in (("index.html", content), ("search.html", search)):
            head = '<!doctype html><html lang="en"><head><title>Page</title><link rel="icon" href="data:,"></head>'
            (site / name).write_text(f"{head}<body><article><h1>Page</h1>{body}</article></body></html>")
        return check.check(site, browser)

    return found


def picture(points):
    """A PNG of gleam that is shown as one CSS pixel per point."""
    with matplotlib.rc_context({"font.size": points, "axes.titlesize": points}):
        figure = Figure(figsize=(4, 1))
        figure.subplots().set_title("words")
    data = figure.png(72)
    width = Image.open(io.BytesIO(data)).width
    return f'<img alt="x" width="{width}" src="data:image/png;base64,{base64.b64encode(data).decode()}">'


GOOD = [
    '<p>Words, and <a href="#there">a link</a>.</p><p id="there">There.</p><a href="search.html">Search</a>',
    '<p><a href="https://elsewhere.example/">a link to another host that nothing loads</a></p>',
    '<img alt="a picture" src="a.svg">',
    SLIDER.format(FRAME.format("a")),
    '<div style="overflow-x: auto" tabindex="0"><div style="width: 900px">a wide table that scrolls</div></div>',
    picture(11.5),
]
BAD = {
    "script error: ReferenceError": "<script>undefined_function()</script>",
    "request to another host: https://elsewhere": '<script src="https://elsewhere.example/x.js"></script>',
    "px wider than a phone": '<div style="width: 900px">wide</div>',
    "text of 8.0 px at a width of 390 px: tiny words": '<img alt="tiny words" src="small.svg">',
    "text of 5.5 px at a width of 1440 px": picture(5.5),
    "axe: label (1)": '<input type="text">',
    "axe, dark: color-contrast (1)": (
        "<style>@media (prefers-color-scheme: dark) { p { color: #222; background: black } }</style><p>words</p>"
    ),
    "slider 1 does not change": SLIDER.format(""),
    "broken link: nowhere.html": '<a href="nowhere.html">a link</a>',
    "broken link: search.html#nowhere": '<a href="search.html#nowhere">a link</a>',
    "image without alternative text: nowhere.png": '<img src="nowhere.png">',
    "error: Failed to load resource": "",  # the same picture
}


@pytest.fixture(scope="module")
def found(faults):
    """Faults of a page that has all of them."""
    return faults("".join(BAD.values()))


def test_a_good_page_has_no_fault(faults):
    assert faults("".join(GOOD)) == {}


@pytest.mark.parametrize("expected", BAD)
def test_each_fault_is_found(found, expected):
    if expected.startswith("axe"):
        pytest.importorskip("axe_core_python")
    assert list(found) == ["index.html"]
    assert any(expected in fault for fault in found["index.html"]), found


def test_a_search_without_result_is_found(faults):
    assert faults("", search='<div id="search-results"><p class="search-summary">none</p></div>') == {
        "search.html": ["the search does not find 'greedy'", "the search does not find 'Poisson'"]
    }


def test_without_chromium_the_check_is_skipped_with_a_reason(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(check, "find_chromium", lambda: None)
    assert check.main(tmp_path) == 0
    assert "skipped, Chromium is not installed" in capsys.readouterr().out


def test_misspelled_words_are_found(tmp_path):
    pytest.importorskip("codespell_lib")
    page = tmp_path / "page.md"
    for text, status in (("GLEAM recieves k-space.\n", 65), ("GLEAM receives k-space.\n", 0)):  # codespell:ignore
        page.write_text(text)
        command = [sys.executable, "-m", "codespell_lib", "--toml", str(ROOT / "pyproject.toml"), str(page)]
        assert subprocess.run(command, capture_output=True, check=False).returncode == status


def test_a_fault_counts_if_it_is_there_a_second_time(capsys):
    found = iter([["half drawn", "broken"], ["broken"]])
    assert check._twice("a.html", lambda: next(found)) == ["broken"]
    assert "a.html\n  not there a second time: half drawn" in capsys.readouterr().err
    assert check._twice("a.html", iter([[]]).__next__) == [], "a page without faults is opened once"
