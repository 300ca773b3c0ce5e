"""Numbers of records and of the paper's tables, by a short reference; None where there is no record.

A chapter writes its records with ``gleam.records.save`` to _work/<profile>/records/<experiment>/<method>.json; those of
full-scale runs are archived as results/<device>/<experiment>/<method>.json.
"""

import operator
import os
from pathlib import Path

from gleam import records
from gleam.cost.timing import median_ratio

ROOT = Path(__file__).resolve().parents[2]
ARCHIVE = ROOT / "results"
PUBLISHED = ROOT / "data" / "published" / "tables.csv"
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
