"""Numbers in prose, and tables, that come from the records of runs; where there is none, the page says so.

A chapter writes its records with ``gleam.records.save`` to _work/<profile>/records/<experiment>/<method>.json; those of
full-scale runs are archived as results/<device>/<experiment>/<method>.json.
"""

import operator
import os
import shutil
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.directives.patches import Figure
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective, SphinxRole

from gleam import records
from gleam.cost.timing import median_ratio

LOGGER = logging.getLogger(__name__)
ROOT = Path(__file__).resolve().parents[2]
ARCHIVE = ROOT / "results"
PUBLISHED = ROOT / "data" / "published" / "tables.csv"
MISSING = "not run in this build"
NONE_ARCHIVED = "not run yet"
SCALED = {"peak_mb": ("peak_bytes", 1e6), "peak_gb": ("peak_bytes", 1e9)}


def records_dir():
    """Folder of the records that this build shows; the driver names the profile in GLEAM_PROFILE."""
    return ROOT / "_work" / os.environ.get("GLEAM_PROFILE", "quick") / "records"


def look_up(reference):
    """Value of ``experiment/method:name``; None if there is no such record, ValueError if it has no such value.

    Names are those of ``Record.value``; a score with ``_sd`` or ``_sd_subjects`` appended is its spread; ``peak_mb``
    and ``peak_gb`` are scaled; a dotted path such as ``settings.n_steps`` goes into the record.
    """
    experiment, method, name = _parts(reference)
    path = records_dir() / experiment / f"{records.slug(method)}.json"
    return _of_record(records.load(path), name) if path.is_file() else None


def look_up_archived(reference):
    """Like :func:`look_up`, from the archived full-scale run; None also for what an unfinished run has not measured."""
    experiment, method, name = _parts(reference)
    found = {records.slug(m): record for m, record in records.archived(ARCHIVE, experiment).items()}
    record = found.get(records.slug(method))
    if record is None:
        return None
    is_whole = record.scores and record.cost
    return _of_record(record, name) if is_whole else _value(record, name)


def _parts(reference):
    where, _, name = reference.strip().partition(":")
    experiment, _, method = where.partition("/")
    if not (experiment and method and name):
        raise ValueError(f"'{reference}' is not of the form experiment/method:name")
    return experiment, method, name


def _of_record(record, name):
    value = _value(record, name)
    if value is None:
        raise ValueError(f"the record {record.experiment}/{record.method} has no value '{name}'")
    return value


def _value(record, name):
    for ending, over in (("_sd_subjects", "subjects"), ("_sd", "slices")):
        if name.endswith(ending):
            return record.spread(name.removesuffix(ending), over)
    if name in SCALED:
        base, scale = SCALED[name]
        return None if record.value(base) is None else record.value(base) / scale
    if "." in name:
        part, *rest = name.split(".")
        value = getattr(record, part, None)
        for part in rest:
            value = value.get(part) if isinstance(value, dict) else None
        return value
    return record.value(name)


def look_up_published(reference):
    """Value of ``table/acceleration/method:column`` in the paper, such as ``I/12/GLEAM:psnr``; ValueError if none."""
    where, _, column = reference.strip().partition(":")
    table, acceleration, method = where.split("/")
    rows = records.published(PUBLISHED, table=table, acceleration=int(acceleration), method=method)
    return rows.iloc[0][column]


def evaluate(text, look_up=look_up):
    """Text for ``A:format``, ``A / B:format`` or ``A - B:format``, where A and B are references; None if not run.

    The format, after the last colon, is one of Python's format language. The ratio of two ``step_seconds`` is the
    median over rounds, as :func:`gleam.cost.paired_ratio` has it; the two must have been measured in one run.
    """
    expression, _, form = text.rpartition(":")
    for sign, combine in ((" / ", _ratio), (" - ", operator.sub)):
        if sign in expression:
            terms = [look_up(part) for part in expression.split(sign)]
            return None if None in terms else format(combine(*terms), form)
    value = look_up(expression)
    return None if value is None else format(value, form)


def _ratio(a, b):
    return median_ratio(a, b) if isinstance(a, list) else a / b


class RecordRole(SphinxRole):
    """``{record}`mridata_pgd_R12/gleam:psnr:.1f```, or a ratio or difference of two such values; likewise
    ``{archived}`...``` of the archived full-scale run, and the paper's own, ``{published}`I/12/GLEAM:psnr:.2f```."""

    def __init__(self, look_up, missing=MISSING):
        super().__init__()
        self.look_up, self.missing = look_up, missing

    def run(self):
        """Return the value as text; what cannot be understood is a warning, which fails the build."""
        try:
            text = evaluate(self.text, self.look_up)
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
            found = self._chosen(records.load_experiment(records_dir(), self.arguments[0]))
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
        return self._chosen(records.archived(ARCHIVE, self.arguments[0])) if "archived" in self.options else None

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
        source = records_dir() / f"{self.arguments[0]}.png"
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
