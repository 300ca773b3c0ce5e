"""Which scores there are, whether lower is better, and how they are written: their names, digits and signs."""

from __future__ import annotations

METRICS = ("ssim", "nrmse", "psnr")  # of the paper's tables
OF_SUBJECTS = ("psnr", "nrmse", "ssim", "ssim_object")  # of cross-validations and groups
OF_CARDS = ("psnr", "ssim", "ssim_object", "nrmse")  # of model cards
LOWER_IS_BETTER = ("nrmse",)
MISSING = "–"
HEADS = {"ssim": "SSIM", "ssim_object": "SSIM of the object", "nrmse": "nRMSE", "psnr": "PSNR (dB)"}
DIGITS = {"ssim": 3, "ssim_object": 3, "nrmse": 3, "psnr": 2}


def score_name(metric: str) -> str:
    """The name of a score in a sentence, without its unit."""
    return HEADS[metric].removesuffix(" (dB)")


def score_text(value: float, metric: str) -> str:
    """A score without its unit."""
    return f"{value:.{DIGITS[metric]}f}"


def change_text(value: float, metric: str) -> str:
    """A difference of scores with its sign, without its unit."""
    return minus(f"{value:+.{DIGITS[metric]}f}")


def change_with_unit(value: float, metric: str) -> str:
    """A difference of scores with its sign and unit, such as "−0.36 dB"."""
    return change_text(value, metric) + (" dB" if metric == "psnr" else "")


def gained(change: float, metric: str) -> float:
    """A difference of scores, with its sign changed where lower is better: positive means better."""
    return -change if metric in LOWER_IS_BETTER else change


def minus(text: str) -> str:
    """`text` with the sign for minus in place of hyphens."""
    return text.replace("-", "−")
