"""One record is one method in one experiment, ``<folder>/<experiment>/<method>.json``.

Full-scale runs are archived one level deeper, ``results/<device>/<experiment>/<method>.json``, with profile "paper".
"""

import json
import platform
import re
import subprocess
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pandas as pd

from gleam.datasets.volume import REAL_ANATOMY
from gleam.execution import bf16_units, checked_device
from gleam.files import write_json
from gleam.records.schema import FULL_SCALE, SCHEMA, check
from gleam.records.subjects import half_width
from gleam.training.evaluation import evaluate
from gleam.training.identity import RESULTS_VERSION

ARCHIVED_PROFILES = (FULL_SCALE, "standard")  # of which the tables show the first that there is


@dataclass
class Record:
    """One measured run.

    ``scores``: one dict per test slice (subject, slice, nrmse, psnr, ssim, ssim_object), none if only the cost was
    measured; ``data``: name, split sizes, whether it is a phantom, mask; ``settings``: everything that was chosen;
    ``cost``: seconds per step, peak bytes and how they were measured, or None for a method without training;
    ``n_parameters``: or None; ``n_steps_done``: training steps taken, fewer than ``settings["n_steps"]`` if the run
    stopped early, None without training; ``measures``: dict of name to number, whatever else was measured;
    ``results_version``: records of one version belong together, whatever their commits.
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
    n_steps_done: int | None = None
    measures: dict = field(default_factory=dict)
    results_version: int = 1

    @property
    def table(self):
        """Scores as a table, one row per slice; empty if there are none."""
        return pd.DataFrame(self.scores)

    @property
    def is_phantom(self):
        """Whether the test data were phantoms."""
        return bool(self.data.get("is_phantom"))

    @property
    def source(self):
        """What the test data were: "phantoms", "scans", or real anatomy that was measured by simulated coils; an empty
        text if the record does not say."""
        if self.data.get("test", {}).get("acquisition") == REAL_ANATOMY:
            return REAL_ANATOMY
        return {True: "phantoms", False: "scans"}.get(self.data.get("is_phantom"), "")

    @property
    def progress(self):
        """How far training got, such as "12,000 of 50,000 steps"; an empty text if nothing was trained."""
        if self.n_steps_done is None:
            return ""
        planned = self.settings.get("n_steps")
        return f"{self.n_steps_done:,}{'' if planned is None else f' of {planned:,}'} steps"

    def value(self, name):
        """Mean over slices of a score (ssim, psnr, ...), n_parameters, n_steps_done, a cost field or a measure; None
        if there is none."""
        if name in self.table:
            return float(self.table[name].mean())
        if name in ("n_parameters", "n_steps_done"):
            return getattr(self, name)
        return (self.cost or {}).get(name, self.measures.get(name))

    def spread(self, name, over="slices"):
        """Standard deviation of a score over slices or, as in the paper's code, over subjects' means; None if none.

        ``over="interval"``: half the width of the 95 % interval of the mean over subjects.
        """
        if name not in self.table:
            return None
        values = self.table[name] if over == "slices" else self.table.groupby("subject")[name].mean()
        return half_width(values) if over == "interval" else float(np.std(values))


def record(
    experiment, method, table=None, data=(), *, profile="", network=None, fit=None, cost=None, settings=None,
    measures=None, device="cpu",
):  # fmt: skip
    """A :class:`Record` of one method in one experiment.

    ``table``: what :func:`gleam.evaluate` returned, None if nothing was evaluated; ``data``: (train, val, test), each
    :class:`gleam.datasets.Slices`; ``network``, ``fit``, ``cost``: of a trained method; ``settings``: what else was
    chosen; ``measures``: dict of name to number; ``device``: where it ran.
    """
    described = {"is_phantom": data[-1].is_phantom} | {part.name: part.describe() for part in data} if data else {}
    return Record(
        experiment, method, [] if table is None else table.to_dict("records"), described, profile=profile,
        settings={**(fit.settings if fit else {}), **(settings or {})},
        cost=asdict(cost) if cost else None,
        n_parameters=sum(p.numel() for p in network.parameters()) if network else None,
        history=fit.history if fit else [], n_steps_done=fit.n_steps_done if fit else None,
        measures=dict(measures or {}), environment=environment(device), results_version=RESULTS_VERSION,
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


def finished(folder, experiment, data, **settings):
    """Records of complete trainings on this very data with these ``settings``, as a dict of method to :class:`Record`.

    What an earlier build on another machine has left under ``folder`` need not be trained again. Complete: all planned
    steps were taken, under the results version of today, and the fingerprints of ``data`` (train, val, test) agree.
    """
    fingerprints = {part.name: part.fingerprint for part in data}
    return {
        method: record
        for method, record in load_experiment(folder, experiment).items()
        if record.n_steps_done is not None
        and record.n_steps_done == record.settings.get("n_steps")
        and record.results_version == RESULTS_VERSION
        and all(record.settings.get(name) == value for name, value in settings.items())
        and all(record.data.get(name, {}).get("fingerprint") == one for name, one in fingerprints.items())
    }


def environment(device="cpu"):
    """Device (of a CPU also what makes it fast in bf16), versions, commit and date of a run, for its record."""
    import torch

    names = ("gleam", "torch", "numpy", "h5py", "sigpy", "scikit-image", "pandas", "safetensors")
    device = checked_device(device)
    on_gpu = device.type == "cuda"
    of_cpu = ", ".join(filter(None, [platform.machine(), bf16_units()]))
    device = torch.cuda.get_device_name(device) if on_gpu else f"CPU ({of_cpu})"
    of_gpu = {"cuda": torch.version.cuda, "cudnn": str(torch.backends.cudnn.version())} if on_gpu else {}
    return {
        "device": device, "n_threads": torch.get_num_threads(), "commit": _commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in names} | of_gpu,
    }  # fmt: skip


def save(record, folder):
    """Write ``record`` under ``folder`` and return its path. Raises ValueError, naming the field, if it is not one."""
    path = Path(folder) / record.experiment / f"{slug(record.method)}.json"
    content = asdict(record)
    try:
        check(content, _types())
        write_json(path, content)
    except ValueError as error:
        raise ValueError(f"{record.method} of {record.experiment} cannot be a record: {error}") from None
    return path


def load(path):
    """Read one record. Raises ValueError, naming the file and what is wrong in it, for anything that is not one."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        check(content, _types())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not a record of a run: it is not JSON ({error})") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not a record of a run: {error}") from error
    return Record(**content)


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


def archived(folder, experiment):
    """The archived run of an experiment, as a dict of method to :class:`Record`; empty if none is archived.

    ``folder`` holds a folder for each device and profile. A run of the profile "paper" goes before one of "standard";
    among those it is the one of the newest results version, then of the newest record, so that all rows of a table
    belong together. Further seeds (``<device>-<profile>-seed1``) are not looked at.
    """
    runs = []
    for device in sorted(path.parent for path in Path(folder).glob(f"*/{experiment}") if path.is_dir()):
        if not re.search(r"-seed\d+$", device.name):
            found = load_experiment(device, experiment)
            runs += [{m: r for m, r in found.items() if r.profile == profile} for profile in ARCHIVED_PROFILES]
    return max(filter(None, runs), key=_rank, default={})


def _rank(records):
    """How far before others the records of one experiment go."""
    first = next(iter(records.values()))
    return -ARCHIVED_PROFILES.index(first.profile), first.results_version, newest_date(records)


def newest_date(records):
    """The newest date (ISO) in a dict of records; an empty text if there is none."""
    return max((record.environment.get("date", "") for record in records.values()), default="")


def slug(text):
    """A file name for a method: lower case, words joined by hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _types():
    return {f.name: f.type for f in fields(Record)}


def _version(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@cache
def _commit():
    """Commit of the source tree, with a plus if it has changes; None outside a repository."""
    here = Path(__file__).parent
    try:
        run = lambda *args: subprocess.run(["git", *args], cwd=here, capture_output=True, text=True, check=True)  # noqa: E731
        return run("rev-parse", "--short", "HEAD").stdout.strip() + ("+" if run("status", "--porcelain").stdout else "")
    except (OSError, subprocess.CalledProcessError):
        return None
