"""Names in code become links: ``gleam.fit`` in a cell, or a name imported from gleam, leads to the reference."""

import ast
import html
import re

import book_api

BLOCK = re.compile(
    r'(<div class="highlight-i?python3? notranslate"><div class="highlight"><pre>)(.*?)(</pre>)', re.DOTALL
)
DOT = '<span class="o">.</span>'
CHAIN = re.compile(
    rf'(?<!{re.escape(DOT)})<span class="nn?">\w+</span>(?:{re.escape(DOT)}<span class="n">\w+</span>)*'
    r'(?!<span class="o">=)'  # the name of an argument
)


def link_code(app, pagename, templatename, context, doctree):
    """Link names in the highlighted Python of a page; its blocks share what they import."""
    if pagename.startswith("_modules/"):
        return
    meanings = {"gleam": "gleam"}

    def linked(block):
        meanings.update(_imported(html.unescape(re.sub("<[^>]+>", "", block[2]))))
        return block[1] + CHAIN.sub(lambda chain: _link(app, pagename, chain[0], meanings), block[2]) + block[3]

    context["body"] = BLOCK.sub(linked, context.get("body", ""))


def _imported(code):
    """What names mean that some code imports from gleam; None for names that it assigns."""
    try:
        found = list(ast.walk(ast.parse(code)))
    except SyntaxError:  # an excerpt
        return {}
    meanings = {
        name.asname or name.name: f"{node.module}.{name.name}"
        for node in found
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "gleam"
        for name in node.names
    }
    assigned = [node.id for node in found if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
    assigned += [node.arg for node in found if isinstance(node, ast.arg)]
    return meanings | dict.fromkeys(assigned)


def _link(app, pagename, chain, meanings):
    """The highlighted names of a chain such as ``gleam.fit``, its longest part that is in the reference as a link."""
    parts = chain.split(DOT)
    first, *rest = (re.sub("<[^>]+>", "", part) for part in parts)
    if not meanings.get(first):
        return chain
    for n in range(len(parts), 0, -1):
        path = ".".join([meanings[first], *rest[: n - 1]])
        if found := book_api.documented(app.env, path):
            name, entry = found
            address = f"{app.builder.get_relative_uri(pagename, entry.docname)}#{entry.node_id}"
            link = f'<a class="gleam-code" href="{address}" title="{name}">{DOT.join(parts[:n])}</a>'
            return DOT.join([link, *parts[n:]])
    return chain


def setup(app):
    """Connect; called by gleam_book."""
    app.connect("html-page-context", link_code)
