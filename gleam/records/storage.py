"""A record: one method in one experiment, kept as <folder>/<experiment>/<method>.json.

Full-scale runs are archived one level deeper, as results/<device>/<experiment>/<method>.json, with the profile "paper".
"""

from __future__ import annotations

import json
import math
import platform
import re
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pandas as pd
import torch

from gleam.datasets.volume import REAL_ANATOMY
from gleam.execution import bf16_units, checked_device
from gleam.files import write_json
from gleam.records.schema import SCHEMA, check


@dataclass
class Record:
    """One measured run.

    Attributes
    ----------
    experiment, method : str
        Folder and name of the record.
    scores : list of dict
        One per test slice: subject, slice, nrmse, psnr, ssim, ssim_object. Empty if only the cost was measured.
    data : dict
        Name, sizes of the splits, whether it is a phantom, mask.
    settings : dict
        Everything that was chosen.
    cost : dict or None
        Seconds per step, peak bytes and how they were measured; None for a method without training.
    n_parameters : int or None
        Of the network.
    history : list of dict
        That of :class:`gleam.Fit`.
    profile : str
        Profile of the build, such as "paper".
    environment : dict
        What :func:`environment` returns.
    schema : int
        Version of the file's format.
    n_steps_done : int or None
        Training steps taken, fewer than `settings["n_steps"]` if the run stopped early; None without training.
    measures : dict of str to number
        Whatever else was measured.
    results_version : int
        Records of the same version can be compared, whatever their commits (:mod:`gleam.training.identity`).
    network : dict
        How the network was made, what :func:`gleam.records.recording.network_settings` returns; empty without one, and
        in older records.
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
    environment: dict = field(default_factory=lambda: environment())  # lambda: the function is defined below
    schema: int = SCHEMA
    n_steps_done: int | None = None
    measures: dict = field(default_factory=dict)
    results_version: int = 1
    network: dict = field(default_factory=dict)

    @property
    def table(self) -> pd.DataFrame:
        """Scores as a table with one row per slice; empty if there are none."""
        return pd.DataFrame(self.scores)

    @property
    def is_phantom(self) -> bool:
        """Whether the test data were phantoms."""
        return bool(self.data.get("is_phantom"))

    @property
    def source(self) -> str:
        """What the test data were, "phantoms", "scans", or scans with simulated coils; empty if not recorded."""
        if self.data.get("test", {}).get("acquisition") == REAL_ANATOMY:
            return REAL_ANATOMY
        sources: dict[bool | None, str] = {True: "phantoms", False: "scans"}
        return sources.get(self.data.get("is_phantom"), "")

    @property
    def progress(self) -> str:
        """How far training got, such as "12,000 of 50,000 steps"; empty if nothing was trained."""
        if self.n_steps_done is None:
            return ""
        planned = self.settings.get("n_steps")
        return f"{self.n_steps_done:,}{'' if planned is None else f' of {planned:,}'} steps"

    @property
    def is_whole(self) -> bool:
        """Whether it has scores, and its training, if it had one, took all planned steps."""
        planned, done = self.settings.get("n_steps"), self.n_steps_done
        return bool(self.scores) and (planned is None or done is None or done >= planned)

    def value(self, name: str) -> float | None:
        """One number of the run.

        Parameters
        ----------
        name : str
            A score (its mean over slices is returned), "n_parameters", "n_steps_done", a field of the cost such as
            "peak_bytes", or a measure.

        Returns
        -------
        float or None
            None if the record does not have it.
        """
        if name in self.table:
            return float(self.table[name].mean())
        if name in ("n_parameters", "n_steps_done"):
            return getattr(self, name)
        return (self.cost or {}).get(name, self.measures.get(name))

    def spread(self, name: str, over: str = "slices") -> float | None:
        """How much a score varies.

        Parameters
        ----------
        name : str
            The score.
        over : "slices", "subjects" or "interval"
            Standard deviation over slices; standard deviation over the means of subjects, as in the paper's code; or
            half the width of the 95 % interval of the mean over subjects.

        Returns
        -------
        float or None
            None if the record has no such score.
        """
        if name not in self.table:
            return None
        values = self.table[name] if over == "slices" else self.table.groupby("subject")[name].mean()
        return half_width(values) if over == "interval" else float(np.std(values))


def half_width(values: Sequence[float], level: float = 0.95) -> float:
    """Half the width of the interval of the mean of `values` by Student's t; NaN for fewer than two."""
    from scipy.stats import t

    n = len(values)
    return float(t.ppf((1 + level) / 2, n - 1) * np.std(values, ddof=1) / math.sqrt(n)) if n > 1 else math.nan


def environment(device: str | torch.device = "cpu") -> dict:
    """Device, number of threads, versions, commit and date of a run, for its record.

    The name of a CPU includes its units for fast bf16.
    """
    names = ("torch", "numpy", "h5py", "sigpy", "scikit-image", "pandas", "safetensors")
    device = checked_device(device)
    on_gpu = device.type == "cuda"
    of_cpu = ", ".join(filter(None, [platform.machine(), bf16_units()]))
    of_gpu = {"cuda": torch.version.cuda, "cudnn": str(torch.backends.cudnn.version())} if on_gpu else {}
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else f"CPU ({of_cpu})",
        "n_threads": torch.get_num_threads(),
        "commit": _commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {"python": platform.python_version(), "gleam": _version("gleam-mri")}
        | {name: _version(name) for name in names}
        | of_gpu,
    }


def _version(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@cache  # a chapter saves many records, all of one commit
def _commit():
    """Commit of the source tree, with a plus if it has changes; None if no repository tracks this file."""
    here = Path(__file__)
    tracked = ["ls-files", "--error-unmatch", here.name]  # an installed copy may lie inside another repository
    try:
        _, head, changes = (
            subprocess.run(["git", *command], cwd=here.parent, capture_output=True, text=True, check=True).stdout
            for command in (tracked, ["rev-parse", "--short", "HEAD"], ["status", "--porcelain"])
        )
        return head.strip() + ("+" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def save(record: Record, folder: str | Path) -> Path:
    """Write a record under `folder` and return its path. Raises ValueError, naming the field, if it is not valid."""
    if not slug(record.method) or not re.fullmatch(r"[\w-][\w.-]*", record.experiment):
        raise ValueError(
            f"experiment={record.experiment!r}, method={record.method!r} cannot name a record: expected a name without "
            "'/' and one with letters or digits"
        )
    path = Path(folder) / record.experiment / f"{slug(record.method)}.json"
    content = asdict(record)
    try:
        check(content, get_type_hints(Record))
        write_json(path, content)
    except ValueError as error:
        raise ValueError(f"{record.method} of {record.experiment} cannot be a record: {error}") from None
    return path


def load(path: str | Path) -> Record:
    """Read one record. Raises ValueError, naming the file and the fault in it, if it is not a valid one."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        check(content, get_type_hints(Record))
    except (json.JSONDecodeError, RecursionError) as error:  # RecursionError: brackets nested too deeply
        raise ValueError(f"{path} is not a record of a run: it is not JSON ({error})") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not a record of a run: {error}") from error
    return Record(**content)


def load_experiment(folder: str | Path, experiment: str, methods: Sequence[str] | None = None) -> dict[str, Record]:
    """Read the records of an experiment.

    Parameters
    ----------
    folder : path
        Holds <experiment>/<method>.json.
    experiment : str
        Its name.
    methods : sequence of str, optional
        Which methods, in this order; by default all.

    Returns
    -------
    dict
        Of method to :class:`Record`; empty if there is none.

    Raises
    ------
    ValueError
        If one of `methods` has no record, or a file is not a valid record.
    """
    records = [load(path) for path in sorted((Path(folder) / experiment).glob("*.json"))]
    found = {record.method: record for record in records}
    missing = [method for method in methods or () if method not in found]
    if missing:
        raise ValueError(f"{Path(folder) / experiment} holds no record of {missing[0]}, only of {sorted(found)}")
    return {method: found[method] for method in methods} if methods is not None else found


def slug(text: str) -> str:
    """A file name for a method: lower case, words joined by hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
