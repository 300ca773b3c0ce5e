"""Print the pages of the built book into one PDF with Chromium, as ``make pdf`` does: ``pdf.py FOLDER FILE``.

The pages become one document, so that links from page to page stay inside of it. It is printed twice: the second time
with the page numbers in the table of contents.
"""

import base64
import io
import sys
import time
from pathlib import Path

from browser import Browser, find_chromium, holds_book, leads_to, serve
from pypdf import PdfReader

from gleam.files import written_whole

HERE = Path(__file__).parent
STYLE, SCRIPT = (HERE / "pdf.css").read_text(), (HERE / "pdf.js").read_text()
MM = 96 / 25.4  # CSS pixels
SCALE = 0.8
WIDTH = round((210 - 2 * 16) * MM / SCALE)  # of A4 without its margins


def print_book(site, browser):
    """The PDF of the pages in a folder.

    Parameters
    ----------
    site : Path
        Folder of the built pages.
    browser : Browser

    Returns
    -------
    bytes
    """
    with serve(site) as base:
        browser.resize(WIDTH)
        browser.prefer("light", media="print")
        browser.open(base + (leads_to(site / "index.html") or "index.html"))
        browser.run(SCRIPT)
        browser.run(f"document.head.appendChild(document.createElement('style')).textContent = {STYLE!r}")
        browser.run("paper.join()")
        browser.run("paper.fit()")  # wide tables, at the width of the paper
        # a first print tells on which page each part begins
        numbers = page_numbers(_print(browser))
        browser.run(f"paper.number({numbers})")
        return _print(browser)


def page_numbers(pdf):
    """Number of the page that each anchor is on."""
    reader = PdfReader(io.BytesIO(pdf))
    places = reader.named_destinations.items()
    return {name.lstrip("/"): reader.get_destination_page_number(place) + 1 for name, place in places}


def blank_pages(pdf):
    """Numbers of pages with neither text, beyond the page number, nor a picture."""
    pages = enumerate(PdfReader(io.BytesIO(pdf)).pages, 1)
    return [n for n, page in pages if page.extract_text().strip() in ("", str(n)) and not page.images.keys()]


def _print(browser):
    options = {"generateTaggedPDF": True, "generateDocumentOutline": True, "printBackground": True}
    stream = browser.send(
        "Page.printToPDF", **options, preferCSSPageSize=True, scale=SCALE, transferMode="ReturnAsStream"
    )["stream"]
    pieces, end = [], False
    while not end:
        piece = browser.send("IO.read", handle=stream, size=2**22)
        pieces.append(base64.b64decode(piece["data"]) if piece["base64Encoded"] else piece["data"].encode())
        end = piece["eof"]
    browser.send("IO.close", handle=stream)
    return b"".join(pieces)


def main(site, target):
    """Write the PDF of the pages in a folder; the exit status."""
    program, start = find_chromium(), time.monotonic()
    if program is None:
        print("pdf: Chromium is needed, and there is none (on Debian: apt install chromium)", file=sys.stderr)
        return 1
    if not holds_book(site, "pdf"):
        return 1
    with Browser(program, timeout=600) as browser:
        pdf = print_book(site, browser)
    if blank := blank_pages(pdf):
        print(f"pdf: blank pages: {', '.join(map(str, blank))}", file=sys.stderr)
        return 1
    with written_whole(target) as temporary:
        temporary.write_bytes(pdf)
    n_pages = len(PdfReader(io.BytesIO(pdf)).pages)
    print(f"pdf: {n_pages} pages, {len(pdf) / 1e6:.0f} MB, done in {time.monotonic() - start:.0f} s\nOpen {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
