"""Names in code lead to the reference: ``gleam.fit`` in a cell or within a sentence, or a name imported from gleam."""

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
INLINE = re.compile(r'(<code class="docutils literal notranslate"><span class="pre">)(gleam(?:\.\w+)+)')


def link_code(app, pagename, templatename, context, doctree):
    """Link names in the code of a page; its blocks of Python share what they import."""
    if pagename.startswith("_modules/"):
        return
    meanings = {"gleam": "gleam"}

    def link(parts, dot):
        return _link(app, pagename, parts.split(dot), dot, meanings)

    def link_block(block):
        meanings.update(_imported(html.unescape(re.sub("<[^>]+>", "", block[2]))))
        return block[1] + CHAIN.sub(lambda chain: link(chain[0], DOT), block[2]) + block[3]

    body = INLINE.sub(lambda code: code[1] + link(code[2], "."), context.get("body", ""))
    context["body"] = BLOCK.sub(link_block, body)


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


def _link(app, pagename, parts, dot, meanings):
    """The names of a chain such as ``gleam.fit``, joined by `dot`; the longest part in the reference is a link."""
    first, *rest = (re.sub("<[^>]+>", "", part) for part in parts)
    for n in range(len(parts), 0, -1) if meanings.get(first) else ():
        if found := book_api.documented(app.env, ".".join([meanings[first], *rest[: n - 1]])):
            name, entry = found
            address = f"{app.builder.get_relative_uri(pagename, entry.docname)}#{entry.node_id}"
            link = f'<a class="gleam-code" href="{address}" title="{name}">{dot.join(parts[:n])}</a>'
            return dot.join([link, *parts[n:]])
    return dot.join(parts)


def setup(app):
    """Connect; called by gleam_book."""
    app.connect("html-page-context", link_code)
