"""The paper's claims, and the experiments that test each of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gleam.records.intervals import FAILS, HOLDS, IN_PART, SMALLEST

BETTER, AS_GOOD, COST, VALUE = "better", "as good", "cost", "value"
BEYOND = "Beyond the paper"  # claims of our own begin so

QUANTITIES = {
    "peak_bytes": "times less memory",
    "step_seconds": "times less time",
    "times_as_fast_as_gleam": "times as fast",
    "largest_fall": "largest fall, dB",
    "share_of_fallbacks": "share replaced",
}


@dataclass(frozen=True)
class Case:
    """One experiment that a claim is about.

    Attributes
    ----------
    label : str
        What it is called in the row.
    experiment, ours, theirs : str
        Names of the records that are compared.
    paper : str
        The row of the paper's tables, as "I/12", or its number as text.
    name : str
        The score, "peak_bytes" or "step_seconds" for a ratio of costs (`theirs` over `ours`), or a measure of `ours`.
    real : tuple of str
        (folder and experiment, ours, theirs) of the folds on real anatomy, if there is such a run.
    """

    label: str
    experiment: str
    ours: str
    theirs: str
    paper: str = ""
    name: str = "psnr"
    real: tuple[str, str, str] | None = None


@dataclass(frozen=True)
class Claim:
    """What the paper says, and the experiments that test it.

    Attributes
    ----------
    text : str
        The claim.
    kind : str
        `BETTER` or `AS_GOOD` for scores, `COST` for a ratio of costs, `VALUE` for a measure.
    chapter : str
        Where the book tests it.
    cases : tuple of Case
    judge : callable, optional
        Verdict on a `VALUE`.
    only_paper_size : bool
        Whether it is about several GPUs, so that no other run can judge it.
    quantity : str
        What its numbers are, in words.
    """

    text: str
    kind: str
    chapter: str
    cases: tuple[Case, ...]
    judge: Callable[[float], str] | None = None
    only_paper_size: bool = False

    @property
    def quantity(self) -> str:
        """What the numbers are, in words."""
        if self.kind in (BETTER, AS_GOOD):
            return "PSNR, dB"
        return QUANTITIES[self.cases[0].name]


def _falls(value):
    """Monotone: no fall of the mean PSNR from iteration to iteration that matters."""
    return HOLDS if value == 0 else IN_PART if value < SMALLEST["psnr"] else FAILS


def _does_fall(value):
    return HOLDS if value >= SMALLEST["psnr"] else FAILS


def _does_not_converge(value):
    """More than half of the inversions had to be replaced; below one in a hundred, inversion works."""
    return HOLDS if value > 0.5 else FAILS if value < 0.01 else IN_PART


def _elsewhere(end):
    """A module per iteration at equal depth, on phantom brains and hearts, by benchmarks/beyond.py."""
    return (
        Case("PGD, brain, R = 4, M = 8", "beyond_brains", f"GLEAM, M = 8{end}", f"End-to-end{end}"),
        Case("PGD 3D, R = 5, M = 4", "beyond_hearts", f"GLEAM, M = 4{end}", f"End-to-end{end}"),
    )


KNEE, BRAIN, HEART = "04_mridata", "05_fastmri", "06_cine"
_R12 = ("real-anatomy/real_knees_pgd", "GLEAM, M = 8", "End-to-end")
_FOUR = ("beyond_loss", "GLEAM, M = 4", "End-to-end")  # of 8 iterations: two per module
_FOUR_AFTER = ("beyond_loss", "GLEAM, M = 4, w = 0.9", "End-to-end, w = 0.9")
_ENDING = ("beyond_loss", "GLEAM, M = 8, ends consistent", "End-to-end, ends consistent")
_AFTER = ("beyond_phantoms", "GLEAM, w = 0.9", "End-to-end, w = 0.9")
_PGD12, _PGD16 = ("PGD, R = 12", "mridata_pgd_R12"), ("PGD, R = 16", "mridata_pgd_R16")
_MODL4, _MODL16 = ("MoDL, R = 4", "mridata_modl_R4"), ("MoDL, R = 16", "mridata_modl_R16")
_BRAIN, _CINE, _CINE_MODL = ("PGD, brain", "fastmri_pgd"), ("PGD 3D", "cine_pgd"), ("MoDL 3D", "cine_modl")

CLAIMS = (
    Claim(
        "As good as end-to-end training and checkpointing at equal depth",
        AS_GOOD, KNEE,
        (
            Case(*_PGD12, "GLEAM", "End-to-end", "I/12", real=_R12), Case(*_PGD16, "GLEAM", "End-to-end", "I/16"),
            Case(*_MODL4, "GLEAM", "End-to-end", "II/4"), Case(*_MODL16, "GLEAM", "End-to-end", "II/16"),
            Case(*_CINE_MODL, "GLEAM", "End-to-end", "V/10"),
        ),
    ),
    Claim("As good as memory-efficient learning", AS_GOOD, KNEE, (Case(*_MODL4, "GLEAM", "MEL", "II/4"),)),
    Claim(
        "Three times as deep, better than end-to-end training at equal memory", BETTER, BRAIN,
        (Case(*_BRAIN, "GLEAM", "End-to-end", "III/8"), Case(*_CINE, "GLEAM", "End-to-end", "IV/10")),
    ),
    Claim(
        "Beyond the paper: better than end-to-end training at equal compute", BETTER, BRAIN,
        (
            Case(*_BRAIN, "GLEAM", "End-to-end, equal compute"), Case(*_CINE, "GLEAM", "End-to-end, equal compute"),
        ),
    ),
    Claim(
        "Beyond the paper: as good as checkpointing at three times the depth", AS_GOOD, BRAIN,
        (Case(*_BRAIN, "GLEAM", "End-to-end, as deep"), Case(*_CINE, "GLEAM", "End-to-end, as deep")),
    ),
    Claim("Beyond the paper: as good at equal depth on brains and cine with PGD", AS_GOOD, "15_beyond", _elsewhere("")),
    Claim(
        "Beyond the paper: as good, both with a loss after data consistency",
        AS_GOOD, "15_beyond",
        (
            Case("PGD, R = 12, M = 8", *_AFTER, real=("beyond/beyond_loss", "GLEAM, M = 8, w = 0.9", _AFTER[2])),
            *_elsewhere(", w = 0.9"),
        ),
    ),
    Claim(
        "Beyond the paper: as good, both ending with data consistency", AS_GOOD, "15_beyond",
        (
            Case("PGD, R = 12, M = 8", *_ENDING, real=("beyond/beyond_loss", *_ENDING[1:])),
            *_elsewhere(", ends consistent"),
        ),
    ),
    Claim(
        "Beyond the paper: as good with two iterations per module", AS_GOOD, "15_beyond",
        (
            Case("PGD, R = 12, paper's loss", *_FOUR, real=("real-anatomy/real_knees_pgd", *_FOUR[1:])),
            Case("PGD, R = 12, after data consistency", *_FOUR_AFTER, real=("beyond/beyond_loss", *_FOUR_AFTER[1:])),
        ),
    ),
    Claim(
        "Better than compressed sensing", BETTER, KNEE,
        (
            Case(*_PGD12, "GLEAM", "CS", "I/12", real=(_R12[0], _R12[1], "CS")), Case(*_PGD16, "GLEAM", "CS", "I/16"),
            Case(*_MODL4, "GLEAM", "CS", "II/4"), Case(*_MODL16, "GLEAM", "CS", "II/16"),
            Case(*_BRAIN, "GLEAM", "CS", "III/8"), Case(*_CINE, "GLEAM", "CS", "IV/10"),
            Case(*_CINE_MODL, "GLEAM", "CS", "V/10"),
        ),
    ),
    Claim(
        "End-to-end training, too, is better than compressed sensing", BETTER, KNEE,
        (
            Case(*_PGD12, "End-to-end", "CS", "I/12", real=(_R12[0], "End-to-end", "CS")),
            Case(*_PGD16, "End-to-end", "CS", "I/16"), Case(*_MODL4, "End-to-end", "CS", "II/4"),
            Case(*_MODL16, "End-to-end", "CS", "II/16"), Case(*_BRAIN, "End-to-end", "CS", "III/8"),
            Case(*_CINE, "End-to-end", "CS", "IV/10"), Case(*_CINE_MODL, "End-to-end", "CS", "V/10"),
        ),
    ),
    Claim(
        "Less memory than end-to-end training", COST, KNEE,
        (
            Case(*_PGD12, "GLEAM", "End-to-end", "I/12", "peak_bytes", real=_R12),
            Case(*_MODL4, "GLEAM", "End-to-end", "II/4", "peak_bytes"),
            Case(*_CINE_MODL, "GLEAM", "End-to-end", "V/10", "peak_bytes"),
        ),
    ),
    Claim(
        "As little memory as checkpointing", COST, KNEE,
        (
            Case(*_MODL4, "GLEAM", "Checkpointing", "II/4", "peak_bytes"),
            Case(*_CINE_MODL, "GLEAM", "Checkpointing", "V/10", "peak_bytes"),
        ),
    ),
    Claim(
        "Three times as deep in the memory of end-to-end training", COST, BRAIN,
        (
            Case(*_BRAIN, "GLEAM", "End-to-end", "III/8", "peak_bytes"),
            Case(*_CINE, "GLEAM", "End-to-end", "IV/10", "peak_bytes"),
        ),
    ),
    Claim(
        "As fast as end-to-end training", COST, KNEE,
        (
            Case(*_PGD12, "GLEAM", "End-to-end", "I/12", "step_seconds"),
            Case(*_MODL4, "GLEAM", "End-to-end", "II/4", "step_seconds"),
            Case(*_CINE_MODL, "GLEAM", "End-to-end", "V/10", "step_seconds"),
        ),
    ),
    Claim(
        "Faster than checkpointing", COST, "07_timing",
        (
            Case(*_MODL4, "GLEAM", "Checkpointing", "II/4", "step_seconds"),
            Case(*_CINE_MODL, "GLEAM", "Checkpointing", "V/10", "step_seconds"),
        ),
    ),
    Claim(
        "Faster than memory-efficient learning", COST, "07_timing",
        (Case(*_MODL4, "GLEAM", "MEL", "II/4", "step_seconds"),),
    ),
    Claim(
        "P-GLEAM on two GPUs is faster than GLEAM", COST, "07_timing",
        (
            Case("modules in turn, as published", "parallel_modl_R4", "P-GLEAM, in turn", "", "1.6",
                 "times_as_fast_as_gleam"),
            Case("pipelined", "parallel_modl_R4", "P-GLEAM, pipelined", "", "1.6", "times_as_fast_as_gleam"),
        ),
        only_paper_size=True,
    ),
    Claim(
        "PSNR rises with every iteration of a network trained by GLEAM", VALUE,
        "08_interpretation",
        (
            Case("MoDL, R = 16", "iterations_modl_R16", "GLEAM", "", "0", "largest_fall"),
            Case("PGD, R = 16", "iterations_pgd_R16", "GLEAM", "", "", "largest_fall"),
        ),
        _falls,
    ),
    Claim(
        "After end-to-end training PSNR does not rise with every iteration", VALUE,
        "08_interpretation",
        (
            Case("MoDL, R = 16", "iterations_modl_R16", "End-to-end", "", "not 0", "largest_fall"),
            Case("PGD, R = 16", "iterations_pgd_R16", "End-to-end", "", "", "largest_fall"),
        ),
        _does_fall,
    ),
    Claim(
        "Memory-efficient learning does not converge at R = 16", VALUE,
        "03_invertible",
        (Case(*_MODL16, "MEL", "", "no result", "share_of_fallbacks"),), _does_not_converge,
    ),
)  # fmt: skip
