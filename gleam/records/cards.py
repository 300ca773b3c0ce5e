"""Model cards: what archived weights are of, what they were measured to do, and what they must not be used for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gleam.datasets.volume import REAL_ANATOMY
from gleam.records.scores import HEADS, OF_CARDS
from gleam.records.storage import Record
from gleam.training.checkpoints import Fit

CARD = """\
# {method} ({experiment})

**For research on reconstruction. Trained on {kind}: not for diagnosis.**

| | |
|:--|:--|
| Network | `{network}`, {n_parameters:,} parameters |
| Trained on | {train} |
| Validated on | {val} |
| Undersampling | {mask} |
| Strategy | `{strategy}` |
| Loss | {loss} |
| Steps | {progress}; these weights are of step {best_step:,}, the lowest validation nRMSE ({best_nrmse:.4f}) |
| Precision of training | {precision} |
| Other settings | {others} |
| Date | {date} |
| Run | `{run}`, profile {profile}, results version {results_version} |

## Scores

{scores}

Tested on {test}; {test_mask}. Scores are of magnitudes.

## What it must not be used for

- Not for diagnosis, and for no decision about a person.
- {limit}
- Its errors are unknown for another contrast, anatomy, number of coils, matrix, noise, kind of mask or acceleration
  than those above.

## How to load it

```python
network = gleam.load("{path}")
image = gleam.reconstruct(network, batch)
```

Or a raw file, from a shell: `gleam reconstruct {path} FILE --out image.nii.gz`.

## Software

{device}; {versions}; commit {commit}.

## Licence

{licence}
"""
PHANTOMS, MEASURED = "phantoms", "measured scans"
LIMITS = {
    PHANTOMS: "Trained on phantoms alone: not for images of patients. It may lose or invent what no phantom has.",
    REAL_ANATOMY: "Trained on simulated coils, phase and noise: not for scans as they come from a scanner.",
    MEASURED: "Trained on scans of one kind, as stated above: not for others.",
}
LICENCES = {
    PHANTOMS: "MIT, as the project; no data of patients were used.",
    REAL_ANATOMY: "MIT, as the project, as far as the project has rights in the weights. They were trained on the 3D "
    "FSE knees of mridata.org, as magnitudes, whose terms are non-commercial use with attribution: use the weights so "
    "as well.",
    MEASURED: "MIT, as the project, as far as the project has rights in the weights; the terms of the data apply.",
}


def card(record: Record, fit: Fit, about: dict[str, Any], path: str | Path) -> str:
    """The model card of archived weights.

    Parameters
    ----------
    record : Record
        Of the run.
    fit : Fit
        What training did.
    about : dict
        What the weights' file says of network, data and date.
    path : path
        Of the weights, without suffix: `results/<device>-<profile>/<experiment>/<method>`.

    Returns
    -------
    str
        Markdown. Every number comes from the arguments.
    """
    train, test, of_run = about.get("train", {}), record.data.get("test", {}), record.environment
    shown = ("strategy", "n_steps", "precision")
    return CARD.format(
        **{name: getattr(record, name) for name in ("method", "experiment", "n_parameters", "profile", "progress")},
        **{name: about[name] for name in ("network", "run", "date")},
        **{name: fit.settings[name] for name in ("strategy", "precision")},
        **{name: of_run.get(name) for name in ("device", "commit")},
        kind=kind(train),
        train=_data(train),
        val=_data(about.get("val", {})),
        mask=_mask(train),
        # the text of a strategy leaves out the paper's loss
        loss="complex l1, the paper's" if "loss=" not in fit.settings["strategy"] else "named in the strategy",
        best_step=fit.best_step,
        best_nrmse=fit.best_nrmse,
        others=", ".join(f"{name} = {value}" for name, value in record.settings.items() if name not in shown),
        results_version=record.results_version,
        scores=_scores(record),
        test=_data(test),
        test_mask=_mask(test),
        limit=LIMITS[kind(train)],
        licence=LICENCES[kind(train)],  # weights are bound by the terms of what they were trained on
        path=Path("results", *Path(path).parts[-3:]).as_posix(),  # as a reader of a clone types it
        versions=", ".join(f"{name} {version}" for name, version in of_run.get("versions", {}).items() if version),
    )


def kind(data: dict[str, Any]) -> str:
    """What data are, by their description: phantoms, measured scans, or real anatomy with simulated coils."""
    if data.get("is_phantom"):
        return PHANTOMS
    return REAL_ANATOMY if data.get("acquisition") == REAL_ANATOMY else MEASURED


def _data(data):
    is_series = "coil_time_y_x" in data
    sizes = data.get("coil_time_y_x" if is_series else "coil_y_x") or []
    coils = sorted({size[0] for size in sizes})  # phantoms may differ in their number of coils
    n_coils = f"{coils[0]} to {coils[-1]}" if len(coils) > 1 else "".join(map(str, coils))
    matrices = " and ".join(sorted({" x ".join(map(str, size[1:])) for size in sizes}))
    # else `kind` says it already
    name = "" if data.get("acquisition") == REAL_ANATOMY else f" ({data.get('acquisition')})"
    units, axes = ("series", "time, y, x") if is_series else ("slices", "y, x")
    return (
        f"{kind(data)}{name}: {data.get('n_subjects')} subjects, {data.get('n_slices')} {units}, {n_coils} coils, "
        f"matrix {matrices} ({axes})"
    )


def _mask(data):
    mask = data.get("mask", {})
    arguments = ", ".join(f"{name} = {value}" for name, value in mask.get("arguments", {}).items())
    return f"`{mask.get('function', '')}`, {arguments}"


def _scores(record):
    """Table of the means, with deviations over the means of subjects."""
    lines = ["| Score | Mean | Standard deviation over subjects |", "|:--|--:|--:|"]
    for name in OF_CARDS:
        if name in record.table:  # older records lack the SSIM of the object
            digits = 2 if name == "psnr" else 4
            lines.append(
                f"| {HEADS[name]} | {record.value(name):.{digits}f} | {record.spread(name, 'subjects'):.{digits}f} |"
            )
    return "\n".join(lines)
