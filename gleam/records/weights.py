"""Archived weights: those of a trained run, beside its record, small and ready to be loaded in a fresh clone."""

from __future__ import annotations

from pathlib import Path

from gleam.files import written_whole
from gleam.records.cards import card
from gleam.records.storage import Record, load
from gleam.training import checkpoints
from gleam.training.checkpoints import Fit
from gleam.training.runs import load as load_network

# A clone should stay small. The largest network of the profile standard, 24 iterations for brains, has 2.8 MB.
MAX_BYTES = 3_000_000


def archive_weights(folder: str | Path, run_dir: str | Path) -> dict[Path, str]:
    """Write the weights of runs beside their records, and a model card for each.

    Parameters
    ----------
    folder : path
        Holds <experiment>/<method>.json, such as `results/cpu-standard`.
    run_dir : path
        Folder of checkpoints, the `run_dir` of :func:`gleam.fit`.

    Returns
    -------
    dict
        Of each record of a training to "", or to a sentence that says why it has no weights now.

    Raises
    ------
    ValueError
        If a record or a checkpoint cannot be read.

    Notes
    -----
    A run and a record belong together if :func:`belong` says so. Weights that a record had before stay if they belong
    to it, with their card written anew; those of an earlier record are removed.
    """
    fits = {path: checkpoints.load_fit(path) for path in sorted(Path(run_dir).glob(f"*/{checkpoints.NAME}"))}
    found = {path: load(path) for path in sorted(Path(folder).glob("*/*.json"))}
    said = {}
    for path, record in found.items():
        if record.n_steps_done is None:  # nothing was trained
            continue
        weights = path.with_suffix(".safetensors")
        run = next((run for run, fit in fits.items() if belong(record, fit)), None)
        if run is not None:
            said[path] = _archive(record, run, path)
        elif weights.is_file() and belong(record, checkpoints.load_fit(weights)):
            said[path] = ""
        else:
            said[path] = f"{path}: no run in {run_dir} has its settings and history"
        if said[path]:
            weights.unlink(missing_ok=True)
            path.with_suffix(".md").unlink(missing_ok=True)
            continue
        fit, about = checkpoints.load_words(weights)
        with written_whole(path.with_suffix(".md")) as temporary:
            temporary.write_text(card(record, fit, about, path.with_suffix("")), encoding="utf-8")
    return said


def belong(record: Record, fit: Fit) -> bool:
    """Whether a record is of this training: settings, steps, losses and validations agree to the last bit.

    Only the seconds may differ, which no repetition meets.
    """

    def untimed(history):
        return [{name: value for name, value in row.items() if name != "seconds"} for row in history]

    return (
        record.n_steps_done == fit.n_steps_done > 0
        and fit.settings.items() <= record.settings.items()
        and untimed(record.history) == untimed(fit.history)
    )


def _archive(record, run, path):
    """Write the weights of the checkpoint `run` beside the record at `path`; returns why not, or ""."""
    try:
        network = load_network(run)
    except ValueError as error:
        return f"{path}: {error}"
    found = checkpoints.load(run)
    n_bytes = sum(tensor.nbytes for tensor in found.best.values())
    if n_bytes > MAX_BYTES:
        return f"{path}: its weights have {n_bytes / 1e6:.1f} MB, more than the {MAX_BYTES / 1e6:.0f} MB of an archive"
    trained_on, own = (words.get("train", {}).get("fingerprint") for words in (found.about, record.data))
    if trained_on != own or record.n_parameters != sum(p.numel() for p in network.parameters()):
        return f"{path}: is of other data or another network than the run {run} with its settings and history"
    about = found.about | {
        "run": run.parent.name,
        "record": {name: getattr(record, name) for name in ("experiment", "method", "profile", "results_version")},
        # for the table of `gleam runs`
        "scores": {name: record.value(name) for name in record.table if name not in ("subject", "slice")},
    }
    # without states of optimizers, which only training needs
    checkpoints.save(path.with_suffix(".safetensors"), found.fit, found.best, {}, {}, about)
    return ""
