"""The book's own Sphinx extension: numbers from records, formulas offline, honest buttons, no picture without words.

- Directive ``{scoreboard}``: see `book_claims`.
- Names become links to the reference: in docstrings see `book_api`, in code `book_code`.
- Role ``{record}`experiment/method:value:format``` and directive ``{record-table}``: see `book_records`.
- MathJax is copied from the package sphinx-mathjax-offline, only the files that the pages load (2 MB instead of 24).
- Buttons that lead to the repository are shown where `_config.yml` says its address. Those of a chapter point to
  notebooks/, not to the executed copy in book/chapters/.
- A picture opens in its own size.
- An image without alternative text is a warning, which the build turns into a failure.
"""

import importlib.util
import re
import shutil
from pathlib import Path

import book_api
import book_claims
import book_code
import book_records
from docutils import nodes
from sphinx.util import logging

LOGGER = logging.getLogger(__name__)
MATHJAX_FILES = ("tex-chtml-full.js", "output/chtml/fonts/woff-v2/*.woff")


def copy_mathjax(app):
    """Put the part of MathJax that pages need into the output."""
    if app.builder.format != "html":
        return
    package = importlib.util.find_spec("sphinx-mathjax-offline")
    source = Path(package.submodule_search_locations[0]) / "static" / "mathjax"
    for pattern in MATHJAX_FILES:
        for path in source.glob(pattern):
            target = Path(app.outdir) / "_static" / "mathjax" / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def show_buttons(app, config):
    """Show the buttons that lead to the repository if its address is known, else none."""
    options = config.html_theme_options
    known = bool(options.get("repository_url"))
    options |= {f"use_{button}_button": known for button in ("repository", "source", "edit_page", "issues")}
    if not known:
        options["launch_buttons"] = {}


def point_buttons_to_notebooks(app, pagename, templatename, context, doctree):
    """Rewrite the addresses of a chapter's buttons from the generated copy to the clean notebook."""
    if pagename.startswith("chapters/"):
        _rewrite(context.get("header_buttons", []))


def _rewrite(buttons):
    for button in buttons:
        if "url" in button:
            button["url"] = re.sub(r"book(/|%2F)chapters(/|%2F)", r"notebooks\2", button["url"])
        _rewrite(button.get("buttons", []))


def drop_roles(app, pagename, templatename, context, doctree):
    """Remove the roles of lists of references: docutils gives them ones that screen readers reject."""
    for role in (' role="list"', ' role="doc-biblioentry"'):
        context["body"] = context.get("body", "").replace(role, "")


def demand_alt_text(app, doctree, docname):
    """Warn about each image that has no alternative text, also inside the HTML output of a cell."""
    for image in doctree.findall(nodes.image):
        if not image.get("alt", "").strip():
            LOGGER.warning(
                "image without alternative text: %s", image["uri"], location=image, type="gleam", subtype="alt"
            )
    for raw in doctree.findall(nodes.raw):
        if re.search(r"<img\b(?![^>]*\balt=)", raw.astext(), re.IGNORECASE):
            LOGGER.warning("<img> without alt in HTML output", location=raw, type="gleam", subtype="alt")


def link_pictures(app, doctree, docname):
    """Let each picture of a chapter open in its own size."""
    if app.builder.format != "html":
        return
    for image in list(doctree.findall(nodes.image)):
        if image["uri"] in app.env.images and not isinstance(image.parent, nodes.reference):
            address = "../" * docname.count("/") + f"_images/{app.env.images[image['uri']][1]}"
            link = nodes.reference("", "", refuri=address, classes=["enlarge"], reftitle="Enlarge")
            image.replace_self(link)
            link.append(image)


def setup(app):
    """Connect everything; called by Sphinx."""
    book_records.setup(app)
    book_claims.setup(app)
    book_api.setup(app)
    book_code.setup(app)
    app.connect("builder-inited", copy_mathjax)
    app.connect("config-inited", show_buttons)
    app.connect("html-page-context", point_buttons_to_notebooks, priority=900)
    app.connect("html-page-context", drop_roles)
    app.connect("doctree-resolved", demand_alt_text)
    app.connect("doctree-resolved", link_pictures)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
