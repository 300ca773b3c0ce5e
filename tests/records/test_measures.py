"""The measures of a full-scale run, from made-up records whose ratios are known."""

import pytest

from gleam import records
from gleam.records.__main__ import main
from gleam.records.measures import MEASURES, measure

NAMES = [
    "pgd2d_share_of_bf16_peak", "pgd2d_speedup_over_eager_fp32", "modl2d_speedup_over_eager_fp32",
    "memory_ratio_pgd2d", "memory_ratio_modl2d", "memory_ratio_modl3d", "gleam_over_end_to_end",
    "checkpointed_over_gleam", "bf16_psnr_shift_db",
]  # fmt: skip
PLAIN = "Plain PyTorch, fp32"


def save(
    folder, experiment, method, seconds=None, peak=1.0, psnr=None, date="2026-12-01", device="NVIDIA H200", **more
):
    """``seconds``: of three rounds; their median is the second."""
    cost = None if seconds is None else {
        "seconds_per_step": sorted(seconds)[1], "step_seconds": seconds, "peak_bytes": peak
    }  # fmt: skip
    scores = [] if psnr is None else [{"subject": "a", "slice": i, "psnr": psnr + i} for i in range(2)]
    record = records.Record(
        experiment, method, scores, {}, cost=cost, profile="paper", environment={"device": device, "date": date}, **more
    )
    return records.save(record, folder)


def save_all(folder, speed=1.0, **more):
    """A complete run; ``speed`` divides the seconds of the fast steps."""
    save(folder, "limits", "Device", measures={"bf16_flops_per_second": 1000.0}, **more)
    for ladder in ("ladder_pgd2d", "ladder_modl2d"):
        save(folder, ladder, PLAIN, [9.0, 4.0, 2.0], **more)
        save(folder, ladder, "tf32", [0.01] * 3, **more)  # faster, but not bf16
        save(folder, ladder, "bf16", [2.0, 2.0, 2.0], measures={"flops_per_step": 1.0}, **more)
        fast = [s / speed for s in (1.0, 1.0, 0.25)]
        save(folder, ladder, "bf16, captured", fast, measures={"flops_per_step": 500.0}, **more)
    for network, (peak, slower) in {"pgd2d": (6.0, 0.9), "modl2d": (7.0, 1.1), "modl3d": (4.0, 5.0)}.items():
        for mode in ("fp32", "fast"):
            experiment = f"cost_{network}_{mode}"
            save(folder, experiment, "End-to-end", [1.0, 2.0, 3.0], peak=peak if mode == "fp32" else 99.0, **more)
            save(folder, experiment, "GLEAM", [slower * s for s in (1.0, 2.0, 3.0)], **more)
            save(folder, experiment, "Checkpointing", [2.2, 2.2, 6.6], **more)
    for seed, shift in enumerate((0.1, -0.2, 0.4)):
        for method, psnr in (("fp32", 30.0), ("bf16", 30.0 + shift)):
            save(folder, f"precision_pgd2d_seed{seed}", method, psnr=psnr, n_steps_done=100, **more)


def test_each_measure_is_what_it_is_defined_as(tmp_path):
    save_all(tmp_path / "nvidia-h200")
    found = measure(tmp_path)
    assert list(found) == list(MEASURES) == NAMES
    assert found == pytest.approx({
        "pgd2d_share_of_bf16_peak": 500.0 / 1.0 / 1000.0,
        "pgd2d_speedup_over_eager_fp32": 8.0,  # of 9, 4 and 8, not the ratio of the medians
        "modl2d_speedup_over_eager_fp32": 8.0,
        "memory_ratio_pgd2d": 6.0, "memory_ratio_modl2d": 7.0, "memory_ratio_modl3d": 4.0,
        "gleam_over_end_to_end": 1.1,  # the largest, and not that of 3D
        "checkpointed_over_gleam": 2.0,  # of 2, 1 and 2
        "bf16_psnr_shift_db": 0.1,
    })  # fmt: skip


def test_what_a_partial_run_lacks_is_missing(tmp_path, capsys):
    assert set(measure(tmp_path).values()) == {None}
    folder = tmp_path / "nvidia-h200"
    save_all(folder)
    (folder / "limits" / "device.json").unlink()
    (folder / "cost_pgd2d_fast" / "gleam.json").unlink()
    save(folder, "ladder_modl2d", "bf16, captured", [1.0, 1.0, 1.0, 1.0])  # not of the run that timed the plain step
    save(folder, "precision_pgd2d_seed1", "bf16", psnr=30.0, n_steps_done=99)
    assert main([str(tmp_path)]) == 0
    lines = [line.split(" ") for line in capsys.readouterr().out.splitlines()]
    assert [name for name, _ in lines] == NAMES
    assert [name for name, value in lines if value == "missing"] == [
        "pgd2d_share_of_bf16_peak", "modl2d_speedup_over_eager_fp32", "gleam_over_end_to_end", "bf16_psnr_shift_db",
    ]  # fmt: skip
    assert dict(lines)["memory_ratio_modl2d"] == "7.000"


def test_each_measure_is_the_newest_devices_that_has_it(tmp_path):
    save_all(tmp_path / "old", speed=10, date="2026-11-01", device="NVIDIA A100")
    assert measure(tmp_path)["pgd2d_speedup_over_eager_fp32"] == pytest.approx(80.0)
    save(tmp_path / "new", "cost_pgd2d_fp32", "End-to-end", [1.0] * 3, peak=3.0)
    save(tmp_path / "new", "cost_pgd2d_fp32", "GLEAM", [1.0] * 3, peak=2.0)
    found = measure(tmp_path)
    assert found["memory_ratio_pgd2d"] == 1.5 and found["memory_ratio_modl2d"] == 7.0


def test_a_run_on_a_cpu_is_no_full_scale_run(tmp_path):
    for method, peak in (("End-to-end", 8.0), ("GLEAM", 2.0)):
        save(tmp_path / "cpu", "cost_pgd2d_fp32", method, [1.0] * 3, peak=peak, device="CPU (x86_64)")
    assert measure(tmp_path)["memory_ratio_pgd2d"] is None
    save(tmp_path / "cpu", "limits", "Device", device="CPU (x86_64)")  # but one that measured its limits is
    assert measure(tmp_path)["memory_ratio_pgd2d"] == 4.0


def test_bad_input_is_one_sentence_and_status_2(tmp_path, capsys):
    assert main([str(tmp_path / "none")]) == 2
    out, said = capsys.readouterr()
    assert out == "" and said.count("\n") == 1 and f"{tmp_path / 'none'} is not a folder" in said
    save_all(tmp_path / "nvidia-h200")
    broken = tmp_path / "nvidia-h200" / "limits" / "device.json"
    broken.write_text(broken.read_text().replace('"scores": []', '"scores": 3'))
    assert main([str(tmp_path)]) == 2
    out, said = capsys.readouterr()
    assert out == "" and said.count("\n") == 1 and str(broken) in said and "'scores'" in said
