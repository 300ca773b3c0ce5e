"""Tables of records, in three blocks: the paper, the archived full-scale run, and this build's own run."""

import numpy as np
import pandas as pd

from gleam.records.schema import FULL_SCALE

METRICS = ("ssim", "nrmse", "psnr")
MISSING = "–"
PAPER, ARCHIVED, THIS_BUILD = "Paper", "Full scale, archived", "This build"
NONE_ARCHIVED = "none yet: needs a run on a GPU, see “make records”"
NOT_RUN = "not run in this build"


def published(path, **where):
    """Rows of a CSV of the paper's numbers in which every column named in ``where`` has that value.

    Columns: table, dataset, network, acceleration, method, and mean and sd of each score, memory_gb, seconds_per_step,
    n_parameters. Raises ValueError if no row is left.
    """
    table = pd.read_csv(path)
    for column, value in where.items():
        table = table[table[column] == value]
    if table.empty:
        raise ValueError(f"{path} has no row with {where}")
    return table


def table(records, paper=None, archived=None, over=("slices", "subjects"), metrics=METRICS):
    """The paper's table layout in up to three blocks, as a pandas table of text with one row per block and method.

    ``records``: this build's, a dict of method to :class:`Record`; ``paper``: rows of :func:`published`, or None for no
    such block; ``archived``: what :func:`archived` found, or None for no such block. A block without any run is one row
    that says so. ``metrics``: which scores; ``over``: what stands in brackets (:meth:`Record.spread`): by default the
    standard deviation over slices, as the paper's text says, then over subjects' means, as its code does.
    """
    published = {} if paper is None else {row["method"]: row for _, row in paper.iterrows()}
    order = list({**records, **published})
    columns = [*(_LABEL[m] for m in metrics), *_COST]
    rows = [_row(PAPER, method, _paper_cells(published[method], metrics)) for method in order if method in published]
    for block, runs, nothing in ((archive_name(archived), archived, NONE_ARCHIVED), (THIS_BUILD, records, NOT_RUN)):
        if runs is None:
            continue
        methods = sorted(runs, key=lambda method: order.index(method) if method in order else len(order))
        rows += [_row(block, method, _our_cells(runs[method], over, metrics)) for method in methods]
        rows += [] if runs else [_row(block, nothing, dict.fromkeys(columns, ""))]
    return pd.DataFrame(rows, columns=["", "Method", *columns]).set_index(["", "Method"])


def archive_caption(found):
    """What a caption has to say about an archived run: device, dates, data, number formats, and how far training got.

    ``found``: what :func:`archived` returned. An empty text if there is none, since the table's row says so.
    """
    if not found:
        return ""
    steps = {}
    for method, run in found.items():
        if run.progress:
            steps.setdefault(run.progress, []).append(method)
    done = [text if len(steps) == 1 else f"{text} ({', '.join(methods)})" for text, methods in steps.items()]
    dates = sorted({run.environment.get("date", "") for run in found.values()} - {""})
    parts = [
        " and ".join(sorted({run.environment.get("device", "") for run in found.values()} - {""})),
        " to ".join(dict.fromkeys([*dates[:1], *dates[-1:]])),
        _source(found),
        "; ".join(done) or "nothing trained yet",
        _formats("trained in", "precision", found),
        _formats("memory and time in", "cost_precision", found),
    ]
    return f"*{archive_name(found)}*: {', '.join(part for part in parts if part)}."


def archive_name(found):
    """Heading of the block of archived runs ``found``, which says where they are smaller than the paper's."""
    profile = next((run.profile for run in found.values()), FULL_SCALE) if found else FULL_SCALE
    return ARCHIVED if profile == FULL_SCALE else f"Profile {profile}, archived"


def _source(found):
    return " and ".join(sorted({run.source for run in found.values()} - {""}))


def _formats(words, key, found):
    formats = sorted({run.settings[key] for run in found.values() if run.settings.get(key)})
    return f"{words} {' and '.join(formats)}" if formats else ""


def scores_table(rows, index):
    """Scores as a table of text: ``rows`` is a dict of row key to scores, ``index`` names the parts of the key."""
    lines = [
        dict(zip(index, key, strict=True)) | {_LABEL[m]: f"{scores[m]:.{_DIGITS[m]}f}" for m in _LABEL if m in scores}
        for key, scores in rows.items()
    ]
    return pd.DataFrame(lines).set_index(list(index))


def compare(ours, theirs, metrics=METRICS, level=0.05):
    """One sentence on how the first record's scores differ from the second's, slice by slice.

    A difference is called better or worse only if it is clear twice: a Wilcoxon signed-rank test of the paired slices
    has p below ``level``, and every subject's mean difference has the same sign. The test alone would not do, since
    slices of one subject are not independent and there are few subjects. Raises ValueError if the records are not of
    the same slices, or have no scores.
    """
    for record in (ours, theirs):
        if not record.scores:
            raise ValueError(f"{record.method} of {record.experiment} has no scores to compare")
    a, b = (record.table.set_index(["subject", "slice"]) for record in (ours, theirs))
    if not a.index.equals(b.index):
        raise ValueError(f"{ours.method} and {theirs.method} of {ours.experiment} were not tested on the same slices")
    words = [_verdict(a[metric] - b[metric], metric, level) for metric in metrics]
    return f"{ours.method} against {theirs.method}: {'; '.join(words)}."


def _verdict(difference, metric, level):
    from scipy.stats import wilcoxon

    mean, subjects = difference.mean(), difference.groupby("subject").mean()
    n_agree = int((np.sign(subjects) == np.sign(mean)).sum())
    clear = difference.any() and wilcoxon(difference).pvalue < level and n_agree == len(subjects)
    verdict = "no clear difference" if not clear else "better" if (mean > 0) == (metric != "nrmse") else "worse"
    same_sign = f"same sign in {n_agree} of {len(subjects)} subjects"
    return f"{_LABEL[metric].removesuffix(' (dB)')} {_signed(mean, metric)}, {verdict} ({same_sign})"


def _signed(value, metric):
    text = f"{value:+.{_DIGITS[metric]}f}".replace("-", "−")
    return f"{text} dB" if metric == "psnr" else text


def table_rows(frame):
    """Header and rows of a table of text, as lists.

    A first index level without a name, the blocks of :func:`table`, is no column: each block has a row above it with
    nothing but its name, unless there is only one.
    """
    blocks = frame.index.names[0] == ""
    rows, above = [], None
    one_block = len(set(frame.index.get_level_values(0))) == 1
    for index, values in zip(frame.index, frame.to_numpy(), strict=True):
        parts = list(index) if isinstance(index, tuple) else [index]
        if blocks:
            rows += [] if one_block or parts[0] == above else [[parts[0]]]
            above = parts.pop(0)
        rows.append([str(cell) for cell in (*parts, *values)])
    return [str(name) for name in (*frame.index.names[blocks:], *frame.columns)], rows


def baseline_note(records, archived=None, baseline="CS"):
    """A note in MyST that says which trained methods compressed sensing beats; empty if it beats none.

    Compared are mean PSNR and SSIM of the object. ``archived``: a longer run of the same experiment, of which the note
    says after how many steps end-to-end training passed compressed sensing on validation, as far as its records tell.
    """
    behind = []
    for method, record in records.items():
        if record.n_parameters is None or baseline not in records:
            continue
        worse = [m for m in ("psnr", "ssim_object") if record.value(m) < records[baseline].value(m)]
        pairs = [
            f"{_LABEL[m]} {record.value(m):.{_DIGITS[m]}f} against {records[baseline].value(m):.{_DIGITS[m]}f}"
            for m in worse
        ]
        behind += [f"{method} ({', '.join(pairs)})"] if pairs else []
    if not behind:
        return ""
    return (
        ":::{admonition} Compressed sensing is ahead here\n:class: warning\n"
        f"It beats {'; '.join(behind)}. Networks of this size were trained too little here to judge networks by them; "
        f"the order of the training methods is another question. {_crossing(archived or {}, baseline)}\n:::\n"
    )


def _crossing(archived, baseline):
    level = archived[baseline].settings.get("validation_nrmse") if baseline in archived else None
    trained = archived.get("End-to-end")
    if level is None or trained is None:
        return ""
    step = next((row["step"] for row in trained.history if row["nrmse"] < level), None)
    where = f"In the archived run of the profile {trained.profile} end-to-end training"
    return f"{where} passed it after {step:,} steps." if step else f"{where} did not pass it in {trained.progress}."


def markdown_table(frame, caption, name):
    """``frame`` as a numbered MyST table with a caption, for a cell whose ``mystnb.markdown_format`` is ``myst``."""
    header, rows = table_rows(frame)
    rows = [row if len(row) > 1 else [f"**{row[0]}**"] + [""] * (len(header) - 1) for row in rows]
    lines = [header, ["---"] * len(header), *rows]
    body = "\n".join("| " + " | ".join(cell or " " for cell in line) + " |" for line in lines)
    return f":::{{table}} {caption}\n:name: {name}\n:class: records\n\n{body}\n:::\n"


def _row(block, method, cells):
    return {"": block, "Method": method, **cells}


def _our_cells(record, over, metrics):
    memory, seconds = record.value("peak_bytes"), record.value("seconds_per_step")
    return {
        **{_LABEL[m]: _with_spread(m, record.value(m), *(record.spread(m, o) for o in over)) for m in metrics},
        "Memory": MISSING if memory is None else _memory(memory),
        "Time per step": MISSING if seconds is None else f"{seconds:.{3 if seconds >= 0.1 else 4}f} s",
        "Parameters": _millions(record.n_parameters),
    }


def _paper_cells(row, metrics):
    return {
        **{_LABEL[m]: _with_spread(m, row.get(m, np.nan), row.get(f"{m}_sd")) for m in metrics},
        "Memory": MISSING if pd.isna(row["memory_gb"]) else f"{row['memory_gb']:g} GB",
        "Time per step": MISSING if pd.isna(row["seconds_per_step"]) else f"{row['seconds_per_step']:g} s",
        "Parameters": _millions(row["n_parameters"]),
    }


def _memory(n_bytes):
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.1f} MB"


_LABEL = {"ssim": "SSIM", "ssim_object": "SSIM of the object", "nrmse": "nRMSE", "psnr": "PSNR (dB)"}
_COST = ("Memory", "Time per step", "Parameters")
_DIGITS = {"ssim": 3, "ssim_object": 3, "nrmse": 3, "psnr": 2}


def _with_spread(metric, mean, *spreads):
    if pd.isna(mean):
        return MISSING
    digits = _DIGITS[metric]
    inside = "\N{NO-BREAK SPACE}/\N{NO-BREAK SPACE}".join(f"{spread:.{digits}f}" for spread in spreads)
    return f"{mean:.{digits}f} ({inside})"


def _millions(n):
    return MISSING if n is None or pd.isna(n) else f"{n / 1e6:.2f} M"
