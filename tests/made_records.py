"""Records for tests."""

from gleam import records


def make(method="GLEAM", psnr=(30.0, 31.0, 34.0, 35.0), cost=True):
    scores = [
        {"subject": f"s{i // 2}", "slice": i % 2, "psnr": p, "ssim": 0.8 + i / 100, "nrmse": 0.1 + i / 100}
        for i, p in enumerate(psnr)
    ]
    return records.Record(
        experiment="mridata_pgd_R12", method=method, scores=scores, data={"name": "mridata", "is_phantom": True},
        cost={"seconds_per_step": 0.25, "peak_bytes": 12_300_000} if cost else None, n_parameters=2_191_216 if cost
        else None,
    )  # fmt: skip
