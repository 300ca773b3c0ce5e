"""The scoreboard of the paper's claims, computed from the records each time the book is built."""

from functools import cache

import book_numbers
import book_records
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx import addnodes
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from gleam.records.intervals import FAILS, HOLDS, IN_PART, RULES, UNKNOWN
from gleam.records.scoreboard import COLUMNS, in_short, scoreboard, summary

_PLURALS = {HOLDS: "hold", IN_PART: "hold in part", FAILS: "do not hold", UNKNOWN: "cannot be told"}
LOGGER = logging.getLogger(__name__)


@cache  # three places show it, and records do not change while the book is built
def _board():
    return scoreboard(book_numbers.ARCHIVE, book_numbers.records_dir(), book_numbers.PUBLISHED)


class Scoreboard(SphinxDirective):
    """``{scoreboard}``: every claim with its cases, or with ``short`` one row each; ``caption``, ``name`` as usual."""

    option_spec = {  # noqa: RUF012 - docutils wants it like this
        "caption": directives.unchanged_required,
        "name": directives.unchanged_required,
        "short": directives.flag,
    }

    def run(self):
        """Return the table; records that do not belong together are a warning, which fails the build."""
        try:
            board = _board()
        except ValueError as error:
            LOGGER.warning("scoreboard: %s", error, location=self.get_location())
            return []
        table = _short(board) if "short" in self.options else _whole(board)
        inline, messages = self.parse_inline(self.options.get("caption", ""))
        table.insert(0, nodes.title("", "", *inline, *messages))
        self.set_source_info(table)
        self.add_name(table)
        return [table]


class Summary(SphinxDirective):
    """``{scoreboard-summary}``: how many of the paper's claims hold, and which, as a list."""

    def run(self):
        """Return the list."""
        board = _board()
        items = nodes.bullet_list()
        for verdict, claims in summary(board).items():
            named = [
                claim if claim[1].isupper() or claim[1] == "-" else claim[0].lower() + claim[1:] for claim in claims
            ]
            count = nodes.strong(text=f"{len(claims)} {_PLURALS[verdict]}")
            text = nodes.Text(f": {'; '.join(named)}.")
            items.extend([nodes.list_item("", nodes.paragraph("", "", count, text))] if claims else [])
        return [items]


class Rules(SphinxDirective):
    """``{scoreboard-rules}``: the rules by which verdicts are made, as a numbered list."""

    def run(self):
        """Return the list."""
        items = nodes.enumerated_list()
        for rule in RULES:
            inline, messages = self.parse_inline(rule)
            items.append(nodes.list_item("", nodes.paragraph("", "", *inline, *messages)))
        return [items]


def _short(board):
    rows = [
        book_records.row_of(
            [_link(claim, row["Where"]), nodes.strong(text=row["Verdict"]), nodes.Text(row["Trainings"])]
        )
        for claim, row in in_short(board).iterrows()
    ]
    return book_records.table_of(["Claim", "Verdict", "Trainings"], rows)


def _whole(board):
    header, rows = ["Case", "Paper", *COLUMNS, "Verdict"], []
    for claim, cases in board.groupby(level="Claim", sort=False):
        verdict, where, quantity = cases[["Verdict", "Where", "Quantity"]].iloc[-1]
        title = nodes.strong("", "", _link(claim, where), nodes.Text(f": {verdict} · {quantity}"))
        rows.append(book_records.block_of(len(header), title))
        for case, row in cases.droplevel("Claim").drop(index="together", errors="ignore").iterrows():
            rows.append(book_records.row_of([nodes.Text(text) for text in (case, *row[header[1:]])]))
    return book_records.table_of(header, rows)


def _link(text, chapter):
    """A link to a chapter, which Sphinx resolves as it does ``{doc}``."""
    inner = nodes.inline("", text)
    return addnodes.pending_xref(
        "", inner, refdomain="std", reftype="doc", reftarget=f"/chapters/{chapter}", refexplicit=True, refwarn=True
    )


def setup(app):
    """Register the directives."""
    app.add_directive("scoreboard", Scoreboard)
    app.add_directive("scoreboard-rules", Rules)
    app.add_directive("scoreboard-summary", Summary)
