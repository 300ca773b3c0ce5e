"""Records of measured runs, as JSON, and tables made from them with the paper's numbers beside ours.

One record is one method in one experiment, ``<folder>/<experiment>/<method>.json``. Everything a table, a figure or a
sentence of the book says about a run comes from here.
"""

import json
import platform
import re
import subprocess
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pandas as pd

from gleam.evaluation import evaluate
from gleam.files import write_json

SCHEMA = 1
METRICS = ("ssim", "nrmse", "psnr")
MISSING = "–"


@dataclass
class Record:
    """One measured run.

    ``scores``: one dict per test slice (subject, slice, nrmse, psnr, ssim, ssim_object); ``data``: name, split sizes,
    whether it is a phantom, mask; ``settings``: everything that was chosen; ``cost``: seconds per step, peak bytes
    and how they were measured, or None for a method without training; ``n_parameters``: or None.
    """

    experiment: str
    method: str
    scores: list
    data: dict
    settings: dict = field(default_factory=dict)
    cost: dict | None = None
    n_parameters: int | None = None
    history: list = field(default_factory=list)
    profile: str = ""
    environment: dict = field(default_factory=lambda: environment())
    schema: int = SCHEMA

    @property
    def table(self):
        """Scores as a table, one row per slice."""
        return pd.DataFrame(self.scores)

    @property
    def is_phantom(self):
        """Whether the test data were phantoms."""
        return bool(self.data.get("is_phantom"))

    def value(self, name):
        """Mean over slices of a score (ssim, psnr, ...), or a cost field, or n_parameters; None if there is none."""
        if name in self.table:
            return float(self.table[name].mean())
        return self.n_parameters if name == "n_parameters" else (self.cost or {}).get(name)

    def spread(self, name, over="slices"):
        """Standard deviation of a score over slices or, as in the paper's code, over subjects' means; None if none."""
        if name not in self.table:
            return None
        values = self.table[name] if over == "slices" else self.table.groupby("subject")[name].mean()
        return float(np.std(values))


def record(
    experiment, method, table, data, *, profile="", network=None, fit=None, cost=None, settings=None, device="cpu"
):
    """A :class:`Record` of one method in one experiment.

    ``table``: what :func:`gleam.evaluate` returned; ``data``: (train, val, test), each :class:`gleam.datasets.Slices`;
    ``network``, ``fit``, ``cost``: of a trained method; ``settings``: what else was chosen; ``device``: where it ran.
    """
    test = data[-1]
    return Record(
        experiment, method, table.to_dict("records"), profile=profile,
        data={"is_phantom": test.is_phantom} | {slices.name: slices.describe() for slices in data},
        settings={**(fit.settings if fit else {}), **(settings or {})},
        cost=asdict(cost) if cost else None,
        n_parameters=sum(p.numel() for p in network.parameters()) if network else None,
        history=fit.history if fit else [], environment=environment(device),
    )  # fmt: skip


def evaluate_all(experiment, methods, data, folder, *, fits=None, costs=None, settings=None, profile="", device="cpu"):
    """Score every method of an experiment on the test split and save its record under ``folder``.

    ``methods``: dict of name to a network, one of :mod:`gleam.baselines`, or the :class:`Record` of another experiment
    with the same data, which counts for this one too; ``data``: (train, val, test); ``fits``, ``costs``, ``settings``:
    dicts of name to what :func:`record` takes, for the methods that have it. Returns a dict of name to :class:`Record`.
    """
    found = {}
    for name, method in methods.items():
        found[name] = replace(method, experiment=experiment) if isinstance(method, Record) else record(
            experiment, name, evaluate(method, data[-1], device=device), data, profile=profile,
            network=method if hasattr(method, "parameters") else None, fit=(fits or {}).get(name),
            cost=(costs or {}).get(name), settings=(settings or {}).get(name), device=device,
        )  # fmt: skip
        save(found[name], folder)
    return found


def environment(device="cpu"):
    """Device, versions, commit and date of a run on ``device``, for its record."""
    import torch

    names = ("gleam", "torch", "numpy", "h5py", "sigpy", "scikit-image", "pandas", "safetensors")
    on_gpu = torch.device(device).type == "cuda"
    device = torch.cuda.get_device_name(device) if on_gpu else f"CPU ({platform.machine()})"
    return {
        "device": device, "n_threads": torch.get_num_threads(), "commit": _commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in names},
    }  # fmt: skip


def save(record, folder):
    """Write ``record`` under ``folder`` and return its path."""
    path = Path(folder) / record.experiment / f"{slug(record.method)}.json"
    try:
        write_json(path, asdict(record))
    except ValueError as error:
        raise ValueError(f"{record.method} of {record.experiment} has a score that is not finite: {error}") from None
    return path


def load(path):
    """Read one record. Raises ValueError, naming the file, for anything that is not one."""
    try:
        content = json.loads(Path(path).read_text())
        if content.get("schema") != SCHEMA:
            raise ValueError(f"its schema is {content.get('schema')!r}, this program reads {SCHEMA}")
        return Record(**content)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a record of a run: {error}") from error


def load_experiment(folder, experiment, methods=None):
    """Records of an experiment, as a dict of method to :class:`Record`; empty if there is none.

    ``methods`` picks some and orders them; ValueError if one of them has no record.
    """
    records = [load(path) for path in sorted((Path(folder) / experiment).glob("*.json"))]
    found = {record.method: record for record in records}
    missing = [method for method in methods or () if method not in found]
    if missing:
        raise ValueError(f"{Path(folder) / experiment} holds no record of {missing[0]}, only of {sorted(found)}")
    return {method: found[method] for method in methods} if methods is not None else found


def slug(text):
    """A file name for a method: lower case, words joined by hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


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


def table(records, paper=None, over=("slices", "subjects"), metrics=METRICS):
    """The paper's table layout: for each method our row and, below it, the published one, as a pandas table of text.

    ``records``: dict of method to :class:`Record`; ``paper``: rows of :func:`published`; ``metrics``: which scores;
    ``over``: what the standard deviations in brackets are taken over: by default over slices, as the paper's text says,
    then over subjects' means, as its code does.
    """
    rows = []
    for method, record in records.items():
        rows.append({"Method": method, "": "ours", **_our_row(record, over, metrics)})
        if paper is not None and (paper["method"] == method).any():
            rows.append(
                {"Method": method, "": "paper", **_paper_row(paper[paper["method"] == method].iloc[0], metrics)}
            )
    return pd.DataFrame(rows).set_index(["Method", ""])


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
    the same slices.
    """
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


def markdown_table(frame, caption, name):
    """``frame`` as a numbered MyST table with a caption, for a cell whose ``mystnb.markdown_format`` is ``myst``."""
    header = [*frame.index.names, *frame.columns]
    lines = [
        header,
        ["---"] * len(header),
        *([*_parts(index), *row] for index, row in zip(frame.index, frame.values, strict=True)),
    ]
    body = "\n".join("| " + " | ".join(str(cell) or " " for cell in line) + " |" for line in lines)
    return f":::{{table}} {caption}\n:name: {name}\n:class: records\n\n{body}\n:::\n"


def _parts(index):
    return index if isinstance(index, tuple) else (index,)


def _our_row(record, over, metrics):
    memory, seconds = record.value("peak_bytes"), record.value("seconds_per_step")
    return {
        **{_LABEL[m]: _with_spread(m, record.value(m), *(record.spread(m, o) for o in over)) for m in metrics},
        "Memory": MISSING if memory is None else f"{memory / 1e6:.1f} MB",
        "Time per step": MISSING if seconds is None else f"{seconds:.3f} s",
        "Parameters": _millions(record.n_parameters),
    }


def _paper_row(row, metrics):
    return {
        **{_LABEL[m]: _with_spread(m, row.get(m, np.nan), row.get(f"{m}_sd")) for m in metrics},
        "Memory": MISSING if pd.isna(row["memory_gb"]) else f"{row['memory_gb']:g} GB",
        "Time per step": MISSING if pd.isna(row["seconds_per_step"]) else f"{row['seconds_per_step']:g} s",
        "Parameters": _millions(row["n_parameters"]),
    }


_LABEL = {"ssim": "SSIM", "ssim_object": "SSIM of the object", "nrmse": "nRMSE", "psnr": "PSNR (dB)"}
_DIGITS = {"ssim": 3, "ssim_object": 3, "nrmse": 3, "psnr": 2}


def _with_spread(metric, mean, *spreads):
    if pd.isna(mean):
        return MISSING
    digits = _DIGITS[metric]
    inside = "\N{NO-BREAK SPACE}/\N{NO-BREAK SPACE}".join(f"{spread:.{digits}f}" for spread in spreads)
    return f"{mean:.{digits}f} ({inside})"


def _millions(n):
    return MISSING if n is None or pd.isna(n) else f"{n / 1e6:.2f} M"


def _version(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit():
    """Commit of the source tree, with a plus if it has changes; None outside a repository."""
    here = Path(__file__).parent
    try:
        run = lambda *args: subprocess.run(["git", *args], cwd=here, capture_output=True, text=True, check=True)  # noqa: E731
        return run("rev-parse", "--short", "HEAD").stdout.strip() + ("+" if run("status", "--porcelain").stdout else "")
    except (OSError, subprocess.CalledProcessError):
        return None
