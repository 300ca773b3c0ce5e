"""Check the pages of the built book in a browser, as ``make check-book`` does: ``check.py FOLDER``.

On every page: no script error, no request to another host, no horizontal scrolling on a phone, no text under 11 px in
figures, nothing that the accessibility checker axe calls serious or critical, sliders that obey the keyboard, links and
anchors that lead somewhere, alternative text for every image. And the search finds what is in the book.
"""

import base64
import io
import sys
import time
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

from browser import Browser, find_chromium, holds_book, leads_to, serve
from PIL import Image

from gleam.records.canvas import SMALLEST_TEXT as TEXT_KEY

PAGE_SCRIPT = (Path(__file__).parent / "page.js").read_text()
PHONE, DESKTOP = 390, 1440  # widths in CSS pixels
SMALLEST_TEXT = 11  # CSS pixels
SEARCHED = ("greedy", "Poisson")  # words that the book is sure to hold


def check(site, browser):
    """Faults of the pages in a folder.

    Parameters
    ----------
    site : Path
        Folder of the built pages.
    browser : Browser

    Returns
    -------
    dict
        Of page to its faults, each a short sentence; pages without a fault are left out.
    """
    pages = [path.relative_to(site).as_posix() for path in sorted(site.rglob("*.html"))]
    pages = [page for page in pages if not page.startswith(("_static/", "_modules/"))]  # sources are not ours to style
    pages = [page for page in pages if not leads_to(site / page)]
    with serve(site) as base:
        faults, links, anchors = {}, {}, {}
        for page in pages:
            faults[page] = _twice(page, lambda page=page: _faults_of_page(browser, base, page, site))
            links[page], anchors[page] = browser.run("check.links()"), set(browser.run("check.anchors()"))
        for page in pages:
            # after all pages, whose anchors are known by then
            faults[page] += _broken_links(links[page], base, anchors, site)
        of_search = _twice("search.html", lambda: _search_faults(browser, base))
        faults["search.html"] = faults.get("search.html", []) + of_search
    return {
        page: [fault.replace(base, "") for fault in dict.fromkeys(found)] for page, found in faults.items() if found
    }


def _twice(page, find):
    """Faults that `find` returns, and returns again: a busy machine may show a page half drawn."""
    first = find()
    again = find() if first else []
    for fault in first:
        if fault not in again:
            print(f"{page}\n  not there a second time: {fault}", file=sys.stderr)
    return [fault for fault in first if fault in again]


def _faults_of_page(browser, base, page, site):
    browser.resize(DESKTOP)
    browser.open(base + page)
    browser.run(PAGE_SCRIPT)
    browser.run("check.ready()")
    faults = [f"image without alternative text: {name}" for name in browser.run("check.withoutAlt()")]
    faults += _small_texts(browser, base, site, DESKTOP) + _idle_sliders(browser)
    if axe := find_spec("axe_core_python") and (files("axe_core_python") / "axe.min.js").read_text():
        browser.run(axe + "\n0;")  # 0: axe itself is no value that can be returned
        # contrast takes seconds, and all pages of the reference have the same few colours: one of them stands for all
        has_colours = not page.startswith("api/") or page == "api/training.html"
        options = "" if has_colours else "{rules: {'color-contrast': {enabled: false}}}"
        faults += [f"axe: {violation}" for violation in browser.run(f"check.axe({options})")]
        if has_colours:
            browser.prefer("dark")
            dark = browser.run("check.axe({runOnly: ['color-contrast']})")
            faults += [f"axe, dark: {violation}" for violation in dark]
            browser.prefer("light")  # for the pages to come
    browser.resize(PHONE)
    if over := browser.run("check.overflow()"):
        faults.append(f"{over['excess']} px wider than a phone: {' '.join(over['parts'])}")
    return faults + _small_texts(browser, base, site, PHONE) + _reported(browser.events, base)


def _small_texts(browser, base, site, width):
    """Pictures with text under 11 px: SVG as measured, PNG as gleam noted in the file (one without is not judged)."""
    sizes = [(picture["alt"], picture["size"]) for picture in browser.run("check.vectorTexts()")]
    for picture in browser.run("check.pictures()"):
        address = picture["src"]
        if address.startswith("data:image/png;base64,"):
            source = io.BytesIO(base64.b64decode(address.partition(",")[2]))
        elif address.startswith(base) and address.endswith(".png"):
            source = site / unquote(address.removeprefix(base))
        else:
            continue
        with Image.open(source) as image:
            if TEXT_KEY in image.info:
                points = float(image.info[TEXT_KEY])
                # points to pixels of the file, and these to pixels of the page
                size = points * image.info["dpi"][0] / 72 * picture["width"] / image.width
                sizes.append((picture["alt"], size))
    small = [(alt, size) for alt, size in sizes if size < SMALLEST_TEXT - 0.05]  # 0.05 for rounding
    return [f"text of {size:.1f} px at a width of {width} px: {alt[:60]}" for alt, size in small]


def _idle_sliders(browser):
    """Sliders whose picture stays the same when the right arrow is pressed."""
    faults = []
    for i in range(browser.run("check.sliders().length")):
        browser.run(f"check.sliders()[{i}].focus()")
        before = browser.run(f"check.shown({i})")
        browser.press("ArrowRight")
        if before == browser.run(f"check.shown({i})"):
            faults.append(f"slider {i + 1} does not change its picture when a key is pressed")
    return faults


def _reported(events, base):
    """Script errors and requests to other hosts among what the browser has reported."""
    faults = []
    for event in events:
        values = event.get("params", {})
        match event.get("method"):
            case "Runtime.exceptionThrown":
                details = values["exceptionDetails"]
                faults.append(f"script error: {details.get('exception', {}).get('description', details['text'])[:150]}")
            case "Log.entryAdded" if values["entry"]["level"] == "error":
                faults.append(f"error: {values['entry']['text']} {values['entry'].get('url', '')}")
            case "Network.requestWillBeSent" if not values["request"]["url"].startswith((base, "data:", "blob:")):
                faults.append(f"request to another host: {values['request']['url'][:100]}")
    return faults


def _broken_links(links, base, anchors, site):
    faults = []
    for link in links:
        address, anchor = urldefrag(link)
        if not address.startswith(base):
            continue
        page = unquote(urlsplit(address).path).lstrip("/") or "index.html"
        if not (site / page).is_file():
            faults.append(f"broken link: {page}")
        elif anchor and page in anchors and unquote(anchor) not in anchors[page]:
            faults.append(f"broken link: {page}#{anchor}")
    return faults


def _search_faults(browser, base):
    faults = []
    for word in SEARCHED:
        browser.open(f"{base}search.html?q={word}")
        browser.run(PAGE_SCRIPT)
        if not browser.run("check.results()"):
            faults.append(f"the search does not find '{word}'")
    return faults


def main(site):
    """Print the faults of the pages in a folder; the exit status."""
    program, start = find_chromium(), time.monotonic()
    if program is None:
        print("check-book: skipped, Chromium is not installed (on Debian: apt install chromium)")
        return 0
    if not find_spec("axe_core_python"):
        print("check-book: without accessibility, axe-core-python is not installed")
    if not holds_book(site, "check-book"):
        return 1
    with Browser(program) as browser:
        faults = check(site, browser)
    for page, found in faults.items():
        print(page, *found, sep="\n  ", file=sys.stderr)
    count = sum(map(len, faults.values()))
    print(f"check-book: {count or 'no'} {'fault' if count == 1 else 'faults'}, {time.monotonic() - start:.0f} s")
    return min(count, 1)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
