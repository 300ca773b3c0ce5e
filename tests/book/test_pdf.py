"""The PDF of the book, printed from a tiny site by a real browser."""

import base64
import io
import shutil
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("websocket")
pypdf = pytest.importorskip("pypdf")
browser_module = pytest.importorskip("browser")
pdf = pytest.importorskip("pdf")
ROOT = Path(__file__).resolve().parents[2]
NAVIGATION = """<nav class="bd-docs-nav"><p class="caption">Chapters</p>
<a class="reference internal" href="{up}chapters/one.html">One</a>
<a class="reference internal" href="{up}two.html">Two</a></nav>"""
PAGES = {
    "index": """<section id="top"><h1>The Book</h1>
        <a href="chapters/one.html#same">inside</a> <a href="https://example.org/x">out</a></section>""",
    "chapters/one": """<section id="top"><h1>First</h1>
        <a href="#same">same</a> <a href="../file.txt">file</a> {slider}<h2 id="same">Part</h2></section>""",
    "two": """<section id="top"><h1>Second</h1><a href="#same">same</a><h2 id="same">Last part</h2>{table}</section>""",
}


def frame(i):
    """A picture of its own colour, as a slider holds it."""
    data = io.BytesIO()
    Image.new("RGB", (40, 30), (40 * i, 0, 0)).save(data, "PNG")
    kind = "gleam-frame gleam-print" if i in (0, 2, 3, 5) else "gleam-frame"
    source = base64.b64encode(data.getvalue()).decode()
    return f'<img class="{kind}" alt="x" src="data:image/png;base64,{source}"{" hidden" if i else ""}>'


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """The PDF as pypdf reads it, and how far its wide table was shrunk."""
    program = browser_module.find_chromium()
    if program is None:
        pytest.skip("Chromium is not installed")
    site = tmp_path_factory.mktemp("site")
    shutil.copy(ROOT / "book" / "_assets" / "gleam.css", site)
    slider = f'<figure class="gleam-slider"><div class="gleam-frames">{"".join(map(frame, range(6)))}</div></figure>'
    table = f"<table><tr>{'<td>unbreakable</td>' * 20}</tr></table>"
    for name, article in PAGES.items():
        page, up = site / f"{name}.html", "../" * name.count("/")
        page.parent.mkdir(exist_ok=True)
        article = article.format(slider=slider, table=table)
        page.write_text(
            f'<!doctype html><head><link rel="stylesheet" href="{up}gleam.css"></head><body>{NAVIGATION.format(up=up)}'
            f'<div class="bd-article-container"><article class="bd-article">{article}</article></div></body>'
        )
    with browser_module.Browser(program) as browser:
        data = pdf.print_book(site, browser)
        return pypdf.PdfReader(io.BytesIO(data)), float(browser.run("document.querySelector('table').style.zoom"))


def links(page):
    """Where the links of a page lead: names of places in the PDF, and addresses."""
    found = [annotation.get_object() for annotation in page["/Annots"]]
    return [link["/Dest"].lstrip("/") if "/Dest" in link else link["/A"]["/URI"] for link in found]


def test_pages_follow_the_table_of_contents_which_has_their_numbers(printed):
    texts = [page.extract_text() for page in printed[0].pages]
    assert len(texts) == 4
    for word, text in zip(("Chapters", "The Book", "First", "Second"), texts, strict=True):
        assert word in text
    contents = "".join(texts[0].split())
    assert all(line in contents for line in ("TheBook2", "First3", "Second4"))
    titles = [entry.title for entry in printed[0].outline if not isinstance(entry, list)]
    assert titles == ["The Book", "First", "Second"]


def test_links_lead_to_the_page_inside_the_file(printed):
    reader, _ = printed
    number = {
        name.lstrip("/"): reader.get_destination_page_number(to) for name, to in reader.named_destinations.items()
    }
    inside, outside = links(reader.pages[1])
    assert number[inside] == 2 and outside == "https://example.org/x"
    (first,), (second,) = links(reader.pages[2]), links(reader.pages[3])  # the link to a file is gone
    assert number[first] == 2 and number[second] == 3, "anchors of one name on two pages"


def test_a_slider_is_shown_as_four_frames_and_a_wide_table_is_shrunk(printed):
    reader, zoom = printed
    assert len(reader.pages[2].images) == 4
    assert 0.1 < zoom < 1


def test_blank_pages_are_found():
    writer, data = pypdf.PdfWriter(), io.BytesIO()
    writer.add_blank_page(100, 100)
    writer.write(data)
    assert pdf.blank_pages(data.getvalue()) == [1]


def test_without_chromium_or_a_book_one_sentence_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pdf, "find_chromium", lambda: None)
    assert pdf.main(tmp_path, tmp_path / "book.pdf") == 1
    assert "Chromium is needed" in capsys.readouterr().err
    monkeypatch.setattr(pdf, "find_chromium", lambda: "chromium")
    assert pdf.main(tmp_path, tmp_path / "book.pdf") == 1
    assert "holds no book" in capsys.readouterr().err
