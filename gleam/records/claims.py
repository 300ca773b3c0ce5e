"""The paper's claims, and the experiments that test each of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from gleam.records.intervals import FAILS, HOLDS, IN_PART, SMALLEST
from gleam.records.scores import HEADS, LOWER_IS_BETTER

BETTER, AS_GOOD, COST, VALUE = "better", "as good", "cost", "value"
BEYOND = "Beyond the paper"  # claims of our own begin so

QUANTITIES = {
    "peak_bytes": "times less memory",
    "step_seconds": "times less time",
    "times_as_fast_as_gleam": "times as fast",
    "times_as_fast_as_end_to_end": "times as fast",
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
        All of one score.
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
        name = self.cases[0].name
        if self.kind not in (BETTER, AS_GOOD):
            return QUANTITIES[name]
        return HEADS[name].replace(" (dB)", ", dB") + (", lower is better" if name in LOWER_IS_BETTER else "")


def _falls(value):
    """Monotone: no fall of the mean PSNR from iteration to iteration that matters."""
    return HOLDS if value == 0 else IN_PART if value < SMALLEST["psnr"] else FAILS


def _does_fall(value):
    return HOLDS if value >= SMALLEST["psnr"] else FAILS


def _does_not_converge(value):
    """More than half of the inversions had to be replaced; below one in a hundred, inversion works."""
    return HOLDS if value > 0.5 else FAILS if value < 0.01 else IN_PART


def _on_knees(label, experiment, ours, theirs):
    """Two trainings on the real knees, by benchmarks/beyond.py."""
    return Case(label, experiment, ours, theirs, real=(f"beyond/{experiment}", ours, theirs))


def _elsewhere(end, step="", folder=""):
    """A module per iteration at equal depth, on phantom brains and hearts, by benchmarks/beyond.py."""
    return (
        Case(f"PGD, brain, R = 4, M = 8{step}", f"beyond_brains{folder}", f"GLEAM, M = 8{end}", f"End-to-end{end}"),
        Case(f"PGD 3D, R = 5, M = 4{step}", f"beyond_hearts{folder}", f"GLEAM, M = 4{end}", f"End-to-end{end}"),
    )


def _in_other_scores(text, kind, chapter, cases):
    """A claim in the paper's other scores, nRMSE and SSIM, and beyond the paper in the SSIM of the object."""
    scores = {"nrmse": text, "ssim": text, "ssim_object": f"{BEYOND}: {text[0].lower() + text[1:]}"}
    of = {name: tuple(replace(case, name=name) for case in cases) for name in scores}
    of["ssim_object"] = tuple(replace(case, paper="") for case in of["ssim_object"])  # in no table of the paper
    return [Claim(scores[name].format(HEADS[name]), kind, chapter, of[name]) for name in scores]


def _over_cs(method, in_folds):
    """A training beside compressed sensing in every experiment."""
    tables = {_PGD12: "I/12", _PGD16: "I/16", _MODL4: "II/4", _MODL16: "II/16"}
    tables |= {_BRAIN: "III/8", _CINE: "IV/10", _CINE_MODL: "V/10"}
    real = {_PGD12: (_R12[0], in_folds, "CS")}
    return tuple(Case(*name, method, "CS", paper, real=real.get(name)) for name, paper in tables.items())


KNEE, BRAIN = "04_mridata", "05_fastmri"
_R12 = ("real-anatomy/real_knees_pgd", "GLEAM, M = 8", "End-to-end")
_RECOMPUTED = ("beyond/beyond_cost", "GLEAM, M = 8", "Checkpointing")  # in one run
_FOUR = ("beyond_loss", "GLEAM, M = 4", "End-to-end")  # of 8 iterations: two per module
_FOUR_AFTER = ("beyond_loss", "GLEAM, M = 4, w = 0.9", "End-to-end, w = 0.9")
_ENDING = ("beyond_loss", "GLEAM, M = 8, ends consistent", "End-to-end, ends consistent")
_AFTER = ("beyond_phantoms", "GLEAM, w = 0.9", "End-to-end, w = 0.9")
_PGD12, _PGD16 = ("PGD, R = 12", "mridata_pgd_R12"), ("PGD, R = 16", "mridata_pgd_R16")
_MODL4, _MODL16 = ("MoDL, R = 4", "mridata_modl_R4"), ("MoDL, R = 16", "mridata_modl_R16")
_BRAIN, _CINE, _CINE_MODL = ("PGD, brain", "fastmri_pgd"), ("PGD 3D", "cine_pgd"), ("MoDL 3D", "cine_modl")
_STEP_2 = ("beyond_step_size_2", "GLEAM, M = 8", "End-to-end")  # the authors' 2t; elsewhere 1
_STEP_2_AFTER = ("beyond_step_size_2", "GLEAM, M = 8, w = 0.9", "End-to-end, w = 0.9")
_AT_STEP_2 = (", 2t = 2", "_step_size_2")
_EQUAL_DEPTH = (
    Case(*_PGD12, "GLEAM", "End-to-end", "I/12", real=_R12), Case(*_PGD16, "GLEAM", "End-to-end", "I/16"),
    Case(*_MODL4, "GLEAM", "End-to-end", "II/4"), Case(*_MODL16, "GLEAM", "End-to-end", "II/16"),
    Case(*_CINE_MODL, "GLEAM", "End-to-end", "V/10"),
    _on_knees("PGD, R = 12, 2t = 2", *_STEP_2),
)  # fmt: skip
_DEEPER = (Case(*_BRAIN, "GLEAM", "End-to-end", "III/8"), Case(*_CINE, "GLEAM", "End-to-end", "IV/10"))
_AS_MEL = Case(*_MODL4, "GLEAM", "MEL", "II/4")
_OVER_CS, _END_TO_END_OVER_CS = _over_cs("GLEAM", _R12[1]), _over_cs("End-to-end", "End-to-end")
_KNEES_OVER_CS = tuple(  # of the paper's sentence on both trainings
    replace(case, label=f"{case.ours}, {case.label}") for case in (*_OVER_CS[:2], *_END_TO_END_OVER_CS[:2])
)

CLAIMS = (
    Claim("As good as end-to-end training and checkpointing at equal depth", AS_GOOD, KNEE, _EQUAL_DEPTH),
    Claim("As good as memory-efficient learning", AS_GOOD, KNEE, (_AS_MEL,)),
    *_in_other_scores(
        "As good in {} at equal depth", AS_GOOD, KNEE,
        (*_EQUAL_DEPTH, replace(_AS_MEL, label="MoDL, R = 4, beside MEL")),
    ),
    Claim("Three times as deep, better than end-to-end training at equal memory", BETTER, BRAIN, _DEEPER),
    *_in_other_scores("Three times as deep, better in {} at equal memory", BETTER, BRAIN, _DEEPER),
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
    Claim(
        "Beyond the paper: as good at equal depth on brains and cine with PGD", AS_GOOD, "15_beyond",
        (*_elsewhere(""), *_elsewhere("", *_AT_STEP_2)),
    ),
    Claim(
        "Beyond the paper: as good, both with a loss after data consistency",
        AS_GOOD, "15_beyond",
        (
            Case("PGD, R = 12, M = 8", *_AFTER, real=("beyond/beyond_loss", "GLEAM, M = 8, w = 0.9", _AFTER[2])),
            _on_knees("PGD, R = 12, M = 8, 2t = 2", *_STEP_2_AFTER),
            *_elsewhere(", w = 0.9"), *_elsewhere(", w = 0.9", *_AT_STEP_2),
        ),
    ),
    Claim(
        "Beyond the paper: as good, both ending with data consistency", AS_GOOD, "15_beyond",
        (
            _on_knees("PGD, R = 12, M = 8", *_ENDING),
            *_elsewhere(", ends consistent"),
        ),
    ),
    Claim(
        "Beyond the paper: as good with two iterations per module", AS_GOOD, "15_beyond",
        (
            Case("PGD, R = 12, paper's loss", *_FOUR, real=("real-anatomy/real_knees_pgd", *_FOUR[1:])),
            _on_knees("PGD, R = 12, after data consistency", *_FOUR_AFTER),
            _on_knees("PGD, R = 4, whole lines, paper's loss", "beyond_columns", *_FOUR[1:]),
        ),
    ),
    Claim("Better than compressed sensing", BETTER, KNEE, _OVER_CS),
    Claim("End-to-end training, too, is better than compressed sensing", BETTER, KNEE, _END_TO_END_OVER_CS),
    *_in_other_scores("Both trainings better than compressed sensing in {}", BETTER, KNEE, _KNEES_OVER_CS),
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
            Case(*_PGD12, "GLEAM", "Checkpointing", "1", "peak_bytes", real=_RECOMPUTED),
            Case(*_MODL4, "GLEAM", "Checkpointing", "II/4", "peak_bytes"),
            Case(*_CINE_MODL, "GLEAM", "Checkpointing", "V/10", "peak_bytes"),
        ),
    ),
    Claim("As little memory as memory-efficient learning", COST, KNEE, (replace(_AS_MEL, name="peak_bytes"),)),
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
            Case(*_PGD12, "GLEAM", "Checkpointing", "1.3", "step_seconds", real=_RECOMPUTED),
            Case(*_MODL4, "GLEAM", "Checkpointing", "II/4", "step_seconds"),
            Case(*_CINE_MODL, "GLEAM", "Checkpointing", "V/10", "step_seconds"),
        ),
    ),
    Claim(
        "Faster than memory-efficient learning", COST, "07_timing", (replace(_AS_MEL, name="step_seconds"),),
    ),
    Claim(
        "End-to-end training is faster than checkpointing and memory-efficient learning", COST, "07_timing",
        (
            Case("MoDL, R = 4, checkpointing", _MODL4[1], "End-to-end", "Checkpointing", "II/4", "step_seconds"),
            Case("MoDL 3D, checkpointing", _CINE_MODL[1], "End-to-end", "Checkpointing", "V/10", "step_seconds"),
            Case("MoDL, R = 4, MEL", _MODL4[1], "End-to-end", "MEL", "II/4", "step_seconds"),
        ),
    ),
    Claim(
        "Checkpointing takes no longer than memory-efficient learning", COST, "07_timing",
        (Case(*_MODL4, "Checkpointing", "MEL", "II/4", "step_seconds"),),
    ),
    Claim(
        "P-GLEAM on two GPUs is faster than GLEAM and than end-to-end training", COST, "07_timing",
        tuple(
            Case(f"{how}, beside {other}", "parallel_modl_R4", f"P-GLEAM, {how.split(', ')[0]}", "", "1.6", name)
            for other, name in (("GLEAM", "times_as_fast_as_gleam"), ("end-to-end", "times_as_fast_as_end_to_end"))
            for how in ("in turn, as published", "pipelined")
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
    Claim(
        "Memory-efficient learning does not converge on cine", VALUE,
        "06_cine",
        (Case(*_CINE_MODL, "MEL", "", "no result", "share_of_fallbacks"),), _does_not_converge,
    ),
)  # fmt: skip
