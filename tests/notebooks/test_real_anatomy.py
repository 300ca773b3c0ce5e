"""The chapter on real anatomy without data: it shows archived records or says what is missing."""

import ast
import base64
import shutil
from functools import partial
from pathlib import Path

import nbformat
import pytest

from gleam import masks, records
from gleam.datasets.volume import REAL_ANATOMY
from gleam.files import described

SOURCE = Path(__file__).resolve().parents[2] / "notebooks" / "09_real_anatomy.ipynb"
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
METHODS = ["Zero-filled", "CS", "End-to-end", "GLEAM, M = 8", "GLEAM, M = 4", "GLEAM, M = 2"]


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """An empty archive, beside the folder that the chapter runs in."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "results").mkdir()
    shutil.copy(SOURCE.parents[1] / "results" / "likeness.json", tmp_path / "results")
    monkeypatch.chdir(tmp_path / "notebooks")
    return tmp_path / "results" / "real-anatomy"


def shown():
    """Run the chapter's code; what each cell shows, text of Markdown or another object."""
    names, found = {}, []
    for cell in nbformat.read(SOURCE, as_version=4).cells:
        if cell.cell_type == "code":
            *body, last = ast.parse(cell.source).body
            body += [] if isinstance(last, ast.Expr) else [last]
            exec(compile(ast.Module(body, []), cell.id, "exec"), names)
            if isinstance(last, ast.Expr):
                value = eval(compile(ast.Expression(last.value), cell.id, "eval"), names)
                found.append(getattr(value, "data", value))
    return found


def save(
    archive,
    experiment,
    methods,
    subjects,
    *,
    noise=0.03,
    step=1,
    n_steps=2000,
    mask=masks.poisson_disc,
    **mask_settings,
):
    """Records of an experiment in which every method is better than the one before, by a step in PSNR."""
    test = {"acquisition": REAL_ANATOMY if noise is not None else "AXT1", "coil_y_x": [[8, 32, 26]]}
    test["mask"] = described(partial(mask, acceleration=12, **mask_settings))
    for place, method in enumerate(methods):
        scores = [
            {
                "subject": s,
                "slice": 0,
                "psnr": 30 + step * place + 0.1 * i,
                "nrmse": 0.2,
                "ssim": 0.8,
                "ssim_object": 0.7,
            }
            for i, s in enumerate(subjects)
        ]
        settings = {"noise": noise} | ({"lamda": 0.01} if method == "CS" else {})
        trained = method.startswith(("End", "GLEAM", "Check"))
        peak = {"End-to-end": 8e6, "Checkpointing": 3e6}.get(method, 2e6)
        cost = {
            "seconds_per_step": 0.2, "peak_bytes": peak, "memory_kind": "x", "device": "CPU", "step_seconds": [0.2, 0.2]
        }  # fmt: skip
        record = records.Record(
            experiment, method, scores, {"is_phantom": False, "test": test},
            settings=settings | ({"n_steps": n_steps, "precision": "fp32"} if trained else {}),
            cost=cost if trained else None, history=[{"seconds": 36.0, "nrmse": 0.2}] if trained else [],
            measures={"gradient_difference": 1e-7} if method == "Checkpointing" else {},
        )  # fmt: skip
        records.save(record, archive)
    (archive / experiment / "compare.png").write_bytes(base64.b64decode(PIXEL))


def test_without_data_and_archive_every_result_says_so(archive):
    found = shown()
    found = [text for text in found if "tab-likeness" not in text and "of life" not in text]
    assert len(found) == 8 and all("no record is archived under results/real-anatomy" in text for text in found)


def test_without_data_the_archived_records_are_shown(archive):
    for fold in (1, 2):
        save(archive, f"real_knees_pgd_fold{fold}", METHODS, [f"knee-{fold}{i}" for i in range(3)])
    save(archive, "real_knees_pgd_cost", ["Checkpointing"], [])
    save(archive, "real_knees_noise_free", METHODS[:4], ["knee-10"], noise=0.0, step=0.5)
    brains = [*METHODS[:3], "GLEAM"]
    save(archive, "real_brains", brains, ["a", "b"], noise=None, mask=masks.random_columns, center_fraction=0.1)
    found = shown()
    assert not [text for text in found if isinstance(text, str) and "no record is archived" in text]
    text = "\n".join(part for part in found if isinstance(part, str))
    assert "what follows are archived records" in text
    assert "over 6 subjects, tested in 2 folds. Real anatomy, simulated coils and noise: 32 × 26" in text
    assert "2,000 steps in fp32, 0.1 hours" in text and "PGD on knees at R = 12" in text
    assert "| Checkpointing | – | – | – | – | 3.0 MB |" in text
    assert "| GLEAM, M = 8 | +1.00 (+1.00 to +1.00) |" in text
    assert "GLEAM, M = 8 against End-to-end: PSNR +1.00 dB (+1.00 to +1.00), better (higher in 6 of 6 subjects)" in text
    assert "as long and needs 2.7 times less memory" in text
    assert "of end-to-end training over that of GLEAM: 4.0 (M = 8), 4.0 (M = 4), 4.0 (M = 2)." in text
    assert "Weight of CS: 0.01 at noise 0.03, 0.01 at noise 0." in text
    assert "The highest PSNR is that of GLEAM." in text and "| b | CS |" in text
