"""Numbers in prose, and tables, that come from the records of runs; where there is none, the page says so."""

import shutil
from pathlib import Path

import book_numbers
from book_numbers import PUBLISHED, look_up, look_up_archived, look_up_published
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.directives.patches import Figure
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective, SphinxRole

from gleam import records

LOGGER = logging.getLogger(__name__)
MISSING = "not run in this build"
NONE_ARCHIVED = "not run yet"


class RecordRole(SphinxRole):
    """``{record}`mridata_pgd_R12/gleam:psnr:.1f```, or a ratio or difference of two such values; likewise
    ``{archived}`...``` of the archived full-scale run, and the paper's own, ``{published}`I/12/GLEAM:psnr:.2f```."""

    def __init__(self, look_up, missing=MISSING):
        super().__init__()
        self.look_up, self.missing = look_up, missing

    def run(self):
        """Return the value as text; what cannot be understood is a warning, which fails the build."""
        try:
            text = book_numbers.evaluate(self.text, self.look_up)
        except (ValueError, TypeError, KeyError, ZeroDivisionError) as error:
            LOGGER.warning("record role '%s': %s", self.text, error, location=self.get_location())
            return [], []
        if text is None:
            return [nodes.inline("", self.missing, classes=["records-missing"])], []
        return [nodes.inline("", text, classes=["record"])], []


class RecordTable(SphinxDirective):
    """``{record-table} experiment``: its methods as gleam.records.table lays them out.

    Options: ``caption`` and ``name`` as for a figure; ``methods`` and ``columns`` choose and order, by commas;
    ``over`` is slices or subjects; ``paper`` (``table=I, acceleration=12``) puts the paper's rows above ours, and
    ``archived`` the full-scale run between them. What the caption says is followed by a sentence on the test data,
    phantoms or scans, and one on the archived run.
    """

    required_arguments = 1
    option_spec = {  # noqa: RUF012 - docutils wants it like this
        "caption": directives.unchanged_required,
        "name": directives.unchanged_required,
        "methods": directives.unchanged_required,
        "columns": directives.unchanged_required,
        "over": lambda value: directives.choice(value, ("slices", "subjects")),
        "paper": directives.unchanged_required,
        "archived": directives.flag,
    }

    def run(self):
        """Return a table; a block of which nothing was run says so."""
        try:
            found = self._chosen(records.load_experiment(book_numbers.records_dir(), self.arguments[0]))
            archived = self._archived()
            table = _table(*self._content(found, archived))
        except (ValueError, KeyError) as error:
            LOGGER.warning("record-table %s: %s", self.arguments[0], error, location=self.get_location())
            return []
        sentences = [self.options.get("caption", ""), _data_sentence(found), records.archive_caption(archived or {})]
        caption = " ".join(sentence for sentence in sentences if sentence)
        if caption:
            inline, messages = self.parse_inline(caption)
            table.insert(0, nodes.title("", "", *inline, *messages))
        self.set_source_info(table)
        self.add_name(table)
        return [table]

    def _chosen(self, found):
        if "methods" not in self.options:
            return found
        return {name: found[name] for name in _names(self.options["methods"]) if name in found}

    def _archived(self):
        """The archived run, None if the table is not asked to show it."""
        return (
            self._chosen(records.archived(book_numbers.ARCHIVE, self.arguments[0]))
            if "archived" in self.options
            else None
        )

    def _content(self, found, archived):
        columns = _names(self.options.get("columns", ""))
        metrics = [*records.METRICS, *(["ssim_object"] if "SSIM of the object" in columns else [])]
        over = self.options.get("over", "slices, subjects").split(", ")
        frame = records.table(found, self._paper(), archived, over=over, metrics=metrics)
        return records.table_rows(frame[columns] if columns else frame)

    def _paper(self):
        """The paper's rows, in the order of ``methods``; None if the table is not asked to show them."""
        if "paper" not in self.options:
            return None
        where = dict(part.strip().split("=") for part in self.options["paper"].split(","))
        where = {key: int(value) if value.isdigit() else value for key, value in where.items()}
        rows = records.published(PUBLISHED, **where)
        if "methods" not in self.options:
            return rows
        wanted = [name for name in _names(self.options["methods"]) if name in set(rows["method"])]
        return rows.set_index("method").loc[wanted].reset_index()


class RecordFigure(Figure):
    """``{record-figure} experiment/picture``: a PNG that a chapter saved beside its records; options as for a figure.

    The picture goes into book/chapters/, which is generated; where there is none, a picture that says so is shown.
    """

    def run(self):
        """Return the figure."""
        source = book_numbers.records_dir() / f"{self.arguments[0]}.png"
        found = records.load_experiment(source.parent.parent, source.parent.name)
        if found and self.content:  # the content is the caption
            self.content[-1] += f" {_data_sentence(found)}"
        self.arguments[0] = "/_assets/not-run.svg"
        if source.is_file():
            target = (
                Path(self.state.document.settings.env.srcdir)
                / "chapters"
                / "figures"
                / f"{source.parent.name}-{source.name}"
            )
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
            self.arguments[0] = f"/chapters/figures/{target.name}"
        return super().run()


def _data_sentence(found):
    sources = {record.source for record in found.values()} - {""}
    return f"Test data: {min(sources)}." if len(sources) == 1 else ""


def _names(text):
    return [name.strip() for name in text.split(",") if name.strip()]


def _table(header, rows):
    def texts(row):
        return [nodes.Text(text) for text in row]

    return table_of(
        header,
        [row_of(texts(row)) if len(row) > 1 else block_of(len(header), nodes.strong(text=row[0])) for row in rows],
    )


def table_of(header, rows):
    """A table of docutils with a row of texts as its head and rows of nodes as its body."""
    group = nodes.tgroup(cols=len(header))
    group.extend(nodes.colspec(colwidth=1) for _ in header)
    head, body = nodes.thead(), nodes.tbody()
    head.append(row_of([nodes.Text(text) for text in header]))
    body.extend(rows)
    group.extend([head, body])
    return nodes.table("", group, classes=["records"])


def row_of(contents):
    """A row with one inline node in each cell."""
    row = nodes.row()
    row.extend(nodes.entry("", nodes.paragraph("", "", content)) for content in contents)
    return row


def block_of(n_columns, content):
    """A row with the name of a block, over all columns."""
    return nodes.row("", nodes.entry("", nodes.paragraph("", "", content), morecols=n_columns - 1))


def setup(app):
    """Register the role and the directives."""
    app.add_role("record", RecordRole(look_up))
    app.add_role("archived", RecordRole(look_up_archived, NONE_ARCHIVED))
    app.add_role("published", RecordRole(look_up_published))
    app.add_directive("record-table", RecordTable)
    app.add_directive("record-figure", RecordFigure)
